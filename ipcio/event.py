"""Named events: a flag that some processes wait for and another one sets.

An event is set or clear.  Any process that creates or attaches it can wait until it is set::

    from ipcio import event

    e = event.create("ready")          # in one process
    e.set()

    event.attach("ready").wait()       # meanwhile, in any other: returns when the event is set

The methods are those of `threading.Event`.  `set` wakes every waiting thread, also if `clear` follows at once.  A
process that is killed, at any moment, leaves nothing to repair: there is no lock and no count of
waiting processes.

**How long a name exists.**  Exactly as long as some handle in some process is open, as in
`ipcio.shm`: when a process exits or is killed, by SIGKILL too, its handles count as closed.
With ``persist=True`` the event stays until `unlink`.  The names of events are a space of their own: shared
memory or a semaphore may have the same name.

Linux, macOS, Windows; :doc:`/platforms` lists the differences.  (Linux: ``futex(2)``.)
"""

from __future__ import annotations

from ipcio import _named
from ipcio._event import IS_SET, Event

__all__ = ["attach", "create", "unlink"]


def create(
    name: str | None,
    *,
    perm: int = 0o600,
    persist: bool = False,
    exist_ok: bool = False,
    is_set: bool = False,
    owner: int | None = None,
) -> Event:
    """Create an event and return a handle.

    name
        One word, without a slash; ``None`` invents a unique one, found in the handle's ``name``.
    perm
        The permission bits of the new object, whatever the umask (macOS: only this user can find it; Windows: always
        the user alone).  A user needs both reading and writing to use it, also to wait.
    persist
        The event stays until `unlink`, with open handles or without.  `NotImplementedError` on Windows.
    exist_ok
        Attach instead if the name exists, without a race; the handle's ``created`` says which.  An existing event
        stays set or clear, whatever `is_set` is here.
    is_set
        Whether the new event is set.
    owner
        With `exist_ok`: the user id of the user that an existing event must belong to; see `attach`.  A new one
        belongs to this process's user.

    Raises `FileExistsError` if the name exists, `PermissionError` if an orphaned event of another user is in the way,
    ``OSError(ENOSPC)`` if there is no room, ``OSError(ENAMETOOLONG)`` for a name of more than 243 bytes
    (Windows: 246 characters), `ValueError` or `TypeError` for a malformed argument.  Whenever it
    raises, nothing was made.
    """
    return _named.create(
        Event,
        attach,
        name,
        0,
        flags=IS_SET if is_set else 0,
        perm=perm,
        persist=persist,
        exist_ok=exist_ok,
        owner=owner,
    )


def attach(name: str, *, timeout: float | None = 0, owner: int | None = None) -> Event:
    """Return a handle on an existing event.

    timeout
        How many seconds to wait for an event of that name, so that programs may be started in any order; None or
        negative waits for ever.  It is found at most 30 ms late.
    owner
        The user id of the user that the event must belong to.  One of another user is a `PermissionError`, before it is
        opened as an event or locked; None allows any user.  A pickled copy of the handle has the same
        requirement.  `NotImplementedError` on Windows.

    Raises `FileNotFoundError` if the name does not exist, `PermissionError` without permission to read and
    write it, another `OSError` if there is something else under the name, or it is damaged, `ValueError` or
    `TypeError` for a malformed argument.
    """
    return _named.attach(Event, attach, name, timeout=timeout, owner=owner)


def unlink(name: str, *, missing_ok: bool = False) -> None:
    """Remove `name` now; open handles go on with their event, and the name is free for others.

    This is the only way to remove a persistent event; all others are removed with their last handle.  Raises
    `FileNotFoundError` if the name does not exist, unless `missing_ok`.  On Windows, an
    existing name is a `NotImplementedError`: the system removes it with the last handle and in no other way.
    """
    _named.unlink(Event.KIND, name, missing_ok=missing_ok)


def __dir__() -> list[str]:
    return __all__
