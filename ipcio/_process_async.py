"""The methods of `Process` for an asyncio event loop.

Each does what its blocking namesake in `_process` does.  Where that one calls `Child.pump`, which blocks, it
awaits `_pump_async`; where that one calls a callback or a file, it awaits ``_delivery.deliver_async``.  While
a coroutine is suspended, `_suspended` has an item for it: so a signal handler can see that the handle is in use.
"""

from __future__ import annotations

from itertools import islice, repeat

from ipcio._event_loop import ASYNC_SLICE, let_others_run
from ipcio._light import suppress
from ipcio._process_base import FIRST_PAUSE, LAST_PAUSE, SIGNALS, Piece, ProcessBase
from ipcio._timeouts import check_timeout, now
from ipcio._typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType
    from typing import Any, Literal

    from typing_extensions import Self

    from ipcio._process_base import ExitStatus

_MOST = 64  # pieces at most that `async for` gives between two looks at the clock


class AsyncMethods(ProcessBase[Piece]):
    """The methods of `Process` that a coroutine may await."""

    @overload
    async def wait_async(self, timeout: None = None) -> ExitStatus: ...

    @overload
    async def wait_async(self, timeout: float | None) -> ExitStatus | None: ...

    async def wait_async(self, timeout: float | None = None) -> ExitStatus | None:
        """As `wait`, while other tasks run.  The callback may be a coroutine function.

        A task that is cancelled changes nothing: the child goes on, and the next call gets the output that
        has not been passed on yet.

        Requires an `asyncio` event loop: that of `asyncio`, uvloop, or anyio on asyncio;
        in others, such as trio's, `RuntimeError`.
        """
        seconds = check_timeout(timeout)
        self._check_started_here()
        end = None if seconds is None else now() + seconds
        if self._status is not None:
            return self._status
        loop = _running_loop()
        self._suspended.append(None)
        try:
            if not await self._deliver_async(end if seconds else None):
                return None
            while (status := self._ended()) is None:
                await self._pump_async(loop, None if end is None else max(end - now(), 0))
                if not await self._deliver_async(end if seconds else None):
                    return None
                if end is not None and now() >= end:
                    return self._ended()
            return status
        finally:
            self._suspended.pop()

    async def kill_async(
        self, sig: str | int = "term", *, tree: bool = False, grace: float | None = None
    ) -> Literal[True]:
        """As `kill`, while other tasks run.  The callback may be a coroutine function.

        If the task is cancelled during the grace period, what has not exited is killed at once.
        """
        import asyncio

        number, seconds = self._check_kill(sig, tree=tree, grace=grace)
        loop = _running_loop()
        self._child.kill(number, tree=tree, grace=seconds is not None)
        if seconds is None:
            return True
        end = now() + seconds
        pause = FIRST_PAUSE
        self._suspended.append(None)
        try:
            while not self._child.has_exited(tree=tree) and (left := end - now()) > 0:
                if self._child.has_exited(tree=False):
                    await asyncio.sleep(min(pause, left))
                    pause = min(2 * pause, LAST_PAUSE)
                else:
                    await self._pump_async(loop, left)
                    await self._delivery.deliver_async(end, "keep")
        finally:
            self._suspended.pop()
            self._child.kill(SIGNALS["kill"], tree=tree)
        return True

    def __aiter__(self) -> AsyncIterator[tuple[str, Piece]]:
        """Give the same pairs, while other tasks run."""
        self._check_iterable()
        return _Events(self)

    async def __anext__(self) -> tuple[str, Piece]:
        return await anext(aiter(self))

    async def __aenter__(self) -> Self:
        self._check_open()
        _running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """As the end of ``with``, while other tasks run."""
        try:
            if kind is None:
                self._end_input()
                await self.wait_async()
        finally:
            try:
                await self._kill_and_wait()
            finally:
                self.close()

    async def _kill_and_wait(self) -> None:
        """Kill the child, and return when `close` will not block."""
        if self._status is not None or not self._child.started_here():
            return
        self._child.kill(SIGNALS["kill"], tree=False)
        self._delivery.discard()
        with suppress(ChildProcessError):
            while self._ended() is None:
                await self._pump_async(_running_loop(), None)

    # -- steps of these methods ----------------------------------------------------

    async def _deliver_async(self, end: float | None) -> bool:
        return await self._delivery.deliver_async(end, self._unread())

    async def _pump_async(self, loop: asyncio.AbstractEventLoop, timeout: float | None) -> None:
        """Do as `Child.pump`, while other tasks run."""
        import asyncio

        fds: list[int] = []  # at most one, of its own for each task that waits
        try:
            # Another thread that waits holds the lock, and an event loop must not wait for that.
            has_pumped = self._exclusively(0, self._pump_or_open, timeout, fds)
            retry = self._child.retry_after if not has_pumped else None
            if retry is not None:
                timeout = retry if timeout is None else min(retry, timeout)
            if fds and await _until_readable(loop, fds[0], timeout):
                return
        finally:
            if fds:
                self._child.close_readiness_fd(fds[0])
            if self._is_closing:
                self._finish_closing()
        # Nothing to wait for: the exit is no event, or the loop has no events of descriptors.
        pause = FIRST_PAUSE if retry is None else max(FIRST_PAUSE, retry)
        await asyncio.sleep(0 if has_pumped else pause if timeout is None else min(pause, timeout))

    def _pump_or_open(self, timeout: float | None, fds: list[int]) -> bool:
        """Do what can be done; if that is nothing, open what is readable when there is something."""
        if self._only_waits_for_files():
            return False
        if self._child.pump(0) or timeout == 0:
            return True
        if (fd := self._child.readiness_fd()) >= 0:
            fds.append(fd)
        return False

    async def _next_source(self) -> Iterator[tuple[str, Piece]] | None:
        """Wait for output; return an iterator over some of it, None at the end."""
        loop = _running_loop()
        while True:
            for output in self._delivery.pipes:
                if (batch := self._next_batch(output)) is not None:
                    return zip(repeat(output.name), batch)
            await self._delivery.feed_files_async(None, self._unread())
            if self._ended() is not None:
                return None
            await self._pump_async(loop, None)


class _Events:
    """What ``async for`` iterates over.

    Where output is there, `__anext__` gives a piece without a detour.  So instead of looking at the
    clock each time it counts: as many pieces as took a fraction of `ASYNC_SLICE` the last time.
    """

    def __init__(self, process: AsyncMethods[Any]) -> None:
        self._process = process
        self._source: Iterator[tuple[str, Any]] = iter(())
        self._portion: Iterator[tuple[str, Any]] = self._source
        self._size = 1
        self._portion_began = now()
        self._slice_end = self._portion_began + ASYNC_SLICE
        self._suspended = process._suspended
        self._suspended.append(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, Any]:
        for event in self._portion:
            return event
        return await self._first_of_next_portion()

    async def _first_of_next_portion(self) -> tuple[str, Any]:
        time = now()
        if time - self._portion_began > ASYNC_SLICE / 4:
            self._size = max(self._size // 4, 1)
        elif self._size < _MOST:
            self._size *= 2
        if time >= self._slice_end:
            self._slice_end = await let_others_run()
            time = now()
        self._portion_began = time
        while True:
            self._portion = islice(self._source, self._size)
            for event in self._portion:
                return event
            source = await self._process._next_source()
            if source is None:
                raise StopAsyncIteration
            self._source = source

    def __del__(self) -> None:
        self._suspended.pop()


async def _until_readable(loop: asyncio.AbstractEventLoop, fd: int, timeout: float | None) -> bool:
    """Wait for a descriptor, or until the time is up; False at once if the loop cannot wait for any."""
    import asyncio

    ready = asyncio.Event()
    timer = None
    try:
        loop.add_reader(fd, ready.set)
    except NotImplementedError:
        return False
    try:
        if timeout is not None:
            timer = loop.call_later(timeout, ready.set)
        await ready.wait()  # not `wait_for`, which swallows some cancellations before Python 3.12
        return True
    finally:
        if timer is not None:
            timer.cancel()
        loop.remove_reader(fd)


def _running_loop() -> asyncio.AbstractEventLoop:
    import asyncio  # a caller that needs it has imported it

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "no running asyncio event loop: wait_async(), kill_async(), `async for` and `async with` require one"
            " (asyncio, uvloop, or anyio on asyncio); under trio, call trio.to_thread.run_sync(process.wait)"
        ) from None
