"""A call on a queue that a signal handler ends by an exception has put or taken nothing."""

from __future__ import annotations

import array
import contextlib
import itertools
import os
import signal
import threading
import time

import pytest
from campaigns import places
from troubles import interrupted_after, ours
from waiting import at_best_within

from ipcio import queue

SMALL, LARGE = b"x" * 5, b"y" * 80  # of two large ones, one goes round the end of the ring

PUTS = {
    "put": lambda q, data: q.put(data),
    "put with a timeout": lambda q, data: q.put(data, timeout=5),
    "put_nowait": lambda q, data: q.put_nowait(data),
    "a buffer": lambda q, data: q.put(bytearray(data)),
}
GETS = {
    "get": lambda q: q.get(),
    "get with a timeout": lambda q: q.get(timeout=5),
    "get_nowait": lambda q: q.get_nowait(),
    "next": next,
}


def get_into(q):
    buffer = array.array("B", bytes(100))
    return buffer[: q.get_into(buffer)].tobytes()


@pytest.mark.needs("robust mutexes")
@pytest.mark.parametrize("how", PUTS)
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_an_interrupted_put_has_put_nothing(name, how, data):
    with queue.create(name, 150) as q:
        q.put(bytes(40))
        q.get()
        for at in itertools.count():
            was_interrupted = interrupted_after(at, lambda: PUTS[how](q, data), ours)
            assert q.qsize() == (not was_interrupted)
            if not was_interrupted:
                assert at > 1
                break
        assert q.get() == data


@pytest.mark.needs("robust mutexes")
@pytest.mark.parametrize("how", [*GETS, "get_into"])
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_an_interrupted_get_has_taken_nothing(name, how, data):
    get = GETS.get(how, get_into)
    with queue.create(name, 150) as q:
        q.put(bytes(40))
        q.get()
        q.put(data)
        q.put(b"next")
        got = []
        for at in itertools.count():
            if not interrupted_after(at, lambda: got.extend(map(get, (q,))), ours):
                assert at > 0
                break
            assert not got
            assert q.qsize() == 2
        assert got == [data]
        assert q.get() == b"next"


@pytest.mark.needs("fork")
def test_with_locks_in_python_code_nothing_is_lost_or_doubled_either(name):
    """A reader that was interrupted after it took a message gives it out next; a put may raise and have put."""
    with queue.create(name, 150, perm=0o666) as q:
        for get in *GETS.values(), get_into:
            for at in places():
                q.put(b"1")
                q.put(b"2")
                got = []
                was_interrupted = interrupted_after(at, lambda get=get, got=got: got.extend(map(get, (q,))), ours)
                assert got == [b"1"] * (not was_interrupted)
                while len(got) < 2:
                    got.append(get(q))
                assert got == [b"1", b"2"]
                assert q.empty()
                if not was_interrupted:
                    break
        for at in places():
            was_interrupted = interrupted_after(at, lambda: q.put(b"x"), ours)
            assert q.qsize() <= 1
            if not q.empty():
                assert q.get() == b"x"
            if not was_interrupted:
                break


@pytest.mark.parametrize("perm", [0o600, 0o666])
def test_an_interrupted_call_that_is_in_vain_keeps_no_lock(name, perm):
    with queue.create(name, 40, perm=perm) as q:

        def put_in_vain():
            with contextlib.suppress(queue.Full):
                q.put_nowait(bytes(5))

        def get_in_vain():
            with contextlib.suppress(queue.Empty):
                q.get_nowait()

        def use():
            q.put(b"x", timeout=1)
            used.append(q.get(timeout=1))

        for is_full, in_vain in (True, put_in_vain), (False, get_in_vain):
            for at in places():
                if is_full:
                    q.put(bytes(20))
                was_interrupted = interrupted_after(at, in_vain, ours)
                if is_full:
                    q.get()
                used = []
                use()
                thread = threading.Thread(target=use)
                thread.start()
                thread.join()
                assert used == [b"x"] * 2
                if not was_interrupted:
                    break


def test_an_interrupted_read_of_the_file_has_read_nothing(name):
    with queue.create(name, 150) as q, q.reader() as reader:
        for at in itertools.count():
            if not q.qsize():
                q.put(b"0123456789")
            buffer = bytearray(4)
            counts = []
            if not interrupted_after(at, lambda: counts.extend(map(reader.readinto, (buffer,))), ours):  # noqa: B023
                assert counts == [4]
                break
        assert reader.read(100) == b"456789"


class HandledError(Exception):
    pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signals come from another thread")
@pytest.mark.parametrize("perm", [0o600, 0o666])
def test_a_handler_that_raises_ends_every_wait_soon(name, perm):
    def handler(*_):
        raise HandledError

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with queue.create(name, 16, perm=perm) as q:
            for waiting in q.get, lambda: q.get_into(bytearray(1)), lambda: q.put(b""):
                if waiting is not q.get and not q.qsize() and "put" in waiting.__code__.co_names:
                    q.put(b"")

                def attempt(waiting=waiting):
                    sent = []

                    def send():
                        sent.append(time.monotonic())
                        os.kill(os.getpid(), signal.SIGUSR1)

                    timer = threading.Timer(0.05, send)
                    timer.start()
                    with pytest.raises(HandledError):
                        waiting()
                    took = time.monotonic() - sent[0]
                    timer.join()
                    return took

                at_best_within(0.5, attempt)
            assert q.qsize() == 1
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.needs("signals")
@pytest.mark.parametrize("perm", [0o600, 0o666])
def test_a_handler_may_use_the_queue_that_the_interrupted_code_waits_for(name, perm):
    with queue.create(name, 100, perm=perm) as q:
        before = signal.signal(signal.SIGUSR1, lambda *_: q.put(b"from the handler"))
        try:
            timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            assert q.get(timeout=20) == b"from the handler"
            timer.join()
        finally:
            signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("perm", [0o600, 0o666])
def test_a_handler_in_the_midst_of_a_call_gets_an_error_and_no_deadlock(name, perm):
    """As if a signal came while the thread has the lock of the end that the handler uses as well."""
    with queue.create(name, 100, perm=perm) as q:
        for lock, call in (q._writers, lambda: q.put(b"x")), (q._readers, q.get):
            assert lock.acquire(1)
            try:
                with pytest.raises(RuntimeError, match="holds"):
                    call()
            finally:
                with contextlib.suppress(StopIteration):
                    next(lock.releasing)
        q.put(b"y")
        assert q.get() == b"y"
