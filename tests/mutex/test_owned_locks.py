"""Locks that the kernel releases with their owner: both kinds, on a plain file, one by one and killed."""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import sys
import threading
import time
import weakref
from contextlib import closing

import pytest
from campaigns import rounds
from children import Event, Forked, fork_in_c
from waiting import blocked

pytest.importorskip("fcntl", reason="these locks are for POSIX")

from ipcio._posix import namespace, own_file, pthread_mutex, range_lock, robust

OTHER_NAMESPACE = 7


class Locked:
    """A file with a lock in it, opened like an object."""

    def __init__(self, kind, path):
        self.kind = kind
        self.path = str(path)
        self.space = 5
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        first = pthread_mutex.blank() if kind == "robust" else bytes(64)
        os.pwrite(self.fd, bytes(64) + first, 0)

    def lock(self):
        make = robust.RobustLock if self.kind == "robust" else range_lock.lock_at
        return make(self.fd, self.path, 64, lambda: self.space, "name")

    def close(self):
        os.close(self.fd)


def has_mutexes():
    return pthread_mutex.blank() is not None


def has_range_locks():
    return range_lock.filelock.SEMANTICS == "open file" or not namespace.NAMES_ARE_FILES


ROBUST = pytest.param("robust", marks=pytest.mark.able(probe=has_mutexes))
RANGE = pytest.param("range", marks=pytest.mark.able(probe=has_range_locks))
robust_only = pytest.mark.parametrize("file", [ROBUST], indirect=True)
range_only = pytest.mark.parametrize("file", [RANGE], indirect=True)


@pytest.fixture(params=[ROBUST, RANGE])
def file(request, tmp_path):
    with closing(Locked(request.param, tmp_path / "object")) as opened:
        yield opened


@pytest.fixture
def lock(file):
    kept = file.lock()
    yield weakref.proxy(kept)  # pytest keeps what a fixture yields for longer than the test
    del kept


def assert_free(lock, *, abandoned=False):
    assert not lock.is_held()
    assert lock.owner() is None
    assert lock.acquire(5) == 2 if abandoned else lock.acquire(0) == 1
    assert lock.is_abandoned() == abandoned
    lock.release()
    assert lock.acquire(0) == 1
    assert not lock.is_abandoned()
    lock.release()


def test_it_has_one_owner_which_is_a_thread(lock):
    assert_free(lock)
    assert lock.acquire(None) == 1
    assert lock.is_mine()
    assert lock.is_held()
    assert lock.owner() == os.getpid()
    for seconds in (0, 0.01, None):
        with pytest.raises(RuntimeError, match="already"):
            lock.acquire(seconds)

    wrong = []

    def other():
        try:
            assert not lock.is_mine()
            assert lock.acquire(0) == lock.acquire(0.01) == 0
            with pytest.raises(RuntimeError, match="does not hold"):
                lock.release()
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert not wrong
    with Forked(other) as child:
        child.result()
    assert not wrong
    lock.release()
    with pytest.raises(RuntimeError, match="does not hold"):
        lock.release()
    assert_free(lock)


def test_another_process_sees_who_holds_it(file, lock):
    with Event() as has, Event() as go:

        def child():
            own = file.lock()
            assert own.acquire(0) == 1
            has.set()
            go.wait()
            own.release()

        with Forked(child) as forked:
            has.wait()
            assert lock.owner() == forked.pid
            assert lock.is_held()
            assert lock.acquire(0) == 0
            go.set()
            assert lock.acquire(None) == 1
            lock.release()
            forked.result()
    assert_free(lock)


@pytest.mark.parametrize("end", ["kill", "exit", "thread", "exec"])
def test_an_owner_that_ends_lets_the_next_one_in_which_is_told(lock, end):
    with Event() as has:

        def hold():
            assert lock.acquire(None) == 1
            has.set()
            if end == "exec":
                os.execv(sys.executable, [sys.executable, "-c", "import signal; signal.pause()"])
            elif end == "exit":
                os._exit(0)
            signal.pause()

        if end == "thread":
            thread = threading.Thread(target=lock.acquire, args=(None,))
            thread.start()
            thread.join()
            assert_free_soon(lock)
            return
        with Forked(hold) as owner:
            has.wait()
            if end == "kill":
                owner.kill()
            assert_free_soon(lock)


def assert_free_soon(lock):
    """Some ends are over a moment after they are noticed."""
    assert lock.acquire(5) == 2
    assert lock.is_abandoned()
    lock.release()
    assert_free(lock)


def test_exec_in_a_thread_other_than_the_main_one_is_the_end_of_the_owner_too(lock):
    with Event() as has:

        def hold():
            def replace():
                assert lock.acquire(None) == 1
                has.set()
                os.execv(sys.executable, [sys.executable, "-c", "import signal; signal.pause()"])

            threading.Thread(target=replace).start()
            signal.pause()

        with Forked(hold):
            has.wait()
            assert_free_soon(lock)


def test_a_waiter_is_let_in_when_the_owner_is_killed_and_a_killed_waiter_leaves_nothing(lock):
    with Event() as has:

        def hold():
            lock.acquire(None)
            has.set()
            signal.pause()

        with Forked(hold) as owner:
            has.wait()
            with blocked(lock.acquire, None) as killed, blocked(lock.acquire, None) as waiter:
                killed.kill()
                owner.kill()
                assert waiter.result() == 2
    # The waiter has ended with it, too.
    assert_free(lock, abandoned=True)


def test_an_interrupted_wait_has_acquired_nothing_and_is_over_soon(lock):
    class InterruptError(Exception):
        pass

    def interrupt(*_):
        raise InterruptError

    with Event() as has:

        def hold():
            lock.acquire(None)
            has.set()
            signal.pause()

        with Forked(hold) as owner:
            has.wait()
            before = signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            try:
                with pytest.raises(InterruptError):
                    lock.acquire(None)
            finally:
                signal.signal(signal.SIGALRM, before)
            assert not lock.is_mine()
            assert lock.owner() == owner.pid
    assert_free(lock, abandoned=True)


def test_interrupts_at_any_moment_neither_keep_it_nor_hide_that_an_owner_has_ended(lock):
    """A thread acquires it and ends again and again, while a signal interrupts the main thread's `acquire`."""

    class InterruptError(Exception):
        pass

    armed = False

    def interrupt(*_):
        if armed:
            raise InterruptError

    chance = random.Random(1)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(rounds(300)):
            thread = threading.Thread(target=lock.acquire, args=(None,))
            thread.start()
            thread.join()
            told = None
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 1e-4))
                told = lock.acquire(None)
                armed = False
            except InterruptError:
                armed = False
            if told is None:  # it was interrupted, or has just returned
                told = 2 if lock.is_mine() else lock.acquire(5)
            assert told == 2
            lock.release()
            assert lock.acquire(0) == 1
            lock.release()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("fork", [None, fork_in_c])
def test_a_forked_child_owns_nothing_and_does_not_keep_it_held(lock, fork):
    assert lock.acquire(0) == 1
    with Event() as go, Event() as has:

        def child():
            assert not lock.is_mine()
            assert not lock.is_abandoned()
            with pytest.raises(RuntimeError):
                lock.release()
            assert lock.acquire(0) == 0
            assert lock.is_held()
            has.set()
            go.wait()
            assert lock.acquire(5) == 1
            lock.release()

        with Forked(child, fork=fork) as forked:
            has.wait()
            lock.release()
            assert lock.acquire(0) == 1
            lock.release()
            go.set()
            forked.result()
    assert_free(lock)


def test_a_living_child_of_a_killed_owner_does_not_keep_it_held(lock):
    with Event() as has, Event() as go:

        def own():
            lock.acquire(None)

            def stay():
                has.set()
                go.wait()

            Forked(stay)
            signal.pause()

        with Forked(own) as owner:
            has.wait()
            owner.kill()
            assert_free_soon(lock)
            go.set()


def test_threads_and_processes_exclude_each_other(file, lock):
    """A counter that is read, and written a moment later, loses nothing."""
    os.pwrite(file.fd, bytes(4), 200)

    def count(times):
        mine = file.lock()
        for _ in range(times):
            assert mine.acquire(None)
            number = int.from_bytes(os.pread(file.fd, 4, 200), "little")
            if number % 7 == 0:
                time.sleep(0)
            os.pwrite(file.fd, (number + 1).to_bytes(4, "little"), 200)
            mine.release()

    times = 60
    children = [Forked(count, times) for _ in range(3)]
    threads = [threading.Thread(target=count, args=(times,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for child in children:
        child.result()
    assert int.from_bytes(os.pread(file.fd, 4, 200), "little") == 6 * times
    assert_free(lock)


def test_kills_at_any_moment_leave_it_to_the_next_one(file, lock):
    def work():
        mine = file.lock()
        while True:
            mine.acquire(None)
            mine.release()

    chance = random.Random(2)
    for _ in range(rounds(60)):
        with Forked(work) as one, Forked(work) as other:
            time.sleep(chance.uniform(0, 0.004))
            one.kill()
            assert lock.acquire(10)
            lock.release()
            other.kill()
            assert lock.acquire(10)
            lock.release()


@range_only
def test_a_range_lock_believes_no_contents(file, lock):
    chance = random.Random(3)
    for _ in range(64):
        os.pwrite(file.fd, chance.randbytes(64), 64)
        assert lock.owner() is None
        assert lock.acquire(0)
        os.pwrite(file.fd, chance.randbytes(64), 64)
        assert lock.owner() == os.getpid()
        lock.release()


@robust_only
def test_a_damaged_mutex_is_an_error_or_busy_and_never_a_wait_without_end(file):
    def attack(seed):
        faulthandler.disable()
        lock = file.lock()
        chance = random.Random(seed)
        for _ in range(200):
            for start, end in (0, 16), (20, 48):  # with another kind, C can loop: docs/design.md
                os.pwrite(file.fd, chance.randbytes(end - start), 64 + start)
            try:
                if lock.acquire(0):
                    lock.release()
            except (OSError, RuntimeError):
                pass

    for seed in range(4):
        with Forked(attack, seed) as victim:  # the C library may end the process over it: only the user can do this
            assert victim.wait() in {0, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS}


@range_only
def test_a_range_lock_on_a_file_that_was_cut_short_is_an_error_and_no_sigbus(file, lock):
    os.truncate(file.path, 0)
    with pytest.raises(OSError, match="truncated"):
        lock.acquire(1)
    assert not lock.is_mine()


@robust_only
def test_another_pid_namespace_is_refused(file):
    lock = file.lock()

    def child():
        with pytest.raises(OSError, match="namespace"):
            lock.acquire(1)

    file.space = OTHER_NAMESPACE  # from the next fork on
    with Forked(child) as forked:
        forked.result()
    assert_free(lock)


@range_only
def test_descriptors_that_the_program_has_closed_are_an_error_and_are_left_alone(file, tmp_path):
    def child():
        lock = file.lock()
        os.closerange(3, 100)
        others = [os.open(tmp_path / str(n), os.O_RDWR | os.O_CREAT, 0o600) for n in range(30)]
        with pytest.raises(OSError, match="no longer"):
            lock.acquire(1)
        del lock
        assert [os.fstat(other).st_size for other in others] == [0] * 30
        os.kill(os.getpid(), signal.SIGUSR1)

    with Forked(child) as forked:
        assert forked.wait() == -signal.SIGUSR1


@pytest.mark.able(probe=lambda: own_file._common_file() is not None)  # elsewhere each object has its own file for locks
def test_threads_that_lock_at_the_same_time_open_one_file():
    """A descriptor too many would stay open: to close it would release all locks of the process."""
    for _ in range(20):
        common = own_file._CommonFile()
        barrier = threading.Barrier(4)
        opened = []

        def descriptor(common=common, barrier=barrier, opened=opened):
            barrier.wait()
            opened.append(common.descriptor())

        threads = [threading.Thread(target=descriptor) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(opened) == 4
        assert len(set(opened)) == 1
