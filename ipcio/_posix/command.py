"""How ``ipcio lock`` runs the command on POSIX: it becomes the command, which inherits the locked file."""

from __future__ import annotations

import os
import signal

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

_STDERR = 2


def occupy() -> None:
    """Open the standard streams that are closed, so that the locked file cannot get their numbers."""
    while (fd := os.open("/", os.O_RDONLY | os.O_CLOEXEC)) <= _STDERR:
        pass
    os.close(fd)


def inherit(fd: int) -> None:
    """Let the command inherit a descriptor."""
    os.set_inheritable(fd, True)


def become(command: list[str]) -> NoReturn:
    """Replace this program by the command, in the same process."""
    # Python ignores these signals; the command would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execvp(command[0], command)  # noqa: S606 -- the command is the user's own
