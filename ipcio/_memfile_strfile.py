"""The handles of `ipcio.strfile` on a Python with the GIL.

Strings have no descriptor, and no other process sees them.  So the contract of `ipcio._memfile` needs
fewer steps here:

* A `BytesFile` is over `bytes`, which nothing can change.  Its cursor is an `io.BytesIO`.
  That accepts positions past the end, so the handle stays fast until it is narrowed or closed.
* A `BufferFile` is over any other buffer, which its owner may change at any time.  It has no cursor.
  Its methods are those of the contract without the lock, which would take most of the time.  They look at the
  memory first, and move the position only if it still is the number with which they began; otherwise another
  thread was quicker, and they begin again.  With the GIL, the interpreter switches threads at calls and
  jumps.  There is neither between the last look at the position and the move, so the two are one step.
"""

from __future__ import annotations

import io
import os
import sys
from itertools import chain

from ipcio._buffering import add_memory
from ipcio._bytes import line_at, writable_bytes
from ipcio._forklock import fork_lock
from ipcio._light import add, index, partial
from ipcio._memfile import MemoryFile
from ipcio._memfile_fast import CursorFile, DirectFile
from ipcio._memory import CLOSED
from ipcio._memory_place import closed_method, not_writable
from ipcio._record import calling, in_turn
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from typing_extensions import Buffer, Self

_new: Callable[..., Any] = io.RawIOBase.__new__
_SET, _CUR, _END = os.SEEK_SET, os.SEEK_CUR, os.SEEK_END  # looked up once
_LARGEST_POSITION = sys.maxsize
_FIRST_BLOCK, _LARGEST_BLOCK = 1024, 65536  # bytes in which lines are looked for ahead


class BytesFile(DirectFile):
    """Memory that never changes."""

    __slots__ = ()

    if not TYPE_CHECKING:
        readline = MemoryFile._cursor_readline  # that of BytesIO accepts a size

    @classmethod
    def _over(cls, cursor: Any, memory: Any, *rest: Any) -> Self:
        # In fewer steps than elsewhere: to open such a handle is most of what is done with it.
        self: Self = _new(cls)
        self._fd = self._lent = self._user_fd = -1
        self._share = self._opened = self._loops = None
        self._created = False
        self._file_offset = self._position = self._cursor_seen = 0
        self._name, self._mode, self._reduce = rest
        self._cursor = cursor
        self._cursor_tell = cursor.tell
        self._cursor_read = cursor.read
        self._cursor_readline = cursor.readline
        self._cursor_write = not_writable
        self._size = len(memory)
        self._memory = memory
        self._view = None  # until it is needed
        return self

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:  # type: ignore[override, unused-ignore]
        if whence == _SET:
            try:
                return self._cursor.seek(offset)  # type: ignore[no-any-return]
            except (ValueError, TypeError, AttributeError):
                pass
        elif whence == _CUR:
            # One step, for other threads may read meanwhile; before 0, BytesIO itself would go to 0.
            offset = index(offset)
            try:
                with fork_lock:  # so that the handle keeps its cursor
                    for position in map(self._cursor.seek, map(add, calling(self._cursor_tell), (offset,))):
                        return position  # type: ignore[no-any-return]
            except (ValueError, OverflowError, AttributeError):
                pass
        return MemoryFile.seek(self, offset, whence)

    def readinto(self, buffer: Buffer, /) -> int:
        with writable_bytes(buffer) as target:
            try:
                return self._cursor.readinto(target)  # type: ignore[no-any-return]
            except (ValueError, AttributeError):
                pass
            return MemoryFile.readinto(self, target)

    readinto1 = readinto

    def __iter__(self) -> Iterator[bytes]:
        # The cursor gives its lines until it is at its end.  There a handle that is narrowed or closed leaves it.
        return chain(self._cursor or (), self._rest())

    def close(self) -> None:
        # There is neither a descriptor nor a share, so no step needs a lock.  The handle is closed from the
        # moment when it has no memory.
        cursor = self._cursor
        self.__class__ = CursorFile  # type: ignore[assignment]
        self._memory = self._view = self._cursor = None
        self._cursor_tell = self._cursor_read = self._cursor_readline = closed_method
        if cursor is not None:  # another thread was not quicker
            cursor.close()

    def _check_readable(self) -> memoryview[int]:
        view = self._view
        if view is None:
            view = self._view = memoryview(self._check_open())
        return view

    def _get_position(self) -> int:
        return MemoryFile._get_position(self)  # the class stays

    def _set_position(self, position: int) -> None:
        cursor = self._cursor
        if cursor is None:
            raise ValueError(CLOSED)
        self._position = self._cursor_seen = position
        cursor.seek(position)

    def _narrow(self, size: int) -> None:
        # There is no other cursor over fewer bytes: it would be a copy.
        view, cursor = self._check_readable(), self._cursor
        self._view, self._size = view[:size], size
        self.__class__ = CursorFile  # type: ignore[assignment]
        self._cursor = None
        if cursor is not None:
            # It is left at its end, where methods of it that a caller has kept find nothing.
            self._position, _ = in_turn((partial(cursor.tell), partial(cursor.seek, 0, os.SEEK_END)))


class BufferFile(MemoryFile):
    """Memory that its owner may change, without a descriptor."""

    __slots__ = ()

    def tell(self) -> int:
        position = self._position
        if self._view is None:
            raise ValueError(CLOSED)
        return position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        offset = index(offset)
        while True:
            start = self._position
            if whence == _SET:
                target = offset
            elif whence == _CUR:
                target = start + offset
            elif whence == _END:
                target = self._size + offset
            elif type(whence) is not int:
                return self.seek(offset, int(index(whence)))
            else:
                target = -1
            if not 0 <= target <= _LARGEST_POSITION or self._view is None:
                return MemoryFile.seek(self, offset, whence)  # which says what is wrong
            if self._position is start:
                self._position = target
                return target

    def read(self, size: int | None = -1, /) -> bytes:
        while True:
            start = self._position
            view: Any = self._view
            try:
                data: bytes = view[start : start + size if size >= 0 else None].tobytes()  # type: ignore[operator]
            except (TypeError, ValueError):  # the handle is closed, or the size is no number
                self._check_readable()
                size = -1 if size is None else int(index(size))
                continue
            end = start + len(data)
            if self._position is start and self._view is view:
                self._position = end
                return data

    read1 = read

    def readinto(self, buffer: Buffer, /) -> int:
        with writable_bytes(buffer) as target:
            while True:
                view, start = self._check_readable(), self._position
                count = min(len(target), len(view) - start)
                if count <= 0:
                    return 0
                target[:count] = view[start : start + count]
                end = start + count
                if self._position is start and self._view is view:
                    self._position = end
                    return count

    readinto1 = readinto

    def readline(self, size: int | None = -1, /) -> bytes:
        limit = -1 if size is None else index(size)
        while True:
            view, start = self._check_readable(), self._position
            stop = len(view) if limit < 0 else min(start + limit, len(view))
            line = line_at(view, start, stop) if start < stop else b""
            end = start + len(line)
            if self._position is start and self._view is view:
                self._position = end
                return line

    def _set_position(self, position: int) -> None:
        # Called when the handle has been narrowed.  Another thread may have moved it meanwhile.
        while True:
            start = self._position
            if start <= self._size:
                return
            if self._position is start:
                self._position = position
                return

    def __iter__(self) -> Iterator[bytes]:
        view = self._check_readable()
        memory = view.obj
        if type(memory) is bytearray and len(memory) == view.nbytes == self._size:  # all of it
            return self._lines_of(memory.startswith)
        return self._lines()

    def _lines_of(self, holds: Callable[[bytes, int], bool]) -> Iterator[bytes]:
        # To find a line takes longer than to see whether it is still there.  So lines are looked for in a
        # block, and each is compared with the memory when its turn comes.
        span = _FIRST_BLOCK
        while True:
            view, start = self._check_readable(), self._position
            with io.BytesIO(view[start : start + span]) as block:
                lines = block.readlines()
            if not lines or not lines[-1].endswith(b"\n"):
                del lines[-1:]
            if not lines:
                span = _FIRST_BLOCK
                line = self.readline()
                if not line:
                    return
                yield line
                continue
            span = min(8 * span, _LARGEST_BLOCK)  # so what is copied stays in proportion to what is read
            for line in lines:
                end = start + len(line)
                if not holds(line, start):
                    span = _FIRST_BLOCK
                    break
                # Not the other way round: Python 3.10 also switches at a jump forwards.
                if self._position is start and self._view is view:
                    self._position = start = end
                    yield line
                else:
                    break


for _kind in BytesFile, BufferFile:
    _kind.__name__ = _kind.__qualname__ = MemoryFile.__name__

add_memory(BytesFile, BufferFile)
