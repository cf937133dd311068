"""See `leftovers`: where names are files in /dev/shm and processes show themselves in /proc."""

from __future__ import annotations

import os
import re

SHM = "/dev/shm"


def shm_names() -> set[str]:
    return set(os.listdir(SHM))


def semaphore_name(entry: str) -> str:
    """What stands for a crash-safe semaphore in /dev/shm under a hidden name says whose it is."""
    if entry.startswith(".ipcio-undo-"):
        try:
            with open(f"{SHM}/{entry}", "rb") as record:
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
    """Those that nothing in /dev/shm stands for, so that nobody will ever find them."""
    found = sets()
    names = shm_names()  # the hidden name is there before the set and after it
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
    """The processes, zombies included, whose parent is this one."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as listing:
                found |= {int(pid) for pid in listing.read().split()}
        except FileNotFoundError:  # a thread that has been joined, but was not quite gone
            pass
    return found


def named(made: list[str]) -> set[str]:
    """What is left under these names; it is removed."""
    ours = {*made, *(f"sem.{name}" for name in made)}
    left = {entry for entry in shm_names() if semaphore_name(entry) in ours}
    for name in left:
        os.unlink(f"{SHM}/{name}") if not os.path.isdir(f"{SHM}/{name}") else os.rmdir(f"{SHM}/{name}")
    return left


def survey() -> tuple[set[str], set[int]]:
    """The names and the nameless sets there are."""
    return shm_names(), nameless_sets()


def left_since(before: tuple[set[str], set[int]]) -> str:
    """What a run left.  Names that are held belong to another run on this machine; ours has no process left."""
    new = shm_names() - before[0]
    left = {name for name in new if name.lstrip(".").startswith(("ipcio-", "sem.ipcio-")) and not held(name)}
    left = {name for name in left if not of_another_run(semaphore_name(name))}
    nameless = nameless_sets() - before[1]
    if not left and not nameless:
        return ""
    return f"names left in {SHM}: {sorted(left)}; keys of System V semaphores left: {sorted(nameless)}"


def held(name: str) -> bool:
    """Whether some process has a share in a name, by the same lock that ipcio asks."""
    import fcntl  # not above: tests that run elsewhere, too, ask this module for names

    try:
        fd = os.open(f"{SHM}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return True  # somebody else's, or gone meanwhile
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def of_another_run(name: str) -> bool:
    """Whether the process that invented a test's name goes on, and is not this one."""
    found = re.match(r"(?:sem\.)?ipcio-test-(\d+)-", name)
    return found is not None and int(found[1]) != os.getpid() and os.path.exists(f"/proc/{found[1]}")
