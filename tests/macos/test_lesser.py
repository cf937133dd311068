"""What is done where a system has less than Linux, as macOS has; `as_macos` has the whole suite run so."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import importlib.util
import os
import signal
import subprocess
import sys
import threading

import pytest
from waiting import until_it_waits

pytest.importorskip("fcntl", reason="a test of what POSIX systems have")

from ipcio import mmap, proc
from ipcio._posix import filelock, known_child, pipes, spawn
from ipcio._posix import mmap as mapping
from ipcio._posix import proc as backend
from ipcio._posix.selector import PollSelector

LESSER = os.path.join(os.path.dirname(os.path.dirname(__file__)), "as_macos")


class OtherError(Exception):
    pass


# -- that there is less ------------------------------------------------------

LOOK = """
import os, select, subprocess, sys
from ipcio import filelock, mmap
from ipcio._posix import known_child, proc
print(filelock.semantics, hasattr(proc.select, "epoll"), hasattr(known_child.os, "pidfd_open"), known_child._waitid)
print(hasattr(select, "poll"), os.stat in (known_child.os.stat,), sys.modules["os"] is os)
if len(sys.argv) == 1:
    sys.stdout.flush()
    subprocess.run([sys.executable, "-c", sys.orig_argv[2], "grandchild"], check=True, cwd="/")
"""


def test_a_python_that_is_to_see_less_does_and_so_do_its_children():
    ours = os.path.dirname(os.path.dirname(proc.__file__))
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.path.relpath(LESSER), ours])},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout == 2 * "process False False None\nTrue False True\n"


# -- struct flock --------------------------------------------------------------


class Flock(ctypes.Structure):
    """As in <sys/fcntl.h> of macOS."""

    _fields_ = (
        ("start", ctypes.c_int64),
        ("length", ctypes.c_int64),
        ("pid", ctypes.c_int32),
        ("type", ctypes.c_short),
        ("whence", ctypes.c_short),
    )


@pytest.fixture
def elsewhere(monkeypatch):
    """The module as it is where struct flock is another one."""
    monkeypatch.setattr(sys, "platform", "darwin")
    spec = importlib.util.spec_from_file_location("ipcio._posix.filelock_elsewhere", filelock.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_request_is_the_struct_of_macos(elsewhere):
    request = elsewhere.request(elsewhere.EXCLUDE, 2**40, 2**33)
    assert request == bytes(Flock(2**40, 2**33, 0, elsewhere.EXCLUDE, 0))


@pytest.mark.parametrize("pid", [4711, 0, -1])
@pytest.mark.parametrize("kind", ["SHARE", "EXCLUDE"])
def test_an_answer_is_the_struct_of_macos(elsewhere, monkeypatch, pid, kind):
    asked = []

    def answer(fd, _, request):
        asked.append((fd, request))
        return bytes(Flock(2**40, 5, pid, getattr(elsewhere, kind), 0))

    monkeypatch.setattr(elsewhere, "ask", answer)
    request = elsewhere.request(elsewhere.SHARE, 0, 0)
    assert elsewhere.conflict(3, request) == (2**40, 5, kind == "EXCLUDE", pid if pid > 0 else None)
    assert asked == [(3, request)]


def test_no_conflict_is_the_struct_of_macos(elsewhere, monkeypatch):
    monkeypatch.setattr(elsewhere, "ask", lambda *_: bytes(Flock(0, 0, 0, elsewhere.UNLOCK, 0)))
    assert elsewhere.conflict(3, elsewhere.request(elsewhere.SHARE, 0, 0)) is None


# -- children, with poll -----------------------------------------------------


@pytest.fixture(params=["exit is an event", "exit is none"])
def polling(request, monkeypatch):
    """No epoll; and, as on macOS, no descriptor of a process."""
    monkeypatch.setattr(backend, "Selector", PollSelector)
    if request.param == "exit is none":
        monkeypatch.setattr(spawn.Popen, "pidfd", -1)


@pytest.mark.usefixtures("polling")
def test_data_goes_both_ways():
    data = os.urandom(1 << 20)
    received = []
    with proc.spawn(["cat"], stdin=True, stdout=True, callback=lambda _, piece: received.append(piece)) as h:
        h.write(data, proc.EOF)
        assert h.wait().ok
    assert b"".join(received) == data


@pytest.mark.usefixtures("polling")
@pytest.mark.needs("proc")
def test_what_another_thread_writes_reaches_who_waits():
    with proc.spawn(["cat"], stdin=True, stdout=True) as h:
        waiter = threading.get_native_id()

        def write():
            until_it_waits(os.getpid(), waiter)
            h.write(b"x")

        for _ in range(3):
            thread = threading.Thread(target=write)
            thread.start()
            assert next(h) == ("stdout", b"x")
            thread.join()
        h.write(proc.EOF)


@pytest.mark.usefixtures("polling")
def test_a_bell_that_is_full_rings_all_the_same():
    selector = PollSelector()
    ends = os.pipe()
    try:
        for _ in range(1 << 17):  # more than a pipe holds
            selector.register(ends[1], backend.select.POLLOUT)
            selector.unregister(ends[1])
        assert selector.poll(None) == []
        selector.register(ends[1], backend.select.POLLOUT)
        with pytest.raises(FileExistsError):
            selector.register(ends[1], backend.select.POLLOUT)
        while (ready := selector.poll(None)) == []:
            pass
        assert ready == [(ends[1], backend.select.POLLOUT)]
    finally:
        selector.close()
        for fd in ends:
            os.close(fd)


@pytest.mark.usefixtures("polling")
def test_an_event_loop_looks_now_and_then():
    async def converse():
        h = proc.spawn(["cat"], stdin=True, stdout=True)
        assert h._child.readiness_fd() == -1
        h.write(b"x")
        async for stream, data in h:
            assert (stream, data) == ("stdout", b"x")
            h.write(proc.EOF)
        return await h.wait_async()

    assert asyncio.run(converse()).ok


@pytest.mark.parametrize("code", [0, 3])
def test_an_exit_is_looked_for_without_waitid(monkeypatch, code):
    monkeypatch.setattr(known_child, "_waitid", None)
    assert proc.spawn(["sh", "-c", f"sleep 0.01; exit {code}"]).wait() == (code == 0, "exit", code)
    h = proc.spawn(["sleep", "90"])
    h.close()
    assert h.wait() == (False, "signal", signal.SIGKILL)


def test_a_pipe_need_not_grow(monkeypatch):
    monkeypatch.setattr(pipes, "_SETPIPE_SZ", None)
    with proc.spawn(["head", "-c", "300000", "/dev/zero"], stdout=True) as h:
        assert sum(len(data) for _, data in h) == 300000


# -- files without /proc -----------------------------------------------------


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    return str(path)


def no_path(*_):
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def test_a_descriptor_without_a_path_shares_its_offset(monkeypatch, path):
    monkeypatch.setattr(mapping, "_open_again", no_path)
    with open(path, "r+b") as file, mmap.open(file, "rw") as h:
        assert h.read() == b"0123456789"
        os.lseek(h.fileno(), 3, os.SEEK_SET)
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 3


def test_a_path_at_which_another_file_is_by_now(monkeypatch, tmp_path, path):
    other = tmp_path / "other"
    other.write_bytes(b"other")
    monkeypatch.setattr(mapping, "_GETPATH", 50)
    monkeypatch.setattr(mapping, "_path", lambda _: str(other))
    with open(path, "rb") as file, mmap.open(file) as h:
        assert h.read() == b"0123456789"
        with pytest.raises(TypeError, match="no path"):
            mapping.path_of(file.fileno())


def test_the_map_of_a_descriptor_without_a_known_path_is_not_pickled(monkeypatch, path):
    monkeypatch.setattr(mapping, "_path", no_path)
    with open(path, "rb") as file, mmap.open(file.fileno()) as h, pytest.raises(TypeError, match="no path"):
        h.__reduce__()
