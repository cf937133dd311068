"""The one lock of the process, which ``fork`` waits for.

Whatever is half-way -- a descriptor opened but not yet owned by a handle, a
position read but not yet moved -- happens under :data:`turn`.  ``os.fork``
takes it too, so that a child is never born with half of something: with a
share in a name that no handle of the child would ever give back, say.

One lock, not several: garbage collection may close a handle at any point of
any operation, and two locks taken in both orders would one day meet.
Re-entrant for the same reason.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock  # threading's own, without importing threading

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["before_fork", "turn"]

turn = RLock()

before_fork: list[Callable[[], None]] = []
"""What is to be done before a fork, once nothing is half-way any more."""


def _before() -> None:
    turn.acquire()
    for prepare in before_fork:
        prepare()


if sys.platform != "win32":
    os.register_at_fork(
        before=_before,
        after_in_parent=turn.release,
        after_in_child=turn.release,  # the forking thread is the only one left
    )
