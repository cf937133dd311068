"""Byte-range locks on POSIX: of the open file where the kernel has such, else the classic ones of the process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from typing import TYPE_CHECKING

from ipcio._posix.owners import search as owners

if TYPE_CHECKING:
    from typing import Literal

    from ipcio._contract import Conflict

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
    "owners",
    "request",
    "wait",
]

SHARE, EXCLUDE, UNLOCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK

# Linux's struct flock: type, whence, start, length (0: to infinity), pid (0 for locks of
# an open file), padded as its largest member demands.  In a request the first of each
# pair of small members is all that is not 0.
_ANSWER = struct.Struct("hhqqi0q")
_REQUEST = struct.Struct("hqq4x0q")

# Function and method of C: see `ipcio._contract.LockBackend`.
request = _REQUEST.pack
ask = fcntl.fcntl
BUSY: tuple[type[OSError], ...] = (BlockingIOError, PermissionError)  # POSIX allows EAGAIN and EACCES


def _has_ofd() -> bool:
    """Whether this kernel has open-file-description locks; the header may promise what the kernel lacks."""
    if not hasattr(fcntl, "F_OFD_GETLK"):
        return False
    fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        ask(fd, fcntl.F_OFD_GETLK, request(SHARE, 0, 0))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


_OFD = _has_ofd()

SEMANTICS: Literal["open file", "process"] = "open file" if _OFD else "process"

AT_ONCE = fcntl.F_OFD_SETLK if _OFD else fcntl.F_SETLK
_WAIT = fcntl.F_OFD_SETLKW if _OFD else fcntl.F_SETLKW
_GET = fcntl.F_OFD_GETLK if _OFD else fcntl.F_GETLK

_FIRST_PAUSE, _LAST_PAUSE = 0.00005, 0.0009  # seconds between two tries, where there is no better way


def wait(fd: int, request: bytes, seconds: float | None) -> bool:
    """See `ipcio._contract.LockBackend`."""
    if seconds is None:
        ask(fd, _WAIT, request)
        return True
    if not seconds:
        return _poll(fd, request, 0)
    try:
        from ipcio._posix import deadline  # ctypes, which only who waits so needs
    except (ImportError, AttributeError):
        return _poll(fd, request, seconds)
    try:
        return deadline.call(seconds, deadline.fcntl, fd, _WAIT, request)
    except deadline.NoTimer:
        return _poll(fd, request, seconds)


def _poll(fd: int, request: bytes, seconds: float) -> bool:
    """Try again and again: longer pauses would come late, shorter ones burn more time."""
    end = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while True:
        with contextlib.suppress(*BUSY):
            ask(fd, AT_ONCE, request)
            return True
        left = end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LAST_PAUSE)


def conflict(fd: int, request: bytes) -> Conflict | None:
    """See `ipcio._contract.LockBackend`."""
    kind, _, start, length, pid = _ANSWER.unpack(ask(fd, _GET, request))
    if kind == UNLOCK:
        return None
    # A lock of an open file has no process (-1); one of a process in another pid
    # namespace has none that we could name (0).
    return start, length, kind == EXCLUDE, pid if pid > 0 else None


def describe(pid: int) -> str:
    """See `ipcio._contract.LockBackend`."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as file:
            name = file.read().rstrip("\n")
    except OSError:
        return ""
    return name if name.isprintable() else ascii(name)
