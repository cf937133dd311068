"""What `Semaphore.acquire_async` promises, of either kind: an event loop that goes on, and no permit that gets lost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
from itertools import repeat, starmap

import loops
import pytest
from loops import Ticking

from ipcio import sem

DEADLINE = 30  # seconds until what has not happened is a failure
CLOSED = "^I/O operation on closed file"


@pytest.fixture(params=["plain", pytest.param("undo", marks=pytest.mark.needs("undo"))])
def make(request, name):
    """Create the semaphore under `name`, of one kind or the other; closed at the end."""
    with contextlib.ExitStack() as stack:

        def create(value):
            s = sem.create(name, value, undo=request.param == "undo")
            stack.callback(s.close)
            return s

        yield create


@pytest.fixture(params=loops.NAMES)
def run(request):
    return loops.runner(request.param)


def free_permits(s):
    """How many there are, also where the system does not say it."""
    count = 0
    while s.dec(0):
        count += 1
    return count


def test_a_loop_goes_on_until_another_process_releases_a_permit(run, make, peer, name):
    s = make(0)
    other = peer("from ipcio import sem", f"s = sem.attach({name!r})")

    async def main():
        assert await s.acquire_async(0.02) is False
        waiting = Ticking(s.acquire_async())
        await waiting.go_on()
        other.send("run", "s.inc()")
        return await waiting.result()

    assert run(main()) is True
    other.answer()
    assert free_permits(s) == 0


def test_a_free_permit_is_acquired_at_once_and_none_is_not_waited_for(run, make):
    s = make(2)

    async def main():
        assert await s.acquire_async(0) is True
        assert await s.acquire_async(timeout=-1) is True
        assert await s.acquire_async(0) is False
        assert await s.acquire_async(0.001) is False
        for wrong, error in (float("nan"), ValueError), ("1", TypeError):
            with pytest.raises(error):
                await s.acquire_async(wrong)

    run(main())
    assert free_permits(s) == 0


def test_a_task_that_is_cancelled_at_any_turn_of_the_loop_acquires_nothing(run, make, monkeypatch):
    """Before the release, after it, and in the same turn."""
    loops.no_pauses(monkeypatch)
    s = make(0)

    def reset(taken):
        assert free_permits(s) == (0 if taken else 1)

    run(loops.cancel_at_each_turn(s.acquire_async, s.inc, reset))


def test_a_timeout_from_outside_loses_no_permit(run, make, monkeypatch):
    """At each turn of the loop, and with timeout 0."""
    loops.no_pauses(monkeypatch)
    s = make(0)

    def reset(taken):
        assert free_permits(s) == (0 if taken else 1)

    async def patiently():
        return await asyncio.wait_for(s.acquire_async(), DEADLINE)

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(s.acquire_async(), 0)
        await loops.cancel_at_each_turn(patiently, s.inc, reset)
        for seconds in 0, 1e-6, 1e-4, 1e-3:
            s.inc()
            try:
                taken = await asyncio.wait_for(s.acquire_async(), seconds)
            except asyncio.TimeoutError:
                taken = False
            reset(taken)

    run(main())


def test_a_permit_is_given_back_if_the_cancellation_comes_just_as_it_is_acquired(run, make):
    """As from a signal handler, which runs while the task does: it notices nothing before its next `await`."""
    s = make(1)
    acquire = s._raw.acquire

    def acquire_and_be_cancelled():
        acquired = acquire(False)
        asyncio.current_task().cancel()
        return acquired

    async def main():
        trying, s._trying = s._trying, starmap(acquire_and_be_cancelled, repeat(()))
        task = asyncio.ensure_future(s.acquire_async())
        done, _ = await asyncio.wait({task}, timeout=DEADLINE)
        s._trying = trying
        assert done
        assert task.cancelled()

    run(main())
    assert free_permits(s) == 1


def test_ctrl_c_ends_the_wait_and_acquires_nothing(make):
    s = make(0)

    async def main():
        asyncio.get_running_loop().call_later(0.01, signal.raise_signal, signal.SIGINT)
        await s.acquire_async()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    s.inc()
    assert free_permits(s) == 1


def test_a_loop_that_is_closed_during_the_wait_leaves_nothing_that_acquires(make):
    s = make(0)
    loop = asyncio.new_event_loop()
    task = loop.create_task(s.acquire_async())
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0.001))
    task._log_destroy_pending = False  # it is meant to be
    loop.close()
    s.inc()
    del task
    gc.collect()
    assert free_permits(s) == 1


def test_closing_the_handle_ends_the_wait(run, make):
    s = make(0)

    async def main():
        task = asyncio.ensure_future(s.acquire_async())
        await asyncio.sleep(0)
        s.close()
        with pytest.raises(ValueError, match=CLOSED):
            await asyncio.wait_for(task, DEADLINE)

    run(main())


def test_without_an_event_loop_of_asyncio_it_says_what_to_do(make):
    """Even if a permit is free."""
    s = make(1)
    coroutine = s.acquire_async()
    with pytest.raises(RuntimeError, match=r"trio\.sleep"):
        coroutine.send(None)
    assert free_permits(s) == 1


def test_of_many_tasks_never_more_are_inside_than_permits(run, make, monkeypatch):
    """Whichever of them are cancelled, and every permit is there in the end."""
    loops.no_pauses(monkeypatch)
    s = make(2)
    rng = random.Random(19)
    inside = most = 0

    async def work():
        nonlocal inside, most
        if await s.acquire_async(DEADLINE):
            try:
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
            finally:
                inside -= 1
                s.release()

    async def main():
        tasks = [asyncio.ensure_future(work()) for _ in range(60)]
        for task in rng.sample(tasks, 30):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main())
    assert most == 2
    assert free_permits(s) == 2
