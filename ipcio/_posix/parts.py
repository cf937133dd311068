"""What mutexes, events and queues are made of: locks and words, as the system and the object allow."""

from __future__ import annotations

import os
import stat

from ipcio._posix.words import make_words as words
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap

    from ipcio._backend import Lock, OpenObject

__all__ = ["is_trusted", "lock", "lock_layout", "new_lock", "process_namespace", "read", "words"]


def read(fd: int, _: mmap.mmap | memoryview[int], size: int, /) -> bytes:
    """Return the first bytes, by a call that does not touch the memory."""
    return os.pread(fd, size, 0)


def is_trusted(fd: int, /) -> bool:
    """Whether only this user can write to the object."""
    info = os.fstat(fd)
    return info.st_uid == os.geteuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def process_namespace() -> int:
    """Return the number of the PID namespace's file."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def lock_layout() -> bytes:
    """Return what is the same in all processes that can share a narrow lock."""
    return b""


def new_lock(*, wide: bool) -> bytes:  # noqa: ARG001
    """Return the bytes of a free lock."""
    return bytes(64)


def lock(opened: OpenObject, at: int, /) -> Lock:
    """Return the lock with its slot there."""
    raise NotImplementedError(f"{opened.kind}: no lock at {at}")
