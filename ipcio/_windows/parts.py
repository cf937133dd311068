"""What mutexes, events and queues are made of on Windows."""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING
from ipcio._words import PolledWords, WordsInMemory

if TYPE_CHECKING:
    import mmap

    from ipcio._backend import Lock, OpenObject, Words


def read(_: int, memory: mmap.mmap | memoryview[int], size: int, /) -> bytes:
    """Return the first bytes: a section cannot be cut short."""
    return bytes(memory[:size])


def is_trusted(_: int, /) -> bool:
    """Return True: only this user and the system can open an object."""
    return True


def process_namespace() -> int:
    """Return 0: there are none."""
    return 0


def lock_layout() -> bytes:
    """Return nothing: the kernel alone has the state of a lock."""
    return b""


def new_lock(*, wide: bool) -> bytes:  # noqa: ARG001 -- see above
    """Return nothing, as above."""
    return b""


def lock(opened: OpenObject, at: int, /) -> Lock:
    """Return the lock with its slot there."""
    raise NotImplementedError(f"no locks on Windows yet: {opened.name!r}, {at}")


def words(opened: OpenObject, /) -> Words:
    """Return the words of the object."""
    return PolledWords(WordsInMemory(opened.memory))
