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

from ipcio._forklock import fork_lock
from ipcio._posix import companions, lifetime, objects, removal
from ipcio._posix.mmap import map_descriptor
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from typing import TypeVar

    from ipcio._backend import Mapping
    from ipcio._posix.objects import OpenObject

    Handle = TypeVar("Handle")

__all__ = ["attach", "create", "create_filled", "unlink"]

_KIND = "shm"
_LARGEST = sys.maxsize  # bytes
_TOO_LARGE = {errno.EFBIG, errno.EINVAL, errno.ENOMEM}  # what sizing or mapping a new object says


def create(
    name: str,
    size: int,
    *,
    perm: int,
    persist: bool,
    reserve: bool,  # noqa: ARG001 -- see below
    into: Callable[[Mapping], Handle],
) -> Handle:
    """See `ipcio._backend.ShmBackend`.

    The system decides whether memory is set aside.  It may also leave no more of `perm` than
    the umask does.
    """
    return companions.retrying(_KIND, name, lambda: _create(name, size, perm, persist=persist, into=into))


def create_filled(name: str, content: memoryview[int], *, perm: int) -> None:
    """Create a persistent segment that nobody sees before it has this content."""
    companions.retrying(
        _KIND, name, lambda: _create(name, len(content), perm, persist=True, content=content, into=lambda _: None)
    )


def attach(name: str, *, writable: bool, owner: int | None = None, into: Callable[[Mapping], Handle]) -> Handle:
    """See `ipcio._backend.ShmBackend`."""
    for _ in lifetime.retry_while_busy(name):
        with companions.ExistingObject(_KIND, name, owner) as found:
            handle = _attach(found, writable=writable, into=into)
            if handle is not None:
                return handle
            found.roll_back()
    raise AssertionError("unreachable")


def unlink(name: str) -> None:
    """See `ipcio._backend.ShmBackend`."""
    for _ in lifetime.retry_while_busy(name):
        with companions.ExistingObject(_KIND, name) as found, removal.directory_lock(found.path, required=True):
            if companions.remove_once(_KIND, name):
                return


def _create(
    name: str,
    size: int,
    perm: int,
    *,
    persist: bool,
    into: Callable[[Mapping], Handle],
    content: memoryview[int] | None = None,
) -> Handle:
    if size > _LARGEST:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    with companions.NewObject(_KIND, name) as new:
        new.announce(size)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        with fork_lock:
            fd = new.make(companions.shm_open, companions.posix_name(name), flags, perm)
            try:
                new.memory = _fill(fd, size, perm)
                inode = os.fstat(fd).st_ino
            finally:
                os.close(fd)
        if content is not None:
            new.memory[:size] = content
        new.show(inode)
        new.finish(0o600, persist=persist)
        with fork_lock:
            return into(_mapping(new))


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


def _mapping(hand: OpenObject) -> Mapping:
    """Hand over the memory and the share that keeps it; without one the companion's descriptor has done its duty."""
    memory, fd, share = hand.hand_over()
    if share is None and fd >= 0:
        os.close(fd)
    return memory, -1, share


def _attach(found: companions.ExistingObject, *, writable: bool, into: Callable[[Mapping], Handle]) -> Handle | None:
    """Map what there is; None: look again."""
    with fork_lock:
        try:
            found.open(writable=False)
        except FileNotFoundError:
            pass
        else:
            return into(_mapping(found)) if _found(found, writable=writable) else None
    return companions.open_foreign(_KIND, found.name, lambda: into(_attach_foreign(found, writable=writable)))


def _found(found: companions.ExistingObject, *, writable: bool) -> bool:
    """Map what a companion was found of; False: look again."""
    if not found.join():
        return False
    record = companions.read(found.fd, found.info)
    if record is None or record.state != companions.READY:
        return False
    fd = _open(found.name, writable=writable)
    try:
        info = os.fstat(fd)
        objects.check_owner(info, found.owner)
        if not lifetime.path_means(found.path, found.info):
            return False
        if companions.is_the_object(info, record):
            found.memory = _map(fd, record.size, writable=writable)
            return True
        found.roll_back()  # the companion is void, and this is a foreign object
        found.memory = _map(fd, info.st_size, writable=writable)
        return True
    finally:
        os.close(fd)


def _attach_foreign(found: companions.ExistingObject, *, writable: bool) -> Mapping:
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
