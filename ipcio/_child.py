"""What the children of every system have in common: pipes, what flows through them, and the order of their end.

A back end's `Child` derives from `PipedChild` and adds how to wait, read, write, kill and reap.
"""

from __future__ import annotations

import subprocess

from ipcio._forklock import RLock
from ipcio._typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from ipcio._child_input import Input
    from ipcio._child_output import Output

    class Pipe(Protocol):
        """A pipe to or from a child; its ends are closed with the object at the latest."""

        def __init__(self, *, to_child: bool) -> None: ...

        @property
        def child_end(self) -> int:
            """The end that the child inherits, a descriptor."""
            ...

        @property
        def our_end(self) -> int:
            """The end that stays here, a number that no other open pipe has."""
            ...

        def read_rest(self, into: list[bytes], /) -> None:
            """Read what the pipe holds now, and no more."""
            ...

        def close_child_end(self) -> None:
            """Close that end here; the child has its own copy."""
            ...

        def close(self) -> None:
            """Close both ends."""
            ...


_PIPE = subprocess.PIPE
_Pipe = TypeVar("_Pipe", bound="Pipe")
_Popen = TypeVar("_Popen", bound="subprocess.Popen[bytes]")
_Started = TypeVar("_Started")


def start_with_pipes(
    make_pipe: Callable[..., _Pipe], streams: Sequence[int | None], start: Callable[[Sequence[int | None]], _Started]
) -> tuple[_Started, list[_Pipe | None]]:
    """Call `start` with the streams, pipes in place of `subprocess.PIPE`; return its result and the pipes."""
    pipes: list[_Pipe | None] = [None] * len(streams)
    ends = list(streams)
    try:
        while _PIPE in ends:
            number = ends.index(_PIPE)
            pipes[number] = made = make_pipe(to_child=number == 0)
            ends[number] = made.child_end
        started = start(ends)
    except BaseException:
        made = None  # the traceback would keep it open
        _close_all(pipes)
        raise
    for pipe in pipes:
        if pipe is not None:
            pipe.close_child_end()
    return started, pipes


def _close_all(pipes: Sequence[_Pipe | None]) -> None:
    # A function, for an interrupt at a jump backwards in an `except` block would keep the exception, and with it the
    # pipes, for as long as the thread runs (Python 3.13).
    for pipe in pipes:
        if pipe is not None:
            pipe.close()


class PipedChild(Generic[_Pipe, _Popen]):
    """A child's pipes, and what becomes of them at its end; a back end adds the rest of `ipcio._backend.proc.Child`."""

    def __init__(
        self,
        popen: _Popen,
        pipes: Sequence[_Pipe | None],
        stdin: Input | None,
        outputs: Sequence[Output | None],
    ) -> None:
        self.pid = popen.pid
        self._popen = popen
        self._pipes = pipes
        self._lock = RLock()  # a signal handler may write or kill, whatever it interrupts
        self._input: tuple[_Pipe, Input] | None = None
        self._outputs: dict[int, tuple[_Pipe, Output]] = {}
        self._may_refuse: list[Input | Output] = []  # for a while, what flows through a pipe
        if stdin is not None and (pipe := pipes[0]) is not None:
            self._input = pipe, stdin
            if stdin.may_refuse:
                self._may_refuse.append(stdin)
        for number, output in enumerate(outputs, 1):
            if output is not None and (pipe := pipes[number]) is not None:
                self._outputs[pipe.our_end] = pipe, output
                if output.may_refuse:
                    self._may_refuse.append(output)

    # -- what a back end adds ------------------------------------------------------

    def _check(self) -> None:
        """Leave alone what the program has closed without asking: the number may belong to another file by now."""

    def _serve(self, timeout: float | None) -> bool:
        """Wait for the exit and the open pipes, and do what can be done; return whether there was anything."""
        raise NotImplementedError

    def _stop_watching(self, number: int) -> None:
        """Do not wait for that pipe any longer."""

    # -- what is the same everywhere -----------------------------------------------

    @property
    def returncode(self) -> int | None:
        return None if self._outputs else self._popen.returncode

    @property
    def retry_after(self) -> float | None:
        return min(filter(None, (stream.retry_after for stream in self._may_refuse)), default=None)

    def _until_retry(self, timeout: float | None) -> float | None:
        """Return the timeout, or less if a file is to be asked again before it."""
        retry = self.retry_after if self._may_refuse else None
        return timeout if retry is None or (timeout is not None and timeout < retry) else retry

    def pump(self, timeout: float | None) -> bool:
        self._check()
        if self._input is None and (to_child := self._pipes[0]) is not None:
            to_child.close()  # an interrupt may have come right before that, and the child waits for the end
        if self._popen.returncode is None and not self._serve(timeout):
            return False
        if self._popen.returncode is not None:
            self._finish()
        return True

    def _finish(self) -> None:
        """Read what the child has left in the pipes, and close them.  What a grandchild writes later is discarded."""
        for number, (pipe, output) in list(self._outputs.items()):
            pipe.read_rest(output.raw)
            self._close_output(number)
        self._close_input()
        self._close_rest()

    def _discard_pipes(self) -> None:
        self._outputs.clear()
        self._close_input()
        self._close_rest()

    # An interrupt may come between any two steps of these.  So the attribute that says that a pipe is to be
    # used is changed first, and the pipe is closed last.

    def _close_output(self, number: int) -> None:
        pipe, output = self._outputs[number]
        output.ended = True
        del self._outputs[number]
        self._stop_watching(number)
        pipe.close()

    def _close_input(self) -> None:
        given = self._input
        if given is None:
            return
        with self._lock:
            if self._input is None:
                return
            pipe, stream = self._input
            self._input = None
            stream.discard()
            self._stop_watching(pipe.our_end)
        pipe.close()

    def _close_rest(self) -> None:
        _close_all(self._pipes)
