"""How long campaigns are: a quarter by default, and with ``IPCIO_TESTS_ROUNDS=2``, as in one run of CI, twice."""

from __future__ import annotations

import itertools
import os
import random
import sys
import zlib
from collections import Counter

import pytest

FACTOR = float(os.environ.get("IPCIO_TESTS_ROUNDS", "0.25"))
MANY = 10  # combinations of the parameters of one test

# For a test that is a campaign: the watchdog waits longer.
campaign = pytest.mark.timeout(60 * (1 + FACTOR)) if FACTOR >= 1 else lambda test: test


def rounds(number: int) -> int:
    """So many rounds of a campaign at full length, where ``IPCIO_TESTS_ROUNDS`` is 1."""
    return max(1, round(number * FACTOR))


def places():
    """Count from 0 without end, for a test in which each call of many fails in turn.

    By default only every fourth call after the first one does, from any of them on: pytest-randomly makes
    that repeatable.
    """
    step = max(1, round(1 / FACTOR))
    return itertools.chain([0], itertools.count(random.randint(1, step), step))


def left_out(items: list[pytest.Item]) -> list[pytest.Item]:
    """The combinations of ``@pytest.mark.sampled(n)`` tests that a short run leaves out.

    Every other one of a test with at least `MANY` is left out, too.  The first one of each test stays.  Which others
    do depends on their names alone, so every run has the same.
    With ``turn=`` too, kinds of objects that have the same code share the combinations: each runs for one of them.
    """
    if FACTOR >= 1:
        return []
    seen: set[str] = set()
    out = []
    counts = Counter(item.nodeid.partition("[")[0] for item in items)
    for item in items:
        mark = item.get_closest_marker("sampled")
        test, _, combination = item.nodeid.partition("[")
        if mark is not None and "turn" in mark.kwargs:
            if zlib.crc32(item.name.encode()) % mark.args[0] != mark.kwargs["turn"]:
                out.append(item)
        elif mark is not None or counts[test] >= MANY:
            if test in seen and zlib.crc32(combination.encode()) % (mark.args[0] if mark else 2):
                out.append(item)
        seen.add(test)
    return out


FREE_THREADED = "free-threading" in sys.version
"""Whether threads can really run at once in this Python."""

_THREADS = 40 if FREE_THREADED else 1

# For a test in which many threads are at work.
of_threads = pytest.mark.timeout(60 * max(FACTOR, 1) * (10 if FREE_THREADED else 1))


def turns_of_threads(number: int) -> int:
    """So many rounds as `rounds` says, and forty times as many where threads really run at once."""
    return rounds(number * _THREADS)
