"""A semaphore whose permits come back from the dead: a System V set of one, operated with ``SEM_UNDO``.

With that flag the kernel adds up what a process takes and gives, and when the process
dies, however it does, it reverses the sum, once.  Only permits that are actually held
are to come back, so a release beyond those must not have the flag.  Therefore the
process keeps count as well, of the very sum that the kernel keeps; see `Held`.
"""

from __future__ import annotations

import errno
import os
import time
from ctypes import byref, c_int, c_size_t
from itertools import filterfalse, repeat, starmap
from typing import TYPE_CHECKING, Any

from ipcio._forklock import turn
from ipcio._posix import libc

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipcio._contract import Share

__all__ = ["MAXIMUM", "UndoSemaphore", "find", "make", "remove"]

MAXIMUM = 32767  # SEMVMX; also the most that the kernel undoes for one process

_GONE = {errno.EIDRM, errno.EINVAL}

_ONE = c_size_t(1)
_TAKE = byref(libc.Operation(0, -1, libc.SEM_UNDO))
_TRY = byref(libc.Operation(0, -1, libc.SEM_UNDO | libc.IPC_NOWAIT))
_GIVE_BACK = byref(libc.Operation(0, 1, libc.SEM_UNDO))
_GIVE = byref(libc.Operation(0, 1, 0))


# -- sets --------------------------------------------------------------------


def make(key: int, value: int, perm: int) -> int:
    """Make the set for `key` and return its id; `FileExistsError` if the key is taken."""
    number: int = libc.semget(key, 1, libc.IPC_CREAT | libc.IPC_EXCL | perm)
    if number < 0:
        raise _explained(libc.get_errno())
    if libc.semctl(number, 0, libc.SETVAL, c_int(value)):
        raise libc.failure()
    _held.pop(number, None)
    return number


def find(key: int, creator: int) -> int | None:
    """Return the id of the set for `key`, if there is one and the user `creator` made it."""
    number: int = libc.semget(key, 0, 0)
    about = libc.SetInfo()
    if number < 0 or libc.semctl(number, 0, libc.IPC_STAT, byref(about)):
        return None
    return number if (about.key, about.creator) == (key, creator) else None


def remove(number: int) -> None:
    """Remove a set; none is as good as removed."""
    if libc.semctl(number, 0, libc.IPC_RMID) and libc.get_errno() not in _GONE:
        raise libc.failure()


def _explained(number: int) -> OSError:
    text = os.strerror(number)
    if number in {errno.ENOSPC, errno.ENOMEM}:
        text = (
            "the system allows no more System V semaphores (/proc/sys/kernel/sem): "
            "`ipcio gc` removes those of the dead, `sysctl kernel.sem` allows more"
        )
    elif number == errno.ENOSYS:
        text = "the kernel has no System V semaphores, and nothing else can undo what the dead did"
    elif number in _GONE:
        number, text = errno.EIDRM, "the System V set of the semaphore was removed"
    return OSError(number, text)


# -- permits -----------------------------------------------------------------


class Held(list[int]):
    """The permits of one set that this process holds, a token for each.

    Shared by all its handles on the set, as the kernel's sum is.  A list, because
    what C does with it is one step for other threads and for signal handlers.
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


os.register_at_fork(after_in_child=_hold_nothing)


class UndoSemaphore:
    """One handle's face of a set, with the methods of `_multiprocessing.SemLock`."""

    __slots__ = ("_give", "_give_back", "_held", "_name", "_number", "_take", "_try", "share")

    def __init__(self, number: int, name: str, share: Share | None) -> None:
        self.share = share
        self._number = number
        self._name = name
        self._take = number, _TAKE, _ONE
        self._try = number, _TRY, _ONE
        self._give_back = number, _GIVE_BACK, _ONE
        self._give = number, _GIVE, _ONE
        with turn:
            self._held = _held.setdefault(number, Held())
            self._held.handles += 1

    def __del__(self) -> None:
        with turn:
            held = self._held
            held.handles -= 1
            if not held.handles and not held and _held.get(self._number) is held:
                del _held[self._number]  # nothing is held, and a later handle can start a new list

    def __enter__(self) -> bool:
        while not self._got(libc.semop, self._take):
            self._fail()
        return True

    def __exit__(self, *_: object) -> None:
        self.post(1)

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:  # noqa: FBT001, FBT002 -- as SemLock
        """Take a permit, within `timeout` seconds; return whether it was got."""
        if not block:
            while not self._got(libc.semop, self._try):
                if libc.get_errno() == errno.EAGAIN:
                    return False
                self._fail()
            return True
        if timeout is None:
            return self.__enter__()
        end = time.monotonic() + timeout
        while not self._got(libc.semtimedop, (*self._take, _timespec(end - time.monotonic()))):
            if libc.get_errno() == errno.EAGAIN:
                return False
            self._fail()
        return True

    def release(self) -> None:
        """Give one permit."""
        self.post(1)

    def post(self, n: int) -> None:
        """Give `n` permits in one step: those we hold, and beyond them new ones, which nobody will take back."""
        if n > MAXIMUM:
            raise self._overflow(n)
        held = self._held
        ours: list[int] = []
        done: list[int] = []
        try:
            try:
                ours.extend(map(held.pop, repeat(-1, n)))
            except IndexError:  # so many we hold
                pass
            done.extend(starmap(libc.semop, (self._giving(len(ours), n - len(ours)),)))
            if done[0]:
                if libc.get_errno() == errno.ERANGE:
                    raise self._overflow(n)
                self._fail()
        finally:
            if 0 not in done:
                held.extend(ours)

    def value(self) -> int:
        """How many permits there are to take now."""
        value: int = libc.semctl(self._number, 0, libc.GETVAL)
        if value < 0:
            self._fail()
        return value

    def _got(self, call: Callable[..., int], arguments: tuple[Any, ...]) -> bool:
        """Operate once; return whether it gave a permit."""
        got: list[int] = []
        try:
            # A signal handler that raises may run when a call returns, before anybody sees
            # what it returned.  So all that has to be done if it returned 0 is done within
            # one call: filterfalse(None) lets a 0 through, append counts it and lets it
            # through (it returns None), extend keeps it.
            got.extend(filterfalse(self._held.append, filterfalse(None, starmap(call, (arguments,)))))
        except BaseException:
            if got:
                self.post(1)
            raise
        return got != []

    def _giving(self, back: int, new: int) -> tuple[Any, ...]:
        if back + new == 1:
            return self._give_back if back else self._give
        steps = [libc.Operation(0, back, libc.SEM_UNDO)] if back else []
        if new:
            steps.append(libc.Operation(0, new, 0))
        return self._number, (libc.Operation * len(steps))(*steps), c_size_t(len(steps))

    def _fail(self) -> None:
        """Raise what the last call failed with, unless a signal interrupted it."""
        number = libc.get_errno()
        if number != errno.EINTR:
            error = _explained(number)
            error.filename = self._name
            raise error

    def _overflow(self, n: int) -> OverflowError:
        return OverflowError(f"{n} more would take semaphore {self._name!r} over its maximum of {MAXIMUM}")


def _timespec(seconds: float) -> Any:
    seconds = max(seconds, 0.0)
    return byref(libc.Timespec(int(seconds), int(seconds % 1 * 1e9)))
