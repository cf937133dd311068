"""Shared memory on Linux: files in ``/dev/shm``, exactly those of ``shm_open``."""

from __future__ import annotations

import errno
import os
import sys
from functools import partial

from ipcio._forklock import fork_lock
from ipcio._posix import lifetime, namespace, objects, removal
from ipcio._posix.mmap import map_descriptor
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ipcio._backend import Mapping

    Handle = TypeVar("Handle")

__all__ = ["NewObject", "allocate", "attach", "create", "refuse_semaphore", "unlink"]

_PIECE = 1 << 20  # bytes; a fraction of a millisecond


class NewObject(objects.NewObject):
    """A new segment."""

    __slots__ = ()

    def _bury(self, path: str) -> bool:
        """Where names are shared, the orphan may be a crash-safe semaphore, with its set."""
        if objects.may_be_semaphore(path):
            from ipcio._posix import kinds

            assert kinds  # whose import says what else goes
        return super()._bury(path)

    def _reason(self, number: int) -> str | None:
        if number == errno.EEXIST and objects.may_be_semaphore(self.path):
            from ipcio._posix import kinds

            if kinds.has_name(self.name, self.path, surely=True):
                return f"a semaphore has the name {self.name!r}: {kinds.SHARED_NAMES}"
        return super()._reason(number)


def create(
    name: str, size: int, *, perm: int, persist: bool, reserve: bool, into: Callable[[Mapping], Handle]
) -> Handle:
    """See `ipcio._backend.ShmBackend`.

    The object is complete -- sized, locked, mapped -- when it gets its name.
    """
    with NewObject(name, _path(name)) as new:
        new.create_unnamed(perm)
        allocate(new.fd, size, reserve=reserve)
        with fork_lock:
            new.memory = map_descriptor(new.fd, size, writable=True)
        new.publish()
        new.finish(perm, persist=persist)
        with fork_lock:
            return into(new.hand_over())


def attach(name: str, *, writable: bool, owner: int | None = None, into: Callable[[Mapping], Handle]) -> Handle:
    """See `ipcio._backend.ShmBackend`."""
    for _ in lifetime.retry_while_busy(name):
        with objects.ExistingObject(name, _path(name), owner) as found:
            with fork_lock:
                found.open(writable=writable)
                if found.join():
                    refuse_semaphore(name, found.fd, found.info)
                    if not objects.is_empty(found.fd, found.info):
                        objects.check_regular(found.info, "shared memory")
                        try:
                            found.memory = map_descriptor(found.fd, found.info.st_size, writable=writable)
                        except ValueError:
                            raise OSError(errno.EINVAL, "another process is cutting the object short") from None
                    return into(found.hand_over())
            found.roll_back()
    raise AssertionError("unreachable")


def unlink(name: str) -> None:
    """See `ipcio._backend.ShmBackend`."""
    with objects.OpenObject(name, _path(name)) as named:
        removal.remove(named.path, partial(refuse_semaphore, name))


def refuse_semaphore(name: str, fd: int, info: os.stat_result) -> bool:
    """Refuse a semaphore of that name; otherwise return True."""
    if info.st_size not in {namespace.SEMAPHORE, namespace.RECORD}:  # nearly always
        return True
    from ipcio._posix import kinds

    return kinds.refuse_semaphore(name, fd, info)


def _path(name: str) -> str:
    return f"{namespace.DIRECTORY}/{name}"


def allocate(fd: int, size: int, *, reserve: bool) -> None:
    """Give the object its size, with memory behind every byte if `reserve`.

    Not under `fork_lock`, for it may take seconds.  Piece by piece: signal handlers run in between, and
    a signal that comes within a piece makes no more than that piece begin anew.
    """
    if size > sys.maxsize:  # more than a file offset can say
        raise _no_room(fd, size)
    if not reserve or sys.platform == "darwin":  # which has other shared memory
        os.ftruncate(fd, size)
        return
    if size > _PIECE and size > _room(fd):  # others are not to find the place full meanwhile
        raise _no_room(fd, size)
    try:
        for start in range(0, size, _PIECE):
            os.posix_fallocate(fd, start, min(_PIECE, size - start))
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL}:
            os.ftruncate(fd, size)
        elif error.errno in {errno.ENOSPC, errno.EFBIG}:
            raise _no_room(fd, size) from None
        else:
            raise


def _room(fd: int) -> int:
    """How many bytes the object can have, as far as that is known."""
    place = os.fstatvfs(fd)
    if place.f_blocks:
        free = place.f_bavail * place.f_frsize
    else:  # without a limit of its own: what memory there is
        try:
            with open("/proc/meminfo", "rb") as file:
                about = dict(line.split()[:2] for line in file)
            free = 1024 * sum(int(about[key]) for key in (b"MemAvailable:", b"SwapFree:"))
        except (OSError, KeyError, ValueError):
            return sys.maxsize
    return free + 512 * os.fstat(fd).st_blocks


def _no_room(fd: int, size: int) -> OSError:
    place = os.fstatvfs(fd)
    text = f"{os.strerror(errno.ENOSPC)}: {_amount(size)} asked for"
    if place.f_blocks:
        free, whole = (_amount(blocks * place.f_frsize) for blocks in (place.f_bavail, place.f_blocks))
        text += f", {namespace.DIRECTORY} has {free} free of {whole}"
    return OSError(
        errno.ENOSPC, f"{text} (`ipcio gc` removes orphaned objects; `docker run --shm-size` sets a container's size)"
    )


def _amount(size: int) -> str:
    """Spell a size in bytes for people."""
    for unit, shift in ("GiB", 30), ("MiB", 20), ("KiB", 10):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.1f} {unit}"
    return f"{size} bytes"
