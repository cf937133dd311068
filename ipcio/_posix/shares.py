"""The share of a handle in the life of a name, and its end.

The rules are those of `ipcio._posix.lifetime`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from weakref import ref

from ipcio._forklock import Halfway, fork_lock
from ipcio._posix import exits, forks, lifetime, namespace
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SHORTAGE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}

_MOMENT = 0.1  # seconds that a process may need from its start to its exec
_MANY = 64  # objects to ask about once more
_PASSED = 200  # descriptors for one child of the fork server, which takes 256


class Share:
    """This handle's part in keeping a name alive, and the owner of the descriptor that its lock is on.

    Whatever becomes of the handle, or of the call that was to make one, the share
    ends with the last reference to it.
    """

    __slots__ = ("__weakref__", "_fd", "_info", "_is_lent", "_lock", "_path", "_self", "_taker")

    _self: ref[Share]  # what `_shares` says under the number of the lock's descriptor, while that is ours
    _info: os.stat_result  # of the object
    _taker: object  # the process that took the share

    def __init__(self, path: str) -> None:
        """Prepare a share in what `path` means or will mean; there is none yet."""
        self._path = path
        self._lock = -1  # the descriptor that the lock is on
        self._fd = -1  # the handle's
        self._is_lent = False  # whether the user has that one, too

    def take(self, fd: int, again: str, info: os.stat_result) -> bool:
        """Take the first share in the new object open as `fd`; `fd` is ours then.  False: somebody locks it.

        `again` is a path by which it can be opened once more.
        """
        lock = os.open(again, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not lifetime.try_lock(lock, lifetime.SHARED):
                return False
            self._hold(lock, fd, info)
        finally:
            if self._lock != lock:
                os.close(lock)
        return True

    def join(self, fd: int, opened: os.stat_result) -> bool:
        """Take a share in the marked object that was found under the path, open as `fd`; `fd` is ours then.

        False: things moved under us; open again what is there now.  (A dead object is
        removed, and opening again tells.)  One that cannot be removed is a
        `FileNotFoundError`, too.
        """
        try:
            lock = os.open(self._path, lifetime.PROBE)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.EACCES, *lifetime.NOT_OURS}:
                return False
            raise
        try:
            dead = lifetime.try_lock(lock, lifetime.EXCLUSIVE)  # outside, for a sandbox may forbid that, too
            try:
                if dead and lifetime.remove_locked(self._path, lock):
                    return False
            except PermissionError:  # dead, and its owner's to remove
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._path) from None
            # Somebody holds it.  Being refused now means that the holder is burying it.  Once
            # we are in, it must still have a name: nobody can bury it any more, but it may
            # have happened before our lock.  (A holder that was burying it and was killed in
            # that very moment leaves us with a dead object.  Asking twice would tell; it is not
            # worth a sixth of every attach.)
            if not lifetime.try_lock(lock, lifetime.SHARED):
                return False
            info = os.fstat(lock)
            if info.st_nlink and os.path.samestat(info, opened):
                self._hold(lock, fd, info)
                return True
            return False
        finally:
            if self._lock != lock:
                os.close(lock)

    def _hold(self, lock: int, fd: int, info: os.stat_result) -> None:
        self._info = info
        self._taker = forks.this_process()
        exits.watch_workers()
        self._self = _shares[lock] = ref(self)
        self._fd = fd
        self._lock = lock

    def unlock_and_disown(self) -> None:
        """Give up the lock but not the handle's descriptor, which is the caller's again: the object persists."""
        with fork_lock:
            lock, self._lock = self._lock, -1
            del _shares[lock]
            os.close(lock)

    def owns(self, fd: int) -> bool:
        """Whether `fd` is closed by `release`: after `take` or `join`, even one that Ctrl-C has cut short."""
        return self._lock >= 0 and self._fd == fd

    def open_again(self, fd: int) -> int:
        """Return the descriptor for the user: the handle's own, for no lock of ours is on that one."""
        self._is_lent = True
        return fd

    def pass_to(self, child: Any) -> Any:
        """Have the child inherit the lock; see `ipcio._backend.Share`."""
        if not hasattr(child, "DupFd") or (child.method == "forkserver" and len(child._fds) >= _PASSED):
            return None
        return child.DupFd(child.duplicate_for_child(self._lock))

    def release(self, close: Callable[[int], None] = os.close) -> None:
        """Give up the lock and the descriptors, the handle's by `close`, once; the last share takes the name with it.

        A program may have closed all its descriptors, as daemons do, and their numbers may mean
        others by now.  Those are left alone.
        """
        with fork_lock:
            lock, self._lock = self._lock, -1
            if lock < 0:
                return
            fd = self._fd
            try:
                is_ours = _shares.get(lock) is self._self  # else the number is another share's by now
                if is_ours:
                    del _shares[lock]
                if not is_ours or not self._is_open(lock):
                    lock = -1
                if (self._is_lent or lock < 0) and (fd in _shares or not self._is_open(fd)):
                    fd = -1
            finally:
                try:
                    if lock >= 0:
                        os.close(lock)
                finally:
                    try:
                        # No lock of ours is on the handle's description.  So it can ask; but a forked process
                        # has it, too, and two that ask by one description do not exclude each other.
                        if min(lock, fd) >= 0 and self._taker is forks.this_process():
                            self._remove_if_last(fd)
                        elif not _remove_orphan_at(self._path):
                            _recheck_later(self._path)
                    finally:
                        if fd >= 0:
                            close(fd)

    def lose(self) -> None:
        """In a forked child: the call that was to make a handle of this goes on in the parent only.

        That handle may be closed by now, and then this copy of its lock was in the way.
        """
        lock, self._lock = self._lock, -1
        if lock >= 0:
            _shares.pop(lock, None)
            os.close(lock)
            _remove_orphan_at(self._path)

    def _remove_if_last(self, fd: int) -> None:
        if not lifetime.try_lock(fd, lifetime.EXCLUSIVE):
            _recheck_later(self._path)
            return
        buried = False
        try:
            buried = lifetime.remove_locked(self._path, fd, self._info)
        except PermissionError:  # dead, and its owner's to remove
            pass
        finally:
            if not buried:  # a view of the memory keeps the description, and must not keep others waiting
                fcntl.flock(fd, fcntl.LOCK_UN)

    def _is_open(self, fd: int) -> bool:
        """Whether the descriptor still means the object."""
        try:
            return os.path.samestat(os.fstat(fd), self._info)
        except OSError as error:
            return error.errno != errno.EBADF

    def __del__(self) -> None:
        if self._lock < 0:
            return
        try:
            self.release()
        except Exception:  # noqa: BLE001, S110 -- nobody could catch it
            pass


_shares: dict[int, ref[Share]] = {}  # by the number of the descriptor that the lock is on

to_recheck: dict[str, float] = {}
"""Paths of objects that seemed to be in use when a share ended here, and when that was."""

forks.in_child.append(to_recheck.clear)


def _remove_orphan_at(path: str) -> bool:
    """Ask through a fresh description whether nobody holds the object under `path`; False if another share is left."""
    with Halfway() as look:
        try:
            look.open_file(path, lifetime.PROBE)
        except OSError as error:
            return error.errno not in _SHORTAGE  # no such name any more, or nothing that was ours
        try:
            return lifetime.remove_if_orphan(path, look.fd) or not namespace.is_managed(os.fstat(look.fd))
        except PermissionError:  # dead, and its owner's to remove
            return True


def _recheck_later(path: str) -> None:
    if len(to_recheck) >= _MANY:
        del to_recheck[next(iter(to_recheck))]
    to_recheck[path] = time.monotonic()


def recheck(wait: float = _MOMENT) -> None:
    """Ask once more about objects that seemed to be in use when a share ended here, `wait` seconds ago or earlier.

    A process that was just being started had a copy of the lock until its ``exec``, perhaps.
    """
    latest = time.monotonic() - wait
    for path, when in list(to_recheck.items()):
        if when <= latest:
            to_recheck.pop(path, None)
            _remove_orphan_at(path)


def _living() -> list[Share]:
    return [share for known in list(_shares.values()) if (share := known())]


def _release_all() -> None:
    # What is still open when the process ends.
    for share in _living():
        with contextlib.suppress(OSError):
            share.release()
    recheck(0)


exits.at_the_end(_release_all)
