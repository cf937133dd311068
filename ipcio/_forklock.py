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

__all__ = ["turn"]

turn = RLock()

if sys.platform != "win32":
    os.register_at_fork(
        before=turn.acquire,
        after_in_parent=turn.release,
        after_in_child=turn.release,  # the forking thread is the only one left
    )
