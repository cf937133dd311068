"""One rule for waiting in an event loop for what no event loop can watch: semaphores and locks on files.

A thread that waits in the kernel could not be called back: it might acquire something for a task
that was cancelled.  So the task itself tries again and again, and sleeps in between.
"""

from __future__ import annotations

from itertools import repeat, starmap
from math import inf

from ipcio._record import calling
from ipcio._timeouts import now
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.0005, 0.01  # seconds between two tries
ASYNC_SLICE = 0.005  # seconds for which a coroutine works before it lets other tasks run


async def acquire(attempts: Iterator[bool], give_back: Callable[[], object], seconds: float | None) -> bool:
    """Try until a step of `attempts` is true, for so many seconds (None: for ever); return whether one was.

    A task that is cancelled has acquired nothing.  The cancellation may come from a signal handler while
    this runs, as asyncio's own one does at Ctrl-C; the task notices it at its next `await`, or never if it
    returns first.  So the same step of C that makes an attempt also looks whether there is a
    cancellation (see `ipcio._record`).  If there is one, `give_back` is called and the task awaits.
    """
    # The attribute is private, but asyncio's, uvloop's and anyio's tasks are all of this class.
    cancellations = starmap(getattr, repeat((current_task(), "_must_cancel", False)))
    end = inf if seconds is None else now() + seconds
    pause = FIRST_PAUSE
    while True:
        for acquired, is_cancelled in zip(attempts, cancellations):  # noqa: B905 -- neither has an end
            if acquired:
                if not is_cancelled:
                    return True
                give_back()
                await sleep(0)  # raises CancelledError, unless the cancellation was withdrawn
            break
        left = end - now()
        if left <= 0:
            return False
        await sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)


async def try_until(attempt: Callable[[Any], T | None], seconds: float | None) -> T | None:
    """Call ``attempt(task)`` until it returns something, for so many seconds (None: for ever); return that.

    This is for what cannot be given back.  So the attempt itself looks whether the task is cancelled (its
    ``_must_cancel``), right before the step that cannot be undone, and then returns None.
    """
    task: Any = current_task()
    if not hasattr(task, "_must_cancel"):  # a task of a class that asyncio does not know
        task = _NeverCancelled
    end = inf if seconds is None else now() + seconds
    pause = FIRST_PAUSE
    while True:
        for result in calling(attempt, task):
            if result is not None:
                return result
        left = end - now()
        await sleep(max(min(pause, left), 0))  # raises CancelledError
        if left <= 0:
            return None
        pause = min(2 * pause, LONGEST_PAUSE)


class _NeverCancelled:
    _must_cancel = False


async def let_others_run() -> float:
    """Let the event loop run other tasks once; return when to do so again."""
    await sleep(0)
    return now() + ASYNC_SLICE


async def sleep(seconds: float) -> None:
    """Let other tasks run for so long."""
    import asyncio  # which every program with an event loop has imported

    await asyncio.sleep(seconds)


def current_task() -> Task[Any] | None:
    """Return the task that runs; `RuntimeError` without an event loop of asyncio."""
    import asyncio

    try:
        return asyncio.current_task()
    except RuntimeError:
        raise RuntimeError(
            "no running asyncio event loop: this call requires one (asyncio, uvloop, or anyio on asyncio);"
            " under trio, try without waiting, with trio.sleep(0.01) between two tries"
        ) from None
