"""Byte-range locks on POSIX: of the open file where the kernel has such, else the classic ones of the process."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from typing import TYPE_CHECKING

from ipcio._posix.owners import search as owners

if TYPE_CHECKING:
    from typing import Literal

    from ipcio._contract import Conflict

__all__ = ["SEMANTICS", "attempt", "conflict", "describe", "owners", "release", "wait"]

# Linux's struct flock: type, whence, start, length (0: to infinity), pid (0 for locks of
# an open file), padded as its largest member demands.
_FLOCK = struct.Struct("hhqqi0q")
_pack = _FLOCK.pack
_call = fcntl.fcntl

_READ, _WRITE, _UNLOCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK


def _has_ofd() -> bool:
    """Whether this kernel has open-file-description locks; the header may promise what the kernel lacks."""
    if not hasattr(fcntl, "F_OFD_GETLK"):
        return False
    fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call(fd, fcntl.F_OFD_GETLK, _pack(_READ, 0, 0, 0, 0))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


_OFD = _has_ofd()

SEMANTICS: Literal["open file", "process"] = "open file" if _OFD else "process"

_GET = fcntl.F_OFD_GETLK if _OFD else fcntl.F_GETLK
_SET = fcntl.F_OFD_SETLK if _OFD else fcntl.F_SETLK
_WAIT = fcntl.F_OFD_SETLKW if _OFD else fcntl.F_SETLKW


def attempt(fd: int, exclusive: bool, start: int, length: int) -> bool:  # noqa: FBT001 -- on the fast path
    """See `ipcio._contract.LockBackend`."""
    try:
        _call(fd, _SET, _pack(_WRITE if exclusive else _READ, 0, start, length, 0))
    except (BlockingIOError, PermissionError):  # POSIX allows EAGAIN and EACCES
        return False
    return True


def release(fd: int, start: int, length: int) -> None:
    """See `ipcio._contract.LockBackend`."""
    _call(fd, _SET, _pack(_UNLOCK, 0, start, length, 0))


def wait(fd: int, exclusive: bool, start: int, length: int, seconds: float | None) -> bool:  # noqa: FBT001
    """See `ipcio._contract.LockBackend`."""
    request = _pack(_WRITE if exclusive else _READ, 0, start, length, 0)
    if seconds is None:
        _call(fd, _WAIT, request)
        return True
    try:
        from ipcio._posix import deadline  # ctypes, which only who waits so needs

        return deadline.call(seconds, deadline.fcntl, fd, _WAIT, request)
    except (ImportError, AttributeError, NotImplementedError):
        return _poll(fd, exclusive, start, length, seconds)


# Seconds between two tries.
_FIRST_PAUSE, _LAST_PAUSE = 0.00005, 0.0009


def _poll(fd: int, exclusive: bool, start: int, length: int, seconds: float) -> bool:  # noqa: FBT001
    """Try again and again: longer pauses would come late, shorter ones burn more time."""
    end = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while not attempt(fd, exclusive, start, length):
        left = end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LAST_PAUSE)
    return True


def conflict(fd: int, exclusive: bool, start: int, length: int) -> Conflict | None:  # noqa: FBT001
    """See `ipcio._contract.LockBackend`."""
    request = _pack(_WRITE if exclusive else _READ, 0, start, length, 0)
    kind, _, start, length, pid = _FLOCK.unpack(_call(fd, _GET, request))
    if kind == _UNLOCK:
        return None
    # A lock of an open file has no process (-1); one of a process in another pid
    # namespace has none that we could name (0).
    return start, length, kind == _WRITE, pid if pid > 0 else None


def describe(pid: int) -> str:
    """See `ipcio._contract.LockBackend`."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as file:
            name = file.read().rstrip("\n")
    except OSError:
        return ""
    return name if name.isprintable() else ascii(name)
