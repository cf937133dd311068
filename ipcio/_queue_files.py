"""A queue as a file: :class:`QueueWriter` and :class:`QueueReader`."""

from __future__ import annotations

import errno
import io
from _thread import get_ident
from itertools import repeat, starmap

from ipcio import _queue_errors as errors
from ipcio._bytes import raw_bytes, writable_bytes
from ipcio._forklock import fork_lock
from ipcio._light import is_not, partial
from ipcio._memory import CLOSED
from ipcio._record import calling
from ipcio._ring import NO_TASK
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

    def without_waiting(self) -> WithoutWaiting:
        """Return the same file for `ipcio.proc`: where a call would wait, it returns None at once.

        `None` is what the `io` module documents for raw files that would block.  See `WithoutWaiting`.
        """
        return WithoutWaiting(self)

    def _fill(self, buffer: Buffer, seconds: float | None) -> int | None:  # noqa: ARG002 -- for readers
        raise io.UnsupportedOperation("not readable: reader() of the queue gives a file that is")

    def _put_first(self, data: Buffer, late: list[int]) -> int | None:  # noqa: ARG002 -- for writers
        raise io.UnsupportedOperation("not writable: writer() of the queue gives a file that is")

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

    def _put_first(self, data: Buffer, late: list[int]) -> int | None:
        """Put as many of the bytes as one message can have; return how many, None if there is no room now.

        If a signal handler raises after the message was put, `late` gets the number.
        """
        if self.closed:
            raise ValueError(CLOSED)
        queue = self._queue
        view = raw_bytes(data)
        piece = view[: queue._size - BOOK_KEEPING or None]
        count = len(piece)
        queue._check_length(count)
        try:
            for done in calling(queue._try_put, piece, count, 0, 0, NO_TASK, late):
                return count if done else None
        except errors.ShutDown:
            raise BrokenPipeError(errno.EPIPE, "the queue was shut down", self.name) from None
        raise AssertionError("unreachable")

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
        for count in calling(self._fill, buffer, None):
            assert count is not None
            return count
        raise AssertionError("unreachable")

    def _fill(self, buffer: Buffer, seconds: float | None) -> int | None:
        """Do as `readinto`; with 0 seconds, return None in place of waiting."""
        if self.closed:
            raise ValueError(CLOSED)
        view = writable_bytes(buffer)
        try:
            while len(view):
                for count in calling(self._copy, view):
                    if count:
                        return count
                if seconds is None:
                    self._messages.extend(calling(self._queue.get))
                    continue
                before = len(self._messages)
                self._messages.extend(filter(_is_some, calling(self._queue._try_take, None, 0, 0)))
                if len(self._messages) == before:
                    return None
        except errors.ShutDown:
            pass
        except BaseException:
            kept = self._queue._kept  # what a call took that a signal handler did not let return is for any thread
            self._messages.extend(map(kept.pop, filter(kept.__contains__, (get_ident(),))))
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


class WithoutWaiting(io.RawIOBase):
    """An end of a queue, of which no call waits: `ipcio.proc` calls it again later, and serves the child meanwhile.

    `read` and `readinto` return None if there is no message now.  `write` puts one message, with as many of the bytes
    as it can have, and returns how many; None if there is no room now.  A call that a signal handler interrupts has
    read or written nothing, or the next call returns the result.  To close it does not close the file.
    """

    def __init__(self, file: _QueueFile) -> None:
        self._file = file
        self._late: list[int] = []  # what the last call of `write` put before a signal handler raised

    def readable(self) -> bool:
        """Return whether the file is."""
        return self._file.readable()

    def writable(self) -> bool:
        """Return whether the file is."""
        return self._file.writable()

    def readinto(self, buffer: Buffer, /) -> int | None:
        """Copy what is there; 0 at the end, None if there is nothing now."""
        for count in calling(self._file._fill, buffer, 0):
            return count
        raise AssertionError("unreachable")

    def write(self, data: Buffer, /) -> int | None:
        """Put one message.  After a call that has raised, the next one must be given the same bytes."""
        if self._late:
            for done in calling(self._late.pop):
                return done
        for count in calling(self._file._put_first, data, self._late):
            return count
        raise AssertionError("unreachable")


_is_some = partial(is_not, None)
_acquiring = starmap(fork_lock.acquire, repeat(()))
_releasing = starmap(fork_lock.release, repeat(()))
