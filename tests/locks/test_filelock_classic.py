"""Locks where the platform has none of open files: the classic ones, which belong to the process."""

from __future__ import annotations

import pytest
from peers import PeerError

from ipcio import filelock
from ipcio.filelock import lock, query, trylock, unlock

fcntl = pytest.importorskip("fcntl", reason="there are no classic locks here")

# A peer may have it already, for the locks of mutexes.
UNLOADED = "sys.modules.pop('ipcio._posix.filelock', None); vars(ipcio._posix).pop('filelock', None)"

HEADER = "del fcntl.F_OFD_GETLK, fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW"

KERNEL = """
def refusing(fd, command, *rest, real=fcntl.fcntl, unknown={fcntl.F_OFD_GETLK, fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW}):
    if command in unknown:
        raise OSError(22, "Invalid argument")
    return real(fd, command, *rest)
fcntl.fcntl = refusing
"""


@pytest.fixture
def path(tmp_path):
    where = tmp_path / "file"
    where.write_bytes(b"0123456789")
    return str(where)


@pytest.fixture
def ours(path):
    with open(path, "r+b", 0) as file:
        yield file


@pytest.fixture(params=[HEADER, KERNEL], ids=["not in the header", "not in the kernel"])
def old(request, peer, path):
    """A process that finds no locks of open files; it has the file open as `f` and again as `g`."""
    return peer(
        "import fcntl, sys, ipcio._posix",
        UNLOADED,
        request.param,
        "from ipcio import filelock",
        f"f, g = (open({path!r}, 'r+b', 0) for _ in 'fg')",
    )


def test_it_can_be_seen(old):
    assert old.ask("filelock.semantics") == "process"


def test_it_excludes_other_processes_and_is_named(old, ours):
    old.run("filelock.lock(f, 'rw', 2, 3)")
    assert not trylock(ours, "r", 4, 1)
    assert query(ours) == (2, 3, "rw", old.pid)
    old.run("filelock.lock(f, 'r', 2, 3)")
    assert trylock(ours, "r", 4, 1)
    assert not trylock(ours, "rw", 4, 1)
    old.run("filelock.unlock(f)")
    assert trylock(ours)


def test_it_is_excluded(old, ours):
    lock(ours, "rw", 2, 3)
    assert not old.ask("filelock.trylock(f, 'r', 4, 1)")
    assert old.ask("filelock.trylock(f, 'rw', 5, 1)")
    assert old.ask("filelock.query(f)[:3]") == (2, 3, "rw")
    with pytest.raises(PeerError, match=r"locked by .*, bytes 2 to 4") as caught:
        old.run("filelock.lock(f, timeout=0.01)")
    assert caught.value.kind == "TimeoutError"


@pytest.mark.parametrize("timeout", [None, 30])
def test_it_waits(old, ours, timeout):
    lock(ours)
    old.send("ask", f"filelock.lock(f, timeout={timeout})")
    unlock(ours)
    assert old.answer()
    assert not trylock(ours)


@pytest.mark.needs("deadlines")
def test_two_that_wait_for_each_other_are_told(old, path):
    """Which the kernel only finds out of classic locks."""
    old.run("filelock.lock(f, 'rw', 0, 1)")
    with open(path, "r+b", 0) as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)
        old.send("run", "try: filelock.lock(f, 'rw', 1, 1, timeout=30)\nfinally: filelock.unlock(f)")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
        except OSError:  # that we wait has come second
            fcntl.lockf(file, fcntl.LOCK_UN)
            old.answer()
        else:
            with pytest.raises(PeerError, match=r"[Dd]eadlock"):
                old.answer()


def test_what_is_different(old, ours):
    """Threads do not exclude each other, and a close of any descriptor loses all; so says the documentation."""
    old.run("filelock.lock(f, 'rw', 2, 3)")
    assert old.ask("filelock.trylock(g, 'rw', 2, 3)")
    old.run("g.close()")
    assert query(ours) is None


def test_it_goes_with_the_process(old, ours):
    old.run("filelock.lock(f)")
    old.kill()
    assert filelock.trylock(ours)
