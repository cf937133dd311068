"""Explicit removals hold a lock on the directory, which any user may hold as well."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from contextlib import contextmanager

import pytest
from children import fork_quietly, watch_calls

from ipcio import _segment_writer, sem, shm
from ipcio._forklock import fork_lock

pytest.importorskip("fcntl")

import fcntl

from schedules import place_of_its_own, there

from ipcio._posix import namespace, removal

pytestmark = [pytest.mark.needs("fork", "files"), pytest.mark.usefixtures("place")]


@pytest.fixture
def place():
    with place_of_its_own():
        yield


KINDS = [fcntl.LOCK_EX, fcntl.LOCK_SH]


@contextmanager
def locked_directory(kind=fcntl.LOCK_EX):
    fd = os.open(namespace.DIRECTORY, os.O_RDONLY)
    try:
        fcntl.flock(fd, kind)
        yield lambda: fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


@pytest.fixture
def pauses(monkeypatch):
    """What is done instead of a pause between two attempts; without a change, the clock goes on by a second."""
    clock = [0.0]

    def pause(_):
        clock[0] += 1

    def sleep(seconds):
        slept.append(seconds)
        (slept.action or pause)(seconds)

    class Slept(list):
        action = None

    slept = Slept()
    monkeypatch.setattr(removal, "_is_kept_locked", False)
    stand_in = type("time", (), {"monotonic": lambda: clock[0], "sleep": sleep})
    monkeypatch.setattr(removal, "time", stand_in)
    return slept


def replace(name):
    with _segment_writer.open_writer(name, replace=True) as file:
        file.write(b"new")


@pytest.mark.parametrize("kind", KINDS, ids=["exclusive", "shared"])
def test_a_directory_that_is_kept_locked_delays_one_removal_and_prevents_none(pauses, unique, kind):
    """The first one waits for two seconds, the others do not, until the directory has been free once."""
    names = [unique() for _ in range(4)]
    for name in names:
        shm.create(name, 1, persist=True).close()
        sem.create(name, 1, persist=True, undo=True).close()
    with locked_directory(kind) as unlock:
        for name in names[:2]:
            shm.unlink(name)
            sem.unlink(name)
            replace(name)
            assert shm.attach(name).read() == b"new"
            shm.unlink(name)
        assert len(pauses) == 3  # seconds, by this clock
        unlock()
        shm.unlink(names[2])
    with locked_directory(kind):
        shm.unlink(names[3])
        assert len(pauses) == 6
    for name in names[2:]:
        sem.unlink(name)
    assert not any(map(there, names))


def test_a_wait_for_the_directory_keeps_no_other_thread_waiting(pauses, name, unique):
    """Not in a call, and not in a fork."""
    shm.create(name, 1, persist=True).close()

    def work():
        with shm.create(unique(), 1) as h:
            h.getbuffer()
        pid = fork_quietly()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        done.append(True)

    def while_it_waits(_):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(20)
        unlock()

    done = []
    pauses.action = while_it_waits
    with locked_directory() as unlock:
        shm.unlink(name)
    assert done == [True] * len(pauses)
    assert done


def test_a_wait_for_the_directory_can_be_interrupted(pauses, name):
    def interrupt(_):
        raise KeyboardInterrupt

    pauses.action = interrupt
    shm.create(name, 1, persist=True).close()
    with locked_directory(), pytest.raises(KeyboardInterrupt):
        shm.unlink(name)
    free = []
    thread = threading.Thread(target=lambda: free.append(fork_lock.acquire(blocking=False)) or fork_lock.release())
    thread.start()
    thread.join()
    assert free == [True]
    shm.unlink(name)


def test_a_removal_keeps_the_directory_locked_from_its_look_to_its_end_and_no_longer(name, monkeypatch):
    """Not even if C code forks in the midst, and the child goes on for long."""
    libc = ctypes.PyDLL(None)
    reader, writer = os.pipe()
    seen, children = [], []

    def is_locked():
        with open("/proc/locks") as table:
            return any(line.split()[5].endswith(f":{number}") for line in table)

    number = os.stat(namespace.DIRECTORY).st_ino
    real = os.unlink

    def unlink(path):
        seen.append(is_locked())
        pid = libc.fork()
        if not pid:
            libc.read(reader, ctypes.create_string_buffer(1), 1)
            libc._exit(0)
        children.append(pid)
        real(path)

    with monkeypatch.context() as patch:
        watch_calls(lambda call, args, do: unlink(*args) if call == "unlink" else do(), patch.setattr)
        shm.create(name, 1, persist=True).close()
        shm.unlink(name)
    try:
        assert seen == [True]
        with locked_directory(fcntl.LOCK_EX | fcntl.LOCK_NB):
            pass
    finally:
        os.close(writer)
        os.close(reader)
        for pid in children:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def test_a_removal_within_another_does_not_wait_for_it(pauses, unique, monkeypatch):
    """As by a signal handler, or the garbage collector."""
    outer, inner = unique(), unique()
    for name in outer, inner:
        shm.create(name, 1, persist=True).close()
    within = iter([inner])

    def on_call(called, _args, call):
        if called == "unlink":
            for name in within:
                shm.unlink(name)
        return call()

    watch_calls(on_call, monkeypatch.setattr)
    shm.unlink(outer)
    assert not any(map(there, (outer, inner)))
    assert not pauses
    with locked_directory(fcntl.LOCK_EX | fcntl.LOCK_NB):
        pass


@pytest.mark.root
def test_a_directory_that_this_user_may_not_read_is_not_locked(name):
    os.chmod(namespace.DIRECTORY, 0o1733)
    pid = os.fork()
    if not pid:
        try:
            os.setgid(65534)
            os.setuid(65534)
            shm.create(name, 1, persist=True).close()
            started = time.monotonic()
            shm.unlink(name)
            os._exit(time.monotonic() - started > 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert not there(name)
