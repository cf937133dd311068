"""How long random campaigns are: with ``IPCIO_TESTS_ROUNDS=4``, four times as long.  CI doubles it in one run."""

from __future__ import annotations

import os

import pytest

FACTOR = float(os.environ.get("IPCIO_TESTS_ROUNDS", "1"))

# For a test that is a campaign: the watchdog waits as much longer.
campaign = pytest.mark.timeout(60 * FACTOR) if FACTOR > 1 else lambda test: test


def rounds(number: int) -> int:
    """So many rounds, if nobody asks for more."""
    return round(number * FACTOR)
