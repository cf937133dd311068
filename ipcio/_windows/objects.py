"""Kernel objects under names, and the handles on them.

Windows itself keeps the count: a name lives as long as some process has a handle, and
goes with the last, however that process ends.  All kinds of object share one space of
names, that of the user's session.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time

from ipcio._record import calling, close_at, exhaust
from ipcio._typing import TYPE_CHECKING
from ipcio._windows import win32

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, TypeVar

    from typing_extensions import Self

    T = TypeVar("T")

__all__ = [
    "Handles",
    "be_patient",
    "cannot_unlink",
    "check_length",
    "exists",
    "value_of",
]

_PATIENCE = 2.0  # seconds; who is in mid-step needs microseconds


def check_length(name: str, limit: int) -> None:
    """Refuse a name that is too long; Windows counts in units of UTF-16."""
    length = len(name.encode("utf-16-le", "surrogatepass")) // 2
    if length > limit:
        raise OSError(errno.ENAMETOOLONG, f"a name may have {limit} characters here, not {length}", name)


def exists(name: str) -> FileExistsError:
    """The error that says so."""
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def _failure(name: str) -> OSError:
    """What the last call failed with, as POSIX has it where `ipcio._names.explained` adds the usual reason."""
    error = win32.failure(name)
    if error.errno in {errno.ENOENT, errno.EACCES}:
        return OSError(error.errno, os.strerror(error.errno), name)
    return error


def _is_taken(name: str) -> bool:
    """Whether there is an object, of whatever kind, that we may not use."""
    with Handles() as mine:
        found = mine.call(win32.OpenSemaphore, win32.SYNCHRONIZE, False, name)
        number = ctypes.get_last_error()
        mine.release()
    return bool(found) or number != win32.ERROR_FILE_NOT_FOUND


def value_of(semaphore: int) -> int:
    """Return how many permits there are to take."""
    information = win32.SEMAPHORE_BASIC_INFORMATION()
    status = win32.NtQuerySemaphore(semaphore, 0, ctypes.byref(information), ctypes.sizeof(information), None)
    if status:
        raise OSError(errno.EINVAL, f"Windows does not tell the value (status {status & 0xFFFFFFFF:#x})")
    return int(information.CurrentCount)


def cannot_unlink(name: str) -> NotImplementedError:
    """The error that says so."""
    return NotImplementedError(f"Windows cannot remove a name: {name!r} goes with the last handle")


def be_patient(since: float, name: str) -> None:
    """Sleep for a moment, while another process is in mid-step; give up on one that stays there."""
    if time.monotonic() > since + _PATIENCE:
        raise BlockingIOError(errno.EAGAIN, "another program keeps the object half made", name)
    time.sleep(0.001)


class Handles:
    """Handles that are closed together, the last one first: a handle's share in a name.

    A ``with`` block that fails closes them.  A handle is kept by the very function of C
    that calls Windows for it, and closed by the one that forgets it, so that Ctrl-C cannot
    come between: a handle that nobody knows of would keep its name until the process ends.
    """

    __slots__ = ("_close", "_handles")

    def __init__(self, close: Callable[[int], object] = win32.CloseHandle) -> None:
        self._close = close  # ours, when the interpreter ends and modules are empty
        self._handles: list[int | None] = [None]

    def call(self, function: Callable[..., int | None], *arguments: Any) -> int | None:
        """Call what returns something to close, or None if it failed; return that."""
        known = len(self._handles)
        ctypes.set_last_error(0)
        self._handles.extend(filter(None, calling(function, *arguments)))
        return self._handles[-1] if len(self._handles) > known else None

    def create(self, function: Callable[..., int | None], *arguments: Any, called: str | None = None) -> int:
        """Call a function that makes an object under a name, its last argument; return the handle.

        Raises `FileExistsError` if there is an object, of whatever kind, whether or not we may use it;
        in an error it is `called` so.
        """
        name = arguments[-1] if called is None else called
        handle = self.call(function, *arguments)
        number = ctypes.get_last_error()
        if handle and number != win32.ERROR_ALREADY_EXISTS:
            return handle
        if handle:
            self.drop()
        if handle or number == win32.ERROR_INVALID_HANDLE:  # one of another kind
            raise exists(name)
        problem = _failure(name)
        raise exists(name) if number == win32.ERROR_ACCESS_DENIED and _is_taken(name) else problem

    def open(self, function: Callable[..., int | None], access: int, name: str, kind: str) -> int:
        """Call a function that opens an existing object, and return the handle, which no child inherits."""
        handle = self.call(function, access, False, name)  # False: no child inherits it
        if handle:
            return handle
        if ctypes.get_last_error() == win32.ERROR_INVALID_HANDLE:
            raise OSError(errno.EINVAL, f"not {kind}, but an object of another kind", name)
        raise _failure(name)

    def find(self, function: Callable[..., int | None], access: int, name: str, called: str) -> int | None:
        """As `open`, but None where there is nothing of that kind."""
        handle = self.call(function, access, False, name)
        if not handle and ctypes.get_last_error() not in {win32.ERROR_FILE_NOT_FOUND, win32.ERROR_INVALID_HANDLE}:
            raise _failure(called)
        return handle

    def drop(self) -> None:
        """Close the last one."""
        close_at(self._close, self._handles, -1)

    def give(self, function: Callable[..., T], *more: object) -> T:
        """Call what takes the last one over, and more; return what it makes of it."""
        return next(map(function, map(self._handles.pop, (-1,)), *zip(more)))

    def release(self, _: object = None) -> None:
        """Close them, once; there is no descriptor."""
        if len(getattr(self, "_handles", ())) > 1:  # none, if Ctrl-C came before
            exhaust(map(self._close, iter(self._handles.pop, None)))
            self._handles.append(None)

    def open_again(self, fd: int) -> int:
        """There are no descriptors here; see `ipcio._backend.Share`."""
        return fd

    def is_open(self, _: int) -> bool:
        """There are no descriptors here; see `ipcio._backend.Share`."""
        return False

    def pass_to(self, child: Any) -> None:
        """There are no descriptors here; see `ipcio._backend.Share`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            self.release()

    __del__ = release
