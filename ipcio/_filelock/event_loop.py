"""`lock_async`: waiting for a lock while the event loop runs other tasks."""

from __future__ import annotations

from ipcio._filelock import KINDS, backend, holders
from ipcio._filelock.errors import descriptor, explain
from ipcio._filelock.ranges import trylock
from ipcio._timeouts import check_timeout, now
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Literal

    from ipcio._filelock import Mode

_FIRST_PAUSE, LONGEST_PAUSE = 0.0005, 0.01  # seconds between two tries
_SLICE = 0.002  # seconds of search between which other tasks run


async def lock_async(
    file: Any,
    mode: Mode = "rw",
    offset: int = 0,
    nbytes: int = 0,
    *,
    timeout: float | None = None,
) -> Literal[True]:
    """Lock a range as `lock` does, without blocking the event loop of asyncio (uvloop, anyio) meanwhile; return True.

    It tries again and again, at most every 10 ms, without a place in the kernel's queue and
    without a thread.  If the task is cancelled, nothing is locked.
    """
    seconds = None if timeout is None else check_timeout(timeout)
    end = None if seconds is None else now() + seconds
    pause = _FIRST_PAUSE
    while not trylock(file, mode, offset, nbytes):
        left = pause if end is None else end - now()
        if left <= 0:
            error = await _timed_out(file, mode, offset, nbytes)
            if trylock(file, mode, offset, nbytes):
                break
            raise explain(error, file, mode, offset, nbytes)
        await sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)
    return True


async def _timed_out(file: Any, mode: Mode, offset: int, nbytes: int) -> TimeoutError:
    search = holders.Search(descriptor(file), backend.request(KINDS[mode], offset, nbytes))
    start = now()
    turn = start + _SLICE
    for _ in search.steps(start + holders.SEARCH_AFTER):
        if now() > turn:
            await sleep(0)
            turn = now() + _SLICE
    return search.error()


async def sleep(seconds: float) -> None:
    """Let other tasks run for so long."""
    import asyncio  # which every program with an event loop has imported

    await asyncio.sleep(seconds)


def current_task() -> object:
    """Return the task that runs."""
    import asyncio

    return asyncio.current_task()
