"""Children on Windows: one wait covers their exit and all their pipes."""

from __future__ import annotations

import _winapi
from functools import partial
from math import ceil

from ipcio._child import PipedChild, start_with_pipes
from ipcio._record import close_first, finish, record
from ipcio._typing import TYPE_CHECKING
from ipcio._windows import win32
from ipcio._windows.pipes import Pipe
from ipcio._windows.spawn import KILLED, SIGKILL, Popen, start_popen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ipcio._child_input import Input
    from ipcio._child_output import Output

_OPERATIONS = 4  # reads or writes before another pipe has a turn
_LONGEST = 1e6  # seconds; the system's calls accept no more


def start(
    command: str | Sequence[Any],
    streams: Sequence[int | None],
    cwd: Any,
    env: Mapping[Any, Any] | None,
    *,
    start_new_session: bool,
    posix: Mapping[str, Any],
    stdin: Input | None,
    outputs: Sequence[Output | None],
) -> Child:
    if posix:
        raise NotImplementedError(f"Windows does not have {', '.join(f'{name}=' for name in posix)}: leave it out")
    wake = _Handles(1, win32.CreateEvent, None, False, False, None)
    job = _Handles(int(start_new_session), win32.CreateJobObject, None, None)
    try:
        popen, pipes = start_with_pipes(Pipe, streams, partial(start_popen, command, cwd, env, job.first))
    except BaseException:
        wake.close()  # the traceback would keep them open
        job.close()
        raise
    return Child(popen, pipes, stdin, outputs, wake, job)


class Child(PipedChild[Pipe, Popen]):
    """A child, its pipes, and the kernel objects beside it: an event that wakes `pump`, a job for a tree."""

    def __init__(
        self,
        popen: Popen,
        pipes: Sequence[Pipe | None],
        stdin: Input | None,
        outputs: Sequence[Output | None],
        wake: _Handles,
        job: _Handles,
    ) -> None:
        super().__init__(popen, pipes, stdin, outputs)
        self._wake = wake
        self._job = job
        self._sent: set[int] = set()  # signals that ended it
        self._sending: list[int] | None = None  # where to add the number of bytes that are under way

    # -- what happens --------------------------------------------------------------

    def _serve(self, timeout: float | None) -> bool:
        happened = self._move()
        handles = [self._popen.handle, self._wake.first]
        held = [pipe for pipe, output in self._outputs.values() if output.retry_after is not None]
        handles += [
            event for pipe in self._pipes if pipe is not None and pipe not in held and (event := pipe.event) is not None
        ]
        timeout = self._until_retry(timeout)
        milliseconds = _winapi.INFINITE if timeout is None else ceil(min(timeout, _LONGEST) * 1000)
        if happened:
            milliseconds = 0
        try:
            first = _winapi.WaitForMultipleObjects(handles, False, milliseconds)
        except InterruptedError:  # Ctrl-C; its handler has run, and did not raise
            return True
        if first == _winapi.WAIT_TIMEOUT:
            return happened
        if first == 0:
            self._reap()
        else:
            self._move()
        return True

    def _move(self) -> bool:
        """Move data without waiting; return whether there was anything to do."""
        happened = False
        for number, (pipe, output) in list(self._outputs.items()):
            if output.retry_after is not None:  # it stays in the pipe, and the child waits
                continue
            try:
                for _ in range(_OPERATIONS):
                    if not pipe.read(output.raw):
                        break
                    happened = True
            except BrokenPipeError:  # the end
                self._close_output(number)
                happened = True
        if self._input is not None:
            happened |= self._write(*self._input)
        return happened

    def _write(self, pipe: Pipe, stream: Input) -> bool:
        """Write what there is, as much as fits."""
        happened = False
        for _ in range(_OPERATIONS + 1):
            chunk = None
            if self._sending is None:
                chunk = stream.next_chunk()  # outside of the `try`: what a file object raises is no error of the pipe
                if chunk is None:
                    return happened
                if chunk is stream.END:
                    self._close_input()
                    return happened
            try:
                if chunk is not None:
                    data, self._sending = chunk
                    has_ended = pipe.write(data, self._sending)
                else:
                    has_ended = self._sending is None or pipe.written(self._sending)
            except OSError as error:  # the child has closed its end: it does not want the rest
                if not isinstance(error, BrokenPipeError) and error.winerror != win32.ERROR_PIPE_NOT_CONNECTED:
                    raise
                self._close_input()
                return True
            if not has_ended:
                return happened
            self._sending = None
            happened = True
        return True

    def input_queued(self) -> None:
        with self._lock:
            if self._wake.first:
                win32.SetEvent(self._wake.first)

    def readiness_fd(self) -> int:
        return -1

    def close_readiness_fd(self, fd: int) -> None:
        pass

    # -- the end -------------------------------------------------------------------

    def started_here(self) -> bool:
        return True  # there is no fork

    def kill(self, number: int, *, tree: bool, grace: bool = False) -> None:  # noqa: ARG002 -- no process can refuse
        with self._lock:
            has_exited = self._popen.returncode is not None
            try:
                if tree and self._job.first:  # others of the job may go on after the child
                    if not win32.TerminateJobObject(self._job.first, KILLED + number):
                        raise win32.failure()
                elif not has_exited:
                    _winapi.TerminateProcess(self._popen.handle, KILLED + number)
            except PermissionError:
                if not has_exited and not self._popen.has_exited():
                    raise
            else:
                if not has_exited:
                    self._sent.add(number)

    def has_exited(self, *, tree: bool) -> bool:  # noqa: ARG002 -- a signal to a tree ends all of it at once
        if self._popen.returncode is None and self._popen.has_exited():
            self._reap()
        return self._popen.returncode is not None

    def kill_and_reap(self) -> int:
        if self._popen.returncode is None:
            self.kill(SIGKILL, tree=False)
            self._popen.await_exit()
            self._reap()
        code = self._popen.returncode
        assert code is not None
        return int(code)

    def close(self) -> None:
        self.kill_and_reap()
        self._discard_pipes()
        with self._lock:
            self._job.close()

    def _reap(self) -> None:
        with self._lock:
            if self._popen.returncode is None:
                code = _winapi.GetExitCodeProcess(self._popen.handle)
                self._popen.returncode = KILLED - code if code - KILLED in self._sent else code

    def _close_rest(self) -> None:
        with self._lock:
            self._wake.close()
            self._popen.close()
        super()._close_rest()


class _Handles:
    """At most one kernel object without a name; it is closed with this object at the latest."""

    def __init__(self, count: int, make: Any, *arguments: Any) -> None:
        self._handles: list[int] = []
        if count:
            record(self._handles, make, *arguments)
        if count and not self._handles[0]:
            self._handles.clear()
            raise win32.failure()

    @property
    def first(self) -> int:
        """The handle, or 0."""
        return self._handles[0] if self._handles else 0

    def close(self) -> None:
        """Close it."""
        close_first(win32.CloseHandle, self._handles, len(self._handles))

    def __del__(self) -> None:
        finish(self.close)
