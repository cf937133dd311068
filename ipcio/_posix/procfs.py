"""What the Linux kernel says in ``/proc`` about processes, their files and the locks on these.

Nothing here asks a file for its state.  A server of a network or user-space file system that
does not answer would block the caller for ever, and every machine has descriptors of files that
have nothing to do with ipcio.  The kernel's own lists in ``/proc`` never block.

Where there is no ``/proc``, `flocks` raises `OSError`, `has_members` is True, and the other functions find nothing.
"""

from __future__ import annotations

import os
from itertools import islice
from math import inf

from ipcio._tuples import Owner
from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ipcio._tuples import Conflict

_FEW = 256  # descriptors of a process that are looked at first
_PIECE = 16384  # bytes


# -- processes ---------------------------------------------------------------


def processes() -> Iterator[int]:
    """Yield the numbers of all processes, this one first and then the youngest; 0 for other steps."""
    me = os.getpid()
    yield me
    pids: list[int] = []
    for entry in _names_in("/proc"):
        if entry.isdecimal():
            pids.append(int(entry))
        yield 0
    yield from sorted({*pids} - {me}, reverse=True)


def describe(pid: int) -> str:
    """Return the name of a process's command, empty if it is unknown."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as file:
            name = file.read().rstrip("\n")
    except OSError:
        return ""
    return name if name.isprintable() else ascii(name)


def start_of(pid: int) -> int | None:
    """Return when a process was started, in units of the kernel; None if it has ended, or that is unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in {b"Z", b"X"} else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def has_members(group: int, at_most: float = inf) -> bool:
    """Whether a process group has a member besides its leader, which has exited.

    True if that cannot be known, or if there are too many processes to look at.
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # the numbers in /proc are those of another namespace
            return True
        numbers = list(filter(str.isdigit, os.listdir("/proc")))
    except OSError:
        return True
    if len(numbers) > at_most:
        return True
    wanted = str(group).encode()
    for number in numbers:
        try:
            with open(f"/proc/{number}/stat", "rb", 0) as file:
                state, _, group_id, *rest = file.readall().rpartition(b")")[2].split()
        except OSError:  # it has exited meanwhile
            continue
        if group_id == wanted and (state not in b"ZX" or rest[14] != b"1"):  # threads go on without the first one
            return True
    return False


def _names_in(directory: str) -> Iterator[str]:
    """Yield the names in a directory, read piece by piece; they end early if it goes, or may not be read."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                yield entry.name
    except OSError:
        pass


def _path(pid: int | str, descriptor: int | str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return ""


def _read(path: str) -> list[bytes]:
    """Return the lines of a file in ``fdinfo``, which one read gets as a whole; none if it cannot be read."""
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
    return data.split(b"\n")


# -- the locks of flock(), and the holders of named objects ------------------


def file_key(info: os.stat_result) -> str:
    """Return how the kernel spells which file this is, in its lists of locks and of mappings."""
    return f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"


def flocks() -> dict[str, bool]:
    """Return the keys of all files that have ``flock`` locks, and whether one is exclusive; any process may ask.

    From lines such as ``1: FLOCK  ADVISORY  READ 6807 00:1a:4498576 0 EOF``.
    """
    found: dict[str, bool] = {}
    with open("/proc/locks", "rb") as table:  # as text it would import a codec
        for line in table:
            words = line.split()
            if words[1] == b"FLOCK":
                key = words[5].decode()
                found[key] = found.get(key, False) or words[3] == b"WRITE"
    return found


def process_that_locked(key: str, byte: int) -> int | None:
    """Return the process that has locked exactly this byte of the file with ``fcntl``; None if there is none.

    From lines such as ``2: POSIX  ADVISORY  WRITE 6807 00:1a:4498576 65 65``.
    """
    place = [key.encode(), b"%d" % byte, b"%d" % byte]
    with open("/proc/locks", "rb") as table:
        for line in table:
            words = line.split()
            if words[1] == b"POSIX" and words[-3:] == place:
                return int(words[4])
    return None


def has_flock(pid: int, descriptor: str) -> bool:
    """Whether this very open file has a lock of ``flock``."""
    return any(line.startswith(b"lock:") and b" FLOCK " in line for line in _read(f"/proc/{pid}/fdinfo/{descriptor}"))


def open_files(pid: int, root: str) -> Iterator[tuple[str, str]]:
    """Yield the descriptors by which a process has files below `root` open, and the keys of these files."""
    for descriptor in _names_in(f"/proc/{pid}/fd"):
        # Of files elsewhere, not even the state is asked: their server may be down.
        if _path(pid, descriptor).startswith(root):
            try:
                yield descriptor, file_key(os.stat(f"/proc/{pid}/fd/{descriptor}"))
            except OSError:  # closed meanwhile
                pass


def mapped_files(pid: int, root: bytes) -> Iterator[str]:
    """Yield the keys of the files below `root` that a process has mapped, from lines such as this.

    ``7f3d1c600000-7f3d1c601000 rw-s 00000000 00:1a 4498576    /dev/shm/prices``
    """
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            lines = file.readlines()
    except OSError:  # gone, or another user's
        return
    for line in lines:
        if root in line:
            _, _, _, device, inode, path = line.split(None, 5)
            if path.startswith(root):
                yield f"{device.decode()}:{inode.decode()}"


# -- the owner of a lock that belongs to an open file ------------------------


def lock_owners(
    fd: int, lock: Conflict, among: Iterable[Owner], may_share: Callable[[int, int, int], bool]
) -> Iterator[Owner | None]:
    """Look for processes that have this very lock on the file, by an open file other than `fd`'s.

    The kernel names the process of a classic lock, but not that of an open file's: several
    processes may have it open.  It lists the locks of each descriptor's open file, though, for
    callers that may look at the process (``/proc/PID/fdinfo``, proc(5)).

    `among` are the processes to look at, with the descriptor in question; if empty, all.
    `may_share` says whether a process's descriptor may mean the same open file as `fd`.
    Yields None for each step in vain, because the search may last a while.
    """
    start, length, exclusive, _ = lock
    last = b"%d" % (start + length - 1) if length else b"EOF"
    line = b"WRITE" if exclusive else b"READ", b"%d" % start, last
    file = _identity(fd)
    # If our own open file has an equal lock, a process that seems to have it may have it from us.
    doubtful = _has_lock(line, file, "self", fd)
    for owner in among or _likely_first(fd):
        found = owner is not None and _has_lock(line, file, *owner)
        yield owner if found and owner and not (doubtful and may_share(fd, *owner)) else None


def _likely_first(fd: int) -> Iterator[Owner | None]:
    """Yield all descriptors, and None for other steps; those that were opened by the same path as `fd` come first.

    To ask for a path costs a third of asking for locks.
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
    """Yield all descriptors of all processes, and None for other steps.

    One process with very many descriptors must not hide all others: most of its come last.
    """
    many: list[int] = []
    for pid in processes():
        yield None
        for count, descriptor in enumerate(_names_in(f"/proc/{pid}/fdinfo") if pid else ()):
            if count == _FEW:
                many.append(pid)
                break
            yield Owner(pid, int(descriptor))
    for pid in many:
        for descriptor in islice(_names_in(f"/proc/{pid}/fdinfo"), _FEW, None):
            yield Owner(pid, int(descriptor))


class _Identity(NamedTuple):
    """Which file a descriptor means, in the kernel's words."""

    inode: bytes
    device: bytes  # of the file system; empty if it is unknown
    mount: bytes  # empty before Linux 3.15


def _identity(fd: int) -> _Identity:
    fields = _fields(_read(f"/proc/self/fdinfo/{fd}"))
    inode, mount = fields.get(b"ino"), fields.get(b"mnt_id", b"")
    if inode is None:  # before Linux 5.14
        device, _, inode = file_key(os.fstat(fd)).encode().rpartition(b":")
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


def _has_lock(line: tuple[bytes, bytes, bytes], file: _Identity, pid: int | str, descriptor: int) -> bool:
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
