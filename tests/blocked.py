"""Processes that are to block: started, and waited for until they do."""

from __future__ import annotations

import time
from contextlib import contextmanager

from children import Event, Forked

DEADLINE = 30  # seconds until a process that does not block is a failed test


def wait_until_asleep(pid: int) -> None:
    """Return when the process, which has said that it will block next, sleeps."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        with open(f"/proc/{pid}/stat") as line:
            state = line.read().rpartition(")")[2].split()[0]
        if state == "S":
            return
        assert state in {"R", "D"}, f"process {pid} is in state {state}"
        time.sleep(0.0005)
    raise AssertionError(f"process {pid} does not block")


@contextmanager
def blocked(function, *arguments):
    """A forked child that sleeps inside ``function(*arguments)``; its `result` is what that returns."""
    with Event() as ready:

        def child():
            ready.set()
            return function(*arguments)

        with Forked(child) as forked:
            ready.wait()
            wait_until_asleep(forked.pid)
            yield forked
