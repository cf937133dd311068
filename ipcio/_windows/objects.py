"""Kernel objects under names, and the handles on them.

Windows itself counts the handles: it removes a name with the last handle, however the process
exits.  All kinds of object share one namespace, that of the user's session.
"""

from __future__ import annotations

import _winapi
import contextlib
import ctypes
import errno
import os
import time
from math import ceil

from ipcio._record import calling, close_at, exhaust
from ipcio._timeouts import now
from ipcio._typing import TYPE_CHECKING
from ipcio._windows import win32

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from types import TracebackType
    from typing import Any, TypeVar

    from typing_extensions import Self

    T = TypeVar("T")

    class SemLock:  # typeshed does not know it
        handle: int

        @classmethod
        def _rebuild(cls, handle: int, kind: int, maxvalue: int, name: str | None, /) -> SemLock: ...


_PATIENCE = 2.0  # seconds; each step of another process takes microseconds


def check_length(name: str, limit: int) -> None:
    """Raise `OSError` for a name that is too long; Windows counts in units of UTF-16."""
    length = len(name.encode("utf-16-le", "surrogatepass")) // 2
    if length > limit:
        raise OSError(errno.ENAMETOOLONG, f"a name may have {limit} characters here, not {length}", name)


def already_exists(name: str) -> FileExistsError:
    """Return the error for a name that is in use."""
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def _failure(name: str) -> OSError:
    """Return the error of the last call: that of POSIX where `ipcio._names.explain` adds the usual reason."""
    error = win32.failure(name)
    if error.errno in {errno.ENOENT, errno.EACCES}:
        return OSError(error.errno, os.strerror(error.errno), name)
    return error


def _is_taken(name: str) -> bool:
    """Whether the name belongs to an object, of whatever kind, that this process may not use."""
    with Handles() as mine:
        found = mine.call(win32.OpenSemaphore, win32.SYNCHRONIZE, False, name)
        number = ctypes.get_last_error()
        mine.release()
    return bool(found) or number != win32.ERROR_FILE_NOT_FOUND


def value_of(semaphore: int) -> int:
    """Return how many permits can be acquired."""
    information = win32.SEMAPHORE_BASIC_INFORMATION()
    status = win32.NtQuerySemaphore(semaphore, 0, ctypes.byref(information), ctypes.sizeof(information), None)
    if status:
        raise OSError(errno.EINVAL, f"Windows does not return the value (status {status & 0xFFFFFFFF:#x})")
    return int(information.CurrentCount)


def unlink_error(name: str) -> NotImplementedError:
    """Return the error of `unlink`."""
    return NotImplementedError(f"Windows cannot remove a name: {name!r} goes with the last handle")


def wait_a_moment(since: float, name: str) -> None:
    """Sleep while another process is between two steps; raise `BlockingIOError` two seconds after `since`."""
    if time.monotonic() > since + _PATIENCE:
        raise BlockingIOError(errno.EAGAIN, "another program has not completed the object", name)
    time.sleep(0.001)


@contextlib.contextmanager
def errors_name(name: str) -> Generator[None, None, None]:
    """Within the block, errors of the system have the name that the caller knows, and not that of a part."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            error.filename = name
        raise


SLICE = 0.1  # seconds of one wait: a handler of Ctrl-C runs when it is over


def wait_for(handle: int, seconds: float | None) -> int:
    """Wait for an object, so long (None: no limit); return WAIT_OBJECT_0, WAIT_ABANDONED_0 or WAIT_TIMEOUT.

    What is returned was done, and what a handler raises comes instead of it: call this by `ipcio._record.calling`.
    """
    end = None if seconds is None else now() + seconds
    while True:
        left = SLICE if end is None else max(min(end - now(), SLICE), 0)
        for code in calling(_winapi.WaitForSingleObject, handle, ceil(left * 1000)):
            if code != _winapi.WAIT_TIMEOUT:
                return code
        if end is not None and now() >= end:
            return _winapi.WAIT_TIMEOUT


def owned(mutex: int) -> tuple[bool, bool]:
    """Return whether a thread owns the mutex, and whether it is this one."""
    information = win32.MUTANT_BASIC_INFORMATION()
    status = win32.NtQueryMutant(mutex, 0, ctypes.byref(information), ctypes.sizeof(information), None)
    if status:
        raise OSError(errno.EINVAL, f"Windows does not say whether a mutex is owned (status {status & 0xFFFFFFFF:#x})")
    return information.CurrentCount < 1, bool(information.OwnedByCaller)


def open_or_create(function: Callable[..., int | None], *arguments: Any, called: str) -> SemLock:
    """Call a function that creates an object under a name, its last argument, or opens it if it exists.

    Return the C object of `multiprocessing.Semaphore`, which can own any handle.  It closes the handle
    when nothing refers to it any longer, in one step and no earlier.  (A `__del__` may be interrupted by a signal
    handler, and the garbage collector calls those of a reference cycle while other objects still use the handle.)
    Errors contain the name `called`.
    """
    if not TYPE_CHECKING:
        from _multiprocessing import SemLock  # which importing this module need not wait for

    ctypes.set_last_error(0)
    found: Iterator[int] = filter(None, calling(function, *arguments))
    for owner in map(SemLock._rebuild, found, (0,), (1,), (None,)):  # in one step, so that no handler comes in between
        return owner
    if ctypes.get_last_error() == win32.ERROR_INVALID_HANDLE:
        raise OSError(errno.EINVAL, f"another program made an object of another kind, {arguments[-1]!r}", called)
    raise _failure(called)


class Handles:
    """Handles that are closed together, the last one first: the share of a handle of ipcio in a name.

    A ``with`` block that fails closes them.  The function of C that calls Windows for a handle
    also keeps it, and the one that closes it also drops it (`ipcio._record`).  A handle that
    is lost would keep its name until the process exits.
    """

    __slots__ = ("_close", "_handles")

    def __init__(self, close: Callable[[int], object] = win32.CloseHandle) -> None:
        self._close = close  # kept here: modules are empty when the interpreter exits
        self._handles: list[Any] = [None]  # and the handles after it

    def call(self, function: Callable[..., int | None], *arguments: Any) -> int | None:
        """Call a function that returns a handle, or None if it failed; keep the handle and return it."""
        known = len(self._handles)
        ctypes.set_last_error(0)
        self._handles.extend(filter(None, calling(function, *arguments)))
        return self._handles[-1] if len(self._handles) > known else None

    def create(self, function: Callable[..., int | None], *arguments: Any, called: str | None = None) -> int:
        """Call a function that creates an object under a name, its last argument; return the handle.

        Raises `FileExistsError` if the name belongs to any object, even to one that this process may
        not use.  Errors contain the name `called`, if given.
        """
        name = arguments[-1] if called is None else called
        handle = self.call(function, *arguments)
        number = ctypes.get_last_error()
        if handle and number != win32.ERROR_ALREADY_EXISTS:
            return handle
        if handle:
            self.drop()
        if handle or number == win32.ERROR_INVALID_HANDLE:  # one of another kind
            raise already_exists(name)
        problem = _failure(name)
        raise already_exists(name) if number == win32.ERROR_ACCESS_DENIED and _is_taken(name) else problem

    def open(self, function: Callable[..., int | None], access: int, name: str, kind: str) -> int:
        """Call a function that opens an existing object, and return the handle, which no child inherits."""
        handle = self.call(function, access, False, name)  # False: no child inherits it
        if handle:
            return handle
        if ctypes.get_last_error() == win32.ERROR_INVALID_HANDLE:
            raise OSError(errno.EINVAL, f"not {kind}, but an object of another kind", name)
        raise _failure(name)

    def find(self, function: Callable[..., int | None], access: int, name: str, called: str) -> int | None:
        """As `open`, but return None if there is no object of that kind."""
        handle = self.call(function, access, False, name)
        if not handle and ctypes.get_last_error() not in {win32.ERROR_FILE_NOT_FOUND, win32.ERROR_INVALID_HANDLE}:
            raise _failure(called)
        return handle

    def drop(self) -> None:
        """Close the last handle."""
        close_at(self._close, self._handles, -1)

    def give(self, function: Callable[..., T], *more: object) -> T:
        """Call a function that takes the last handle over, with more arguments; return its result."""
        return next(map(function, map(self._handles.pop, (-1,)), *zip(more)))

    def release(self, _: object = None) -> None:
        """Close the handles, once; there is no descriptor."""
        if len(getattr(self, "_handles", ())) > 1:  # there is no list if Ctrl-C came before it was made
            exhaust(map(self._close, iter(self._handles.pop, None)))
            self._handles.append(None)

    def lend(self, fd: int) -> int:
        """Return `fd`, which is -1: there are no descriptors."""
        return fd

    def is_open(self, _: int) -> bool:
        """Return False: there are no descriptors."""
        return False

    def pass_to(self, child: Any) -> None:
        """Return None: there are no descriptors."""

    def pass_to_program(self) -> None:
        """Do nothing: no process becomes another program."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            self.release()

    __del__ = release
