"""How long random campaigns are: with ``IPCIO_TESTS_ROUNDS=4``, four times as long.  CI doubles it in one run."""

from __future__ import annotations

import os
import sys

import pytest

FACTOR = float(os.environ.get("IPCIO_TESTS_ROUNDS", "1"))

# For a test that is a campaign: the watchdog waits as much longer.
campaign = pytest.mark.timeout(60 * FACTOR) if FACTOR > 1 else lambda test: test


def rounds(number: int) -> int:
    """So many rounds, if nobody asks for more."""
    return round(number * FACTOR)


FREE_THREADED = "free-threading" in sys.version
"""Whether threads can really run at once in this Python."""

_THREADS = 20 if FREE_THREADED else 1

# For a test in which many threads are at work.
of_threads = pytest.mark.timeout(60 * max(FACTOR, 1) * _THREADS)


def turns_of_threads(number: int) -> int:
    """So many rounds, and twenty times as many where threads really run at once."""
    return rounds(number * _THREADS)
