"""Who has an open file that has a lock.

The kernel names the process of a classic lock, but not that of an open file's: several
may have it open.  It tells what locks a descriptor's open file has, though, to who may
look at the process (``/proc/PID/fdinfo``, proc(5)).
"""

from __future__ import annotations

import os

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["search"]


def search(fd: int, exclusive: bool, start: int, length: int, among: Iterable[int] = ()) -> Iterator[int | None]:  # noqa: FBT001
    """Look for processes that have this very lock on the file, by an open file other than `fd`'s.

    `among` are the processes to look at, by default all, the youngest first.  Yields
    None for each descriptor looked at in vain, for this may take a while.
    """
    lock = "WRITE" if exclusive else "READ", str(start), str(start + length - 1) if length else "EOF"
    about = os.fstat(fd)
    # An equal lock of our own is in nobody's way.
    doubtful = lock in _locks(f"/proc/self/fdinfo/{fd}")
    for pid in among or _processes():
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except OSError:  # gone, or another user's
            continue
        for descriptor in descriptors:
            try:
                same = os.path.samestat(os.stat(f"/proc/{pid}/fd/{descriptor}"), about)
            except OSError:  # closed meanwhile
                continue
            found = same and lock in _locks(f"/proc/{pid}/fdinfo/{descriptor}")
            yield pid if found and not (doubtful and _may_share(fd, pid, int(descriptor))) else None


def _processes() -> list[int]:
    try:
        return sorted((int(entry) for entry in os.listdir("/proc") if entry.isdecimal()), reverse=True)
    except OSError:
        return []


def _locks(path: str) -> list[tuple[str, str, str]]:
    """Kind, first and last byte of the locks that an open file has, from lines such as this.

    ``lock: 1: OFDLCK ADVISORY WRITE -1 fe:00:2146334 5 14``
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file if line.startswith("lock:")]
    except OSError:
        return []
    return [(words[4], words[7], words[8]) for words in lines if words[2] == "OFDLCK"]


# kcmp(2) has no function in the C library, and a number of its own on each architecture.
_KCMP = {"x86_64": 312, "i686": 349, "aarch64": 272, "riscv64": 272, "armv7l": 378, "ppc64le": 354, "s390x": 343}
_KCMP_FILE = 0


def _may_share(fd: int, pid: int, descriptor: int) -> bool:
    """Whether that descriptor may mean the same open file as ours, as after ``dup`` or ``fork``; True if in doubt."""
    number = _KCMP.get(os.uname().machine)
    if number is None:
        return True
    try:
        from ipcio._posix import libc  # ctypes, for a question that is seldom asked
    except ImportError:
        return True
    order = libc.syscall(number, os.getpid(), pid, _KCMP_FILE, fd, descriptor)
    return order in {0, -1}  # -1: containers may forbid the question
