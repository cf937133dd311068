"""What is measured: one function per row.

A row's function sets its two sides up, on an `ExitStack` that will clean up, and
returns them: functions that run one round and return the seconds per operation.
"""
# ruff: noqa: ARG001, SIM115 -- every row is given a stack, and what is opened goes there

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import itertools
import mmap as bare
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import timeit
from multiprocessing import shared_memory
from typing import TYPE_CHECKING, NamedTuple

import ipcio.mmap
from ipcio import shm, strfile

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    Side = Callable[[], float]

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TMPFS = "/dev/shm"
ROUND = 0.005  # seconds that a round of the slower side takes, about
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LINES = (b"x" * 63 + b"\n") * KIB

ROWS: list[Row] = []
_names = (f"benchmark-{os.getpid()}-{number}" for number in itertools.count())


class Row(NamedTuple):
    group: str
    name: str
    peer: str
    goal: float | str | None  # the ratio not to exceed, or a word
    prepare: Callable[[ExitStack], tuple[Side, Side]]


class Skip(Exception):  # noqa: N818
    """This row cannot be measured here, and why."""


def row(group, name, peer, goal=None):
    def add(prepare):
        ROWS.append(Row(group, name, peer, goal, prepare))
        return prepare

    return add


def versions(before, since):
    """A goal that depends on `mmap.seek`, which returns the position since Python 3.13."""
    return since if sys.version_info >= (3, 13) else before


def loops(ours, peer, **names):
    """Two statements, run as often as one another."""
    timers = [timeit.Timer(statement, globals={**globals(), **names}) for statement in (ours, peer)]
    number = 1
    while (slower := max(timer.timeit(number) for timer in timers)) < ROUND / 2:
        number = max(int(number * min(ROUND / slower, 100)), number + 1)
    return [lambda timer=timer: timer.timeit(number) / number for timer in timers]


def file_of(stack, content):
    """A file on tmpfs, by its path."""
    file = stack.enter_context(tempfile.NamedTemporaryFile(dir=TMPFS, prefix="benchmark-"))
    file.write(content)
    file.flush()
    return file.name


def same_pages(stack, content):
    """One file mapped by ipcio and by a bare mmap.mmap."""
    path = file_of(stack, content)
    handle = stack.enter_context(ipcio.mmap.open(path, "rw"))
    with open(path, "r+b") as file:
        memory = stack.enter_context(bare.mmap(file.fileno(), 0))
    return {"h": handle, "m": memory}


# -- the file face -----------------------------------------------------------


@row("face", "seek, write 64 B", "mmap.mmap", versions(1.8, 1.2))
def _(stack):
    return loops("h.seek(0); h.write(d)", "m.seek(0); m.write(d)", d=bytes(64), **same_pages(stack, LINES))


@row("face", "seek, read 64 B", "mmap.mmap", versions(1.5, 1.05))
def _(stack):
    return loops("h.seek(0); h.read(64)", "m.seek(0); m.read(64)", **same_pages(stack, LINES))


@row("face", "iterate lines of 64 B", 'iter(mmap.readline, b"")', 1.05)
def _(stack):
    return loops(
        "h.seek(0)\nfor line in h: pass",
        "m.seek(0)\nfor line in iter(m.readline, b''): pass",
        **same_pages(stack, LINES),
    )


@row("face", "seek, read 1 MiB", "mmap.mmap", 1.02)
def _(stack):
    return loops("h.seek(0); h.read(MIB)", "m.seek(0); m.read(MIB)", **same_pages(stack, bytes(MIB)))


@row("face", "seek, write 1 MiB", "mmap.mmap", 1.02)
def _(stack):
    return loops("h.seek(0); h.write(d)", "m.seek(0); m.write(d)", d=bytes(MIB), **same_pages(stack, bytes(MIB)))


@row("face", "seek, readinto 1 MiB", "bytearray[:] = mmap[:]", 1.1)
def _(stack):
    return loops("h.seek(0); h.readinto(b)", "b[:] = m[:]", b=bytearray(MIB), **same_pages(stack, bytes(MIB)))


@row("face", "seek, readinto 1 MiB", "memoryview[:] = memoryview")
def _(stack):
    names = same_pages(stack, bytes(MIB))
    source = stack.enter_context(memoryview(names["m"]))
    return loops("h.seek(0); h.readinto(b)", "b[:] = v", b=memoryview(bytearray(MIB)), v=source, **names)


@row("face", "seek, readinto 4 KiB", "bytearray[:] = mmap[:]")
def _(stack):
    return loops("h.seek(0); h.readinto(b)", "b[:] = m[:]", b=bytearray(4096), **same_pages(stack, bytes(4096)))


# -- the standard library's wrappers over a handle, and over the same file ---------

SCATTER = "for at in range(0, 65536, 1024): {0}.seek(at); {0}.write(d); {0}.seek(at ^ 4096); {0}.read(64)"
READ_LINES = "{0}.seek(0)\nfor line in {0}: pass"
WRITE_LINES = "{0}.seek(0)\nfor _ in range(KIB): {0}.write(d)\n{0}.flush()"


def wrappers(stack, statement, data, wrapper, opened, **options):
    path = file_of(stack, LINES)
    handle = stack.enter_context(wrapper(ipcio.mmap.open(path, "rw"), **options))
    file = stack.enter_context(open(path, opened, **options))
    return loops(statement.format("h"), statement.format("f"), h=handle, f=file, d=data)


@row("wrappers", "BufferedRandom: 64 B written and read, scattered", "real file on tmpfs", 1.2)
def _(stack):
    return wrappers(stack, SCATTER, bytes(64), io.BufferedRandom, "r+b")


@row("wrappers", "BufferedRandom: iterate lines", "real file on tmpfs", 1.2)
def _(stack):
    return wrappers(stack, READ_LINES, None, io.BufferedRandom, "r+b")


@row("wrappers", "TextIOWrapper: iterate lines", "real file on tmpfs", 1.2)
def _(stack):
    return wrappers(stack, READ_LINES, None, io.TextIOWrapper, "r+", encoding="utf-8")


@row("wrappers", "TextIOWrapper: write lines", "real file on tmpfs", 1.2)
def _(stack):
    return wrappers(stack, WRITE_LINES, "y" * 63 + "\n", io.TextIOWrapper, "r+", encoding="utf-8")


# -- strfile -----------------------------------------------------------------


@row("strfile", "open 64 MiB", "strfile.open of 64 B", "flat")
def _(stack):
    return loops(
        "open(big).close()", "open(small).close()", open=strfile.open, big=bytearray(64 * MIB), small=bytearray(64)
    )


@row("strfile", "iterate lines of 64 B", "BytesIO", 10.0)
def _(stack):
    handle, peer = stack.enter_context(strfile.open(LINES)), io.BytesIO(LINES)
    return loops("h.seek(0)\nfor line in h: pass", "p.seek(0)\nfor line in p: pass", h=handle, p=peer)


# -- names -------------------------------------------------------------------


@row("names", "create, close", "multiprocessing: create, close, unlink", 1.3)
def _(stack):
    return loops(
        "shm.create(name, 4096).close()",
        "s = SharedMemory(name, True, 4096); s.close(); s.unlink()",
        name=next(_names),
        SharedMemory=shared_memory.SharedMemory,
    )


@row("names", "attach, close", "multiprocessing: attach, close", 0.9)
def _(stack):
    held = stack.enter_context(shm.create(next(_names), 4096))
    theirs = shared_memory.SharedMemory(next(_names), create=True, size=4096)
    stack.callback(theirs.unlink)
    stack.callback(theirs.close)
    return loops(
        "shm.attach(name).close()",
        "SharedMemory(other).close()",
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
        name=next(_names),
        posix_ipc=posix_ipc,
    )


# -- scaling: ipcio against itself ---------------------------------------------

CROWD = """
import sys
from ipcio import shm
held = [shm.create(f"{sys.argv[1]}-{number}", 1) for number in range(int(sys.argv[2]))]
print(flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def crowd(count):
    """Another process that holds `count` names."""
    with subprocess.Popen(
        [sys.executable, "-c", CROWD, next(_names), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        process.stdout.readline()
        yield


def crowds(statement, name):
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < 3 * 5000 + 100:
        raise Skip(f"5000 names need some 15000 descriptors, and the limit is {limit}")
    alone, _ = loops(statement, statement, name=name)

    def side(count):
        with crowd(count):
            return alone()

    return functools.partial(side, 5000), functools.partial(side, 10)


CREATE = "shm.create(name, 4096).close()"
ATTACH = "shm.attach(name).close()"


@row("scaling", "create, close with 5000 live names", "with 10", "flat")
def _(stack):
    return crowds(CREATE, next(_names))


@row("scaling", "attach, close with 5000 live names", "with 10", "flat")
def _(stack):
    return crowds(ATTACH, stack.enter_context(shm.create(next(_names), 4096)).name)


@row("scaling", "attach, close with 100 holders", "with 1", "flat")
def _(stack):
    many, one = (stack.enter_context(shm.create(next(_names), 4096)).name for _ in range(2))
    for _ in range(99):
        stack.enter_context(shm.attach(many))
    return loops("shm.attach(many).close()", "shm.attach(one).close()", many=many, one=one)


def sizes(statement, **names):
    if shutil.disk_usage(TMPFS).free < GIB + 64 * MIB:
        raise Skip(f"{TMPFS} has less than 1 GiB left")
    return loops(statement.format("GIB", "big"), statement.format("MIB", "small"), **names)


@row("scaling", "create, close 1 GiB, reserve=False", "1 MiB", "flat")
def _(stack):
    return sizes("shm.create(name, {0}, reserve=False).close()", name=next(_names))


@row("scaling", "create, close 1 GiB, reserve=True", "1 MiB", "linear: 1024")
def _(stack):
    return sizes("shm.create(name, {0}).close()", name=next(_names))


@row("scaling", "attach, close 1 GiB", "1 MiB", "flat")
def _(stack):
    held = [stack.enter_context(shm.create(next(_names), size, reserve=False)) for size in (GIB, MIB)]
    return sizes("shm.attach({1}).close()", big=held[0].name, small=held[1].name)


# -- import ------------------------------------------------------------------


def imports(stack, ours, peer):
    """Two imports, each in a fresh interpreter, from compiled files that are there."""
    cache = stack.enter_context(tempfile.TemporaryDirectory())
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

    def side(statement):
        code = f"from time import perf_counter; start = perf_counter(); {statement}; print(perf_counter() - start)"
        answer = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**environment, "PYTHONPYCACHEPREFIX": cache},
            stdout=subprocess.PIPE,
            check=True,
        )
        return float(answer.stdout)

    sides = functools.partial(side, ours), functools.partial(side, peer)
    for compiling in sides:
        compiling()
    return sides


@row("import", "import ipcio", "multiprocessing.shared_memory", 0.05)
def _(stack):
    return imports(stack, "import ipcio", "import multiprocessing.shared_memory")


@row("import", "from ipcio import shm, mmap, strfile", "multiprocessing.shared_memory")
def _(stack):
    return imports(stack, "from ipcio import shm, mmap, strfile", "import multiprocessing.shared_memory")


# -- LuaIPC ------------------------------------------------------------------


def lua(stack, operation, statement):
    """A statement over a segment of lines, and the same operation of lua.lua in a Lua process."""
    if not (command := os.environ.get("IPCIO_BENCH_LUA")):
        raise Skip("IPCIO_BENCH_LUA does not name a Lua with ipc.shm")
    process = stack.enter_context(
        subprocess.Popen(
            [*shlex.split(command), os.path.join(ROOT, "benchmarks", "lua.lua"), next(_names)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    )
    handle = stack.enter_context(shm.create(next(_names), MIB))
    handle.write(LINES * (MIB // len(LINES)))
    ours, _ = loops(statement, "pass", h=handle, d=b"x" * 64)
    number = max(1, int(ROUND / ours()))

    def theirs():
        process.stdin.write(b"%s %d\n" % (operation.encode(), number))
        process.stdin.flush()
        return float(process.stdout.readline()) / number

    return ours, theirs


@row("lua", "seek, write 64 B", "LuaIPC")
def _(stack):
    return lua(stack, "write", "h.seek(0); h.write(d)")


@row("lua", "seek, read 64 B", "LuaIPC")
def _(stack):
    return lua(stack, "read", "h.seek(0); h.read(64)")


@row("lua", "iterate lines of 64 B", "LuaIPC")
def _(stack):
    return lua(stack, "lines", "h.seek(0)\nfor line in h: pass")


@row("lua", "seek, read 1 MiB", "LuaIPC")
def _(stack):
    return lua(stack, "all", "h.seek(0); h.read(MIB)")


GROUPS = list(dict.fromkeys(row.group for row in ROWS))
