"""What `put_async`, `get_async` and ``async for`` promise: no cancellation loses, doubles or reorders a message."""

from __future__ import annotations

import asyncio
import random
import signal
from itertools import pairwise

import loops
import pytest
from loops import Ticking

from ipcio import queue

DEADLINE = 30  # seconds until what has not happened is a failure


@pytest.fixture(params=loops.NAMES)
def run(request):
    return loops.runner(request.param)


@pytest.fixture(params=["narrow", pytest.param("wide", marks=pytest.mark.needs("fork"))])
def q(request, name):
    with queue.create(name, 100, perm=0o600 if request.param == "narrow" else 0o666) as made:
        yield made


def test_a_loop_goes_on_until_another_process_puts_or_gets(run, q, peer, name):
    other = peer(f"q = queue.attach({name!r})")

    async def main():
        waiting = Ticking(q.get_async())
        await waiting.go_on()
        other.run("q.put(b'1'); q.put(bytes(60))")
        assert await waiting.result() == b"1"
        waiting = Ticking(q.put_async(bytearray(60)))
        await waiting.go_on()
        other.run("q.get()")
        await waiting.result()
        assert q.get_nowait() == bytes(60)

    run(main())


def test_timeouts_and_arguments(run, q):
    async def main():
        for timeout in 0, 0.001, 0.03:
            with pytest.raises(queue.Empty):
                await q.get_async(timeout)
        await q.put_async(bytes(84), 0)
        for timeout in 0, 0.001, 0.03:
            with pytest.raises(queue.Full):
                await q.put_async(b"", timeout)
        for call in q.get_async, lambda timeout: q.put_async(b"", timeout):
            for wrong, error in (-1, ValueError), (float("nan"), ValueError), ("1", TypeError):
                with pytest.raises(error):
                    await call(wrong)
        with pytest.raises(ValueError, match="does not fit"):
            await q.put_async(bytes(85))
        with pytest.raises(TypeError):
            await q.put_async("text")
        assert await q.get_async() == bytes(84)

    run(main())


def test_async_for_ends_with_the_shutdown(run, q):
    async def main():
        async def fill():
            for number in range(20):
                await q.put_async(bytes([number]) * 30)
            q.shutdown()

        filling = asyncio.ensure_future(fill())
        assert [message async for message in q] == [bytes([number]) * 30 for number in range(20)]
        await filling
        for call in q.get_async(), q.put_async(b""):
            with pytest.raises(queue.ShutDown):
                await call

    run(main())


def test_async_for_lets_others_run_every_ten_milliseconds_and_stops_there_when_cancelled(run, name, monkeypatch):
    """Although there always is a message; by a clock that only the loop's body moves."""
    time = 0.0
    monkeypatch.setattr("ipcio._queue.now", lambda: time)
    monkeypatch.setattr("ipcio._event_loop.now", lambda: time)
    numbers = [bytes([number]) for number in range(250)]
    got, ran = [], []

    async def take(q):
        nonlocal time
        async for message in q:
            got.append(message)
            time += 0.001

    async def main():
        with queue.create(name, 1 << 14) as q:
            for number in numbers:
                q.put(number)
            task = asyncio.ensure_future(take(q))
            while len(got) < 100:
                ran.append(time)
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert got + [q.get() for _ in range(q.qsize())] == numbers

    run(main())
    assert max(after - before for before, after in pairwise(ran)) < 0.01


def test_a_task_that_is_cancelled_at_any_turn_of_the_loop_takes_nothing(run, q, monkeypatch):
    """Before the message comes, after that, and in the same turn."""
    loops.no_pauses(monkeypatch)
    numbers = iter(range(1000))
    sent = []

    def put():
        sent.append(bytes([next(numbers) % 256]))
        q.put(sent[-1])

    async def get():
        got.append(await q.get_async())
        return True

    got = []

    def reset(taken):
        assert q.qsize() == (not taken)
        got.extend(q.get() for _ in range(q.qsize()))
        assert got == sent

    run(loops.cancel_at_each_turn(get, put, reset))


def test_a_task_that_is_cancelled_at_any_turn_of_the_loop_puts_nothing(run, q, monkeypatch):
    loops.no_pauses(monkeypatch)

    async def put():
        await q.put_async(b"late")
        return True

    def reset(taken):
        assert [q.get() for _ in range(q.qsize())] == [b"late"] * taken
        q.put(bytes(84))

    q.put(bytes(84))
    run(loops.cancel_at_each_turn(put, q.get, reset))


def test_a_cancellation_in_the_midst_of_a_try_takes_and_puts_nothing(run, q):
    """As from a signal handler, which runs while the task does: it notices nothing before its next `await`."""
    lock, end = q._readers, q._writers

    class Cancelling:
        def __init__(self, lock):
            self.releasing, self.trying = lock.releasing, lock.trying
            self._acquire = lock.acquire

        def acquire(self, seconds):
            asyncio.current_task().cancel()
            return self._acquire(seconds)

    async def main(call):
        task = asyncio.ensure_future(call())
        done, _ = await asyncio.wait({task}, timeout=DEADLINE)
        assert done
        assert task.cancelled()

    q.put(b"1")
    q._readers, q._writers = Cancelling(lock), Cancelling(end)
    for call in q.get_async, lambda: q.get_async(0), lambda: q.put_async(b"2"), lambda: q.put_async(b"2", 0):
        run(main(call))
    q._readers, q._writers = lock, end
    assert [q.get() for _ in range(q.qsize())] == [b"1"]


def test_a_timeout_from_outside_loses_and_doubles_nothing(run, q):
    chance = random.Random(3)

    async def main():
        sent, got = [], []
        for number in range(60):
            sent.append(bytes([number]))
            putting = asyncio.ensure_future(q.put_async(sent[-1]))
            try:
                got.append(await asyncio.wait_for(q.get_async(), chance.choice([0, 1e-6, 1e-4, 1e-3])))
            except asyncio.TimeoutError:
                pass
            await putting
            while not q.empty():
                got.append(await q.get_async())
        assert got == sent

    run(main())


def test_ctrl_c_ends_the_wait_and_takes_nothing(q):
    async def main():
        asyncio.get_running_loop().call_later(0.01, signal.raise_signal, signal.SIGINT)
        await q.get_async()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    q.put(b"x")
    assert q.get_nowait() == b"x"


def test_a_close_ends_the_wait(run, q):
    async def main():
        waiting = asyncio.ensure_future(q.get_async())
        await asyncio.sleep(0.01)
        q.close()
        with pytest.raises(ValueError, match="closed"):
            await asyncio.wait_for(waiting, DEADLINE)

    run(main())


def test_without_an_event_loop_of_asyncio_it_says_what_to_do(q):
    for coroutine in q.get_async(), q.put_async(b""):
        with pytest.raises(RuntimeError, match="no running asyncio event loop"):
            coroutine.send(None)
    assert q.empty()
