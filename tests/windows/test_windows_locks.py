"""The locks of mutexes and queues on Windows: the kernel knows the owner, and the next one learns that it has ended."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time

import pytest
from abilities import lacks
from campaigns import campaign, rounds
from leftovers import descriptors
from waiting import at_best_within

# Left out elsewhere, not skipped: there is nothing to be installed that would run them.
pytestmark = pytest.mark.able(probe=lambda: not lacks("sections"))

# For a peer, too.
OBJECT = """
from ipcio._tuples import OpenObject
from ipcio._windows import parts, shm as segments

class Object:
    '''A segment with a lock and a number in it.'''

    def __init__(self, name, created=False):
        if created:
            opened = segments.create(
                name, 4096, perm=0o600, persist=False, reserve=True, init=self.fill, into=self.keep, kind="mutex"
            )
        else:
            opened = segments.attach(name, writable=True, into=self.keep, kind="mutex")
        self.memory, _, self.share = opened
        self.opened = OpenObject("mutex", name, self.memory, -1, True, False)
        self.cells = self.memory[192:200].cast("I")

    def keep(self, *opened):
        return opened

    def fill(self, opened):
        first = parts.new_lock(wide=False)
        opened[0][64 : 64 + len(first)] = first

    def lock(self):
        return parts.lock(self.opened, 64)

    def close(self):
        self.share.release()
"""
_objects: dict = {}
if not lacks("sections"):
    exec(OBJECT, _objects)
    from ipcio._windows import mutexes

DEADLINE = 30  # seconds


@pytest.fixture
def made(name):
    made = _objects["Object"](name, created=True)
    yield made
    made.close()


def another(peer, made):
    """Another process with the same lock."""
    return peer(OBJECT, f"made = Object({made.opened.name!r}); lock = made.lock()")


def in_thread(function) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def assert_free(lock, *, abandoned=False):
    end = time.monotonic() + DEADLINE * abandoned
    while lock.is_held() and time.monotonic() < end:  # a thread ends a little after Python has joined it
        time.sleep(0.001)
    assert not lock.is_held()
    assert lock.owner() is None
    assert lock.acquire(0) == 1 + abandoned
    assert lock.is_abandoned() == abandoned
    lock.release()
    assert lock.acquire(0) == 1
    assert not lock.is_abandoned()
    lock.release()


def test_its_owner_is_a_thread(made):
    lock = made.lock()
    assert_free(lock)
    assert lock.acquire(None) == 1
    assert lock.is_mine()
    assert lock.is_held()
    assert lock.owner() == os.getpid()
    for seconds in (0, 0.01, None):
        with pytest.raises(RuntimeError, match="already"):
            lock.acquire(seconds)
    found = []

    def another_thread():
        found.extend([lock.is_mine(), lock.acquire(0), lock.acquire(0.01)])
        try:
            lock.release()
        except RuntimeError as error:
            found.append(str(error))

    in_thread(another_thread)
    assert found == [False, 0, 0, "this thread does not hold the lock"]
    lock.release()
    with pytest.raises(RuntimeError, match="does not hold"):
        lock.release()
    assert_free(lock)


def test_another_process_sees_the_owner_and_waits_for_it(made, peer):
    lock, other = made.lock(), another(peer, made)
    assert other.ask("lock.acquire(0)") == 1
    assert lock.owner() == other.pid
    assert lock.is_held()
    assert not lock.is_mine()
    assert lock.acquire(0.01) == 0
    other.send("run", "time.sleep(0.1); lock.release()")
    assert lock.acquire(DEADLINE) == 1
    assert lock.owner() == os.getpid()
    lock.release()
    other.answer()
    assert_free(lock)


def test_two_handles_of_a_process_are_one_lock(made):
    lock = made.lock()
    second = made.lock()
    lock.acquire(None)
    assert second.is_mine()
    with pytest.raises(RuntimeError, match="already"):
        second.acquire(0)
    second.release()
    assert_free(lock)


@pytest.mark.parametrize("end", ["kill", "_exit", "thread of another process"])
def test_when_an_owner_ends_the_next_one_learns_of_it(made, peer, end):
    lock, other = made.lock(), another(peer, made)
    thread = "import threading; t = threading.Thread(target=lock.acquire, args=(None,)); t.start(); t.join()"
    other.run(thread if end.startswith("thread") else "lock.acquire(None)")
    if end == "kill":
        other.kill()
    elif end == "_exit":
        other.send("run", "os._exit(0)")
        other.process.wait(DEADLINE)
    assert_free(lock, abandoned=True)


def test_a_thread_that_ends_is_an_owner_that_ends(made):
    lock = made.lock()
    in_thread(lambda: lock.acquire(None))
    assert_free(lock, abandoned=True)


def test_one_of_those_that_wait_learns_of_it(made, peer):
    lock, other = made.lock(), another(peer, made)
    results = []
    other.run("lock.acquire(None)")

    def wait():
        own = made.lock()
        results.append(own.acquire(DEADLINE))
        own.release()

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)  # most of them wait by then
    other.kill()
    for thread in threads:
        thread.join()
    assert sorted(results) == [1, 1, 1, 2]
    assert_free(lock)
    assert not mutexes._still_owned


def test_a_second_owner_that_ends_is_reported_as_well(made, peer):
    lock, other = made.lock(), another(peer, made)
    in_thread(lambda: lock.acquire(None))
    assert other.ask("lock.acquire(5)") == 2
    other.kill()
    assert_free(lock, abandoned=True)


def test_closing_releases_nothing(made, peer):
    lock, other = made.lock(), another(peer, made)
    before = descriptors()
    second = made.lock()
    second.acquire(None)
    del second
    assert lock.is_mine()
    assert other.ask("lock.acquire(0)") == 0
    lock.release()
    assert other.ask("(lock.acquire(0), lock.release())") == (1, None)
    assert descriptors() == before
    assert not mutexes._still_owned


def test_a_mutex_is_not_kept_longer_than_its_owner(made):
    def own_and_end():
        lock = made.lock()
        lock.acquire(None)

    in_thread(own_and_end)
    assert mutexes._still_owned
    lock = made.lock()
    assert_free(lock, abandoned=True)
    made.lock()
    assert not mutexes._still_owned


def test_a_lock_that_is_collected_in_a_cycle_stays_owned(made, peer):
    lock, other = made.lock(), another(peer, made)
    cycle = [made.lock()]
    cycle.append(cycle)
    cycle[0].acquire(None)
    del cycle
    gc.collect()
    assert mutexes._still_owned
    assert other.ask("lock.acquire(0)") == 0
    lock.release()
    assert not mutexes._still_owned


def test_a_new_object_never_has_the_lock_of_an_old_one(name):
    old = _objects["Object"](name, created=True)
    held = old.lock()
    held.acquire(None)
    old.close()
    new = _objects["Object"](name, created=True)
    try:
        assert_free(new.lock())
    finally:
        new.close()
        held.release()


def test_hostile_words_change_no_owner(made, peer):
    """They are shown at most."""
    lock, other = made.lock(), another(peer, made)
    chance = random.Random(1)
    for _ in range(20):
        made.memory[72:84] = chance.randbytes(12)
        assert not lock.is_held()
        assert lock.owner() is None
        assert lock.acquire(0) in {1, 2}
        made.memory[72:84] = chance.randbytes(12)
        assert lock.is_mine()
        assert other.ask("lock.acquire(0)") == 0
        lock.release()
        assert not lock.is_held()


@pytest.mark.parametrize("seconds", [None, DEADLINE])
def test_ctrl_c_ends_a_wait_and_nothing_was_acquired(made, peer, seconds):
    lock, other = made.lock(), another(peer, made)
    other.run("lock.acquire(None)")

    def attempt():
        began = []

        def interrupt():
            time.sleep(0.15)
            began.append(time.perf_counter())
            signal.raise_signal(signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            lock.acquire(seconds)
        took = time.perf_counter() - began[0]
        thread.join()
        return took

    at_best_within(0.2, attempt)
    other.run("lock.release()")
    assert_free(lock)


class Interrupted(KeyboardInterrupt):
    pass


@campaign
def test_interrupts_at_random_moments_acquire_nothing_and_release_once(made):
    lock = made.lock()
    chance = random.Random(5)
    armed, got = [], []

    def handle(*_):
        if armed:
            armed.clear()
            raise Interrupted

    before = signal.signal(signal.SIGINT, handle)
    interrupts = 0
    try:
        for _ in range(rounds(200)):
            go = threading.Event()

            def trouble(go=go):
                go.wait()
                end = time.perf_counter() + chance.random() * 3e-4
                while time.perf_counter() < end:
                    pass
                signal.raise_signal(signal.SIGINT)

            thread = threading.Thread(target=trouble)
            thread.start()
            try:
                armed.append(None)
                go.set()
                while armed:
                    got.clear()
                    got.extend(map(lock.acquire, (None,)))  # C writes down that it was acquired
                    if got:
                        got.extend(map(lock.release, ()))
                        lock.release()
                        got.clear()
            except Interrupted:
                interrupts += 1
            armed.clear()
            thread.join()
            if lock.is_mine():
                assert got  # or it was interrupted before the release
                lock.release()
            assert not lock.is_held()
    finally:
        signal.signal(signal.SIGINT, before)
    assert interrupts


WORKER = """
import os, random
def work(seed, steps):
    abandoned = 0
    for _ in range(steps):
        abandoned += lock.acquire(None) == 2
        made.cells[0] = os.getpid()
        for _ in range(random.randrange(50)): pass
        assert made.cells[0] == os.getpid(), "two owners"
        lock.release()
    return abandoned
"""


@campaign
def test_two_processes_never_own_it_even_if_some_are_killed(made, peer):
    lock = made.lock()
    exec(WORKER, scope := {"made": made, "lock": lock})
    reported = 0
    steady = another(peer, made)
    steady.run(WORKER)
    steady.send("ask", f"work(0, {rounds(2000)})")
    for seed in range(rounds(8)):
        victim = another(peer, made)
        victim.run(WORKER)
        victim.send("ask", f"work({seed}, 10**9)")
        reported += scope["work"](seed, rounds(200))
        victim.kill()
    reported += steady.answer()
    reported += scope["work"](1, 1)
    assert reported <= rounds(8)
    assert_free(lock)
