"""A call on a mutex that a signal handler ends by an exception leaves the mutex as the call promises."""

from __future__ import annotations

import random
import signal
import threading
from contextlib import closing

import pytest
from abilities import lacks
from campaigns import places
from troubles import interrupted_after, ours

from ipcio import mutex

WIDTHS = pytest.mark.parametrize("perm", [0o600, 0o666])


def is_free(m):
    got = []
    thread = threading.Thread(target=lambda: got.append(m.acquire(False) and (m.release() or True)))
    thread.start()
    thread.join()
    return got[0]


@WIDTHS
@pytest.mark.parametrize("recursive", [False, True])
def test_an_interrupted_wait_comes_back_with_the_mutex(name, perm, recursive):
    m = mutex.create(name, perm=perm, recursive=recursive)
    for at in places():
        m.acquire()
        if recursive:
            m.acquire()
        was_interrupted = interrupted_after(at, lambda: m.wait(0), ours)
        assert not is_free(m)
        m.release()
        assert is_free(m) is not recursive
        if recursive:
            m.release()
            assert is_free(m)
        if not was_interrupted:
            break
    m.close()


@WIDTHS
@pytest.mark.parametrize("recursive", [False, True])
def test_an_interrupted_release_has_released(name, perm, recursive):
    """Other than in the first instant of the call, which no Python code can guard."""
    m = mutex.create(name, perm=perm, recursive=recursive)
    for at in places():
        for times in range(1 + recursive):
            m.acquire()
            if times:
                m.acquire()
            was_interrupted = interrupted_after(at + 1, m.release, ours)
            if times:
                assert not is_free(m)
                m.release()
            assert is_free(m)
        if not was_interrupted:
            break
    m.close()


@WIDTHS
@pytest.mark.parametrize("recursive", [False, True])
def test_an_interrupted_acquire_has_acquired_nothing(name, perm, recursive):
    m = mutex.create(name, perm=perm, recursive=recursive)
    for at in places():
        if not interrupted_after(at, m.acquire, ours):
            m.release()
            break
        assert is_free(m)
    m.close()


def is_released_by_c():
    if lacks("posix"):
        return False
    from ipcio._posix import pthread_mutex

    return pthread_mutex.blank() is not None


@pytest.mark.needs("signals")
@pytest.mark.able(probe=is_released_by_c)
def test_interrupts_at_random_moments_leave_no_mutex_of_a_with_block_acquired(name):
    """In one of ten rounds, the last owner ended without a release."""

    class InterruptError(Exception):
        pass

    def interrupt(*_):
        raise InterruptError

    chance = random.Random(1)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with closing(mutex.create(name)) as m:
            for turn in range(3000):
                if turn % 10 == 0:
                    owner = threading.Thread(target=m.acquire)
                    owner.start()
                    owner.join()
                    while m.locked():  # its thread ends a moment later
                        pass
                with pytest.raises(InterruptError):  # noqa: PT012
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 1e-4))
                    while True:
                        with m:
                            pass
                assert not m.locked(), f"in turn {turn}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
