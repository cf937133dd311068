"""What the kernel tells everybody of ``flock`` locks: ``/proc/locks``."""

from __future__ import annotations

import os

__all__ = ["key_of", "locked"]


def key_of(info: os.stat_result) -> str:
    """Return how the kernel spells which file this is, in its lists of locks and of mappings."""
    return f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"


def locked() -> set[str]:
    """Return the keys of all files that ``flock`` locks are on, from lines such as this; anybody may ask.

    ``1: FLOCK  ADVISORY  READ 6807 00:1a:4498576 0 EOF``
    """
    with open("/proc/locks", "rb") as table:  # as text it would import a codec
        return {words[5].decode() for line in table if (words := line.split())[1] == b"FLOCK"}
