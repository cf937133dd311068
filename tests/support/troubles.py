"""What can happen at a system call, as handlers for `children.watch_calls`, and after any call."""

from __future__ import annotations

import errno
import os
import sys

# Calls whose result is something to close: lost if the interrupt comes between the
# system and the assignment, which no Python program can prevent.
MAKERS = {"open", "dup", "mmap", "fcntl"}


def locked_by_others(name, args, call):
    import fcntl

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


def interrupted_after(count, function, inside):
    """Call it with Ctrl-C after so many calls in the modules that `inside` knows by name; tell whether it came to that.

    That is when Python runs handlers: as a function of its own begins, and as one of C returns.
    """
    left = count

    def profile(frame, event, what):
        nonlocal left
        # As that method begins, nobody in Python can prevent it.
        if event == "c_return" or (event == "call" and frame.f_code.co_name != "__exit__"):
            if what is not sys.setprofile and inside(frame.f_globals.get("__name__", "")):
                left -= 1
                if left == -1:
                    raise KeyboardInterrupt

    before = sys.getprofile()
    try:
        sys.setprofile(profile)
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(before)
    return False
