"""What the kernel tells everybody of ``flock`` locks: ``/proc/locks``."""

from __future__ import annotations

import os

__all__ = ["key_of", "locked"]


def key_of(info: os.stat_result) -> str:
    """Return how the kernel spells which file this is, in its lists of locks and of mappings."""
    return f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"


def locked() -> dict[str, bool]:
    """Return the keys of all files that ``flock`` locks are on, and whether one is exclusive; any process may ask.

    From lines such as ``1: FLOCK  ADVISORY  READ 6807 00:1a:4498576 0 EOF``.
    """
    found: dict[str, bool] = {}
    with open("/proc/locks", "rb") as table:  # as text it would import a codec
        for line in table:
            words = line.split()
            if words[1] == b"FLOCK":
                key = words[5].decode()
                found[key] = found.get(key, False) or words[3] == b"WRITE"
    return found
