"""What ``ipcio lock`` does to its process: a locked file that the command inherits, and becoming the command."""

from __future__ import annotations

import fcntl
import os
import signal

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["become", "open_inherited"]


def open_inherited(path: str, access: int) -> int:
    """Open a file so that the command inherits it."""
    fd = os.open(path, access | os.O_NOCTTY, 0o666)
    inherited = fcntl.fcntl(fd, fcntl.F_DUPFD, 3)  # even where stdin is closed, this is not the command's stdin
    os.close(fd)
    return inherited


def become(command: list[str]) -> NoReturn:
    """Have this very process run the command."""
    # What Python ignores, the command would ignore, too.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execvp(command[0], command)  # noqa: S606
