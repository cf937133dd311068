"""What all rows are made of: one function per row, in the module of its group.

A row's function sets its sides up, on an `ExitStack` that will clean up, and returns
them, ipcio's, the peer's and the floor: functions that run one round and return the
seconds per operation, or bytes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import os
import resource
import signal
import subprocess
import sys
import time
import timeit
import traceback
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    Side = Callable[[], float]

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TMPFS = "/dev/shm"
ROUND = 0.001  # seconds that a round of the slower side takes, about: less than a time slice, lest others get in
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LINES = (b"x" * 63 + b"\n") * KIB

ROWS: list[Row] = []
quick = False  # whether less than a row's name says may be moved: set by --quick
_names = (f"benchmark-{os.getpid()}-{number}" for number in itertools.count())
new_name = functools.partial(next, _names)


class Row(NamedTuple):
    group: str
    name: str
    peer: str
    goal: float | str | None  # the ratio not to exceed, or a word
    kind: str  # what the peer is, see below
    floor: str  # what the third side is: the cheapest that does the same, or a part of it that nobody can do without
    prepare: Callable[[ExitStack], tuple[Side, ...]]


class Skip(Exception):  # noqa: N818
    """This row cannot be measured here, and why."""


PEER = "peer"  # another library that does the same for its users
FLOOR = "floor"  # the bare call beneath, without any promise: nobody can be faster
SELF = "self"  # ipcio with less to do
BOUND = "bound"  # no program, but a time
MEMORY = "memory"  # another library, and the sides return bytes

ITSELF = "the other itself"  # as a floor: there are two sides, and nothing is cheaper than the second


def row(group, name, peer, goal=None, kind=PEER, floor=None):
    """Add a row to the table; `kind` is what its peer is, `floor` what its third side is."""
    if floor is None:
        floor = ITSELF if kind == FLOOR else ""

    def add(prepare):
        ROWS.append(Row(group, name, peer, goal, kind, floor, prepare))
        return prepare

    return add


def loops(*statements, **names):
    """A side for each statement, run as often as one another."""
    timers = [timeit.Timer(statement, globals=names) for statement in statements]
    number = 1
    while (slower := max(timer.timeit(number) for timer in timers)) < ROUND / 2:
        number = max(int(number * min(ROUND / slower, 100)), number + 1)
    return [lambda timer=timer: timer.timeit(number) / number for timer in timers]


def timed(function):
    """A side that is one call."""

    def once():
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return once


def optional(module):
    """A module that not everybody has."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise Skip(f"{module} is not installed") from None


def one_cpu(stack):
    """Keep all processes of the row on one CPU.

    On two, a round is mostly the time that the kernel needs to wake the other up: 20
    times as much, never the same, and the same for all.
    """
    stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def fork(stack, function):
    """A forked process that does the function until the row ends."""
    child = os.fork()
    if not child:
        signal.alarm(3600)  # if nobody lives to kill it
        try:
            function()
        except BaseException:  # noqa: BLE001 -- the parent is not to go on here
            traceback.print_exc()
        os._exit(1)
    stack.callback(os.waitpid, child, 0)
    stack.callback(os.kill, child, signal.SIGKILL)


def pipe(stack):
    """Both ends of a pipe, closed when the row ends."""
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends


# -- crowds: one statement, among many names and among few -------------------

MANY, FEW = (100, 1000, 5000), 10
CROWD = """
import ipcio, resource, sys
_, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
module, name, count = sys.argv[1:]
held = [getattr(ipcio, module).create(f"{name}-{number}", 1) for number in range(int(count))]
print(flush=True)
sys.stdin.read()
"""


def allow_many_names():
    """Raise this process's limit of descriptors as far as it goes."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < 3 * MANY[-1] + 100:
        raise Skip(f"{MANY[-1]} names need up to {3 * MANY[-1]} descriptors, and the limit is {limit}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


@contextlib.contextmanager
def crowd(module, count):
    """Another process that holds `count` names, NAME-0 and so on; the value is NAME."""
    name = new_name()
    with subprocess.Popen(
        [sys.executable, "-c", CROWD, module, name, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        if not process.stdout.readline():
            raise RuntimeError(f"no process with {count} names")
        yield name


def crowds(gather, many, statement, **names):
    """The statement among many names and among few, which `gather(count)` holds."""
    allow_many_names()
    (alone,) = loops(statement, **names)

    def side(count):
        with gather(count):
            return alone()

    return functools.partial(side, many), functools.partial(side, FEW)
