"""What every test gets: names of its own, and proof that nothing is left after it."""

from __future__ import annotations

import gc
import itertools
import multiprocessing.resource_tracker
import os
import signal
import tempfile
import threading

import peers
import pytest
import turns
from abilities import lacks
from campaigns import left_out
from leftovers import children, descriptors, left_since, named, survey
from peers import Peer
from witnesses import compile_c

_numbers = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def standing_processes():
    """Start what multiprocessing starts once and keeps, so that no test is blamed for it."""
    if not hasattr(os, "fork"):  # then it starts nothing
        return set()
    multiprocessing.resource_tracker.ensure_running()
    return {multiprocessing.resource_tracker._resource_tracker._pid}


@pytest.fixture(scope="session", autouse=True)
def peers_are_forks():
    """Start the process of which peers are forks; see `forkserver`."""
    peers.serve()
    yield
    peers.stop_serving()


def set_aside() -> None:
    """Collect garbage; what is left is not a later test's, so later collections do not search it.

    Pytest keeps a report of every test: to go through those of all earlier tests, several times
    in every test, took most of the run.
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
def turn(request):
    """Keep `gc` and the orphans of other users out of each other's way; tests with one of these marks get it."""
    with turns.alone() if request.node.get_closest_marker("gc") else turns.together():
        yield


def pytest_runtest_setup(item):
    """Give the search for the holder of a lock more time: on a busy machine it is slow."""
    try:
        from ipcio._filelock import holders
    except ImportError:  # a system without such locks
        return
    usual = vars(holders).setdefault("_usual", holders.SEARCH_AFTER)
    holders.SEARCH_AFTER = usual if item.get_closest_marker("hurried") else 5


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("tests")


@pytest.fixture
def tmp_path(scratch):
    """An empty directory.  Pytest's own has the name of the test and a link to it; that cost a millisecond a test."""
    path = scratch / short(next(_numbers))
    path.mkdir(mode=0o700)
    return path


def short(number: int) -> str:
    """In base 36."""
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits


@pytest.fixture
def unique():
    """Make names that no other test, process or run uses; fail if one of them is left at the end."""
    made = []

    def make(suffix: str = "") -> str:
        # Some systems take no more than 30 characters, and tests add to them.
        made.append(f"ipcio-t-{short(os.getpid())}-{short(next(_numbers))}{suffix}")
        return made[-1]

    yield make
    gc.collect()
    assert not named(made), "names left"


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
    while started:  # on Windows, a handle on a process lasts as long as the object
        started.pop().stop()


@pytest.fixture
def apart(peer):
    """Start peers in namespaces of their own; they know the functions of `namespaces`.  All ends with them."""

    def start(limit="", shm="size=1m"):
        other = peer(
            "from namespaces import *",
            "from children import Forked, leave_orphan",
            "from command import run as command",
            "from ipcio._posix import libc",
        )
        other.run(f"go_apart({shm!r}, {limit!r})")
        assert not shm or other.ask("entries()") == []
        assert other.ask("sets()") == 0
        return other

    return start


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Build one of the C programs in tests/support and return its path."""
    directory = tmp_path_factory.mktemp("c")
    paths = {}

    def path(source, *options):
        if source not in paths:
            paths[source] = compile_c(source, directory, *options)
        if paths[source] is None:
            pytest.skip("no C compiler")
        return paths[source]

    return path


def pytest_collection_modifyitems(config, items):
    """Leave out what the machine, or this user, is unable to do, and most of what is sampled.

    See ``@pytest.mark.able(probe=...)``, ``root`` and `campaigns.left_out`.

    A skip says that something could be installed, and is a failure where everything is.
    """
    for item in items:
        for mark in item.iter_markers("needs"):
            for reason in filter(None, map(lacks, mark.args)):
                item.add_marker(pytest.mark.skip(reason=reason))
        if (item.get_closest_marker("gc") or item.get_closest_marker("root")) and "turn" not in item.fixturenames:
            item.fixturenames.insert(0, "turn")
    # Numpy and its like, once imported, make this process large, and each later fork of it slow.
    items.sort(key=lambda item: item.path.stem.endswith("_extra"))
    unable = [item for item in items for mark in item.iter_markers("able") if not mark.kwargs["probe"]()]
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        unable += [item for item in items if item.get_closest_marker("root")]
    unable += left_out(items)
    if unable:
        without = set(unable)
        items[:] = [item for item in items if item not in without]
        config.hook.pytest_deselected(items=list(without))


def pytest_configure(config):
    """Under nohup, or in the background of a script, signals are ignored, and children would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # ignored as before, but by this process alone
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        # Each program that a test starts would compile all of ipcio, which doubles the time of the whole run.
        directory = tempfile.TemporaryDirectory(prefix="ipcio-bytecode-", ignore_cleanup_errors=True)
        config.add_cleanup(directory.cleanup)
        os.environ["PYTHONPYCACHEPREFIX"] = directory.name


def pytest_sessionstart(session):
    session.config.surveyed = survey()


def pytest_sessionfinish(session):
    """Fail the whole run if it left a name: invented names cannot be laid at one test's door."""
    if hasattr(session.config, "workerinput"):  # a parallel worker; the controller looks at the end
        return
    gc.collect()
    complaint = left_since(session.config.surveyed)
    if complaint:
        print(f"\n{complaint}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """Where everything is installed (CI sets this variable), a skip is a failure."""
    if os.environ.get("IPCIO_TESTS_ALLOW_SKIP", "1") == "0":
        skipped = terminalreporter.stats.get("skipped", [])
        if skipped:
            terminalreporter._session.exitstatus = pytest.ExitCode.TESTS_FAILED
            terminalreporter.write_line(f"{len(skipped)} tests skipped where none may be", red=True)
