"""Mapping files, and descriptors in general."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import sys

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from ipcio._contract import FileMapping

__all__ = ["map_descriptor", "open", "path_of"]


def map_descriptor(fd: int, size: int, *, writable: bool, offset: int = 0) -> mmap.mmap:
    """Map `size` bytes of the object open as `fd`, shared."""
    access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, access=access, offset=offset, trackfd=False)
    return mmap.mmap(fd, size, access=access, offset=offset)


def open(file: Any, *, writable: bool, offset: int, size: int) -> FileMapping:
    """See `ipcio._contract.MmapBackend`."""
    fd = _open_descriptor(file, writable=writable)
    try:
        return _map_part(file, fd, writable=writable, offset=offset, size=size), fd, None
    except BaseException:
        os.close(fd)
        raise


def path_of(fd: int) -> str:
    """See `ipcio._contract.MmapBackend`."""
    try:
        path = _path(fd)
        if os.path.samestat(os.stat(path), os.fstat(fd)):
            return path
    except FileNotFoundError:
        pass
    raise TypeError("cannot pickle a map of a file that has no path (any more)")


_GETPATH = getattr(fcntl, "F_GETPATH", None)  # of macOS
_PATH_MAX = 1024  # there


def _path(fd: int) -> str:
    """The path that the system tells; another file may be there by now."""
    if _GETPATH is None:
        return os.readlink(f"/proc/self/fd/{fd}")
    return os.fsdecode(fcntl.fcntl(fd, _GETPATH, bytes(_PATH_MAX)).rstrip(b"\0"))


def _open_descriptor(file: Any, *, writable: bool) -> int:
    """A descriptor with an offset of its own, for a path or for what a descriptor has open."""
    access = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    if not isinstance(file, int):
        return os.open(file, access)
    try:
        held = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError as error:
        error.filename = file
        raise
    if held == os.O_WRONLY or (writable and held != os.O_RDWR):
        wanted = "reading and writing" if writable else "reading"
        raise PermissionError(errno.EACCES, f"the descriptor must be open for {wanted} to be mapped", file)
    try:
        return _open_again(file, access)
    except OSError:  # it has no path any more, or permissions have changed since: share the offset then
        return os.dup(file)


def _open_again(fd: int, access: int) -> int:
    if _GETPATH is None:
        return os.open(f"/proc/self/fd/{fd}", access)
    again = os.open(_path(fd), access)
    if os.path.samestat(os.fstat(again), os.fstat(fd)):
        return again
    os.close(again)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), fd)


def _map_part(file: Any, fd: int, *, writable: bool, offset: int, size: int) -> mmap.mmap | None:
    info = os.fstat(fd)
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.ENODEV, "only a regular file can be mapped", file)
    if offset + size > info.st_size:
        raise ValueError(f"cannot map {size or 'the'} bytes from offset {offset}: {file!r} ends at {info.st_size}")
    size = size or info.st_size - offset
    if not size:
        return None
    try:
        return map_descriptor(fd, size, writable=writable, offset=offset)
    except OSError as error:
        error.filename = file
        raise
