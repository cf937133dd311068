"""Semaphores on Windows: those of the kernel, with the C class behind `multiprocessing.Semaphore` to wait for them."""

from __future__ import annotations

import ctypes
from functools import partial
from itertools import starmap
from time import perf_counter

from ipcio._record import calling
from ipcio._typing import TYPE_CHECKING
from ipcio._windows import objects, win32

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    from ipcio._backend.sem import Into
    from ipcio._backend.shares import Share

    Handle = TypeVar("Handle")

    class SemLock:  # typeshed does not know it
        @classmethod
        def _rebuild(cls, handle: int, kind: int, maxvalue: int, name: str | None, /) -> WindowsSemaphore: ...
        def __enter__(self) -> bool: ...
        def __exit__(self, *_: object) -> None: ...
        def acquire(self, block: bool = ..., timeout: float | None = ..., /) -> bool: ...
        def release(self) -> None: ...

else:
    from _multiprocessing import SemLock

_KIND = "a semaphore"
_LONGEST = win32.MAX_PATH - 1  # characters of a name, without the NUL
_MAXIMUM = 0x7FFFFFFF
_COUNTING = 1  # SemLock's word for a semaphore that is no lock
_SHORTEST_WAIT = 0.001  # seconds; SemLock counts in thousandths, and takes half a one for none
_LONGEST_WAIT = 2e6  # a little less than SemLock takes
_ACCESS = win32.SYNCHRONIZE | win32.SEMAPHORE_QUERY_STATE | win32.SEMAPHORE_MODIFY_STATE
_ONCE: Iterable[tuple[()]] = ((),)
_AT_ONCE = ((False,),)  # do not block


class WindowsSemaphore(SemLock):
    """A handle on a semaphore, closed with the object.

    `SemLock` ends a wait in the main thread with `InterruptedError` if the handler of
    Ctrl-C did not raise; here it goes on.
    """

    __slots__ = ("share",)

    share: Share | None  # empty: the kernel keeps the count of the handles

    # What `ipcio._record.calling` does is written out where each call counts.

    def __enter__(self) -> bool:
        """Acquire a permit, without a timeout; return True."""
        while True:
            try:
                for got in starmap(super().__enter__, _ONCE):
                    return got
            except InterruptedError:
                pass

    def acquire(self, block: bool = True, timeout: float | None = None, /) -> bool:
        """Acquire a permit, within `timeout` seconds; return whether it was acquired."""
        if not block or timeout == 0:
            try:
                for got in starmap(super().acquire, _AT_ONCE):
                    return got
            except InterruptedError:  # by Ctrl-C, after a look that found no permit
                return False
        if timeout is None:
            for got in calling(self.__enter__):
                return got
            raise AssertionError("unreachable")
        end = perf_counter() + timeout
        while timeout > 0:
            step = min(max(timeout, _SHORTEST_WAIT), _LONGEST_WAIT)
            try:
                for got in calling(super().acquire, True, step):
                    if got:
                        return True
            except InterruptedError:
                pass
            timeout = end - perf_counter()
        return False


def create(
    name: str,
    value: int,
    *,
    perm: int,  # noqa: ARG001 -- see below
    persist: bool,
    crash_safe: bool,
    bound: int | None,
    into: Into[Handle],
) -> Handle:
    """Make a semaphore.

    The default of the user's token decides which users may open it: this user and the system.
    """
    objects.check_length(name, _LONGEST)
    if crash_safe:
        raise NotImplementedError(
            "Windows does not release the permits of a process that is killed: undo=True is for POSIX"
        )
    if persist:
        raise NotImplementedError("on Windows nothing outlives its last handle: persist=True is for POSIX")
    if max(value, bound or 0) > _MAXIMUM:
        raise OverflowError(f"a semaphore's value is at most {_MAXIMUM}")
    with objects.Handles() as mine:
        return _opened(into, mine, mine.create(win32.CreateSemaphore, None, value, _MAXIMUM, name))


def attach(
    name: str,
    *,
    owner: int | None = None,  # noqa: ARG001 -- there are no user ids
    into: Into[Handle],
) -> Handle:
    """Open what has the name."""
    objects.check_length(name, _LONGEST)
    with objects.Handles() as mine:
        return _opened(into, mine, mine.open(win32.OpenSemaphore, _ACCESS, name, _KIND))


def unlink(name: str) -> None:
    """Raise the error of a name that exists, or that of one that does not."""
    objects.check_length(name, _LONGEST)
    with objects.Handles() as mine:
        mine.open(win32.OpenSemaphore, _ACCESS, name, _KIND)
        raise objects.unlink_error(name)


def _opened(into: Into[Handle], mine: objects.Handles, handle: int) -> Handle:
    raw = mine.give(WindowsSemaphore._rebuild, _COUNTING, _MAXIMUM, None)
    raw.share = mine  # empty by now
    return into(raw, partial(_post, raw, handle), partial(_value, raw, handle), False, None)


# The handle is the object's, which must live as long as it is used.


def _post(_: WindowsSemaphore, handle: int, n: int) -> None:
    """Release `n` times, in one step."""
    if n > _MAXIMUM or not win32.ReleaseSemaphore(handle, n, None):
        if n <= _MAXIMUM and ctypes.get_last_error() != win32.ERROR_TOO_MANY_POSTS:
            raise win32.failure()
        raise OverflowError("so many permits would exceed the maximum of the semaphore")


def _value(_: WindowsSemaphore, handle: int) -> int:
    return objects.value_of(handle)
