"""What `mmap` of a back end owes."""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import mmap
    import os
    from collections.abc import Callable
    from typing import Any, TypeAlias

Handle = TypeVar("Handle")

if TYPE_CHECKING:
    Into: TypeAlias = Callable[[mmap.mmap | None, int, os.stat_result], Handle]


class MmapBackend(Protocol):
    """Files mapped into memory.

    `into` is as in `ipcio._backend.shm.ShmBackend`.  It is called with the memory (None: of no bytes), a descriptor
    with an offset of its own, and the status of the file.
    """

    def open(self, file: Any, *, writable: bool, offset: int, size: int, into: Into[Handle]) -> Handle:
        """Map `size` bytes (0: all) of `file`, a path or a descriptor, from `offset`."""
        ...

    def map_descriptor(self, fd: int, size: int, *, writable: bool, offset: int = 0) -> mmap.mmap:
        """Map `size` bytes of the object open as `fd` from `offset`, shared with every other map of it."""
        ...

    def reserve(self, fd: int, offset: int, size: int, name: Any) -> None:
        """Allocate the blocks of this part of the file; ``ENOSPC``, with `name`, if there are too few.

        `NotImplementedError` where the system cannot.
        """
        ...

    def path_of(self, fd: int) -> str:
        """Return the path by which another process can open the file of `fd`; `TypeError` if it has no path."""
        ...
