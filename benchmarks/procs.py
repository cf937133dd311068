"""Child processes: started and waited for, their output streamed, their exit noticed."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import os
import subprocess
import sys
import time

from benchmarks.rows import BOUND, FLOOR, MIB, row
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


def timed(function):
    def once():
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return once


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


@row("proc", "200 MiB from the child", "Popen.communicate", 0.2)
def _(_):
    return timed(lambda: ours(FLOOD)), timed(lambda: communicate(FLOOD))


@row("proc", "200 MiB from the child", "asyncio: reading 1 MiB at once", 0.5)
def _(_):
    async def stream():
        child = await asyncio.create_subprocess_exec(*FLOOD, stdout=PIPE)
        while data := await child.stdout.read(MIB):
            count(None, data)
        await child.wait()

    return timed(lambda: ours(FLOOD)), timed(lambda: asyncio.run(stream()))


@row("proc", "200 MiB from the child", "os.read in a loop, a pipe of 1 MiB", 1.05, FLOOR)
def _(_):
    def stream():
        with subprocess.Popen(FLOOD, stdout=PIPE, bufsize=0) as child:
            fd = child.stdout.fileno()
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, MIB)
            while data := os.read(fd, 1 << 16):
                count(None, data)

    return timed(lambda: ours(FLOOD)), timed(stream)


@row("proc", "100 MiB through cat", "Popen.communicate", 0.4)
def _(_):
    data = bytes(SIZE // 2)
    return timed(lambda: ours(["cat"], data)), timed(lambda: communicate(["cat"], data))


@row("proc", "1,000,000 short lines of text, to a callback", "for line in Popen.stdout", 1.35)
def _(_):
    return timed(lambda: ours(LINES, encoding="utf-8", lines=True)), timed(lines_of_popen)


@row("proc", "1,000,000 short lines of text, iterated", "for line in Popen.stdout")
def _(_):
    def iterate():
        for _, line in proc.spawn(LINES, stdout=True, encoding="utf-8", lines=True):
            count(None, line)

    return timed(iterate), timed(lines_of_popen)


def lines_of_popen():
    with subprocess.Popen(LINES, stdout=PIPE, encoding="utf-8") as child:
        for line in child.stdout:
            count(None, line)


# -- starts and ends -----------------------------------------------------------


@row("proc", "spawn, wait", "Popen, communicate: one pipe", 1.0)
def _(_):
    return timed(lambda: ours(NOTHING)), timed(lambda: communicate(NOTHING))


@row("proc", "spawn, wait", "Popen, communicate: two pipes", 1.0)
def _(_):
    return timed(lambda: ours(NOTHING, stderr=True)), timed(lambda: communicate(NOTHING, stderr=PIPE))


@row("proc", "spawn, wait", "Popen, wait: no pipe", 1.0)
def _(_):
    return timed(lambda: proc.spawn(NOTHING).wait()), timed(lambda: subprocess.Popen(NOTHING).wait())


@row("proc", "exit noticed while a grandchild has the pipe", "a millisecond", 1.0, BOUND)
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

    return once, functools.partial(float, 0.001)
