"""Shared memory, over the store of the system."""

from __future__ import annotations

from ipcio._forklock import fork_lock
from ipcio._posix import lifetime
from ipcio._posix.namespace import segment_path
from ipcio._posix.store import store
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ipcio._backend import Mapped

    Handle = TypeVar("Handle")


def create(
    name: str,
    size: int,
    *,
    perm: int,
    persist: bool,
    reserve: bool,
    init: Callable[[Handle], object] | None,
    into: Callable[[Mapped], Handle],
) -> Handle:
    """Make a segment that is complete when it gets its name."""
    with store.NewSegment(name, segment_path(name)) as new:
        if init is not None:
            return new.make_filled(size, perm, persist=persist, reserve=reserve, init=init, into=into)
        new.make(size, perm, reserve=reserve)
        new.finish(perm, persist=persist)
        with fork_lock:
            return into(new.hand_over())


def attach(name: str, *, writable: bool, owner: int | None = None, into: Callable[[Mapped], Handle]) -> Handle:
    """Map what has the name."""
    for _ in lifetime.retry_while_busy(name):
        with store.ExistingSegment(name, segment_path(name), owner) as found:
            if found.map(writable=writable):
                with fork_lock:
                    return into(found.hand_over())
            found.roll_back()
    raise AssertionError("unreachable")


def unlink(name: str) -> None:
    """Remove the name."""
    for _ in lifetime.retry_while_busy(name):
        with store.ExistingSegment(name, segment_path(name)) as found, store.directory_lock(found.path):
            if found.remove_once():
                return
