"""Who holds a name: a count that the kernel keeps, in file locks.

The rules, on an object in a directory that a file system backs (``/dev/shm``):

* An object of ours carries the mark, its sticky bit.  Whatever has no mark is
  foreign or persistent and is left alone.
* Every handle holds ``flock(LOCK_SH)`` on an open file description of its own,
  its *share*.  The kernel drops it with the last copy of the description: at
  close, at exit, at SIGKILL, in forked children too.
* So nobody holds the object exactly if ``LOCK_EX`` can be had.  Whoever gets it
  finds the object dead, is alone with it, and removes the name.

A share is on a description that nothing else uses.  Memory must be mapped
through another one, for a mapping keeps its description, and with it the lock,
until the last view of it is gone.

Every function here takes the step from "looked" to "done" under a lock on the
object itself; the races that remain open between two system calls are closed by
looking again afterwards and are described where that happens.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import stat
import time
from typing import TYPE_CHECKING

from ipcio._forklock import turn

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KEEP", "MARK", "PROBE", "Share", "attempts", "bury", "bury_dead", "is_marked", "join", "remove", "take"]

MARK = stat.S_ISVTX  # on an object that lives as long as its shares
KEEP = stat.S_ISGID  # on a persistent one: made by ipcio, removed by unlink only

# Opening must not follow a link, wait for a FIFO's other end or reach a child.
PROBE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_SHARED = fcntl.LOCK_SH | fcntl.LOCK_NB
_EXCLUSIVE = fcntl.LOCK_EX | fcntl.LOCK_NB

_PATIENCE = 2.0  # seconds; a reaper needs microseconds


class Share:
    """This handle's part in keeping a name alive."""

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd
        _shares.add(self)

    def give_up(self) -> None:
        """Close the share; the last one takes the name with it.

        Trying for the exclusive lock on our own description would be wrong twice:
        a forked child has that description too and must go on holding, and a failed
        upgrade loses the lock.  So the question is asked through a fresh one.
        """
        with turn:
            fd, self._fd = self._fd, -1
            if fd < 0:
                return
            _shares.discard(self)
            try:
                fresh = os.open(self._path, PROBE)
            except OSError:  # no such name any more, or nothing that was ours
                os.close(fd)
                return
            try:
                os.close(fd)
                bury(self._path, fresh)
            except PermissionError:  # dead, and in a directory of somebody else: its owner's to remove
                pass
            finally:
                os.close(fresh)


_shares: set[Share] = set()


@atexit.register
def _give_up_all() -> None:
    # Handles still open when the interpreter ends.  multiprocessing's children and
    # os._exit skip this; the kernel drops their locks and the next call cleans up.
    for share in list(_shares):
        share.give_up()


def take(path: str, source: str) -> Share:
    """Take the first share in an object that has no name yet and will be called `path`.

    `source` is a path by which the maker can open it meanwhile.
    """
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    if not _lock(fd, _SHARED):
        os.close(fd)
        raise BlockingIOError(errno.EAGAIN, "another program locks the object in the making", path)
    return Share(path, fd)


def join(path: str, info: os.stat_result) -> Share | None:
    """Take a share in the marked object that was found under `path`.

    None: things moved under us; open again what is there now.  (A dead object is
    removed, and opening again tells.)  One that cannot be removed is a
    `FileNotFoundError`, too.
    """
    fd = os.open(path, PROBE)
    try:
        try:
            if bury(path, fd):
                return None
        except PermissionError:  # dead, and its owner's to remove
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
        # Somebody holds it.  Being refused now means that the holder is burying it.
        # Once we are in, it must still have a name: nobody can bury it any more, but
        # it may have happened before our lock.
        if _lock(fd, _SHARED):
            held = os.fstat(fd)
            if held.st_ino == info.st_ino and held.st_nlink:
                share, fd = Share(path, fd), -1
                return share
        return None
    finally:
        if fd >= 0:
            os.close(fd)


def bury_dead(path: str) -> bool:
    """Remove what the dead left under `path`; return whether the name is free now.

    Raises `PermissionError` for a dead object that belongs to somebody else.
    """
    for _ in attempts(path):
        try:
            fd = os.open(path, PROBE)
        except FileNotFoundError:
            return True
        except PermissionError:
            _refuse_if_dead(path)
            return False
        except OSError:  # a link, a socket: not one of ours
            return False
        try:
            if not is_marked(os.fstat(fd)):
                return False
            if bury(path, fd):
                continue  # somebody may have been quicker with a new one
            if _lock(fd, _SHARED):
                # There are shares beside ours: it lives.  But ours may have kept the last
                # closer from the exclusive lock just now, so it is on us to try again.
                if bury(path, fd):
                    continue
                return False
            # Neither: another process is burying it.  Again.
        finally:
            os.close(fd)
    raise AssertionError("unreachable")


def remove(path: str) -> None:
    """Remove the name now, whoever holds the object; `FileNotFoundError` if only the dead did.

    A lock is held meanwhile, so that no reaper of this object is between its look
    at the name and its own removal, which might then hit a newcomer.
    """
    for _ in attempts(path):
        try:
            fd = os.open(path, PROBE)
        except FileNotFoundError:
            raise
        except OSError:
            os.unlink(path)  # not one of ours; the system says what it thinks of it
            return
        try:
            # Dead: opening again tells that the name is free.  No lock to be had: a reaper.
            if is_marked(os.fstat(fd)) and (bury(path, fd) or not _lock(fd, _SHARED)):
                continue
            os.unlink(path)
            return
        finally:
            os.close(fd)


def attempts(path: str) -> Iterator[None]:
    """Loop while another process is in mid-step; give up on one that keeps us out on purpose."""
    give_up = 0.0
    while True:
        yield
        now = time.monotonic()
        if not give_up:
            give_up = now + _PATIENCE
        elif now > give_up:
            raise BlockingIOError(
                errno.EAGAIN, "another program keeps an exclusive lock on the object", os.path.basename(path)
            )
        else:
            time.sleep(0.0002)


def is_marked(info: os.stat_result) -> bool:
    """Whether an object lives under our rules."""
    return bool(info.st_mode & MARK) and stat.S_ISREG(info.st_mode)


def bury(path: str, fd: int) -> bool:
    """If nobody holds the object that `path` meant when `fd` was opened, remove the name; return whether.

    The exclusive lock stays with `fd`: nobody can join until it is closed, and who
    waited to join then finds that the name is gone.  An object without our mark is
    left alone (only where a name changed hands can one get here).
    """
    if not _lock(fd, _EXCLUSIVE):
        return False
    info = os.fstat(fd)
    if not is_marked(info):
        return False
    try:
        if os.path.samestat(os.stat(path, follow_symlinks=False), info):
            os.unlink(path)
    except FileNotFoundError:
        pass
    return True


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind)
    except BlockingIOError:
        return False
    return True


def _refuse_if_dead(path: str) -> None:
    """For an object that we may not even open: `PermissionError` if it is dead.

    Who may not open may still read the kernel's list of locks.
    """
    try:
        info = os.stat(path, follow_symlinks=False)
        with open("/proc/locks", encoding="ascii") as table:
            key = f" {os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino} "
            alive = any(" FLOCK " in line and key in line for line in table)
    except (FileNotFoundError, PermissionError):
        return
    if is_marked(info) and not alive:
        raise PermissionError(
            errno.EACCES, "a dead object that this user may not open has the name; its owner can remove it", path
        )
