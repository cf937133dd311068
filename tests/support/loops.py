"""The event loops that ipcio's coroutines run in, and tasks that are cancelled at each moment."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from functools import partial

import pytest

NAMES = ["asyncio", "uvloop", "anyio"]

with contextlib.suppress(ImportError):
    import uvloop

    uvloop.run(asyncio.sleep(0))  # the first loop opens what stays open


def runner(name):
    """What runs a coroutine in such a loop; skip if it is not installed."""
    module = pytest.importorskip(name)
    if name != "anyio":
        return module.run

    async def wait_for(coroutine):
        return await coroutine

    return partial(module.run, wait_for)


class Ticking:
    """A task that awaits something, without a further thread, while another task ticks."""

    def __init__(self, awaitable) -> None:
        self.ticks = 0
        self.task = asyncio.ensure_future(self._await(awaitable))

    async def _await(self, awaitable):
        threads = threading.active_count()

        async def tick():
            while True:
                await asyncio.sleep(0.001)
                self.ticks += 1
                assert threading.active_count() == threads

        task = asyncio.ensure_future(tick())
        try:
            return await awaitable
        finally:
            assert not task.done()
            task.cancel()

    async def go_on(self) -> None:
        """Let the loop run for a while; the task still waits."""
        while self.ticks < 5:
            assert not self.task.done()
            await asyncio.sleep(0.001)
        assert not self.task.done()

    async def result(self, seconds: float = 30):
        """What it awaits."""
        return await asyncio.wait_for(self.task, seconds)


async def cancel_at_each_turn(start, free, reset):
    """Start a task that waits, cancel it at each of the first turns of the loop, and free what it waits for at each.

    `reset(taken)` is called after each; `taken` says whether the task acquired it.  It requires `no_pauses`.
    """
    outcomes = set()
    for freed in range(6):
        for cancelled in range(6):
            task = asyncio.ensure_future(start())
            for turn in range(6):
                if turn == freed:
                    free()
                if turn == cancelled:
                    task.cancel()
                await asyncio.sleep(0)
            done, _ = await asyncio.wait({task}, timeout=30)
            assert done, "a cancellation was swallowed"
            for _ in range(3):  # nothing takes it later
                await asyncio.sleep(0)
            outcomes.add(task.cancelled())
            assert task.cancelled() or task.result() is True
            reset(not task.cancelled())
    assert outcomes == {True, False}  # the turns were enough


def no_pauses(monkeypatch):
    """Let each pause of a task that waits last one turn of the loop."""
    monkeypatch.setattr("ipcio._event_loop.FIRST_PAUSE", 0)
    monkeypatch.setattr("ipcio._event_loop.LONGEST_PAUSE", 0)
