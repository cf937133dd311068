"""Whether an object is in use or orphaned: the kernel keeps the count, in file locks.

The rules, for an object that is a file (in ``/dev/shm``) or has a file beside it
(`ipcio._posix.companions`):

* An object that exists as long as it has handles is *managed*: its file has a mark
  (`ipcio._posix.namespace`).  A file without the mark is persistent or foreign, and nothing
  here removes it.
* Every handle holds ``flock(LOCK_SH)`` on an open file description of the file: its *share*.  The
  kernel releases the lock with the last copy of the description: at close, at exit, after SIGKILL.
* So a managed object is *orphaned* exactly when ``LOCK_EX`` is granted.  The process that gets it
  removes the name.  Meanwhile no other process can take a share.

**The description of a share is used for nothing else.**  Memory is never mapped through it,
because a mapping keeps its description, and the lock with it, until the last view of the
memory is released.  The lock is never converted or released explicitly, because a forked
process has the same description, and ``fork`` in C does not run Python's hooks, so neither
process can know of the other.  The description is only closed.  Whether that was the last share
is asked through another description (`ipcio._posix.shares`).

**Why one asks twice.**  Between a look and the step that follows from it, other processes go on.
So the step is made under a lock on the object itself, and what may have happened before
that lock was granted is checked again under it:

* With the exclusive lock, the path must still mean the locked file (`remove_locked`).
* With the shared lock, the file must still have a name (`Share.join`).
* A shared lock that is taken only to look may itself have kept the last close from the exclusive
  lock.  So the process that looked asks for the exclusive lock once more (`_is_in_use`).

docs/design.md lists the races, and tests/support/model.py searches all orders of the calls.
`unlink` removes the names of objects in use as well: see `ipcio._posix.removal`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
import time
from itertools import repeat

from ipcio._posix import procfs
from ipcio._posix.namespace import is_managed
from ipcio._typing import TYPE_CHECKING
from ipcio._unowned import HeldByCall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROBE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""How a name is opened: without following a link, waiting for the other end of a FIFO, or letting a child inherit."""

NOT_OURS = {errno.ELOOP, errno.ENXIO, errno.ENODEV}  # errors from opening a link, a socket, a device

SHARED = fcntl.LOCK_SH | fcntl.LOCK_NB
EXCLUSIVE = fcntl.LOCK_EX | fcntl.LOCK_NB

PATIENCE = 2.0  # seconds to wait for another process; its step takes microseconds
PAUSE = 0.0002  # seconds between two attempts
_ATTEMPTS = 4  # without waiting: to make an orphan readable, to remove it, to find its name free; one to spare

_NAMES_NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


# -- an orphaned object is removed ---------------------------------------------


before_removal: list[Callable[[str, int, os.stat_result], bool]] = []
"""Called with path, descriptor and status of an orphaned object: they remove its other parts.

They return True if they have removed its names, too.
"""


def try_lock(fd: int, kind: int) -> bool:
    """Ask for a lock on the open file, or unlock it, without waiting; return whether it was granted."""
    try:
        fcntl.flock(fd, kind)
    except BlockingIOError:
        return False
    return True


def remove_if_orphan(path: str, fd: int, known: os.stat_result | None = None) -> bool:
    """Remove the object that was found under `path` and is open as `fd` if it is orphaned; return whether it was.

    The exclusive lock stays with `fd`: until that is closed, no process can take a share, and a process
    that tries to finds afterwards that the name is gone.  An object that is not managed is
    left alone: `path` may mean one by now.  `known` is the status of the object, if the caller has it.
    """
    return try_lock(fd, EXCLUSIVE) and remove_locked(path, fd, known)


def remove_locked(path: str, fd: int, known: os.stat_result | None = None) -> bool:
    """Do as `remove_if_orphan`, with the exclusive lock already granted."""
    there = known and _status_at(path, known)  # usually the one system call that is needed
    info = there or os.fstat(fd)
    if not is_managed(info):
        return False
    for remove_parts in before_removal:
        if remove_parts(path, fd, info):
            return True
    if there or path_means(path, info):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
    return True


def path_means(path: str, info: os.stat_result) -> bool:
    """Whether `path` means the object with the status `info`."""
    return _status_at(path, info) is not None


def _status_at(path: str, info: os.stat_result) -> os.stat_result | None:
    """Return the present status of the object with the status `info`, None if `path` does not mean it."""
    try:
        there = os.lstat(path)
    except OSError as error:
        if error.errno in _NAMES_NOTHING:
            return None
        raise
    return there if there.st_ino == info.st_ino and there.st_dev == info.st_dev else None


# -- a name is freed -----------------------------------------------------------


def free_name(path: str, *, patient: bool = True, locked: Callable[[], dict[str, bool]] = procfs.flocks) -> bool:
    """Remove the object under `path` if it is orphaned; return whether the name is free now.

    A `PermissionError` says that it is orphaned and only another user may remove it.  A `BlockingIOError`
    says that another process keeps an exclusive lock on it: after two seconds, or at once if not `patient`.
    `locked` returns the kernel's list of locks, for an object of another user that may not be opened.
    """
    for _ in retry_while_busy(path, patient=patient):
        with HeldByCall() as found:
            try:
                found.open_by(os.open, path, PROBE)
            except FileNotFoundError:
                return not is_special(path)
            except PermissionError:
                if not _make_orphan_readable(path, locked):
                    return False
                continue
            except OSError as error:
                if error.errno in NOT_OURS:
                    return False
                raise
            if _is_in_use(path, found.fd) if patient else _may_be_in_use(path, found.fd, locked):
                return False
    raise AssertionError("unreachable")


def _is_in_use(path: str, fd: int) -> bool:
    """Whether the object that was found under `path` and is open as `fd` stays: it has handles, or is not managed.

    If not, the caller opens the name again.
    """
    info = os.fstat(fd)
    if not is_managed(info):
        return True
    if remove_if_orphan(path, fd):
        return False
    # Another process has a lock.  If we are refused the shared one, that process is removing the name.
    if not try_lock(fd, SHARED):
        return False
    # Other processes have shared locks, too.  But one of them may have closed the last handle just now
    # and been refused the exclusive lock because of ours: so we ask for it in its place.  And if the name
    # has been removed meanwhile, the other locks are those of processes that look, as we do.
    return not remove_if_orphan(path, fd) and path_means(path, info)


def _may_be_in_use(path: str, fd: int, locked: Callable[[], dict[str, bool]]) -> bool:
    """Do as `_is_in_use` for a process that looks at all objects, and so must disturb no other process.

    It asks for the exclusive lock only.  A shared one, even for a moment, would make an object look as if it
    were in use whose last handle has just been closed.
    """
    if remove_if_orphan(path, fd):
        return False
    info = os.fstat(fd)
    if is_managed(info):
        try:
            is_kept_locked = locked().get(procfs.file_key(info), False)
        except OSError:
            is_kept_locked = False
        if is_kept_locked:  # for longer than the step of a removal, if it is still so at the last attempt
            return False
    return True


def retry_while_busy(name: str, *, patient: bool = True) -> Iterator[None]:
    """Yield until the caller ends its loop, with `wait_a_moment` in between.

    If not `patient`, there is no wait, and as many rounds as the caller needs if no other process is in the way.
    """
    if patient:
        since = None
        while True:
            yield
            since = wait_a_moment(name, since)
    yield from repeat(None, _ATTEMPTS)
    raise _kept_locked(name)


def wait_a_moment(name: str, since: float | None) -> float:
    """Wait until another process may have made its step; return when the caller's first wait began, to be passed next.

    The first wait takes no time.  `BlockingIOError` if another process keeps the caller waiting for two seconds.
    """
    now = time.monotonic()
    if since is None:
        return now
    if now > since + PATIENCE:
        raise _kept_locked(name)
    time.sleep(PAUSE)
    return since


def _kept_locked(path: str) -> BlockingIOError:
    message = "another program keeps an exclusive lock on the object"
    return BlockingIOError(errno.EAGAIN, message, os.path.basename(path))


# -- what cannot be opened -----------------------------------------------------


def is_special(path: str) -> bool:
    """Whether `path` means something other than a file; some devices, when opened, say that they do not exist."""
    try:
        return not stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _make_orphan_readable(path: str, locked: Callable[[], dict[str, bool]]) -> bool:
    """If the object under `path`, which may not be opened, is orphaned, let its owner read it; False if it stays.

    Without opening it, the kernel's list of locks shows whether it is in use.  True also means that it
    is gone.  Raises `PermissionError` for an orphaned object of another user.
    """
    try:
        info = os.stat(path, follow_symlinks=False)
        is_ours = info.st_uid == os.geteuid()
        # Before we change the mode of an object of ours, we need the present list and not an earlier one.
        in_use = procfs.file_key(info) in (procfs.flocks() if is_ours else locked())
    except FileNotFoundError:  # the object is gone, or the system has no such list
        return not os.path.lexists(path)
    except PermissionError:
        return False
    if in_use or not is_managed(info):
        return False
    if not is_ours:
        raise PermissionError(
            errno.EACCES, "an orphaned object of another user has the name; its owner or root can remove it", path
        )
    make_readable(path, info)
    return True


# With /proc/self/fd, which other systems that have O_PATH lack.
_O_PATH: int = getattr(os, "O_PATH", 0) if sys.platform == "linux" else 0


def make_readable(path: str, info: os.stat_result) -> None:
    """Let the owner read the object with the status `info`, unless `path` means another one by now."""
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
