"""Shared memory, over the store of the system; and the segments of mutexes, events and queues.

Those are files everywhere.  Where shared memory is no file (macOS), they are files in the
directory of the companions, so that they can be locked, read and written there as well.
"""

from __future__ import annotations

from ipcio._names import CALLED, SEGMENTS
from ipcio._posix import lifetime, namespace, store_files
from ipcio._posix.namespace import segment_path
from ipcio._posix.store import store
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ipcio._backend.shm import Into

    Handle = TypeVar("Handle")


def create(
    name: str,
    size: int,
    *,
    perm: int,
    persist: bool,
    reserve: bool,
    init: Callable[[Handle], object] | None,
    into: Into[Handle],
    kind: str = "shm",
) -> Handle:
    """Make a segment that is complete when it gets its name."""
    new: store.NewSegment | store_files.NewSegment
    if kind in SEGMENTS:
        new = store_files.NewSegment(name, segment_path(name, kind))
        perm = namespace.file_perm(perm)
    else:
        new = store.NewSegment(name, segment_path(name))
    with new:
        return new.make(size, perm, persist=persist, reserve=reserve, init=init, into=into)


def attach(name: str, *, writable: bool, owner: int | None = None, into: Into[Handle], kind: str = "shm") -> Handle:
    """Map what has the name."""
    since = None
    while True:
        with _existing(name, kind, owner) as found:
            handle = found.map(into, writable=writable)
            if handle is not None:
                return handle
            found.roll_back()
        since = lifetime.wait_a_moment(name, since)


def unlink(name: str, *, kind: str = "shm") -> None:
    """Remove the name."""
    for _ in lifetime.retry_while_busy(name):
        with _existing(name, kind) as found, store.directory_lock(found.path):
            if found.remove_once():
                return


def _existing(name: str, kind: str, owner: int | None = None) -> store.ExistingSegment | store_files.ExistingSegment:
    if kind in SEGMENTS:
        found = store_files.ExistingSegment(name, segment_path(name, kind), owner)
        found.called = CALLED[kind]
        return found
    return store.ExistingSegment(name, segment_path(name), owner)
