"""Named semaphores that outlive nobody and strand nobody.

A semaphore is a number of permits under a name.  Whoever creates or attaches it in any
process takes permits and gives them::

    from ipcio import sem

    s = sem.create("printers", 2)      # in one process

    with sem.attach("printers"):       # meanwhile, in any other: never more than two in here
        ...

**How long a name lives.**  Exactly as long as some handle in some process is open, as in
`ipcio.shm`: a process that dies, by SIGKILL too, counts as having closed its handles;
``persist=True`` opts out.

**What becomes of permits** when a process dies that holds some?  Of an ordinary
semaphore, nothing: they are lost to all others, as with every POSIX semaphore.
``create(..., undo=True)`` makes a *crash-safe* one, from which the kernel takes them
back, exactly once and at once, however the process died.  A permit belongs to the
process that took it.  If another process gives it in its stead, the death of the first
gives it once more: that is what the kernel makes of it.  A release beyond what the
process holds, in a forked child too, gives permits that nobody takes back.

**Who else can be there.**  ``sem.create("x")`` makes what C calls ``sem_open("/x")``: C
programs, LuaIPC and ``posix_ipc`` meet ipcio by name, in both directions.  Such programs
hold no share in the name, and semaphores that they made are attached but never removed.
They can open the name of a crash-safe semaphore, too, but see an ordinary one there
that never has a permit.

Linux, macOS, Windows; what differs is told in ``docs/platforms.md``: on Windows nothing
persists, no name can be removed and none is crash-safe.  (LuaIPC: ``ipc.sem``; POSIX:
``sem_open(3)``, ``semop(2)`` for ``SEM_UNDO``; Windows: ``CreateSemaphoreW``.)
"""

from __future__ import annotations

import sys
from functools import partial
from operator import index

from ipcio._names import attach_in_time, check_name, check_owner, check_perm, create_or_attach, explained, owner_of_new
from ipcio._semaphore import Semaphore
from ipcio._typing import TYPE_CHECKING

if sys.platform == "win32":
    from ipcio._windows import sem as _chosen
else:
    from ipcio._posix import sem as _chosen

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipcio._backend import SemBackend

__all__ = ["attach", "create", "open", "unlink"]

_KIND = "semaphore"  # in messages

_backend: SemBackend = _chosen


def open(name: str, n: int = 0, *, perm: int = 0o600, persist: bool = False) -> Semaphore:
    """Create a semaphore of value `n` if that is positive; attach an existing one if it is 0.

    LuaIPC's rule for what are `create` and `attach` here; they say more.
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
) -> Semaphore:
    """Create a semaphore with `value` permits to take, 0 or more, and return a handle.

    name
        One word, without a slash; ``None`` invents a unique one, found in the
        handle's ``name``.
    perm
        The permission bits of the new object, whatever the umask (macOS: at most these;
        Windows: always the user alone).  Who is to use it needs both reading and writing.
        Of a crash-safe one these are the bits of its System V set; its file in ``/dev/shm``
        can be written by its owner alone.
    persist
        The semaphore stays until `unlink`, whoever holds it.  `NotImplementedError` on
        Windows.
    exist_ok
        Attach instead if the name lives, without a race and whatever kind it is; the
        handle's ``created`` tells which.
    undo
        Make it crash-safe: permits of processes that die come back.  POSIX only
        (`NotImplementedError` elsewhere) and in the main interpreter of a process
        (`NotImplementedError` in a subinterpreter, from `attach`, too); the value is at most
        32767, and the system has a limit on their number, which ``kernel.sem`` sets.
    owner
        With `exist_ok`: the user id of the user to whom an existing semaphore must belong;
        see `attach`.  A new one belongs to this process's user.

    Raises `FileExistsError` if the name lives, `PermissionError` if a dead semaphore
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
    perm = check_perm(perm)
    owner = check_owner(owner)

    def make(wanted: str) -> Semaphore:
        return _backend.create(
            wanted,
            value,
            perm=perm,
            persist=bool(persist),
            crash_safe=bool(undo),
            into=lambda permits: Semaphore._over(permits, wanted, _again(owner_of_new(owner)), True),
        )

    with explained(_KIND, name):
        return create_or_attach(name, make, partial(_join, owner=owner) if exist_ok else None)


def attach(name: str, *, timeout: float | None = 0, owner: int | None = None) -> Semaphore:
    """Return a handle on an existing semaphore, of either kind.

    timeout
        How many seconds to wait for a semaphore of that name, so that programs may be started
        in any order; None or negative waits for ever.  It is found at most 30 ms late.
    owner
        The user id of the user to whom the semaphore must belong.  One of another user is a
        `PermissionError`, before it is opened as a semaphore or locked; None allows any
        user.  A pickled copy of the handle insists, too.  `NotImplementedError` on Windows;
        on macOS also a `PermissionError` for every semaphore that ipcio did not make, for the
        system does not say whose those are.

    What others put under the name is checked before it is used: anything but a regular
    file of exactly a semaphore's size is an `OSError`.  (A file of that very size that
    is none cannot be told apart.)  Raises `FileNotFoundError` if the name does not
    live, `PermissionError` without permission to read and write it, `ValueError` or
    `TypeError` for a malformed argument.
    """
    check_name(name)
    owner = check_owner(owner)
    with explained(_KIND, name):
        return attach_in_time(lambda: _join(name, owner), timeout)


def unlink(name: str, *, missing_ok: bool = False) -> None:
    """Remove `name` now; open handles go on with their semaphore, and the name is free for others.

    The only way to remove a persistent semaphore or one that ipcio did not make; all
    others go by themselves.  Raises `FileNotFoundError` if the name does not exist, unless
    `missing_ok`, `NotImplementedError` on Windows if it does: there a name goes with its last handle and
    in no other way.  (POSIX: ``sem_unlink(3)``.)
    """
    check_name(name)
    try:
        with explained(_KIND, name):
            _backend.unlink(name)
    except FileNotFoundError:
        if not missing_ok:
            raise


def _join(name: str, owner: int | None) -> Semaphore:
    return _backend.attach(
        name,
        owner=owner,
        into=lambda permits: Semaphore._over(permits, name, _again(owner), False),
    )


def _again(owner: int | None) -> Callable[[str], Semaphore]:
    """What attaches for a pickled copy."""
    return attach if owner is None else partial(attach, owner=owner)


def __dir__() -> list[str]:
    return __all__
