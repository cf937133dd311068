"""What mutexes, events and queues are made of on Windows: see `ipcio._backend.parts.PartsBackend`."""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING
from ipcio._windows.mutexes import MutexLock as lock  # noqa: N813 -- a function for the caller
from ipcio._windows.mutexes import first_contents
from ipcio._windows.words import EventWords as words  # noqa: N813

if TYPE_CHECKING:
    import mmap

    from ipcio._tuples import OpenObject

__all__ = ["by_calls", "is_trusted", "lock", "lock_layout", "new_lock", "process_namespace", "read", "words"]


def read(_: int, memory: mmap.mmap | memoryview[int], size: int, /) -> bytes:
    """Return the first bytes: a section cannot be cut short."""
    return bytes(memory[:size])


def is_trusted(_: int, /) -> bool:
    """Return True: no other user can open an object, and the kernel alone has the state of its locks."""
    return True


def process_namespace() -> int:
    """Return 0: Windows does not have any."""
    return 0


def lock_layout() -> bytes:
    """Return nothing: the kernel alone has the state of a lock."""
    return b""


def new_lock(*, wide: bool) -> bytes:  # noqa: ARG001 -- all locks are alike
    """Return what distinguishes the mutex of a new lock from all others."""
    return first_contents()


def by_calls(_: OpenObject, /) -> None:
    """Return None: a section has no calls that read or write it."""
