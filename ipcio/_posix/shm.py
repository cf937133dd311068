"""Shared memory on Linux: files in ``/dev/shm``, exactly those of ``shm_open``."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from typing import TYPE_CHECKING

from ipcio._forklock import turn
from ipcio._names import invent_name
from ipcio._posix import lifetime
from ipcio._posix.mmap import map_descriptor

if TYPE_CHECKING:
    import mmap

    from ipcio._contract import Mapping

__all__ = ["attach", "create", "unlink"]

_DIRECTORY = "/dev/shm"  # where glibc and musl keep shared memory

# What open(O_TMPFILE) says where there is no such thing: an old file system, an old
# kernel, which takes it for O_DIRECTORY, or a look-alike of a kernel.
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}


def create(name: str, size: int, *, perm: int, persist: bool, reserve: bool) -> Mapping:
    """See `ipcio._contract.ShmBackend`.

    The object is made without a name and is complete -- sized, locked, mapped --
    when ``link`` gives it one.  So nobody ever sees half of it, and a kill at any
    point leaves nothing, or a dead object that the next call recognises.
    """
    path = f"{_DIRECTORY}/{name}"
    fd, share, memory, temporary = -1, None, None, None
    with turn:
        try:
            # First of all: what the dead left under this name may fill the place we need.
            if os.access(path, os.F_OK) and not lifetime.bury_dead(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            fd, source, temporary = _make_nameless()
            _allocate(fd, size, reserve=reserve)
            if not persist:
                share = lifetime.Share(path)
                share.take(fd)
            os.fchmod(fd, perm | (lifetime.KEEP if persist else lifetime.MARK))
            memory = map_descriptor(fd, size, writable=True)
            _link(source, path)
            if temporary is not None:
                os.unlink(temporary)
            return memory, fd, share
        except BaseException as error:
            with contextlib.suppress(OSError):
                if temporary is not None:
                    os.unlink(temporary)
            with contextlib.suppress(OSError):
                if persist and fd >= 0 and lifetime.names(path, os.fstat(fd)):
                    os.unlink(path)
            _undo(memory, fd, share)
            if isinstance(error, OSError):
                raise _named(error, name) from None
            raise


def attach(name: str, *, writable: bool) -> Mapping:
    """See `ipcio._contract.ShmBackend`."""
    path = f"{_DIRECTORY}/{name}"
    flags = lifetime.PROBE | (os.O_RDWR if writable else 0)
    with turn:
        for _ in lifetime.attempts(name):
            fd, share = -1, None
            try:
                fd = os.open(path, flags)
                info = os.fstat(fd)
                if lifetime.is_marked(info):
                    share = lifetime.Share(path)
                    if not share.join(fd):
                        gone, fd = fd, -1
                        os.close(gone)
                        continue
                _check_mappable(info)
                return map_descriptor(fd, info.st_size, writable=writable), fd, share
            except BaseException as error:
                _undo(None, fd, share)
                if isinstance(error, OSError):
                    raise _named(error, name) from None
                raise
    raise AssertionError("unreachable")


def unlink(name: str) -> None:
    """See `ipcio._contract.ShmBackend`."""
    with turn:
        try:
            lifetime.remove(f"{_DIRECTORY}/{name}")
        except OSError as error:
            raise _named(error, name) from None


@functools.cache
def _has_tmpfile() -> bool:
    """Whether files can be made without a name here and get one later (``open(2)``, O_TMPFILE)."""
    try:
        fd = os.open(_DIRECTORY, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise  # that passes, and is no answer to remember
        return False
    try:
        return os.path.exists(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _make_nameless() -> tuple[int, str, str | None]:
    """Open a new file; return it, a path to it, and the same again if it is a temporary name to remove."""
    if _has_tmpfile():
        fd = os.open(_DIRECTORY, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        return fd, f"/proc/self/fd/{fd}", None
    temporary = f"{_DIRECTORY}/.{invent_name()}"
    fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return fd, temporary, temporary


def _allocate(fd: int, size: int, *, reserve: bool) -> None:
    """Give the object its size, with memory behind every byte if `reserve`."""
    try:
        if reserve:
            try:
                os.posix_fallocate(fd, 0, size)
                return
            except OSError as error:
                if error.errno not in {errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL}:
                    raise
        os.ftruncate(fd, size)
    except OverflowError:  # more than a file offset can say
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None


def _link(source: str, path: str) -> None:
    """Give the object its name, unless somebody alive has it."""
    while True:
        try:
            # The descriptor argument changes nothing about an absolute path, but makes
            # os.link call linkat, which alone can follow /proc/self/fd to the object.
            os.link(source, path, src_dir_fd=0, follow_symlinks=True)
            return
        except FileExistsError:
            if not lifetime.bury_dead(path):
                raise


def _check_mappable(info: os.stat_result) -> None:
    """Refuse what somebody else put there, or cut down, if it is no shared memory."""
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.ENODEV, "not shared memory: not a regular file")
    if not info.st_size:
        raise OSError(errno.EINVAL, "not shared memory (yet): its size is 0")


def _undo(memory: mmap.mmap | None, fd: int, share: lifetime.Share | None) -> None:
    try:
        if memory is not None:
            memory.close()
    finally:
        if share is not None and share.owns(fd):
            share.give_up()
        elif fd >= 0:
            os.close(fd)


def _named(error: OSError, name: str) -> OSError:
    """The same failure, told of the name that the caller knows."""
    return OSError(error.errno, error.strerror, name)
