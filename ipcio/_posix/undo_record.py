"""The record of a crash-safe semaphore: what is in its file, and when a file is believed to be one.

What the record is for is described in `ipcio._posix.undo`.

A file is believed to be a record only if no user but its owner can have written its content: no
other user has permission to write to it, and it is *sealed*, which the kernel allows only to the
owner.  So a user with permission to write to a segment of ours cannot make a record of it.  The
permissions that the caller asks for are those of the set.  If they allow another user to write,
that user may read the file.  A name in a record is believed only if it leads to the record.
"""

from __future__ import annotations

import os
import stat
import struct

from ipcio._names import check_name
from ipcio._posix import lifetime
from ipcio._posix.namespace import RECORD, semaphore_path, semaphore_paths
from ipcio._typing import NamedTuple

_RECORD = struct.Struct("=64s16sii256s")  # a sem_t of value 0, the magic, key, flags, name
_MAGIC = b"ipcio undo sem 2"

# The seal is the time of last modification, in nanoseconds: an instant of 1970.  Only the owner can set
# it, and if another user writes, through a descriptor from before, the kernel sets it to now.  The id of
# the set is added to the instant, so that both are written in one step.
_SEAL = 7_654_321_000_000_000
NO_ID = -1  # until the set exists
_LARGEST_ID = 0x7FFFFFFF
_WRITABLE = stat.S_IWGRP | stat.S_IWOTH

SIZE = RECORD
assert _RECORD.size == SIZE
ANCHOR = ".ipcio-undo-"


class Record(NamedTuple):
    """The content of a sealed file: `number` is the id of the set, `name` one component of a path."""

    key: int
    number: int
    persists: bool
    name: str
    bound: int | None = None
    """The greatest value that a release may lead to."""

    def anchor(self, beside: str) -> str:
        """Return the path of the name that no `unlink` removes, in the directory of the path `beside`."""
        return anchor_path(self.key, beside)

    def path(self, beside: str) -> str:
        """Return the path of the public name, in that directory."""
        return semaphore_path(self.name, os.path.dirname(beside))

    def names(self, beside: str, info: os.stat_result) -> list[str]:
        """Return the public paths that mean the record with the status `info`."""
        paths = semaphore_paths(self.name, os.path.dirname(beside))
        return [path for path in paths if lifetime.path_means(path, info)]


def anchor_path(key: int, beside: str) -> str:
    """Return the path of the anchor of the set with this key, in the directory of the path `beside`."""
    return f"{os.path.dirname(beside)}/{ANCHOR}{key:08x}"


def pack(blank: bytes, key: int, persist: bool, bound: int | None, name: str) -> bytes:
    """Return the content of a record; `blank` is a semaphore of value 0."""
    flags = persist | (bound or 0) << 1
    return _RECORD.pack(blank, _MAGIC, key, flags, os.fsencode(name))


def is_sealed(info: os.stat_result) -> bool:
    """Whether a file can be a record: no user but its owner can have written its content."""
    return (
        info.st_size == SIZE
        and NO_ID <= _number_in(info) <= _LARGEST_ID
        and stat.S_ISREG(info.st_mode)
        and not info.st_mode & _WRITABLE
    )


def _number_in(info: os.stat_result) -> int:
    return info.st_mtime_ns - _SEAL - 1


def seal(fd: int, number: int) -> None:
    """Seal the record open as `fd`, with the id of its set."""
    time = _SEAL + 1 + number
    os.utime(fd, ns=(time, time))
    if os.fstat(fd).st_mtime_ns != time:  # a file system with coarser times has no room for the id; the key is enough
        os.utime(fd, ns=(_SEAL, _SEAL))


def read(fd: int, info: os.stat_result) -> Record | None:
    """Return the record open as `fd`, None if the file is no record."""
    if not is_sealed(info):
        return None
    data = os.pread(fd, SIZE, 0)
    if len(data) != SIZE:
        return None
    _, magic, key, flags, name = _RECORD.unpack(data)
    try:
        text = check_name(os.fsdecode(name.partition(b"\0")[0]))
    except ValueError:
        return None
    if magic != _MAGIC or key <= 0 or flags < 0:
        return None
    return Record(key, _number_in(info), bool(flags & 1), text, flags >> 1 or None)


def set_of(record: Record, info: os.stat_result) -> int | None:
    """Return the id of the record's set, None if the set does not exist.

    The set must have been made by the user that owns the file.  Otherwise a user could write
    a record with which other users operate on their own sets, and remove them.
    """
    from ipcio._posix import sysv

    number = sysv.find(record.key, info.st_uid)
    return number if record.number in {number, NO_ID} else None


def mode_for(perm: int) -> int:
    """Return the permissions of the record of a set with `perm`: to write to the set becomes to read the record."""
    return perm & ~_WRITABLE | (perm & _WRITABLE) << 1
