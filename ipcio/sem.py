"""Named semaphores; crash-safe ones get back the permits of a process that is killed.

A semaphore is a number of permits under a name.  Any process that creates or attaches it can
acquire permits and release them::

    from ipcio import sem

    s = sem.create("printers", 2)      # in one process

    with sem.attach("printers"):       # meanwhile, in any other: never more than two in here
        ...

**How long a name exists.**  Exactly as long as some handle in some process is open, as in
`ipcio.shm`: when a process exits or is killed, by SIGKILL too, its handles count as closed.
With ``persist=True`` the semaphore stays until `unlink`.

**Permits of a process that exits or is killed.**  Those of an ordinary semaphore are lost
to all other processes, as with every POSIX semaphore.  ``create(..., undo=True)`` makes
a *crash-safe* semaphore: the kernel releases the permits at once and exactly once, however the
process ended.  A permit belongs to the process that acquired it.  If another process
releases it, the kernel still counts it as the first one's and releases it again when that exits.
A release beyond what the process holds, in a forked child too, adds permits that
the kernel never takes back.

**Other programs.**  ``sem.create("x")`` makes what C calls ``sem_open("/x")``.  C
programs, LuaIPC and ``posix_ipc`` open the semaphores of ipcio by name, and ipcio theirs.  They do
not count as holders, and semaphores that they made are attached but never removed.
They can open the name of a crash-safe semaphore, too, but find an ordinary one there
that never has a permit.

Linux, macOS, Windows; the page :doc:`/platforms` lists the differences: on Windows nothing
persists, no name can be removed and no semaphore is crash-safe.  (LuaIPC: ``ipc.sem``; POSIX:
``sem_open(3)``, ``semop(2)`` for ``SEM_UNDO``; Windows: ``CreateSemaphoreW``.)
"""

from __future__ import annotations

import sys

from ipcio._light import index, partial
from ipcio._names import (
    attach_in_time,
    check_name,
    check_owner,
    check_perm,
    create_or_attach,
    explain,
    owner_of_new,
    remove_name,
)
from ipcio._semaphore import Semaphore
from ipcio._typing import TYPE_CHECKING

if sys.platform == "win32":
    from ipcio._windows import sem as _chosen
else:
    from ipcio._posix import sem as _chosen

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipcio._backend.sem import SemBackend

__all__ = ["attach", "create", "open", "unlink"]

_KIND = "semaphore"  # in messages

_backend: SemBackend = _chosen


def open(name: str, n: int = 0, *, perm: int = 0o600, persist: bool = False) -> Semaphore:
    """Create a semaphore of value `n` if that is positive; attach an existing one if it is 0.

    LuaIPC has this one function for what `create` and `attach` do; see there.
    """
    n = index(n)
    if n < 0:
        raise ValueError("n must be 0 (attach) or the value of a new semaphore")
    return create(check_name(name), n, perm=perm, persist=persist) if n else attach(name)


def create(
    name: str | None,
    value: int = 1,
    *,
    perm: int = 0o600,
    persist: bool = False,
    exist_ok: bool = False,
    undo: bool = False,
    owner: int | None = None,
    max: int | None = None,  # noqa: A002 -- the natural word, which this function does not call
) -> Semaphore:
    """Create a semaphore with `value` permits, 0 or more, and return a handle.

    name
        One word, without a slash; ``None`` invents a unique one, found in the
        handle's ``name``.
    perm
        The permission bits of the new object, whatever the umask (macOS: at most these;
        Windows: always the user alone).  A user needs both reading and writing to use it.
        For a crash-safe one these are the bits of its System V set; its file in ``/dev/shm``
        can be written by its owner alone.
    persist
        The semaphore stays until `unlink`, with open handles or without.  `NotImplementedError` on
        Windows.
    exist_ok
        Attach instead if the name exists, without a race; the handle's ``created`` says which.
        An existing semaphore may be crash-safe or not, whatever `undo` is here.
    undo
        Make it crash-safe: permits of processes that exit or are killed are released.  POSIX only
        (`NotImplementedError` elsewhere) and in the main interpreter of a process
        (`NotImplementedError` in a subinterpreter, from `attach`, too); the value is at most
        32767, and the system has a limit on their number, which ``kernel.sem`` sets.
    owner
        With `exist_ok`: the user id of the user that an existing semaphore must belong to;
        see `attach`.  A new one belongs to this process's user.
    max
        The greatest value that a release may lead to; None means the maximum of the platform.  A release beyond
        it is a `ValueError`, as of `threading.BoundedSemaphore`, and finds a program that releases
        more than it acquires.  The bound of an ordinary semaphore belongs to this handle and to its pickled copies, and
        is compared with the value right before the release: two processes that release at the same time may pass
        it.  That of a crash-safe semaphore belongs to the semaphore, whichever process attaches
        it, and the comparison and the release are one step (on macOS two).  It does not limit the permits
        that the kernel releases when a process exits or is killed.  `NotImplementedError` for an ordinary semaphore
        on macOS, which does not say the value.

    Raises `FileExistsError` if the name exists, `PermissionError` if an orphaned semaphore
    of another user is in the way, ``OSError(ENOSPC)`` if there is no room or no set
    left, ``OSError(ENAMETOOLONG)`` for a name of more than 251 bytes (musl: 255, macOS: 30
    characters, Windows: 259), `OverflowError` for a value past the maximum, `ValueError`
    or `TypeError` for a malformed argument.  Whenever it raises, nothing was made.
    """
    if name is not None:
        check_name(name)
    value = index(value)
    if value < 0:
        raise ValueError("value must not be negative")
    bound = _check_bound(max, value)
    perm = check_perm(perm)
    owner = check_owner(owner)

    def make(wanted: str) -> Semaphore:
        return _backend.create(
            wanted,
            value,
            perm=perm,
            persist=bool(persist),
            crash_safe=bool(undo),
            bound=bound,
            into=partial(Semaphore._over, wanted, _again(owner_of_new(owner), bound), True, bound),
        )

    try:
        return create_or_attach(name, make, partial(_join, owner=owner, bound=bound) if exist_ok else None)
    except OSError as error:
        explain(error, _KIND, name)
        raise


def attach(name: str, *, timeout: float | None = 0, owner: int | None = None) -> Semaphore:
    """Return a handle on an existing semaphore, of either kind.

    timeout
        How many seconds to wait for a semaphore of that name, so that programs may be started
        in any order; None or negative waits for ever.  It is found at most 30 ms late.
    owner
        The user id of the user that the semaphore must belong to.  One of another user is a
        `PermissionError`, before it is opened as a semaphore or locked; None allows any
        user.  A pickled copy of the handle has the same requirement.  `NotImplementedError` on Windows;
        on macOS also a `PermissionError` for every semaphore that ipcio did not make, because the
        system does not say which user those belong to.

    What other programs put under the name is checked before it is used: anything but a regular
    file of exactly a semaphore's size is an `OSError`.  (A file of that very size cannot be
    distinguished from a semaphore.)  Raises `FileNotFoundError` if the name does not
    exist, `PermissionError` without permission to read and write it, `ValueError` or
    `TypeError` for a malformed argument.
    """
    check_name(name)
    owner = check_owner(owner)
    try:
        return _join(name, owner) if timeout == 0 else attach_in_time(partial(_join, name, owner), timeout)
    except OSError as error:
        explain(error, _KIND, name)
        raise


def unlink(name: str, *, missing_ok: bool = False) -> None:
    """Remove `name` now; open handles go on with their semaphore, and the name is free for others.

    This is the only way to remove a persistent semaphore or one that ipcio did not make; all
    others are removed with their last handle.  Raises `FileNotFoundError` if the name does not exist,
    unless `missing_ok`.  On Windows, an existing name is a `NotImplementedError`: the system removes it
    with the last handle and in no other way.  (POSIX: ``sem_unlink(3)``.)
    """
    remove_name(_KIND, name, _backend.unlink, missing_ok=missing_ok)


def _check_bound(bound: int | None, value: int) -> int | None:
    if bound is None:
        return None
    bound = index(bound)
    if bound < 1 or bound < value:
        raise ValueError(f"max must be at least 1 and at least the value, which is {value}, not {bound}")
    return bound


def _join(name: str, owner: int | None, bound: int | None = None) -> Semaphore:
    into = partial(Semaphore._over, name, _again(owner, bound), False, bound)
    return _backend.attach(name, owner=owner, into=into)


def _attach_bounded(name: str, *, owner: int | None, bound: int) -> Semaphore:
    try:
        return _join(name, owner, bound)
    except OSError as error:
        explain(error, _KIND, name)
        raise


def _again(owner: int | None, bound: int | None = None) -> Callable[[str], Semaphore]:
    """Return what attaches a pickled copy."""
    if bound is not None:
        return partial(_attach_bounded, owner=owner, bound=bound)
    return attach if owner is None else partial(attach, owner=owner)


def __dir__() -> list[str]:
    return __all__
