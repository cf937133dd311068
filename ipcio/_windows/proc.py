"""Children on Windows: `subprocess` starts them, and one wait covers their exit and all their pipes."""

from __future__ import annotations

import _winapi
import atexit
import contextlib
import errno
import os
import subprocess
from math import ceil
from weakref import WeakSet

from ipcio._forklock import RLock
from ipcio._record import close_first, record
from ipcio._typing import TYPE_CHECKING
from ipcio._windows import win32
from ipcio._windows.pipes import Pipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ipcio._streams import Input, Output

__all__ = ["Child"]

_OPERATIONS = 4  # reads or writes until somebody else has a turn
_LONGEST = 1e6  # seconds that the calls of the system take at once
_KILLED = 128  # and the number of the signal: the exit code of who was killed
_SIGKILL = 9
_LONGEST_LINE = 32766  # characters of a command


class Child:
    """See `ipcio._backend.Child`."""

    def __init__(
        self,
        command: str | Sequence[Any],
        streams: Sequence[int | None],
        cwd: Any,
        env: Mapping[Any, Any] | None,
        start_new_session: bool,
    ) -> None:
        self._wake = _Handles(1, win32.CreateEvent, (None,), (False,), (False,), (None,))
        self._job = _Handles(int(start_new_session), win32.CreateJobObject, (None,), (None,))
        pipes = [
            Pipe(to_child=number == 0) if stream == subprocess.PIPE else None for number, stream in enumerate(streams)
        ]
        fds = [pipe.theirs if pipe else stream for pipe, stream in zip(pipes, streams, strict=True)]
        try:
            self._popen = _start(command, fds, cwd, env, self._job.first)
        except BaseException:
            for pipe in filter(None, pipes):  # which the traceback would keep
                pipe.close()
            self._wake.close()
            self._job.close()
            raise
        for pipe in filter(None, pipes):
            pipe.let_go()
        self._pipes = pipes
        self.pid = self._popen.pid
        self._lock = RLock()  # a signal handler may kill, whatever it interrupts
        self._sent: set[int] = set()  # signals that ended it
        self._input: tuple[Pipe, Input] | None = None
        self._sending: list[int] | None = None  # where the number of bytes belongs that are under way
        self._outputs: list[tuple[Pipe, Output]] = []

    def connect(self, stdin: Input | None, outputs: Sequence[Output | None]) -> None:
        """See `ipcio._backend.Child`."""
        to_child, *from_child = self._pipes
        if to_child is not None and stdin is not None:
            self._input = to_child, stdin
        for pipe, output in zip(from_child, outputs, strict=True):
            if pipe is not None and output is not None:
                self._outputs.append((pipe, output))

    @property
    def returncode(self) -> int | None:
        """See `ipcio._backend.Child`."""
        return None if self._outputs else self._popen.returncode

    # -- what happens ----------------------------------------------------------

    def pump(self, timeout: float | None) -> bool:
        """See `ipcio._backend.Child`."""
        if self._popen.returncode is None and not self._serve(timeout):
            return False
        if self._popen.returncode is not None:
            self._finish()
        return True

    def _serve(self, timeout: float | None) -> bool:
        """Do what can be done, or wait until something can; return whether there was anything."""
        happened = self._move()
        handles = [self._popen.handle, self._wake.first]
        handles += [event for pipe in self._pipes if pipe is not None and (event := pipe.event) is not None]
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
        for pipe, output in list(self._outputs):
            try:
                for _ in range(_OPERATIONS):
                    if not pipe.read(output.raw):
                        break
                    happened = True
            except BrokenPipeError:  # the end
                self._close_output(pipe, output)
                happened = True
        if self._input is not None:
            happened |= self._write(*self._input)
        return happened

    def _write(self, pipe: Pipe, stream: Input) -> bool:
        """Write what there is, as much as fits."""
        happened = False
        for _ in range(_OPERATIONS + 1):
            what: tuple[memoryview[int], list[int]] | bool = False
            if self._sending is None and isinstance(what := stream.next(), bool):
                if what:
                    self._close_input()
                return happened
            try:  # what a source raises is not of the pipe
                if isinstance(what, bool):
                    has_ended = self._sending is None or pipe.written(self._sending)
                else:
                    data, self._sending = what
                    has_ended = pipe.write(data, self._sending)
            except OSError as error:  # the child has closed its end, and wants no more
                if not isinstance(error, BrokenPipeError) and error.winerror != win32.ERROR_PIPE_NOT_CONNECTED:
                    raise
                self._close_input()
                return True
            if not has_ended:
                return happened
            self._sending = None
            happened = True
        return True

    def attend(self) -> None:
        """See `ipcio._backend.Child`."""
        with self._lock:
            if self._wake.first:
                win32.SetEvent(self._wake.first)

    def open_event(self) -> int:
        """See `ipcio._backend.Child`."""
        return -1

    def close_event(self, fd: int) -> None:
        """See `ipcio._backend.Child`."""

    # -- the end ---------------------------------------------------------------

    def kill(self, number: int, *, tree: bool, grace: bool = False) -> None:  # noqa: ARG002 -- nothing can refuse to end
        """See `ipcio._backend.Child`."""
        with self._lock:
            has_exited = self._popen.returncode is not None
            try:
                if tree and self._job.first:  # others of the job may go on after the child
                    if not win32.TerminateJobObject(self._job.first, _KILLED + number):
                        raise win32.failure()
                elif not has_exited:
                    _winapi.TerminateProcess(self._popen.handle, _KILLED + number)
            except PermissionError:
                if not has_exited and not self._popen.has_exited():
                    raise
            else:
                if not has_exited:
                    self._sent.add(number)

    def has_gone(self, *, tree: bool) -> bool:  # noqa: ARG002 -- a signal to a tree ends all of it at once
        """See `ipcio._backend.Child`."""
        if self._popen.returncode is None and self._popen.has_exited():
            self._reap()
        return self._popen.returncode is not None

    def end(self) -> int:
        """See `ipcio._backend.Child`."""
        if self._popen.returncode is None:
            self.kill(_SIGKILL, tree=False)
            self._popen.await_exit()
            self._reap()
        code = self._popen.returncode
        assert code is not None
        return int(code)

    def close(self) -> None:
        """See `ipcio._backend.Child`."""
        self.end()
        self._outputs.clear()
        self._close_input()
        self._close_rest()
        with self._lock:
            self._job.close()

    def is_ours(self) -> bool:
        """See `ipcio._backend.Child`."""
        return True  # nothing forks here

    def _reap(self) -> None:
        with self._lock:
            if self._popen.returncode is None:
                code = _winapi.GetExitCodeProcess(self._popen.handle)
                self._popen.returncode = _KILLED - code if code - _KILLED in self._sent else code

    def _finish(self) -> None:
        """Read what the child has left in the pipes, and close them.  What a grandchild writes later is nobody's."""
        for pipe, output in list(self._outputs):
            with contextlib.suppress(BrokenPipeError):
                pipe.read_rest(output.raw)
            self._close_output(pipe, output)
        self._close_input()
        self._close_rest()

    # In these, first what tells that it is to be used goes, then the thing.

    def _close_output(self, pipe: Pipe, output: Output) -> None:
        output.ended = True
        self._outputs = [each for each in self._outputs if each[0] is not pipe]
        pipe.close()

    def _close_input(self) -> None:
        if self._input is not None:
            pipe, stream = self._input
            self._input = None
            stream.discard()
            pipe.close()

    def _close_rest(self) -> None:
        with self._lock:
            self._wake.close()
            self._popen.close()
        for pipe in filter(None, self._pipes):
            pipe.close()


class _Handles:
    """Kernel objects without a name, each the first of its kind or none; they go with the object."""

    def __init__(self, count: int, make: Any, *arguments: Any) -> None:
        self._handles: list[int] = []
        if count:
            record(self._handles, make, *arguments)
        if count and not self._handles[0]:
            self._handles.clear()
            raise win32.failure()

    @property
    def first(self) -> int:
        """The handle; 0 where there is none."""
        return self._handles[0] if self._handles else 0

    def close(self) -> None:
        """Close it."""
        close_first(win32.CloseHandle, self._handles, len(self._handles))

    __del__ = close


def _start(
    command: str | Sequence[Any], fds: Sequence[int | None], cwd: Any, env: Mapping[Any, Any] | None, job: int
) -> _Popen:
    """Start a child, in the job if there is one; if that fails, say why and leave none."""
    stdin, stdout, stderr = fds
    line = _line_of(command)
    # What is malformed is told here: where Popen tells it, the traceback would keep handles.
    if cwd is not None:
        cwd = os.fsdecode(cwd)
    if env is not None:
        env = {os.fsdecode(key): os.fsdecode(value) for key, value in env.items()}
    popen = None
    try:
        popen = _Popen(
            line,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            shell=isinstance(command, str),
            cwd=cwd,
            env=env,
            creationflags=win32.CREATE_SUSPENDED | subprocess.CREATE_NEW_PROCESS_GROUP if job else 0,
        )
        if job:
            if not win32.AssignProcessToJobObject(job, popen.handle):
                raise win32.failure()
            if win32.NtResumeProcess(popen.handle):
                raise OSError(errno.EPERM, "the system does not let it begin")
    except BaseException as error:
        if popen is not None:
            popen.end()
        if isinstance(error, OSError) and error.filename is None:
            _explain(error, command, cwd)
        raise
    return popen


def _line_of(command: str | Sequence[Any]) -> str:
    """What Windows takes for a command."""
    line = command if isinstance(command, str) else subprocess.list2cmdline(command)
    if len(line.encode("utf-16-le", "surrogatepass")) // 2 > _LONGEST_LINE:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG), _program(command))
    return line


def _explain(error: OSError, command: str | Sequence[Any], cwd: Any) -> None:
    """Raise what the system does not tell: which file was wrong."""
    if cwd is not None and not os.path.isdir(cwd):
        number = errno.ENOTDIR if os.path.exists(cwd) else errno.ENOENT
        raise OSError(number, os.strerror(number), cwd) from None
    error.filename = _program(command)


def _program(command: str | Sequence[Any]) -> Any:
    return command if isinstance(command, str) else command[0]


class _Popen(subprocess.Popen[bytes]):
    """A child that ends with its object."""

    _handle: Any = None  # while there is no child
    returncode: Any = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        _alive.add(self)
        super().__init__(*arguments, **options)

    @property
    def handle(self) -> int:
        """The process."""
        return int(self._handle)

    def has_exited(self) -> bool:
        """Whether the process has ended."""
        return _winapi.WaitForSingleObject(self.handle, 0) == _winapi.WAIT_OBJECT_0

    def await_exit(self) -> None:
        """Wait until it has."""
        while not self.has_exited():
            with contextlib.suppress(InterruptedError):
                _winapi.WaitForMultipleObjects([self.handle], False, _winapi.INFINITE)

    def close(self) -> None:
        """Let go of the process, which has been reaped."""
        if self._handle is not None:
            self._handle.Close()

    def end(self) -> None:
        """Kill the child and reap it, if it runs."""
        if self._handle is not None and not self._handle.closed:
            if not self.has_exited():
                with contextlib.suppress(PermissionError):  # it ends just now
                    _winapi.TerminateProcess(self.handle, _KILLED + _SIGKILL)
                self.await_exit()
            self.returncode = _winapi.GetExitCodeProcess(self.handle)
            self.close()

    __del__ = end  # in place of Popen's, which only warns


_alive: WeakSet[_Popen] = WeakSet()


@atexit.register
def _end_all() -> None:
    """End the children of handles that outlive the interpreter, in some module say."""
    for popen in list(_alive):
        popen.end()
