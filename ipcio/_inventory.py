"""Which named objects exist on this machine, and which processes hold them."""

from __future__ import annotations

import sys

from ipcio._names import SEGMENTS
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from ipcio._backend.inventory import InventoryBackend
    from ipcio._object_info import ObjectInfo

KINDS = "shm", "sem", *SEGMENTS
"""In the order of `list_objects`."""

_backend: InventoryBackend

if sys.platform == "win32":
    from ipcio._windows import inventory as _sections

    _backend = _sections
else:
    from ipcio._posix import inventory as _files

    _backend = _files


def list_objects() -> list[ObjectInfo]:
    """Return all named objects of this machine, sorted by kind (shared memory, semaphores, mutexes, ...) and name.

    Objects that other programs made are listed, too.  What another user made is listed as far as this user may
    see it.  Listing changes nothing, and disturbs no other process.  An object that is created or removed during
    the call may be listed or not.  This is what ``ipcio ls --json`` prints.

    On Windows only kind and name are known, and only the objects of this user's session are listed.
    """
    return sorted(_backend.list_objects(), key=lambda each: (KINDS.index(each.kind), each.name))


def exists(name: str, kinds: Collection[str]) -> bool:
    """Whether an object of one of these kinds has the name and is not orphaned; this changes nothing."""
    return _backend.exists(name, kinds)


def free_memory() -> tuple[str, int] | None:
    """Return where shared memory is and how many bytes are free there; None if the system has no limit for it."""
    return _backend.free_memory()


def remove_orphans(*, dry_run: bool = False) -> list[ObjectInfo]:
    """Remove named objects that only killed processes held; return what was removed.

    dry_run
        Remove nothing, and return what would be removed.

    The next call that uses the name of such an object removes it as well, so a program needs this only to have
    the memory back early.  An object that a process holds, a persistent one and one that another program made are
    never removed.  An orphaned object that cannot be removed, because it belongs to another user or
    a process keeps an exclusive lock on it, is left out of the list and is no error.  This is
    what ``ipcio gc`` does, which also prints what it skipped.

    On Windows there are no orphans, because the system itself removes an object with its last handle.
    """
    return list(remove_each_orphan(dry_run=dry_run))


def _ignore(*_: str) -> None:
    pass


def remove_each_orphan(
    skipped: Callable[[str, str], object] = _ignore, *, dry_run: bool = False
) -> Iterator[ObjectInfo]:
    """Do as `remove_orphans`, and yield each object when it has been removed.

    `skipped` is called with the name of each file that could not be removed, and with the reason.
    """
    return _backend.remove_orphans(skipped, dry_run=bool(dry_run))
