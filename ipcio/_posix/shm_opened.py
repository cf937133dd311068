"""Shared memory that can only be opened, sized once, mapped and unlinked, as on macOS.

What keeps it alive, and knows its size to the byte, is its companion
(`ipcio._posix.companions`).  There is no descriptor for the user: hardly anything could be
done with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys

from ipcio._forklock import turn
from ipcio._posix import companions, lifetime, objects
from ipcio._posix.mmap import map_descriptor
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap

    from ipcio._contract import Mapping

__all__ = ["attach", "create", "create_filled", "unlink"]

_KIND = "shm"
_LARGEST = sys.maxsize  # bytes
_TOO_LARGE = {errno.EFBIG, errno.EINVAL, errno.ENOMEM}  # what sizing or mapping a new object says


def create(name: str, size: int, *, perm: int, persist: bool, reserve: bool) -> Mapping:  # noqa: ARG001
    """See `ipcio._contract.ShmBackend`.

    The system decides whether memory is set aside.  It may also leave no more of `perm` than
    the umask does.
    """
    return companions.retrying(_KIND, name, lambda: _create(name, size, perm, persist=persist))


def create_filled(name: str, content: memoryview[int], *, perm: int) -> None:
    """Create a persistent segment that nobody sees before it has this content."""
    with turn:
        companions.retrying(_KIND, name, lambda: _create(name, len(content), perm, persist=True, content=content))


def attach(name: str, *, writable: bool, owner: int | None = None) -> Mapping:
    """See `ipcio._contract.ShmBackend`."""
    for _ in lifetime.attempts(name):
        with companions.Finding(_KIND, name, owner) as found:
            mapping = _attach(found, writable=writable)
            if mapping is not None:
                return mapping
            found.drop()
    raise AssertionError("unreachable")


def unlink(name: str) -> None:
    """See `ipcio._contract.ShmBackend`."""
    for _ in lifetime.attempts(name):
        with companions.Finding(_KIND, name) as found, lifetime.alone(found.path, required=True):
            if companions.remove_once(_KIND, name):
                return


def _create(name: str, size: int, perm: int, *, persist: bool, content: memoryview[int] | None = None) -> Mapping:
    if size > _LARGEST:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    with companions.Making(_KIND, name) as new:
        new.announce(size)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        fd = new.make(companions.shm_open, companions.posix_name(name), flags, perm)
        try:
            memory = _fill(fd, size, perm)
            inode = os.fstat(fd).st_ino
        finally:
            os.close(fd)
        try:
            if content is not None:
                memory[:size] = content
            new.show(inode)
            new.settle(0o600, persist=persist)
        except BaseException:
            memory.close()
            raise
        if new.share is None:  # the companion's descriptor has done its duty
            new.close()
        return memory, -1, new.share


def _fill(fd: int, size: int, perm: int) -> mmap.mmap:
    """Give the object its permissions, as far as that can be done, and its size; map it."""
    with contextlib.suppress(OSError):
        os.fchmod(fd, perm)
    try:
        os.ftruncate(fd, size)
        return map_descriptor(fd, size, writable=True)
    except OSError as error:
        if error.errno in _TOO_LARGE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        raise


def _attach(found: companions.Finding, *, writable: bool) -> Mapping | None:
    """Map what there is; None: look again."""
    try:
        found.open(writable=False)
    except FileNotFoundError:
        return companions.open_foreign(_KIND, found.name, lambda: _attach_foreign(found, writable=writable))
    if not found.join():
        return None
    record = companions.read(found.fd, found.info)
    if record is None or record.state != companions.READY:
        return None
    fd = _open(found.name, writable=writable)
    try:
        info = os.fstat(fd)
        objects.check_owner(info, found.owner)
        if not lifetime.names(found.path, found.info):
            return None
        if not companions.is_the_object(info, record):  # the companion is void, and this is a foreign object
            found.drop()
            return _map(fd, info.st_size, writable=writable), -1, None
        memory = _map(fd, record.size, writable=writable)
    finally:
        os.close(fd)
    if found.share is None:
        found.close()
    return memory, -1, found.share


def _attach_foreign(found: companions.Finding, *, writable: bool) -> Mapping:
    fd = _open(found.name, writable=writable)
    try:
        info = os.fstat(fd)
        objects.check_owner(info, found.owner)
        return _map(fd, info.st_size, writable=writable), -1, None
    finally:
        os.close(fd)


def _open(name: str, *, writable: bool) -> int:
    flags = os.O_RDWR if writable else os.O_RDONLY
    return companions.shm_open(companions.posix_name(name), flags, mode=0)


def _map(fd: int, size: int, *, writable: bool) -> mmap.mmap:
    if not size:
        raise OSError(errno.EINVAL, "not shared memory (yet): its size is 0")
    return map_descriptor(fd, size, writable=writable)
