"""Mapping files on Windows."""

from __future__ import annotations

import ctypes
import errno
import mmap
import msvcrt
import os
import stat

from ipcio._typing import TYPE_CHECKING
from ipcio._windows import win32

if TYPE_CHECKING:
    from typing import Any, TypeVar

    from ipcio._backend.mmap import Into

    Handle = TypeVar("Handle")

_READ_WRITE = win32.GENERIC_READ | win32.GENERIC_WRITE
_SHARE_ALL = win32.FILE_SHARE_READ | win32.FILE_SHARE_WRITE | win32.FILE_SHARE_DELETE
_PREFIX = "\\\\?\\"


def open(file: Any, *, writable: bool, offset: int, size: int, into: Into[Handle]) -> Handle:
    # Not under `fork_lock`: Windows has no fork.
    fd = _open_descriptor(file, writable=writable)
    try:
        memory = _map_part(file, fd, writable=writable, offset=offset, size=size)
    except BaseException:
        os.close(fd)
        raise
    return into(memory, fd, os.fstat(fd))


def map_descriptor(fd: int, size: int, *, writable: bool, offset: int = 0) -> mmap.mmap:
    return mmap.mmap(fd, size, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ, offset=offset)


def reserve(fd: int, offset: int, size: int, name: Any) -> None:
    raise NotImplementedError("Python cannot reserve the blocks of a file on Windows")


def path_of(fd: int) -> str:
    path = ctypes.create_unicode_buffer(1 << 15)
    length = win32.GetFinalPathNameByHandle(msvcrt.get_osfhandle(fd), path, len(path), 0)
    if not 0 < length < len(path):
        raise TypeError("cannot pickle a map of a file that has no path")
    return path.value[len(_PREFIX) :] if path.value.startswith(_PREFIX) and path.value[5:6] == ":" else path.value


def _open_descriptor(file: Any, *, writable: bool) -> int:
    """A descriptor with an offset of its own, for a path or for what a descriptor has open."""
    mode = (os.O_RDWR if writable else os.O_RDONLY) | os.O_BINARY | os.O_NOINHERIT
    if not isinstance(file, int):
        if os.path.isdir(file):  # for which Windows would say that permission is denied
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
        return os.open(file, mode)
    try:
        handle = msvcrt.get_osfhandle(file)
    except OSError as error:
        error.filename = file
        raise
    granted = win32.access_of(handle)
    if not granted & win32.FILE_READ_DATA or (writable and not granted & win32.FILE_WRITE_DATA):
        wanted = "reading and writing" if writable else "reading"
        raise PermissionError(errno.EACCES, f"the descriptor must be open for {wanted} to be mapped", file)
    again = win32.ReOpenFile(handle, _READ_WRITE if writable else win32.GENERIC_READ, _SHARE_ALL, 0)
    if again in {None, win32.INVALID_HANDLE_VALUE}:  # no regular file, or not shared: share the offset then
        return os.dup(file)
    try:
        return msvcrt.open_osfhandle(again, mode)
    except BaseException:
        win32.CloseHandle(again)
        raise


def _map_part(file: Any, fd: int, *, writable: bool, offset: int, size: int) -> mmap.mmap | None:
    info = os.fstat(fd)
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
