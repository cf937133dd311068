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
that was the last share is asked through another one (`Share.release`).

Every function here takes the step from "looked" to "done" under a lock on the
object itself; what may happen before the lock is had is looked at again afterwards,
and described there.

An explicit removal takes the name of an object that is in use.  No lock on the object
keeps another removal out, so it also holds an exclusive lock on the directory from its
look at the name to its ``unlink`` (`directory_lock`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
from _thread import get_ident
from itertools import repeat
from weakref import ref

from ipcio._forklock import Halfway, clear_away, fork_lock
from ipcio._posix import exits, flocks, forks
from ipcio._posix.abilities import NAMES_ARE_FILES
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any

__all__ = [
    "MANAGED",
    "PERSISTENT",
    "PROBE",
    "Share",
    "before_removal",
    "directory_lock",
    "free_name",
    "is_managed",
    "is_persistent",
    "is_special",
    "make_readable",
    "mark_persistent",
    "path_means",
    "refused",
    "remove",
    "remove_once",
    "retry_while_busy",
    "settle_refused",
]

# On an object that lives as long as its shares, and on a persistent one: made by ipcio,
# removed by unlink only.  In a directory of our own everything is ours, so there the first
# has no mark; bits that any file system lets anybody set serve for the second.  The first
# decides what is removed, and only a chmod takes it away.  The second is for lists alone:
# the kernel drops it when another user writes, and where the directory gives files a group
# that their owner is not in.  `mark_persistent` therefore sets a flag as well, which stays.
MANAGED, PERSISTENT = (stat.S_ISVTX, stat.S_ISGID) if NAMES_ARE_FILES else (0, stat.S_IXUSR)

# <linux/fs.h>: only the owner can set the flag of what a backup is to leave out.  Of memory
# the kernel keeps it since Linux 6.0; elsewhere the calls fail.
_FLAGS = struct.Struct("=I4x")
_GET_FLAGS, _SET_FLAGS = (direction | struct.calcsize("l") << 16 | 0x6600 for direction in (0x80000001, 0x40000002))
_NO_DUMP = 0x40

# Opening must not follow a link, wait for a FIFO's other end or reach a child.
PROBE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

_NOT_OURS = {errno.ELOOP, errno.ENXIO, errno.ENODEV}  # what opening a link, a socket, a device says

_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}

_SHORTAGE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}

_SHARED = fcntl.LOCK_SH | fcntl.LOCK_NB
_EXCLUSIVE = fcntl.LOCK_EX | fcntl.LOCK_NB

_OWN_STEPS = 4  # to make what is dead readable, to remove it, to look again; one to spare
_PATIENCE = 2.0  # seconds; a reaper needs microseconds
_PAUSE = 0.0002  # seconds between two attempts

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
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
            if not _lock(lock, _SHARED):
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
            lock = os.open(self._path, PROBE)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.EACCES, *_NOT_OURS}:
                return False
            raise
        try:
            dead = _lock(lock, _EXCLUSIVE)  # outside, for a sandbox may forbid that, too
            try:
                if dead and _remove_locked(self._path, lock):
                    return False
            except PermissionError:  # dead, and its owner's to remove
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._path) from None
            # Somebody holds it.  Being refused now means that the holder is burying it.  Once
            # we are in, it must still have a name: nobody can bury it any more, but it may
            # have happened before our lock.  (A holder that was burying it and was killed in
            # that very moment leaves us with a dead object.  Asking twice would tell; it is not
            # worth a sixth of every attach.)
            if not _lock(lock, _SHARED):
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
                            self._remove_by(fd)
                        elif not _remove_if_orphan_at(self._path):
                            _note_refused(self._path)
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
            _remove_if_orphan_at(self._path)

    def _remove_by(self, fd: int) -> None:
        if not _lock(fd, _EXCLUSIVE):
            _note_refused(self._path)
            return
        buried = False
        try:
            buried = _remove_locked(self._path, fd, self._info)
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

refused: dict[str, float] = {}
"""Paths of objects that seemed to be in use when a share ended here, and when that was."""

forks.in_child.append(refused.clear)


def _remove_if_orphan_at(path: str) -> bool:
    """Ask through a fresh description whether nobody holds the object under `path`; False if another share is left."""
    with Halfway() as look:
        try:
            look.open_file(path, PROBE)
        except OSError as error:
            return error.errno not in _SHORTAGE  # no such name any more, or nothing that was ours
        try:
            return remove_if_orphan(path, look.fd) or not is_managed(os.fstat(look.fd))
        except PermissionError:  # dead, and its owner's to remove
            return True


def _note_refused(path: str) -> None:
    if len(refused) >= _MANY:
        del refused[next(iter(refused))]
    refused[path] = time.monotonic()


def settle_refused(wait: float = _MOMENT) -> None:
    """Ask once more about objects that seemed to be in use when a share ended here, `wait` seconds ago or earlier.

    A process that was just being started had a copy of the lock until its ``exec``, perhaps.
    """
    latest = time.monotonic() - wait
    for path, when in list(refused.items()):
        if when <= latest:
            refused.pop(path, None)
            _remove_if_orphan_at(path)


def _living() -> list[Share]:
    return [share for known in list(_shares.values()) if (share := known())]


def _release_all() -> None:
    # What is still open when the process ends.
    for share in _living():
        with contextlib.suppress(OSError):
            share.release()
    settle_refused(0)


exits.at_the_end(_release_all)


def free_name(path: str, *, patient: bool = True, locked: Callable[[], dict[str, bool]] = flocks.locked) -> bool:
    """Remove what the dead left under `path`; return whether the name is free now.

    Raises `PermissionError` for an orphaned object of another user, and `BlockingIOError` if
    another process keeps an exclusive lock on it: at once if not `patient`.  `locked` gives
    the kernel's list of locks for an object of another user that may not be opened.
    """
    for _ in retry_while_busy(path, patient=patient):
        with Halfway() as look:
            try:
                look.open_file(path, PROBE)
            except FileNotFoundError:
                return not is_special(path)
            except PermissionError:
                if not _unlock_dead(path, locked):
                    return False
                continue
            except OSError as error:
                if error.errno in _NOT_OURS:
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
            kept_out = locked().get(flocks.key_of(info), False)
        except OSError:
            kept_out = False
        if kept_out:
            raise _locked_out(path)
    return True


def _is_held(path: str, fd: int) -> bool:
    """Whether the object found under `path` is to be left alone; if not, look again what is there."""
    if not is_managed(os.fstat(fd)):
        return True
    if remove_if_orphan(path, fd) or not _lock(fd, _SHARED):  # no lock to be had: another process is burying it
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


def remove(path: str, ready: Callable[[int, os.stat_result], bool] | None = None) -> None:
    """Remove the name now, also while the object is in use; `FileNotFoundError` if it was orphaned or is not there.

    `ready` is that of `remove_once`.  Call it without holding `fork_lock`: it may have to wait for other processes.
    """
    for _ in retry_while_busy(path):
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
            look.open_file(path, PROBE)
            # Dead: opening again tells that the name is free.  No lock to be had: a reaper.
            if is_managed(os.fstat(look.fd)) and (remove_if_orphan(path, look.fd) or not _lock(look.fd, _SHARED)):
                return False
            info = os.fstat(look.fd)
            if not path_means(path, info) or (ready is not None and not ready(look.fd, info)):
                return False
            os.unlink(path)
        except OSError as error:
            refused = look.fd < 0 and (error.errno in {*_NOT_OURS, errno.EACCES} or is_special(path))
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
            while not (locked := _lock(door.fd, _EXCLUSIVE)):
                now = time.monotonic()
                give_up = give_up or now + _PATIENCE
                if _kept_out or now > give_up:
                    break
                time.sleep(_PAUSE)
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
                    _lock(door.fd, fcntl.LOCK_UN)
            finally:
                clear_away()  # what was removed may be large


_locked_directories: set[tuple[int, str]] = set()  # threads, and the directories that they have locked


def _forget_other_threads() -> None:
    _locked_directories.intersection_update([key for key in _locked_directories if key[0] == get_ident()])


forks.in_child.append(_forget_other_threads)

_kept_out = False  # whether the last wait was in vain, and the directory has not been free since


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
                give_up = now + _PATIENCE
            elif now > give_up:
                break
            else:
                time.sleep(_PAUSE)
    else:
        yield from repeat(None, _OWN_STEPS)
    raise _locked_out(name)


def _locked_out(path: str) -> BlockingIOError:
    message = "another program keeps an exclusive lock on the object"
    return BlockingIOError(errno.EAGAIN, message, os.path.basename(path))


if NAMES_ARE_FILES:

    def is_managed(info: os.stat_result) -> bool:
        """Whether an object lives under our rules."""
        return bool(info.st_mode & MANAGED) and stat.S_ISREG(info.st_mode)

else:

    def is_managed(info: os.stat_result) -> bool:
        """Whether an object lives under our rules."""
        return not info.st_mode & PERSISTENT and stat.S_ISREG(info.st_mode)


def mark_persistent(fd: int, perm: int) -> None:
    """Have the object open as `fd` persist, with these permissions."""
    if NAMES_ARE_FILES:
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, _SET_FLAGS, _FLAGS.pack(_NO_DUMP))
    os.fchmod(fd, perm | PERSISTENT)


def is_persistent(fd: int, info: os.stat_result) -> bool:
    """Whether the object open as `fd`, which has not the other mark, was made by ipcio to persist."""
    if info.st_mode & PERSISTENT or not NAMES_ARE_FILES:
        return bool(info.st_mode & PERSISTENT)
    try:
        flags: int = _FLAGS.unpack(fcntl.ioctl(fd, _GET_FLAGS, bytes(_FLAGS.size)))[0]
    except OSError:
        return False
    return bool(flags & _NO_DUMP)


before_removal: list[Callable[[str, int, os.stat_result], bool]] = []
"""Other parts of the orphaned object that was found under a path and is open; True: its names are gone, too."""


def remove_if_orphan(path: str, fd: int, known: os.stat_result | None = None) -> bool:
    """If nobody holds the object that `path` meant when `fd` was opened, remove the name; return whether.

    The exclusive lock stays with `fd`: nobody can join until it is closed, and who
    waited to join then finds that the name is gone.  An object without our mark is
    left alone (only where a name changed hands can one get here).  `known` is what was
    known of the object before, if anything.
    """
    return _lock(fd, _EXCLUSIVE) and _remove_locked(path, fd, known)


def _remove_locked(path: str, fd: int, known: os.stat_result | None = None) -> bool:
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


def _lock(fd: int, kind: int) -> bool:
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
        alive = flocks.key_of(info) in (flocks.locked() if ours else locked())
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
