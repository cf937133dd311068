"""Find out that another process waits, so that a test does not have to hope for it."""

from __future__ import annotations

import time
from contextlib import contextmanager

from abilities import lacks
from children import Event, Forked

DEADLINE = 30  # seconds until a process that does not wait is a failed test


def until_it_waits(pid: int, thread: int | None = None) -> None:
    """Return when the process, or one thread of it, sleeps in a system call.

    It must have nothing to sleep in but the call that the test is about.  Where the system does not show
    that, this waits for a moment: a test must be right whether that is enough or not.
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


def at_best_within(seconds, attempt):
    """Make an attempt, which returns how long it took, until one is quick: a busy machine holds up some, not all."""
    took = [attempt()]
    while min(took) >= seconds and len(took) < 10:
        took.append(attempt())
    assert min(took) < seconds, took


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
