"""Kernel objects under names, and the handles on them.

Windows itself keeps the count: a name lives as long as some process has a handle, and
goes with the last, however that process ends.  All kinds of object share one space of
names, that of the user's session.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from typing import TYPE_CHECKING

from ipcio._windows import win32

assert sys.platform == "win32" or not TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any

    from typing_extensions import Self

__all__ = ["Handles", "attempts", "check_length", "create", "exists", "find", "open", "refuse_to_unlink", "value_of"]

_PATIENCE = 2.0  # seconds; who is in mid-step needs microseconds


def check_length(name: str, limit: int) -> None:
    """Refuse a name that is too long; Windows counts in units of UTF-16."""
    length = len(name.encode("utf-16-le", "surrogatepass")) // 2
    if length > limit:
        raise OSError(errno.ENAMETOOLONG, f"a name may have {limit} characters here, not {length}", name)


def create(function: Callable[..., int | None], *arguments: Any) -> int:
    """Call a function that makes an object under a name, its last argument; return the handle.

    Raises `FileExistsError` if there is an object, of whatever kind.
    """
    name = arguments[-1]
    handle = function(*arguments)
    number = ctypes.get_last_error()
    if handle and number != win32.ERROR_ALREADY_EXISTS:
        return handle
    if handle:
        win32.CloseHandle(handle)
    if handle or number == win32.ERROR_INVALID_HANDLE:  # one of another kind
        raise exists(name)
    problem = win32.failure(name)
    raise exists(name) if number == win32.ERROR_ACCESS_DENIED and _is_taken(name) else problem


def _is_taken(name: str) -> bool:
    """Whether there is an object, of whatever kind, that we may not use."""
    handle = win32.OpenSemaphore(win32.SYNCHRONIZE, False, name)  # noqa: FBT003
    if handle:
        win32.CloseHandle(handle)
        return True
    return ctypes.get_last_error() != win32.ERROR_FILE_NOT_FOUND


def exists(name: str) -> FileExistsError:
    """The error that says so."""
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def open(function: Callable[..., int | None], access: int, name: str, kind: str) -> int:
    """Call a function that opens an existing object, and return the handle, which no child inherits."""
    handle = function(access, False, name)  # noqa: FBT003 -- not inherited
    if handle:
        return handle
    if ctypes.get_last_error() == win32.ERROR_INVALID_HANDLE:
        raise OSError(errno.EINVAL, f"not {kind}, but an object of another kind", name)
    raise win32.failure(name)


def find(function: Callable[..., int | None], access: int, name: str) -> int | None:
    """As `open`, but None where there is nothing of that kind."""
    handle: int | None = function(access, False, name)  # noqa: FBT003
    if not handle and ctypes.get_last_error() not in {win32.ERROR_FILE_NOT_FOUND, win32.ERROR_INVALID_HANDLE}:
        raise win32.failure(name)
    return handle


def value_of(semaphore: int) -> int:
    """Return how many permits there are to take."""
    information = win32.SEMAPHORE_BASIC_INFORMATION()
    status = win32.NtQuerySemaphore(semaphore, 0, ctypes.byref(information), ctypes.sizeof(information), None)
    if status:
        raise OSError(errno.EINVAL, f"Windows does not tell the value (status {status & 0xFFFFFFFF:#x})")
    return information.CurrentCount


def refuse_to_unlink(function: Callable[..., int | None], access: int, name: str, kind: str) -> None:
    """Say why a name cannot be removed: `FileNotFoundError` if there is none, else `NotImplementedError`."""
    win32.CloseHandle(open(function, access, name, kind))
    raise NotImplementedError(f"Windows cannot remove a name: {name!r} goes with the last handle")


def attempts(name: str) -> Iterator[None]:
    """Loop while another process is in mid-step; give up on one that stays there."""
    end = time.monotonic() + _PATIENCE
    while True:
        yield
        if time.monotonic() > end:
            raise BlockingIOError(errno.EAGAIN, "another program keeps the object half made", name)
        time.sleep(0.001)


class Handles:
    """Handles that are closed together, in order: a handle's share in a name.  A ``with`` block that fails closes them."""

    __slots__ = ("_handles",)

    def __init__(self) -> None:
        self._handles: list[int] = []

    def keep(self, handle: int) -> int:
        """Own one more."""
        self._handles.append(handle)
        return handle

    def give_up(self) -> None:
        """Close them, once."""
        while self._handles:
            win32.CloseHandle(self._handles.pop(0))

    def open_again(self, fd: int) -> int:
        """There are no descriptors here; see `ipcio._contract.Share`."""
        return fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            self.give_up()

    __del__ = give_up
