"""What mutexes, events and queues are made of: locks and words, as the system and the object allow."""

from __future__ import annotations

import os
import stat
import struct

from ipcio._layout import RANGE_LOCKS
from ipcio._posix import namespace
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap

    from ipcio._backend.parts import Words
    from ipcio._posix.file_bytes import FileBytes, FileCells
    from ipcio._posix.range_lock import RangeLock
    from ipcio._posix.robust import RobustLock
    from ipcio._tuples import OpenObject

__all__ = ["by_calls", "is_trusted", "lock", "lock_layout", "new_lock", "process_namespace", "read", "words"]


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
    """Return what is the same in all processes that can share a narrow lock: the bytes of a free mutex."""
    from ipcio._posix import pthread_mutex

    free = pthread_mutex.blank()
    return RANGE_LOCKS if free is None else bytes((struct.calcsize("P"),)) + free[:31]


def new_lock(*, wide: bool) -> bytes:
    """Return the bytes of a free lock."""
    from ipcio._posix import pthread_mutex

    return (None if wide else pthread_mutex.blank()) or bytes(pthread_mutex.SIZE)


def words(opened: OpenObject, /) -> Words:
    """Return the words of the object."""
    from ipcio._posix.words import make_words  # and `ctypes`

    return make_words(opened)


def lock(opened: OpenObject, at: int, /) -> RobustLock | RangeLock:
    """Return the lock with its slot there."""
    from ipcio._posix import pthread_mutex, range_lock, robust

    path = namespace.segment_path(opened.name, opened.kind)
    make = range_lock.lock_at if opened.wide or pthread_mutex.blank() is None else robust.RobustLock
    return make(opened.fd, path, at, process_namespace, opened.name)


def by_calls(opened: OpenObject, /) -> tuple[FileCells, FileBytes]:
    """Return the numbers and the bytes of the object, read and written by calls of the system."""
    from ipcio._posix.file_bytes import FileBytes, FileCells

    contents = FileBytes(opened)
    return FileCells(contents), contents
