"""The consumers of a child's output: a callback, file objects without a descriptor, or a loop over the handle.

Callbacks, and the `write` methods of file objects, are called here: one piece at a time, until the time is up.
"""

from __future__ import annotations

from itertools import repeat

from ipcio._event_loop import ASYNC_SLICE, let_others_run
from ipcio._light import partial
from ipcio._record import exhaust
from ipcio._timeouts import now
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Literal, TypeAlias

    from ipcio._child_output import Output

    Unread: TypeAlias = Literal["raise", "keep", "discard"]

_COROUTINE = 0x80  # of a code object's flags; `inspect`, which knows them, takes long to import


class Delivery:
    """A child's outputs, and for each of them its consumer."""

    def __init__(
        self,
        outputs: Sequence[tuple[Output, Callable[[Any], object] | None]],
        callback: Callable[[str, Any], object] | None,
    ) -> None:
        self.callback = callback
        self.outputs: list[Output] = []
        self.pipes: list[Output] = []
        """Those for the callback; without a callback, for a loop."""
        self._files: list[tuple[Output, Callable[[Any], object]]] = []
        for output, write in outputs:
            self.outputs.append(output)
            if write is None:
                self.pipes.append(output)
            else:
                self._files.append((output, write))
        self.may_refuse = bool(self._files)
        """Whether there is a consumer that may not be ready."""
        self._has_coroutine_file = bool(self._files) and any(is_coroutine_function(write) for _, write in self._files)

    @property
    def is_for_loop(self) -> bool:
        """Whether there is output for a loop over the handle."""
        return self.callback is None and bool(self.pipes)

    @property
    def requires_event_loop(self) -> bool:
        """Whether some consumer is a coroutine function."""
        return self._has_coroutine_file or (self.callback is not None and is_coroutine_function(self.callback))

    @property
    def is_finished(self) -> bool:
        """Whether everything has been consumed and nothing more will come."""
        for output in self.outputs:  # a generator for `all` takes longer  # noqa: SIM110
            if not output.finished:
                return False
        return True

    @property
    def is_refused(self) -> bool:
        """Whether all that is left is for files that are not ready for it."""
        left = [output for output in self.outputs if not output.finished]
        return bool(left) and all(output.retry_after is not None for output in left)

    def give_no_lines(self) -> None:
        """Give the callback what is left in pieces as they come."""
        for output in self.pipes:
            output.give_no_lines()

    def discard(self) -> None:
        """Discard all output, and what comes later."""
        self._files = []  # a file that nothing else refers to is closed now
        for output in self.outputs:
            output.discard()

    def deliver(self, end: float | None, unread: Unread) -> bool:
        """Call files and the callback with all that is there; return whether no call is left when the time is up.

        What is there for a loop is an error (`ValueError`), kept or discarded, as `unread` says.
        """
        if self._files and not self.feed_files(end, unread):
            return False
        callback = self.callback
        for output in self.pipes:
            if callback is None:
                _handle_unread(output, unread)
                continue
            while (batch := output.batch()) is not None:
                if not _call_all(map(callback, repeat(output.name), batch), end):
                    return False
        return True

    def feed_files(self, end: float | None, unread: Unread) -> bool:
        """Do as `deliver` with what is for files.  What a file is not ready for is kept or discarded."""
        for output, write in self._files:
            if output.may_refuse:
                if not _call_all(_offers(output, write, unread), end):
                    return False
                continue
            while True:
                try:
                    while (batch := output.batch()) is not None:
                        if not _call_all(map(write, batch), end):
                            return False
                    break
                except Exception as error:
                    if not _is_repaired(output, error):
                        raise
        return True

    async def deliver_async(self, end: float | None, unread: Unread) -> bool:
        """Do as `deliver`, while other tasks run; await what a coroutine function returns."""
        if not await self.feed_files_async(end, unread):
            return False
        for output in self.pipes:
            if self.callback is None:
                _handle_unread(output, unread)
            elif not await _call_all_async(map(self.callback, repeat(output.name), output.pieces()), end):
                return False
        return True

    async def feed_files_async(self, end: float | None, unread: Unread) -> bool:
        """Do as `deliver_async` with what is for files."""
        for output, write in self._files:
            if output.may_refuse:
                if not await _call_all_async(_offers(output, write, unread), end):
                    return False
                continue
            while True:
                try:
                    if not await _call_all_async(map(write, output.pieces()), end):
                        return False
                    break
                except Exception as error:
                    if not _is_repaired(output, error):
                        raise
        return True


def _offers(output: Output, write: Callable[[Any], Any], unread: Unread) -> Iterator[None]:
    """Offer pieces to a file that may refuse them, one with each step, until it does or there are none."""
    while output.batch() is not None:
        if not output.offer(write):
            if unread == "discard":
                output.discard()
            return
        yield


def _call_all(calls: Iterator[object], end: float | None) -> bool:
    """Make calls, of which each `next` of an iterator is one; return whether all were made before the time was up."""
    if end is None:
        exhaust(calls)
        return True
    return all(now() < end for _ in calls)


async def _call_all_async(results: Iterator[Any], end: float | None) -> bool:
    """Do as `_call_all`, while other tasks run; await each result that can be awaited."""
    slice_end = now() + ASYNC_SLICE
    for result in results:
        if hasattr(result, "__await__"):
            await result
        time = now()
        if end is not None and time >= end:
            return False
        if time >= slice_end:
            slice_end = await let_others_run()
    return True


def is_coroutine_function(function: Any) -> bool:
    """Whether a call of it returns a coroutine."""
    while isinstance(function, partial):
        function = function.func
    if not hasattr(function, "__code__") and not hasattr(function, "__func__"):
        kind: Any = type(function)  # pyright: ignore[reportUnknownVariableType]
        function = kind.__call__
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and bool(code.co_flags & _COROUTINE)


def _handle_unread(output: Output, unread: Unread) -> None:
    if unread == "discard":
        output.discard()
    elif unread == "raise" and output.waiting:
        raise ValueError(
            f"{output.name} is a pipe that nothing reads: pass callback= or a file to spawn(),"
            " or iterate over the process before wait()"
        )


def _is_repaired(output: Output, error: Exception) -> bool:
    """Whether the consumer is to be called again after that error: it refuses bytes, and gets text."""
    if isinstance(error, BlockingIOError):  # the rest is for the next call
        count = getattr(error, "characters_written", None)
        if count is not None:
            output.give_rest(count)
        return False
    return isinstance(error, TypeError | AttributeError | AssertionError) and output.give_as_text()
