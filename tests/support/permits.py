"""How many permits a semaphore has now, wherever that can be found out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipcio import Semaphore


def permits_of(s: Semaphore) -> int:
    """Its value; where that cannot be read, the number of permits that can be taken, which are given back at once."""
    try:
        return s.value
    except NotImplementedError:
        taken = 0
        while s.dec(0):
            taken += 1
        if taken:
            s.inc(taken)
        return taken
