"""One rule for timeouts, and a way to wait where the system has no call that waits."""

from __future__ import annotations

import time
from math import isnan

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import SupportsFloat

now = time.perf_counter
"""The clock of timeouts: monotonic everywhere, and on Windows finer than `time.monotonic`."""

_FIRST_PAUSE, _LAST_PAUSE = 0.00005, 0.0009  # seconds between two tries
_FIRST_RETRY, _LAST_RETRY = 0.00025, 0.01  # seconds between two tries, where other work goes on meanwhile
_FIRST_LOOK, _LAST_LOOK = 0.0005, 0.02  # seconds between two looks
_LONGEST = 1e8  # seconds, three years: no clock of any platform overflows


def check_timeout(timeout: SupportsFloat | None) -> float | None:
    """Return how many seconds to wait.

    None means for ever.  So does a timeout that is negative, infinite or longer than three years.
    Raises `ValueError` for NaN and `TypeError` for anything but a number.
    """
    if timeout is None:
        return None
    try:
        if isnan(timeout):
            raise ValueError("timeout must be a number of seconds, not NaN; None waits for ever")
        seconds = float(timeout)
    except OverflowError:  # an int that is larger than any float
        return None
    return seconds if 0 <= seconds <= _LONGEST else None


def pause_after(tries: int) -> float:
    """Return how many seconds to wait before the next try, after so many in a row that were in vain."""
    return min(_FIRST_RETRY * (1 << min(tries, 10)), _LAST_RETRY)


def poll(
    attempt: Callable[[], object],
    busy: tuple[type[OSError], ...],
    seconds: float | None,
    longest: float = _LAST_PAUSE,
) -> bool:
    """Call `attempt` until it raises none of `busy`, for so many seconds (None: for ever); return whether it succeeded.

    `longest` is the longest pause between two calls, in seconds.  With longer pauses the caller learns later that
    `attempt` can succeed, and shorter ones cost more processor time.
    """
    end = None if seconds is None else now() + seconds
    pause = _FIRST_PAUSE
    while True:
        try:
            attempt()
            return True
        except busy:
            pass
        left = pause if end is None else end - now()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(2 * pause, longest)


def wait_until(is_so: Callable[[], bool], end: float | None) -> bool:
    """Look again and again until `is_so()`, or until `end`, a time of `now` (None: no limit); return whether it is."""
    pause = _FIRST_LOOK
    while not is_so():
        left = pause if end is None else end - now()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LAST_LOOK)
    return True
