"""Knowing that somebody else waits, so that a test need not hope that he has come so far."""

from __future__ import annotations

import time

DEADLINE = 30  # seconds until somebody who does not come to wait is a failed test


def until_it_waits(pid: int, thread: int | None = None) -> None:
    """Return when the process, or one thread of it, sleeps in a system call.

    Whoever is asked about must have nothing to sleep in but what the test wants him to.
    """
    end = time.monotonic() + DEADLINE
    calm = 0
    while calm < 3:  # a thread also sleeps for a moment before it gets Python's own lock
        with open(f"/proc/{pid}/task/{thread or pid}/stat") as file:
            state = file.read().rpartition(")")[2].split()[0]
        calm = calm + 1 if state == "S" else 0
        assert state not in {"Z", "X"}, "it has ended"
        assert time.monotonic() < end, f"it does not wait, its state is {state}"
        time.sleep(0.0005)
