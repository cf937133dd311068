"""The first contents of a segment, where the system gives a segment its name before it can have any contents.

They are made in private memory, and the back end copies them while ipcio still keeps other processes from the segment.
"""

from __future__ import annotations

import errno
import mmap
import os

from ipcio._forklock import fork_lock
from ipcio._typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipcio._backend.shm import Into

    Handle = TypeVar("Handle")


def in_private_memory(name: str, size: int, init: Callable[[Handle], object], into: Into[Handle]) -> memoryview[int]:
    """Call `init` with a handle of private memory of this size; return the memory."""
    try:
        memory = mmap.mmap(-1, size)
    except (OSError, OverflowError):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name) from None
    content = memoryview(memory)
    with fork_lock:
        handle = into(memory, -1, None)
    init(handle)
    return content
