"""What the dead left behind, found without knowing names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ipcio._forklock import turn
from ipcio._posix import inventory, lifetime, undo

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["collect"]


def collect() -> Iterator[tuple[str, str, int | None]]:
    """See `ipcio._contract.LitterBackend`.  What lives, persists or is not ipcio's stays."""
    # Hidden names last: that of a crash-safe semaphore goes along with its public one.
    directory = inventory.directory()
    for entry in sorted(os.listdir(directory), key=lambda entry: (entry[0] == ".", entry)):
        path = f"{directory}/{entry}"
        with turn:
            try:
                info = os.lstat(path)
                if not lifetime.is_marked(info) and not (entry.startswith(undo.ANCHOR) and undo.make_mortal(path)):
                    continue
                found = inventory.identify(path, info)
                if not lifetime.bury_dead(path):
                    continue
            except (FileNotFoundError, PermissionError, BlockingIOError):  # gone; somebody else's; kept locked
                continue
        yield found.kind, found.name, found.size
