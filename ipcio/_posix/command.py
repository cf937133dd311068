"""What ``ipcio lock`` does to its process: a locked file that the command inherits, and becoming the command."""

from __future__ import annotations

import os
import signal

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["become", "inherit", "occupy"]

_STDERR = 2


def occupy() -> None:
    """Have no file that is opened from now on take the place of a standard stream that is closed."""
    while (fd := os.open("/", os.O_RDONLY | os.O_CLOEXEC)) <= _STDERR:
        pass
    os.close(fd)


def inherit(fd: int) -> None:
    """Have the command inherit a file."""
    os.set_inheritable(fd, True)


def become(command: list[str]) -> NoReturn:
    """Have this very process run the command."""
    # What Python ignores, the command would ignore, too.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execvp(command[0], command)  # noqa: S606
