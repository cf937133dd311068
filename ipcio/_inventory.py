"""Which named objects exist on this machine, and which processes hold them."""

from __future__ import annotations

import sys

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ipcio._backend import InventoryBackend, ObjectInfo

_backend: InventoryBackend

if sys.platform == "win32":
    from ipcio._windows import inventory as _sections

    _backend = _sections
else:
    from ipcio._posix import inventory as _files

    _backend = _files


def list_objects() -> list[ObjectInfo]:
    """Return all shared memory and all semaphores, of ipcio and of other programs; this changes nothing."""
    return sorted(_backend.list_objects(), key=lambda each: (each.kind != "shm", each.name))


def _ignore(*_: str) -> None:
    pass


def remove_orphans(skipped: Callable[[str, str], object] = _ignore) -> Iterator[ObjectInfo]:
    """Remove what only killed processes held; yield each object when it has been removed.

    `skipped` is called with the name of each file that could not be removed, and with the reason.
    """
    return _backend.remove_orphans(skipped)
