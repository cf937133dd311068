"""Starting a child on Windows, by `subprocess`; and its end, with its object at the latest."""

from __future__ import annotations

import _winapi
import atexit
import contextlib
import errno
import os
import subprocess
from weakref import WeakSet

from ipcio._record import finish
from ipcio._typing import TYPE_CHECKING
from ipcio._windows import win32

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

KILLED = 128  # plus the number of the signal: the exit code of a child that was killed
SIGKILL = 9
_LONGEST_LINE = 32766  # characters of a command


def start_popen(
    command: str | Sequence[Any], cwd: Any, env: Mapping[Any, Any] | None, job: int, streams: Sequence[int | None]
) -> Popen:
    """Start a child with these standard streams, in the job if it is not 0; after an error no child is left."""
    stdin, stdout, stderr = streams
    line = _line_of(command)
    # Malformed arguments raise here: an error that Popen raises would keep handles in its traceback.
    if cwd is not None:
        cwd = os.fsdecode(cwd)
    if env is not None:
        env = {os.fsdecode(key): os.fsdecode(value) for key, value in env.items()}
    popen = None
    try:
        popen = Popen(
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
                raise OSError(errno.EPERM, "the system refuses to start the program")
    except BaseException as error:
        if popen is not None:
            popen.kill_and_reap()
        if isinstance(error, OSError) and error.filename is None:
            _explain(error, command, cwd)
        raise
    return popen


def _line_of(command: str | Sequence[Any]) -> str:
    """The command line that Windows requires."""
    line = command if isinstance(command, str) else subprocess.list2cmdline(command)
    if len(line.encode("utf-16-le", "surrogatepass")) // 2 > _LONGEST_LINE:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG), _program(command))
    return line


def _explain(error: OSError, command: str | Sequence[Any], cwd: Any) -> None:
    """Name the file that was wrong, which the system does not do; raise another error if that is `cwd`."""
    if cwd is not None and not os.path.isdir(cwd):
        number = errno.ENOTDIR if os.path.exists(cwd) else errno.ENOENT
        raise OSError(number, os.strerror(number), cwd) from None
    error.filename = _program(command)


def _program(command: str | Sequence[Any]) -> Any:
    return command if isinstance(command, str) else command[0]


class Popen(subprocess.Popen[bytes]):
    """A child that is killed with its object."""

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
        """Close the handle of the process, which has been reaped."""
        if self._handle is not None:
            self._handle.Close()

    def kill_and_reap(self) -> None:
        """Kill the child, if it runs, and reap it."""
        if self._handle is not None and not self._handle.closed:
            if not self.has_exited():
                with contextlib.suppress(PermissionError):  # it is exiting already
                    _winapi.TerminateProcess(self.handle, KILLED + SIGKILL)
                self.await_exit()
            self.returncode = _winapi.GetExitCodeProcess(self.handle)
            self.close()

    def __del__(self) -> None:  # in place of Popen's, which only warns
        finish(self.kill_and_reap)


_alive: WeakSet[Popen] = WeakSet()


@atexit.register
def _end_all() -> None:
    """Kill the children of handles that outlive the interpreter, as those in a module's global variables do."""
    for popen in list(_alive):
        popen.kill_and_reap()
