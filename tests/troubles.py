"""What can happen at a system call: handlers for `children.watch_calls`."""

from __future__ import annotations

import errno
import fcntl
import os

# Calls whose result is something to close: lost if the interrupt comes between the
# system and the assignment, which no Python program can prevent.
MAKERS = {"open", "dup", "mmap", "fcntl"}


def locked_by_others(name, args, call):
    if name == "flock" and args[1] != fcntl.LOCK_UN:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return call()


def interrupt_before(name, _args, call):
    if name == "close":
        call()
    raise KeyboardInterrupt


def interrupt_after(name, _args, call):
    result = call()
    if name in MAKERS:
        return result
    raise KeyboardInterrupt
