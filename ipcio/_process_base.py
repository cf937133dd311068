"""What all methods of `Process` rest on: its state, its locks, and how it is closed whatever is under way.

Three rules keep methods from disturbing each other:

* `_pumping` is held by the thread that reads, writes, delivers output or closes.  It is a lock that the same
  thread may acquire again, for a callback may call `wait`.
* A signal handler may call methods, too, and runs in the main thread, which may hold `_pumping`.  So a
  method asks `_is_interrupted`, and then leaves the pipes alone.
* `close` leaves to the method that it interrupts what must not change under that: the method calls
  `_finish_closing` at its end if `_is_closing`.
"""

from __future__ import annotations

import errno
from _thread import get_ident
from time import sleep

from ipcio._delivery import Delivery
from ipcio._forklock import RLock
from ipcio._light import nullcontext, suppress
from ipcio._record import record
from ipcio._signal_handlers import has_interrupted_method, in_signal_handler
from ipcio._timeouts import check_timeout
from ipcio._typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import Any, Literal

    from ipcio._backend.proc import Child
    from ipcio._child_input import Input
    from ipcio._child_output import Output
    from ipcio._delivery import Unread

Piece = TypeVar("Piece", bytes, str)
_Result = TypeVar("_Result")

SIGNALS = {"term": 15, "kill": 9}  # everywhere; not every system has a name for the second
FIRST_PAUSE, LAST_PAUSE = 0.002, 0.05  # seconds between two looks for what no event announces
_LONGEST_GRACE = 1e8  # seconds, three years

# Where the methods of a `Process` are.
_MODULES = {"ipcio._process_base", "ipcio._process_async", "ipcio._process"}
_NOTHING = nullcontext()


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


class ProcessBase(Generic[Piece]):
    """The state of a `Process`, and the methods that both its blocking and its asynchronous methods call."""

    def __init__(
        self,
        child: Child,
        stdin: Input | None,
        outputs: Sequence[tuple[Output, Callable[[Any], object] | None]],
        callback: Callable[[str, Any], object] | None,
        *,
        leads_group: bool,
    ) -> None:
        from threading import main_thread  # `subprocess` has imported it

        self._child = child
        self._stdin = stdin
        self._delivery = Delivery(outputs, callback)
        self._leads_group = leads_group
        self._pumping: Any = RLock()
        self._calling: Any = RLock()  # held by each method in the main thread, where a signal handler may run
        self._main_thread = main_thread().ident
        self._suspended: list[None] = []  # an item for each loop over the handle and each coroutine of it
        self._status: ExitStatus | None = None
        self._closed = False
        self._is_closing = False  # something is still to be closed

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

    # -- arguments and state -------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"I/O operation on closed file: process {self.pid}")  # the io module's words

    def _check_started_here(self) -> None:
        if self._status is None and not self._child.started_here():
            raise ChildProcessError(errno.ECHILD, "only the process that started it can wait for it", self.pid)

    def _check_iterable(self) -> None:
        self._check_open()
        self._check_started_here()
        if self._delivery.callback is not None:
            raise ValueError("the output goes to the callback: to iterate, pass no callback= to spawn()")
        if self._is_in_use() and in_signal_handler():
            raise RuntimeError("the signal handler has interrupted code that uses this process: it cannot iterate")

    def _check_kill(self, sig: str | int, *, tree: bool, grace: float | None) -> tuple[int, float | None]:
        """Return the number of the signal and the seconds of grace, None for none."""
        import signal  # with all its names, which only this method needs

        self._check_open()
        number = SIGNALS.get(sig) if isinstance(sig, str) else sig
        if number is None or number not in {*signal.valid_signals(), *SIGNALS.values()}:
            raise ValueError(f"sig must be 'term', 'kill' or the number of a signal, not {sig!r}")
        if tree and not self._leads_group:
            raise ValueError("tree=True requires spawn(..., start_new_session=True) or spawn(..., process_group=0)")
        seconds = check_timeout(grace)
        if grace is not None and seconds is None:
            if grace < 0:
                raise ValueError(f"grace must not be negative, but it is {grace!r}")
            seconds = _LONGEST_GRACE
        return int(number), seconds if self._child.started_here() else None

    def _ended(self) -> ExitStatus | None:
        """How it ended, if it did and all its output has been delivered."""
        if self._status is None:
            code = self._child.returncode
            if code is None or not self._delivery.is_finished:
                return None
            self._status = _exit_status(code)
        return self._status

    def _only_waits_for_files(self) -> bool:
        """Whether the child has exited, and files are not ready for the rest of its output."""
        return self._delivery.is_refused and self._child.returncode is not None

    def _pump(self, timeout: float | None) -> None:
        """Do as `Child.pump`, also when a file alone is waited for."""
        if self._delivery.may_refuse and self._only_waits_for_files():
            pause = self._child.retry_after or 0
            sleep(pause if timeout is None else min(pause, timeout))
        else:
            self._child.pump(timeout)

    def _unread(self) -> Unread:
        """What `wait` does with output that nothing reads; another thread may have called `close` since it began."""
        return "discard" if self._closed else "raise"

    # -- steps of several methods --------------------------------------------------

    def _queue(self, stdin: Input, data: Sequence[Any]) -> None:
        try:
            with self._call():
                stdin.put(data, EOF)
                self._child.input_queued()
        finally:
            if self._is_closing:
                self._finish_closing()

    def _end_input(self) -> None:
        if self._stdin is not None and self._status is None and self._child.started_here():
            with suppress(ValueError):  # it has ended
                self._queue(self._stdin, (EOF,))

    def _next_batch(self, output: Output) -> Iterator[Piece] | None:
        try:
            with self._pumping:  # another thread may read
                return output.batch()
        finally:
            if self._is_closing:
                self._finish_closing()

    def _exclusively(self, timeout: float, work: Callable[..., _Result], *arguments: Any) -> _Result | None:
        """Call `work` and hold `_pumping` meanwhile; return None if another thread held it during the timeout."""
        held: list[bool] = []
        try:
            record(held, self._pumping.acquire, True, timeout)
            return work(*arguments) if held[0] else None
        finally:
            if True in held:
                self._pumping.release()

    # -- signal handlers -----------------------------------------------------------

    def _call(self) -> AbstractContextManager[object]:
        """The context of a method that a signal handler must be able to notice."""
        return self._calling if get_ident() == self._main_thread else _NOTHING

    def _is_in_use(self) -> bool:
        """Whether this thread is in a method of the handle, below the method that asks."""
        if not (self._calling._is_owned() or self._pumping._is_owned()):  # as `threading.Condition` asks
            return False
        # An interrupt may have left a lock locked; the stack decides.
        return has_interrupted_method(self, _MODULES)

    def _is_interrupted(self) -> bool:
        """Whether a signal handler calls, and the code that it interrupts consumes the output, or is yet to iterate."""
        is_used = self._delivery.is_for_loop or bool(self._suspended) or self._is_in_use()
        return is_used and in_signal_handler()

    # -- the end -------------------------------------------------------------------

    def close(self) -> None:
        """Kill the child and reap it, if it runs; discard its output and close the pipes.

        Raises `PermissionError` if the child runs as another user and this process may
        not signal.  The handle stays open then: end the child in another way, such as `EOF`, and wait.
        """
        self._closed = self._is_closing = True
        if self._child.started_here():
            with suppress(ChildProcessError), self._call():  # which `wait` raises
                try:
                    self._child.kill(SIGNALS["kill"], tree=False)  # a thread that waits for the child returns then
                except PermissionError:
                    self._closed = self._is_closing = False
                    raise
                with self._pumping:
                    code = self._child.kill_and_reap()
                if self._status is None:
                    self._status = _exit_status(code)
            self._delivery.discard()
        self._finish_closing()

    def _finish_closing(self) -> None:
        """Close the pipes, unless this thread is in another method of the handle: that does so at its end."""
        if self._child.started_here() and self._is_in_use():
            return
        # A fork may have copied the lock while a thread held it; there, nothing else uses the copy.
        with self._pumping if self._child.started_here() else nullcontext():
            self._child.close()
            self._delivery.discard()
        self._is_closing = False


def _exit_status(code: int) -> ExitStatus:
    return ExitStatus(ok=not code, kind="signal" if code < 0 else "exit", code=abs(code))
