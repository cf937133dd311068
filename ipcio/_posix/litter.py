"""What the dead left behind, found without knowing names."""

from __future__ import annotations

import os

from ipcio._forklock import turn
from ipcio._posix import growing, inventory, lifetime, undo
from ipcio._posix.abilities import NAMES_ARE_FILES
from ipcio._typing import TYPE_CHECKING

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
                if not lifetime.is_marked(info) and not _make_mortal(path, entry):
                    continue
                found = inventory.identify(path, info)
                if not lifetime.bury_dead(path):
                    continue
            except (FileNotFoundError, PermissionError, BlockingIOError):  # gone; somebody else's; kept locked
                continue
        yield found.kind, found.name, found.size


def _make_mortal(path: str, entry: str) -> bool:
    """Whether this is the hidden name of something that was to persist, over which somebody was killed."""
    if entry.startswith(undo.ANCHOR):
        return undo.make_mortal(path)
    return NAMES_ARE_FILES and growing.make_mortal(path)
