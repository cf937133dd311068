"""Shared memory that grows before it has a name, and shows under it complete and to stay: on Linux."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING

from ipcio._names import invent_name
from ipcio._posix import lifetime, objects, shm

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["begin", "show"]


def begin() -> int:
    """Return a descriptor of an empty object without a name, which goes with it; -1 where there are none."""
    if not objects._has_tmpfile():
        return -1
    return os.open(objects.DIRECTORY, objects._NAMELESS, 0o600)


def show(fd: int, name: str, perm: int, *, exclusive: bool) -> None:
    """Give such an object its name, for good; it takes the place of what is there, unless `exclusive`.

    `FileExistsError` if `exclusive` and the name lives.  Whoever looks finds the old object
    or the new one, complete; what has the old one open keeps it.
    """
    with objects.InHand(name, f"{objects.DIRECTORY}/{name}") as named:
        size = os.fstat(fd).st_size
        if not size:
            raise OSError(errno.EINVAL, "shared memory has at least one byte, and nothing was written")
        shm._allocate(fd, size, reserve=True)  # behind what was skipped, too
        source = f"/proc/self/fd/{fd}"
        if exclusive:
            os.fchmod(fd, perm | lifetime.KEEP)
            _link(source, named.path)
            return
        # To replace takes a name to rename.  A kill must not leave that for ever, so the
        # object is mortal until it is where it belongs, and our lock keeps it alive.
        fcntl.flock(fd, fcntl.LOCK_SH)
        os.fchmod(fd, perm | lifetime.MARK)
        hidden = f"{objects.DIRECTORY}/.{invent_name()}"
        os.link(source, hidden, src_dir_fd=0)  # see objects.Making.link
        try:
            _replace(hidden, named.path)
            os.fchmod(fd, perm | lifetime.KEEP)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(hidden)
            if lifetime.names(named.path, os.fstat(fd)):  # Ctrl-C, and too late: the old one is gone
                os.fchmod(fd, perm | lifetime.KEEP)
            raise


def _link(source: str, path: str) -> None:
    while True:
        try:
            os.link(source, path, src_dir_fd=0)
            return
        except FileExistsError:
            if not lifetime.bury_dead(path):
                raise


class _ReplacedError(Exception):
    pass


def _replace(hidden: str, path: str) -> None:
    """Rename, while a lock on the old object keeps its reapers away; see `lifetime.remove`."""

    def rename(_fd: int, _info: os.stat_result) -> NoReturn:
        os.rename(hidden, path)
        raise _ReplacedError

    while True:
        try:
            lifetime.remove(path, rename)
        except _ReplacedError:
            return
        except FileNotFoundError:
            pass
        try:
            os.link(hidden, path)
        except FileExistsError:  # since
            continue
        os.unlink(hidden)
        return
