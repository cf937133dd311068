"""Child processes: started and waited for, their output streamed, their exit noticed."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import os
import subprocess
import sys
import tempfile
import time

from benchmarks.rows import BOUND, FLOOR, KIB, MEMORY, MIB, ROOT, TMPFS, row, timed
from ipcio import proc

PIPE = subprocess.PIPE
SIZE = 200 * MIB
FLOOD = [
    sys.executable,
    "-S",
    "-c",
    f"import os\nblock = bytes({MIB})\nfor _ in range({SIZE // MIB}): os.write(1, block)",
]
LINES = ["seq", "1000000"]
NOTHING = ["true"]


def count(_, data, total=[0]):  # noqa: B006 -- what a consumer does at least
    total[0] += len(data)


def ours(command, data=None, **options):
    h = proc.spawn(command, stdin=data is not None, stdout=True, callback=count, **options)
    if data is not None:
        h.write(data, proc.EOF)
    h.wait()


def communicate(command, data=None, **streams):
    subprocess.Popen(command, stdin=None if data is None else PIPE, stdout=PIPE, **streams).communicate(data)


# -- streams -----------------------------------------------------------------

READ = "os.readv into one buffer, a pipe of 1 MiB"


@contextlib.contextmanager
def opened(command, **options):
    """A child, and the descriptor of a large pipe from it."""
    with subprocess.Popen(command, stdout=PIPE, bufsize=0, **options) as child:
        fd = child.stdout.fileno()
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, MIB)
        yield child, fd


def drain(fd):
    """All that comes: the least that anybody can do for it."""
    buffers = [bytearray(MIB)]
    while got := os.readv(fd, buffers):
        count(None, memoryview(buffers[0])[:got])


def flood():
    with opened(FLOOD) as (_, fd):
        drain(fd)


@row("proc", "200 MiB from the child", "Popen.communicate", 0.2, floor=READ)
def _(_):
    return timed(lambda: ours(FLOOD)), timed(lambda: communicate(FLOOD)), timed(flood)


@row("proc", "200 MiB from the child", "asyncio: reading 1 MiB at once", 0.5, floor=READ)
def _(_):
    async def stream():
        child = await asyncio.create_subprocess_exec(*FLOOD, stdout=PIPE)
        while data := await child.stdout.read(MIB):
            count(None, data)
        await child.wait()

    return timed(lambda: ours(FLOOD)), timed(lambda: asyncio.run(stream())), timed(flood)


@row("proc", "200 MiB from the child", "os.read in a loop, a pipe of 1 MiB", 1.05, FLOOR, READ)
def _(_):
    def stream():
        with opened(FLOOD) as (_, fd):
            while data := os.read(fd, 1 << 16):
                count(None, data)

    return timed(lambda: ours(FLOOD)), timed(stream), timed(flood)


@row("proc", "100 MiB through cat", "Popen.communicate", 0.4, floor="cat of a file, os.readv")
def _(stack):
    data = bytes(SIZE // 2)
    file = stack.enter_context(tempfile.TemporaryFile(dir=TMPFS))  # noqa: SIM115
    file.write(data)
    file.flush()

    def half():
        file.seek(0)
        with opened(["cat"], stdin=file) as (_, fd):
            drain(fd)

    return timed(lambda: ours(["cat"], data)), timed(lambda: communicate(["cat"], data)), timed(half)


SPLIT = "os.read of 1 MiB, splitlines"


@row("proc", "1,000,000 short lines of text, to a callback", "for line in Popen.stdout", 1.35, floor=SPLIT)
def _(_):
    return timed(lambda: ours(LINES, encoding="utf-8", lines=True)), timed(lines_of_popen), timed(lines_at_least)


@row("proc", "1,000,000 short lines of text, iterated", "for line in Popen.stdout", floor=SPLIT)
def _(_):
    def iterate():
        for _, line in proc.spawn(LINES, stdout=True, encoding="utf-8", lines=True):
            count(None, line)

    return timed(iterate), timed(lines_of_popen), timed(lines_at_least)


@row("proc", "200,000 short lines of text, async for", "the same with for", 3.0, floor=SPLIT)
def _(_):
    command = ["seq", "200000"]

    def iterate():
        for _, line in proc.spawn(command, stdout=True, encoding="utf-8", lines=True):
            count(None, line)

    async def iterate_async():
        async for _, line in proc.spawn(command, stdout=True, encoding="utf-8", lines=True):
            count(None, line)

    return timed(lambda: asyncio.run(iterate_async())), timed(iterate), timed(lambda: lines_at_least(command))


@row("proc", "longest pause of another task during async for", "a millisecond", 15.0, BOUND, "asyncio: readline")
def _(_):
    command = ["seq", "200000"]

    async def longest_pause(iterate):
        other = asyncio.create_task(run_always())
        await asyncio.sleep(0)
        await iterate()
        other.cancel()
        return await other

    async def run_always():
        longest, last = 0.0, time.perf_counter()
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(0)
                now = time.perf_counter()
                longest, last = max(longest, now - last), now
        return longest

    async def iterate():
        async for _, line in proc.spawn(command, stdout=True, encoding="utf-8", lines=True):
            count(None, line)

    async def bare():
        child = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
        while line := await child.stdout.readline():
            count(None, line)
        await child.wait()

    ours, floor = (lambda each=each: asyncio.run(longest_pause(each)) for each in (iterate, bare))
    return ours, lambda: 0.001, floor


def lines_of_popen():
    with subprocess.Popen(LINES, stdout=PIPE, encoding="utf-8") as child:
        for line in child.stdout:
            count(None, line)


def lines_at_least(command=LINES):
    """Lines, of which those between two pieces are torn."""
    with opened(command) as (_, fd):
        while data := os.read(fd, MIB):
            for line in data.decode().splitlines(keepends=True):
                count(None, line)


# -- starts and ends -----------------------------------------------------------


def spawned(streams):
    """The least that a child with so many pipes from it takes."""
    ends = [os.pipe() for _ in range(streams)]
    actions = [(os.POSIX_SPAWN_DUP2, write, number) for number, (_, write) in enumerate(ends, 1)]
    pid = os.posix_spawnp(NOTHING[0], NOTHING, os.environ, file_actions=actions)
    for _, write in ends:
        os.close(write)
    for read, _ in ends:
        os.read(read, 1)
        os.close(read)
    os.waitpid(pid, 0)


@row("proc", "spawn, wait", "Popen, communicate: one pipe", 1.05, floor="posix_spawn, read, waitpid")
def _(_):
    return timed(lambda: ours(NOTHING)), timed(lambda: communicate(NOTHING)), timed(lambda: spawned(1))


@row("proc", "spawn, wait", "Popen, communicate: two pipes", 1.05, floor="posix_spawn, read, waitpid")
def _(_):
    theirs = timed(lambda: communicate(NOTHING, stderr=PIPE))
    return timed(lambda: ours(NOTHING, stderr=True)), theirs, timed(lambda: spawned(2))


@row("proc", "spawn, wait", "Popen, wait: no pipe", 1.0, floor="posix_spawn, waitpid")
def _(_):
    ours, theirs = timed(lambda: proc.spawn(NOTHING).wait()), timed(lambda: subprocess.Popen(NOTHING).wait())
    return ours, theirs, timed(lambda: spawned(0))


@row("proc", "exit noticed while a grandchild has the pipe", "a millisecond", 1.0, BOUND, "waitpid")
def _(_):
    # The child says when it is about to end; the clock is that of the system.
    command = [
        sys.executable,
        "-S",
        "-c",
        "import os, time\nif os.fork(): os.write(1, b'%.9f' % time.monotonic()); os._exit(0)\ntime.sleep(0.5)",
    ]
    said = []

    def once():
        said.clear()
        proc.spawn(command, stdout=True, callback=lambda _, data: said.append(data)).wait()
        return time.monotonic() - float(b"".join(said))

    def bare():
        with opened(command) as (child, fd):
            os.waitpid(child.pid, 0)
            now = time.monotonic()
            child.returncode = 0
            return now - float(os.read(fd, 100))

    return once, functools.partial(float, 0.001), bare


# -- peak memory ---------------------------------------------------------------

# Each side is an interpreter that tells in the end how much it had at most.
PEAK = """
import re, sys
{0}
with open("/proc/self/status") as status:
    print(re.search(r"VmHWM:\\s+(\\d+) kB", status.read()).group(1))
"""


def peak(code, *arguments):
    def once():
        command = [sys.executable, "-c", PEAK.format(code), *arguments]
        return float(subprocess.run(command, cwd=ROOT, stdout=PIPE, check=True).stdout) * KIB

    return once


@row(
    "proc", "peak memory: 200 MiB from the child", "Popen.communicate", None, MEMORY, "an interpreter that does nothing"
)
def _(_):
    return (
        peak("from ipcio import proc; proc.spawn(sys.argv[1:], stdout=True, callback=lambda *_: None).wait()", *FLOOD),
        peak("from subprocess import *; Popen(sys.argv[1:], stdout=PIPE).communicate()", *FLOOD),
        peak(""),
    )
