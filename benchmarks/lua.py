"""LuaIPC's C, in a Lua process."""

from __future__ import annotations

import io
import os
import shlex
import subprocess

from benchmarks.rows import LINES, MIB, ROOT, ROUND, Skip, loops, new_name, row
from ipcio import shm


def against(stack, operation, statement, floor, **names):
    """A statement, an operation of lua.lua in a Lua process, and a statement that is the floor."""
    if not (command := os.environ.get("IPCIO_BENCH_LUA")):
        raise Skip("IPCIO_BENCH_LUA does not name a Lua with LuaIPC")
    process = stack.enter_context(
        subprocess.Popen(
            [*shlex.split(command), os.path.join(ROOT, "benchmarks", "lua.lua"), new_name()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    )
    if not process.stdout.readline():
        raise Skip(f"{command} finds no LuaIPC: see LUA_CPATH in README.md")
    ours, bare = loops(statement, floor, **names)
    number = max(1, int(ROUND / ours()))

    def theirs():
        process.stdin.write(b"%s %d\n" % (operation.encode(), number))
        process.stdin.flush()
        return float(process.stdout.readline()) / number

    return ours, theirs, bare


def segment(stack, operation, statement, floor):
    handle = stack.enter_context(shm.create(new_name(), MIB))
    handle.write(LINES * (MIB // len(LINES)))
    view = stack.enter_context(handle.getbuffer())
    copy = memoryview(bytearray(MIB))
    return against(stack, operation, statement, floor, h=handle, d=b"x" * 64, n=MIB, v=view, b=copy, p=io.BytesIO(view))


@row("lua", "seek, write 64 B", "LuaIPC", floor="memoryview[:64] = bytes")
def _(stack):
    return segment(stack, "write", "h.seek(0); h.write(d)", "v[:64] = d")


@row("lua", "seek, read 64 B", "LuaIPC", floor="bytes(memoryview[:64])")
def _(stack):
    return segment(stack, "read", "h.seek(0); h.read(64)", "bytes(v[:64])")


@row("lua", "iterate lines of 64 B", "LuaIPC", floor="BytesIO")
def _(stack):
    return segment(stack, "lines", "h.seek(0)\nfor line in h: pass", "p.seek(0)\nfor line in p: pass")


@row("lua", "seek, read 1 MiB", "LuaIPC", floor="memoryview[:] = memoryview")
def _(stack):
    return segment(stack, "all", "h.seek(0); h.read(n)", "b[:] = v")
