"""Locks on files: alone, and handed over to somebody who waits."""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import os
import random
import struct
import subprocess
import sys
import tempfile
import time

from benchmarks.rows import BOUND, FLOOR, ROUND, Skip, fork, loops, optional, pipe, row
from ipcio import filelock, shm

FLOCK = struct.Struct("hhqqi0q")


def opened(stack):
    """A file of its own for the row: two raw objects of it, and its path."""
    path = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "file")
    with open(path, "xb") as file:
        file.write(bytes(4096))
    return [*(stack.enter_context(open(path, "r+b", buffering=0)) for _ in range(2)), path]


def raw(fd, command, kind):
    """What a lock of an open file takes at least."""
    fcntl.fcntl(fd, command, FLOCK.pack(kind, 0, 0, 0, 0))


# -- uncontended -------------------------------------------------------------

PAIR = "lock(f); unlock(f)"


def pair(stack, peer, ours=PAIR, **names):
    file, other, path = opened(stack)
    names |= {"f": file, "fd": file.fileno(), "fd2": other.fileno(), "path": path}
    names |= {"call": fcntl.fcntl, "SET": fcntl.F_OFD_SETLK, "pack": FLOCK.pack}
    names |= {"EX": fcntl.F_WRLCK, "UN": fcntl.F_UNLCK, "taken": TAKEN, "free": FREE}
    return loops(ours, peer, BARE, lock=filelock.lock, unlock=filelock.unlock, locked=filelock.locked, **names)


TAKEN, FREE = (FLOCK.pack(kind, 0, 0, 0, 0) for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK))
BARE = "call(fd2, SET, taken); call(fd2, SET, free)"
TWICE = "fcntl.fcntl, twice"


def lockf(stack, ours):
    names = {"lockf": fcntl.lockf, "LOCK_EX": fcntl.LOCK_EX, "LOCK_UN": fcntl.LOCK_UN}
    return pair(stack, "lockf(f, LOCK_EX); lockf(f, LOCK_UN)", ours, **names)


@row("filelock", "lock, unlock", "fcntl.lockf: lock, unlock", 1.35, floor=TWICE)
def _(stack):
    return lockf(stack, PAIR)


@row("filelock", "lock, unlock of a descriptor", "fcntl.lockf: lock, unlock", 1.35, floor=TWICE)
def _(stack):
    return lockf(stack, "lock(fd); unlock(fd)")


@row("filelock", "lock, unlock of a descriptor", "fcntl.fcntl with a packed struct: lock, unlock", None, FLOOR, TWICE)
def _(stack):
    packed = "call(fd, SET, pack(EX, 0, 0, 0, 0)); call(fd, SET, pack(UN, 0, 0, 0, 0))"
    return pair(stack, packed, "lock(fd); unlock(fd)")


@row("filelock", "lock, unlock", "portalocker: lock, unlock", 0.3, floor=TWICE)
def _(stack):
    theirs = optional("portalocker")
    names = {"their_lock": theirs.lock, "their_unlock": theirs.unlock, "EXCLUSIVE": theirs.LOCK_EX}
    return pair(stack, "their_lock(f, EXCLUSIVE); their_unlock(f)", **names)


def buffered(stack, peer, ours=PAIR, mode="r+b", **names):
    """The same on a file as `open` gives it, and on shared memory."""
    path = opened(stack)[-1]
    memory = stack.enter_context(shm.create(None, 4096))
    file = stack.enter_context(open(path, mode))  # noqa: SIM115 -- the stack closes it
    names |= {"g": file, "h": memory, "given": memory.fileno()}
    return pair(stack, peer, ours, **names)


SHARED_LOCKF = "lockf(g, LOCK_SH); lockf(g, LOCK_UN)"
LOCKF = {"lockf": fcntl.lockf, "LOCK_EX": fcntl.LOCK_EX, "LOCK_UN": fcntl.LOCK_UN}


@row("filelock", "lock, unlock of a buffered file", "fcntl.lockf: lock, unlock", 2.5, floor=TWICE)
def _(stack):
    return buffered(stack, "lockf(g, LOCK_EX); lockf(g, LOCK_UN)", "lock(g); unlock(g)", **LOCKF)


@row("filelock", "shared lock, unlock of a buffered reader", "fcntl.lockf: lock, unlock", 2.5, floor=TWICE)
def _(stack):
    return buffered(stack, SHARED_LOCKF, "lock(g, 'r'); unlock(g)", "rb", LOCK_SH=fcntl.LOCK_SH, **LOCKF)


@row("filelock", "shared lock, unlock of a text reader", "fcntl.lockf: lock, unlock", 4.0, floor=TWICE)
def _(stack):
    return buffered(stack, SHARED_LOCKF, "lock(g, 'r'); unlock(g)", "r", LOCK_SH=fcntl.LOCK_SH, **LOCKF)


@row("filelock", "lock, unlock of a text file", "fcntl.lockf: lock, unlock", 4.0, floor=TWICE)
def _(stack):
    return buffered(stack, "lockf(g, LOCK_EX); lockf(g, LOCK_UN)", "lock(g); unlock(g)", "r+", **LOCKF)


@row("filelock", "lock, unlock of a buffered file", "portalocker: lock, unlock", 0.6, floor=TWICE)
def _(stack):
    theirs = optional("portalocker")
    names = {"their_lock": theirs.lock, "their_unlock": theirs.unlock, "EXCLUSIVE": theirs.LOCK_EX}
    return buffered(stack, "their_lock(g, EXCLUSIVE); their_unlock(g)", "lock(g); unlock(g)", **names)


@row("filelock", "lock, unlock of a MemoryFile", "its descriptor: lock, unlock", 1.3, floor=TWICE)
def _(stack):
    return buffered(stack, "lock(given); unlock(given)", "lock(h); unlock(h)")


@row("filelock", "with locked", "portalocker: with Lock, which opens the file", 0.1, floor=TWICE)
def _(stack):
    return pair(stack, "with Lock(path): pass", "with locked(f): pass", Lock=optional("portalocker").Lock)


@row("filelock", "with locked", "fasteners: with InterProcessLock, which opens the file", floor=TWICE)
def _(stack):
    # A file of its own: as classic locks are, it is lost when anything closes the file.
    lock = optional("fasteners").InterProcessLock(f"{opened(stack)[2]}.lock")
    return pair(stack, "with theirs: pass", "with locked(f): pass", theirs=lock)


# In a process of its own: filelock installs an audit hook, which slows the calls of everybody.
FILELOCK = """
import sys, timeit
from filelock import FileLock
timer = timeit.Timer("with lock: pass", globals={"lock": FileLock(sys.argv[1])})
for number in sys.stdin:
    print(timer.timeit(int(number)) / int(number), flush=True)
"""


@row("filelock", "with locked", "filelock: with FileLock", 0.03, floor=TWICE)
def _(stack):
    missing("filelock")
    ours, _, floor = pair(stack, "pass", "with locked(f): pass")
    path = opened(stack)[2]
    peer = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", FILELOCK, f"{path}.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    )
    stack.callback(peer.stdin.close)

    def theirs(number=1):
        print(number, file=peer.stdin, flush=True)
        return float(peer.stdout.readline())

    theirs()
    return ours, functools.partial(theirs, max(1, int(ROUND / theirs()))), floor


def missing(module):
    """Skip the row where a module is missing, which is imported in another process only."""
    if importlib.util.find_spec(module) is None:
        raise Skip(f"{module} is not installed")


# -- handed over -------------------------------------------------------------

ANSWER = struct.Struct("dd")


def hand_over(stack, lock, unlock, seconds, hold=None, let=None):
    """A lock that another process waits for: how late it comes there, and the processor time that the wait took.

    `hold` and `let` are how this process takes the lock and gives it, if not as the other one.
    """
    hold, let = hold or lock, let or unlock
    ours, theirs, _ = opened(stack)
    (here_in, there_out), (there_in, here_out) = pipe(stack), pipe(stack)

    def wait():
        while True:
            os.read(there_in, 1)
            used = time.process_time()
            lock(theirs)
            now = time.perf_counter()
            used = time.process_time() - used
            unlock(theirs)
            os.write(there_out, ANSWER.pack(now, used))

    fork(stack, wait)

    def once():
        hold(ours)
        os.write(here_out, b"x")
        time.sleep(seconds + random.random() * 0.002)
        start = time.perf_counter()
        let(ours)
        then, used = ANSWER.unpack(os.read(here_in, ANSWER.size))
        return then - start, used

    return once


def timed_lock(file):
    filelock.lock(file, timeout=60)


def raw_lock(file):
    raw(file.fileno(), fcntl.F_OFD_SETLKW, fcntl.F_WRLCK)


def raw_unlock(file):
    raw(file.fileno(), fcntl.F_OFD_SETLK, fcntl.F_UNLCK)


KERNEL = "fcntl.fcntl: waiting in the kernel"


def timed_and_raw(stack, seconds):
    return hand_over(stack, timed_lock, filelock.unlock, seconds), hand_over(stack, raw_lock, raw_unlock, seconds)


@row("filelock", "handed over to who waits", KERNEL, 1.3, FLOOR)
def _(stack):
    ours = hand_over(stack, filelock.lock, filelock.unlock, 0.003)
    theirs = hand_over(stack, raw_lock, raw_unlock, 0.003)
    return lambda: ours()[0], lambda: theirs()[0]


@row("filelock", "handed over to who waits with a timeout", "a millisecond", 1.0, BOUND, KERNEL)
def _(stack):
    ours, floor = timed_and_raw(stack, 0.02)
    return lambda: ours()[0], lambda: 0.001, lambda: floor()[0]


WAIT = 0.1


@row("filelock", "processor time of waiting with a timeout", "the time waited", 0.04, BOUND, KERNEL)
def _(stack):
    ours, floor = timed_and_raw(stack, WAIT)
    return lambda: ours()[1], lambda: WAIT, lambda: floor()[1]


# -- handed over, against those who poll: in theirs, both processes use their kind of lock -----


def flock(file):
    fcntl.flock(file, fcntl.LOCK_EX)


def unflock(file):
    fcntl.flock(file, fcntl.LOCK_UN)


def against_polling(stack, lock, unlock, hold, let):
    ours, floor = timed_and_raw(stack, 0.02)
    theirs = hand_over(stack, lock, unlock, 0.02, hold, let)
    return lambda: ours()[0], lambda: theirs()[0], lambda: floor()[0]


@row("filelock", "handed over to who waits with a timeout", "portalocker: Lock, timeout", floor=KERNEL)
def _(stack):
    portalocker = optional("portalocker")
    held = []

    def lock(file):
        held.append(portalocker.Lock(file.name, "r+b", timeout=60, flags=portalocker.LOCK_EX | portalocker.LOCK_NB))
        held[0].acquire()

    return against_polling(stack, lock, lambda _: held.pop().release(), flock, unflock)


@row("filelock", "handed over to who waits with a timeout", "filelock: FileLock.acquire", floor=KERNEL)
def _(stack):
    missing("filelock")
    held = []

    def lock(file):
        from filelock import FileLock  # in the fork: see FILELOCK

        held.append(FileLock(file.name))
        held[0].acquire(timeout=60)

    return against_polling(stack, lock, lambda _: held.pop().release(), flock, unflock)


@row("filelock", "handed over to who waits with a timeout", "fasteners: InterProcessLock.acquire", floor=KERNEL)
def _(stack):
    fasteners = optional("fasteners")
    held = []

    def lock(file):
        held.append(fasteners.InterProcessLock(file.name))
        held[0].acquire(timeout=60)

    return against_polling(stack, lock, lambda _: held.pop().release(), raw_lock, raw_unlock)
