"""Mutexes: uncontended, contended by a second process, and as a monitor, against what the standard library has.

Nothing that is compared here releases the lock of a process that is killed, but a lock of a file.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import tempfile

from benchmarks.rows import ITSELF, SELF, fork, loops, new_name, one_cpu, optional, row
from ipcio import filelock, mutex


def made(stack, **options):
    handle = mutex.create(new_name(), **options)
    stack.callback(handle.close)  # enter_context would acquire it
    return handle


def a_byte(stack):
    """A file in /dev/shm, of which one byte is locked."""
    return stack.enter_context(tempfile.TemporaryFile(dir="/dev/shm"))


WITH = "with m: pass"
CALLS = "pthread_mutex_trylock and _unlock, by ctypes"
TWICE = "next(trying); next(releasing)"


def against(stack, theirs, ours=WITH, handle=None, **names):
    """Sides: ours, theirs, and the two calls of C on a mutex for one user."""
    lock = made(stack)._lock
    return loops(ours, theirs, TWICE, m=handle or made(stack), trying=lock.trying, releasing=lock.releasing, **names)


@row("mutex", "with", "multiprocessing.Lock: with", 3.0, floor=CALLS)
def _(stack):
    return against(stack, "with p: pass", p=multiprocessing.Lock())


@row("mutex", "with", "ipcio.filelock: lock, unlock of a byte", 0.3, floor=CALLS)
def _(stack):
    names = {"f": a_byte(stack), "lock": filelock.lock, "unlock": filelock.unlock}
    return against(stack, "lock(f, 'rw', 0, 1); unlock(f, 0, 1)", **names)


@row("mutex", "with", "fcntl.lockf of a byte: lock, unlock", floor=CALLS)
def _(stack):
    names = {"f": a_byte(stack), "lockf": fcntl.lockf, "EX": fcntl.LOCK_EX, "UN": fcntl.LOCK_UN}
    return against(stack, "lockf(f, EX, 1, 0); lockf(f, UN, 1, 0)", **names)


@row("mutex", "with", "filelock (the package): with", floor=CALLS)
def _(stack):
    package = optional("filelock")
    directory = stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
    return against(stack, "with p: pass", p=package.FileLock(os.path.join(directory, "lock")))


@row("mutex", "acquire, release", "multiprocessing.Lock: acquire, release", floor=CALLS)
def _(stack):
    return against(stack, "p.acquire(); p.release()", "m.acquire(); m.release()", p=multiprocessing.Lock())


@row("mutex", "with, recursive", "multiprocessing.RLock: with", floor=CALLS)
def _(stack):
    return against(stack, "with p: pass", handle=made(stack, recursive=True), p=multiprocessing.RLock())


@row("mutex", "with, for several users", "the same for one user", kind=SELF)
def _(stack):
    return loops("with w: pass", WITH, w=made(stack, perm=0o666), m=made(stack))


# -- between two processes -----------------------------------------------------------


@row("mutex", "with, contended by another process", "multiprocessing.Lock: with, contended", floor=ITSELF)
def _(stack):
    ours, theirs = made(stack), multiprocessing.Lock()
    sides = loops(WITH, WITH, m=ours), loops(WITH, WITH, m=theirs)

    def contended(lock, side):
        """The side, while another process acquires and releases the lock as often as it can."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.write(writer, b"!")
            while True:
                with lock:
                    pass
        try:
            os.read(reader, 1)
            return side()
        finally:
            # A lock of multiprocessing stays acquired if its owner is killed: so this process acquires it first.
            with lock:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            os.close(reader)
            os.close(writer)

    return [lambda lock=lock, side=side[0]: contended(lock, side) for lock, side in zip((ours, theirs), sides)]  # noqa: B905


def ping(stack, monitor, wait):
    """Another process answers each notification with one."""

    def answer():
        with monitor:
            while True:
                monitor.notify_all()
                wait(monitor)

    fork(stack, answer)


@row(
    "mutex",
    "notify_all, wait, to another process and back",
    "multiprocessing.Condition: notify_all, wait",
    floor=ITSELF,
)
def _(stack):
    one_cpu(stack)
    ours, theirs = made(stack), multiprocessing.Condition()
    for monitor in ours, theirs:
        ping(stack, monitor, lambda each: each.wait(5))
    statement = "with m:\n m.notify_all(); m.wait(5)"
    (mine,), (other,) = loops(statement, m=ours), loops(statement, m=theirs)
    return mine, other
