"""Byte-range locks on Windows: those of ``LockFileEx``, which belong to the open file; see `pieces`."""

from __future__ import annotations

import errno
import msvcrt
import os
from contextlib import suppress
from functools import partial
from operator import index

from ipcio._forklock import fork_lock
from ipcio._timeouts import poll
from ipcio._tuples import Conflict
from ipcio._typing import TYPE_CHECKING
from ipcio._windows import pieces, win32
from ipcio._windows.pieces import END, OpenFile, could_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Literal

    from ipcio._tuples import Owner

SEMANTICS: Literal["open file", "process"] = "open file"
SHARE: int = pieces.SHARE
EXCLUDE: int = pieces.EXCLUDE
UNLOCK: int = 2
AT_ONCE: int = 0  # the only command
BUSY: tuple[type[OSError], ...] = (BlockingIOError,)

_ACCESS = {SHARE: win32.FILE_READ_DATA, EXCLUDE: win32.FILE_WRITE_DATA}


def prepare() -> None:
    pass  # all of it is imported already


def request(kind: int, start: int, length: int, /) -> tuple[int, int, int]:
    start, length = index(start), index(length)
    stop = start + length if length else END
    if not (0 <= start < stop <= END and length < END):
        raise ValueError("no file has such a range")
    return kind, start, stop


def ask(fd: int, command: int, request: tuple[int, int, int], /) -> None:  # noqa: ARG001 -- there is one command
    kind, start, stop = request
    with fork_lock:
        handle = _handle_of(fd)
        if kind != UNLOCK and not win32.access_of(handle) & _ACCESS[kind]:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))  # as on POSIX
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
    """Poll: not even Ctrl-C interrupts a thread that waits within ``LockFileEx``."""
    return poll(partial(ask, fd, AT_ONCE, request), BUSY, seconds)


def conflict(fd: int, request: tuple[int, int, int], /) -> Conflict | None:
    """Try the lock, because Windows lists none; the answer is about the range of the request.

    Parts that this open file has locked, shared, cannot be tried.
    """
    kind, start, stop = request
    with fork_lock:
        handle = _handle_of(fd)
        file = _find(fd, handle)
        missing = file.gaps(start, stop) if file else [(start, stop)]
        if all(could_lock(handle, part, kind) for part in missing):
            return None
        exclusive = kind == SHARE or not all(could_lock(handle, part, SHARE) for part in missing)
        return Conflict(start, stop - start if stop < END else 0, exclusive, None)


def owners(*_: object) -> Iterator[Owner | None]:
    """Find no process: Windows does not list locks."""
    return iter(())


def describe(pid: int) -> str:  # noqa: ARG001 -- `owners` finds no process to describe
    return ""


def open_path(path: Any, flags: int) -> int:
    """Open a lock file; on Windows a file that is open can be neither removed nor replaced."""
    return os.open(path, flags | os.O_CREAT, 0o600)


# -- the table of open files ---------------------------------------------------

_MOST_DESCRIPTORS = 8192  # that the C library of Windows can have
_FIRST_SWEEP = 256  # files

_open_files: dict[tuple[int, int], list[OpenFile]] = {}
"""By the identity of the file: its open files that have pieces, and some that may have been closed."""

_next_sweep = _FIRST_SWEEP


def _handle_of(fd: int) -> int:
    if fd < 0:
        raise ValueError(f"a descriptor is not negative: {fd}")
    return msvcrt.get_osfhandle(fd)


def _identity(fd: int) -> tuple[int, int]:
    about = os.fstat(fd)
    return about.st_dev, about.st_ino


def _find(fd: int, handle: int) -> OpenFile | None:
    """Return the open file of this handle, if it has pieces; forget those of the same file that have been closed."""
    known = _open_files.get(_identity(fd), [])
    for file in sorted(known, key=lambda file: file.handle != handle):  # the most likely one first
        if file.is_of(handle):
            return file
        if file.is_closed(handle):
            _forget(fd, file)
    return None


def _add(fd: int, handle: int) -> OpenFile:
    global _next_sweep  # noqa: PLW0603 -- one number beside the table
    if len(_open_files) >= _next_sweep:
        _sweep()
        _next_sweep = max(2 * len(_open_files), _FIRST_SWEEP)
    file = OpenFile(handle)
    _open_files.setdefault(_identity(fd), []).append(file)
    return file


def _forget(fd: int, file: OpenFile) -> None:
    known = _open_files[_identity(fd)]
    known.remove(file)
    if not known:
        del _open_files[_identity(fd)]


def _sweep() -> None:
    """Forget the files that are no longer open by any descriptor."""
    found: set[tuple[int, int]] = set()
    for fd in range(_MOST_DESCRIPTORS):
        with suppress(OSError):
            found.add(_identity(fd))
    for identity in _open_files.keys() - found:
        del _open_files[identity]
