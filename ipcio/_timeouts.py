"""One rule for timeouts, and a way to wait where the system offers none."""

from __future__ import annotations

import contextlib
import time
from math import isnan

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import SupportsFloat

__all__ = ["check_timeout", "now", "poll"]

now = time.perf_counter
"""The clock of timeouts: monotonic everywhere, and on Windows finer than the one of that name."""

_FIRST_PAUSE, _LAST_PAUSE = 0.00005, 0.0009  # seconds between two tries
_EVER = 1e8  # seconds, three years: what no clock of any platform overflows with


def check_timeout(timeout: SupportsFloat | None) -> float | None:
    """Return how many seconds to wait, None for ever: what is negative, infinite or beyond three years.

    Raises `ValueError` for NaN and `TypeError` for what is no number.
    """
    if timeout is None:
        return None
    try:
        if isnan(timeout):
            raise ValueError("timeout must be a number of seconds, not NaN; None waits for ever")
        seconds = float(timeout)
    except OverflowError:  # an int that no float can be
        return None
    return seconds if 0 <= seconds <= _EVER else None


def poll(
    attempt: Callable[[], object],
    busy: tuple[type[OSError], ...],
    seconds: float | None,
    longest: float = _LAST_PAUSE,
) -> bool:
    """Try again and again, within that time (None: for ever), until `attempt` raises none of `busy`; return whether.

    `longest` is the longest pause between two tries, in seconds.  Longer pauses would come late, shorter
    ones burn more time.
    """
    end = None if seconds is None else now() + seconds
    pause = _FIRST_PAUSE
    while True:
        with contextlib.suppress(*busy):
            attempt()
            return True
        left = pause if end is None else end - now()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(2 * pause, longest)
