"""Knowing that somebody else waits, so that a test need not hope that he has come so far."""

from __future__ import annotations

import time
from contextlib import contextmanager

from abilities import lacks
from children import Event, Forked

DEADLINE = 30  # seconds until somebody who does not come to wait is a failed test


def until_it_waits(pid: int, thread: int | None = None) -> None:
    """Return when the process, or one thread of it, sleeps in a system call.

    Whoever is asked about must have nothing to sleep in but what the test wants him to.  Where the system
    does not tell, he is given a moment: a test must be right whether it is enough or not.
    """
    if lacks("proc"):
        time.sleep(0.3)
        return
    end = time.monotonic() + DEADLINE
    calm = 0
    while calm < 3:  # a thread also sleeps for a moment before it gets Python's own lock
        with open(f"/proc/{pid}/task/{thread or pid}/stat") as file:
            state = file.read().rpartition(")")[2].split()[0]
        calm = calm + 1 if state == "S" else 0
        assert state not in {"Z", "X"}, "it has ended"
        assert time.monotonic() < end, f"it does not wait, its state is {state}"
        time.sleep(0.0005)


@contextmanager
def blocked(function, *arguments):
    """A forked child that sleeps inside ``function(*arguments)``; its `result` is what that returns."""
    with Event() as ready:

        def child():
            ready.set()
            return function(*arguments)

        with Forked(child) as forked:
            ready.wait()
            until_it_waits(forked.pid)
            yield forked
