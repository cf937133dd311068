"""What `Mutex.acquire_async` promises: an event loop that goes on, and no mutex that stays acquired for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from itertools import repeat, starmap

import loops
import pytest
from loops import Ticking

from ipcio import mutex

DEADLINE = 30  # seconds until what has not happened is a failure
CLOSED = "^I/O operation on closed file"


@pytest.fixture(params=[0o600, pytest.param(0o666, marks=pytest.mark.needs("posix"))], ids=["narrow", "wide"])
def make(request, name):
    with contextlib.ExitStack() as stack:

        def create(**options):
            return stack.enter_context(contextlib.closing(mutex.create(name, perm=request.param, **options)))

        yield create


@pytest.fixture
def m(make):
    return make()


@pytest.fixture(params=loops.NAMES)
def run(request):
    return loops.runner(request.param)


class Holder:
    """Another thread, which acquires the mutex and releases it when told."""

    def __init__(self, m):
        self._m = m
        self._orders = [threading.Semaphore(0), threading.Semaphore(0)]
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._goes_on = True
        self._thread.start()

    def _work(self):
        while True:
            self._orders[0].acquire()
            if not self._goes_on:
                return
            (self._m.release if self._m._lock.is_mine() else self._m.acquire)()
            self._orders[1].release()

    def act(self):
        """Acquire it; or release it, if it was acquired."""
        self._orders[0].release()
        assert self._orders[1].acquire(timeout=DEADLINE)

    def end(self):
        self._goes_on = False
        self._orders[0].release()
        self._thread.join()


@pytest.fixture
def holder(m):
    made = Holder(m)
    made.act()
    yield made
    made.end()


def test_a_loop_goes_on_until_another_process_releases_it(run, name, m, peer):
    other = peer("from ipcio import mutex", f"m = mutex.attach({name!r}); m.acquire()")

    async def main():
        assert await m.acquire_async(0) is False
        assert await m.acquire_async(0.02) is False
        waiting = Ticking(m.acquire_async())
        await waiting.go_on()
        other.send("run", "m.release()")
        return await waiting.result()

    assert run(main()) is True
    other.answer()
    m.release()
    other.run("m.close()")


def test_a_second_task_of_the_same_thread_gets_an_error(run, m):
    async def main():
        assert await m.acquire_async() is True
        for timeout in None, 0, 1:
            with pytest.raises(RuntimeError, match="owns mutex"):
                await m.acquire_async(timeout)
        m.release()
        for wrong, error in (float("nan"), ValueError), ("1", TypeError):
            with pytest.raises(error):
                await m.acquire_async(wrong)

    run(main())
    assert not m.locked()


def test_a_recursive_one_counts(run, make):
    m = make(recursive=True)

    async def main():
        assert await m.acquire_async() is True
        assert await m.acquire_async(timeout=-1) is True

    run(main())
    m.release()
    assert m.locked()
    m.release()
    assert not m.locked()


@pytest.mark.usefixtures("holder")
def test_a_task_that_is_cancelled_at_any_turn_of_the_loop_acquires_nothing(run, m, holder, monkeypatch):
    loops.no_pauses(monkeypatch)

    def reset(taken):
        if taken:
            m.release()
        assert m.acquire(False)
        m.release()
        holder.act()

    run(loops.cancel_at_each_turn(m.acquire_async, holder.act, reset))
    holder.act()


@pytest.mark.parametrize("recursive", [False, True])
def test_it_is_given_back_if_the_cancellation_comes_just_as_it_is_acquired(run, make, recursive):
    """As from a signal handler, which runs while the task does.  The next owner still learns that one has ended."""
    m = make(recursive=recursive)
    thread = threading.Thread(target=m.acquire)
    thread.start()
    thread.join()
    while m.locked():
        pass
    trying = m._trying

    def acquire_and_be_cancelled():
        code = next(trying)
        asyncio.current_task().cancel()
        return code

    async def main():
        m._trying = starmap(acquire_and_be_cancelled, repeat(()))
        task = asyncio.ensure_future(m.acquire_async())
        done, _ = await asyncio.wait({task}, timeout=DEADLINE)
        m._trying = trying
        assert done
        assert task.cancelled()

    run(main())
    assert not m.locked()
    assert m.acquire(False)
    assert m.abandoned
    m.release()


@pytest.mark.usefixtures("holder")
def test_ctrl_c_ends_the_wait_and_acquires_nothing(m, holder):
    async def main():
        asyncio.get_running_loop().call_later(0.01, signal.raise_signal, signal.SIGINT)
        await m.acquire_async()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    holder.act()
    assert m.acquire(False)
    m.release()


@pytest.mark.usefixtures("holder")
def test_a_handle_that_is_closed_during_the_wait_ends_it(run, m):
    async def main():
        with contextlib.closing(mutex.attach(m.name)) as other:
            waiting = asyncio.ensure_future(other.acquire_async())
            await asyncio.sleep(0.01)
            other.close()
            with pytest.raises(ValueError, match=CLOSED):
                await asyncio.wait_for(waiting, DEADLINE)

    run(main())


def test_without_an_event_loop_of_asyncio_it_says_what_to_do(m):
    coroutine = m.acquire_async()
    with pytest.raises(RuntimeError, match="asyncio"):
        coroutine.send(None)
    assert not m.locked()
