"""What can happen at a system call, and a plan that has it happen at one call of many."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys

import children

# Calls with a result that has to be closed.  An interrupt between the call and the assignment
# loses it, which no Python program can prevent.
MAKERS = {"open", "dup", "mmap", "fcntl"}

SYSTEM_V = ("semget", "semctl", "semop", "semtimedop")
"""Functions of the C library, which report an error by -1 and `errno`."""


def fails_with(number):
    def trouble(name, args, call):
        if name in SYSTEM_V:  # EACCES is how another user's set answers, which is no trouble
            ctypes.set_errno(errno.EPERM if number == errno.EACCES else number)
            return -1
        if name == "access":
            return False
        if name == "close":  # Linux closes, whatever it reports
            call()
        raise OSError(number, os.strerror(number), *args[: name in {"link", "open", "stat", "unlink"}])

    return trouble


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


TROUBLES = {
    "EIO": fails_with(errno.EIO),
    "EACCES": fails_with(errno.EACCES),
    "EMFILE": fails_with(errno.EMFILE),
    "locked": locked_by_others,
    "interrupt before": interrupt_before,
    "interrupt after": interrupt_after,
}


def kill_before(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(_name, _args, call):
    call()
    kill_before()


class Plan:
    """What is to happen at which of the calls that the package makes in a ``with`` block.

    The calls are those of `children.watch_calls` and whatever `watch` adds.
    """

    def __init__(self, patch):
        self.at = -1
        self.calls = []
        self.trouble = None
        self._on = False
        self._patch = patch
        more = (*children.CALLS[os], "access", "chmod", "pread", "pwrite", "write")
        patch.setitem(children.CALLS, os, more)
        children.watch_calls(self._call, patch.setattr)

    def watch(self, owner, name, wrap=lambda function: function):
        """Watch one function more; `wrap` may be `staticmethod`."""
        real = getattr(owner, name)
        self._patch.setattr(owner, name, wrap(lambda *args: self._call(name, args, lambda: real(*args))))

    def trouble_at(self, at, trouble):
        self.at = at
        self.trouble = trouble
        self.calls = []
        return self

    def __enter__(self):
        self._on = True

    def __exit__(self, *_):
        self._on = False

    @property
    def reached(self):
        return len(self.calls) > self.at

    @property
    def hit(self):
        """The name of the call at which the trouble came."""
        return self.calls[self.at] if self.reached else None

    def killed(self, act, at, trouble=kill_before):
        """Run `act` in a child that is killed at call `at`; return whether it came to that.

        A kill after one call is a kill before the next one, so `kill_before` is enough for most.  If the
        calls end before `at`, the child exits with what `act` returned still open.
        """

        def child():
            with self.trouble_at(at, trouble):
                return [act()]  # the list keeps it open

        with children.Forked(lambda: len(child())) as forked:
            return forked.wait() == -signal.SIGKILL

    def _call(self, name, args, call):
        if not self._on or name in {"monotonic", "sleep"}:
            return call()
        self.calls.append(name)
        if len(self.calls) - 1 == self.at:
            return self.trouble(name, args, call)
        return call()


def ours(module):
    """Whether a module of that name is one of the package's."""
    return module.partition(".")[0] == "ipcio"


def ctrl_c():
    raise KeyboardInterrupt


def interrupted_after(count, function, inside, interrupt=ctrl_c):
    """Call it with Ctrl-C after so many calls in the modules that `inside` knows by name; return whether it came.

    In place of Ctrl-C, `interrupt` may be anything that a signal handler does.  Python runs those when a function of
    its own begins and when one of C returns.
    """
    left = count

    def profile(frame, event, what):
        nonlocal left
        # No Python code can prevent an interrupt as this method begins.
        if event == "c_return" or (event == "call" and frame.f_code.co_name != "__exit__"):
            # Of C, reported since 3.14.  No handler runs after one where a `with` uses it (`ipcio._forklock`).
            if getattr(what, "__name__", "") == "__enter__":
                return
            if what is not sys.setprofile and inside(frame.f_globals.get("__name__", "")):
                left -= 1
                if left == -1:
                    interrupt()

    before = sys.getprofile()
    try:
        sys.setprofile(profile)
        function()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(before)
    return left < 0
