"""The file face over an `mmap.mmap`, with the map's own C methods doing the work.

`MappedFile` adds to `MemoryFile` what a map can do.  `DirectFile` is the same
handle while nothing special has been asked of it: all of the map is shown, the
position lies in it, nobody was given the descriptor.  Then the map keeps the
position; ``read`` and ``tell`` *are* its bound methods, so that no Python frame
stands between the caller and C; ``seek`` and ``write`` are one frame, because
only there can the map's answer differ from a file's (past the end, before 0,
what does not fit).

A handle moves between the two by changing its class, in `MappedFile._go` and
nowhere else.  The fast methods need not check anything that way.  (A subclass of
both `io.RawIOBase` and `mmap.mmap` would need no tricks, but their layouts
conflict.)
"""

from __future__ import annotations

import io
import os
import sys
from operator import index
from typing import TYPE_CHECKING

from ipcio._forklock import turn
from ipcio._memfile import MemoryFile, writable_bytes

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from typing_extensions import Buffer

    from ipcio._memfile import Recipe

__all__ = ["MappedFile"]

# Above this many bytes one copy through a view beats two through a bytes object.
_COPY_TWICE = 65536

# Before 3.11 mmap.read ran __index__ of its argument and then trusted a map that
# this very call might have closed.  There a map is let go of, never closed.
_CLOSES_SAFELY = sys.version_info >= (3, 11)


class MappedFile(MemoryFile):
    """Memory that is an `mmap.mmap`, whatever was asked of the handle."""

    # The map's methods, which DirectFile shows under their public names.  The
    # slots are here because only classes of one layout can change places.
    __slots__ = ("_cursor", "_map_read", "_map_readline", "_map_seek", "_map_tell", "_map_write")

    _memory: mmap.mmap | None
    _cursor: int  # where we left the map's own position

    def __init__(self, memory: mmap.mmap, name: object, mode: str, recipe: Recipe, **details: Any) -> None:
        super().__init__(memory, name, mode, recipe, **details)
        self._cursor = 0
        self._map_tell: Callable[[], int] = memory.tell
        self._map_seek: Callable[..., int] = memory.seek
        self._map_read: Callable[..., bytes] = memory.read
        self._map_readline: Callable[[], bytes] = memory.readline
        self._map_write: Callable[[Buffer], int] = memory.write
        if mode == "wb":
            self._map_read = self._map_readline = _not_readable
        elif mode == "rb":
            self._map_write = _not_writable
        self.__class__ = DirectFile

    def flush(self) -> None:
        """Write the changes through to the file (``msync``); nothing to do on read-only memory.

        Only a crash of the machine makes the difference: other processes see every
        change at once, and the system writes it back in its own time.  Raises
        `OSError` when the storage fails.
        """
        memory = self._map()
        if self._mode != "rb":
            with memoryview(memory):  # so that a close() elsewhere cannot unmap meanwhile
                memory.flush()

    def _map(self) -> mmap.mmap:
        self._check_open()
        assert self._memory is not None
        return self._memory

    # An iterator that DirectFile made reads from the map itself, and the handle may
    # leave that state under it: ``for line in h: os.fstat(h.fileno())``.  So the
    # map's position is kept where the handle's is, and its own moves are noticed.

    def _where(self) -> int:
        reached = self._map().tell()
        if reached != self._cursor:
            self._go(reached)
        return super()._where()

    def _go(self, position: int) -> None:
        super()._go(position)
        memory = self._map()
        whole = self._size == len(memory)
        # On a narrowed face such iterators end: they know nothing of the new end.
        self._cursor = min(position, len(memory)) if whole else len(memory)
        memory.seek(self._cursor)
        direct = whole and not self._shared and position == self._cursor
        self.__class__ = DirectFile if direct else MappedFile

    def _narrow(self, size: int) -> None:
        position = self._where()
        super()._narrow(size)
        self._go(position)

    def _unmap(self) -> None:
        memory = self._map()
        self._let_go()
        try:
            if _CLOSES_SAFELY:
                memory.close()
                return
        except BufferError:  # views are alive; the last of them unmaps
            pass
        memory.seek(0, os.SEEK_END)  # nothing left for an iterator that somebody kept

    def _let_go(self) -> None:
        super()._let_go()
        self.__class__ = MappedFile
        self._map_tell = self._map_seek = self._map_read = self._map_readline = self._map_write = _closed


class DirectFile(MappedFile):
    """All of a map and nothing else asked.

    A fallback names `MappedFile`, for another thread may change the class under a
    running method, and ``super()`` would then refuse.  MappedFile's methods are
    right in both states.
    """

    __slots__ = ()

    if not TYPE_CHECKING:  # for the checkers these are the methods of MemoryFile
        tell = MappedFile._map_tell
        read = read1 = readall = MappedFile._map_read

    if sys.version_info >= (3, 13):

        def seek(self, *where: int) -> int:
            try:
                return self._map_seek(*where)  # cheapest: this tuple is what C is called with
            except ValueError:
                pass
            return MappedFile.seek(self, *where)

    else:  # there mmap.seek returns None

        def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
            try:
                if whence == os.SEEK_SET:
                    self._memory.seek(offset)  # type: ignore[union-attr]
                    return offset + 0
            except (ValueError, TypeError, AttributeError):
                pass
            return MappedFile.seek(self, offset, whence)

    def write(self, data: Buffer, /) -> int:
        try:
            return self._map_write(data)
        except ValueError:
            pass
        return MappedFile.write(self, data)

    def readinto(self, buffer: Buffer, /) -> int:
        target = writable_bytes(buffer)
        if len(target) > _COPY_TWICE:
            return MappedFile.readinto(self, target)
        data = self._map_read(len(target))
        count = len(data)
        target[:count] = data
        return count

    readinto1 = readinto

    def readline(self, *size: int | None) -> bytes:
        if size and size[0] is not None and index(*size) >= 0:
            return MappedFile.readline(self, *size)
        return self._map_readline()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._map_readline, b"")


def _not_readable(*_: object) -> NoReturn:
    raise io.UnsupportedOperation("not readable")


def _not_writable(*_: object) -> NoReturn:
    raise io.UnsupportedOperation("not writable")


def _closed(*_: object) -> NoReturn:
    raise ValueError("I/O operation on closed file.")
