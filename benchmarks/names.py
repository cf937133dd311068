"""Names of shared memory: what it takes to make, find and close them."""
# ruff: noqa: ARG001 -- every row is given a stack

from __future__ import annotations

import functools
import importlib.util
import mmap as bare
import shutil
from multiprocessing import shared_memory

from benchmarks.rows import GIB, MIB, SELF, TMPFS, Skip, crowd, crowds, loops, new_name, row
from ipcio import shm

# -- names -------------------------------------------------------------------


@row("names", "create, close", "multiprocessing: create, close, unlink", 1.3)
def _(stack):
    return loops(
        "shm.create(name, 4096).close()",
        "s = SharedMemory(name, True, 4096); s.close(); s.unlink()",
        shm=shm,
        name=new_name(),
        SharedMemory=shared_memory.SharedMemory,
    )


@row("names", "attach, close", "multiprocessing: attach, close", 0.9)
def _(stack):
    held = stack.enter_context(shm.create(new_name(), 4096))
    theirs = shared_memory.SharedMemory(new_name(), create=True, size=4096)
    stack.callback(theirs.unlink)
    stack.callback(theirs.close)
    return loops(
        "shm.attach(name).close()",
        "SharedMemory(other).close()",
        shm=shm,
        name=held.name,
        other=theirs.name,
        SharedMemory=shared_memory.SharedMemory,
    )


@row("names", "create, close", "posix_ipc: create, mmap, close, unlink")
def _(stack):
    if importlib.util.find_spec("posix_ipc") is None:
        raise Skip("posix_ipc is not installed")
    import posix_ipc

    return loops(
        "shm.create(name, 4096).close()",
        "s = posix_ipc.SharedMemory('/' + name, posix_ipc.O_CREX, size=4096)\n"
        "m = bare.mmap(s.fd, 4096); s.close_fd(); m.close(); s.unlink()",
        shm=shm,
        bare=bare,
        name=new_name(),
        posix_ipc=posix_ipc,
    )


# -- scaling: ipcio against itself ---------------------------------------------

OTHERS = functools.partial(crowd, "shm")
CREATE = "shm.create(name, 4096).close()"
ATTACH = "shm.attach(name).close()"


@row("scaling", "create, close with 5000 live names", "with 10", "flat", SELF)
def _(stack):
    return crowds(OTHERS, CREATE, shm=shm, name=new_name())


@row("scaling", "attach, close with 5000 live names", "with 10", "flat", SELF)
def _(stack):
    name = stack.enter_context(shm.create(new_name(), 4096)).name
    return crowds(OTHERS, ATTACH, shm=shm, name=name)


@row("scaling", "attach, close with 100 holders", "with 1", "flat", SELF)
def _(stack):
    many, one = (stack.enter_context(shm.create(new_name(), 4096)).name for _ in range(2))
    for _ in range(99):
        stack.enter_context(shm.attach(many))
    return loops("shm.attach(many).close()", "shm.attach(one).close()", shm=shm, many=many, one=one)


def sizes(statement, **names):
    if shutil.disk_usage(TMPFS).free < GIB + 64 * MIB:
        raise Skip(f"{TMPFS} has less than 1 GiB left")
    return loops(statement.format(GIB, "big"), statement.format(MIB, "small"), shm=shm, **names)


@row("scaling", "create, close 1 GiB, reserve=False", "1 MiB", "flat", SELF)
def _(stack):
    return sizes("shm.create(name, {0}, reserve=False).close()", name=new_name())


@row("scaling", "create, close 1 GiB, reserve=True", "1 MiB", "linear: 1024", SELF)
def _(stack):
    return sizes("shm.create(name, {0}).close()", name=new_name())


@row("scaling", "attach, close 1 GiB", "1 MiB", "flat", SELF)
def _(stack):
    held = [stack.enter_context(shm.create(new_name(), size, reserve=False)) for size in (GIB, MIB)]
    return sizes("shm.attach({1}).close()", big=held[0].name, small=held[1].name)
