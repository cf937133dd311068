"""What a companion says, and what can be done with the object that it is beside.

`ipcio._posix.store_companions` keeps the two in step.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import time

from ipcio._forklock import fork_lock
from ipcio._light import suppress
from ipcio._posix.semlock import PosixSemaphore
from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    # The checkers do not know these.
    def sem_unlink(name: str, /) -> None: ...
    def shm_open(path: str, flags: int, mode: int = ...) -> int: ...
    def shm_unlink(path: str) -> None: ...

else:
    from _multiprocessing import sem_unlink
    from _posixshmem import shm_open, shm_unlink

_RECORD = struct.Struct("=16siqQ4s256s")  # the magic, state, size, number of the inode, kind, name
_MAGIC = b"ipcio companion1"
_STATE = struct.Struct("=i")
_STATE_AT = struct.calcsize("=16s")
_INODE = struct.Struct("=Q")
_INODE_AT = struct.calcsize("=16siq")

FOREIGN, MAKING, READY = range(3)

_SOONER = 5.0  # seconds by which the clock of the file system may differ from ours


class Record(NamedTuple):
    """What a companion says about its object."""

    state: int
    size: int  # in bytes; 0 of a semaphore
    inode: int  # 0 where the system gives none, or not yet
    kind: str
    name: str


def write(fd: int, state: int, size: int, kind: str, name: str) -> None:
    """Make a companion of the empty file open as `fd`."""
    os.write(fd, _RECORD.pack(_MAGIC, state, size, 0, kind.encode(), os.fsencode(name)))


def set_state(fd: int, state: int) -> None:
    """Change the state that a companion says."""
    os.pwrite(fd, _STATE.pack(state), _STATE_AT)


def set_inode(fd: int, inode: int) -> None:
    """Have a companion say which inode its object has."""
    os.pwrite(fd, _INODE.pack(inode), _INODE_AT)


def read(fd: int, info: os.stat_result) -> Record | None:
    """Return what the companion open as `fd` says; None for the file of a crash-safe semaphore and others."""
    if info.st_size != _RECORD.size:
        return None
    data = os.pread(fd, _RECORD.size, 0)
    if len(data) != _RECORD.size:
        return None
    magic, state, size, inode, kind, name = _RECORD.unpack(data)
    if magic != _MAGIC:
        return None
    return Record(state, size, inode, kind.rstrip(b"\0").decode(), os.fsdecode(name.rstrip(b"\0")))


# -- objects -----------------------------------------------------------------


def posix_name(name: str) -> str:
    """Return the name as C has it; Python's functions accept none of bytes that are no text."""
    try:
        return f"/{name}" if name.isascii() else os.fsencode(f"/{name}").decode()
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ), name) from None


def exists(kind: str, name: str) -> bool:
    """Whether there is an object under the name, whichever program made it."""
    try:
        with fork_lock:
            if kind == "shm":
                os.close(shm_open(posix_name(name), os.O_RDONLY, mode=0))
            else:
                PosixSemaphore._rebuild(0, 1, 1, posix_name(name))
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            error.strerror = limit(name)
            error.filename = name
        raise
    return True


def limit(name: str) -> str:
    """Return what to say of a name that is too long: how long one may be."""
    fits, too_long = 0, len(os.fsencode(name))
    while too_long - fits > 1:
        length = (fits + too_long) // 2
        try:
            os.close(shm_open(f"/{'_' * length}", os.O_RDONLY, mode=0))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                too_long = length
                continue
        fits = length
    return f"a name may have {fits} bytes here, not {len(os.fsencode(name))}"


def unlink_object(kind: str, name: str) -> None:
    """Remove the object's name; `FileNotFoundError` if it does not exist."""
    if kind == "shm":
        shm_unlink(posix_name(name))
    else:
        sem_unlink(posix_name(name))


def is_the_object(info: os.stat_result, record: Record) -> bool:
    """Whether shared memory can be the object of the record; sizes may have been rounded to whole pages."""
    if info.st_uid != os.geteuid():
        return False
    if record.state == MAKING and not info.st_size:
        return True
    if record.state == READY and info.st_ino != record.inode:
        return False
    return record.size <= info.st_size < record.size + mmap.PAGESIZE


def _is_ours(record: Record, info: os.stat_result) -> bool:
    """Whether the object that has the name now can be that of the companion, the file that `info` is of.

    Semaphores cannot be distinguished, but objects do not outlast the system as files do.
    """
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    if info.st_mtime < time.time() - time.clock_gettime(clock) - _SOONER:
        return False
    if record.kind != "shm":
        return True
    with fork_lock:
        try:
            fd = shm_open(posix_name(record.name), os.O_RDONLY, mode=0)
        except PermissionError:  # then only its owner can unlink it
            return True
        try:
            return is_the_object(os.fstat(fd), record)
        finally:
            os.close(fd)


def unlink_ours(record: Record | None, info: os.stat_result) -> None:
    """Remove the object of a companion, the file that `info` is of, unless it is another program's."""
    if record is None or record.state == FOREIGN:
        return
    with suppress(FileNotFoundError, PermissionError):
        if _is_ours(record, info):
            unlink_object(record.kind, record.name)
