"""`lock_async`: waiting for a lock while the event loop runs other tasks."""

from __future__ import annotations

from itertools import repeat, starmap

from ipcio._event_loop import acquire, sleep
from ipcio._filelock import KINDS, backend, holders
from ipcio._filelock.errors import descriptor, explain
from ipcio._filelock.ranges import release, trylock
from ipcio._light import partial
from ipcio._timeouts import check_timeout, now
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Literal

    from ipcio._filelock import Mode

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
    without a thread.  If the task is cancelled, at whatever moment, this call has locked nothing
    and will lock nothing.  `RuntimeError` in an event loop that is not asyncio's, such as trio's.
    """
    seconds = check_timeout(timeout)
    attempts = starmap(trylock, repeat((file, mode, offset, nbytes)))
    give_back = partial(release, file, offset, nbytes)
    if not await acquire(attempts, give_back, seconds):
        error = await _timed_out(file, mode, offset, nbytes)
        if not await acquire(attempts, give_back, 0):
            raise explain(error, file, mode, offset, nbytes)
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
