"""The handle of a child process: all of its output is delivered, and its exit is never missed."""

from __future__ import annotations

from io import UnsupportedOperation
from itertools import repeat
from time import sleep

from ipcio._delivery import is_coroutine_function
from ipcio._light import suppress
from ipcio._process_async import AsyncMethods
from ipcio._process_base import FIRST_PAUSE, LAST_PAUSE, SIGNALS, ExitStatus, Piece
from ipcio._timeouts import check_timeout, now
from ipcio._typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Literal

    from typing_extensions import Buffer, Self

    from ipcio._process_base import _End


class Process(AsyncMethods[Piece]):
    """A child process; `ipcio.proc.spawn` returns it.

    While the program waits for the child, output goes to the callback or file that was
    passed to `spawn`.  Without these, iterate over the handle, with ``for`` or ``async for``:
    each item is a pair of ``"stdout"`` or ``"stderr"`` and data.  If the handle is
    garbage-collected, the child is killed and reaped.

    All methods are thread-safe.  A copy in a forked process cannot wait, and never kills.

    A signal handler may call `write`, `kill`, `wait`, `nowait` and `close`, whatever code it
    interrupts.  If it interrupts code that is waiting for this process or iterating over
    it, `wait` and `nowait` deliver nothing: they return the status if it is known, else
    None.

    After `close`, `wait`, `nowait` and `wait_async` still return the status; every other
    method raises `ValueError`.
    """

    def write(self, *data: Buffer | str | _End) -> Literal[True]:
        """Queue data for the child's standard input, and perhaps `EOF`; return True.

        The data are sent while the program waits for the child or iterates over it.  If
        the child closes its end, or exits, the rest is discarded, as by
        `subprocess.Popen.communicate`.

        Raises `io.UnsupportedOperation` if standard input is not a pipe, `TypeError` for
        text without an encoding, `ValueError` after `EOF`; then nothing is queued.
        """
        self._check_open()
        if self._stdin is None:
            raise UnsupportedOperation("stdin is not a pipe; pass stdin=True to spawn()")
        self._check_started_here()
        self._queue(self._stdin, data)
        return True

    # -- output, and the exit ------------------------------------------------------

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
        seconds = None if timeout is None else check_timeout(timeout)
        if self._status is None and self._is_interrupted():
            with suppress(ChildProcessError):  # which the interrupted call raises
                self._ended()
            return self._status
        return self._wait(seconds)

    def nowait(self) -> ExitStatus | None:
        """``wait(0)``: pass on what is ready."""
        return self.wait(0)

    def _wait(self, seconds: float | None) -> ExitStatus | None:
        self._check_started_here()
        if self._status is None and self._delivery.requires_event_loop:
            raise ValueError(
                "the callback, or the write of a file, is a coroutine function: use `await process.wait_async()`"
            )
        try:
            with self._call():
                if seconds is not None:
                    return self._exclusively(seconds, self._pump_until, now() + seconds, seconds == 0)
                with self._pumping:
                    return self._pump_until(None, at_once=False)
        finally:
            if self._is_closing:
                self._finish_closing()

    def _pump_until(self, end: float | None, at_once: bool) -> ExitStatus | None:
        deliver_until = None if at_once else end  # `nowait` delivers all that is there
        deliver = self._delivery.deliver
        if not deliver(deliver_until, self._unread()):
            return None
        while (status := self._ended()) is None:
            self._pump(None if end is None else max(end - now(), 0))
            if not deliver(deliver_until, self._unread()):
                return None
            if end is not None and now() >= end:
                return self._ended()
        return status

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

    # -- a loop over the handle ----------------------------------------------------

    def __iter__(self) -> Iterator[tuple[str, Piece]]:
        """Give pairs of stream and data until the child has exited and its output is drained."""
        self._check_iterable()
        return self._events()

    def _events(self) -> Iterator[tuple[str, Piece]]:
        self._suspended.append(None)
        try:
            while True:
                for output in self._delivery.pipes:
                    while (batch := self._next_batch(output)) is not None:
                        yield from zip(repeat(output.name), batch)
                if self._pump_for_loop():
                    return
        finally:
            self._suspended.pop()

    def _pump_for_loop(self) -> bool:
        """Wait until something can be done, and do it; return whether there was nothing more to do."""
        try:
            with self._call(), self._pumping:
                self._delivery.feed_files(None, self._unread())
                if self._ended() is not None:
                    return True
                self._pump(None)
                return False
        finally:
            if self._is_closing:
                self._finish_closing()

    def __next__(self) -> tuple[str, Piece]:
        for event in self:
            return event
        raise StopIteration

    # -- signals -------------------------------------------------------------------

    def kill(self, sig: str | int = "term", *, tree: bool = False, grace: float | None = None) -> Literal[True]:
        """Send a signal, ``"term"``, ``"kill"`` or a number; return True, also if the child has exited.

        tree
            Also to the descendants in its process group, for a child that was started
            with ``start_new_session=True`` or ``process_group=0``; for others `ValueError`.  The rest of the group
            can be signalled when the child itself has exited, until `close`.
        grace
            Seconds to wait for the exit, with `tree` for that of the whole group.
            Output and input are passed on meanwhile, and output that nothing reads yet is kept.
            What has not exited then is killed, as is everything at once if the waiting
            raises.
        """
        number, seconds = self._check_kill(sig, tree=tree, grace=grace)
        if seconds is not None and is_coroutine_function(self._delivery.callback):
            raise ValueError("the callback is a coroutine function: use `await process.kill_async()`")
        try:
            with self._call():
                self._child.kill(number, tree=tree, grace=seconds is not None)
                if seconds is not None:
                    try:
                        self._await_exit(now() + seconds, tree=tree)
                    finally:
                        self._child.kill(SIGNALS["kill"], tree=tree)
        finally:
            if self._is_closing:
                self._finish_closing()
        return True

    def _await_exit(self, end: float, *, tree: bool) -> None:
        is_interrupted = self._is_interrupted()
        pause = FIRST_PAUSE
        while not self._child.has_exited(tree=tree) and (left := end - now()) > 0:
            if is_interrupted or self._child.has_exited(tree=False):
                sleep(min(pause, left))
                pause = min(2 * pause, LAST_PAUSE)
            else:
                self._exclusively(min(LAST_PAUSE, left), self._pump_and_keep, left, end)

    def _pump_and_keep(self, timeout: float, end: float) -> None:
        self._child.pump(timeout)
        self._delivery.deliver(end, "keep")
