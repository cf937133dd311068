"""One rule for timeouts."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import SupportsFloat

__all__ = ["check_timeout"]

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
