"""Which process holds the lock that a request conflicts with."""

from __future__ import annotations

import errno

from ipcio._filelock import KINDS, backend
from ipcio._filelock.errors import REFUSALS, descriptor, explain
from ipcio._timeouts import now
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ipcio._filelock import Mode
    from ipcio._tuples import Conflict, Owner

# The search begins so many seconds before the timeout ends.  It may go on for so many after it
# where fewer were left.
SEARCH_BEFORE, SEARCH_AFTER = 0.05, 0.03


def find(file: Any, mode: Mode, offset: int, nbytes: int) -> Conflict | None:
    """Return the lock that such a request would conflict with, and its process if it can be found."""
    try:
        if nbytes < 0:
            raise ValueError
        fd = descriptor(file)
        conflict = backend.conflict(fd, backend.request(KINDS[mode], offset, nbytes))
    except REFUSALS as error:
        raise explain(error, file, mode, offset, nbytes) from None
    if conflict and conflict.pid is None:
        owner = next(filter(None, backend.owners(fd, conflict)), None)
        return conflict._replace(pid=owner and owner.pid)
    return conflict


class Search:
    """A search, in steps, for the process that has a lock until a timeout ends.

    The loop over `steps` ends when the process is found, or the time is up; in each step
    the caller tries the lock again, or lets other tasks run.
    """

    def __init__(self, fd: int, request: Any) -> None:
        self._fd = fd
        self._request = request
        self._conflict = backend.conflict(fd, request)
        self._owner: Owner | None = None

    def steps(self, until: float) -> Iterator[None]:
        """Look on, a short while for each step."""
        if self._conflict and self._conflict.pid is None:
            for owner in backend.owners(self._fd, self._conflict):
                self._owner = owner
                yield
                if owner or now() > until:
                    break

    def error(self) -> TimeoutError:
        """Return what to raise.  The process is named if the lock is still the one that it had."""
        conflict = backend.conflict(self._fd, self._request)
        if conflict is None:
            what = "locked by a process that has just unlocked it, or that cannot be known"
            return TimeoutError(errno.ETIMEDOUT, what)
        start, length, exclusive, pid = conflict
        owner = self._owner
        if pid is None and owner and conflict == self._conflict:
            pid = owner.pid if any(backend.owners(self._fd, conflict, [owner])) else None
        process = "another process"
        if pid:
            command = backend.describe(pid)
            process = f"process {pid} ({command})" if command else f"process {pid}"
        span = f"bytes {start} to {start + length - 1}" if length else f"all bytes from {start} on"
        return TimeoutError(errno.ETIMEDOUT, f"{'locked' if exclusive else 'shared'} by {process}, {span}")
