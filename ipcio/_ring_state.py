"""The memory of a queue: where its messages are, and how many.

The memory of a queue is its *ring*, so many bytes of which the end is followed by the beginning, and a few
numbers of 8 bytes, the *cells*.  In the ring each message comes after 16 bytes: its length and a stamp.

Two cells are the whole state: the *tail*, where the next message is put, and the *head*, where the next one
is taken.  Each has, in one number, an offset in the object (`POSITION`) and a count of messages
(`MESSAGE`), so a store of 8 aligned bytes changes both.  The tail also has a bit for a queue that was shut down.
The stamp of a message is the tail at which it was put, which the head equals when it is to be taken.

The count has 29 bits, and a message at least 16 bytes, so counts are equal only if the ring is empty.
The bit before them takes the carry, until the offset goes back to the beginning.
"""

from __future__ import annotations

import errno
import struct

from ipcio._layout import MESSAGES, MESSAGES_AT, QUEUE_HEAD, QUEUE_TAIL
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from typing_extensions import Buffer

    class Cells(Protocol):
        """Unsigned numbers of 8 bytes; a store is one step."""

        def __getitem__(self, number: int, /) -> int: ...
        def __setitem__(self, number: int, value: int, /) -> None: ...

    class Bytes(Protocol):
        """The bytes of the object, as a `mmap.mmap`."""

        def __getitem__(self, where: slice, /) -> bytes: ...
        def __setitem__(self, where: slice, data: Buffer, /) -> None: ...


RECORD = struct.Struct("=QQ")  # before each message: its length, and the tail at which it was put
BOOK_KEEPING = RECORD.size

POSITION = (1 << 33) - 1
SHUT_DOWN = 1 << 33  # of the tail alone
MESSAGE = 1 << 34
STEP = MESSAGE + BOOK_KEEPING  # what an empty message adds to a cell
LARGEST = POSITION - 0xFFFF  # size of a ring
_CARRY = 1 << 63

# Numbers of the cells, with a cache line for each end; and offsets of 32-bit words that are waited for.
TAIL, HEAD, READERS_WAIT, WRITERS_WAIT = QUEUE_TAIL // 8, QUEUE_HEAD // 8, 40, 48
READERS_BELL, WRITERS_BELL = 41 * 8, 49 * 8
CAPACITY = 56
CELLS = 64
CELL = 8  # bytes

_LOOKS = 100


class RingState:
    """The memory of one queue."""

    if not TYPE_CHECKING:  # for a type checker, attributes without slots are errors
        __slots__ = ()

    _name: str
    _check_open: Callable[[], object]
    _cells: Cells  # None in a handle that was closed
    _bytes: Bytes
    _view: Any  # the same, but a slice may be any kind of bytes
    _start: int  # offset of the ring
    _last: int  # offset of its last byte
    _size: int

    def _look(self) -> tuple[int, int]:
        """Return the tail and the head as they were at one moment."""
        cells = self._cells
        if not cells:
            self._check_open()
        tail, head = 0, -1
        for _ in range(_LOOKS):
            before = tail, head
            head = cells[HEAD]
            tail = cells[TAIL]
            if (tail, head) == before:
                break
        return tail, head

    def qsize(self) -> int:
        """Return how many messages are in the queue now; other processes may change that at any time."""
        return self._used(*self._look())[1]

    def empty(self) -> bool:
        """Whether no message is in the queue now."""
        return not self.qsize()

    def full(self) -> bool:
        """Whether not even a message of no bytes could be put now."""
        return self._size - self._used(*self._look())[0] < BOOK_KEEPING

    # -- for callers that hold a lock ------------------------------------------

    def _used(self, tail: int, head: int) -> tuple[int, int]:
        """Return how many bytes of the ring are in use, and how many messages there are."""
        count = ((tail >> MESSAGES_AT) - (head >> MESSAGES_AT)) & MESSAGES
        front, back = tail & POSITION, head & POSITION
        used = (front - back) % self._size
        if count and not used:
            used = self._size
        is_sound = self._start <= front <= self._last and self._start <= back <= self._last
        if not is_sound or used < count * BOOK_KEEPING or (used and not count):
            raise self._damaged()
        return used, count

    def _advance(self, cell: int, length: int) -> int:
        """Return the cell after one more message."""
        after = cell + STEP + length
        if (cell & POSITION) + BOOK_KEEPING + length <= self._last:
            return after
        return (after - self._size) & ~_CARRY

    def _pieces(self, at: int, length: int) -> list[tuple[int, int, slice]]:
        """Return where so many bytes are: from and to which of them, and their place in the object."""
        at = self._start + (at - self._start) % self._size
        first = min(length, self._last + 1 - at)
        pieces = [(0, first, slice(at, at + first))]
        if first < length:
            pieces.append((first, length, slice(self._start, self._start + length - first)))
        return pieces

    def _write(self, contents: Bytes, at: int, data: Buffer) -> None:
        view = memoryview(data)
        for begin, end, place in self._pieces(at, len(view)):
            contents[place] = view[begin:end]

    def _read(self, contents: Bytes, view: Any, at: int, length: int) -> bytes:
        pieces = self._pieces(at, length)
        if len(pieces) == 1:
            return contents[pieces[0][2]]
        return b"".join([view[place] for _, _, place in pieces])  # with one copy of large ones

    def _read_into(self, contents: Any, into: memoryview[int], at: int, length: int) -> None:
        check_room(into, length)
        for begin, end, place in self._pieces(at, length):
            into[begin:end] = contents[place]

    def _check_length(self, length: int) -> None:
        if length > self._size - BOOK_KEEPING:
            raise ValueError(
                f"a message of {length} bytes does not fit: the queue was created with size={self._size}, so a message"
                f" may have {self._size - BOOK_KEEPING}; create the queue with size={length + BOOK_KEEPING} or more"
            )

    def _damaged(self) -> OSError:
        text = f"queue {self._name!r} is damaged: another program has written to it; remove it and create it again"
        return OSError(errno.EINVAL, text, self._name)


def check_room(into: memoryview[int], length: int) -> None:
    """Raise `ValueError` if a message does not fit into a buffer."""
    if length > len(into):
        raise ValueError(f"the next message has {length} bytes, and the buffer only {len(into)}; it stays in the queue")
