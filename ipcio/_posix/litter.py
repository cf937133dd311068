"""What the dead left behind, found without knowing names."""

from __future__ import annotations

import functools
import os
import stat

from ipcio._posix import growing, inventory, lifetime, namespace, procfs, undo
from ipcio._posix.namespace import NAMES_ARE_FILES
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["collect"]


def _ignore(name: str, reason: str) -> None:
    pass


def collect(skipped: Callable[[str, str], object] = _ignore) -> Iterator[tuple[str, str, int | None]]:
    """See `ipcio._backend.LitterBackend`.  What is in use, persists or is not ipcio's stays."""
    # Hidden names last: that of a crash-safe semaphore goes along with its public one.
    directory = inventory.directory()
    # Once for all: an object that is in use now was so before.
    locked = functools.cache(procfs.flocks)
    for entry in sorted(os.listdir(directory), key=lambda entry: (entry[0] == ".", entry)):
        try:
            found = _remove(f"{directory}/{entry}", entry, locked)
        except FileNotFoundError:  # gone meanwhile
            continue
        except OSError as error:
            # What its owner forbids, keeps locked or exchanges meanwhile keeps nothing else from going.
            skipped(entry, error.strerror or str(error))
            continue
        if found is not None:
            yield found.kind, found.name, found.size


def _remove(path: str, entry: str, locked: Callable[[], dict[str, bool]]) -> inventory.Found | None:
    """Remove an orphaned object there; return what it was, None if it stays."""
    info = os.lstat(path)
    if not stat.S_ISREG(info.st_mode):  # nothing of ipcio's
        return None
    try:
        if not namespace.is_managed(info) and not _clear_persistent(path, entry):
            return None
        found = inventory.identify(path, info)
    except PermissionError:  # only its owner and root can know whether it is to go
        return None
    return found if lifetime.free_name(path, patient=False, locked=locked) else None


def _clear_persistent(path: str, entry: str) -> bool:
    """Whether this is the hidden name of something that was to persist, over which somebody was killed."""
    if entry.startswith(undo.ANCHOR):
        return undo.clear_persistent(path)
    try:
        return NAMES_ARE_FILES and growing.clear_persistent(path)
    except BlockingIOError:  # it is being written
        return False
