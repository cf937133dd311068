"""POSIX semaphores, by the C class that `multiprocessing` uses for them.

What the system cannot do is found by asking: macOS neither says what value a semaphore has
nor refuses a release beyond the maximum.
"""

from __future__ import annotations

import errno
import os
from itertools import repeat, starmap

from ipcio._names import invent_name
from ipcio._record import record_times
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipcio._backend.shares import Share

    class SemLock:  # typeshed does not know it
        SEM_VALUE_MAX: int

        def __new__(cls, kind: int, value: int, maxvalue: int, name: str, unlink: bool, /) -> PosixSemaphore: ...
        @classmethod
        def _rebuild(cls, handle: int, kind: int, maxvalue: int, name: str | None, /) -> PosixSemaphore: ...
        def __enter__(self) -> bool: ...
        def __exit__(self, *_: object) -> None: ...
        def acquire(self, block: bool = ..., timeout: float | None = ..., /) -> bool: ...
        def release(self) -> None: ...
        def _get_value(self) -> int: ...

else:
    from _multiprocessing import SemLock

MAXIMUM: int = SemLock.SEM_VALUE_MAX

STEP = 4096  # permits released at once; less than a millisecond

_COUNTING = 1  # SemLock's word for a semaphore that is no lock
_PERM = 0o600  # of what SemLock makes


class PosixSemaphore(SemLock):
    """A semaphore that is open, with the share of its handle.

    A ``with`` statement keeps no more than its bound method, if the handle was made for
    it alone; and the name must stay as long.
    """

    __slots__ = ("share",)

    share: Share | None


def check_value(value: int) -> None:
    """Refuse a value that no semaphore can have."""
    if value > MAXIMUM:
        raise OverflowError(f"a semaphore's value is at most {MAXIMUM}")


def check_bound(bound: int) -> None:
    """Refuse a bound that no semaphore can have, or any where the system does not say the value."""
    check_value(bound)
    if not _says_values:
        value_of(PosixSemaphore(_COUNTING, 1, MAXIMUM, f"/{invent_name()}", True))  # unlinked at once
    if not _says_values[0]:
        raise NotImplementedError(
            "this system does not say the value of a semaphore, so max= requires a crash-safe one: pass undo=True"
        )


def open_semaphore(name: str) -> PosixSemaphore:
    """Open the semaphore that has the name."""
    try:
        text = f"/{name}" if name.isascii() else os.fsencode(f"/{name}").decode()
    except UnicodeDecodeError:  # SemLock cannot be given bytes that are no text
        from ipcio._posix import libc

        handle = libc.open_semaphore(os.fsencode(f"/{name}"))
        return PosixSemaphore._rebuild(handle, _COUNTING, MAXIMUM, None)
    return PosixSemaphore._rebuild(0, _COUNTING, MAXIMUM, text)


def create_semaphore(text: str, value: int, perm: int) -> PosixSemaphore:
    """Make a semaphore; `text` is its name as C has it.  `FileExistsError` if the name is in use."""
    if perm == _PERM:
        return PosixSemaphore(_COUNTING, value, MAXIMUM, text, False)
    from ipcio._posix import libc

    return PosixSemaphore._rebuild(libc.create_semaphore(text.encode(), perm, value), _COUNTING, MAXIMUM, None)


_says_values: list[bool] = []  # whether the system does, when it has been asked once


def value_of(raw: PosixSemaphore) -> Callable[[], int]:
    """Return what to call for the value; it raises `NotImplementedError` where the system does not say it."""
    if not _says_values:  # asked once: the first look at the memory of a semaphore costs a page fault
        try:
            raw._get_value()
            _says_values.append(True)
        except NotImplementedError:
            _says_values.append(False)
    return raw._get_value if _says_values[0] else _no_value


def _no_value() -> int:
    raise NotImplementedError("this system does not say the value of a semaphore")


def post(raw: PosixSemaphore, n: int) -> None:
    """Release `n` permits, or none if they are too many.

    No signal handler runs in between but after each `STEP` of them; if one raises, some stay released.
    """
    before = 0
    given: list[None] = []
    try:
        room = MAXIMUM - raw._get_value()
    except NotImplementedError:  # then only a release that is refused shows that there is no room
        room = MAXIMUM
    try:
        if n > room:
            raise OverflowError
        for before in range(0, n, STEP):
            given.clear()
            record_times(given, min(STEP, n - before), raw.release)
    except (OverflowError, ValueError, OSError) as error:
        _take_back(raw, len(given))
        for _ in range(0, before, STEP):
            _take_back(raw, STEP)
        if isinstance(error, OSError) and error.errno != errno.EOVERFLOW:
            raise
        raise OverflowError(f"so many permits would exceed the maximum of the semaphore, {MAXIMUM}") from None


def _take_back(raw: PosixSemaphore, n: int) -> None:
    """Acquire `n` permits, or as many as other processes have left."""
    all(starmap(raw.acquire, repeat((False,), n)))  # as `record_times`, but up to the first False
