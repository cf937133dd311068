"""What named objects there are on this machine, and who has them."""

from __future__ import annotations

import sys

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipcio._backend import Entry, InventoryBackend

__all__ = ["survey"]

_backend: InventoryBackend

if sys.platform == "win32":
    from ipcio._windows import inventory as _sections

    _backend = _sections
else:
    from ipcio._posix import inventory as _files

    _backend = _files


def survey() -> list[Entry]:
    """List shared memory and semaphores, whoever made them; looking changes nothing."""
    return _backend.survey()
