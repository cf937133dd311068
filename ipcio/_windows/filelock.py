"""Byte-range locks on Windows: those of ``LockFileEx``, which belong to the open file.

They know no ranges that are split, joined or changed: a lock is let go by exactly the
range that was locked, and one that excludes is in the way of its own open file, too.  So
this module keeps, for every open file that has locks, which *pieces* it has: each a lock
of Windows, none overlapping another.  What a call asks for is put together of whole
pieces and of such that it can cut:

* What is locked already is not locked again; only the gaps are.
* A piece that excludes is made to share by locking it once more, shared, which is allowed
  to the same open file; letting go then takes the lock that excludes.  Nobody comes between.
* A piece that shares is cut by sharing what is to be kept before letting go of the whole.
* To exclude where we share, that has to be let go first, and is shared again if the rest
  is not to be had.  Another process may come between.
* A piece that excludes cannot be cut: `NotImplementedError`.

Pieces outlive what they describe if a file is closed without unlocking, and then its
handle, number or both may be those of another open file.  And a duplicate has other
numbers for the same open file.  So each open file that has pieces also has a *token*: a
shared lock of one byte at a random place, beyond all that a file can have.  Only by a
handle of that very open file it can be let go (and is then locked again; it is held twice,
so that it is there all the time).

A handler of Ctrl-C may raise between a call of Windows and the note that is made of it.
So the piece in question is noted before, as in doubt, and whoever comes next lets go of it.
"""

from __future__ import annotations

import ctypes
import errno
import msvcrt
import os
import random
from contextlib import suppress
from functools import partial
from operator import index

from ipcio._backend import Conflict
from ipcio._forklock import fork_lock
from ipcio._record import in_turn
from ipcio._timeouts import poll
from ipcio._typing import TYPE_CHECKING
from ipcio._windows import win32

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Literal, TypeAlias

    from ipcio._backend import Owner

    Piece: TypeAlias = tuple[int, int]  # the first byte, and the first one behind it

__all__ = [
    "AT_ONCE",
    "BUSY",
    "EXCLUDE",
    "SEMANTICS",
    "SHARE",
    "UNLOCK",
    "ask",
    "conflict",
    "describe",
    "open_path",
    "owners",
    "request",
    "wait",
]

SEMANTICS: Literal["open file", "process"] = "open file"
SHARE: int = 0
EXCLUDE: int = 1
UNLOCK: int = 2
AT_ONCE: int = 0  # the only command
BUSY: tuple[type[OSError], ...] = (BlockingIOError,)

_END = 2**63  # behind the last byte that a file can have
_TOKENS = 2**64 - 2**47, 2**64 - 2  # where others that lock "everything" hardly reach
_FLAGS = win32.LOCKFILE_FAIL_IMMEDIATELY, win32.LOCKFILE_FAIL_IMMEDIATELY | win32.LOCKFILE_EXCLUSIVE_LOCK
_ACCESS = {SHARE: win32.FILE_READ_DATA, EXCLUDE: win32.FILE_WRITE_DATA}
_MOST_DESCRIPTORS = 8192  # that the C library of Windows can have
_FIRST_SWEEP = 256  # files


class _OpenFile:
    """What one open file has locked.  `handle` is the one by which it is used at the moment."""

    __slots__ = ("doubtful", "handle", "pieces", "token")

    def __init__(self, handle: int) -> None:
        at = random.SystemRandom().randrange(*_TOKENS)
        self.handle = handle
        self.token = at, at + 1
        self.pieces: dict[Piece, bool] = {}  # and whether it excludes
        self.doubtful: Piece | None = None

    # -- whose they are ------------------------------------------------------

    def begin(self) -> None:
        """Get the token; raise `BlockingIOError` if somebody is in the way even there."""
        for _ in range(2):
            if not _lock(self.handle, self.token, SHARE):
                raise _busy()

    def end(self) -> None:
        """Give it back."""
        with suppress(OSError):
            while _unlock(self.handle, self.token):
                pass

    def is_of(self, handle: int) -> bool:
        """Whether the handle is one of this open file; if so, use it and be sure of the pieces."""
        if not _unlock(handle, self.token):
            return False
        _lock(handle, self.token, SHARE)
        self.handle = handle
        if self.doubtful:
            while _unlock(handle, self.doubtful):
                pass
            self.pieces.pop(self.doubtful, None)
            self.doubtful = None
        return True

    def is_gone(self, handle: int) -> bool:
        """Whether the open file has been closed, told by the handle of another one of the same file."""
        return _could_lock(handle, self.token, EXCLUDE)

    # -- single pieces -------------------------------------------------------

    def get(self, piece: Piece, kind: int) -> None:
        """Lock it; raise `BlockingIOError` if somebody is in the way."""
        self.doubtful = piece
        if _lock(self.handle, piece, kind):
            self.pieces[piece] = kind == EXCLUDE
            self.doubtful = None
        else:
            self.doubtful = None
            raise _busy()

    def drop(self, piece: Piece) -> None:
        """Let go of it."""
        self.doubtful = piece
        _unlock(self.handle, piece)
        del self.pieces[piece]
        self.doubtful = None

    def soften(self, piece: Piece) -> None:
        """Share what was exclusive, without a gap in time."""
        self.doubtful = piece
        _lock(self.handle, piece, SHARE)
        _unlock(self.handle, piece)
        self.pieces[piece] = False
        self.doubtful = None

    def get_all(self, pieces: Iterable[Piece], kind: int) -> None:
        """Lock them all or none."""
        had: list[Piece] = []
        try:
            for piece in pieces:
                self.get(piece, kind)
                had.append(piece)
        except OSError:
            for piece in had:
                self.drop(piece)
            raise

    # -- ranges --------------------------------------------------------------

    def within(self, start: int, stop: int) -> list[Piece]:
        """The pieces that reach into a range, in order."""
        return sorted(piece for piece in self.pieces if piece[0] < stop and piece[1] > start)

    def gaps(self, start: int, stop: int, *, exclusive: bool = False) -> list[Piece]:
        """The parts of a range in which there is no piece, or no exclusive one."""
        found: list[Piece] = []
        for first, behind in self.within(start, stop):
            if self.pieces[first, behind] or not exclusive:
                if start < first:
                    found.append((start, first))
                start = max(start, behind)
        return [*found, (start, stop)] if start < stop else found

    def check(self, start: int, stop: int) -> None:
        """Refuse to cut what excludes."""
        for first, behind in self.within(start, stop):
            if self.pieces[first, behind] and (first < start or stop < behind):
                span = f"bytes {first} to {behind - 1}" if behind < _END else f"all bytes from {first} on"
                raise NotImplementedError(f"Windows cannot let go of a part of what was locked exclusively: {span}")

    def unlock(self, start: int, stop: int) -> None:
        """Let go of a range, once `check` agrees."""
        for first, behind in self.within(start, stop):
            for kept in (first, min(start, behind)), (max(first, stop), behind):
                if kept[0] < kept[1] and kept not in self.pieces:
                    self.get(kept, SHARE)
            self.drop((first, behind))

    def share(self, start: int, stop: int) -> None:
        """Share a range, once `check` agrees."""
        self.get_all(self.gaps(start, stop), SHARE)
        for piece in self.within(start, stop):
            if self.pieces[piece]:
                self.soften(piece)

    def exclude(self, start: int, stop: int) -> None:
        """Have a range for ourselves."""
        new = self.gaps(start, stop)
        self.get_all(new, EXCLUDE)
        shared = [
            (max(start, first), min(stop, behind))
            for first, behind in self.within(start, stop)
            if not self.pieces[first, behind]
        ]
        for part in shared:
            self.unlock(*part)
        try:
            self.get_all(self.gaps(start, stop, exclusive=True), EXCLUDE)
        except OSError:
            for piece in new:
                self.drop(piece)
            for part in shared:
                with suppress(BlockingIOError):
                    self.get(part, SHARE)
            raise


_open_files: dict[tuple[int, int], list[_OpenFile]] = {}
"""Those that have pieces, and perhaps some that have been closed, by what identifies the file."""

_next_sweep = _FIRST_SWEEP


def request(kind: int, start: int, length: int, /) -> tuple[int, int, int]:
    """See `ipcio._backend.LockBackend`."""
    start, length = index(start), index(length)
    stop = start + length if length else _END
    if not (0 <= start < stop <= _END and length < _END):
        raise ValueError("no file has such a range")
    return kind, start, stop


def ask(fd: int, command: int, request: tuple[int, int, int], /) -> None:  # noqa: ARG001 -- there is one command
    """See `ipcio._backend.LockBackend`."""
    kind, start, stop = request
    with fork_lock:
        handle = _handle_of(fd)
        if kind != UNLOCK and not win32.access_of(handle) & _ACCESS[kind]:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))  # as POSIX has it
        file = _find(fd, handle)
        if file is None:
            if kind == UNLOCK:
                return
            file = _add(fd, handle)
        try:
            if not file.pieces:
                file.begin()
            if kind != EXCLUDE:
                file.check(start, stop)
            (file.share, file.exclude, file.unlock)[kind](start, stop)
        finally:
            if not file.pieces and not file.doubtful:
                file.end()
                _forget(fd, file)


def wait(fd: int, request: tuple[int, int, int], seconds: float | None, /) -> bool:
    """See `ipcio._backend.LockBackend`.

    Nothing can interrupt a thread that waits inside Windows, Ctrl-C least of all.
    """
    return poll(partial(ask, fd, AT_ONCE, request), BUSY, seconds)


def conflict(fd: int, request: tuple[int, int, int], /) -> Conflict | None:
    """See `ipcio._backend.LockBackend`.

    Windows does not tell; so it is tried, and what can be told is the range that was
    asked for.  Where we share ourselves, it cannot be tried.
    """
    kind, start, stop = request
    with fork_lock:
        handle = _handle_of(fd)
        file = _find(fd, handle)
        missing = file.gaps(start, stop) if file else [(start, stop)]
        if all(_could_lock(handle, part, kind) for part in missing):
            return None
        excluded = kind == SHARE or not all(_could_lock(handle, part, SHARE) for part in missing)
        return Conflict(start, stop - start if stop < _END else 0, excluded, None)


def owners(*_: object) -> Iterator[Owner | None]:
    """See `ipcio._backend.LockBackend`; nobody can be found."""
    return iter(())


def describe(pid: int) -> str:  # noqa: ARG001
    """See `ipcio._backend.LockBackend`."""
    return ""


def open_path(path: Any, flags: int) -> int:
    """See `ipcio._backend.LockBackend`; an open file can be neither removed nor replaced here."""
    return os.open(path, flags | os.O_CREAT, 0o600)


# -- which open file it is ---------------------------------------------------


def _handle_of(fd: int) -> int:
    if fd < 0:
        raise ValueError(f"a descriptor is not negative: {fd}")
    return msvcrt.get_osfhandle(fd)


def _identity(fd: int) -> tuple[int, int]:
    about = os.fstat(fd)
    return about.st_dev, about.st_ino


def _find(fd: int, handle: int) -> _OpenFile | None:
    """The open file that has this handle, if it has pieces.  Of the same file's, forget those that have been closed."""
    known = _open_files.get(_identity(fd), [])
    for file in sorted(known, key=lambda file: file.handle != handle):  # most likely first
        if file.is_of(handle):
            return file
        if file.is_gone(handle):
            _forget(fd, file)
    return None


def _add(fd: int, handle: int) -> _OpenFile:
    global _next_sweep  # noqa: PLW0603
    if len(_open_files) >= _next_sweep:
        _sweep()
        _next_sweep = max(2 * len(_open_files), _FIRST_SWEEP)
    file = _OpenFile(handle)
    _open_files.setdefault(_identity(fd), []).append(file)
    return file


def _forget(fd: int, file: _OpenFile) -> None:
    known = _open_files[_identity(fd)]
    known.remove(file)
    if not known:
        del _open_files[_identity(fd)]


def _sweep() -> None:
    """Forget the files that no descriptor has open any more."""
    alive: set[tuple[int, int]] = set()
    for fd in range(_MOST_DESCRIPTORS):
        with suppress(OSError):
            alive.add(_identity(fd))
    for identity in _open_files.keys() - alive:
        del _open_files[identity]


# -- calls of Windows --------------------------------------------------------


def _arguments(piece: Piece) -> tuple[int, int, int, win32.OVERLAPPED]:
    start, length = piece[0], piece[1] - piece[0]
    place = win32.OVERLAPPED(Offset=start & 0xFFFFFFFF, OffsetHigh=start >> 32)
    return 0, length & 0xFFFFFFFF, length >> 32, place


def _lock(handle: int, piece: Piece, kind: int) -> bool:
    """Lock a piece; return whether nobody was in the way."""
    if win32.LockFileEx(handle, _FLAGS[kind], *_arguments(piece)):
        return True
    if ctypes.get_last_error() == win32.ERROR_LOCK_VIOLATION:
        return False
    raise win32.failure()


def _unlock(handle: int, piece: Piece) -> bool:
    """Let go of a piece; return whether it was locked by the open file that has this handle."""
    if win32.UnlockFileEx(handle, *_arguments(piece)):
        return True
    if ctypes.get_last_error() in {win32.ERROR_NOT_LOCKED, win32.ERROR_LOCK_VIOLATION}:
        return False
    raise win32.failure()


def _could_lock(handle: int, piece: Piece, kind: int) -> bool:
    """Return whether a piece of which we have nothing can be locked.  It is unlocked in the same step."""
    steps = (
        partial(win32.LockFileEx, handle, _FLAGS[kind], *_arguments(piece)),
        partial(ctypes.get_last_error),
        partial(win32.UnlockFileEx, handle, *_arguments(piece)),
    )
    could, number, _ = in_turn(steps)
    if could or number == win32.ERROR_LOCK_VIOLATION:
        return bool(could)
    ctypes.set_last_error(number)
    raise win32.failure()


def _busy() -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
