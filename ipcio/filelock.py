"""Locks on ranges of a file's bytes, between processes and between threads.

Several programs share a file, and each says which bytes it is about to touch::

    from ipcio import filelock

    with open("accounts", "r+b") as file:
        with filelock.locked(file, "rw", 4096, 64):      # one record
            ...                                          # nobody else is in there

**Shared or exclusive.**  ``"r"`` shares: any number of readers.  ``"w"`` and ``"rw"``
exclude everybody.  Locking a range again changes its kind; ranges may overlap, be split
and be joined at will, and reach beyond the end of the file (``nbytes=0``: to infinity).
The locks are advisory: they bind who asks for them.

**Whose a lock is.**  It belongs to the *open file*: the thing that `open` makes and that
``dup`` and ``fork`` share (`semantics` is ``"open file"``).  So it excludes other
threads that opened the file for themselves, survives the closing of other descriptors
of the same file, and goes when the open file is closed for the last time, at the
latest with its process.  A forked child has its parent's open files, and so its locks:
either of the two may unlock.  Such locks and the classic ones of ``fcntl.lockf``, of C
and of LuaIPC exclude one another.  Where the kernel has no such locks, `semantics` is
``"process"``: threads do not exclude each other, and closing *any* descriptor of the
file loses all of a process's locks on it.

**Buffers.**  Once a lock is had, the next read through this very object sees what the
previous holder wrote: read-ahead is forgotten, at an unchanged position.  Before
`unlock` lets go, everything that was written through this object reaches the operating
system.

A file is anything with a ``fileno()`` -- text, buffered, raw, a `MemoryFile`, a
temporary file -- or a descriptor.

Linux.  (LuaIPC: ``ipc.filelock``; POSIX: ``fcntl(2)``, section on locks.)
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import time
from operator import index
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ipcio._buffers import PLAIN, flush, refresh
from ipcio._timeouts import check_timeout

if sys.platform != "linux":
    raise ImportError(f"ipcio.filelock has no back end for {sys.platform} yet")
from ipcio._posix import filelock as _chosen

if TYPE_CHECKING:
    from typing import Literal

    from ipcio._contract import LockBackend

__all__ = ["Holder", "lock", "locked", "query", "semantics", "trylock", "unlock"]

_File = TypeVar("_File")

_backend: LockBackend = _chosen

_attempt = _backend.attempt
_release = _backend.release

semantics: Literal["open file", "process"] = _backend.SEMANTICS
"""Whose a lock is here: the open file's or, where the kernel knows no better, the process's."""

_EXCLUSIVE = {"r": False, "w": True, "rw": True}
_LAST_BYTE = 2**63 - 1  # that a file can have

# Seconds between two tries while a lock is waited for with a timeout; the kernel has no
# such wait.  Longer pauses come late, shorter ones burn time.
_FIRST_PAUSE, _LAST_PAUSE = 0.00005, 0.0009


class Holder(NamedTuple):
    """Who is in the way of a lock."""

    start: int
    """The first byte of the holder's range."""
    length: int
    """How many bytes; 0 means to infinity."""
    mode: str
    """``"r"`` if the holder shares, ``"rw"`` if it excludes."""
    pid: int | None
    """The process, None where that cannot be known."""


def lock(
    file: Any, mode: str = "rw", offset: int = 0, nbytes: int = 0, *, timeout: float | None = None
) -> Literal[True]:
    """Lock `nbytes` bytes from `offset`, waiting while somebody is in the way; return True.

    mode
        ``"r"`` shares, which takes a file that is open for reading; ``"w"`` and
        ``"rw"`` exclude, which takes one that is open for writing.
    nbytes
        0 means to infinity.
    timeout
        Seconds to wait; None or negative waits for ever, in the kernel.  With a
        timeout, a lock is had within a millisecond after it gets free.

    Raises `TimeoutError`, which names the holder where that can be told,
    `io.UnsupportedOperation` (``EBADF``) for a mode that the file is not open for,
    `ValueError` for a closed file or a malformed argument, another `OSError` for what
    the system refuses.  Whenever it raises, this call has locked nothing; a lock of
    the same range that it was to change may be gone.
    """
    _lock(file, mode, offset, nbytes, wait=True, seconds=None if timeout is None else check_timeout(timeout))
    return True


def trylock(file: Any, mode: str = "rw", offset: int = 0, nbytes: int = 0) -> bool:
    """Lock a range if nobody is in the way; return whether it was locked.  Otherwise as `lock`."""
    return _lock(file, mode, offset, nbytes, wait=False, seconds=None)


def unlock(file: Any, offset: int = 0, nbytes: int = 0) -> Literal[True]:
    """Let go of `nbytes` bytes from `offset` (0: to infinity), whatever locks are there, if any; return True.

    What was written through `file` reaches the system first.  If it cannot, that error
    is raised and the range stays locked.
    """
    if type(file) not in PLAIN:
        flush(file)
    try:
        if offset < 0 or nbytes < 0:
            raise ValueError  # _diagnose says more
        _release(file if type(file) is int else file.fileno(), offset, nbytes)
    except Exception as error:  # noqa: BLE001 -- all of them are told
        raise _diagnose(error, file, "r", offset, nbytes) from None
    except BaseException:  # Ctrl-C, perhaps just before
        _let_go(file, offset, nbytes)
        raise
    return True


class locked(Generic[_File]):  # noqa: N801 -- to be used as a function
    """Lock a range while a ``with`` block runs; ``as`` gives the file.

    The arguments and errors are those of `lock`; at the end of the block, `unlock`,
    unless the block has closed the file, and its lock with it.
    """

    __slots__ = ("_file", "_mode", "_nbytes", "_offset", "_timeout")

    def __init__(
        self, file: _File, mode: str = "rw", offset: int = 0, nbytes: int = 0, *, timeout: float | None = None
    ) -> None:
        self._file = file
        self._mode = mode
        self._offset = offset
        self._nbytes = nbytes
        self._timeout = timeout

    def __enter__(self) -> _File:
        try:
            lock(self._file, self._mode, self._offset, self._nbytes, timeout=self._timeout)
        except Exception:
            raise
        except BaseException:  # Ctrl-C, perhaps as `lock` returned
            _let_go(self._file, self._offset, self._nbytes)
            raise
        return self._file

    def __exit__(self, *_: object) -> None:
        if not getattr(self._file, "closed", False):  # else the lock has gone with the open file
            unlock(self._file, self._offset, self._nbytes)


def query(file: Any, mode: str = "rw", offset: int = 0, nbytes: int = 0) -> Holder | None:
    """Tell who is in the way of such a lock, None if nobody is.

    The process is found even where the system's own answer has none: a lock of an open
    file belongs to every process that has it open, of which one is told.  That takes
    permission to look at the other process.
    """
    try:
        if offset < 0 or nbytes < 0:
            raise ValueError
        found = _backend.conflict(_descriptor(file), _EXCLUSIVE[mode], offset, nbytes)
    except Exception as error:  # noqa: BLE001 -- all of them are told
        raise _diagnose(error, file, mode, offset, nbytes) from None
    if found is None:
        return None
    start, length, excludes, pid = found
    return Holder(start, length, "rw" if excludes else "r", pid)


def _diagnose(error: Exception, file: Any, mode: str, offset: int, nbytes: int) -> Exception:
    """Return what is to be raised when a call with such arguments has failed, which need not be the arguments' fault.

    All checking is done here, where it costs nothing while all goes well.
    """
    if mode not in _EXCLUSIVE:
        return ValueError(f"mode must be 'r' (share), 'w' or 'rw' (exclude), not {mode!r}")
    offset, nbytes = index(offset), index(nbytes)
    if offset < 0 or nbytes < 0:
        return ValueError("offset and nbytes must not be negative")
    if offset + (nbytes or 1) - 1 > _LAST_BYTE or nbytes > _LAST_BYTE:
        return ValueError(f"the range reaches beyond the last byte that a file can have, {_LAST_BYTE}")
    fd = _descriptor(file)
    if not isinstance(error, OSError):
        return error
    if error.errno == errno.EBADF:
        try:
            os.fstat(fd)
        except OSError:  # no descriptor at all
            pass
        else:
            what = "the file is not open for that: mode 'r' takes a file open for reading, 'w' and 'rw' one for writing"
            return io.UnsupportedOperation(errno.EBADF, what, _name(file))
    return type(error)(error.errno, error.strerror, _name(file))


def _descriptor(file: Any) -> int:
    if type(file) is int:
        return file
    fileno = getattr(file, "fileno", None)
    if fileno is None:
        raise TypeError(f"a file must have a fileno() or be a descriptor; {type(file).__name__!r} is neither")
    return index(fileno())


def _lock(file: Any, mode: str, offset: int, nbytes: int, *, wait: bool, seconds: float | None) -> bool:
    """Lock, at once or, if `wait`, within that time, and refresh the file; return whether."""
    try:
        try:
            if offset < 0 or nbytes < 0:
                raise ValueError  # _diagnose says more
            free = _attempt(file if type(file) is int else file.fileno(), _EXCLUSIVE[mode], offset, nbytes)
        except Exception as error:  # noqa: BLE001 -- all of them are told
            raise _diagnose(error, file, mode, offset, nbytes) from None
        if not free:
            if not wait:
                return False
            _wait(file, mode, offset, nbytes, seconds)
        if type(file) not in PLAIN:
            _refresh(file, offset, nbytes)
    except Exception:
        raise
    except BaseException:
        # A signal handler that raises (Ctrl-C) may run as soon as a call returns, before
        # anybody sees what it returned.  So we may have the lock.
        _let_go(file, offset, nbytes)
        raise
    return True


def _let_go(file: Any, offset: int, nbytes: int) -> None:
    with contextlib.suppress(Exception):
        _release(_descriptor(file), offset, nbytes)


def _wait(file: Any, mode: str, offset: int, nbytes: int, seconds: float | None) -> None:
    """Lock a range that somebody is in the way of, within that time."""
    request = _descriptor(file), _EXCLUSIVE[mode], offset, nbytes
    try:
        if seconds is None:
            _backend.wait(*request)
            return
        start = time.monotonic()
        end = start + seconds
        pause = _FIRST_PAUSE
        found = None
        while (now := time.monotonic()) < end:
            if found is None and now - start > seconds / 2:  # not at the end: it takes its time
                found = _backend.conflict(*request)
            time.sleep(min(pause, end - now))
            pause = min(2 * pause, _LAST_PAUSE)
            if _backend.attempt(*request):
                return
    except OSError as error:
        raise _diagnose(error, file, mode, offset, nbytes) from None
    raise _timed_out(file, found or _backend.conflict(*request))


def _refresh(file: Any, offset: int, nbytes: int) -> None:
    """Have the file forget what it read before it had the lock; if it cannot, there shall be no lock."""
    try:
        refresh(file)
    except BaseException:
        _let_go(file, offset, nbytes)
        raise


def _timed_out(file: Any, found: tuple[int, int, bool, int | None] | None) -> TimeoutError:
    if found is None:
        who = "somebody who has just let go"
    else:
        start, length, excludes, pid = found
        command = "" if pid is None else _backend.describe(pid)
        process = "another process" if pid is None else f"process {pid}{command and f' ({command})'}"
        span = f"bytes {start} to {start + length - 1}" if length else f"all from byte {start}"
        who = f"{process}, which {'excludes others from' if excludes else 'shares'} {span}"
    return TimeoutError(errno.ETIMEDOUT, f"locked by {who}", _name(file))


def _name(file: Any) -> Any:
    return file if isinstance(file, int) else getattr(file, "name", None)
