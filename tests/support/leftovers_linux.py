"""See `leftovers`: where names are files in /dev/shm and processes show themselves in /proc."""

from __future__ import annotations

import contextlib
import os
import re

from ipcio._names import SEGMENTS
from ipcio._posix import companion_paths

SHM = "/dev/shm"
COMPANIONS = re.compile(r"/var/tmp/ipcio-[0-9]+(-[0-9]+)?")  # where ipcio has files that stand for objects


def paths() -> set[str]:
    """All that there is in `SHM`, and of companions what this user may see."""
    found = {f"{SHM}/{entry}" for entry in os.listdir(SHM)}
    for entry in os.scandir("/var/tmp"):
        if COMPANIONS.fullmatch(entry.path) and os.access(entry.path, os.R_OK):
            found.update(f"{entry.path}/{name}" for name in os.listdir(entry.path))
    return found


def names_of(path: str) -> set[str]:
    """The names that an object there, or the one that a companion stands for, may have been made by."""
    directory, entry = os.path.split(path)
    if entry.startswith(".ipcio-undo-"):
        return {semaphore_name(entry, directory)[4:]}
    if directory == SHM:
        return {entry, *(entry.removeprefix(prefix) for prefix in ("sem.", *SEGMENTS.values()))}
    found = companion_paths.name_of(entry)
    return {found[1] if found else entry}


def semaphore_name(entry: str, directory: str = SHM) -> str:
    """The name of the semaphore to which a hidden entry belongs."""
    if entry.startswith(".ipcio-undo-"):
        try:
            with open(f"{directory}/{entry}", "rb") as record:
                return "sem." + os.fsdecode(record.read()[88:].rstrip(b"\0"))
        except OSError:
            pass
    return entry


def sets() -> set[int]:
    """The keys of the System V sets of this user; for the super-user, of everybody."""
    with open("/proc/sysvipc/sem") as table:
        lines = [line.split() for line in table.readlines()[1:]]
    return {int(words[0]) for words in lines if os.geteuid() in {0, int(words[6])}}


def nameless_sets() -> set[int]:
    """Those for which there is no file, so that they are never found."""
    found = sets()
    names = {os.path.basename(path) for path in paths()}  # the hidden name is there before the set and after it
    return {key for key in found if f".ipcio-undo-{key:08x}" not in names} & sets()


def descriptors() -> dict[int, str]:
    """The open descriptors of this process and what each one is."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:  # the one that listdir itself had open
            pass
    return found


def children() -> set[int]:
    """The children of this process, zombies included."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as listing:
                found |= {int(pid) for pid in listing.read().split()}
        except FileNotFoundError:  # a thread that has been joined, but was not quite gone
            pass
    return found


def named(made: list[str]) -> set[str]:
    """What is left under these names; it is removed, and the System V sets that it stands for."""
    left = {path for path in paths() if not names_of(path).isdisjoint(made)}
    from ipcio._posix import sysv  # not above: tests that run elsewhere, too, ask this module for names

    for path in left:
        _, hidden, key = path.partition("/.ipcio-undo-")
        if hidden and (number := sysv.find(int(key, 16), os.lstat(path).st_uid)) is not None:
            sysv.remove(number)
        os.unlink(path) if not os.path.isdir(path) else os.rmdir(path)
    return left


def survey() -> tuple[set[str], set[int]]:
    """The files and the nameless sets there are."""
    return paths(), nameless_sets()


def left_since(before: tuple[set[str], set[int]]) -> str:
    """What a run left.  What is held belongs to another run on this machine; ours has no process left."""
    remove_abandoned()
    new = {path for path in paths() - before[0] if any(name.startswith("ipcio-") for name in names_of(path))}
    left = {path for path in new if not of_another_run(path) and not held(path)}
    nameless = nameless_sets() - before[1]
    if not left and not nameless:
        return ""
    return f"left: {sorted(left)}; keys of System V semaphores left: {sorted(nameless)}"


def held(path: str) -> bool:
    """Whether some process has a share in it, or in its companion, by the same lock that ipcio asks."""
    if _locked(path):
        return True
    directory, entry = os.path.split(path)
    try:
        user = os.lstat(path).st_uid
    except FileNotFoundError:
        return True  # gone meanwhile
    kind, name = ("sem", entry[4:]) if entry.startswith("sem.") else ("shm", entry)
    companion = companion_paths.path_of(kind, name, f"{companion_paths.ROOT}/ipcio-{user}")
    return directory == SHM and os.path.lexists(companion) and _locked(companion)


def _locked(path: str) -> bool:
    import fcntl  # not above: tests that run elsewhere, too, ask this module for names

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return True  # another user's, or removed meanwhile
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def of_another_run(path: str) -> bool:
    """Whether the process that invented a test's name goes on, and is not this one."""
    pids = [re.match(r"ipcio-(?:test-)?(\d+)-", name) for name in names_of(path)]
    return any(int(pid[1]) != os.getpid() and os.path.exists(f"/proc/{pid[1]}") for pid in pids if pid)


def remove_abandoned() -> None:
    """Remove what the C library leaves if a process is killed while it makes a semaphore: an entry of another name."""
    for path in (path for path in paths() if re.fullmatch(rf"{SHM}/sem\.[0-9A-Za-z]{{6}}", path)):
        with contextlib.suppress(OSError):
            if os.lstat(path).st_uid == os.geteuid() and os.path.getsize(path) in {0, 32} and not _is_in_use(path):
                os.unlink(path)


def _is_in_use(path: str) -> bool:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", errors="replace") as maps:
            if path in maps.read():
                return True
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{fd}") == path:
                        return True
    return False
