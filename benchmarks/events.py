"""Events: set, clear and is_set in one process, and a wake-up of another process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import timeit

from benchmarks.rows import fork, loops, new_name, one_cpu, pipe, row
from ipcio import event

CALL = "a system call: os.getppid()"
THEIRS = "multiprocessing.Event"


def made(stack):
    return stack.enter_context(contextlib.closing(event.create(new_name())))


def against(stack, ours, theirs):
    """Sides: ours, the standard library's, and one system call."""
    return loops(ours, theirs, "call()", e=made(stack), p=multiprocessing.Event(), call=os.getppid)


@row("event", "set, clear", THEIRS, floor=CALL)
def _(stack):
    return against(stack, "e.set(); e.clear()", "p.set(); p.clear()")


@row("event", "is_set", THEIRS, floor=CALL)
def _(stack):
    return against(stack, "e.is_set()", "p.is_set()")


def answer(stack, statement, **names):
    """A forked process that does the statement over and over."""
    timer = timeit.Timer(statement, globals=names)
    fork(stack, lambda: timer.timeit(sys.maxsize))


@row("event", "ping-pong of two processes", THEIRS, floor="a byte through os.pipe")
def _(stack):
    one_cpu(stack)
    statement = "{0}.wait(); {0}.clear(); {1}.set()"
    a, b = made(stack), made(stack)
    c, d = multiprocessing.Event(), multiprocessing.Event()
    (here_in, there_out), (there_in, here_out) = pipe(stack), pipe(stack)
    names = {"a": a, "b": b, "c": c, "d": d, "read": os.read, "write": os.write}
    answer(stack, statement.format("a", "b"), **names)
    answer(stack, statement.format("c", "d"), **names)
    answer(stack, "read(i, 1); write(o, b'x')", i=there_in, o=there_out, **names)
    return loops(
        "a.set(); b.wait(); b.clear()",
        "c.set(); d.wait(); d.clear()",
        "write(o, b'x'); read(i, 1)",
        i=here_in,
        o=here_out,
        **names,
    )
