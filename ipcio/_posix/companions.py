"""Files that stand for named objects which cannot be locked, listed or written to: a *companion* for each.

It lies in a directory of the user's own (`ipcio._posix.companion_paths`), and what is true of
objects in ``/dev/shm`` is true of it: shares are locks on it, whoever finds nobody holding
it removes it (`ipcio._posix.lifetime`), and the object with it.  The companion is there
before the object and goes after it, so that whoever is killed in between leaves something
that tells.  Its content is a record:

``MAKING``
    the object is not there, or not complete; who attaches waits
``READY``
    it was there, complete, of exactly the size that the record tells
``FOREIGN``
    what is there is a foreign program's; the companion, which keeps the name for a moment, goes

A name may lie under the companion of an object that is gone: a foreign program unlinked
it, or the machine was started anew.  Such a companion is *void* and in nobody's way.
An object without a companion is a foreign one.

Who removes the name of something that others hold, or a void companion, does so under the
lock of the whole directory (`removal.directory_lock`): no lock on the companion could tell two of them apart.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
import time

from ipcio._forklock import fork_lock
from ipcio._posix import companion_paths, lifetime, objects, removal
from ipcio._posix.sem import PosixSemaphore
from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

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
    inode: int  # 0 where the platform tells none, or not yet
    kind: str
    name: str


def read(fd: int, info: os.stat_result) -> Record | None:
    """Return what the companion open as `fd` says, None if it is none (but the record of a crash-safe semaphore)."""
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
    """Return the name as C calls it; that of bytes that are no text cannot be told to Python's functions."""
    try:
        return f"/{name}" if name.isascii() else os.fsencode(f"/{name}").decode()
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, os.strerror(errno.EILSEQ), name) from None


def exists(kind: str, name: str) -> bool:
    """Whether there is an object under the name, whoever made it."""
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
            error.strerror = _limit(name)
            error.filename = name
        raise
    return True


def _limit(name: str) -> str:
    """How long a name may be; this one is too long."""
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
    """Remove the object's name; `FileNotFoundError` if there is none."""
    if kind == "shm":
        shm_unlink(posix_name(name))
    else:
        sem_unlink(posix_name(name))


def is_the_object(info: os.stat_result, record: Record) -> bool:
    """Whether shared memory can be what the record tells of; sizes may have been rounded to whole pages."""
    if info.st_uid != os.geteuid():
        return False
    if record.state == MAKING and not info.st_size:
        return True
    if record.state == READY and info.st_ino != record.inode:
        return False
    return record.size <= info.st_size < record.size + mmap.PAGESIZE


def _is_ours(record: Record, info: os.stat_result) -> bool:
    """Whether the object that has the name now can be the one that the companion stands for.

    Semaphores cannot be told apart, but objects do not outlast the system as files do.
    """
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    if info.st_mtime < time.time() - time.clock_gettime(clock) - _SOONER:
        return False
    if record.kind != "shm":
        return True
    with fork_lock:
        try:
            fd = shm_open(posix_name(record.name), os.O_RDONLY, mode=0)
        except PermissionError:  # nobody but its owner can unlink it
            return True
        try:
            return is_the_object(os.fstat(fd), record)
        finally:
            os.close(fd)


def _unlink_ours(record: Record | None, info: os.stat_result) -> None:
    if record is None or record.state == FOREIGN:
        return
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if _is_ours(record, info):
            unlink_object(record.kind, record.name)


# -- companions --------------------------------------------------------------


class ExistingObject(objects.ExistingObject):
    """What is there under a name, if only the companion's file."""

    __slots__ = ()

    def __init__(self, kind: str, name: str, owner: int | None = None) -> None:
        super().__init__(name, companion_paths.path_of(kind, name), owner)

    def _limit(self) -> str:
        return _limit(self.name)


class NewObject(objects.NewObject):
    """A new object and its companion: `announce` shows the companion, `make` makes the object, `show` tells of it."""

    __slots__ = ("_announced", "_kind")

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(name, companion_paths.path_of(kind, name))
        self._kind = kind
        self._announced = False

    def _limit(self) -> str:
        return _limit(self.name)

    def announce(self, size: int = 0) -> None:
        """Have the name; `FileExistsError` if anybody else has it."""
        self.create_unnamed(0o600)
        if exists(self._kind, self.name):  # a foreign one: ours would have a companion, and the dead are gone
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        self._appear(MAKING, size)

    def _appear(self, state: int, size: int) -> None:
        os.write(self.fd, _RECORD.pack(_MAGIC, state, size, 0, self._kind.encode(), os.fsencode(self.name)))
        self._announced = True
        self.publish()

    def make(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what the function gives that makes the object, exclusively."""
        try:
            return function(*arguments)
        except FileExistsError:  # a foreign program was faster
            os.pwrite(self.fd, _STATE.pack(FOREIGN), _STATE_AT)
            raise

    def show(self, inode: int = 0) -> None:
        """The object is complete."""
        os.pwrite(self.fd, _INODE.pack(inode), _INODE_AT)
        os.pwrite(self.fd, _STATE.pack(READY), _STATE_AT)

    def roll_back(self) -> None:
        """Give everything back, the object as well."""
        announced, self._announced = self._announced, False
        if announced:
            with contextlib.suppress(OSError), removal.directory_lock(self.path, required=True):
                if lifetime.path_means(self.path, self.info):
                    info = os.fstat(self.fd)
                    _unlink_ours(read(self.fd, info), info)
                    os.unlink(self.path)
        super().roll_back()


def open_foreign(kind: str, name: str, function: Callable[[], T]) -> T | None:
    """Return what the function gives that opens the object, which has no companion; None: look again.

    One of ours may have come since we looked, and gone.  While the name has a companion of
    this call, what is there is no object of ours.
    """
    if not exists(kind, name):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    with NewObject(kind, name) as look:
        try:
            look.create_unnamed(0o600)
            look._appear(FOREIGN, 0)
        except FileExistsError:
            look.roll_back()
            return None
        try:
            with fork_lock:
                return function()
        finally:
            look.roll_back()


def retrying(kind: str, name: str, create: Callable[[], T]) -> T:
    """Return what `create` gives, which may find a void companion in its way."""
    for _ in lifetime.retry_while_busy(name):
        try:
            return create()
        except FileExistsError:
            if not clear_void(kind, name):
                raise
    raise AssertionError("unreachable")


def clear_void(kind: str, name: str) -> bool:
    """Remove the companion of an object that is gone; return whether there is none any more."""
    with ExistingObject(kind, name) as found, removal.directory_lock(found.path, required=True):
        try:
            with fork_lock:
                found.open(writable=False)
                joined = found.join()
        except FileNotFoundError:
            return not exists(kind, name)
        if not joined:
            found.roll_back()
            return True
        try:
            record = read(found.fd, found.info)
            if record is None or record.state != READY or exists(kind, name):
                return False
            if lifetime.path_means(found.path, found.info):
                os.unlink(found.path)
            return True
        finally:
            found.roll_back()


def remove_once(kind: str, name: str) -> bool:
    """Make one attempt to remove the name, under `removal.directory_lock`, whichever program made the object.

    False: another process is in mid-step, try again.
    """
    gone = False

    def ready(fd: int, info: os.stat_result) -> bool:
        nonlocal gone
        record = read(fd, info)
        if record is not None:
            if record.state != READY:
                return False
            try:
                unlink_object(kind, name)
            except FileNotFoundError:
                gone = True
        return True

    try:
        if not removal.remove_once(companion_paths.path_of(kind, name), ready):
            return False
    except FileNotFoundError:
        unlink_object(kind, name)
    if gone:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return True


def _before_removal(beside: str, fd: int, info: os.stat_result) -> bool:
    """If this is the companion of the dead, remove the object first."""
    record = read(fd, info)
    if record is not None and lifetime.path_means(
        companion_paths.path_of(record.kind, record.name, os.path.dirname(beside)), info
    ):
        _unlink_ours(record, info)
    return False


lifetime.before_removal.append(_before_removal)
