"""The removal of a name on purpose: `unlink`, also while the object is in use.

A process that removes an orphaned object has an exclusive lock on it, which no other process can
have at the same time (`ipcio._posix.lifetime`).  The name of an object in use is removed under a
shared lock.  That keeps the first kind of removal away but not another one of the second
kind: of two, the slower one would remove whatever has come to have the name since.
So `unlink`, and a writer that replaces an object, also lock the directory exclusively, from their
look at the name to its removal (`directory_lock`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from _thread import get_ident

from ipcio._forklock import fork_lock
from ipcio._light import contextmanager
from ipcio._posix import forks, lifetime, namespace
from ipcio._typing import TYPE_CHECKING
from ipcio._unowned import HeldByCall, close_listed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def remove(path: str, ready: Callable[[int, os.stat_result], bool] | None = None) -> None:
    """Remove the name, also while the object is in use; `FileNotFoundError` if it is orphaned or does not exist.

    `ready` is that of `remove_once`.  The caller does not hold `fork_lock`: this may wait for other processes.
    """
    for _ in lifetime.retry_while_busy(path):
        with directory_lock(path):
            if remove_once(path, ready):
                return


def remove_once(path: str, ready: Callable[[int, os.stat_result], bool] | None = None) -> bool:
    """Make one attempt at `remove`, under `directory_lock`; return False if another process was in the way.

    `ready` is called right before the removal, with the open object, which has a shared lock
    then.  If it returns False, so does this function, and the name stays.
    """
    with HeldByCall() as found:
        try:
            found.open_by(os.open, path, lifetime.PROBE)
            # An orphaned object is removed, and the next attempt finds the name free.  If the shared lock
            # is refused, another process is removing the name.
            if namespace.is_managed(os.fstat(found.fd)) and (
                lifetime.remove_if_orphan(path, found.fd) or not lifetime.try_lock(found.fd, lifetime.SHARED)
            ):
                return False
            info = os.fstat(found.fd)
            if not lifetime.path_means(path, info) or (ready is not None and not ready(found.fd, info)):
                return False
            os.unlink(path)
        except OSError as error:
            cannot_open = found.fd < 0 and (
                error.errno in {*lifetime.NOT_OURS, errno.EACCES} or lifetime.is_special(path)
            )
            if not cannot_open:
                raise
            os.unlink(path)  # ipcio did not make it; the kernel decides whether it may be removed
        finally:
            with fork_lock:
                found.close_later()  # freed after the directory is unlocked: it may be large
    return True


@contextmanager
def directory_lock(path: str, *, required: bool = False) -> Generator[None, None, None]:
    """Hold the lock of the directory of `path`, so that no other ipcio program removes a name there.

    Any user may lock a directory that they can read.  If another process keeps it locked for two
    seconds, the block runs without the lock, and later blocks do not wait again until the
    directory has been free once.  If the lock is `required`, a `BlockingIOError` is raised instead.
    The block also runs without the lock where the directory may not be read or a sandbox
    forbids the lock.

    The caller does not hold `fork_lock`, and the block is short.
    """
    global _is_kept_locked  # noqa: PLW0603 -- a fact about the machine
    directory = os.path.dirname(path)
    locked = False
    give_up = 0.0
    me = get_ident(), directory
    if me in _locked_directories:  # a signal handler, or the garbage collector, has interrupted such a block
        yield
        return
    with HeldByCall() as found:
        try:
            found.open_by(os.open, directory, _DIRECTORY)
            while not (locked := lifetime.try_lock(found.fd, lifetime.EXCLUSIVE)):
                now = time.monotonic()
                give_up = give_up or now + lifetime.PATIENCE
                if _is_kept_locked or now > give_up:
                    break
                time.sleep(lifetime.PAUSE)
        except PermissionError:  # this process cannot lock it
            _is_kept_locked = False
        else:
            _is_kept_locked = not locked
        if required and _is_kept_locked:
            raise BlockingIOError(errno.EAGAIN, "another process keeps the directory locked", directory)
        try:
            _locked_directories.add(me)
            yield
        finally:
            _locked_directories.discard(me)
            try:
                if locked:
                    # To close it is not enough: a child that another thread is just starting has a copy.
                    lifetime.try_lock(found.fd, fcntl.LOCK_UN)
            finally:
                close_listed()  # closes what `remove_once` has listed


_is_kept_locked = False  # whether the last wait was in vain; the directory has not been free since

_locked_directories: set[tuple[int, str]] = set()  # threads, and the directory that each has locked


def _forget_other_threads() -> None:
    _locked_directories.intersection_update([key for key in _locked_directories if key[0] == get_ident()])


forks.in_child.append(_forget_other_threads)
