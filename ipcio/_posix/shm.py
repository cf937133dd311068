"""Shared memory on Linux: files in ``/dev/shm``, exactly those of ``shm_open``."""

from __future__ import annotations

import errno
import os
import sys

from ipcio._posix import lifetime, objects
from ipcio._posix.mmap import map_descriptor
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipcio._contract import Mapping

__all__ = ["allocate", "attach", "create", "unlink"]


def create(name: str, size: int, *, perm: int, persist: bool, reserve: bool) -> Mapping:
    """See `ipcio._contract.ShmBackend`.

    The object is complete -- sized, locked, mapped -- when it gets its name.
    """
    with objects.Making(name, _path(name)) as new:
        new.begin(perm)
        allocate(new.fd, size, reserve=reserve)
        memory = map_descriptor(new.fd, size, writable=True)
        try:
            new.appear()
            new.settle(perm, persist=persist)
        except BaseException:
            memory.close()
            raise
        return memory, new.fd, new.share


def attach(name: str, *, writable: bool, owner: int | None = None) -> Mapping:
    """See `ipcio._contract.ShmBackend`."""
    for _ in lifetime.attempts(name):
        with objects.Finding(name, _path(name), owner) as found:
            found.open(writable=writable)
            if found.join():
                if objects.is_empty(found.fd, found.info):
                    return None, found.fd, found.share
                objects.check_regular(found.info, "shared memory")
                try:
                    memory = map_descriptor(found.fd, found.info.st_size, writable=writable)
                except ValueError:
                    raise OSError(errno.EINVAL, "another process is cutting the object short") from None
                return memory, found.fd, found.share
    raise AssertionError("unreachable")


def unlink(name: str) -> None:
    """See `ipcio._contract.ShmBackend`."""
    with objects.InHand(name, _path(name)) as named:
        lifetime.remove(named.path)


def _path(name: str) -> str:
    return f"{objects.DIRECTORY}/{name}"


def allocate(fd: int, size: int, *, reserve: bool) -> None:
    """Give the object its size, with memory behind every byte if `reserve`."""
    try:
        if reserve and sys.platform != "darwin":  # which has other shared memory
            try:
                os.posix_fallocate(fd, 0, size)
                return
            except OSError as error:
                if error.errno not in {errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL}:
                    raise
        os.ftruncate(fd, size)
    except OverflowError:  # more than a file offset can say
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
