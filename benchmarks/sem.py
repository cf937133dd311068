"""Semaphores: permits taken and given, uncontended and between two processes; names; crash-safe ones.

What is compared operates on one and the same semaphore where both can: ipcio's names
are everybody's.
"""
# ruff: noqa: ARG001 -- every row is given a stack

from __future__ import annotations

import contextlib
import functools
import glob
import multiprocessing
import os
import sys
import tempfile
import time
import timeit
from _multiprocessing import SemLock

from benchmarks import lua
from benchmarks.rows import (
    BOUND,
    FLOOR,
    ITSELF,
    MANY,
    SELF,
    TMPFS,
    crowd,
    crowds,
    fork,
    loops,
    new_name,
    one_cpu,
    optional,
    pipe,
    row,
)
from ipcio import sem


def held(stack, value=1, **options):
    """A new semaphore, open until the row ends."""
    handle = sem.create(new_name(), value, **options)
    stack.callback(handle.close)  # enter_context would take a permit
    return handle


def bare(handle):
    """The bare C class behind multiprocessing.Semaphore, on the same semaphore."""
    return SemLock._rebuild(0, 1, SemLock.SEM_VALUE_MAX, f"/{handle.name}")


def against_posix(stack, ours, theirs, floor, value=1):
    posix_ipc = optional("posix_ipc")
    handle = held(stack, value)
    peer = posix_ipc.Semaphore(f"/{handle.name}")
    stack.callback(peer.close)
    return loops(ours, theirs, floor, s=handle, p=peer, b=bare(handle), BusyError=posix_ipc.BusyError)


# -- uncontended -------------------------------------------------------------

CLASS = "SemLock"  # see `bare`
PAIR = "b.acquire(); b.release()"


@row("sem", "with", "posix_ipc: with", 0.6, floor=CLASS)
def _(stack):
    return against_posix(stack, "with s: pass", "with p: pass", "with b: pass")


@row("sem", "with", "multiprocessing.Semaphore: with", 0.4, floor=CLASS)
def _(stack):
    handle = held(stack)
    names = {"s": handle, "m": multiprocessing.Semaphore(1), "b": bare(handle)}
    return loops("with s: pass", "with m: pass", "with b: pass", **names)


@row("sem", "dec, inc", "posix_ipc: acquire, release", 1.1, floor=CLASS)
def _(stack):
    return against_posix(stack, "s.dec(); s.inc()", "p.acquire(); p.release()", PAIR)


@row("sem", "acquire, release", "posix_ipc: acquire, release", 1.1, floor=CLASS)
def _(stack):
    return against_posix(stack, "s.acquire(); s.release()", "p.acquire(); p.release()", PAIR)


@row("sem", "dec, inc", "LuaIPC", 0.9, floor=CLASS)
def _(stack):
    handle = held(stack)
    return lua.against(stack, "pair", "s.dec(); s.inc()", PAIR, s=handle, b=bare(handle))


@row("sem", "dec, inc", "SemLock: acquire, release", kind=FLOOR)
def _(stack):
    handle = held(stack)
    return loops("s.dec(); s.inc()", PAIR, s=handle, b=bare(handle))


@row("sem", "dec(1), inc", "posix_ipc: acquire(1), release", floor=CLASS)
def _(stack):
    return against_posix(stack, "s.dec(1); s.inc()", "p.acquire(1); p.release()", PAIR)


@row("sem", "dec(1), inc", "multiprocessing.Semaphore: acquire(True, 1), release", floor=CLASS)
def _(stack):
    handle = held(stack)
    names = {"s": handle, "m": multiprocessing.Semaphore(1), "b": bare(handle)}
    return loops("s.dec(1); s.inc()", "m.acquire(True, 1); m.release()", PAIR, **names)


@row("sem", "dec(0) in vain", "posix_ipc: acquire(0), BusyError caught", 0.2, floor=CLASS)
def _(stack):
    theirs = "try: p.acquire(0)\nexcept BusyError: pass"
    return against_posix(stack, "s.dec(0)", theirs, "b.acquire(False)", value=0)


WAIT = 0.02


def in_vain(stack, clock):
    """What the clock says of a timed wait for a permit that does not come, ipcio's and the bare class's."""
    handle = held(stack, 0)

    def side(wait):
        start = clock()
        wait()
        return clock() - start

    peer = bare(handle)
    return functools.partial(side, lambda: handle.dec(WAIT)), functools.partial(
        side, lambda: peer.acquire(block=True, timeout=WAIT)
    )


@row("sem", "how late dec(0.02) ends in vain", "a millisecond", 1.0, BOUND, CLASS)
def _(stack):
    ours, floor = in_vain(stack, time.monotonic)
    return lambda: ours() - WAIT, lambda: 0.001, lambda: floor() - WAIT


@row("sem", "processor time of dec(0.02) in vain", "the time waited", 0.04, BOUND, CLASS)
def _(stack):
    ours, floor = in_vain(stack, time.process_time)
    return ours, lambda: WAIT, floor


@row("sem", "crash-safe: dec, inc", "sysv_ipc: acquire, release with undo", 2.0, floor="the same without undo")
def _(stack):
    pairs = "s.dec(); s.inc()", "v.acquire(); v.release()", "w.acquire(); w.release()"
    return loops(*pairs, s=held(stack, undo=True), v=sysv(stack, undo=True), w=sysv(stack, undo=False))


def sysv(stack, *, undo):
    """A semaphore of sysv_ipc; with undo the kernel gives its permits back, too."""
    sysv_ipc = optional("sysv_ipc")
    theirs = sysv_ipc.Semaphore(None, sysv_ipc.IPC_CREX, initial_value=1)
    stack.callback(theirs.remove)
    theirs.undo = undo
    return theirs


# -- between two processes ---------------------------------------------------


def partner(stack, statement, **names):
    """A forked process that does the statement over and over."""
    timer = timeit.Timer(statement, globals=names)
    fork(stack, lambda: timer.timeit(sys.maxsize))


def permits_to_and_fro(stack):
    """Two semaphores, the other side of which is a partner's."""
    there, back = held(stack, 0), held(stack, 0)
    partner(stack, "there.dec(); back.inc()", there=there, back=back)
    return there, back


def ping_pong(stack, statement="pass", **names):
    """ipcio's side, another one, which `names` serve, and the bare class's."""
    there, back = permits_to_and_fro(stack)
    names |= {"bare_there": bare(held(stack, 0)), "bare_back": bare(held(stack, 0)), "there": there, "back": back}
    partner(stack, "bare_there.acquire(); bare_back.release()", **names)
    return loops("there.inc(); back.dec()", statement, "bare_there.release(); bare_back.acquire()", **names)


@row("sem", "ping-pong of two processes", "SemLock", 1.1, FLOOR)
def _(stack):
    one_cpu(stack)
    ours, _, floor = ping_pong(stack)
    return ours, floor


@row("sem", "ping-pong of two processes", "a byte through os.pipe", 0.9, floor=CLASS)
def _(stack):
    one_cpu(stack)
    (here_in, there_out), (there_in, here_out) = pipe(stack), pipe(stack)
    calls = {"read": os.read, "write": os.write}
    partner(stack, "read(i, 1); write(o, b'x')", i=there_in, o=there_out, **calls)
    return ping_pong(stack, "write(o, b'x'); read(i, 1)", i=here_in, o=here_out, **calls)


@row("sem", "ping-pong of two processes", "None through multiprocessing.Queue", floor=CLASS)
def _(stack):
    one_cpu(stack)
    there, back = multiprocessing.Queue(), multiprocessing.Queue()
    for queue in (there, back):
        stack.callback(queue.join_thread)
        stack.callback(queue.close)
    partner(stack, "i.get(); o.put(None)", i=there, o=back)
    return ping_pong(stack, "o.put(None); i.get()", i=back, o=there)


@row("sem", "ping-pong of two processes", "iceoryx2: notify, blocking_wait", floor=CLASS)
def _(stack):
    iceoryx2 = optional("iceoryx2")
    iceoryx2.set_log_level(iceoryx2.LogLevel.Fatal)  # or it tells of the kill at the end
    one_cpu(stack)
    directory, prefix = stack.enter_context(tempfile.TemporaryDirectory()), f"{new_name()}_"
    stack.callback(lambda: [os.unlink(path) for path in glob.glob(f"{TMPFS}/{prefix}*")])  # what it leaves there
    ready_in, ready_out = pipe(stack)

    def ends(out, back):
        config = iceoryx2.config.default()
        config.global_cfg.root_path = iceoryx2.Path.new(directory)
        config.global_cfg.prefix = iceoryx2.FileName.new(prefix)
        node = iceoryx2.NodeBuilder.new().config(config).create(iceoryx2.ServiceType.Ipc)
        there, here = (node.service_builder(iceoryx2.ServiceName.new(name)).event() for name in (out, back))
        return there.open_or_create().notifier_builder().create(), here.open_or_create().listener_builder().create()

    def answer():
        notifier, listener = ends("back", "there")
        os.write(ready_out, b"x")
        while True:
            listener.blocking_wait()
            notifier.notify()

    fork(stack, answer)
    os.read(ready_in, 1)
    notifier, listener = ends("there", "back")
    return ping_pong(stack, "n.notify(); l.blocking_wait()", n=notifier, l=listener)


# -- names -------------------------------------------------------------------

CREATE = "sem.create(name, 1).close()"
ATTACH = "sem.attach(name).close()"


@row("sem", "create, close", "posix_ipc: create, unlink, close", 1.8, floor="SemLock: create, unlink, close")
def _(stack):
    posix_ipc = optional("posix_ipc")
    name = new_name()
    return loops(
        CREATE,
        "p = Semaphore(path, O_CREX, initial_value=1); p.unlink(); p.close()",
        "SemLock(1, 1, 1, path, True)",
        sem=sem,
        name=name,
        path=f"/{name}-other",
        Semaphore=posix_ipc.Semaphore,
        O_CREX=posix_ipc.O_CREX,
        SemLock=SemLock,
    )


@row("sem", "attach, close", "posix_ipc: attach, close", 4.0, floor="SemLock: attach, close")
def _(stack):
    posix_ipc = optional("posix_ipc")
    # Another process holds it: what this one has open itself costs posix_ipc next to nothing.
    name = f"{stack.enter_context(crowd('sem', 1))}-0"
    return loops(
        ATTACH,
        "Semaphore(path).close()",
        "rebuild(0, 1, 1, path)",
        sem=sem,
        name=name,
        path=f"/{name}",
        Semaphore=posix_ipc.Semaphore,
        rebuild=SemLock._rebuild,
    )


@row("sem", "crash-safe: create, close", "sysv_ipc: create, remove", floor=ITSELF)
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


for many in MANY:

    @row("sem", f"create, close with {many} live names", "with 10", "flat", SELF)
    def _(stack, many=many):
        return crowds(OTHERS, many, CREATE, sem=sem, name=new_name())

    @row("sem", f"attach, close with {many} live names", "with 10", "flat", SELF)
    def _(stack, many=many):
        return crowds(OTHERS, many, ATTACH, sem=sem, name=held(stack).name)


# glibc's sem_close(3) looks through all that the process has open.
@row("sem", "create, close with 5000 open in this process", "with 10", kind=SELF)
def _(stack):
    return crowds(hoard, 5000, CREATE, sem=sem, name=new_name())


for holders in (10, 100):

    @row("sem", f"attach, close with {holders} holders", "with 1", "flat", SELF)
    def _(stack, holders=holders):
        many, one = held(stack).name, held(stack).name
        for _ in range(holders - 1):
            stack.callback(sem.attach(many).close)
        return loops("sem.attach(many).close()", "sem.attach(one).close()", sem=sem, many=many, one=one)
