"""The file face over memory that comes with C methods of its own: an `mmap.mmap`, or `io.BytesIO` over `bytes`.

Such an object, the *cursor*, reads, writes and finds lines in C and keeps a position.
`CursorFile` is a `MemoryFile` that knows of its cursor.  `DirectFile` is the same
handle while nothing special has been asked of it: all of the memory is shown, the
position lies in it, nobody was given the descriptor.  Then the cursor keeps the
position; ``read`` and ``tell`` *are* its bound methods, so that no Python frame
stands between the caller and C; ``seek`` and ``write`` are one frame, because only
there can the answer of a map differ from a file's (past the end, before 0, what
does not fit).

A handle moves between the two by changing its class, in `CursorFile._go` and
nowhere else.  The fast methods need not check anything that way.  (A subclass of
both `io.RawIOBase` and `mmap.mmap` would need no tricks, but their layouts
conflict.)

On a Python without the GIL a cursor is not thread-safe: two threads in its methods write
past its end.  Handles are a `LockedFile` there, and never change their class.
"""

from __future__ import annotations

import io
import os
import sys
from functools import partial
from itertools import chain, repeat, starmap
from operator import index, methodcaller

from ipcio._buffering import add_memory
from ipcio._forklock import FREE_THREADED, RLock, fork_lock, handle_locks
from ipcio._memfile import CLOSED, MemoryFile, writable_bytes
from ipcio._record import call_locked, in_turn
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from typing_extensions import Buffer

    from ipcio._memfile import Recipe

__all__ = ["FastFile"]

_FOR_EVER: repeat[tuple[()]] = repeat(())

# Above this many bytes one copy through a view beats two through a bytes object.
_COPY_TWICE = 65536


class CursorFile(MemoryFile):
    """Memory with a cursor, whatever was asked of the handle."""

    # The cursor's methods, which DirectFile shows under their public names.  The
    # slots are here because only classes of one layout can change places.
    __slots__ = (
        "_cursor",
        "_cursor_read",
        "_cursor_readline",
        "_cursor_seek",
        "_cursor_tell",
        "_cursor_write",
        "_left",
        "_lines_begun",
    )

    _cursor: Any
    _left: int  # where we left the cursor
    _lines_begun: Any  # what the loops of DirectFile take from the cursor, until its end

    def _begin(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        cursor: mmap.mmap | io.BytesIO,
        memory: mmap.mmap | memoryview[int],
        name: str | Any,
        mode: str,
        recipe: Recipe,
        *rest: Any,  # as for MemoryFile
    ) -> None:
        MemoryFile._begin(self, memory, name, mode, recipe, *rest)
        self._cursor = cursor
        self._left = 0
        self._lines_begun = None
        self._cursor_tell: Callable[[], int] = cursor.tell
        self._cursor_seek: Callable[..., Any] = cursor.seek
        self._cursor_read: Callable[..., bytes] = cursor.read
        self._cursor_readline: Callable[[], bytes] = cursor.readline
        self._cursor_write: Callable[[Buffer], int] = cursor.write
        if mode == "wb":
            self._cursor_read = self._cursor_readline = _not_readable
        elif mode == "rb":
            self._cursor_write = _not_writable

    def flush(self) -> None:
        """Write the changes through to the file (``msync``); nothing to do on read-only memory.

        Only a crash of the machine makes the difference: other processes see every
        change at once, and the system writes it back in its own time.  Raises
        `OSError` when the storage fails.
        """
        memory: Any = self._check_open()
        if self._mode != "rb":
            with memoryview(memory):  # so that a close() elsewhere cannot unmap meanwhile
                memory.flush()

    def __iter__(self) -> Iterator[bytes]:
        self._check_readable()
        return self._rest()

    def _rest(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line

    # Bound methods of the cursor that somebody took from DirectFile (`pickle.Unpickler`
    # does) outlive that state.  So the cursor is kept where the handle's position is,
    # and its own moves are noticed.

    def _where(self) -> int:
        reached = self._cursor_tell()
        if reached != self._left:
            self._left = reached
            super()._go(reached)
        return super()._where()

    def _go(self, position: int) -> None:
        super()._go(position)
        end = len(self._check_open())
        whole = self._size == end
        direct = whole and self._given < 0 and position <= end
        if not direct and self._lines_begun is not None:
            # Loops that DirectFile began know nothing of a new end or a descriptor: let
            # their first part come to its end, and they go on with `_rest`.
            lines, self._lines_begun = self._lines_begun, None
            self._cursor_seek(end)
            next(lines, None)
        self._left = min(position, end) if whole else end
        self._cursor_seek(self._left)
        self._be(direct)

    def _be(self, direct: bool, /) -> None:
        """From now on be the fast handle, or the one that looks at everything."""
        kind: Any = DirectFile if direct else CursorFile
        self.__class__ = kind

    def _narrow(self, size: int) -> None:
        position = self._where()
        super()._narrow(size)
        self._go(position)

    def _unmap(self) -> None:
        cursor, end = self._cursor, len(self._check_open())
        self._let_go()
        # Let go of, never closed: the last reference unmaps.  Not all that still has the memory
        # is a view that would keep a map from being closed.  Numpy takes the map itself for an
        # array's base (``numpy.ndarray(buffer=)``), and before 3.11 `mmap.read` went on with a
        # map that the ``__index__`` of its argument had closed.
        cursor.seek(end)  # nothing left for an iterator that somebody kept

    def _let_go(self) -> None:
        super()._let_go()
        self._cursor = self._lines_begun = None
        self._cursor_tell = self._cursor_seek = self._cursor_read = _closed
        self._cursor_readline = self._cursor_write = _closed
        self._be(False)


class DirectFile(CursorFile):
    """All of the memory and nothing else asked: how every handle with a cursor begins.

    A fallback names `CursorFile`, for another thread may change the class under a
    running method, and ``super()`` would then refuse.  CursorFile's methods are
    right in both states.
    """

    __slots__ = ()

    if not TYPE_CHECKING:  # for the checkers these are the methods of MemoryFile
        closed = False  # or it would be in the other state; C asks for every line of a TextIOWrapper
        tell = CursorFile._cursor_tell
        read = read1 = readall = CursorFile._cursor_read

    if sys.version_info >= (3, 13):

        def seek(self, *where: int) -> int:
            try:
                # Cheapest: this very tuple is what C is called with.
                return self._cursor_seek(*where)  # type: ignore[no-any-return]
            except ValueError:
                pass
            return CursorFile.seek(self, *where)

    else:  # there mmap.seek returns None

        def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
            try:
                if whence == 0:  # SEEK_SET, without looking it up
                    self._cursor.seek(offset)
                    return offset + 0
                self._cursor.seek(offset, whence)
                return self._cursor_tell()
            except (ValueError, TypeError, AttributeError):
                pass
            return CursorFile.seek(self, offset, whence)

    def write(self, data: Buffer, /) -> int:
        try:
            return self._cursor_write(data)
        except ValueError:
            pass
        return CursorFile.write(self, data)

    def readinto(self, buffer: Buffer, /) -> int:
        with memoryview(buffer) as view:
            if view.format == "B" and view.ndim == 1 and view.c_contiguous and not view.readonly:
                return DirectFile._fill(self, view)
        with writable_bytes(buffer) as target:
            return DirectFile._fill(self, target)

    readinto1 = readinto

    def _fill(self, target: memoryview[int]) -> int:
        size = len(target)
        if size <= _COPY_TWICE or self._cursor is not self._memory:
            data = self._cursor_read(size)
            count = len(data)
            target[:count] = data
            return count
        self._check_readable()
        if self.__class__ is not DirectFile:  # no more, since somebody's __buffer__ ran
            return CursorFile.readinto(self, target)
        with memoryview(self._check_open()) as whole:
            while True:
                count = min(size, len(whole) - self._cursor_tell())
                try:
                    start = DirectFile._claim(self, count)
                except ValueError:  # another thread was quicker; fewer are left now
                    continue
                target[:count] = whole[start : start + count]
                return count

    # Take the next `count` bytes, in one step for other threads, and say where they start.
    if sys.version_info >= (3, 13):

        def _claim(self, count: int) -> int:
            reached: int = self._cursor_seek(count, os.SEEK_CUR)
            return reached - count

    else:

        def _claim(self, count: int) -> int:
            start: int
            start, _ = in_turn((partial(self._cursor_tell), partial(self._cursor_seek, count, os.SEEK_CUR)))
            return start

    def readline(self, *size: int | None) -> bytes:
        if size:
            return CursorFile.readline(self, *size)
        return self._cursor_readline()

    def __iter__(self) -> Iterator[bytes]:
        self._check_readable()
        lines = self._lines_begun
        if lines is None or not lines.__reduce__()[1][0]:  # none yet, or come to its end
            self._lines_begun = lines = iter(self._cursor_readline, b"")
        return chain(lines, self._rest())


class LockedFile(CursorFile):
    """A handle with a cursor on a Python without the GIL.

    While nothing special has been asked of it (see `DirectFile`), each method is one call of
    the cursor's, under a lock of the handle's own.  That call and the release of the lock are
    one step of C (`call_locked`): no signal handler and no finalizer runs while the lock is
    held, so a thread that holds it never waits for anything.  Otherwise the methods of
    `CursorFile` work, under `fork_lock` and then that lock.  Nothing of the user's runs under it:
    arguments are numbers and views by then.

    Which of the two it is shows in the cursor's methods below, which are looked up under the
    lock: None cannot be called.
    """

    __slots__ = (
        "_acquiring",
        "_lock",
        "_quick_read",
        "_quick_readline",
        "_quick_seek",
        "_quick_tell",
        "_quick_write",
        "_release",
    )

    def _begin(self, *arguments: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._lock = RLock()
        self._acquiring = starmap(self._lock.acquire, _FOR_EVER)
        self._release = partial(self._lock.release)
        super()._begin(*arguments)
        with fork_lock:
            handle_locks.add(self._lock)
        self._be(True)

    def _be(self, direct: bool, /) -> None:
        cursor: Any = self._cursor if direct else None
        reader = None if self._mode == "wb" else cursor
        self._quick_tell = getattr(cursor, "tell", None)
        # That of strfile is Python.
        self._quick_seek = getattr(cursor, "seek", None) if cursor is self._memory else None
        self._quick_read = getattr(reader, "read", None)
        self._quick_readline = getattr(reader, "readline", None)
        self._quick_write = None if self._mode == "rb" else getattr(cursor, "write", None)

    def tell(self) -> int:
        try:
            return call_locked(self, _TELL, self)  # type: ignore[no-any-return]
        except TypeError:
            pass
        with fork_lock, self._lock:
            return super().tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        offset, whence = index(offset), index(whence)
        try:
            return call_locked(self, methodcaller("_quick_seek", offset, whence), self)  # type: ignore[no-any-return]
        except (TypeError, ValueError, OverflowError):
            pass
        with fork_lock, self._lock:
            return super().seek(offset, whence)

    def truncate(self, size: int | None = None, /) -> int:
        wanted = None if size is None else index(size)
        with fork_lock, self._lock:
            return super().truncate(wanted)

    def fileno(self) -> int:
        with fork_lock, self._lock:
            return super().fileno()

    def read(self, size: int | None = -1, /) -> bytes:
        count = -1 if size is None else min(index(size), sys.maxsize)
        try:
            return call_locked(self, methodcaller("_quick_read", count), self)  # type: ignore[no-any-return]
        except TypeError:
            pass
        with fork_lock, self._lock:
            return super().read(count)

    def readline(self, size: int | None = -1, /) -> bytes:
        limit = -1 if size is None else index(size)
        if limit < 0:
            try:
                return call_locked(self, _READLINE, self)  # type: ignore[no-any-return]
            except TypeError:
                pass
        with fork_lock, self._lock:
            return super().readline(limit)

    def readinto(self, buffer: Buffer, /) -> int:
        with writable_bytes(buffer) as target:
            size = len(target)
            if size <= _COPY_TWICE or self._cursor is not self._memory:
                data = self.read(size)
                target[: len(data)] = data
                return len(data)
            self._check_readable()
            with memoryview(self._check_open()) as whole:
                while (count := min(size, len(whole) - self.tell())) > 0:
                    try:
                        end = call_locked(self, methodcaller("_quick_seek", count, os.SEEK_CUR), self)
                    except ValueError:  # another thread was quicker; fewer are left now
                        continue
                    except TypeError:
                        break
                    target[:count] = whole[end - count : end]
                    return count
            with fork_lock, self._lock:
                return super().readinto(target)

    readinto1 = readinto

    def write(self, data: Buffer, /) -> int:
        with memoryview(data) as source:
            try:
                return call_locked(self, methodcaller("_quick_write", source), self)  # type: ignore[no-any-return]
            except (TypeError, ValueError, BufferError):
                pass
            with fork_lock, self._lock:
                return super().write(source)

    def __iter__(self) -> Iterator[bytes]:
        self._check_readable()
        return self

    def _unmap(self) -> None:
        with self._lock:
            super()._unmap()

    def _let_go(self) -> None:  # also of a handle that is collected, whose lock no thread has
        super()._let_go()
        handle_locks.discard(self._lock)


_TELL = methodcaller("_quick_tell")
_READLINE = methodcaller("_quick_readline")


FastFile: type[CursorFile] = LockedFile if FREE_THREADED else DirectFile
"""How every handle with a cursor begins."""

# Users see one type of handle: in errors, in `help` and in debuggers.
for _kind in CursorFile, DirectFile, LockedFile:
    _kind.__name__ = _kind.__qualname__ = MemoryFile.__name__

add_memory(CursorFile, DirectFile, LockedFile)


def _not_readable(*_: object) -> NoReturn:
    raise io.UnsupportedOperation("not readable")


def _not_writable(*_: object) -> NoReturn:
    raise io.UnsupportedOperation("not writable")


def _closed(*_: object) -> NoReturn:
    raise ValueError(CLOSED)
