"""Semaphores: permits taken and given, uncontended and between two processes; names; crash-safe ones.

What is compared operates on one and the same semaphore where both can: ipcio's names
are everybody's.
"""
# ruff: noqa: ARG001 -- every row is given a stack

from __future__ import annotations

import contextlib
import functools
import importlib
import multiprocessing
import os
import signal
import sys
import timeit
from _multiprocessing import SemLock

from benchmarks import lua
from benchmarks.rows import FLOOR, SELF, Skip, crowd, crowds, loops, new_name, row
from ipcio import sem


def optional(module):
    try:
        return importlib.import_module(module)
    except ImportError:
        raise Skip(f"{module} is not installed") from None


def held(stack, value=1, **options):
    """A new semaphore, open until the row ends."""
    handle = sem.create(new_name(), value, **options)
    stack.callback(handle.close)  # enter_context would take a permit
    return handle


def bare(handle):
    """The bare C class behind multiprocessing.Semaphore, on the same semaphore."""
    return SemLock._rebuild(0, 1, SemLock.SEM_VALUE_MAX, f"/{handle.name}")


def against_posix(stack, ours, theirs, value=1):
    posix_ipc = optional("posix_ipc")
    handle = held(stack, value)
    peer = posix_ipc.Semaphore(f"/{handle.name}")
    stack.callback(peer.close)
    return loops(ours, theirs, s=handle, p=peer, BusyError=posix_ipc.BusyError)


# -- uncontended -------------------------------------------------------------


@row("sem", "with", "posix_ipc: with", 0.6)
def _(stack):
    return against_posix(stack, "with s: pass", "with p: pass")


@row("sem", "with", "multiprocessing.Semaphore: with", 0.4)
def _(stack):
    return loops("with s: pass", "with m: pass", s=held(stack), m=multiprocessing.Semaphore(1))


@row("sem", "dec, inc", "posix_ipc: acquire, release", 1.2)
def _(stack):
    return against_posix(stack, "s.dec(); s.inc()", "p.acquire(); p.release()")


@row("sem", "acquire, release", "posix_ipc: acquire, release", 1.2)
def _(stack):
    return against_posix(stack, "s.acquire(); s.release()", "p.acquire(); p.release()")


@row("sem", "dec, inc", "LuaIPC", 0.9)
def _(stack):
    return lua.against(stack, "pair", "s.dec(); s.inc()", s=held(stack))


@row("sem", "dec, inc", "SemLock: acquire, release", kind=FLOOR)
def _(stack):
    handle = held(stack)
    return loops("s.dec(); s.inc()", "b.acquire(); b.release()", s=handle, b=bare(handle))


@row("sem", "dec(0) in vain", "posix_ipc: acquire(0), BusyError caught", 0.2)
def _(stack):
    return against_posix(stack, "s.dec(0)", "try: p.acquire(0)\nexcept BusyError: pass", value=0)


@row("sem", "crash-safe: dec, inc", "sysv_ipc: acquire, release with undo", 2.0)
def _(stack):
    return loops("s.dec(); s.inc()", "v.acquire(); v.release()", s=held(stack, undo=True), v=sysv(stack))


def sysv(stack):
    """A semaphore of sysv_ipc that is given back by the kernel, too."""
    sysv_ipc = optional("sysv_ipc")
    theirs = sysv_ipc.Semaphore(None, sysv_ipc.IPC_CREX, initial_value=1)
    stack.callback(theirs.remove)
    theirs.undo = True
    return theirs


# -- between two processes ---------------------------------------------------


def partner(stack, statement, **names):
    """A forked process that does the statement over and over."""
    child = os.fork()
    if not child:
        signal.alarm(3600)  # if nobody lives to kill it
        timeit.Timer(statement, globals=names).timeit(sys.maxsize)
        os._exit(1)
    stack.callback(os.waitpid, child, 0)
    stack.callback(os.kill, child, signal.SIGKILL)


def one_cpu(stack):
    """Keep all processes of the row on one CPU.

    On two, a round is mostly the time that the kernel needs to wake the other up: 20
    times as much, never the same, and the same for all.
    """
    stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def permits_to_and_fro(stack):
    """Two semaphores, the other side of which is a partner's."""
    there, back = held(stack, 0), held(stack, 0)
    partner(stack, "there.dec(); back.inc()", there=there, back=back)
    return there, back


@row("sem", "ping-pong of two processes", "SemLock", 1.1, FLOOR)
def _(stack):
    one_cpu(stack)
    there, back = permits_to_and_fro(stack)
    bare_there, bare_back = bare(held(stack, 0)), bare(held(stack, 0))
    partner(stack, "there.acquire(); back.release()", there=bare_there, back=bare_back)
    return loops(
        "there.inc(); back.dec()",
        "bare_there.release(); bare_back.acquire()",
        there=there,
        back=back,
        bare_there=bare_there,
        bare_back=bare_back,
    )


@row("sem", "ping-pong of two processes", "a byte through os.pipe", 0.9)
def _(stack):
    one_cpu(stack)
    there, back = permits_to_and_fro(stack)
    (here_in, there_out), (there_in, here_out) = pipe(stack), pipe(stack)
    partner(stack, "read(i, 1); write(o, b'x')", read=os.read, write=os.write, i=there_in, o=there_out)
    return loops(
        "there.inc(); back.dec()",
        "write(o, b'x'); read(i, 1)",
        there=there,
        back=back,
        read=os.read,
        write=os.write,
        i=here_in,
        o=here_out,
    )


def pipe(stack):
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends


# -- names -------------------------------------------------------------------

CREATE = "sem.create(name, 1).close()"
ATTACH = "sem.attach(name).close()"


@row("sem", "create, close", "posix_ipc: create, unlink, close", 1.6)
def _(stack):
    posix_ipc = optional("posix_ipc")
    name = new_name()
    return loops(
        CREATE,
        "p = Semaphore(path, O_CREX, initial_value=1); p.unlink(); p.close()",
        sem=sem,
        name=name,
        path=f"/{name}",
        Semaphore=posix_ipc.Semaphore,
        O_CREX=posix_ipc.O_CREX,
    )


@row("sem", "attach, close", "posix_ipc: attach, close")
def _(stack):
    posix_ipc = optional("posix_ipc")
    # Another process holds it: what this one has open itself costs posix_ipc next to nothing.
    name = f"{stack.enter_context(crowd('sem', 1))}-0"
    return loops(ATTACH, "Semaphore(path).close()", sem=sem, name=name, path=f"/{name}", Semaphore=posix_ipc.Semaphore)


@row("sem", "crash-safe: create, close", "sysv_ipc: create, remove")
def _(stack):
    sysv_ipc = optional("sysv_ipc")
    return loops(
        "sem.create(name, 1, undo=True).close()",
        "Semaphore(None, IPC_CREX, initial_value=1).remove()",
        sem=sem,
        name=new_name(),
        Semaphore=sysv_ipc.Semaphore,
        IPC_CREX=sysv_ipc.IPC_CREX,
    )


# -- scaling: ipcio against itself -------------------------------------------

OTHERS = functools.partial(crowd, "sem")


@contextlib.contextmanager
def hoard(count):
    """`count` semaphores of this very process."""
    name = new_name()
    handles = [sem.create(f"{name}-{number}") for number in range(count)]
    yield
    for handle in handles:
        handle.close()


@row("sem", "create, close with 5000 live names", "with 10", "flat", SELF)
def _(stack):
    return crowds(OTHERS, CREATE, sem=sem, name=new_name())


@row("sem", "attach, close with 5000 live names", "with 10", "flat", SELF)
def _(stack):
    return crowds(OTHERS, ATTACH, sem=sem, name=held(stack).name)


# glibc's sem_close(3) looks through all that the process has open.
@row("sem", "create, close with 5000 open in this process", "with 10", kind=SELF)
def _(stack):
    return crowds(hoard, CREATE, sem=sem, name=new_name())


@row("sem", "attach, close with 100 holders", "with 1", "flat", SELF)
def _(stack):
    many, one = held(stack).name, held(stack).name
    for _ in range(99):
        stack.callback(sem.attach(many).close)
    return loops("sem.attach(many).close()", "sem.attach(one).close()", sem=sem, many=many, one=one)
