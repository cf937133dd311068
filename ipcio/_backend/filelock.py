"""What `filelock` of a back end owes."""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Literal

    from ipcio._tuples import Conflict, Owner


class LockBackend(Protocol):
    """Locks on ranges of an open file's bytes; a length of 0 means to infinity.

    On Linux `request` and `ask` are functions of C, so that no Python runs between
    `ipcio.filelock` and the system.
    """

    SEMANTICS: Literal["open file", "process"]
    """The owner of a lock."""
    SHARE: int
    EXCLUDE: int
    UNLOCK: int
    AT_ONCE: int
    """The command to `ask` without waiting."""
    BUSY: tuple[type[OSError], ...]
    """What `ask` raises if another lock conflicts."""

    def prepare(self) -> None:
        """Import what the functions below need: a process that gives up its rights later may not find the modules."""
        ...

    def request(self, kind: int, start: int, length: int, /) -> Any:
        """Return a request in the back end's own form; `kind` is SHARE, EXCLUDE or UNLOCK."""
        ...

    def ask(self, fd: int, command: int, request: Any, /) -> object:
        """Lock or unlock; with the command `AT_ONCE`, raise one of `BUSY` if another lock conflicts.

        `NotImplementedError`, and nothing changed, where the system cannot unlock a part of a lock.
        """
        ...

    def wait(self, fd: int, request: Any, seconds: float | None, /) -> bool:
        """Lock within that time (None: without limit); return whether it was locked."""
        ...

    def conflict(self, fd: int, request: Any, /) -> Conflict | None:
        """Return a lock that the request conflicts with."""
        ...

    def open_path(self, path: Any, flags: int, /) -> int:
        """Open a lock file, a regular file, and create it (mode 0600) if it is missing; never wait.

        A symbolic link is followed only if it belongs to this user.  The flags are those that `open`
        passes to an opener.
        """
        ...

    def owners(self, fd: int, lock: Conflict, among: Iterable[Owner] = (), /) -> Iterator[Owner | None]:
        """Search for processes that have this lock, `among` these or, by default, among all.

        For a conflict without a process.  The search may take long, so it yields None for each step
        that finds nothing, and no step blocks.
        """
        ...

    def describe(self, pid: int) -> str:
        """Return the name of a process's command, empty if it is unknown."""
        ...
