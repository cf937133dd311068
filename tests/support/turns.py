"""Turns between all tests that run on this machine: `ipcio gc` removes the orphans of every one of them.

A test that runs it everywhere has to be alone.  Tests of another user's orphans may run together.
Tests of their own user's orphans need no turn: they expect that `gc` comes.
"""

from __future__ import annotations

import contextlib

try:
    import fcntl
except ImportError:  # there are no orphans
    alone = together = contextlib.nullcontext
else:

    @contextlib.contextmanager
    def _turn(kind):
        with open(__file__, "rb") as file:
            fcntl.flock(file, kind)
            yield

    def alone():
        return _turn(fcntl.LOCK_EX)

    def together():
        return _turn(fcntl.LOCK_SH)
