"""What ``ipcio lock`` does on Windows, where no process becomes another and locks are not inherited.

The command is a child, and this process has the lock.  So the command must not outlive it:
it is in a job that ends with its last handle, which is this process's.  What the command
starts itself is not: it may go on, without the lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
import sys

from ipcio._typing import TYPE_CHECKING
from ipcio._windows import win32

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["become", "inherit", "occupy"]


def occupy() -> None:
    """Do nothing: the command gets the standard streams and no others."""


def inherit(fd: int) -> None:
    """Do nothing: the file stays open here as long as the command runs."""


def become(command: list[str]) -> NoReturn:
    """Run the command, and end as it ends."""
    job = win32.CreateJobObject(None, None)
    limits = win32.JOBOBJECT_EXTENDED_LIMIT_INFORMATION()
    limits.LimitFlags = win32.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | win32.JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK
    if not job or not win32.SetInformationJobObject(
        job, win32.JOB_OBJECT_EXTENDED_LIMIT_INFORMATION, ctypes.byref(limits), ctypes.sizeof(limits)
    ):
        raise win32.failure()
    with subprocess.Popen(command, creationflags=win32.CREATE_SUSPENDED) as child:  # noqa: S603
        handle = int(child._handle)  # type: ignore[attr-defined]
        if not win32.AssignProcessToJobObject(job, handle):
            child.kill()
            raise win32.failure()
        win32.NtResumeProcess(handle)
        while child.returncode is None:
            with contextlib.suppress(KeyboardInterrupt):  # which the command has heard, too
                child.wait()
    sys.exit((child.returncode + (1 << 31)) % (1 << 32) - (1 << 31))  # it takes no more than a C int
