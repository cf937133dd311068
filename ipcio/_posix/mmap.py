"""Mapping files."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import sys

from ipcio._forklock import fork_lock
from ipcio._posix import undecided
from ipcio._typing import TYPE_CHECKING
from ipcio._unowned import HeldByCall

if TYPE_CHECKING:
    from typing import Any, TypeVar

    from ipcio._backend.mmap import Into

    Handle = TypeVar("Handle")


_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR  # what `os.O_ACCMODE` is, which PyPy lacks


def map_descriptor(fd: int, size: int, *, writable: bool, offset: int = 0) -> mmap.mmap:
    access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, access=access, offset=offset, trackfd=False)
    return mmap.mmap(fd, size, access=access, offset=offset)


def open(file: Any, *, writable: bool, offset: int, size: int, into: Into[Handle]) -> Handle:
    with HeldByCall() as opened:
        _open_descriptor(opened, file, writable=writable)
        fd = opened.fd
        info = os.fstat(fd)
        size = _check_part(file, info, offset=offset, size=size)
        if not info.st_size:
            _check_contents(file, fd)
        with fork_lock:
            mapping = [_map(file, fd, size, writable=writable, offset=offset) if size else None]
            opened.fd = -1
            return into(mapping.pop(), fd, info)


def _map(file: Any, fd: int, size: int, *, writable: bool, offset: int) -> mmap.mmap:
    try:
        return map_descriptor(fd, size, writable=writable, offset=offset)
    except OSError as error:
        if error.errno == errno.ENODEV:
            error.strerror = "its file system does not map files (as /sys and /proc do not): use open()"
        error.filename = file
        raise


_PIECE = 1 << 24  # bytes that one call reserves; signal handlers run between the calls


def reserve(fd: int, offset: int, size: int, name: Any) -> None:
    allocate = getattr(os, "posix_fallocate", None)
    if allocate is None:
        raise NotImplementedError("this system cannot reserve the blocks of a file")
    try:
        place, info = os.fstatvfs(fd), os.fstat(fd)
        if size > place.f_bavail * place.f_frsize + 512 * info.st_blocks:  # else it would be full for others
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for start in range(offset, offset + size, _PIECE):
            allocate(fd, start, min(_PIECE, offset + size - start))
    except OSError as error:
        error.filename = name
        raise


def path_of(fd: int) -> str:
    try:
        path = _path(fd)
        if os.path.samestat(os.stat(path), os.fstat(fd)):
            return path
    except FileNotFoundError:
        pass
    raise TypeError("cannot pickle a map of a file that has no path")


_GETPATH = getattr(fcntl, "F_GETPATH", None)  # of macOS
_PATH_MAX = 1024  # there
if _GETPATH is None and sys.platform != "linux":
    raise undecided("which path leads another process to an open file")


def _path(fd: int) -> str:
    """The path that the system has for the descriptor; another file may be there by now."""
    if _GETPATH is None:
        return os.readlink(f"/proc/self/fd/{fd}")
    return os.fsdecode(fcntl.fcntl(fd, _GETPATH, bytes(_PATH_MAX)).rstrip(b"\0"))


def _open_descriptor(opened: HeldByCall, file: Any, *, writable: bool) -> None:
    """Open a descriptor with an offset of its own, for a path or for what a descriptor has open."""
    access = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    if not isinstance(file, int):
        opened.open_by(os.open, file, access)
        return
    try:
        held = fcntl.fcntl(file, fcntl.F_GETFL) & _ACCESS
    except OSError as error:
        error.filename = file
        raise
    if held == os.O_WRONLY or (writable and held != os.O_RDWR):
        wanted = "reading and writing" if writable else "reading"
        raise PermissionError(errno.EACCES, f"the descriptor must be open for {wanted} to be mapped", file)
    try:
        _open_again(opened, file, access)
    except OSError:  # it has lost its path, or permissions have changed: share the offset then
        opened.open_by(os.dup, file)


def _open_again(opened: HeldByCall, fd: int, access: int) -> None:
    if _GETPATH is None:
        opened.open_by(os.open, f"/proc/self/fd/{fd}", access)
        return
    opened.open_by(os.open, _path(fd), access)
    if not os.path.samestat(os.fstat(opened.fd), os.fstat(fd)):
        opened.roll_back()
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), fd)


def _check_part(file: Any, info: os.stat_result, *, offset: int, size: int) -> int:
    """Return how many bytes to map."""
    if not stat.S_ISREG(info.st_mode):
        if stat.S_ISDIR(info.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
        raise OSError(errno.ENODEV, "only a regular file can be mapped", file)
    if offset + size > info.st_size:
        raise ValueError(f"cannot map {size or 'the'} bytes from offset {offset}: {file!r} ends at {info.st_size}")
    return size or info.st_size - offset


def _check_contents(file: Any, fd: int) -> None:
    """Refuse a file of size 0 that has bytes all the same."""
    try:
        hides = bool(os.pread(fd, 1, 0)) and not os.fstat(fd).st_size
    except OSError as error:
        error.filename = file
        raise
    if hides:
        text = "its size is 0, but it has bytes to read, as files of /proc have: it cannot be mapped, use open()"
        raise OSError(errno.ENODEV, text, file)
