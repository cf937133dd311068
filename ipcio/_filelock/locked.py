"""`locked`: a lock while a ``with`` block runs."""

from __future__ import annotations

import os
from _thread import get_ident

from ipcio._event_loop import current_task
from ipcio._filelock.errors import is_foreign
from ipcio._filelock.event_loop import lock_async
from ipcio._filelock.lock_files import LockFile
from ipcio._filelock.ranges import lock, release, unlock
from ipcio._typing import TYPE_CHECKING, Generic, TypeVar, overload

if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from ipcio._filelock import Mode

_File = TypeVar("_File")


class locked(Generic[_File]):  # noqa: N801 -- to be used as a function
    """Lock a range while a ``with`` block runs; ``as`` gives the file.

    The arguments and errors are those of `lock`; at the end of the block, `unlock`,
    unless the block has closed the file, and its lock with it.  ``async with`` waits as
    `lock_async` does.

    A path instead of a file makes a lock file of it: the file is open while the block runs,
    and ``as`` gives that binary file.  A missing file is created, with mode 0600.
    It must be a regular file.  A symbolic link in the last place of the path is followed only
    if it belongs to this user; otherwise that is a `PermissionError`.

    A process may remove or replace the lock file as the last step in its block.  Waiters that
    then lock the old file try again with the one that the path means now, within
    the time that is left.  If it is removed earlier, it protects nothing from then on: the next
    process creates a new file and enters at once.
    """

    __slots__ = ("_file", "_lock_file", "_mode", "_nbytes", "_offset", "_timeout")

    @overload
    def __init__(
        self: locked[BinaryIO],
        file: str | bytes | os.PathLike[Any],
        mode: Mode = "rw",
        offset: int = 0,
        nbytes: int = 0,
        *,
        timeout: float | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self, file: _File, mode: Mode = "rw", offset: int = 0, nbytes: int = 0, *, timeout: float | None = None
    ) -> None: ...
    def __init__(
        self, file: Any, mode: Mode = "rw", offset: int = 0, nbytes: int = 0, *, timeout: float | None = None
    ) -> None:
        self._file = file
        self._mode: Mode = mode
        self._offset = offset
        self._nbytes = nbytes
        self._timeout = timeout
        is_path = isinstance(file, (str, bytes, os.PathLike))
        self._lock_file = LockFile(file, mode, offset, nbytes, timeout) if is_path else None

    def __enter__(self) -> _File:
        if self._lock_file is not None:
            return self._lock_file.acquire(get_ident())  # type: ignore[no-any-return]
        try:
            lock(self._file, self._mode, self._offset, self._nbytes, timeout=self._timeout)
        except BaseException as error:
            if is_foreign(error):  # perhaps just as `lock` returned
                release(self._file, self._offset, self._nbytes)
            raise
        return self._file  # type: ignore[no-any-return]

    def __exit__(self, *_: object) -> None:
        if self._lock_file is not None:
            self._lock_file.release(get_ident())
            return
        try:
            self._unlock()
        except BaseException as error:
            if is_foreign(error):  # perhaps before anything was done
                self._unlock()
            raise

    async def __aenter__(self) -> _File:
        if self._lock_file is not None:
            return await self._lock_file.acquire_async(current_task())  # type: ignore[no-any-return]
        await lock_async(self._file, self._mode, self._offset, self._nbytes, timeout=self._timeout)
        return self._file  # type: ignore[no-any-return]

    async def __aexit__(self, *_: object) -> None:
        if self._lock_file is not None:
            self._lock_file.release(current_task())
        else:
            self.__exit__()

    def _unlock(self) -> None:
        if not getattr(self._file, "closed", False):  # otherwise the lock went with the open file
            unlock(self._file, self._offset, self._nbytes)
