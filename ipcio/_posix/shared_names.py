"""Whether a file is memory or a semaphore, for a C library (musl) with which the two share their names.

musl keeps a semaphore ``x`` in the file ``/dev/shm/x``, which is also where shared memory ``x``
is.  (glibc keeps the semaphore in ``sem.x``.)  So the size and the contents of the file
decide.  A plain semaphore that ipcio makes is *signed*: it ends with bytes that musl never
changes.  The record of a crash-safe one says its own name.  A file of another program counts
as a semaphore if it has the size of one, and the contents that musl gives to one.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from ipcio._posix import lifetime, namespace, undo_record

_USED = struct.Struct("=III")  # the part that musl uses: the value, whether processes wait, the kind of futex
_SHARED = 0  # the kind that works between processes; glibc has another number
_SIGN = b"ipcio semaphore 1   "[: namespace.SEMAPHORE - _USED.size]

SHARED = "here memory and semaphores share their names"


def sign(new: bytes) -> bytes:
    """Return the bytes of a new semaphore, signed."""
    return new[: _USED.size] + _SIGN


def is_semaphore(name: str, fd: int, info: os.stat_result, *, surely: bool) -> bool:
    """Whether the file open as `fd`, under `name`, is a semaphore; if `surely`, one that ipcio made."""
    record = undo_record.read(fd, info)
    if record is not None:
        return record.name == name
    if info.st_size != namespace.SEMAPHORE:
        return False
    data = os.pread(fd, namespace.SEMAPHORE, 0)
    if data.endswith(_SIGN):
        return True
    if surely or namespace.is_managed(info) or namespace.is_persistent(fd, info):
        return False
    return len(data) == namespace.SEMAPHORE and _USED.unpack_from(data)[2] == _SHARED


def has_name(name: str, path: str, *, surely: bool) -> bool:
    """Whether a semaphore has the name, as `is_semaphore`; False if the file cannot be opened."""
    try:
        fd = os.open(path, lifetime.PROBE)
    except OSError:
        return False
    try:
        return is_semaphore(name, fd, os.fstat(fd), surely=surely)
    finally:
        os.close(fd)


def refuse_semaphore(name: str, fd: int, info: os.stat_result) -> bool:
    """Refuse a semaphore that ipcio made, where memory is wanted; otherwise return True."""
    if is_semaphore(name, fd, info, surely=True):
        raise OSError(errno.EINVAL, f"not shared memory: a semaphore has the name ({SHARED})")
    return True


def refuse_other(name: str, fd: int, info: os.stat_result) -> bool:
    """Refuse a file that is no semaphore, where memory may have its name; otherwise return True.

    An empty file is neither, and the system has an error of its own for what is no file.
    """
    is_other = stat.S_ISREG(info.st_mode) and info.st_size
    if is_other and not is_semaphore(name, fd, info, surely=False):
        raise OSError(errno.EINVAL, f"not a semaphore: shared memory or another file has the name ({SHARED})")
    return True
