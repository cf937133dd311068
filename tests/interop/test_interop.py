"""Same names, same memory as everyone else: C, multiprocessing, posix_ipc, another Python."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from contextlib import closing, contextmanager
from mmap import PAGESIZE
from multiprocessing import resource_tracker, shared_memory

import pytest
from abilities import lacks
from named_contract import FILES, is_free
from witnesses import Witness

from ipcio import shm


def there(name):
    return os.path.lexists(f"/dev/shm/{name}") if FILES else not is_free(shm, name)


# -- C -----------------------------------------------------------------------


@pytest.fixture
def c_peer(compiled):
    if not FILES:
        pytest.skip(lacks("files"))
    program = compiled("shm_peer.c", "-lrt")
    started = []

    def start(*arguments):
        started.append(Witness(program, *arguments))
        return started[-1]

    yield start
    for peer in started:
        peer.stop()


def test_c_attaches_what_ipcio_made(name, c_peer):
    """Every byte of it, with no header in the way."""
    with shm.create(name, 1001) as h:
        c = c_peer("attach", name)
        assert c.said == "1001"
        h.getbuffer()[0], h.getbuffer()[-1] = 3, 4
        assert c.ask("get") == "3 4"
        assert c.ask("set 9") == "done"
        assert h.read() == b"\x09" * 1001
        c.end()
        assert there(name)
    assert not there(name)


def test_c_makes_what_ipcio_attaches_and_never_removes(name, c_peer):
    c = c_peer("create", name, 1001)
    assert c.said == "1001"
    c.ask("set 5")
    with shm.attach(name) as h:
        assert h.size() == 1001
        assert h.read() == b"\x05" * 1001
        h.getbuffer()[0], h.getbuffer()[-1] = 1, 2
        assert c.ask("get") == "1 2"
        with pytest.raises(FileExistsError):
            shm.create(name, 10)
    c.end()
    for _ in range(2):  # its creator was killed, and still ipcio does not remove it
        with shm.create(name, 1001, exist_ok=True) as h:
            assert not h.created
            assert h.read(1) == b"\x01"
    assert c_peer("create", name, 10).said.startswith("create: errno")
    c_peer("unlink", name).end()
    assert not there(name)
    with pytest.raises(FileNotFoundError):
        shm.attach(name)


def test_c_may_not_create_over_an_object_in_use(name, c_peer):
    with shm.create(name, 10):
        assert c_peer("create", name, 10).said.startswith("create: errno")
    c = c_peer("create", name, 20)
    assert c.said == "20"
    c.end()
    shm.unlink(name)


def test_c_holds_no_share_of_ours_and_keeps_its_memory(name, c_peer):
    """The name goes with the last handle of ipcio; what C has mapped stays mapped."""
    h = shm.create(name, 10)
    c = c_peer("attach", name)
    h.write(b"x" * 10)
    h.close()
    assert not there(name)
    assert c.ask("get") == "120 120"
    with shm.create(name, 20) as new:
        assert c.ask("set 1") == "done"
        assert new.read() == bytes(20)


def test_c_unlinks_what_ipcio_made(name, c_peer):
    with shm.create(name, 10) as h:
        c_peer("unlink", name).end()
        with pytest.raises(FileNotFoundError):
            shm.attach(name)
        h.write(b"still here")
        c = c_peer("create", name, 30)
        assert c.said == "30"
    assert there(name)  # C's own, which our last close leaves alone
    c_peer("unlink", name).end()


def test_narrowing_a_handle_does_not_narrow_what_c_sees(name, c_peer):
    with shm.create(name, 100) as h:
        c = c_peer("attach", name)
        h.truncate(10)
        assert c.ask("size") == "100"


# -- multiprocessing.shared_memory -------------------------------------------


@contextmanager
def shared(**options):
    """A `SharedMemory` that its resource tracker does not remove behind our back."""
    segment = shared_memory.SharedMemory(**options)
    try:
        yield segment
    finally:
        segment.close()
        if FILES and not options.get("create"):
            resource_tracker.unregister(segment._name, "shared_memory")


def test_multiprocessing_attaches_what_ipcio_made(name):
    with shm.create(name, 1001) as h, shared(name=name) as other:
        assert other.size == (1001 if FILES else PAGESIZE)  # elsewhere it sees whole pages
        h.write(b"from here")
        assert bytes(other.buf[:9]) == b"from here"
        other.buf[1000] = 7
        assert h.getbuffer()[1000] == 7
    assert not there(name)


def test_multiprocessing_may_not_create_over_an_object_in_use(name):
    with shm.create(name, 10), pytest.raises(FileExistsError):
        shared_memory.SharedMemory(name=name, create=True, size=10)


def test_multiprocessing_makes_what_ipcio_attaches_and_never_removes(name):
    with shared(name=name, create=True, size=1001) as other:
        other.buf[:10] = b"from there"
        with shm.attach(name) as h, shm.attach(name, "r") as reader:
            assert other.size == 1001
            assert h.size() == reader.size() == (PAGESIZE if lacks("witness") else 1001)
            assert h.read(10) == reader.read(10) == b"from there"
            h.seek(1000)
            h.write(b"!")
            assert other.buf[1000] == ord("!")
        with pytest.raises(FileExistsError):
            shm.create(name, 10)
        assert there(name)
        other.unlink()
    with pytest.raises(FileNotFoundError):
        shm.attach(name)


def test_an_invented_name_of_multiprocessing_is_a_name_here():
    with shared(create=True, size=10) as other:
        with shm.attach(other.name) as h:
            h.write(b"0123456789")
        assert bytes(other.buf[:10]) == b"0123456789"
        other.unlink()


# -- posix_ipc ---------------------------------------------------------------


def test_posix_ipc_attaches_what_ipcio_made(name):
    posix_ipc = pytest.importorskip("posix_ipc")
    with shm.create(name, 1001) as h:
        other = posix_ipc.SharedMemory(f"/{name}")
        with open(other.fd, "rb+", buffering=0) as file:
            assert other.size == (1001 if FILES else PAGESIZE)
            h.write(b"from here")
            assert file.read(9) == b"from here"
            file.write(b", there")
            assert h.read(7) == b", there"
        with pytest.raises(posix_ipc.ExistentialError):
            posix_ipc.SharedMemory(f"/{name}", posix_ipc.O_CREX, size=10)
    assert not there(name)


def test_posix_ipc_makes_what_ipcio_attaches_and_never_removes(name):
    posix_ipc = pytest.importorskip("posix_ipc")
    other = posix_ipc.SharedMemory(f"/{name}", posix_ipc.O_CREX, size=1001)
    other.close_fd()
    for _ in range(2):
        with shm.attach(name) as h:
            assert h.size() == 1001
            h.write(b"x")
        with shm.create(name, 100, exist_ok=True) as h:
            assert not h.created
            assert h.read(1) == b"x"
    posix_ipc.unlink_shared_memory(f"/{name}")
    assert not there(name)


def test_what_posix_ipc_has_not_sized_yet_is_an_error_and_not_a_crash(name):
    """The moment between its create and its ftruncate."""
    posix_ipc = pytest.importorskip("posix_ipc")
    other = posix_ipc.SharedMemory(f"/{name}", posix_ipc.O_CREX, size=0)
    with pytest.raises(OSError):
        shm.attach(name)
    os.ftruncate(other.fd, 10)
    shm.attach(name).close()
    other.close_fd()
    shm.unlink(name)


# -- another Python ----------------------------------------------------------


@functools.cache
def other_pythons():
    """Interpreters of other versions that can be started, one each.

    Not only the first on the path: that may be a shim which finds none.
    """
    found = {}
    for minor in range(10, 20):
        for folder in os.get_exec_path():
            path = shutil.which(f"python3.{minor}", path=folder)
            if path is None or minor in {sys.version_info[1], *found}:
                continue
            code = "import sys; print(*sys.version_info[:2])"
            try:
                done = subprocess.run([path, "-c", code], capture_output=True, text=True, timeout=20, check=False)
            except (OSError, subprocess.TimeoutExpired):
                continue
            if done.returncode == 0 and done.stdout.split() == ["3", str(minor)]:
                found[minor] = path
    return found


@pytest.mark.able(probe=other_pythons)
def test_processes_of_different_python_versions_share_names_and_lifetimes(unique, peer):
    for path in other_pythons().values():
        name = unique()
        other = peer(python=path)
        assert other.ask("tuple(__import__('sys').version_info[:2])") != sys.version_info[:2]
        h = shm.create(name, 100)
        h.write(b"from here")
        other.run(f"h = shm.attach({name!r})")
        h.close()
        assert other.ask("h.read(9)") == b"from here"
        other.run("h.write(b', there')")
        with closing(shm.attach(name)) as h:
            assert h.read(16) == b"from here, there"
            other.kill()
            assert there(name)
        assert not there(name)
        killed = peer(f"h = shm.create({name!r}, 100)", python=path)
        shm.attach(name).close()
        killed.kill()
        with pytest.raises(FileNotFoundError):
            shm.attach(name)
