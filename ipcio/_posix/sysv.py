"""A crash-safe semaphore: a System V set of one semaphore, operated with ``SEM_UNDO``.

With that flag the kernel adds up what a process acquires and releases, and reverses the sum
when the process exits or is killed, once.  Only permits that the process holds are to
come back, so a release beyond those must not have the flag.  Therefore the process counts
the permits that it holds as well: the same sum that the kernel keeps (`Held`).
"""

from __future__ import annotations

import errno
import os
import sys
import time
from ctypes import byref, c_int, c_size_t
from itertools import repeat, starmap

from ipcio._forklock import fork_lock
from ipcio._posix import libc
from ipcio._posix.forks import in_child, notice, page
from ipcio._record import calling, record_times
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ipcio._backend.shares import Share

MAXIMUM = 32767  # SEMVMX; also the limit of what the kernel undoes for one process

KERNEL_HAS_MAXIMUM = sys.platform != "darwin"  # there semop adds whatever it is asked to

_FIRST_PAUSE, _LAST_PAUSE = 0.00005, 0.0009  # seconds between two tries, where the kernel does not wait with a timeout

_GONE = {errno.EIDRM, errno.EINVAL}

# errno after a call, read in the same step: a signal handler may call C functions, too.
_ERRNO: Iterator[int] = starmap(libc.get_errno, repeat(()))

_ONE = c_size_t(1)
_TAKE = byref(libc.Operation(0, -1, libc.SEM_UNDO))
_TRY = byref(libc.Operation(0, -1, libc.SEM_UNDO | libc.IPC_NOWAIT))
_GIVE_BACK = byref(libc.Operation(0, 1, libc.SEM_UNDO))
_GIVE = byref(libc.Operation(0, 1, 0))


# -- sets --------------------------------------------------------------------


def make(key: int, perm: int) -> int:
    """Make the set for `key`, without a value, and return its id; `FileExistsError` if the key is taken."""
    number: int = libc.semget(key, 1, libc.IPC_CREAT | libc.IPC_EXCL | perm)
    if number < 0:
        raise _explained(libc.get_errno())
    return number


def set_value(number: int, value: int) -> None:
    """Give a new set its value."""
    if libc.semctl(number, 0, libc.SETVAL, c_int(value)):
        raise libc.failure()
    _held.pop(number, None)


def find(key: int, creator: int) -> int | None:
    """Return the id of the set for `key`, None unless it has one semaphore and was made by the user `creator`."""
    number: int = libc.semget(key, 0, 0)
    about = libc.SetInfo()
    if number < 0 or libc.semctl(number, 0, libc.IPC_STAT, byref(about)):
        error = libc.failure()
        if error.errno in {errno.ENOENT, *_GONE}:
            return None
        raise error
    # To ask for two semaphores is an error if the set has one.
    if (about.key, about.creator) != (key, creator) or libc.semget(key, 2, 0) >= 0:
        return None
    return number


def check_access(key: int) -> None:
    """Raise `PermissionError` if this user may not operate on the set for `key`; a missing set is no error."""
    if libc.semget(key, 0, 0o600) < 0 and libc.get_errno() == errno.EACCES:
        raise libc.failure()


def give_to_group(number: int, group: int) -> None:
    """Let the group permissions of a set apply to this group."""
    about = libc.SetInfo()
    if libc.semctl(number, 0, libc.IPC_STAT, byref(about)):
        raise libc.failure()
    about.group = group
    if libc.semctl(number, 0, libc.IPC_SET, byref(about)):
        raise libc.failure()


def perm_of(number: int) -> int:
    """Return the permissions of a set."""
    about = libc.SetInfo()
    if libc.semctl(number, 0, libc.IPC_STAT, byref(about)):
        raise libc.failure()
    return int(about.mode) & 0o777


def remove(number: int) -> None:
    """Remove a set; a missing set is no error."""
    if libc.semctl(number, 0, libc.IPC_RMID) and libc.get_errno() not in _GONE:
        raise libc.failure()


def _explained(number: int) -> OSError:
    text = os.strerror(number)
    if number in {errno.ENOSPC, errno.ENOMEM}:
        text = (
            "the system allows no more System V semaphores (/proc/sys/kernel/sem): "
            "`ipcio gc` removes orphaned ones, `sysctl kernel.sem` allows more"
        )
    elif number == errno.ENOSYS:
        text = "the kernel has no System V semaphores, which crash-safe semaphores require (undo=True)"
    elif number == errno.ERANGE:
        text = f"one process can hold at most {MAXIMUM} permits of a crash-safe semaphore"
    elif number in {errno.EACCES, errno.EPERM}:
        text = "this user may not use the System V set of the semaphore: pass a wider perm= when it is created"
    elif number in _GONE:
        number, text = errno.EIDRM, "the System V set of the semaphore was removed"
    return OSError(number, text)


# -- permits -----------------------------------------------------------------


class Held(list[int]):
    """The permits of one set that this process holds: a list with one element for each.

    All handles of the process on the set share it, as they share the kernel's sum.  It is a list
    because its methods are single steps for other threads and for signal handlers.
    """

    __slots__ = ("handles",)

    def __init__(self) -> None:
        super().__init__()
        self.handles = 0


_held: dict[int, Held] = {}  # by the id of the set


def _hold_nothing() -> None:
    # The kernel's sum is not inherited.
    for held in _held.values():
        held.clear()


in_child.append(_hold_nothing)


class UndoSemaphore:
    """What a handle operates a set by, with the methods of `_multiprocessing.SemLock`.

    A permit and its entry in `Held` must not come apart, whatever Ctrl-C interrupts.  So each call is made by a loop of
    one step, which is `ipcio._record.calling`, written out where speed matters.
    """

    __slots__ = ("_bound", "_giving_back", "_held", "_name", "_number", "_popping", "_take", "_try", "_trying", "share")

    def __init__(self, number: int, name: str, share: Share | None, bound: int | None = None) -> None:
        self.share = share
        self._bound = bound
        self._number = number
        self._name = name
        self._take = number, _TAKE, _ONE
        self._try = number, _TRY, _ONE
        with fork_lock:
            held = self._held = _held.setdefault(number, Held())
            held.handles += 1
        self._trying = starmap(libc.semop_at_once, repeat(self._try))
        self._popping = starmap(held.pop, repeat(()))
        self._giving_back: Iterator[int] = starmap(libc.semop_at_once, repeat(self._giving(1, 0)))
        if bound is not None and not KERNEL_HAS_MAXIMUM:
            self._giving_back = repeat(-1)  # it fails, so that `post` does it

    def __del__(self) -> None:
        with fork_lock:
            held = self._held
            held.handles -= 1
            # What is held must be known to a later handle, unless the set is gone.
            if not held.handles and (not held or libc.semctl(self._number, 0, libc.GETVAL) < 0):
                _held.pop(self._number, None)

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire a permit, within `timeout` seconds; return whether that succeeded."""
        if not page[0]:  # a forked process, which holds no permits of its parent's
            notice()
        failed = -1
        try:
            for failed in self._trying:
                if not failed:
                    self._held.append(0)
                    return True
                break
        except BaseException:
            if not failed:
                self.post(1)
            raise
        for got in calling(self._wait, timeout if block else 0):
            return got
        raise AssertionError("unreachable")

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        try:
            self.release()
        except OSError as error:
            if self.share is not None or error.errno != errno.EIDRM:
                raise  # otherwise the block has closed the last handle, and no process can want the permit

    def release(self) -> None:
        """Release one permit."""
        if not page[0]:
            notice()
        token, failed = None, -1
        try:
            for token in self._popping:  # noqa: B007 -- used below
                for failed in self._giving_back:
                    if not failed:
                        return
                    break
                break
        except IndexError:  # this process holds none
            pass
        except BaseException:
            if token is not None and failed:
                self._held.append(token)
            raise
        if token is not None:
            self._held.append(token)
        self.post(1)  # it also raises the right error

    def post(self, n: int) -> None:
        """Release `n` permits in one step: those that this process holds, and new ones without the flag."""
        if n > MAXIMUM:
            raise self._overflow()
        if self._bound is not None and not KERNEL_HAS_MAXIMUM and self.value() + n > self._bound:
            raise self._overflow()
        if not page[0]:
            notice()
        held = self._held
        ours: list[int] = []
        done: list[tuple[int, int]] = []
        try:
            try:
                record_times(ours, n, held.pop)
            except IndexError:  # this process holds fewer
                pass
            # `ipcio._record.record`, written out for speed.
            done.extend(zip(starmap(libc.semop, (self._giving(len(ours), n - len(ours)),)), _ERRNO))  # noqa: B905 -- _ERRNO has no end
            failed, number = done[0]
            if failed:
                raise self._overflow() if number == errno.ERANGE else self._error(number)
        finally:
            if not done or done[0][0]:
                held.extend(ours)

    def value(self) -> int:
        """Return how many permits can be acquired now."""
        value: int = libc.semctl(self._number, 0, libc.GETVAL)
        if value < 0:
            raise self._error(libc.get_errno())
        return value

    def _wait(self, timeout: float | None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE
        call: tuple[Callable[..., int], tuple[Any, ...]]
        while True:
            if end is None:
                call = libc.semop, self._take
            elif timeout and libc.semtimedop is not None:
                call = libc.semtimedop, (*self._take, _timespec(end - time.monotonic()))
            else:
                call = libc.semop, self._try
            for number in calling(self._operate, *call):
                if not number:
                    return True
                if number == errno.EAGAIN:
                    left = 0.0 if end is None or libc.semtimedop is not None else end - time.monotonic()
                    if left <= 0:
                        return False
                    time.sleep(min(left, pause))
                    pause = min(2 * pause, _LAST_PAUSE)
                elif number != errno.EINTR:
                    raise self._error(number)

    def _operate(self, function: Callable[..., int], arguments: tuple[Any, ...]) -> int:
        """Call once; return 0 if that acquired a permit, or else errno."""
        failed = number = -1
        try:
            for failed, number in zip(calling(function, *arguments), _ERRNO):  # noqa: B007, B905 -- used below; endless
                if not failed:
                    self._held.append(0)
        except BaseException:
            if not failed:
                self.post(1)
            raise
        return failed and number

    def _giving(self, back: int, new: int) -> tuple[Any, ...]:
        bound = self._bound
        if back + new == 1 and bound is None:
            return self._number, _GIVE_BACK if back else _GIVE, _ONE
        steps = [libc.Operation(0, back, libc.SEM_UNDO)] if back else []
        if new:
            steps.append(libc.Operation(0, new, 0))
        if bound is not None and bound < MAXIMUM:
            # The kernel makes all steps or none, and refuses one past its own maximum.  So a value that is
            # lifted for a moment, by as much as the bound is below that, does not pass the bound.
            steps += [libc.Operation(0, MAXIMUM - bound, 0), libc.Operation(0, bound - MAXIMUM, 0)]
        return self._number, (libc.Operation * len(steps))(*steps), c_size_t(len(steps))

    def _error(self, number: int) -> OSError:
        """Return the error of a failed call."""
        error = _explained(number)
        error.filename = self._name
        return error

    def _overflow(self) -> Exception:
        if self._bound is not None:
            return ValueError(f"so many permits would exceed the bound of semaphore {self._name!r}, max={self._bound}")
        return OverflowError(f"so many permits would exceed the maximum of semaphore {self._name!r}, {MAXIMUM}")


def _timespec(seconds: float) -> Any:
    seconds = max(seconds, 0.0)
    return byref(libc.Timespec(int(seconds), int(seconds % 1 * 1e9)))
