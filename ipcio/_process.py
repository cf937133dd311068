"""The handle of a child process: its output arrives, all of it, and its exit is never missed."""

from __future__ import annotations

import errno
import sys
from _thread import get_ident
from contextlib import nullcontext, suppress
from functools import partial
from io import UnsupportedOperation
from itertools import islice, repeat

from ipcio._forklock import RLock
from ipcio._record import exhaust, record
from ipcio._timeouts import check_timeout, now
from ipcio._typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, overload

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import FrameType, TracebackType
    from typing import Any, Literal

    from typing_extensions import Buffer, Self

    from ipcio._backend import Child
    from ipcio._child_input import Input
    from ipcio._child_output import Output

__all__ = ["EOF", "ExitStatus", "Process"]

_Piece = TypeVar("_Piece", bytes, str)

_SIGNALS = {"term": 15, "kill": 9}  # everywhere; not every system has a name for the second
_ASYNC_SLICE = 0.005  # seconds for which a coroutine works before it lets others run
_PORTION = 64  # events at most that `async for` gives between two looks at the clock
_LONGEST = 1e8  # seconds of grace, three years
_LAST_LOOK = 0.05  # seconds between two looks at a group of processes, in the end
_ASYNC_POLL = 0.002  # seconds between two looks, where an event loop has nothing to watch


_NOTHING = nullcontext()
_GLOBALS = globals()


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

    Its output goes where the arguments of `spawn` say, while the program waits for the
    child; or the handle itself gives it: it is an iterator (and an asynchronous one) of pairs of
    ``"stdout"`` or ``"stderr"`` and data.  A handle that is dropped kills its child and
    reaps it.

    All methods may be called from several threads.  A copy in a forked process cannot
    wait, and never kills.

    A signal handler may call `write`, `kill`, `wait`, `nowait` and `close`, whatever it
    interrupts.  If it interrupts code that is waiting for this process or iterating over
    it, `wait` and `nowait` pass nothing on: they return the status if it is there, else
    None.

    After `close`, `wait`, `nowait` and `wait_async` still return the status; every other
    method raises `ValueError`.
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
        from threading import main_thread  # `subprocess` has imported it

        self._child = child
        self._stdin = stdin
        self._outputs = [output for output, _ in outputs]
        self._pipes = [output for output, sink in outputs if sink is None]
        self._sinks = [(output, sink) for output, sink in outputs if sink is not None]
        self._has_coroutine_sink = any(_is_coroutine_function(sink) for _, sink in self._sinks)
        self._callback = callback
        self._session = session
        self._pumping: Any = RLock()  # a callback may wait, too
        # What a signal handler interrupts: a method of this handle (only the main thread acquires
        # the lock), or an iteration or a coroutine that is suspended.
        self._calling: Any = RLock()
        self._main = main_thread().ident
        self._suspended: list[None] = []
        self._status: ExitStatus | None = None
        self._closed = False
        self._closing = False  # something is still to be closed

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    @property
    def pending(self) -> int:
        """How many bytes are queued for the child's standard input."""
        return 0 if self._stdin is None else self._stdin.pending

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def __repr__(self) -> str:
        state = "running" if self._status is None else f"{self._status.kind} {self._status.code}"
        return f"<ipcio.proc.Process pid={self.pid} {state}>"

    # -- to the child ------------------------------------------------------------

    def write(self, *data: Buffer | str | _End) -> Literal[True]:
        """Queue data for the child's standard input, and perhaps `EOF`; return True.

        The data are sent while the program waits for the child or iterates over it.  If
        the child closes its end, or exits, what is left is dropped, as
        `subprocess.Popen.communicate` does.

        Raises `io.UnsupportedOperation` if standard input is no pipe, `TypeError` for
        text without an encoding, `ValueError` behind `EOF`; then nothing is queued.
        """
        self._check_open()
        if self._stdin is None:
            raise UnsupportedOperation("stdin is not a pipe; pass stdin=True to spawn()")
        self._check_ours()
        self._queue(self._stdin, data)
        return True

    def _queue(self, stdin: Input, data: Sequence[Any]) -> None:
        try:
            with self._call():
                stdin.put(data, EOF)
                self._child.input_queued()
        finally:
            if self._closing:
                self._settle()

    def kill(self, sig: str | int = "term", *, tree: bool = False, grace: float | None = None) -> Literal[True]:
        """Send a signal, ``"term"``, ``"kill"`` or a number; return True, also if the child has exited.

        tree
            Also to the descendants in its process group, for a child that was started
            with ``start_new_session=True``; for others `ValueError`.  The rest of the group
            can be signalled when the child itself has exited, until `close`.
        grace
            Seconds to wait for the exit, with `tree` for that of the whole group.
            Output and input are passed on meanwhile, and output that nothing reads yet is kept.
            What has not exited then is killed, as is everything at once if the waiting
            raises.
        """
        number, seconds = self._check_kill(sig, tree=tree, grace=grace)
        if seconds is not None and _is_coroutine_function(self._callback):
            raise ValueError("the callback is a coroutine function: use `await process.kill_async()`")
        try:
            with self._call():
                self._child.kill(number, tree=tree, grace=seconds is not None)
                if seconds is not None:
                    try:
                        self._await_gone(now() + seconds, tree=tree)
                    finally:
                        self._child.kill(_SIGNALS["kill"], tree=tree)
        finally:
            if self._closing:
                self._settle()
        return True

    def _check_kill(self, sig: str | int, *, tree: bool, grace: float | None) -> tuple[int, float | None]:
        import signal  # with all its names, which only this method needs

        self._check_open()
        number = _SIGNALS.get(sig) if isinstance(sig, str) else sig
        if number is None or number not in {*signal.valid_signals(), *_SIGNALS.values()}:
            raise ValueError(f"sig must be 'term', 'kill' or the number of a signal, not {sig!r}")
        if tree and not self._session:
            raise ValueError("tree=True requires a process of spawn(..., start_new_session=True)")
        seconds = check_timeout(grace)
        if grace is not None and seconds is None:
            if grace < 0:
                raise ValueError(f"grace must not be negative, but it is {grace!r}")
            seconds = _LONGEST
        return int(number), seconds if self._child.started_here() else None

    def _await_gone(self, end: float, *, tree: bool) -> None:
        from time import sleep

        is_interrupted = self._is_interrupted()
        pause = _ASYNC_POLL
        while not self._child.has_exited(tree=tree) and (left := end - now()) > 0:
            if is_interrupted or self._child.has_exited(tree=False):
                sleep(min(pause, left))
                pause = min(2 * pause, _LAST_LOOK)
            else:
                held: list[bool] = []
                try:
                    # Another thread may wait for the child.
                    record(held, self._pumping.acquire, True, min(_LAST_LOOK, left))
                    if held[0]:
                        self._child.pump(left)
                        self._pass_on(end, demand=False)
                finally:
                    if True in held:
                        self._pumping.release()

    async def kill_async(
        self, sig: str | int = "term", *, tree: bool = False, grace: float | None = None
    ) -> Literal[True]:
        """As `kill`, while other tasks run.  The callback may be a coroutine function."""
        import asyncio

        number, seconds = self._check_kill(sig, tree=tree, grace=grace)
        loop = _running_loop()
        self._child.kill(number, tree=tree, grace=seconds is not None)
        if seconds is None:
            return True
        end = now() + seconds
        pause = _ASYNC_POLL
        self._suspended.append(None)
        try:
            while not self._child.has_exited(tree=tree) and (left := end - now()) > 0:
                if self._child.has_exited(tree=False):
                    await asyncio.sleep(min(pause, left))
                    pause = min(2 * pause, _LAST_LOOK)
                else:
                    await self._turn_async(loop, left)
                    await self._pass_on_async(end, demand=False)
        finally:
            self._suspended.pop()
            self._child.kill(_SIGNALS["kill"], tree=tree)
        return True

    def close(self) -> None:
        """Kill the child and reap it, if it runs; discard its output and close the pipes."""
        self._closed = self._closing = True
        if self._child.started_here():
            with suppress(ChildProcessError), self._call():  # which `wait` raises
                self._child.kill(_SIGNALS["kill"], tree=False)  # a thread that waits for the child returns then
                with self._pumping:
                    code = self._child.kill_and_reap()
                if self._status is None:
                    self._status = _exit_status(code)
            self._discard()
        self._settle()

    def _discard(self) -> None:
        for output in self._outputs:
            output.discard()

    def _settle(self) -> None:
        """Do what `close` leaves to a method of this thread that it interrupts, or that runs the callback."""
        if self._child.started_here() and self._is_in_use():
            return
        # A fork may have copied the lock while a thread held it; there, nothing else uses the copy.
        with self._pumping if self._child.started_here() else nullcontext():
            self._child.close()
            self._discard()
        self._closing = False

    def _call(self) -> AbstractContextManager[object]:
        """What to be in while a method works: a signal handler can see it then, and runs in the main thread alone."""
        return self._calling if get_ident() == self._main else _NOTHING

    def _is_in_use(self) -> bool:
        """Whether this thread is in a method of the handle, below the calls of that which asks."""
        if not (self._calling._is_owned() or self._pumping._is_owned()):  # as `threading.Condition` asks
            return False
        # An interrupt may have left a lock behind; what is on the stack is sure.
        frame: FrameType | None = sys._getframe(1)
        asks = True
        while frame is not None:
            is_ours = frame.f_globals is _GLOBALS and frame.f_locals.get("self") is self
            if is_ours and not asks:
                return True
            asks &= is_ours
            frame = frame.f_back
        return False

    def _is_interrupted(self) -> bool:
        """Whether a signal handler calls, and the code that it interrupts takes the output, or has yet to iterate."""
        is_iterated = self._callback is None and bool(self._pipes)
        return (is_iterated or bool(self._suspended) or self._is_in_use()) and _in_signal_handler()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End the child's standard input and wait; kill the child if the block, or the waiting, has raised."""
        try:
            if kind is None:
                self._end_input()
                self._wait(None)
        finally:
            self.close()

    def _end_input(self) -> None:
        if self._stdin is not None and self._status is None and self._child.started_here():
            with suppress(ValueError):  # it has ended
                self._queue(self._stdin, (EOF,))

    # -- from the child ----------------------------------------------------------

    @overload
    def wait(self, timeout: None = None) -> ExitStatus: ...

    @overload
    def wait(self, timeout: float | None) -> ExitStatus | None: ...

    def wait(self, timeout: float | None = None) -> ExitStatus | None:
        """Pass on output and input until the child has exited and its output is drained; return how it ended.

        timeout
            Seconds after which None is returned; None or negative waits for ever.

        A grandchild that keeps a pipe open is not waited for.  What a callback raises
        is raised here; a further call goes on with the next piece.  Raises `ValueError`
        for output that nothing reads, which stays; `ChildProcessError` if the exit
        status was taken by other code of this program.
        """
        seconds = check_timeout(timeout)
        if self._status is None and self._is_interrupted():
            with suppress(ChildProcessError):  # which the interrupted call raises
                self._ended()
            return self._status
        return self._wait(seconds)

    def nowait(self) -> ExitStatus | None:
        """``wait(0)``: pass on what is ready."""
        return self.wait(0)

    def _wait(self, seconds: float | None) -> ExitStatus | None:
        self._check_ours()
        if self._status is None and (self._has_coroutine_sink or _is_coroutine_function(self._callback)):
            raise ValueError(
                "the callback, or the write of a file, is a coroutine function: use `await process.wait_async()`"
            )
        end = None if seconds is None else now() + seconds
        try:
            with self._call():
                held: list[bool] = []
                try:
                    record(held, self._pumping.acquire, True, -1 if seconds is None else seconds)
                    if not held[0]:
                        return None
                    if not self._pass_on(end if seconds else None):
                        return None
                    while (status := self._ended()) is None:
                        self._child.pump(None if end is None else max(end - now(), 0))
                        if not self._pass_on(end if seconds else None):
                            return None
                        if end is not None and now() >= end:
                            return self._ended()
                    return status
                finally:
                    if True in held:
                        self._pumping.release()
        finally:
            if self._closing:
                self._settle()

    def _ended(self) -> ExitStatus | None:
        """How it ended, if it did and all its output has been passed on."""
        if self._status is None:
            code = self._child.returncode
            if code is None or not all(output.finished for output in self._outputs):
                return None
            self._status = _exit_status(code)
        return self._status

    def _pass_on(self, end: float | None, *, demand: bool = True) -> bool:
        """Give what has been read to its consumers, or `demand` them; return whether all was before the time was up."""
        if not self._feed_sinks(end):
            return False
        for output in self._pipes:
            if self._callback is not None:
                if not _call_all((map(self._callback, repeat(output.name), batch) for batch in output.batches()), end):
                    return False
            elif demand and output.waiting and not self._closed:
                raise _nobody_takes(output)
        return True

    def _feed_sinks(self, end: float | None) -> bool:
        for output, sink in self._sinks:
            while True:
                try:
                    if not _call_all((map(sink, batch) for batch in output.batches()), end):
                        return False
                    break
                except Exception as error:
                    if not _is_mended(output, error):
                        raise
        return True

    # -- as an iterator ----------------------------------------------------------

    def __iter__(self) -> Iterator[tuple[str, _Piece]]:
        """Give pairs of stream and data until the child has exited and its output is drained."""
        self._check_iterable()
        return self._events()

    def _events(self) -> Iterator[tuple[str, _Piece]]:
        self._suspended.append(None)
        try:
            while True:
                for output in self._pipes:
                    while (batch := self._batch(output)) is not None:
                        yield from zip(repeat(output.name), batch)
                if self._turn():
                    return
        finally:
            self._suspended.pop()

    def _batch(self, output: Output) -> Iterator[_Piece] | None:
        try:
            with self._pumping:  # another thread may read
                return output.batch()
        finally:
            if self._closing:
                self._settle()

    def _turn(self) -> bool:
        """Wait until something can be done, and do it; return whether there was nothing more to do."""
        try:
            with self._call(), self._pumping:
                self._feed_sinks(None)
                if self._ended() is not None:
                    return True
                self._child.pump(None)
                return False
        finally:
            if self._closing:
                self._settle()

    def __next__(self) -> tuple[str, _Piece]:
        for event in self:
            return event
        raise StopIteration

    def _check_ours(self) -> None:
        if self._status is None and not self._child.started_here():
            raise ChildProcessError(errno.ECHILD, "only the process that started it can wait for it", self.pid)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"I/O operation on closed file: process {self.pid}")  # the io module's words

    def _check_iterable(self) -> None:
        self._check_open()
        self._check_ours()
        if self._callback is not None:
            raise ValueError("the output goes to the callback: to iterate, pass no callback= to spawn()")
        if self._is_in_use() and _in_signal_handler():
            raise RuntimeError("the signal handler has interrupted code that uses this process: it cannot iterate")

    # -- in an event loop --------------------------------------------------------

    @overload
    async def wait_async(self, timeout: None = None) -> ExitStatus: ...

    @overload
    async def wait_async(self, timeout: float | None) -> ExitStatus | None: ...

    async def wait_async(self, timeout: float | None = None) -> ExitStatus | None:
        """As `wait`, while other tasks run.  The callback may be a coroutine function.

        Requires an `asyncio` event loop: that of `asyncio`, uvloop, or anyio on asyncio;
        in others, such as trio's, `RuntimeError`.
        """
        seconds = check_timeout(timeout)
        self._check_ours()
        end = None if seconds is None else now() + seconds
        if self._status is not None:
            return self._status
        loop = _running_loop()
        self._suspended.append(None)
        try:
            if not await self._pass_on_async(end if seconds else None):
                return None
            while (status := self._ended()) is None:
                await self._turn_async(loop, None if end is None else max(end - now(), 0))
                if not await self._pass_on_async(end if seconds else None):
                    return None
                if end is not None and now() >= end:
                    return self._ended()
            return status
        finally:
            self._suspended.pop()

    def __aiter__(self) -> AsyncIterator[tuple[str, _Piece]]:
        """Give the same pairs, while other tasks run."""
        self._check_iterable()
        return _Events(self)

    async def __anext__(self) -> tuple[str, _Piece]:
        return await anext(aiter(self))

    async def _some_async(self) -> Iterator[tuple[str, _Piece]] | None:
        """Wait for events; return what gives some of them, None at the end."""
        loop = _running_loop()
        while True:
            for output in self._pipes:
                if (batch := self._batch(output)) is not None:
                    return zip(repeat(output.name), batch)
            await self._feed_sinks_async(None)
            if self._ended() is not None:
                return None
            await self._turn_async(loop, None)

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
                await self._end_async()
            finally:
                self.close()

    async def _end_async(self) -> None:
        """Kill the child, and come back when `close` need not wait for its exit."""
        if self._status is not None or not self._child.started_here():
            return
        self._child.kill(_SIGNALS["kill"], tree=False)
        self._discard()
        with suppress(ChildProcessError):
            while self._ended() is None:
                await self._turn_async(_running_loop(), None)

    async def _pass_on_async(self, end: float | None, *, demand: bool = True) -> bool:
        if not await self._feed_sinks_async(end):
            return False
        for output in self._pipes:
            if self._callback is None:
                if demand and output.waiting and not self._closed:
                    raise _nobody_takes(output)
            elif not await _call_all_async(map(self._callback, repeat(output.name), output.pieces()), end):
                return False
        return True

    async def _feed_sinks_async(self, end: float | None) -> bool:
        for output, sink in self._sinks:
            while True:
                try:
                    if not await _call_all_async(map(sink, output.pieces()), end):
                        return False
                    break
                except Exception as error:
                    if not _is_mended(output, error):
                        raise
        return True

    async def _turn_async(self, loop: asyncio.AbstractEventLoop, left: float | None) -> None:
        """Wait until something can be done, and do it."""
        import asyncio

        happened, fd = left == 0, -1
        pause = _ASYNC_POLL if left is None else min(_ASYNC_POLL, left)
        try:
            # A thread that waits, too, keeps the lock; and a loop must not wait for it.
            held: list[bool] = []
            try:
                record(held, self._pumping.acquire, True, 0)
                if held[0]:
                    happened |= self._child.pump(0)
                    if not happened:
                        fd = self._child.readiness_fd()  # of its own for each task that waits
            finally:
                if True in held:
                    self._pumping.release()
            if happened:
                pause = 0
            elif fd >= 0 and await _until_readable(loop, fd, left):
                return
        finally:
            if fd >= 0:
                self._child.close_readiness_fd(fd)
            if self._closing:
                self._settle()
        await asyncio.sleep(pause)  # neither the exit nor, in some loops, a descriptor is an event


class _Events:
    """What ``async for`` iterates over.

    Where there are events, `__anext__` gives one without a detour.  So it counts instead of
    looking at the clock each time: as many as took a fraction of `_ASYNC_SLICE` the last time.
    """

    def __init__(self, process: Process[Any]) -> None:
        self._process = process
        self._source: Iterator[tuple[str, Any]] = iter(())
        self._portion: Iterator[tuple[str, Any]] = self._source
        self._size = 1
        self._began = now()
        self._others = self._began + _ASYNC_SLICE
        self._suspended = process._suspended
        self._suspended.append(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, Any]:
        for event in self._portion:
            return event
        return await self._next()

    async def _next(self) -> tuple[str, Any]:
        time = now()
        if time - self._began > _ASYNC_SLICE / 4:
            self._size = max(self._size // 4, 1)
        elif self._size < _PORTION:
            self._size *= 2
        if time >= self._others:
            import asyncio

            await asyncio.sleep(0)
            time = now()
            self._others = time + _ASYNC_SLICE
        self._began = time
        while True:
            self._portion = islice(self._source, self._size)
            for event in self._portion:
                return event
            source = await self._process._some_async()
            if source is None:
                raise StopAsyncIteration
            self._source = source

    def __del__(self) -> None:
        self._suspended.pop()


async def _call_all_async(results: Iterator[Any], end: float | None) -> bool:
    """As `_call_all`, where each result may have to be awaited, while other tasks run."""
    import asyncio

    others = now() + _ASYNC_SLICE
    for result in results:
        if hasattr(result, "__await__"):
            await result
        time = now()
        if end is not None and time >= end:
            return False
        if time >= others:
            await asyncio.sleep(0)
            others = now() + _ASYNC_SLICE
    return True


async def _until_readable(loop: asyncio.AbstractEventLoop, fd: int, left: float | None) -> bool:
    """Wait for a descriptor, or until the time is up; False at once if the loop cannot wait for any."""
    import asyncio

    ready = asyncio.Event()
    timer = None
    try:
        loop.add_reader(fd, ready.set)
    except NotImplementedError:
        return False
    try:
        if left is not None:
            timer = loop.call_later(left, ready.set)
        await ready.wait()  # not `wait_for`, which swallows some cancellations before Python 3.12
        return True
    finally:
        if timer is not None:
            timer.cancel()
        loop.remove_reader(fd)


def _call_all(batches: Iterable[Iterator[object]], end: float | None) -> bool:
    """Make calls, of which each `next` of an iterator is one; return whether all were made before the time was up."""
    for calls in batches:
        if end is None:
            exhaust(calls)
        elif not all(now() < end for _ in calls):
            return False
    return True


_OPTIMIZED = 0x1  # of a code object's flags: its variables are in no dictionary
_UNSHARED = 3  # references to a dictionary: the frame's, a variable's and the argument's
_KEEPS_COPIES = sys.version_info < (3, 13) and hasattr(sys, "getrefcount")  # which PyPy lacks
_VARARGS, _COROUTINE = 0x04, 0x80  # of a code object's flags; `inspect`, which knows, takes long to import


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
    return ValueError(
        f"{output.name} is a pipe that nothing reads: pass callback= or a file to spawn(),"
        " or iterate over the process before wait()"
    )


def _is_mended(output: Output, error: Exception) -> bool:
    """Whether the consumer is to be called again after that error: it refuses bytes, and gets text."""
    if isinstance(error, BlockingIOError):  # the rest is for the next call
        count = getattr(error, "characters_written", None)
        if count is not None:
            output.give_rest(count)
        return False
    return isinstance(error, TypeError | AttributeError | AssertionError) and output.give_as_text()


def _in_signal_handler() -> bool:
    """Whether a signal handler calls: a function that was given the very frame that it interrupts."""
    frame = sys._getframe(1)
    while (interrupted := frame.f_back) is not None:
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount]
        if code.co_flags & _VARARGS:
            names += (code.co_varnames[code.co_argcount + code.co_kwonlyargcount],)
        if names:
            variables: Any = frame.f_locals
            values: list[object] = [variables.get(name) for name in names]
            # Before Python 3.13 the frame keeps this copy, and with it what the function deletes, a handle say.
            if code.co_flags & _OPTIMIZED and _KEEPS_COPIES and sys.getrefcount(variables) <= _UNSHARED:
                variables.clear()
            if isinstance(values[-1], tuple):
                values += values[-1]
            if any(value is interrupted for value in values):
                return True
        frame = interrupted
    return False


def _running_loop() -> asyncio.AbstractEventLoop:
    import asyncio  # a caller that needs it has imported it

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "no running asyncio event loop: wait_async(), kill_async(), `async for` and `async with` require one"
            " (asyncio, uvloop, or anyio on asyncio); under trio, call trio.to_thread.run_sync(process.wait)"
        ) from None
