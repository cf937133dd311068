"""What a list of the named objects says of each."""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Literal


class ProcessInfo(NamedTuple):
    """A process that has an object open or mapped."""

    pid: int
    command: str
    """Its short name, empty if it is unknown."""


class ObjectInfo(NamedTuple):
    """What is known of a named object, in the words of ``ipcio ls --json``; None for what is unknown.

    On Windows only the kind and the name are known.
    """

    kind: Literal["shm", "sem", "mutex", "event", "queue"]
    """``"shm"`` for shared memory, ``"sem"`` for a semaphore."""
    name: str
    """As given to ipcio."""
    size: int | None
    """In bytes, of shared memory or a queue."""
    value: int | None
    """Of a semaphore; the number of messages in a queue; of an event, 1 if it is set and 0 if not; the process id of
    the owner of a mutex, 0 if it is free."""
    undo: bool
    """Whether it is a crash-safe semaphore."""
    perm: str | None
    """The permission bits as four octal digits: ``"0600"``."""
    owner: str | None
    """The user's name, or their number if they do not have one."""
    age: float | None
    """Seconds since it was created; a write through a file descriptor may make it younger."""
    state: Literal["live", "orphan", "persistent", "foreign"]
    """``"live"``: a process has a handle.  ``"orphan"``: all of its holders have been killed.
    ``"persistent"``: it stays until ``unlink``.  ``"foreign"``: another program made it."""
    holders: list[ProcessInfo]
    """The processes that have it open or mapped, as far as this user may see them; each has a ``pid`` and a
    ``command``, which is its short name."""
