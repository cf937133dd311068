"""What passes between the portable modules and a back end: named tuples."""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import mmap


class OpenObject(NamedTuple):
    """A mutex, an event or a queue that was opened, for its locks and words (`ipcio._backend.parts`)."""

    kind: str
    """One of `ipcio._names.SEGMENTS`."""
    name: str
    memory: mmap.mmap | memoryview[int]
    """All of it.  Whatever keeps an address in it also keeps this object, which unmaps it when it goes."""
    fd: int
    """A descriptor of the object, -1 where the platform has none; another one may have the number after a `close`."""
    trusted: bool
    """Whether this user alone can write to the object.

    If not, another process may cut its file short at any moment.  To touch the memory would then be a SIGBUS, so its
    bytes are read and written by calls that fail instead.
    """
    wide: bool
    """Whether its locks are those for objects that other users may write to; the creator has decided that."""


class Conflict(NamedTuple):
    """A lock that a request conflicts with."""

    start: int
    length: int
    """In bytes; 0 means to infinity."""
    exclusive: bool
    pid: int | None
    """The process that has it; None where the system does not name it."""


class Owner(NamedTuple):
    """A process, and the descriptor by which it has a file open."""

    pid: int
    descriptor: int
