"""What the kernel says of a thread by its id, which is unique in a PID namespace."""

from __future__ import annotations

import os
from _thread import get_native_id


def exists(tid: int) -> bool:
    """Whether there is such a thread, in this pid namespace."""
    try:
        os.kill(tid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def may_be_of_this_process(tid: int) -> bool:
    """Whether it is the id of a thread of this process; True if that cannot be known."""
    if not tid or not exists(tid):
        return False
    return os.path.exists(f"/proc/self/task/{tid}") or not os.path.exists("/proc/self/task")


def process_of(tid: int) -> int | None:
    """Return the process of a thread; None if that cannot be known."""
    if tid == get_native_id():
        return os.getpid()
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Tgid:"):
                    return int(line[5:])
    except (OSError, ValueError):
        pass
    return None
