"""The parts of `ipcio.filelock`: ranges of an open file, lock files, waiting in an event loop, and errors."""

from __future__ import annotations

import sys

from ipcio._typing import TYPE_CHECKING

if sys.platform == "win32":
    from ipcio._windows import filelock as _chosen
else:
    from ipcio._posix import filelock as _chosen

if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    from ipcio._backend.filelock import LockBackend

    Mode: TypeAlias = Literal["r", "w", "rw"]

backend: LockBackend = _chosen

KINDS = {"r": backend.SHARE, "w": backend.EXCLUDE, "rw": backend.EXCLUDE}
"""What each mode requests."""
