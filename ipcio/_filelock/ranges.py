"""`lock`, `trylock` and `unlock`: locks on ranges of an open file."""

from __future__ import annotations

import io
import sys

from ipcio._buffering import (
    FORGET,
    MEMORY,
    NOTHING_READ,
    NOTHING_UNWRITTEN,
    PREPARATIONS,
    WRITE_OUT,
    flush,
    lent,
    refresh,
)
from ipcio._filelock import KINDS, backend, holders
from ipcio._filelock.errors import descriptor, explain, is_foreign
from ipcio._light import suppress
from ipcio._timeouts import check_timeout, now
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    from ipcio._filelock import Mode

_request = backend.request
_AT_ONCE = backend.AT_ONCE
_BUSY = backend.BUSY
_UNLOCK = backend.UNLOCK
_ZERO = 0
# Requests for the whole file, which most callers lock.  To have them ready, and to recognize the
# defaults of both arguments by identity, saves one eighth of the time of `lock` and `unlock`.
_WHOLE = {mode: _request(kind, 0, 0) for mode, kind in KINDS.items()}
_UNLOCK_WHOLE = _request(_UNLOCK, 0, 0)


def _first_ask(*arguments: Any) -> object:
    """Do as `backend.ask`; import first what waiting will need, which is most of the time of importing this module."""
    global _ask  # noqa: PLW0603 -- from then on it is that function itself
    backend.prepare()
    _ask = backend.ask
    return _ask(*arguments)


_ask: Callable[..., object] = _first_ask
PREPARATIONS.append(backend.prepare)
if "ctypes" in sys.modules:  # perhaps there are handles of memory already; and little is left to import
    backend.prepare()
_type: Callable[[Any], type] = type  # of anything, for type checkers


def lock(
    file: Any, mode: Mode = "rw", offset: int = 0, nbytes: int = 0, *, timeout: float | None = None
) -> Literal[True]:
    """Lock `nbytes` bytes from `offset`, and wait as long as another lock conflicts; return True.

    mode
        ``"r"`` is a shared lock and requires a file that is open for reading; ``"w"`` and
        ``"rw"`` are exclusive and require one that is open for writing.  Before an exclusive
        lock becomes shared, everything that was written reaches the system, as in `unlock`.
    nbytes
        0 means to infinity.
    timeout
        Seconds to wait; None or negative means without limit.  Either way the thread sleeps
        in the kernel and has its place in the queue.  (Linux: the first wait with a
        timeout gives ``SIGURG`` a handler that does nothing, unless it has one.
        Windows: it polls.)

    Raises `TimeoutError`, at most 50 ms after the time is up, which names the process that
    holds the lock if it can be found by then; `PermissionError` if a security module or a
    sandbox refuses the lock, which is no conflict, so `trylock` raises it, too;
    `io.UnsupportedOperation` (``EBADF``) for a mode that the file is not open for,
    `ValueError` for a closed file or a malformed argument, another `OSError` for what
    the system refuses (Windows: also `NotImplementedError`, see above).  Whenever it
    raises, this call has locked nothing; a lock of the same range that it was to change
    may be gone.
    """
    try:
        _acquire(file, mode, offset, nbytes, True, None if timeout is None else check_timeout(timeout))
        return True
    except BaseException as error:  # on Python 3.10 that of a handler which ran when `_acquire` had returned
        if is_foreign(error):
            release(file, offset, nbytes)
        raise


def trylock(file: Any, mode: Mode = "rw", offset: int = 0, nbytes: int = 0) -> bool:
    """Lock a range if no other lock conflicts; return whether it was locked.  Otherwise as `lock`."""
    try:
        return _acquire(file, mode, offset, nbytes, False, None)
    except BaseException as error:  # as above
        if is_foreign(error):
            release(file, offset, nbytes)
        raise


def _acquire(file: Any, mode: Mode, offset: int, nbytes: int, wait: bool, seconds: float | None) -> bool:
    locked = False
    kind = _type(file)
    if mode == "r" and kind not in NOTHING_UNWRITTEN:
        WRITE_OUT.get(kind, flush)(file)  # if the range was exclusive, other processes may read it from now on
    try:
        try:
            fd = file if kind is int else file._lend() if kind in MEMORY else file.fileno()
        except io.UnsupportedOperation:
            fd = lent(file)
        if offset is nbytes is _ZERO:
            request = _WHOLE[mode]
        else:
            if nbytes < 0:  # to the system this means the bytes before `offset`
                raise ValueError
            request = _request(KINDS[mode], offset, nbytes)
        try:
            _ask(fd, _AT_ONCE, request)
        except _BUSY:
            if not wait:
                return False
            _wait(fd, request, seconds, offset, nbytes)
        locked = True
        if kind not in NOTHING_READ:
            FORGET.get(kind, refresh)(file)
    except BaseException as error:
        if locked or is_foreign(error):
            release(file, offset, nbytes)
            raise
        raise explain(error, file, mode, offset, nbytes) from None
    return True


def unlock(file: Any, offset: int = 0, nbytes: int = 0) -> Literal[True]:
    """Release all locks on `nbytes` bytes from `offset` (0: to infinity), if there are any; return True.

    What was written through `file` reaches the system first.  If it cannot, that error
    is raised and the range stays locked.
    """
    kind = _type(file)
    if kind not in NOTHING_UNWRITTEN:
        WRITE_OUT.get(kind, flush)(file)
    try:
        try:
            fd = file if kind is int else file._lend() if kind in MEMORY else file.fileno()
        except io.UnsupportedOperation:
            fd = lent(file)
        if offset is nbytes is _ZERO:
            request = _UNLOCK_WHOLE
        else:
            if nbytes < 0:
                raise ValueError
            request = _request(_UNLOCK, offset, nbytes)
        _ask(fd, _AT_ONCE, request)
    except BaseException as error:
        if is_foreign(error):
            release(file, offset, nbytes)
            raise
        raise explain(error, file, "r", offset, nbytes) from None
    return True


def release(file: Any, offset: int, nbytes: int) -> None:
    """Unlock a range that may be locked, after an error."""
    with suppress(Exception):
        _ask(descriptor(file), _AT_ONCE, _request(_UNLOCK, offset, nbytes))


def _wait(fd: int, request: Any, seconds: float | None, offset: int, nbytes: int) -> None:
    """Lock a range for which another lock has to go first."""
    try:
        if seconds is None:
            backend.wait(fd, request, None)
        else:
            _wait_until(now() + seconds, fd, request, seconds)
    except BaseException as error:
        # The arguments are fine, so whatever is not the system's error comes from a signal handler.
        if not isinstance(error, OSError) or is_foreign(error):
            release(fd, offset, nbytes)
        raise


def _wait_until(end: float, fd: int, request: Any, seconds: float) -> None:
    if seconds and backend.wait(fd, request, seconds - min(seconds / 2, holders.SEARCH_BEFORE)):
        return
    # The holder is searched for before the time is up, so that the error comes in time.  The
    # search takes a while, so the lock is tried after each step.
    search = holders.Search(fd, request)
    for _ in search.steps(min(max(end, now() + holders.SEARCH_AFTER), end + holders.SEARCH_AFTER)):
        with suppress(*_BUSY):
            _ask(fd, _AT_ONCE, request)
            return
    if not backend.wait(fd, request, max(end - now(), 0)):
        raise search.error()
