"""Children by ``fork``: a function runs in a copy of this process, and its answer comes back."""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import signal
import sys
import time
import traceback
import types
import warnings

from leftovers import children

try:
    import fcntl
except ImportError:  # there is nothing to fork either
    fcntl = types.ModuleType("fcntl")

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
"""What ends a process at once, whatever it does: on Windows, `os.kill` does so with any number."""


def fork_quietly(how=None) -> int:
    """`os.fork`, or `how`, without the warning of Python 3.12 and later that this process has threads.

    A parallel test run has some, and so has a watchdog.  Our children run nothing that would wait for them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return (how or os.fork)()


class Forked:
    """A copy of this process that runs ``function(*arguments)`` and ends without cleaning up.

    ``result()`` waits for its end and returns the value; what the child raised
    is an `AssertionError` with the child's traceback.  As a context manager it
    kills and reaps what is still there.  `fork` may be `fork_in_c`.
    """

    def __init__(self, function, *arguments, fork=None) -> None:
        reader, writer = os.pipe()
        self.pid = fork_quietly(fork)
        if not self.pid:
            os.close(reader)
            try:
                answer = True, function(*arguments)
            except BaseException:
                answer = False, traceback.format_exc()
            try:
                with open(writer, "wb") as pipe:
                    pickle.dump(answer, pipe)
            finally:
                os._exit(0)
        os.close(writer)
        self._pipe = open(reader, "rb")
        self.status = None

    def wait(self) -> int:
        """Reap it; return 0 or minus the signal that ended it."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self._pipe.close()
        return self.status

    def result(self):
        """Wait for the answer and for the end."""
        try:
            fine, answer = pickle.load(self._pipe)
        except EOFError:
            raise AssertionError(f"the child has exited (status {self.wait()})") from None
        self.wait()
        assert fine, answer
        return answer

    def kill(self, number: int = KILL) -> int:
        """Send a deadly signal, reap, return the status."""
        if self.status is None:
            os.kill(self.pid, number)
        return self.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.kill()


def fork_in_c() -> int:
    """`fork` as a C program calls it: Python's hooks do not run.

    A thread that has waited for the GIL for the switch interval asks for it.  In the child, which does not have
    that thread, the answer would wait for ever; so the interval is longer than the call.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5)
    try:
        time.sleep(2 * interval)  # the waits that have begun end before the call
        return ctypes.PyDLL(None).fork()
    finally:
        sys.setswitchinterval(interval)


def leave_orphan(make) -> None:
    """Have a child call `make`, which opens something, and kill it while that is open."""

    def die() -> None:
        kept = make()
        os.kill(os.getpid(), signal.SIGKILL)
        kept.close()

    assert Forked(die).wait() == -signal.SIGKILL


class Adoption:
    """Have what killed processes leave become children of this one, so that their end can be waited for.

    A process that is killed while it starts another one leaves a child.  Until that runs its own program
    it has copies of the killed one's descriptors and may run in its memory, so it holds what the killed
    one held: names, pipes, locks.  A pipe that they share does not show that, because the child closes
    its descriptors first and leaves the memory later.
    """

    def __enter__(self):
        self._known = children()
        _adopt(1)
        return self

    def wait(self) -> int:
        """Wait for the end of all that has been adopted; return how many there were."""
        adopted = children() - self._known
        for pid in adopted:
            os.waitpid(pid, 0)
        return len(adopted)

    def __exit__(self, *_) -> None:
        _adopt(0)


def _adopt(on: int) -> None:
    import ctypes

    assert ctypes.CDLL(None).prctl(36, on, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER


class Event:
    """A one-time event between processes that were forked from one another."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def set(self) -> None:
        os.write(self._writer, b"!")

    def wait(self) -> None:
        assert os.read(self._reader, 1) == b"!"

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        os.close(self._reader)
        os.close(self._writer)


# -- system calls in other hands ---------------------------------------------

CALLS = {
    os: (
        "close",
        "dup",
        "fchmod",
        "fstat",
        "ftruncate",
        "link",
        "lseek",
        "lstat",
        "open",
        "posix_fallocate",
        "readlink",
        "rename",
        "stat",
        "unlink",
    ),
    fcntl: ("fcntl", "flock"),
    mmap: ("mmap",),
    time: ("monotonic", "sleep"),
}


def watch_calls(handler, put=setattr) -> None:
    """Have every loaded module of the package call ``handler(name, args, call)`` in place of its system calls.

    Only these modules get stand-ins for `os` and the like.  ``call()``
    makes the real one.  `put` is how a module is changed: ``monkeypatch.setattr``.
    """
    if "ipcio._posix.shares" in sys.modules:  # calls about what others did before would be in the way
        sys.modules["ipcio._posix.shares"].to_recheck.clear()
    known = {}
    for module, names in CALLS.items():
        stand_in = types.ModuleType(module.__name__)
        stand_in.__getattr__ = lambda name, module=module: getattr(module, name)
        for name in filter(module.__dict__.__contains__, names):  # not every system has all
            real = getattr(module, name)

            def watched(*args, name=name, real=real, **kwargs):
                return handler(name, args, lambda: real(*args, **kwargs))

            setattr(stand_in, name, watched)
            known[id(real)] = watched
        known[id(module)] = stand_in
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "ipcio":
            for name, value in list(vars(module).items()):
                if id(value) in known:
                    put(module, name, known[id(value)])


# Targets for multiprocessing's children, which import them by name.


def hold_until_told(handle, ready, go) -> None:
    ready.set()
    go.wait()
    handle.close()


def die_with(handle, ready) -> None:
    assert handle.name
    ready.set()
    os.kill(os.getpid(), KILL)


def visit(handle, me, visits, told, go):
    """Go in and out, and report both through a FIFO, which keeps the order of the reports.

    The report of going in follows the entry, and that of going out comes before the exit.  So the
    reader of the FIFO never sees more processes inside than there were.
    """
    told = os.open(told, os.O_WRONLY)
    go = os.open(go, os.O_RDONLY)
    for turn in range(visits):
        with handle:
            os.write(told, bytes([2 * me]))
            if not turn:
                os.read(go, 1)
            elif turn % 3 == 0:
                os.sched_yield()
            os.write(told, bytes([2 * me + 1]))
    os.close(told)
    os.close(go)
