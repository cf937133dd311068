"""Lock files: opened by their path, locked, and checked to be what the path still means."""

from __future__ import annotations

import errno
import os
from time import sleep

from ipcio import _event_loop
from ipcio._filelock import backend
from ipcio._filelock.errors import explain
from ipcio._filelock.event_loop import lock_async
from ipcio._filelock.ranges import lock, unlock
from ipcio._timeouts import check_timeout, now
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from ipcio._filelock import Mode

_GRACE = 0.02  # seconds after the timeout in which a lock file that was replaced is no error yet


class LockFile:
    """A path, and the files that threads and tasks have opened by it and locked, each under a key of its own."""

    __slots__ = ("_mode", "_nbytes", "_offset", "_opened", "_path", "_timeout")

    def __init__(self, path: Any, mode: Mode, offset: int, nbytes: int, timeout: float | None) -> None:
        self._path = path
        self._mode: Mode = mode
        self._offset = offset
        self._nbytes = nbytes
        self._timeout = timeout
        self._opened: dict[object, list[Any]] = {}

    def acquire(self, key: object) -> Any:
        """Open the file that the path means, creating it if need be, lock it, and return it."""
        end = self._end()
        while True:
            file = self._open(end)
            if file is None:
                sleep(_event_loop.LONGEST_PAUSE)
                continue
            try:
                lock(file, self._mode, self._offset, self._nbytes, timeout=_left(end))
                if self._is_current(file, end):
                    return self._keep(file, key)
            except BaseException:
                file.close()
                raise
            file.close()

    async def acquire_async(self, key: object) -> Any:
        """As `acquire`, in an event loop."""
        end = self._end()
        while True:
            file = self._open(end)
            if file is None:
                await _event_loop.sleep(_event_loop.LONGEST_PAUSE)
                continue
            try:
                await lock_async(file, self._mode, self._offset, self._nbytes, timeout=_left(end))
                if self._is_current(file, end):
                    return self._keep(file, key)
            except BaseException:
                file.close()
                raise
            file.close()

    def release(self, key: object) -> None:
        """Unlock and close the file that was opened last under the key."""
        if key not in self._opened:  # the thread or task that leaves the block is not the one that entered it
            key = next(iter(self._opened))
        files = self._opened[key]
        file = files[-1]
        try:
            if not file.closed:  # otherwise the lock went with the open file
                unlock(file, self._offset, self._nbytes)
        finally:
            files.remove(file)
            if not files:
                del self._opened[key]
            file.close()

    def _end(self) -> float | None:
        """Check the arguments, before a file is created; return when the time is up."""
        seconds = None if self._timeout is None else check_timeout(self._timeout)
        fine = ValueError()
        error = explain(fine, 0, self._mode, self._offset, self._nbytes)
        if error is not fine:
            raise error
        return None if seconds is None else now() + seconds

    def _open(self, end: float | None) -> Any:
        """Open what the path means now; return None if another process has to give up a lease (fcntl(2)) first."""
        try:
            return open(self._path, "rb" if self._mode == "r" else "r+b", opener=backend.open_path)
        except BlockingIOError:
            if end is not None and now() >= end:
                raise TimeoutError(errno.ETIMEDOUT, "another process has a lease on the file", self._path) from None
            return None

    def _is_current(self, file: Any, end: float | None) -> bool:
        """Whether the path still means this file; if not, raise `TimeoutError` when the time is up."""
        try:
            if os.path.samestat(os.stat(self._path), os.fstat(file.fileno())):
                return True
        except FileNotFoundError:
            pass
        if end is not None and now() > end + _GRACE:  # not at once: the next file may be free
            raise TimeoutError(errno.ETIMEDOUT, "the lock file has been removed or replaced each time", self._path)
        return False

    def _keep(self, file: Any, key: object) -> Any:
        self._opened.setdefault(key, []).append(file)
        return file


def _left(end: float | None) -> float | None:
    return None if end is None else max(end - now(), 0)
