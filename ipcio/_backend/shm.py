"""What `shm` of a back end owes."""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from typing import TypeAlias

    from ipcio._backend.shares import Share

Handle = TypeVar("Handle")

if TYPE_CHECKING:
    Into: TypeAlias = Callable[[mmap.mmap | memoryview[int] | None, int, Share | None], Handle]


class ShmBackend(Protocol):
    """Named shared memory.

    `into` is called with what was opened, for the handle to give back at its end, and makes the handle
    that is returned.  It is called under `ipcio._forklock.fork_lock`, and the back end itself keeps no
    reference to the memory.  The caller does not hold that lock, because a back end may have to wait.

    What was opened is

    * the memory, which can be written if that was asked for; None for an empty segment;
    * a descriptor of the object with an offset of its own, -1 where the platform has none;
    * the handle's share in the name; None if ipcio does not decide how long the object exists.
    """

    def create(
        self,
        name: str,
        size: int,
        *,
        perm: int,
        persist: bool,
        reserve: bool,
        init: Callable[[Handle], object] | None,
        into: Into[Handle],
        kind: str = "shm",
    ) -> Handle:
        """Make a zero-filled object exclusively; it gets its name complete or not at all.

        `kind` is "shm" or one of `ipcio._names.SEGMENTS`: each kind has names of its own.

        An orphaned object that has the name is removed first.  With `reserve`, too little memory
        is ``ENOSPC`` here and now.

        `init` is called, without `fork_lock`, with a handle from `into`, and no other process sees the object
        before its first contents are there.  The handle is the one that is returned, or it has private memory whose
        bytes are copied.  If the name is in use, that is a `FileExistsError` before `init` is called.  After
        what `init` raises, the caller closes the handle.
        """
        ...

    def attach(
        self,
        name: str,
        *,
        writable: bool,
        owner: int | None = None,
        into: Into[Handle],
        kind: str = "shm",
    ) -> Handle:
        """Map what has the name, and take a share in it if ipcio made it.

        An object of another user than `owner` is a `PermissionError` before anything of it is used.
        (None: any user's, and always None where there are no user ids.)
        """
        ...

    def unlink(self, name: str, *, kind: str = "shm") -> None:
        """Remove the name now."""
        ...
