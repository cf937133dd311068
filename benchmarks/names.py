"""Names of shared memory: what it takes to make, find and close them."""
# ruff: noqa: ARG001 -- every row is given a stack

from __future__ import annotations

import functools
import mmap as bare
import os
import shutil
from multiprocessing import shared_memory

from benchmarks.rows import GIB, MANY, MIB, SELF, TMPFS, Skip, crowd, crowds, loops, new_name, optional, row
from ipcio import shm

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


@row("names", "create, close", "multiprocessing: create, close, unlink", 1.3, floor=MADE)
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


@row("names", "attach, close", "multiprocessing: attach, close", 0.9, floor=FOUND)
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


def sizes(stack, statement, big, **options):
    if shutil.disk_usage(TMPFS).free < 2 * big + 64 * MIB:
        raise Skip(f"{TMPFS} has less than 2 GiB left")
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
