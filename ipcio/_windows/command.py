"""What ``ipcio lock`` does on Windows, where no process becomes another and locks are not inherited."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

assert sys.platform == "win32" or not TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["become", "open_inherited"]


def open_inherited(path: str, access: int) -> int:
    """Open a file, which stays open as long as the command runs."""
    return os.open(path, access | os.O_BINARY | os.O_NOINHERIT, 0o666)


def become(command: list[str]) -> NoReturn:
    """Run the command, and end as it ends."""
    code = subprocess.call(command)  # noqa: S603
    sys.exit((code + (1 << 31)) % (1 << 32) - (1 << 31))  # sys.exit takes no more than a C int
