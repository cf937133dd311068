"""Turns, between all tests that run on this machine: `gc` takes what the dead of any of them have left.

A test that has it look everywhere is alone meanwhile; others, which are about the dead of
another user, are together.  (What is about its own user's dead stands it.)
"""

from __future__ import annotations

import contextlib

try:
    import fcntl
except ImportError:  # the dead leave nothing
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
