"""Which process has an open file that has a lock.

The kernel names the process of a classic lock, but not that of an open file's: several
may have it open.  It lists the locks of each descriptor's open file, though, for callers that
may look at the process (``/proc/PID/fdinfo``, proc(5)).

Nothing here asks a file for its state.  A server of a network or user-space file system that
does not answer would block the caller for ever, and every machine has descriptors that have
nothing to do with the lock.  What the kernel says in ``/proc`` comes at once.
"""

from __future__ import annotations

import os
from itertools import islice

from ipcio._backend import Owner
from ipcio._posix import flocks
from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ipcio._backend import Conflict

__all__ = ["search"]

_FEW = 256  # descriptors of a process that are looked at first
_PIECE = 16384  # bytes


def search(fd: int, lock: Conflict, among: Iterable[Owner] = ()) -> Iterator[Owner | None]:
    """Look for processes that have this very lock on the file, by an open file other than `fd`'s.

    `among` are the processes to look at, with the descriptor in question; by default all.
    Yields None for each step in vain, for this may last a while.
    """
    start, length, exclusive, _ = lock
    last = b"%d" % (start + length - 1) if length else b"EOF"
    line = b"WRITE" if exclusive else b"READ", b"%d" % start, last
    file = _identity(fd)
    # An equal lock of our own is in no other's way.
    doubtful = _has(line, file, "self", fd)
    for owner in among or _likely_first(fd):
        found = owner is not None and _has(line, file, *owner)
        yield owner if found and owner and not (doubtful and _may_share(fd, *owner)) else None


def _likely_first(fd: int) -> Iterator[Owner | None]:
    """All descriptors, and None for other steps; those that were opened by the same path as `fd` come first.

    To ask for a path costs a third of asking for locks, and no file is asked either.
    """
    path = _path("self", fd)
    others: list[Owner] = []
    for owner in _descriptors():
        if owner is None or _path(*owner) == path:
            yield owner
        else:
            others.append(owner)
            yield None
    yield from others


def _descriptors() -> Iterator[Owner | None]:
    """All descriptors of all processes, and None for other steps.

    One process with very many descriptors must not hide all others: most of its come last.
    """
    many: list[int] = []
    for pid in _processes():
        yield None
        for count, descriptor in enumerate(_names_in(f"/proc/{pid}/fdinfo") if pid else ()):
            if count == _FEW:
                many.append(pid)
                break
            yield Owner(pid, int(descriptor))
    for pid in many:
        for descriptor in islice(_names_in(f"/proc/{pid}/fdinfo"), _FEW, None):
            yield Owner(pid, int(descriptor))


def _processes() -> Iterator[int]:
    """All processes, this one first and then the youngest; 0 for other steps."""
    me = os.getpid()
    yield me
    pids: list[int] = []
    for entry in _names_in("/proc"):
        if entry.isdecimal():
            pids.append(int(entry))
        yield 0
    yield from sorted({*pids} - {me}, reverse=True)


def _names_in(directory: str) -> Iterator[str]:
    """The names in a directory, read piece by piece; they end early if it goes, or may not be read."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                yield entry.name
    except OSError:
        pass


def _path(pid: int | str, descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return ""


class _Identity(NamedTuple):
    """Which file a descriptor means, in the kernel's words."""

    inode: bytes
    device: bytes  # of the file system; empty where nothing tells
    mount: bytes  # empty before Linux 3.15


def _identity(fd: int) -> _Identity:
    fields = _fields(_read(f"/proc/self/fdinfo/{fd}"))
    inode, mount = fields.get(b"ino"), fields.get(b"mnt_id", b"")
    if inode is None:  # before Linux 5.14
        device, _, inode = flocks.key_of(os.fstat(fd)).encode().rpartition(b":")
        return _Identity(inode, device, mount)
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            number, _, device, _ = line.split(None, 3)
            if number == mount:
                major, minor = map(int, device.split(b":"))
                return _Identity(inode, b"%02x:%02x" % (major, minor), mount)
    # The list of a process after ``chroot`` lacks the mount that its root is a directory of.
    return _Identity(inode, b"", mount)


def _fields(lines: list[bytes]) -> dict[bytes, bytes]:
    return dict(line.split(b":\t", 1) for line in lines if b":\t" in line)


def _has(line: tuple[bytes, bytes, bytes], file: _Identity, pid: int | str, descriptor: int) -> bool:
    """Whether an open file has such a lock (kind, first and last byte) on that file, from lines such as this.

    ``lock: 1: OFDLCK ADVISORY WRITE -1 fe:00:2146334 5 14``

    Files of one number are the same if they are on one device, or were opened by one mount.
    """
    lines = _read(f"/proc/{pid}/fdinfo/{descriptor}")
    for words in [each.split() for each in lines if each.startswith(b"lock:")]:
        if words[2] == b"OFDLCK" and (words[4], *words[7:9]) == line:
            device, _, inode = words[6].rpartition(b":")
            if inode == file.inode:
                return device == file.device or (bool(file.mount) and file.mount == _fields(lines).get(b"mnt_id"))
    return False


def _read(path: str) -> list[bytes]:
    """The lines of one of the files that the kernel gives out as a whole; none if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = piece = os.read(fd, _PIECE)
            while len(piece) == _PIECE:
                data += (piece := os.read(fd, _PIECE))
        finally:
            os.close(fd)
    except OSError:
        return []
    return data.splitlines()


def _find_syscall() -> Callable[..., int] | None:
    try:
        # Imported now: a process that has given up its rights may not find it later.
        from ipcio._posix import libc
    except ImportError:  # no ctypes
        return None
    return libc.syscall


_syscall = _find_syscall()

# kcmp(2) has no function in the C library, and a number of its own on each architecture.
_KCMP = {"x86_64": 312, "i686": 349, "aarch64": 272, "riscv64": 272, "armv7l": 378, "ppc64le": 354, "s390x": 343}
_KCMP_FILE = 0


def _may_share(fd: int, pid: int, descriptor: int) -> bool:
    """Whether that descriptor may mean the same open file as ours, as after ``dup`` or ``fork``; True if in doubt."""
    number = _KCMP.get(os.uname().machine)
    if number is None:
        return True
    if _syscall is None:
        return True
    order = _syscall(number, os.getpid(), pid, _KCMP_FILE, fd, descriptor)
    return order in {0, -1}  # -1: containers may forbid the question
