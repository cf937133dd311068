"""Semaphores that can only be opened, operated and unlinked, as on macOS; crash-safe ones beside.

What keeps a plain one alive is its companion (`ipcio._posix.companions`).  A crash-safe one
has its record (`ipcio._posix.undo`) in that very place, and no POSIX semaphore: a
foreign ``sem_open`` finds none.
"""

from __future__ import annotations

import errno
import os
import struct
from functools import partial
from itertools import repeat, starmap

from ipcio._forklock import fork_lock
from ipcio._posix import companions, lifetime, objects, removal, undo
from ipcio._posix.sem import STEP, PosixSemaphore
from ipcio._record import record_times
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ipcio._backend import OpenSemaphore
    from ipcio._posix.objects import OpenObject

    Handle = TypeVar("Handle")

__all__ = ["attach", "create", "unlink"]

_KIND = "sem"
_MAXIMUM: int = PosixSemaphore.SEM_VALUE_MAX
_COUNTING = 1  # SemLock's word for a semaphore that is no lock
_PERM = 0o600  # of what SemLock makes
_BLANK = bytes(struct.calcsize("4l"))
_ENOUGH = 10  # looks at a record without a set


def create(
    name: str, value: int, *, perm: int, persist: bool, crash_safe: bool, into: Callable[[OpenSemaphore], Handle]
) -> Handle:
    """See `ipcio._backend.SemBackend`.  What the umask takes of `perm` cannot be given."""
    if crash_safe:
        undo.check_interpreter()
    if value > _MAXIMUM and not crash_safe:
        raise OverflowError(f"a semaphore's value is at most {_MAXIMUM}")
    make = _create_undo if crash_safe else _create
    return companions.retrying(_KIND, name, lambda: make(name, value, perm, persist=persist, into=into))


def attach(name: str, *, owner: int | None = None, into: Callable[[OpenSemaphore], Handle]) -> Handle:
    """See `ipcio._backend.SemBackend`.

    A companion vouches for the owner of its object.  Of a foreign semaphore the system does not
    say whose it is, so with an `owner` that is a `PermissionError`.
    """
    for attempt, _ in enumerate(lifetime.retry_while_busy(name)):
        with companions.ExistingObject(_KIND, name, owner) as found:
            handle = _attach(found, again=attempt < _ENOUGH, into=into)
            if handle is not None:
                return handle
            found.roll_back()
    raise AssertionError("unreachable")


def unlink(name: str) -> None:
    """See `ipcio._backend.SemBackend`."""
    for _ in lifetime.retry_while_busy(name):
        with companions.ExistingObject(_KIND, name) as found, removal.directory_lock(found.path, required=True):
            if undo.unlink(found, partial(companions.remove_once, _KIND, name)):
                return


def _create(name: str, value: int, perm: int, *, persist: bool, into: Callable[[OpenSemaphore], Handle]) -> Handle:
    with companions.NewObject(_KIND, name) as new:
        new.announce()
        text = companions.posix_name(name)
        with fork_lock:
            if perm == _PERM:
                raw = new.make(PosixSemaphore, _COUNTING, value, _MAXIMUM, text, False)  # False: do not unlink
            else:
                from ipcio._posix import libc

                handle = new.make(libc.create_semaphore, text.encode(), perm, value)
                raw = PosixSemaphore._rebuild(handle, _COUNTING, _MAXIMUM, None)
            new.show()
            new.finish(_PERM, persist=persist)
            return into(_permits(raw, new))


def _create_undo(
    name: str,
    value: int,
    perm: int,  # noqa: ARG001 -- see below
    *,
    persist: bool,
    into: Callable[[OpenSemaphore], Handle],
) -> Handle:
    with companions.ExistingObject(_KIND, name) as old:
        if lifetime.free_name(old.path) and companions.exists(_KIND, name):  # a foreign one
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    # Nobody but its user can find the record, let alone the set.
    making = partial(objects.NewObject, name, old.path)
    return undo.create(making, _BLANK, value, perm=_PERM, persist=persist, into=into)


def _attach(found: companions.ExistingObject, *, again: bool, into: Callable[[OpenSemaphore], Handle]) -> Handle | None:
    """Open what there is; None: look again."""
    with fork_lock:
        try:
            found.open(writable=True)
        except FileNotFoundError:
            pass
        else:
            permits = _found(found, again=again)
            return None if permits is None else into(permits)
    return companions.open_foreign(_KIND, found.name, lambda: into(_permits(_open_foreign(found), found)))


def _found(found: companions.ExistingObject, *, again: bool) -> OpenSemaphore | None:
    """Open what a file was found for; None: look again."""
    record = undo.read(found.fd, found.info)
    if record is not None:
        return undo.attach(found, record, again=again)
    if not found.join():
        return None
    companion = companions.read(found.fd, found.info)
    if companion is None or companion.state != companions.READY:
        return None
    raw = _open(found.name)
    return _permits(raw, found) if lifetime.path_means(found.path, found.info) else None


def _open_foreign(found: companions.ExistingObject) -> PosixSemaphore:
    if found.owner is not None:
        text = "this system does not say whose a semaphore is that ipcio did not make as this user (owner=)"
        raise PermissionError(errno.EPERM, text)
    return _open(found.name)


def _open(name: str) -> PosixSemaphore:
    return PosixSemaphore._rebuild(0, _COUNTING, _MAXIMUM, companions.posix_name(name))


def _permits(raw: PosixSemaphore, hand: OpenObject) -> OpenSemaphore:
    objects.keep_share(raw, hand)
    return raw, partial(_post, raw), partial(_value, raw), False


def _value(raw: PosixSemaphore) -> int:
    try:
        return raw._get_value()
    except NotImplementedError:
        raise NotImplementedError("this system cannot tell the value of a semaphore") from None


def _post(raw: PosixSemaphore, n: int) -> None:
    """Release `n` times, without a chance for a signal handler in between but after each step of many.

    All or none, unless a handler raises.  The system does not say beforehand how many there is
    room for.  (macOS does not say it afterwards, either.)
    """
    before = 0
    given: list[None] = []
    try:
        if n > _MAXIMUM:
            raise OverflowError
        for before in range(0, n, STEP):
            given.clear()
            record_times(given, min(STEP, n - before), raw.release)
    except (OverflowError, ValueError, OSError) as error:
        # As `record_times`, but up to the first that gets none: others may have acquired some.
        all(starmap(raw.acquire, repeat((False,), len(given))))
        for _ in range(0, before, STEP):
            all(starmap(raw.acquire, repeat((False,), STEP)))
        if isinstance(error, OSError) and error.errno != errno.EOVERFLOW:
            raise
        raise OverflowError(f"so many more would take the semaphore over its maximum of {_MAXIMUM}") from None
