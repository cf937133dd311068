"""A queue as a file: :class:`QueueWriter` and :class:`QueueReader`."""

from __future__ import annotations

import errno
import io
from itertools import repeat, starmap

from ipcio import _queue_errors as errors
from ipcio._bytes import raw_bytes, writable_bytes
from ipcio._forklock import fork_lock
from ipcio._memory import CLOSED
from ipcio._record import calling
from ipcio._ring_state import BOOK_KEEPING
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO, NoReturn

    from typing_extensions import Buffer

    from ipcio._queue import Queue

    class _RawBinaryFile(io.RawIOBase, BinaryIO):
        pass
else:
    _RawBinaryFile = io.RawIOBase

_LARGEST_PIECE = 1 << 20  # bytes of a message that one call copies


class _QueueFile(_RawBinaryFile):
    """What both files have in common: a handle of their own on the queue."""

    _queue: Queue

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    @property
    def name(self) -> str:
        """The name of the queue."""
        return self._queue.name

    def close(self) -> None:
        """Close the file and its handle on the queue; other handles and files stay open."""
        try:
            super().close()
        finally:
            self._queue.close()

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<ipcio.{type(self).__name__} name={self.name!r}{state}>"


class QueueWriter(_QueueFile):
    """A raw binary file of which each `write` is one message.

    It keeps the queue open by itself until it is closed.  A `write` of more bytes than a message can have is several
    messages; one of no bytes puts nothing.  It waits while the queue is full.  After `Queue.shutdown` it raises
    `BrokenPipeError`.  There is no buffer: `io.TextIOWrapper` and `io.BufferedWriter` have one, and write with `flush`.
    """

    @property
    def mode(self) -> str:
        """The mode, as of a file."""
        return "wb"

    def writable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, _: Buffer, /) -> NoReturn:
        """Raise `io.UnsupportedOperation`."""
        raise io.UnsupportedOperation("not readable: reader() of the queue gives a file that is")

    def write(self, data: Buffer, /) -> int:
        """Put the bytes as a message and return their number.

        If Ctrl-C interrupts a `write` that is several messages, some of them have been put.
        """
        if self.closed:
            raise ValueError(CLOSED)
        most = self._queue._size - BOOK_KEEPING
        try:
            if type(data) is bytes and 0 < len(data) <= most:
                length = len(data)
                for _ in calling(self._queue.put, data):
                    return length
            return self._write_pieces(raw_bytes(data), most)
        except errors.ShutDown:
            raise BrokenPipeError(errno.EPIPE, "the queue was shut down", self.name) from None

    def _write_pieces(self, view: memoryview[int], most: int) -> int:
        try:
            length = len(view)
            most = most or length  # if no message can have any bytes, `put` says so
            for at in range(0, length, most or 1):
                for _ in calling(self._queue.put, view[at : at + most]):
                    if at + most >= length:
                        return length
            return length
        except BaseException:
            view.release()
            raise


class QueueReader(_QueueFile):
    """A raw binary file that has the bytes of the messages, one message after the other.

    It keeps the queue open by itself until it is closed.  A read gives at most the rest of one message; it waits
    if there is no message, and skips those of no bytes.  The file ends when the queue was shut down and is empty.
    `io.BufferedReader` over it gives as many bytes as were asked for, from several messages.

    The reader takes a message from the queue with the first of its bytes.  What it has not given out yet is lost when
    it is closed.
    """

    @property
    def mode(self) -> str:
        """The mode, as of a file."""
        return "rb"

    def __init__(self, queue: Queue) -> None:
        super().__init__(queue)
        self._messages: list[bytes] = []  # taken, and not read to the end
        self._at = 0  # how much of the first one has been read

    def readable(self) -> bool:
        """Return True."""
        return True

    def write(self, _: Buffer, /) -> NoReturn:
        """Raise `io.UnsupportedOperation`."""
        raise io.UnsupportedOperation("not writable: writer() of the queue gives a file that is")

    def readinto(self, buffer: Buffer, /) -> int:
        """Copy what comes next, at most as many bytes as the buffer has; return how many, 0 at the end.

        A call that a signal handler interrupts has read nothing.
        """
        if self.closed:
            raise ValueError(CLOSED)
        view = writable_bytes(buffer)
        try:
            while len(view):
                for count in calling(self._copy, view):
                    if count:
                        return count
                self._messages.extend(calling(self._queue.get))
        except errors.ShutDown:
            pass
        except BaseException:
            view.release()
            raise
        return 0

    def _copy(self, view: memoryview[int]) -> int:
        """Copy what is left of the first message, or a part of that; return how many bytes."""
        messages = self._messages
        for _ in _acquiring:
            try:
                while messages and self._at >= len(messages[0]):
                    del messages[0]
                    self._at = 0
                count = 0
                if messages:
                    rest = memoryview(messages[0])[self._at : self._at + _LARGEST_PIECE]
                    count = min(len(view), len(rest))
                    view[:count] = rest[:count]
                self._at += count
                for _ in _releasing:  # no signal handler runs since the line above, until the return
                    return count
            except BaseException:
                next(_releasing)
                raise
        raise AssertionError("unreachable")


_acquiring = starmap(fork_lock.acquire, repeat(()))
_releasing = starmap(fork_lock.release, repeat(()))
