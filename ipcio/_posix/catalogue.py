"""Which shared memory there is and what its files tell, without asking who has it."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from ipcio._posix import lifetime, objects
from ipcio._posix.abilities import NAMES_ARE_FILES

__all__ = ["describe", "names"]


def names() -> list[str]:
    """Return the names that there may be segments under; where no list can be had, of those that ipcio made."""
    if NAMES_ARE_FILES:
        return sorted(name for name in os.listdir(objects.DIRECTORY) if not name.startswith((".", "sem.")))
    from ipcio._posix import places

    known = filter(None, map(places.name_of, os.listdir(places.directory())))
    return sorted(name for kind, name in known if kind == "shm")


def describe(name: str) -> dict[str, Any] | None:
    """Return what there is to know of a segment, None where one has to attach for that.

    Raises `FileNotFoundError` if there is none that lives.
    """
    if not NAMES_ARE_FILES:
        return None
    with objects.InHand(name, f"{objects.DIRECTORY}/{name}") as named:
        try:
            dead = lifetime.bury_dead(named.path)
        except PermissionError:  # its owner's to remove
            dead = True
        info = os.lstat(named.path)
        if dead or not stat.S_ISREG(info.st_mode) or not info.st_size:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return {
            "size": info.st_size,
            "mode": stat.S_IMODE(info.st_mode) & 0o777,
            "uid": info.st_uid,
            "gid": info.st_gid,
            "ino": info.st_ino,  # so that a new segment under an old name is told from that
            "created": info.st_ctime,
            "mtime": info.st_mtime,
        }
