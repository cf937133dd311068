"""Byte-range locks on POSIX: of the open file where the kernel has such, else the classic ones of the process."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal

__all__ = ["SEMANTICS", "attempt", "conflict", "describe", "release", "wait"]

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


def wait(fd: int, exclusive: bool, start: int, length: int) -> None:  # noqa: FBT001 -- on the fast path
    """See `ipcio._contract.LockBackend`."""
    _call(fd, _WAIT, _pack(_WRITE if exclusive else _READ, 0, start, length, 0))


def attempt(fd: int, exclusive: bool, start: int, length: int) -> bool:  # noqa: FBT001
    """See `ipcio._contract.LockBackend`."""
    try:
        _call(fd, _SET, _pack(_WRITE if exclusive else _READ, 0, start, length, 0))
    except (BlockingIOError, PermissionError):  # POSIX allows EAGAIN and EACCES
        return False
    return True


def release(fd: int, start: int, length: int) -> None:
    """See `ipcio._contract.LockBackend`."""
    _call(fd, _SET, _pack(_UNLOCK, 0, start, length, 0))


def conflict(fd: int, exclusive: bool, start: int, length: int) -> tuple[int, int, bool, int | None] | None:  # noqa: FBT001
    """See `ipcio._contract.LockBackend`."""
    request = _pack(_WRITE if exclusive else _READ, 0, start, length, 0)
    kind, _, start, length, pid = _FLOCK.unpack(_call(fd, _GET, request))
    if kind == _UNLOCK:
        return None
    # A lock of an open file has no process (-1); one of a process in another pid
    # namespace has none that we could name (0).
    return start, length, kind == _WRITE, pid if pid > 0 else _owner(fd, kind == _WRITE, start, length)


def describe(pid: int) -> str:
    """See `ipcio._contract.LockBackend`."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as file:
            name = file.read().rstrip("\n")
    except OSError:
        return ""
    return name if name.isprintable() else ascii(name)


# -- who has an open file that has a lock ------------------------------------


def _owner(fd: int, exclusive: bool, start: int, length: int) -> int | None:  # noqa: FBT001
    """Find a process that has the description with this very lock open, in what the kernel tells of descriptors.

    None without ``/proc``, if it is not for us to see, or if the description that asks
    has an equal lock itself: it is in nobody's way, but others may have it open, too.
    """
    lock = "WRITE" if exclusive else "READ", str(start), str(start + length - 1) if length else "EOF"
    about = os.fstat(fd)
    if lock in _locks(f"/proc/self/fdinfo/{fd}"):
        return None
    try:
        processes = sorted(int(entry) for entry in os.listdir("/proc") if entry.isdecimal())
    except OSError:
        return None
    for pid in processes:
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except OSError:  # gone, or another user's
            continue
        for descriptor in descriptors:
            try:
                same = os.path.samestat(os.stat(f"/proc/{pid}/fd/{descriptor}"), about)
            except OSError:  # closed meanwhile
                continue
            if same and lock in _locks(f"/proc/{pid}/fdinfo/{descriptor}"):
                return pid
    return None


def _locks(path: str) -> list[tuple[str, str, str]]:
    """Kind, first and last byte of the locks that a description has, from lines such as this.

    ``lock: 1: OFDLCK ADVISORY WRITE -1 fe:00:2146334 5 14``
    """
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            lines = [line.split() for line in file if line.startswith("lock:")]
    except OSError:
        return []
    return [(words[4], words[7], words[8]) for words in lines if words[2] == "OFDLCK"]
