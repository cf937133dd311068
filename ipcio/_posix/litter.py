"""What the dead left behind, found without knowing names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ipcio._forklock import turn
from ipcio._posix import lifetime, undo
from ipcio._posix.abilities import NAMES_ARE_FILES
from ipcio._posix.objects import DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["collect"]

_ANCHOR = ".ipcio-undo-"


def collect() -> Iterator[tuple[str, str]]:
    """Remove every dead object that this user may remove; give the kind, ``"shm"`` or ``"sem"``, and the name of each.

    What lives, persists or is not ipcio's stays.
    """
    # Hidden names last: that of a crash-safe semaphore goes along with its public one.
    directory = _directory()
    for entry in sorted(os.listdir(directory), key=lambda entry: (entry[0] == ".", entry)):
        path = f"{directory}/{entry}"
        with turn:
            try:
                info = os.lstat(path)
                if not lifetime.is_marked(info) and not (entry.startswith(_ANCHOR) and undo.make_mortal(path)):
                    continue
                found = _describe(entry, path, info)
                if not lifetime.bury_dead(path):
                    continue
            except (FileNotFoundError, PermissionError, BlockingIOError):  # gone; somebody else's; kept locked
                continue
        yield found


def _directory() -> str:
    if NAMES_ARE_FILES:
        return DIRECTORY
    from ipcio._posix import companions, places  # the first knows what to do about the dead

    assert companions
    return places.directory()


def _describe(entry: str, path: str, info: os.stat_result) -> tuple[str, str]:
    if info.st_size == undo.SIZE and entry[0] == ".":
        try:
            fd = os.open(path, lifetime.PROBE)
        except PermissionError:  # its owner's permissions keep him out
            return "sem", entry
        try:
            record = undo.read(fd, info)
        finally:
            os.close(fd)
        if record is not None:
            return "sem", record.name
    if not NAMES_ARE_FILES:
        from ipcio._posix import places

        return places.name_of(entry) or ("shm", entry)
    return ("sem", entry[4:]) if entry.startswith("sem.") else ("shm", entry)
