"""The handle of a child process: its output arrives, all of it, and its exit is never missed."""

from __future__ import annotations

import errno
from _thread import RLock  # threading's own, without importing threading
from collections import deque
from contextlib import nullcontext, suppress
from functools import partial
from io import UnsupportedOperation
from itertools import repeat

from ipcio._timeouts import check_timeout, now
from ipcio._typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Any, Literal

    from typing_extensions import Buffer, Self

    from ipcio._contract import Child
    from ipcio._streams import Input, Output

__all__ = ["EOF", "ExitStatus", "Process"]

_Piece = TypeVar("_Piece", bytes, str)

_SIGNALS = {"term": 15, "kill": 9}  # everywhere; not every system has a name for the second
_TURN = 0.005  # seconds for which a coroutine works before it lets others run
_LOOK = 0.002  # seconds between two looks, where an event loop has nothing to watch


class _End:
    """The type of `EOF`, of which there is one, pickled or not."""

    def __repr__(self) -> str:
        return "ipcio.proc.EOF"

    def __reduce__(self) -> str:
        return "EOF"


EOF = _End()
"""What to `~Process.write` last: the child's standard input ends when all before it has been sent."""


class ExitStatus(NamedTuple):
    """How a process ended.  True only if it exited with 0."""

    ok: bool
    kind: Literal["exit", "signal"]
    """``"exit"``, or ``"signal"`` if one ended it."""
    code: int
    """The exit code, or the number of the signal."""

    def __bool__(self) -> bool:
        return self.ok


class Process(Generic[_Piece]):
    """A child process; made by `ipcio.proc.spawn`.

    Its output goes where `spawn` was told, while somebody waits for it; or the handle
    itself gives it, an iterator (and an asynchronous one) of pairs of ``"stdout"`` or
    ``"stderr"`` and data.  A handle that is dropped kills its child and reaps it.

    All methods may be called from several threads.  A copy in a forked process cannot
    wait, and never kills.
    """

    def __init__(
        self,
        child: Child,
        stdin: Input | None,
        outputs: Sequence[tuple[Output, Callable[[Any], object] | None]],
        callback: Callable[[str, Any], object] | None,
        *,
        session: bool,
    ) -> None:
        self._child = child
        self._stdin = stdin
        self._outputs = [output for output, _ in outputs]
        self._pipes = [output for output, sink in outputs if sink is None]
        self._sinks = [(output, sink) for output, sink in outputs if sink is not None]
        self._callback = callback
        self._session = session
        self._pumping = RLock()  # a callback may wait, too
        self._status: ExitStatus | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    @property
    def pending(self) -> int:
        """How many bytes are queued for the child's standard input."""
        return 0 if self._stdin is None else self._stdin.pending

    def __repr__(self) -> str:
        state = "running" if self._status is None else f"{self._status.kind} {self._status.code}"
        return f"<ipcio.proc.Process pid={self.pid} {state}>"

    # -- to the child ------------------------------------------------------------

    def write(self, *data: Buffer | str | _End) -> Literal[True]:
        """Queue data for the child's standard input, and perhaps `EOF`; return True.

        It is sent while somebody waits.  If the child closes its end, or exits, what is
        left is dropped, as `subprocess.Popen.communicate` does.

        Raises `io.UnsupportedOperation` if standard input is no pipe, `TypeError` for
        text without an encoding, `ValueError` behind `EOF`; then nothing is queued.
        """
        if self._stdin is None:
            raise UnsupportedOperation("standard input is no pipe; it takes spawn(..., stdin=True)")
        self._check_ours()
        self._stdin.put(data, EOF)
        self._child.attend()
        return True

    def kill(self, sig: str | int = "term", *, tree: bool = False) -> Literal[True]:
        """Send a signal, ``"term"``, ``"kill"`` or a number; return True, also if the child has exited.

        tree
            Also to the descendants in its process group, for a child that was started
            with ``start_new_session=True``; for others `ValueError`.
        """
        import signal  # with all its names, which only who uses them needs

        number = _SIGNALS.get(sig) if isinstance(sig, str) else sig
        if number is None or number not in {*signal.valid_signals(), *_SIGNALS.values()}:
            raise ValueError(f"sig must be 'term', 'kill' or the number of a signal, not {sig!r}")
        if tree and not self._session:
            raise ValueError("tree=True takes a process of spawn(..., start_new_session=True)")
        self._child.kill(int(number), tree=tree)
        return True

    def close(self) -> None:
        """Kill the child and reap it, if it runs; forget its output and let go of the pipes."""
        self._child.kill(_SIGNALS["kill"], tree=False)  # who waits in another thread comes to an end
        # A fork may have copied the lock while somebody had it; there, nobody else uses the copy.
        with self._pumping if self._child.is_ours() else nullcontext():
            self._child.close()
            for output in self._outputs:
                output.discard()
            with suppress(ChildProcessError):
                self._ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Wait for the child; kill it if the block, or the waiting, has raised."""
        try:
            if kind is None:
                self.wait()
        finally:
            self.close()

    # -- from the child ----------------------------------------------------------

    def wait(self, timeout: float | None = None) -> ExitStatus | None:
        """Pass on output and input until the child has exited and its output is drained; return how it ended.

        timeout
            Seconds after which None is returned; None or negative waits for ever.

        A grandchild that keeps a pipe open is not waited for.  What a callback raises
        is raised here; a further call goes on with the next piece.  Raises `ValueError`
        for output that nobody is there to take, which stays; `ChildProcessError` if
        somebody else has taken the exit status.
        """
        seconds = check_timeout(timeout)
        self._check_ours()
        if self._status is None and _is_coroutine_function(self._callback):
            raise ValueError("the callback is a coroutine function, which takes `await wait_async()`")
        end = None if seconds is None else now() + seconds
        if not self._pumping.acquire(timeout=-1 if seconds is None else seconds):
            return None
        try:
            if not self._pass_on(end if seconds else None):
                return None
            while (status := self._ended()) is None:
                self._child.turn(None if end is None else max(end - now(), 0))
                if not self._pass_on(end if seconds else None):
                    return None
                if end is not None and now() >= end:
                    return self._ended()
            return status
        finally:
            self._pumping.release()

    def nowait(self) -> ExitStatus | None:
        """``wait(0)``: pass on what is ready."""
        return self.wait(0)

    def _ended(self) -> ExitStatus | None:
        """How it ended, if it did and all its output has been passed on."""
        if self._status is None:
            code = self._child.returncode
            if code is None or not all(output.finished for output in self._outputs):
                return None
            self._status = _exit_status(code)
        return self._status

    def _pass_on(self, end: float | None) -> bool:
        """Give what has been read to who takes it; return whether that was all before the time was up."""
        if not self._feed_sinks(end):
            return False
        for output in self._pipes:
            if self._callback is not None:
                if not _call_all((map(self._callback, repeat(output.name), batch) for batch in output.batches()), end):
                    return False
            elif output.waiting:
                raise _nobody_takes(output)
        return True

    def _feed_sinks(self, end: float | None) -> bool:
        return not self._sinks or all(
            _call_all((map(sink, batch) for batch in output.batches()), end) for output, sink in self._sinks
        )

    # -- as an iterator ----------------------------------------------------------

    def __iter__(self) -> Iterator[tuple[str, _Piece]]:
        """Give pairs of stream and data until the child has exited and its output is drained."""
        self._check_iterable()
        while True:
            for output in self._pipes:
                while (batch := self._batch(output)) is not None:
                    yield from zip(repeat(output.name), batch)
            with self._pumping:
                self._feed_sinks(None)
                if self._ended() is not None:
                    return
                self._child.turn(None)

    def _batch(self, output: Output) -> Iterator[_Piece] | None:
        with self._pumping:  # who reads may be in another thread
            return output.batch()

    def __next__(self) -> tuple[str, _Piece]:
        for event in self:
            return event
        raise StopIteration

    def _check_ours(self) -> None:
        if self._status is None and not self._child.is_ours():
            raise ChildProcessError(errno.ECHILD, "only the process that started it can wait for it", self.pid)

    def _check_iterable(self) -> None:
        self._check_ours()
        if self._callback is not None:
            raise ValueError("the output goes to the callback; who iterates takes a process without one")

    # -- in an event loop --------------------------------------------------------

    async def wait_async(self, timeout: float | None = None) -> ExitStatus | None:
        """As `wait`, while other tasks run.  The callback may be a coroutine function."""
        seconds = check_timeout(timeout)
        self._check_ours()
        end = None if seconds is None else now() + seconds
        if not await self._pass_on_async(end if seconds else None):
            return None
        while (status := self._ended()) is None:
            await self._turn_async(None if end is None else max(end - now(), 0))
            if not await self._pass_on_async(end if seconds else None):
                return None
            if end is not None and now() >= end:
                return self._ended()
        return status

    def __aiter__(self) -> Self:
        self._check_iterable()
        return self

    async def __anext__(self) -> tuple[str, _Piece]:
        self._check_iterable()
        while True:
            for output in self._pipes:
                while (batch := self._batch(output)) is not None:
                    for piece in batch:
                        return output.name, piece
            self._feed_sinks(None)
            if self._ended() is not None:
                raise StopAsyncIteration
            await self._turn_async(None)

    async def _pass_on_async(self, end: float | None) -> bool:
        import asyncio  # who needs it has it already

        if not self._feed_sinks(end):
            return False
        others = now() + _TURN
        for output in self._pipes:
            if self._callback is None:
                if output.waiting:
                    raise _nobody_takes(output)
                continue
            results: Iterator[Any] = map(self._callback, repeat(output.name), output.pieces())
            for result in results:
                if hasattr(result, "__await__"):
                    await result
                time = now()
                if end is not None and time >= end:
                    return False
                if time >= others:
                    await asyncio.sleep(0)
                    others = now() + _TURN
        return True

    async def _turn_async(self, left: float | None) -> None:
        """Wait until something can be done, and do it."""
        import asyncio

        with self._pumping:
            happened = self._child.turn(0)
            # One of its own for each task that waits.
            fd = -1 if happened or left == 0 else self._child.open_event()
        if happened or left == 0:
            await asyncio.sleep(0)
        elif fd < 0:  # the exit is no event here
            await asyncio.sleep(_LOOK if left is None else min(_LOOK, left))
        else:
            loop = asyncio.get_running_loop()
            ready = asyncio.Event()
            timer = None
            try:
                loop.add_reader(fd, ready.set)
                if left is not None:
                    timer = loop.call_later(left, ready.set)
                await ready.wait()  # not `wait_for`, which swallows some cancellations before Python 3.12
            finally:
                if timer is not None:
                    timer.cancel()
                loop.remove_reader(fd)
                self._child.close_event(fd)


def _call_all(batches: Iterable[Iterator[object]], end: float | None) -> bool:
    """Make calls, of which each `next` of an iterator is one; return whether all were made before the time was up."""
    for calls in batches:
        if end is None:
            deque(calls, maxlen=0)  # no Python between them
        elif not all(now() < end for _ in calls):
            return False
    return True


_COROUTINE = 0x80  # of a code object's flags; `inspect`, which knows, takes long to import


def _is_coroutine_function(function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func
    if not hasattr(function, "__code__") and not hasattr(function, "__func__"):
        kind: Any = type(function)  # pyright: ignore[reportUnknownVariableType]
        function = kind.__call__
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and bool(code.co_flags & _COROUTINE)


def _exit_status(code: int) -> ExitStatus:
    return ExitStatus(ok=not code, kind="signal" if code < 0 else "exit", code=abs(code))


def _nobody_takes(output: Output) -> ValueError:
    return ValueError(f"nobody takes what comes from {output.name}: give spawn() a callback or a file, or iterate")
