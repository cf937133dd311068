"""The handle of memory while C does its work.

A handle with a cursor (see `ipcio._memfile`) is a `DirectFile` while it needs nothing else: its
position lies within the bytes that it shows, and `fileno` was not called.  Then `read` and `tell`
*are* the bound methods of the cursor, so no Python frame is between the caller and C.
`seek` and `write` are one frame, because there the answer of a map differs from that of a file:
past the end, before 0, and for data that do not fit.

A handle that leaves this state becomes a `CursorFile`, with the methods of `MemoryFile`, and
returns when it can.  `_become` assigns the class, and nothing else does.  So the fast methods
need not check anything.  (A subclass of both `io.RawIOBase` and `mmap.mmap` would need no such
change, but CPython refuses it: their layouts conflict.)
"""

from __future__ import annotations

import os
import sys
from itertools import chain

from ipcio._buffering import add_memory
from ipcio._bytes import COPY_TWICE, writable_bytes
from ipcio._forklock import FREE_THREADED, fork_lock
from ipcio._light import index, partial
from ipcio._memfile import MemoryFile
from ipcio._memfile_offset import OffsetFile
from ipcio._memory_place import closed_method
from ipcio._record import in_turn
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from typing_extensions import Buffer


_NO_LIMIT = -1  # ``is _NO_LIMIT`` is the fastest test for the default


_count_references: Callable[[object], int] | None = getattr(sys, "getrefcount", None)  # PyPy counts none


class _Slot:
    """What has one reference to one object."""

    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content = object()


_ONE_REFERENCE = _Slot()


class CursorFile(MemoryFile):
    """Memory with a cursor, in any state."""

    __slots__ = ()

    def __iter__(self) -> Iterator[bytes]:
        self._check_readable()
        return self._rest()

    def _get_position(self) -> int:
        # Threads use the cursor of a DirectFile without the lock.  From here on they wait for it, so what follows
        # in the same method is one step for them.
        self._become(False)
        self._end_loops()
        return MemoryFile._get_position(self)

    def _become(self, fast: bool, /) -> None:
        kind: Any = DirectFile if fast else CursorFile
        self.__class__ = kind
        if fast and self._quick is not None:
            (
                self._cursor_tell,
                self._cursor_seek,
                self._cursor_read,
                self._cursor_readline,
                self._cursor_write,
            ) = self._quick
        else:  # another thread may be in the middle of a fast method, which falls back on this error
            self._cursor_tell = self._cursor_seek = self._cursor_read = closed_method
            self._cursor_readline = self._cursor_write = closed_method

    def _leave_cursor(self) -> None:
        # To keep the cursor in step with the descriptor takes as long as all the rest.  Only `read` and `tell`
        # that a caller has fetched and kept depend on it: they are methods of the cursor.
        if _count_references is None or self._quick is None:
            return
        least = _count_references(_ONE_REFERENCE.content)
        if _count_references(self._quick[0]) > least:
            return
        if self._mode != "wb" and _count_references(self._quick[2]) > least:
            return
        self._cursor = self._loops = self._quick = None
        OffsetFile._use_offset(self)  # type: ignore[arg-type]


class DirectFile(CursorFile):
    """Memory with a cursor, and with nothing else to think of.

    A method that falls back names `MemoryFile` and not ``super()``, which raises `TypeError` if
    another thread has changed the class of the handle meanwhile.
    """

    __slots__ = ()

    if not TYPE_CHECKING:  # for type checkers these are the methods of MemoryFile
        closed = False  # a closed handle is a CursorFile; C asks for every line of a TextIOWrapper
        tell = MemoryFile._cursor_tell
        read = read1 = readall = MemoryFile._cursor_read

    if sys.version_info >= (3, 13):

        def seek(self, *where: int) -> int:
            try:
                # Cheapest: C is called with this very tuple.
                return self._cursor_seek(*where)  # type: ignore[no-any-return]
            except ValueError:
                pass
            return MemoryFile.seek(self, *where)

    else:  # there mmap.seek returns None

        def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
            try:
                if whence == 0:  # SEEK_SET, without looking it up
                    seek = self._cursor_seek  # as in `readline`
                    seek(offset)
                    return offset + 0
                offset, whence = index(offset), index(whence)
                with fork_lock:  # so that the handle keeps its cursor
                    move = partial(self._cursor_seek, offset, whence)
                    _, position = in_turn((move, partial(self._cursor_tell)))  # one step for other threads
                    return position  # type: ignore[no-any-return]
            except (ValueError, TypeError, AttributeError):
                pass
            return MemoryFile.seek(self, offset, whence)

    def write(self, data: Buffer, /) -> int:
        try:
            write = self._cursor_write  # as in `readline`
            return write(data)
        except ValueError:
            pass
        return MemoryFile.write(self, data)

    def readline(self, size: int | None = -1, /) -> bytes:
        if size is _NO_LIMIT:
            try:
                readline = self._cursor_readline  # in two steps, which Python 3.11 and later make faster
                return readline()
            except ValueError:
                pass
        return MemoryFile.readline(self, size)

    def readinto(self, buffer: Buffer, /) -> int:
        with memoryview(buffer) as view:
            if view.format == "B" and view.ndim == 1 and view.c_contiguous and not view.readonly:
                return DirectFile._fill(self, view)
        with writable_bytes(buffer) as target:
            return DirectFile._fill(self, target)

    readinto1 = readinto

    def _fill(self, target: memoryview[int]) -> int:
        size = len(target)
        if size <= COPY_TWICE:
            try:
                data = self._cursor_read(size)
            except ValueError:
                return MemoryFile.readinto(self, target)
            count = len(data)
            target[:count] = data
            return count
        self._check_readable()
        with memoryview(self._check_open()) as whole:
            # The ``__buffer__`` of the target, or another thread, may use the handle.
            while self.__class__ is DirectFile:
                try:
                    count = min(size, self._size - self._cursor_tell())
                    if count <= 0:
                        return 0
                    start = DirectFile._claim(self, count)
                except ValueError:  # another thread was quicker; fewer are left now
                    continue
                target[:count] = whole[start : start + count]
                return count
        return MemoryFile.readinto(self, target)

    # Move past the next `count` bytes, in one step for other threads, and return where they start.
    if sys.version_info >= (3, 13):

        def _claim(self, count: int) -> int:
            reached: int = self._cursor_seek(count, os.SEEK_CUR)
            return reached - count

    else:

        def _claim(self, count: int) -> int:
            start: int
            with fork_lock:  # so that the handle keeps its cursor
                tell, seek = self._cursor_tell, self._cursor_seek
                start, _ = in_turn((partial(tell), partial(seek, count, os.SEEK_CUR)))
            return start

    def __iter__(self) -> Iterator[bytes]:
        self._check_readable()
        # All loops take their lines from one iterator without a frame.  When the handle leaves this
        # state, that is brought to its end, and each loop goes on with `_rest`.
        with fork_lock:
            if self.__class__ is not DirectFile:  # another thread was quicker
                return self._rest()
            loops = self._loops
            if loops is None or not loops.__reduce__()[1][0]:  # the last one has come to its end
                self._loops = loops = iter(self._cursor_readline, b"")
        return chain(loops, self._rest())


FastFile: type[MemoryFile]
"""How every handle with a cursor begins."""

if FREE_THREADED:
    from ipcio._memfile_locked import LockedFile as FastFile
else:
    FastFile = DirectFile

# Users see one type of handle: in errors, in `help` and in debuggers.
for _kind in CursorFile, DirectFile, FastFile:
    _kind.__name__ = _kind.__qualname__ = MemoryFile.__name__

add_memory(CursorFile, DirectFile, FastFile)
