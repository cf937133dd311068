"""A lock that stays held while the program runs that this process becomes: how ``ipcio mutex run`` holds a mutex.

A call of ``exec`` ends the owner of a lock (`ipcio._posix.robust`, `ipcio._posix.range_lock`).  So before it, the
owner locks a byte of the file for its *process*, with a lock that ``exec`` keeps and children do not inherit, and
writes into the object that it has lent the lock.  The next owner finds that, and waits until no process has locked
the byte.

The process loses such a lock when it closes any descriptor of the file, and ``exec`` closes those that are not
inherited.  So all of them are.
"""

from __future__ import annotations

import fcntl
import os
import time

from ipcio._posix import filelock
from ipcio._timeouts import now
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipcio._backend import Conflict

LENT = 2  # in the notes of a lock

_FIRST_PAUSE, _LAST_PAUSE = 0.0005, 0.02  # seconds between two looks
_MOST_DESCRIPTORS = 256  # of a command of ipcio


def lend(fd: int, byte: int) -> None:
    """Lock a byte of the file for this process and for the program that it becomes."""
    fcntl.fcntl(fd, fcntl.F_SETLK, filelock.request(filelock.EXCLUDE, byte, 1))
    info = os.fstat(fd)
    for other in range(_MOST_DESCRIPTORS):
        try:
            if os.path.samestat(os.fstat(other), info):
                os.set_inheritable(other, True)
        except OSError:
            pass


def borrower(fd: int, byte: int) -> Conflict | None:
    """Return the lock on the byte, if another process has one."""
    return filelock.conflict(fd, filelock.request(filelock.EXCLUDE, byte, 1))


def wait(fd: int, byte: int, end: float | None) -> bool:
    """Wait until no other process has locked the byte, or until `end` (None: no limit); return whether none has."""
    pause = _FIRST_PAUSE
    while borrower(fd, byte):
        left = pause if end is None else end - now()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LAST_PAUSE)
    return True
