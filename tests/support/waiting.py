"""Find out that another process waits, so that a test does not have to hope for it."""

from __future__ import annotations

import os
import sys
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


def until_threads_wait(threads) -> None:
    """Return when all these threads of this process wait in a call of ipcio's."""
    for thread in threads:
        if not lacks("proc"):
            until_it_waits(os.getpid(), thread.native_id)
            continue
        end = time.monotonic() + DEADLINE
        at, calm = None, 0
        while calm < 20:  # where that cannot be seen, it waits if it does not move for so long
            frame = sys._current_frames().get(thread.ident)
            now = frame and (id(frame), frame.f_lasti, frame.f_globals["__name__"].partition(".")[0])
            calm = calm + 1 if now and now == at and now[2] == "ipcio" else 0
            at = now
            del frame
            assert thread.is_alive(), "it has ended"
            assert time.monotonic() < end, f"it does not wait, it is at {at}"
            time.sleep(0.001)


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
