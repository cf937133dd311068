"""A lock that stays held while the program runs that this process becomes: how ``ipcio mutex run`` holds a mutex.

A call of ``exec`` ends the owner of a lock (`ipcio._posix.robust`, `ipcio._posix.range_lock`).  So before it, the
owner writes into the object that it has lent the lock, and to which process.  The next owner finds that, and waits
until the process has ended.  There are two signs of that, because each alone would not do:

* The process has locked a byte of the file, with a lock of the *process*, which ``exec`` keeps and children do not
  inherit.  It would lose it by closing any descriptor of the file.  ``exec`` closes those that are not inherited, so
  all of them are; but a program may close all that it has inherited, as ``sudo`` does.
* Its number and the time of its start are in the object.  They mean nothing in another PID namespace, nor without
  ``/proc``.
"""

from __future__ import annotations

import fcntl
import os
import struct

from ipcio._posix import filelock, procfs
from ipcio._timeouts import wait_until
from ipcio._typing import NamedTuple

LENT = 2  # in the notes of a lock

_MOST_DESCRIPTORS = 256  # of a command of ipcio


class Borrower(NamedTuple):
    """What stands in an object while its lock is lent."""

    notes: int  # with `LENT`
    pid: int
    start: int  # of the process, in units of the kernel; 0: unknown
    is_visible: bool = True  # whether it is in the PID namespace of this process


RECORD = struct.Struct("=IIQ")  # the first three of them


def lend(fd: int, byte: int) -> Borrower:
    """Lock a byte of the file for this process and for the program that it becomes; return what to write."""
    fcntl.fcntl(fd, fcntl.F_SETLK, filelock.request(filelock.EXCLUDE, byte, 1))
    info = os.fstat(fd)
    for other in range(_MOST_DESCRIPTORS):
        try:
            if os.path.samestat(os.fstat(other), info):
                os.set_inheritable(other, True)
        except OSError:
            pass
    return Borrower(LENT, os.getpid(), procfs.start_of(os.getpid()) or 0)


def take_back(fd: int, byte: int) -> None:
    """Unlock the byte."""
    fcntl.fcntl(fd, fcntl.F_SETLK, filelock.request(filelock.UNLOCK, byte, 1))


def is_running(fd: int, byte: int, borrower: Borrower) -> bool:
    """Whether the process to which the lock was lent has not ended."""
    if filelock.conflict(fd, filelock.request(filelock.EXCLUDE, byte, 1)):
        return True
    return bool(borrower.is_visible and borrower.start and procfs.start_of(borrower.pid) == borrower.start)


def wait(fd: int, byte: int, borrower: Borrower, end: float | None) -> bool:
    """Wait until the process has ended, or until `end` (None: no limit); return whether it has.

    `RuntimeError` if it is this process.
    """

    def has_ended() -> bool:
        if not is_running(fd, byte, borrower):
            return True
        if borrower.is_visible and borrower.pid == os.getpid():
            raise RuntimeError("`ipcio mutex run` has acquired this mutex for this process already")
        return False

    return wait_until(has_ended, end)
