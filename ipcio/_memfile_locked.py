"""The handle of memory on a Python without the GIL.

There a cursor is not thread-safe: two threads in its methods write past its end.  So each fast
method of a `LockedFile` is one call of the cursor, under a lock that the handle has for itself.

* The call and the release of the lock are one step of C (`ipcio._record.call_locked`).  No signal
  handler and no finalizer runs while a thread holds the lock, so that thread never waits.
* No code of the caller runs under the lock either: arguments are numbers and views by then.
* A state that is not fast (see `ipcio._memfile_fast`) has the methods of `MemoryFile`, under
  `fork_lock` and then the lock of the handle.
* A `LockedFile` keeps its class, because a change of class stops all threads.  Each fast method
  looks its function up under the lock, in a slot.  In a state that is not fast the slot holds
  None, and to call it is a `TypeError`.
"""

from __future__ import annotations

import io
import os
import sys
from itertools import repeat, starmap

from ipcio._bytes import COPY_TWICE, writable_bytes
from ipcio._forklock import RLock, fork_lock, handle_locks
from ipcio._light import index, methodcaller, nullcontext, partial
from ipcio._memfile import MemoryFile
from ipcio._record import call_locked
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from typing_extensions import Buffer, Self

_FOR_EVER: repeat[tuple[()]] = repeat(())


class LockedFile(MemoryFile):
    """Memory with a cursor, and a lock for it."""

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

    _lock: RLock
    _acquiring: Iterator[object]
    _release: partial[None]

    @classmethod
    def _over(cls, cursor: Any, memory: Any, *rest: Any) -> Self:
        self = super()._over(cursor, memory, *rest)
        self._lock = RLock()
        self._acquiring = starmap(self._lock.acquire, _FOR_EVER)
        self._release = partial(self._lock.release)
        with fork_lock:
            handle_locks.add(self._lock)
        self._become(True)
        return self

    def _become(self, fast: bool, /) -> None:
        cursor: Any = self._cursor if fast else None
        reader = None if self._mode == "wb" else cursor
        self._quick_tell = getattr(cursor, "tell", None)
        # A BytesIO accepts more than a handle does.
        self._quick_seek = None if isinstance(cursor, io.BytesIO) else getattr(cursor, "seek", None)
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
            if size <= COPY_TWICE or isinstance(self._cursor, io.BytesIO):
                data = self.read(size)
                target[: len(data)] = data
                return len(data)
            self._check_readable()
            with memoryview(self._check_open()) as whole:
                while (count := min(size, self._size - self.tell())) > 0:
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

    def _truncate(self, wanted: int | None) -> int:
        with self._lock:  # `fork_lock` is held already
            return super()._truncate(wanted)

    def _drop_memory(self, *, is_explicit: bool) -> None:
        with self._lock if is_explicit else nullcontext():  # no other thread has a handle that is being collected
            super()._drop_memory(is_explicit=is_explicit)
        handle_locks.discard(self._lock)


_TELL = methodcaller("_quick_tell")
_READLINE = methodcaller("_quick_readline")
