"""What all rows are made of: one function per row, in the module of its group.

A row's function sets its two sides up, on an `ExitStack` that will clean up, and
returns them: functions that run one round and return the seconds per operation.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import resource
import subprocess
import sys
import timeit
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
_names = (f"benchmark-{os.getpid()}-{number}" for number in itertools.count())
new_name = functools.partial(next, _names)


class Row(NamedTuple):
    group: str
    name: str
    peer: str
    goal: float | str | None  # the ratio not to exceed, or a word
    kind: str  # what the peer is, see below
    prepare: Callable[[ExitStack], tuple[Side, Side]]


class Skip(Exception):  # noqa: N818
    """This row cannot be measured here, and why."""


PEER = "peer"  # another library that does the same for its users
FLOOR = "floor"  # the bare call beneath, without any promise: nobody can be faster
SELF = "self"  # ipcio with less to do
BOUND = "bound"  # no program, but a time


def row(group, name, peer, goal=None, kind=PEER):
    """Add a row to the table; `kind` is what its peer is."""

    def add(prepare):
        ROWS.append(Row(group, name, peer, goal, kind, prepare))
        return prepare

    return add


def loops(ours, peer, **names):
    """Two statements, run as often as one another."""
    timers = [timeit.Timer(statement, globals=names) for statement in (ours, peer)]
    number = 1
    while (slower := max(timer.timeit(number) for timer in timers)) < ROUND / 2:
        number = max(int(number * min(ROUND / slower, 100)), number + 1)
    return [lambda timer=timer: timer.timeit(number) / number for timer in timers]


# -- crowds: one statement, among many names and among few -------------------

MANY, FEW = 5000, 10
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
    if 0 <= limit < 3 * MANY + 100:
        raise Skip(f"{MANY} names need up to {3 * MANY} descriptors, and the limit is {limit}")
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


def crowds(gather, statement, **names):
    """The statement among many names and among few, which `gather(count)` holds."""
    allow_many_names()
    alone, _ = loops(statement, "pass", **names)

    def side(count):
        with gather(count):
            return alone()

    return functools.partial(side, MANY), functools.partial(side, FEW)
