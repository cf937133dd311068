"""Locks on ranges of a file's bytes, between processes and between threads.

Several programs share a file, and each says which bytes it is about to touch::

    from ipcio import filelock

    with open("accounts", "r+b") as file:
        with filelock.locked(file, "rw", 4096, 64):      # one record
            ...                                          # nobody else is in there

**Shared or exclusive.**  ``"r"`` shares: any number of readers.  ``"w"`` and ``"rw"``
exclude everybody.  Locking a range again changes its kind; ranges may overlap, be split
and be joined at will, and reach beyond the end of the file (``nbytes=0``: to infinity).
The locks are advisory: they bind who asks for them.  (Windows: see below.)

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
temporary file -- or a descriptor; `locked` also takes the path of a lock file.  A
`MemoryFile` that shows only part of its file, a map at an offset or a narrowed handle,
locks ranges of the whole file all the same: byte 0 is the file's first.

**Windows.**  The lock is the open file's within one process: a child that inherits the
descriptor has no share in it.  Who waits tries again and again, without a place in a
queue.  What was locked exclusively is let go, or made shared, as a whole: for a part of it
that is `NotImplementedError`, and nothing has changed.  To exclude where one shares
already, that share has to be given up for a moment.  Nobody can tell who is in the way:
`query` tries the lock, and its answer is about the range that was asked for.  And locks
there bind who asks for none: through another open file nothing of what is locked
exclusively can be read, and nothing of what is locked at all be written, but in memory
that is mapped.

Linux, macOS, Windows; what differs is told in ``docs/platforms.md``.  (LuaIPC:
``ipc.filelock``; POSIX: ``fcntl(2)``, section on locks; Windows: ``LockFileEx``.)
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import struct
import sys
from _thread import get_ident
from operator import index
from time import sleep

from ipcio._buffering import FORGET, MEMORY, PLAIN, WRITE_OUT, flush, lent, refresh
from ipcio._timeouts import check_timeout, now
from ipcio._typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, overload

if sys.platform == "win32":
    from ipcio._windows import filelock as _chosen
else:
    from ipcio._posix import filelock as _chosen

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO, Literal, TypeAlias

    from ipcio._backend import Conflict, LockBackend, Owner

    _Mode: TypeAlias = Literal["r", "w", "rw"]

__all__ = ["Holder", "lock", "lock_async", "locked", "query", "semantics", "trylock", "unlock"]

_File = TypeVar("_File")

_backend: LockBackend = _chosen

_request = _backend.request
_ask = _backend.ask
_AT_ONCE = _backend.AT_ONCE
_BUSY = _backend.BUSY

semantics: Literal["open file", "process"] = _backend.SEMANTICS
"""Whose a lock is here: the open file's or, where the kernel knows no better, the process's."""

_KINDS = {"r": _backend.SHARE, "w": _backend.EXCLUDE, "rw": _backend.EXCLUDE}
_UNLOCK = _backend.UNLOCK
_ZERO = 0
_type: Callable[[Any], type] = type
# The requests for all of a file.
_WHOLE = {mode: _request(kind, 0, 0) for mode, kind in _KINDS.items()}
_RELEASE = _request(_UNLOCK, 0, 0)
# For a negative length, which the system would take, in a sense of its own: no request can be made of it.
_NONE: Any = None
_LAST_BYTE = 2**63 - 1  # that a file can have

# What a file, an argument or the system can say to a request.
_REFUSALS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    AttributeError,
    struct.error,
    NotImplementedError,
)

# ExistingObject the process in the way begins so many seconds before the time is up, and may end so
# many after it where fewer were left.
_SEARCH_BEFORE, _SEARCH_AFTER = 0.05, 0.03


class Holder(NamedTuple):
    """Who is in the way of a lock."""

    start: int
    """The first byte of the holder's range."""
    length: int
    """How many bytes; 0 means to infinity."""
    mode: Literal["r", "rw"]
    """``"r"`` if the holder shares, ``"rw"`` if it excludes."""
    pid: int | None
    """The process, None where that cannot be known."""


def lock(
    file: Any, mode: _Mode = "rw", offset: int = 0, nbytes: int = 0, *, timeout: float | None = None
) -> Literal[True]:
    """Lock `nbytes` bytes from `offset`, waiting while somebody is in the way; return True.

    mode
        ``"r"`` shares, which takes a file that is open for reading; ``"w"`` and
        ``"rw"`` exclude, which takes one that is open for writing.  Before others may
        share what was exclusive, what was written reaches the system, as in `unlock`.
    nbytes
        0 means to infinity.
    timeout
        Seconds to wait; None or negative waits for ever.  Either way the thread sleeps
        in the kernel and has its place in the queue.  (Linux: the first wait with a
        timeout gives ``SIGURG`` a handler that does nothing, unless it has one.
        Windows: it polls.)

    Raises `TimeoutError`, at most 50 ms after the time is up, which names the process that
    has the lock if it can be found by then; `PermissionError` if a security module or a
    sandbox refuses the lock, which is no conflict, so `trylock` raises it, too;
    `io.UnsupportedOperation` (``EBADF``) for a mode that the file is not open for,
    `ValueError` for a closed file or a malformed argument, another `OSError` for what
    the system refuses (Windows: also `NotImplementedError`, see above).  Whenever it
    raises, this call has locked nothing; a lock of the same range that it was to change
    may be gone.
    """
    have = False
    seconds = None if timeout is None else check_timeout(timeout)
    kind = _type(file)
    if mode == "r" and kind not in PLAIN:
        WRITE_OUT.get(kind, flush)(file)  # if the range was exclusive, others may come in now
    try:
        try:
            fd = file if kind is int else file._lend() if kind in MEMORY else file.fileno()
        except io.UnsupportedOperation:
            fd = lent(file)
        request = (
            _WHOLE[mode]
            if nbytes is offset is _ZERO
            else _request(_KINDS[mode], offset, nbytes if nbytes >= 0 else _NONE)
        )
        try:
            _ask(fd, _AT_ONCE, request)
        except _BUSY:
            _wait(fd, request, seconds, offset, nbytes)
        have = True
        if kind not in PLAIN:
            FORGET.get(kind, refresh)(file)
    except BaseException as error:
        if have or _is_foreign(error):
            _let_go(file, offset, nbytes)
            raise
        raise _diagnose(error, file, mode, offset, nbytes) from None
    return True


def trylock(file: Any, mode: _Mode = "rw", offset: int = 0, nbytes: int = 0) -> bool:
    """Lock a range if nobody is in the way; return whether it was locked.  Otherwise as `lock`."""
    have = False
    kind = _type(file)
    if mode == "r" and kind not in PLAIN:
        WRITE_OUT.get(kind, flush)(file)
    try:
        request = (
            _WHOLE[mode]
            if nbytes is offset is _ZERO
            else _request(_KINDS[mode], offset, nbytes if nbytes >= 0 else _NONE)
        )
        try:
            fd = file if kind is int else file._lend() if kind in MEMORY else file.fileno()
        except io.UnsupportedOperation:
            fd = lent(file)
        try:
            _ask(fd, _AT_ONCE, request)
        except _BUSY:
            return False
        have = True
        if kind not in PLAIN:
            FORGET.get(kind, refresh)(file)
    except BaseException as error:
        if have or _is_foreign(error):
            _let_go(file, offset, nbytes)
            raise
        raise _diagnose(error, file, mode, offset, nbytes) from None
    return True


def unlock(file: Any, offset: int = 0, nbytes: int = 0) -> Literal[True]:
    """Let go of `nbytes` bytes from `offset` (0: to infinity), whatever locks are there, if any; return True.

    What was written through `file` reaches the system first.  If it cannot, that error
    is raised and the range stays locked.
    """
    kind = _type(file)
    if kind not in PLAIN:
        WRITE_OUT.get(kind, flush)(file)
    try:
        request = _RELEASE if nbytes is offset is _ZERO else _request(_UNLOCK, offset, nbytes if nbytes >= 0 else _NONE)
        try:
            fd = file if kind is int else file._lend() if kind in MEMORY else file.fileno()
        except io.UnsupportedOperation:
            fd = lent(file)
        _ask(fd, _AT_ONCE, request)
    except BaseException as error:
        if _is_foreign(error):
            _let_go(file, offset, nbytes)
            raise
        raise _diagnose(error, file, "r", offset, nbytes) from None
    return True


async def lock_async(
    file: Any,
    mode: _Mode = "rw",
    offset: int = 0,
    nbytes: int = 0,
    *,
    timeout: float | None = None,
) -> Literal[True]:
    """Lock a range as `lock` does, without blocking the event loop of asyncio (uvloop, anyio) meanwhile; return True.

    It tries again and again, at most every 10 ms, without a place in the kernel's queue and
    without a thread.  If the task is cancelled, nothing is locked.
    """
    seconds = None if timeout is None else check_timeout(timeout)
    end = None if seconds is None else now() + seconds
    pause = _FIRST_PAUSE
    while not trylock(file, mode, offset, nbytes):
        left = pause if end is None else end - now()
        if left <= 0:
            error = await _timed_out_async(file, mode, offset, nbytes)
            if trylock(file, mode, offset, nbytes):
                break
            raise _diagnose(error, file, mode, offset, nbytes)
        await _sleep(min(pause, left))
        pause = min(2 * pause, _LAST_PAUSE)
    return True


_FIRST_PAUSE, _LAST_PAUSE = 0.0005, 0.01  # seconds between two tries
_GRACE = 0.02  # seconds after the time is up in which a lock file that was replaced is no error yet
_SLICE = 0.002  # seconds of search between which other tasks run


async def _sleep(seconds: float) -> None:
    import asyncio  # which every program with an event loop has

    await asyncio.sleep(seconds)


async def _timed_out_async(file: Any, mode: _Mode, offset: int, nbytes: int) -> TimeoutError:
    fd = _descriptor(file)
    request = _request(_KINDS[mode], offset, nbytes)
    found = _backend.conflict(fd, request)
    owner = None
    if found and found.pid is None:
        start = now()
        turn = start + _SLICE
        for owner in _backend.owners(fd, found):
            if owner or now() > start + _SEARCH_AFTER:
                break
            if now() > turn:
                await _sleep(0)
                turn = now() + _SLICE
    return _timed_out(fd, request, found, owner)


class locked(Generic[_File]):  # noqa: N801 -- to be used as a function
    """Lock a range while a ``with`` block runs; ``as`` gives the file.

    The arguments and errors are those of `lock`; at the end of the block, `unlock`,
    unless the block has closed the file, and its lock with it.  ``async with`` waits as
    `lock_async` does.

    A path instead of a file makes a lock file of it: the file is opened for the time of the
    block, and ``as`` gives that binary file.  A missing file is made, with mode 0600.
    It must be a regular file.  A symbolic link in the last place of the path is followed only
    if it belongs to this user; otherwise that is a `PermissionError`.

    A process may remove or replace the lock file as its last act in the block.  Waiters that
    then get the lock of the old file try again with the one that the path means now, within
    the time that is left.  Removed earlier, it
    protects nothing from then on: the next process makes a new file and enters at once.
    """

    __slots__ = ("_file", "_mode", "_nbytes", "_offset", "_opened", "_timeout")

    @overload
    def __init__(
        self: locked[BinaryIO],
        file: str | bytes | os.PathLike[Any],
        mode: _Mode = "rw",
        offset: int = 0,
        nbytes: int = 0,
        *,
        timeout: float | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self, file: _File, mode: _Mode = "rw", offset: int = 0, nbytes: int = 0, *, timeout: float | None = None
    ) -> None: ...
    def __init__(
        self, file: Any, mode: _Mode = "rw", offset: int = 0, nbytes: int = 0, *, timeout: float | None = None
    ) -> None:
        self._file = file
        self._mode: _Mode = mode
        self._offset = offset
        self._nbytes = nbytes
        self._timeout = timeout
        # The files that were opened by path, of every thread or task that is in a block.
        self._opened: dict[object, list[Any]] | None = {} if isinstance(file, (str, bytes, os.PathLike)) else None

    def __enter__(self) -> _File:
        if self._opened is not None:
            return self._enter_path()
        try:
            lock(self._file, self._mode, self._offset, self._nbytes, timeout=self._timeout)
        except BaseException as error:
            if _is_foreign(error):  # perhaps just as `lock` returned
                _let_go(self._file, self._offset, self._nbytes)
            raise
        return self._file  # type: ignore[no-any-return]

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._exit_path(get_ident())
            return
        try:
            self._unlock(self._file)
        except BaseException as error:
            if _is_foreign(error):  # perhaps before anything was done
                self._unlock(self._file)
            raise

    async def __aenter__(self) -> _File:
        if self._opened is not None:
            return await self._enter_path_async()
        await lock_async(self._file, self._mode, self._offset, self._nbytes, timeout=self._timeout)
        return self._file  # type: ignore[no-any-return]

    async def __aexit__(self, *_: object) -> None:
        if self._opened is not None:
            self._exit_path(_task())
        else:
            self._unlock(self._file)

    def _unlock(self, file: Any) -> None:
        if not getattr(file, "closed", False):  # else the lock has gone with the open file
            unlock(file, self._offset, self._nbytes)

    # -- lock files --------------------------------------------------------

    def _enter_path(self) -> _File:
        end = self._end()
        while True:
            file = self._open(end)
            if file is None:
                sleep(_LAST_PAUSE)
                continue
            try:
                lock(file, self._mode, self._offset, self._nbytes, timeout=_left(end))
                if self._is_current(file, end):
                    return self._keep(file, get_ident())
            except BaseException:
                file.close()
                raise
            file.close()

    async def _enter_path_async(self) -> _File:
        end = self._end()
        while True:
            file = self._open(end)
            if file is None:
                await _sleep(_LAST_PAUSE)
                continue
            try:
                await lock_async(file, self._mode, self._offset, self._nbytes, timeout=_left(end))
                if self._is_current(file, end):
                    return self._keep(file, _task())
            except BaseException:
                file.close()
                raise
            file.close()

    def _exit_path(self, key: object) -> None:
        assert self._opened is not None
        if key not in self._opened:  # another thread or task leaves the block than entered it
            key = next(iter(self._opened))
        files = self._opened[key]
        file = files[-1]
        try:
            self._unlock(file)
        finally:
            files.remove(file)
            if not files:
                del self._opened[key]
            file.close()

    def _end(self) -> float | None:
        """Check the arguments, before a file is made; return when the time is up."""
        seconds = None if self._timeout is None else check_timeout(self._timeout)
        fine = ValueError()
        error = _diagnose(fine, 0, self._mode, self._offset, self._nbytes)
        if error is not fine:
            raise error
        return None if seconds is None else now() + seconds

    def _open(self, end: float | None) -> Any:
        """Open what the path means now; None if another process has to give up a lease (fcntl(2)) before."""
        try:
            return open(self._file, "rb" if self._mode == "r" else "r+b", opener=_backend.open_path)
        except BlockingIOError:
            if end is not None and now() >= end:
                raise TimeoutError(errno.ETIMEDOUT, "another process has a lease on the file", self._file) from None
            return None

    def _is_current(self, file: Any, end: float | None) -> bool:
        """Whether the path means this file still; if not, raise `TimeoutError` when the time is up."""
        try:
            if os.path.samestat(os.stat(self._file), os.fstat(file.fileno())):
                return True
        except FileNotFoundError:
            pass
        if end is not None and now() > end + _GRACE:  # not at once: the next file may be free
            raise TimeoutError(errno.ETIMEDOUT, "the lock file has been removed or replaced each time", self._file)
        return False

    def _keep(self, file: Any, key: object) -> _File:
        assert self._opened is not None
        self._opened.setdefault(key, []).append(file)
        return file  # type: ignore[no-any-return]


def _left(end: float | None) -> float | None:
    return None if end is None else max(end - now(), 0)


def _task() -> object:
    import asyncio

    return asyncio.current_task()


def query(file: Any, mode: _Mode = "rw", offset: int = 0, nbytes: int = 0) -> Holder | None:
    """Tell who is in the way of such a lock, None if nobody is.

    The process is found even where the system's own answer has none: a lock of an open
    file belongs to every process that has it open, of which one is told.  That takes
    permission to look at the other process.
    """
    try:
        if nbytes < 0:
            raise ValueError
        fd = _descriptor(file)
        found = _backend.conflict(fd, _request(_KINDS[mode], offset, nbytes))
    except _REFUSALS as error:
        raise _diagnose(error, file, mode, offset, nbytes) from None
    if found is None:
        return None
    start, length, excludes, pid = found
    if pid is None:
        pid, _ = next(filter(None, _backend.owners(fd, found)), (None, -1))
    return Holder(start, length, "rw" if excludes else "r", pid)


def _wait(fd: int, request: Any, seconds: float | None, offset: int, nbytes: int) -> None:
    """Lock a range that somebody is in the way of, within that time."""
    try:
        if seconds is None:
            _backend.wait(fd, request, None)
        else:
            _wait_until(now() + seconds, fd, request, seconds)
    except BaseException as error:
        if not isinstance(error, OSError) or _is_foreign(error):  # there are no others here
            _let_go(fd, offset, nbytes)
        raise


def _wait_until(end: float, fd: int, request: Any, seconds: float) -> None:
    if seconds and _backend.wait(fd, request, seconds - min(seconds / 2, _SEARCH_BEFORE)):
        return
    # The process in the way is looked for before the time is up, so that the error comes in
    # time; and since that lasts a while, the lock is tried after each step.
    owner = None
    found = _backend.conflict(fd, request)
    if found and found.pid is None:
        enough = min(max(end, now() + _SEARCH_AFTER), end + _SEARCH_AFTER)
        for owner in _backend.owners(fd, found):
            with contextlib.suppress(*_BUSY):
                _ask(fd, _AT_ONCE, request)
                return
            if owner or now() > enough:
                break
    if not _backend.wait(fd, request, max(end - now(), 0)):
        raise _timed_out(fd, request, found, owner)


def _timed_out(fd: int, request: Any, before: Conflict | None, owner: Owner | None) -> TimeoutError:
    """What to raise; `owner` had the lock `before`."""
    found = _backend.conflict(fd, request)
    if found is None:
        return TimeoutError(errno.ETIMEDOUT, "locked by a process that has just unlocked it, or that cannot be known")
    start, length, excludes, pid = found
    if pid is None and found == before and owner and any(_backend.owners(fd, found, [owner])):
        pid, _ = owner
    command = pid and _backend.describe(pid)
    who = f"process {pid}" + (f" ({command})" if command else "") if pid else "another process"
    span = f"bytes {start} to {start + length - 1}" if length else f"all bytes from {start} on"
    return TimeoutError(errno.ETIMEDOUT, f"{'locked' if excludes else 'shared'} by {who}, {span}")


# A signal handler that raises may run before anything shows that a call has returned (`ipcio._record`):
# so the range may be locked, or not yet unlocked.


def _is_foreign(error: BaseException) -> bool:
    """Whether an error comes from outside, and not from the file, the arguments or the system."""
    if isinstance(error, OSError):
        return error.errno is None
    return not isinstance(error, _REFUSALS)


def _let_go(file: Any, offset: int, nbytes: int) -> None:
    with contextlib.suppress(Exception):
        _ask(_descriptor(file), _AT_ONCE, _request(_UNLOCK, offset, nbytes))


def _diagnose(error: BaseException, file: Any, mode: str, offset: int, nbytes: int) -> BaseException:
    """Return what is to be raised when a call with such arguments has failed, which need not be the arguments' fault.

    All checking is done here, where it costs nothing while all goes well.
    """
    if mode not in _KINDS:
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
            return io.UnsupportedOperation(errno.EBADF, what, _name(file, fd))
    if error.errno and error.filename is None:
        error.filename = _name(file, fd)
    return error


def _descriptor(file: Any) -> int:
    if type(file) is int:
        return file
    try:
        return file._lend() if type(file) in MEMORY else index(file.fileno())
    except io.UnsupportedOperation:
        return lent(file)
    except AttributeError:  # it has none, or something within has none
        kind = type(file).__name__
        hint = "; pass a path to locked()" if isinstance(file, (str, bytes, os.PathLike)) else ""
        raise TypeError(f"a file must have a fileno() or be a descriptor; {kind!r} is neither{hint}") from None


def _name(file: Any, fd: int) -> Any:
    name = getattr(file, "name", None)
    return fd if name is None else name


def __dir__() -> list[str]:
    return __all__
