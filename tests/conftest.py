"""What every test gets: names of its own, and proof that nothing is left after it."""

from __future__ import annotations

import fcntl
import gc
import itertools
import multiprocessing.resource_tracker
import os
import re
import signal
import threading

import pytest
from abilities import lacks
from peers import Peer

SHM = "/dev/shm"

_numbers = itertools.count()


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


@pytest.fixture(scope="session", autouse=True)
def standing_processes():
    """Start what multiprocessing starts once and keeps, so that no test is blamed for it."""
    multiprocessing.resource_tracker.ensure_running()
    return {multiprocessing.resource_tracker._resource_tracker._pid}


def set_aside() -> None:
    """Collect what garbage there is; what is alive by now is no later test's.

    So nobody need search it again.  Pytest keeps a report of every test: to go through those
    of all earlier ones, several times in every test, took most of the run.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left(standing_processes):
    """Fail the test that leaves a descriptor, a child or a thread behind."""
    set_aside()
    before = descriptors(), children(), set(threading.enumerate())
    yield
    gc.collect()
    left = descriptors()
    assert not {fd: what for fd, what in left.items() if fd not in before[0]}, "descriptors left open"
    assert not children() - before[1] - standing_processes, "children left"
    assert not set(threading.enumerate()) - before[2], "threads left"


@pytest.fixture
def unique():
    """Make names that no other test, process or run uses; fail if one of them is left at the end."""
    made = []

    def make(suffix: str = "") -> str:
        made.append(f"ipcio-test-{os.getpid()}-{next(_numbers)}{suffix}")
        return made[-1]

    yield make
    gc.collect()
    ours = {*made, *(f"sem.{name}" for name in made)}
    left = {entry for entry in shm_names() if semaphore_name(entry) in ours}
    for name in left:
        os.unlink(f"{SHM}/{name}") if not os.path.isdir(f"{SHM}/{name}") else os.rmdir(f"{SHM}/{name}")
    assert not left, "names left in /dev/shm"


@pytest.fixture
def name(unique):
    """One such name."""
    return unique()


@pytest.fixture
def peer():
    """Start other Python processes, each reaped at the end; see `peers.Peer`."""
    started = []

    def start(*arguments, **options) -> Peer:
        started.append(Peer(*arguments, **options))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def pytest_collection_modifyitems(config, items):
    """Leave out what the machine, not an installation, is unable to do: ``@pytest.mark.able(probe=...)``.

    A skip says that something could be installed, and is a failure where everything is.
    """
    for item in items:
        for mark in item.iter_markers("needs"):
            for reason in filter(None, map(lacks, mark.args)):
                item.add_marker(pytest.mark.skip(reason=reason))
    unable = [item for item in items for mark in item.iter_markers("able") if not mark.kwargs["probe"]()]
    if unable:
        items[:] = [item for item in items if item not in unable]
        config.hook.pytest_deselected(items=unable)


def pytest_configure():
    """Under nohup, or in the background of a script, Ctrl-C is ignored, and children would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart(session):
    session.config.shm_before = shm_names()
    session.config.sets_before = nameless_sets()


def held(name: str) -> bool:
    """Whether some process has a share in a name, by the same lock that ipcio asks."""
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


def pytest_sessionfinish(session):
    """Fail the whole run if it left a name: invented names cannot be laid at one test's door.

    Names that are held belong to another run on this machine; ours has no process left.
    """
    if hasattr(session.config, "workerinput"):  # a parallel worker; the controller looks at the end
        return
    gc.collect()
    new = shm_names() - session.config.shm_before
    left = {name for name in new if name.lstrip(".").startswith(("ipcio-", "sem.ipcio-")) and not held(name)}
    left = {name for name in left if not of_another_run(semaphore_name(name))}
    nameless = nameless_sets() - session.config.sets_before
    if left or nameless:
        print(f"\nnames left in {SHM}: {sorted(left)}; keys of System V semaphores left: {sorted(nameless)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """Where everything is installed (CI sets this variable), a skip is a failure."""
    if os.environ.get("IPCIO_TESTS_ALLOW_SKIP", "1") == "0":
        skipped = terminalreporter.stats.get("skipped", [])
        if skipped:
            terminalreporter._session.exitstatus = pytest.ExitCode.TESTS_FAILED
            terminalreporter.write_line(f"{len(skipped)} tests skipped where none may be", red=True)
