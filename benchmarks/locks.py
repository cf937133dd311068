"""Locks on files: alone, and handed over to somebody who waits."""

from __future__ import annotations

import fcntl
import functools
import importlib
import importlib.util
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time

from benchmarks.rows import BOUND, FLOOR, ROUND, Skip, loops, row
from ipcio import filelock

FLOCK = struct.Struct("hhqqi0q")


def opened(stack):
    """A file of its own for the row: two raw objects of it, and its path."""
    path = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "file")
    with open(path, "xb") as file:
        file.write(bytes(4096))
    return [*(stack.enter_context(open(path, "r+b", buffering=0)) for _ in range(2)), path]


def portalocker():
    try:
        return importlib.import_module("portalocker")
    except ImportError:
        raise Skip("portalocker is not installed") from None


def raw(fd, command, kind):
    """What a lock of an open file takes at least."""
    fcntl.fcntl(fd, command, FLOCK.pack(kind, 0, 0, 0, 0))


# -- uncontended -------------------------------------------------------------

PAIR = "lock(f); unlock(f)"


def pair(stack, peer, ours=PAIR, **names):
    file, other, path = opened(stack)
    names |= {"f": file, "o": other, "fd": file.fileno(), "fd2": other.fileno(), "path": path}
    return loops(ours, peer, lock=filelock.lock, unlock=filelock.unlock, locked=filelock.locked, **names)


def lockf(stack, ours):
    return pair(stack, "lockf(f, EX); lockf(f, UN)", ours, lockf=fcntl.lockf, EX=fcntl.LOCK_EX, UN=fcntl.LOCK_UN)


@row("filelock", "lock, unlock", "fcntl.lockf: lock, unlock", 1.35)
def _(stack):
    return lockf(stack, PAIR)


@row("filelock", "lock, unlock of a descriptor", "fcntl.lockf: lock, unlock", 1.35)
def _(stack):
    return lockf(stack, "lock(fd); unlock(fd)")


@row("filelock", "lock, unlock of a descriptor", "fcntl.fcntl with a packed struct: lock, unlock", kind=FLOOR)
def _(stack):
    return pair(
        stack,
        "call(fd, SET, pack(EX, 0, 0, 0, 0)); call(fd, SET, pack(UN, 0, 0, 0, 0))",
        "lock(fd); unlock(fd)",
        call=fcntl.fcntl,
        pack=FLOCK.pack,
        SET=fcntl.F_OFD_SETLK,
        EX=fcntl.F_WRLCK,
        UN=fcntl.F_UNLCK,
    )


@row("filelock", "lock, unlock", "portalocker: lock, unlock", 0.3)
def _(stack):
    theirs = portalocker()
    return pair(
        stack,
        "their_lock(f, EX); their_unlock(f)",
        their_lock=theirs.lock,
        their_unlock=theirs.unlock,
        EX=theirs.LOCK_EX,
    )


@row("filelock", "with locked", "portalocker: with Lock, which opens the file", 0.1)
def _(stack):
    return pair(stack, "with Lock(path): pass", "with locked(f): pass", Lock=portalocker().Lock)


# In a process of its own: filelock installs an audit hook, which slows the calls of everybody.
FILELOCK = """
import sys, timeit
from filelock import FileLock
timer = timeit.Timer("with lock: pass", globals={"lock": FileLock(sys.argv[1])})
for number in sys.stdin:
    print(timer.timeit(int(number)) / int(number), flush=True)
"""


@row("filelock", "with locked", "filelock: with FileLock", 0.03)
def _(stack):
    if importlib.util.find_spec("filelock") is None:
        raise Skip("filelock is not installed")
    file, _, path = opened(stack)
    ours, _ = loops("with locked(f): pass", "pass", locked=filelock.locked, f=file)
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
    return ours, functools.partial(theirs, max(1, int(ROUND / theirs())))


# -- handed over -------------------------------------------------------------

ANSWER = struct.Struct("dd")


def hand_over(stack, lock, unlock, seconds):
    """A lock that another process waits for: how late it comes there, and the processor time that the wait took."""
    ours, theirs, _ = opened(stack)
    (here_in, there_out), (there_in, here_out) = os.pipe(), os.pipe()
    for end in (here_in, there_out, there_in, here_out):
        stack.callback(os.close, end)
    child = os.fork()
    if not child:
        signal.alarm(3600)  # if nobody lives to kill it
        while True:
            os.read(there_in, 1)
            used = time.process_time()
            lock(theirs)
            now = time.perf_counter()
            used = time.process_time() - used
            unlock(theirs)
            os.write(there_out, ANSWER.pack(now, used))
    stack.callback(os.waitpid, child, 0)
    stack.callback(os.kill, child, signal.SIGKILL)

    def once():
        unlocking = unlock  # looked up before the clock is
        filelock.lock(ours)
        os.write(here_out, b"x")
        time.sleep(seconds + random.random() * 0.002)
        start = time.perf_counter()
        unlocking(ours)
        then, used = ANSWER.unpack(os.read(here_in, ANSWER.size))
        return then - start, used

    return once


def timed_lock(file):
    filelock.lock(file, timeout=60)


def raw_lock(file):
    raw(file.fileno(), fcntl.F_OFD_SETLKW, fcntl.F_WRLCK)


def raw_unlock(file):
    raw(file.fileno(), fcntl.F_OFD_SETLK, fcntl.F_UNLCK)


@row("filelock", "handed over to who waits", "fcntl.fcntl: waiting in the kernel", 1.3, FLOOR)
def _(stack):
    ours = hand_over(stack, filelock.lock, filelock.unlock, 0.003)
    theirs = hand_over(stack, raw_lock, raw_unlock, 0.003)
    return lambda: ours()[0], lambda: theirs()[0]


@row("filelock", "handed over to who waits with a timeout", "a millisecond", 1.0, BOUND)
def _(stack):
    ours = hand_over(stack, timed_lock, filelock.unlock, 0.02)
    return lambda: ours()[0], lambda: 0.001


WAIT = 0.1


@row("filelock", "processor time of waiting with a timeout", "the time waited", 0.04, BOUND)
def _(stack):
    ours = hand_over(stack, timed_lock, filelock.unlock, WAIT)
    return lambda: ours()[1], lambda: WAIT
