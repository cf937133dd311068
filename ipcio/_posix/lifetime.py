"""Who holds a name: a count that the kernel keeps, in file locks.

The rules, on an object in a directory that a file system backs (``/dev/shm``):

* An object of ours carries the mark, its sticky bit.  Whatever has no mark is
  foreign or persistent and is left alone.
* Every handle holds ``flock(LOCK_SH)`` on an open file description, its *share*.  The
  kernel drops it with the last copy of the description: at close, at exit, at SIGKILL.
* So nobody holds the object exactly if ``LOCK_EX`` can be had.  Whoever gets it
  finds the object dead, is alone with it, and removes the name.

The description of a share is used for nothing else.  Memory is never mapped through it,
because a mapping keeps its description, and with it the lock, until the last view of the
memory is gone.  The lock is never converted or released explicitly, because a forked
process has the same description; `fork(2)` in C does not run Python's hooks, so neither
process can know of the other.  The description is only closed, and the question whether
that was the last share is asked through another one (`ipcio._posix.shares`).

Every function here takes the step from "looked" to "done" under a lock on the
object itself; what may happen before the lock is had is looked at again afterwards,
and described there.  An explicit removal takes the name of an object that is in use: see
`ipcio._posix.removal`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from itertools import repeat

from ipcio._posix import procfs
from ipcio._posix.namespace import is_managed
from ipcio._typing import TYPE_CHECKING
from ipcio._unowned import HeldByCall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Opening must not follow a link, wait for a FIFO's other end or reach a child.
PROBE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

NOT_OURS = {errno.ELOOP, errno.ENXIO, errno.ENODEV}  # what opening a link, a socket, a device says

_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}

SHARED = fcntl.LOCK_SH | fcntl.LOCK_NB
EXCLUSIVE = fcntl.LOCK_EX | fcntl.LOCK_NB

_OWN_STEPS = 4  # to make what is dead readable, to remove it, to look again; one to spare
PATIENCE = 2.0  # seconds; a reaper needs microseconds
PAUSE = 0.0002  # seconds between two attempts


def free_name(path: str, *, patient: bool = True, locked: Callable[[], dict[str, bool]] = procfs.flocks) -> bool:
    """Remove what the dead left under `path`; return whether the name is free now.

    Raises `PermissionError` for an orphaned object of another user, and `BlockingIOError` if
    another process keeps an exclusive lock on it: at once if not `patient`.  `locked` gives
    the kernel's list of locks for an object of another user that may not be opened.
    """
    for _ in retry_while_busy(path, patient=patient):
        with HeldByCall() as look:
            try:
                look.open_file(path, PROBE)
            except FileNotFoundError:
                return not is_special(path)
            except PermissionError:
                if not _unlock_dead(path, locked):
                    return False
                continue
            except OSError as error:
                if error.errno in NOT_OURS:
                    return False
                raise
            if _is_held(path, look.fd) if patient else _looks_held(path, look.fd, locked):
                return False
    raise AssertionError("unreachable")


def _looks_held(path: str, fd: int, locked: Callable[[], dict[str, bool]]) -> bool:
    """Whether the object found under `path` is in use; if not, look again what is there.

    Nothing is locked that another process could meet with: a share of ours, if only for
    a moment, had an object look alive whose last holder has just closed it.
    """
    if remove_if_orphan(path, fd):
        return False
    info = os.fstat(fd)
    if is_managed(info):
        try:
            kept_out = locked().get(procfs.file_key(info), False)
        except OSError:
            kept_out = False
        if kept_out:
            raise _locked_out(path)
    return True


def _is_held(path: str, fd: int) -> bool:
    """Whether the object found under `path` is to be left alone; if not, look again what is there."""
    if not is_managed(os.fstat(fd)):
        return True
    if remove_if_orphan(path, fd) or not try_lock(fd, SHARED):  # no lock to be had: another process is burying it
        return False
    # There are shares beside ours.  But ours may have kept the last closer from the
    # exclusive lock just now, so it is on us to try again.  And the others may be of
    # those who look, as we do, at an object that somebody has buried meanwhile.
    return not remove_if_orphan(path, fd) and path_means(path, os.fstat(fd))


def is_special(path: str) -> bool:
    """Whether something is there that is no file.  Some devices, when opened, say that they do not exist."""
    try:
        return not stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def retry_while_busy(name: str, *, patient: bool = True) -> Iterator[None]:
    """Loop while another process is in mid-step; give up on one that keeps us out on purpose.

    If not `patient`, there are as many as we need ourselves where no other process is about.
    """
    if patient:
        give_up = 0.0
        while True:
            yield
            now = time.monotonic()
            if not give_up:
                give_up = now + PATIENCE
            elif now > give_up:
                break
            else:
                time.sleep(PAUSE)
    else:
        yield from repeat(None, _OWN_STEPS)
    raise _locked_out(name)


def _locked_out(path: str) -> BlockingIOError:
    message = "another program keeps an exclusive lock on the object"
    return BlockingIOError(errno.EAGAIN, message, os.path.basename(path))


before_removal: list[Callable[[str, int, os.stat_result], bool]] = []
"""Other parts of the orphaned object that was found under a path and is open; True: its names are gone, too."""


def remove_if_orphan(path: str, fd: int, known: os.stat_result | None = None) -> bool:
    """If nobody holds the object that `path` meant when `fd` was opened, remove the name; return whether.

    The exclusive lock stays with `fd`: nobody can join until it is closed, and who
    waited to join then finds that the name is gone.  An object without our mark is
    left alone (only where a name changed hands can one get here).  `known` is what was
    known of the object before, if anything.
    """
    return try_lock(fd, EXCLUSIVE) and remove_locked(path, fd, known)


def remove_locked(path: str, fd: int, known: os.stat_result | None = None) -> bool:
    """Do so under the exclusive lock."""
    there = known and _there(path, known)  # tells all in one call, as a rule
    info = there or os.fstat(fd)
    if not is_managed(info):
        return False
    for rite in before_removal:
        if rite(path, fd, info):
            return True
    if there or path_means(path, info):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
    return True


def path_means(path: str, info: os.stat_result) -> bool:
    """Whether `path` means the object that `info` is of."""
    return _there(path, info) is not None


def _there(path: str, info: os.stat_result) -> os.stat_result | None:
    """What there is to know now of the object that `info` is of, if `path` means it."""
    try:
        there = os.lstat(path)
    except OSError as error:
        if error.errno in _NOT_THERE:  # any more, or never was
            return None
        raise
    return there if there.st_ino == info.st_ino and there.st_dev == info.st_dev else None


def try_lock(fd: int, kind: int) -> bool:
    """Ask for a lock on the open file, or unlock it, without waiting; return whether it was granted."""
    try:
        fcntl.flock(fd, kind)
    except BlockingIOError:
        return False
    return True


def _unlock_dead(path: str, locked: Callable[[], dict[str, bool]]) -> bool:
    """Make a dead object that its permissions keep us from opening fit to be looked at; False if it lives.

    Who may not open may still read the kernel's list of locks, and an owner may
    change permissions.  Raises `PermissionError` for somebody else's.
    """
    try:
        info = os.stat(path, follow_symlinks=False)
        ours = info.st_uid == os.geteuid()
        # The mode of an object of ours is not changed by what was so a moment ago.
        alive = procfs.file_key(info) in (procfs.flocks() if ours else locked())
    except FileNotFoundError:  # no such name any more; or no such list, and then nobody can tell
        return not os.path.lexists(path)
    except PermissionError:
        return False
    if alive or not is_managed(info):
        return False
    if not ours:
        raise PermissionError(
            errno.EACCES, "an orphaned object of another user has the name; its owner or root can remove it", path
        )
    make_readable(path, info)
    return True


_O_PATH: int = getattr(os, "O_PATH", 0)  # Linux's own


def make_readable(path: str, info: os.stat_result) -> None:
    """Let the owner read the object that `info` is of; what has taken its place under the path stays as it is."""
    mode = stat.S_IMODE(info.st_mode) | stat.S_IRUSR
    if not _O_PATH:
        os.chmod(path, mode, follow_symlinks=False)
        return
    fd = os.open(path, _O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.path.samestat(os.fstat(fd), info):
            os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)
