"""Names of shared memory: what it takes to make, find and close them."""
# ruff: noqa: ARG001 -- every row is given a stack

from __future__ import annotations

import fcntl
import functools
import mmap as bare
import os
import shutil
import tempfile
import threading
import time
from multiprocessing import shared_memory

from benchmarks import rows
from benchmarks.rows import (
    BOUND,
    FLOOR,
    GIB,
    MANY,
    MIB,
    SELF,
    TMPFS,
    Skip,
    crowd,
    crowds,
    loops,
    new_name,
    optional,
    row,
)
from ipcio import mmap, shm

# -- names -------------------------------------------------------------------

MADE = "open, ftruncate, mmap, close, munmap, unlink"
BARE_CREATE = """
fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
os.ftruncate(fd, 4096)
m = bare.mmap(fd, 4096)
os.close(fd)
m.close()
os.unlink(path)
"""
FOUND = "open, fstat, mmap, close, munmap"
BARE_ATTACH = """
fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
m = bare.mmap(fd, os.fstat(fd).st_size)
os.close(fd)
m.close()
"""


@row("names", "create, close", "multiprocessing: create, close, unlink", 1.6, floor=MADE)
def _(stack):
    return loops(
        "shm.create(name, 4096).close()",
        "s = SharedMemory(name, True, 4096); s.close(); s.unlink()",
        BARE_CREATE,
        shm=shm,
        name=(name := new_name()),
        bare=bare,
        os=os,
        path=f"{TMPFS}/{name}-bare",
        SharedMemory=shared_memory.SharedMemory,
    )


@row("names", "attach, close", "multiprocessing: attach, close", 1.5, floor=FOUND)
def _(stack):
    held = stack.enter_context(shm.create(new_name(), 4096))
    theirs = shared_memory.SharedMemory(new_name(), create=True, size=4096)
    stack.callback(theirs.unlink)
    stack.callback(theirs.close)
    return loops(
        "shm.attach(name).close()",
        "SharedMemory(other).close()",
        BARE_ATTACH,
        bare=bare,
        os=os,
        path=f"{TMPFS}/{theirs.name}",
        shm=shm,
        name=held.name,
        other=theirs.name,
        SharedMemory=shared_memory.SharedMemory,
    )


@row("names", "create, close", "posix_ipc: create, mmap, close, unlink", floor=MADE)
def _(stack):
    posix_ipc = optional("posix_ipc")
    return loops(
        "shm.create(name, 4096).close()",
        "s = posix_ipc.SharedMemory('/' + name, posix_ipc.O_CREX, size=4096)\n"
        "m = bare.mmap(s.fd, 4096); s.close_fd(); m.close(); s.unlink()",
        BARE_CREATE,
        shm=shm,
        bare=bare,
        os=os,
        name=(name := new_name()),
        path=f"{TMPFS}/{name}-bare",
        posix_ipc=posix_ipc,
    )


# What the promise takes, call by call, with nothing around: how much of the time is the system's.
CALLS_OF_CREATE = """
os.access(path, os.F_OK)
fd = os.open(TMPFS, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o1600)
os.fstat(fd)
lock = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
flock(lock, SHARED)
os.posix_fallocate(fd, 0, 4096)
m = bare.mmap(fd, 4096)
os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=0)
m.close()
os.fstat(lock)
os.close(lock)
flock(fd, EXCLUSIVE)
os.lstat(path)
os.unlink(path)
os.close(fd)
"""
CALLS_OF_ATTACH = """
fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
os.fstat(fd)
lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
try: flock(lock, EXCLUSIVE)
except BlockingIOError: pass
flock(lock, SHARED)
m = bare.mmap(fd, os.fstat(lock).st_size)
m.close()
os.fstat(lock)
os.close(lock)
try: flock(fd, EXCLUSIVE)
except BlockingIOError: pass
os.close(fd)
"""
SHARED, EXCLUSIVE = fcntl.LOCK_SH | fcntl.LOCK_NB, fcntl.LOCK_EX | fcntl.LOCK_NB


def in_a_row(ours, calls, name, path):
    if not hasattr(os, "O_TMPFILE"):
        raise Skip("there are no files without a name here")
    locks = {"flock": fcntl.flock, "SHARED": SHARED, "EXCLUSIVE": EXCLUSIVE}
    return loops(ours, calls, shm=shm, name=name, path=path, bare=bare, os=os, TMPFS=TMPFS, **locks)


@row("names", "mmap.open, close", "open, mmap.mmap, close", 1.2, floor="os.open, mmap.mmap, os.close")
def _(stack):
    file = stack.enter_context(tempfile.NamedTemporaryFile(dir=TMPFS, prefix="benchmark-"))  # noqa: SIM115
    file.write(bytes(4096))
    file.flush()
    return loops(
        "mmap.open(path, 'rw').close()",
        "f = open(path, 'r+b')\nm = bare.mmap(f.fileno(), 0)\nm.close()\nf.close()",
        "fd = os.open(path, os.O_RDWR)\nm = bare.mmap(fd, 0)\nm.close()\nos.close(fd)",
        mmap=mmap,
        bare=bare,
        os=os,
        path=file.name,
    )


@row("names", "create, close", "its own system calls in a row", kind=FLOOR)
def _(stack):
    name = new_name()
    return in_a_row("shm.create(name, 4096).close()", CALLS_OF_CREATE, name, f"{TMPFS}/{name}-bare")


@row("names", "attach, close", "its own system calls in a row", kind=FLOOR)
def _(stack):
    held = stack.enter_context(shm.create(new_name(), 4096))
    return in_a_row("shm.attach(name).close()", CALLS_OF_ATTACH, held.name, f"{TMPFS}/{held.name}")


# -- other threads meanwhile ---------------------------------------------------


def longest_pause(function):
    """A side: how long another thread, which would run all the time, does not run while this one does the function."""

    def once():
        done, pauses = threading.Event(), []

        def run():
            longest, last = 0.0, time.perf_counter()
            while not done.is_set():
                now = time.perf_counter()
                longest, last = max(longest, now - last), now
            pauses.append(longest)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            function()
        finally:
            done.set()
            thread.join()
        return pauses[0]

    return once


@row("names", "longest pause of another thread while create reserves 1 GiB", "a millisecond", 20.0, BOUND, "time.sleep")
def _(stack):
    size = 32 * MIB if rows.quick else GIB
    need(size)
    name = new_name()
    return longest_pause(lambda: shm.create(name, size).close()), lambda: 0.001, longest_pause(lambda: time.sleep(0.3))


# -- scaling: ipcio against itself ---------------------------------------------

OTHERS = functools.partial(crowd, "shm")
CREATE = "shm.create(name, 4096).close()"
ATTACH = "shm.attach(name).close()"


for many in MANY:

    @row("scaling", f"create, close with {many} live names", "with 10", "flat", SELF)
    def _(stack, many=many):
        return crowds(OTHERS, many, CREATE, shm=shm, name=new_name())

    @row("scaling", f"attach, close with {many} live names", "with 10", "flat", SELF)
    def _(stack, many=many):
        name = stack.enter_context(shm.create(new_name(), 4096)).name
        return crowds(OTHERS, many, ATTACH, shm=shm, name=name)


for holders in (10, 100):

    @row("scaling", f"attach, close with {holders} holders", "with 1", "flat", SELF)
    def _(stack, holders=holders):
        many, one = (stack.enter_context(shm.create(new_name(), 4096)).name for _ in range(2))
        for _ in range(holders - 1):
            stack.enter_context(shm.attach(many))
        return loops("shm.attach(many).close()", "shm.attach(one).close()", shm=shm, many=many, one=one)


def need(size):
    if shutil.disk_usage(TMPFS).free < size + 64 * MIB:
        raise Skip(f"{TMPFS} has less than {size // MIB + 64} MiB left")


def sizes(stack, statement, big, **options):
    need(2 * big)
    small, large = (stack.enter_context(shm.create(new_name(), size, reserve=False)).name for size in (MIB, big))
    return loops(
        statement.format(size=big, held=repr(large)), statement.format(size=MIB, held=repr(small)), shm=shm, **options
    )


for words, big, linear in (("32 MiB", 32 * MIB, "linear: 32"), ("1 GiB", GIB, "linear: 1024")):

    @row("scaling", f"create, close {words}, reserve=False", "1 MiB", "flat", SELF)
    def _(stack, big=big):
        return sizes(stack, "shm.create(name, {size}, reserve=False).close()", big, name=new_name())

    @row("scaling", f"create, close {words}, reserve=True", "1 MiB", linear, SELF)
    def _(stack, big=big):
        return sizes(stack, "shm.create(name, {size}).close()", big, name=new_name())

    @row("scaling", f"attach, close {words}", "1 MiB", "flat", SELF)
    def _(stack, big=big):
        return sizes(stack, "shm.attach({held}).close()", big)
