"""How ``ipcio lock`` and ``ipcio sem run`` run a command on Windows, where ``exec`` and inherited locks do not exist.

The command is a child, and this process has the lock or the permit.  So the command must not outlive this process:
it belongs to a job that Windows ends with its last handle, which this process has.  Processes
that the command starts do not belong to the job: they may go on, without the lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
import sys

from ipcio._typing import TYPE_CHECKING
from ipcio._windows import win32

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import NoReturn


def occupy() -> None:
    """Do nothing: the command inherits the standard streams only."""


def inherit(fd: int) -> None:
    """Do nothing: the file stays open here while the command runs."""


def become(command: list[str]) -> NoReturn:
    """Run the command, and exit with its status."""
    sys.exit(_run(command))


@contextlib.contextmanager
def supervising() -> Generator[Callable[[list[str]], int], None, None]:
    """Provide a function that runs a command as a child and returns its exit status."""
    yield _run


def _run(command: list[str]) -> int:
    job = win32.CreateJobObject(None, None)
    limits = win32.JOBOBJECT_EXTENDED_LIMIT_INFORMATION()
    limits.LimitFlags = win32.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | win32.JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK
    if not job or not win32.SetInformationJobObject(
        job, win32.JOB_OBJECT_EXTENDED_LIMIT_INFORMATION, ctypes.byref(limits), ctypes.sizeof(limits)
    ):
        raise win32.failure()
    with subprocess.Popen(command, creationflags=win32.CREATE_SUSPENDED) as child:  # noqa: S603 -- the command is the user's own
        handle = int(child._handle)  # type: ignore[attr-defined]
        if not win32.AssignProcessToJobObject(job, handle):
            child.kill()
            raise win32.failure()
        win32.NtResumeProcess(handle)
        while child.returncode is None:
            with contextlib.suppress(KeyboardInterrupt):  # the command received it as well
                child.wait()
    return (child.returncode + (1 << 31)) % (1 << 32) - (1 << 31)  # a C int, as `exit` requires
