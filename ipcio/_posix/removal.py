"""The removal of a name on purpose, also while the object is in use.

No lock on the object keeps another removal out, so it also holds an exclusive lock on the
directory from its look at the name to its ``unlink`` (`directory_lock`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from _thread import get_ident

from ipcio._forklock import Halfway, clear_away, fork_lock
from ipcio._posix import forks, lifetime, namespace
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def remove(path: str, ready: Callable[[int, os.stat_result], bool] | None = None) -> None:
    """Remove the name now, also while the object is in use; `FileNotFoundError` if it was orphaned or is not there.

    `ready` is that of `remove_once`.  Call it without holding `fork_lock`: it may have to wait for other processes.
    """
    for _ in lifetime.retry_while_busy(path):
        with directory_lock(path):
            if remove_once(path, ready):
                return


def remove_once(path: str, ready: Callable[[int, os.stat_result], bool] | None = None) -> bool:
    """Make one attempt at `remove`, under `directory_lock`; False: another process is in mid-step, try again.

    A lock on the object keeps its reapers away meanwhile; between their look at the
    name and their ``unlink`` it would otherwise change hands.  `ready` is called with the
    object open and under that lock, right before; False: try again.
    """
    with Halfway() as look:
        try:
            look.open_file(path, lifetime.PROBE)
            # Dead: opening again tells that the name is free.  No lock to be had: a reaper.
            if namespace.is_managed(os.fstat(look.fd)) and (
                lifetime.remove_if_orphan(path, look.fd) or not lifetime.try_lock(look.fd, lifetime.SHARED)
            ):
                return False
            info = os.fstat(look.fd)
            if not lifetime.path_means(path, info) or (ready is not None and not ready(look.fd, info)):
                return False
            os.unlink(path)
        except OSError as error:
            refused = look.fd < 0 and (error.errno in {*lifetime.NOT_OURS, errno.EACCES} or lifetime.is_special(path))
            if not refused:
                raise
            os.unlink(path)  # not one of ours; the system says what it thinks of it
        finally:
            with fork_lock:
                look.put_away()  # it is freed when the directory is
    return True


@contextlib.contextmanager
def directory_lock(path: str, *, required: bool = False) -> Generator[None, None, None]:
    """Hold the lock of the directory of `path`, so that no other ipcio program removes a name there.

    Call it without holding `fork_lock`.  Any user may lock a directory that they can
    read.  If another process keeps it locked for two seconds, the block runs without the lock,
    and later blocks do not wait again until the directory has been free once.  If the lock is
    `required`, that is a `BlockingIOError` instead.  The block also runs without the lock
    where the directory may not be read or a sandbox forbids the lock.  The block must be short.
    """
    global _kept_out  # noqa: PLW0603 -- a fact about the machine
    directory = os.path.dirname(path)
    locked = False
    give_up = 0.0
    me = get_ident(), directory
    if me in _locked_directories:  # a signal handler, or the garbage collector, calls in such a block
        yield
        return
    with Halfway() as door:
        try:
            door.open_file(directory, _DIRECTORY)
            while not (locked := lifetime.try_lock(door.fd, lifetime.EXCLUSIVE)):
                now = time.monotonic()
                give_up = give_up or now + lifetime.PATIENCE
                if _kept_out or now > give_up:
                    break
                time.sleep(lifetime.PAUSE)
        except PermissionError:  # this process cannot lock it
            _kept_out = False
        else:
            _kept_out = not locked
        if required and _kept_out:
            raise BlockingIOError(errno.EAGAIN, "another process keeps the directory locked", directory)
        try:
            _locked_directories.add(me)
            yield
        finally:
            _locked_directories.discard(me)
            try:
                if locked:
                    # Closing is not enough: a child that another thread is just starting has a copy.
                    lifetime.try_lock(door.fd, fcntl.LOCK_UN)
            finally:
                clear_away()  # what was removed may be large


_locked_directories: set[tuple[int, str]] = set()  # threads, and the directories that they have locked


def _forget_other_threads() -> None:
    _locked_directories.intersection_update([key for key in _locked_directories if key[0] == get_ident()])


forks.in_child.append(_forget_other_threads)

_kept_out = False  # whether the last wait was in vain, and the directory has not been free since
