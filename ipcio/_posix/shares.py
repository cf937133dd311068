"""The share of a handle: what keeps a name as long as the handle is open, and what happens when it is closed.

The rules that a share follows are those of `ipcio._posix.lifetime`.  A handle has two
descriptors of its object, each of an open file description of its own:

* The lock is on one of them, and that one is used for nothing else.
* The other one is the handle's.  It is mapped and given to the user, and no lock of ours is on it.

So a handle that is being closed can ask through its own descriptor whether its share was the last
one.  The answer "no" can be wrong: a child process that is just being started has a copy of
the lock until its ``exec``.  Therefore such objects are asked about once more later (`recheck`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from itertools import starmap

from ipcio._forklock import acquiring_fork_lock, fork_lock, release_fork_lock
from ipcio._light import ref, suppress
from ipcio._posix import exits, forks, lifetime, namespace
from ipcio._typing import TYPE_CHECKING
from ipcio._unowned import HeldByCall

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SHORTAGE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}

_AGAIN = os.O_RDONLY | os.O_CLOEXEC

_START_OF_A_CHILD = 0.1  # seconds that a process may need from its fork to its exec
_MOST_RECHECKS = 64
_MOST_PASSED = 200  # descriptors for one child of multiprocessing's fork server, which allows 256


class Share:
    """One handle's share in an object, and the owner of both descriptors.

    It ends with the last reference to it at the latest, whatever becomes of the handle or of
    the call that was to make one.
    """

    __slots__ = ("__weakref__", "_fd", "_info", "_is_lent", "_lock", "_path", "_self", "_taker")

    _self: ref[Share]  # the entry in `_shares` for the lock's descriptor, as long as that is ours
    _info: os.stat_result  # of the object
    _taker: object  # the process that took the share

    def __init__(self, path: str) -> None:
        """Prepare a share in the object that has, or will have, the name `path`; nothing is locked yet."""
        self._path = path
        self._lock = -1  # the descriptor that the lock is on
        self._fd = -1  # the handle's descriptor
        self._is_lent = False  # whether the user has got the handle's descriptor

    def take(self, fd: int, again: str, info: os.stat_result) -> bool:
        """Take the first share in the new object open as `fd`, which the share owns from then on.

        `again` is a path by which the object can be opened once more.  Return False if another
        process has an exclusive lock on it.
        """
        lock = -1
        try:
            for lock in starmap(os.open, ((again, _AGAIN),)):  # `ipcio._record.calling`, written out for speed
                if not lifetime.try_lock(lock, lifetime.SHARED):
                    return False
                self._hold(lock, fd, info)
                return True
        finally:
            if lock >= 0 and self._lock != lock:
                os.close(lock)
        raise AssertionError("unreachable")

    def join(self, fd: int, opened: os.stat_result) -> bool:
        """Take a share in the managed object that was found under the path and is open as `fd`, which is ours then.

        Return False if the path has come to mean something else: the caller opens it again.
        An orphaned object is removed, and False is returned, so the caller finds the name
        free.  If this user may not remove it, that is a `FileNotFoundError`.
        """
        lock = -1
        try:
            for lock in starmap(os.open, ((self._path, lifetime.PROBE),)):  # as in `take`
                is_orphan = lifetime.try_lock(lock, lifetime.EXCLUSIVE)  # what a sandbox may forbid is not caught here
                try:
                    if is_orphan and lifetime.remove_locked(self._path, lock):
                        return False
                except PermissionError:  # only its owner may remove it
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._path) from None
                # The object is in use.  If the shared lock is refused, another process is removing the
                # name.  If it is granted, no process can remove the name any longer; but it may have been
                # removed between our open and our lock, so the object must still have a name.
                # (If a process is killed between its exclusive lock and its unlink, we can join the orphan
                # that it leaves: race 7 in docs/design.md.  To ask a second time would not prevent that, and
                # would cost a sixth of every attach.)
                if not lifetime.try_lock(lock, lifetime.SHARED):
                    return False
                info = os.fstat(lock)
                if info.st_nlink and info.st_ino == opened.st_ino and info.st_dev == opened.st_dev:
                    self._hold(lock, fd, info)
                    return True
                return False
        except OSError as error:
            if lock < 0 and error.errno in {errno.ENOENT, errno.EACCES, *lifetime.NOT_OURS}:
                return False
            raise
        finally:
            if lock >= 0 and self._lock != lock:
                os.close(lock)
        raise AssertionError("unreachable")

    def _hold(self, lock: int, fd: int, info: os.stat_result) -> None:
        self._info = info
        self._taker = forks.this_process()
        exits.watch_workers()
        self._self = _shares[lock] = ref(self)
        self._fd = fd
        self._lock = lock

    def unlock_and_disown(self) -> None:
        """Release the lock of a persistent object.  The handle's descriptor stays open and is the caller's again."""
        with fork_lock:
            lock, self._lock = self._lock, -1
            self._fd = -1
            del _shares[lock]
            os.close(lock)

    def owns(self, fd: int) -> bool:
        """Whether `release` closes `fd`: from `take` or `join` on, even if Ctrl-C has interrupted them."""
        return self._lock >= 0 and self._fd == fd

    def has_closed(self, fd: int) -> bool:
        """Whether `release` has closed `fd`, as it does when the garbage collector comes to the share first."""
        return self._lock < 0 and self._fd == fd

    def lend(self, fd: int) -> int:
        """Return the handle's own descriptor: the user may do anything to it, for no lock of ours is on it."""
        self._is_lent = True
        return fd

    def pass_to(self, child: Any) -> Any:
        """Have the child inherit the lock; return what multiprocessing sends to it."""
        if not hasattr(child, "DupFd") or (child.method == "forkserver" and len(child._fds) >= _MOST_PASSED):
            return None
        return child.DupFd(child.duplicate_for_child(self._lock))

    def pass_to_program(self) -> None:
        """Make the program inherit the lock that this process becomes."""
        os.set_inheritable(self._lock, True)

    def release(self, close: Callable[[int], None] = os.close) -> None:
        """Release the lock and close both descriptors, the handle's by `close`; remove the name with the last share.

        Only the first call does anything.  A program may have closed all its descriptors, as daemons
        do, and their numbers may mean other files by now.  Those are left alone.
        """
        for _ in acquiring_fork_lock:
            try:
                lock, self._lock = self._lock, -1
                if lock < 0:
                    return
                fd = self._fd
                try:
                    is_ours = _shares.get(lock) is self._self  # otherwise the number is another share's by now
                    if is_ours:
                        del _shares[lock]
                    if not is_ours or not self.is_open(lock):
                        lock = -1
                    if (self._is_lent or lock < 0) and (fd in _shares or not self.is_open(fd)):
                        fd = -1
                finally:
                    try:
                        if lock >= 0:
                            os.close(lock)
                    finally:
                        try:
                            self._remove_if_last(fd if lock >= 0 else -1)
                        finally:
                            if fd >= 0:
                                close(fd)
            finally:
                release_fork_lock()
            break

    def close_copy(self) -> None:
        """In a forked child: close the copy of the lock, for the call that was to make a handle goes on in the parent.

        The parent may have closed that handle by now.  Then the copy was the last share.
        """
        lock, self._lock = self._lock, -1
        if lock >= 0:
            _shares.pop(lock, None)
            os.close(lock)
            _remove_if_orphan_at(self._path)

    def _remove_if_last(self, fd: int) -> None:
        # No lock of ours is on the handle's description, so it can ask.  But a forked process has
        # the same description, and two processes that ask by one do not exclude each other.
        if fd < 0 or self._taker is not forks.this_process():
            if not _remove_if_orphan_at(self._path):
                _recheck_later(self._path)
            return
        if not lifetime.try_lock(fd, lifetime.EXCLUSIVE):
            _recheck_later(self._path)
            return
        removed = False
        try:
            removed = lifetime.remove_locked(self._path, fd, self._info)
        except PermissionError:  # only its owner may remove it
            pass
        finally:
            if not removed:  # a view of the memory keeps the description, and would keep the lock with it
                fcntl.flock(fd, fcntl.LOCK_UN)

    def is_open(self, fd: int) -> bool:
        """Whether the descriptor still means the object."""
        try:
            now, opened = os.fstat(fd), self._info
            return now.st_ino == opened.st_ino and now.st_dev == opened.st_dev
        except OSError as error:
            return error.errno != errno.EBADF

    def __del__(self) -> None:
        try:
            if self._lock >= 0:
                self.release()
        except Exception:  # noqa: BLE001, S110 -- Python would print what a finalizer raises
            pass


_shares: dict[int, ref[Share]] = {}  # by the descriptor that the lock is on


def _remove_if_orphan_at(path: str) -> bool:
    """Remove the object under `path` if it is orphaned, asking by a new description; False if it is in use."""
    with HeldByCall() as found:
        try:
            found.open_by(os.open, path, lifetime.PROBE)
        except OSError as error:
            return error.errno not in _SHORTAGE  # otherwise the name is gone, or means no object of ours
        try:
            return lifetime.remove_if_orphan(path, found.fd) or not namespace.is_managed(os.fstat(found.fd))
        except PermissionError:  # only its owner may remove it
            return True


# -- objects that seemed to be in use ------------------------------------------

to_recheck: dict[str, float] = {}
"""Paths of objects that seemed to be in use when a share in them ended here, and when that was."""

forks.in_child.append(to_recheck.clear)


def _recheck_later(path: str) -> None:
    if len(to_recheck) >= _MOST_RECHECKS:
        del to_recheck[next(iter(to_recheck))]
    to_recheck[path] = time.monotonic()


def recheck(wait: float = _START_OF_A_CHILD) -> None:
    """Ask once more about objects that have been in `to_recheck` for `wait` seconds; remove what is orphaned."""
    latest = time.monotonic() - wait
    for path, when in list(to_recheck.items()):
        if when <= latest:
            to_recheck.pop(path, None)
            _remove_if_orphan_at(path)


# -- the end of the process ----------------------------------------------------


def _release_all() -> None:
    for known in list(_shares.values()):
        share = known()
        if share is not None:
            with suppress(OSError):
                share.release()
    recheck(0)


exits.at_the_end(_release_all)
