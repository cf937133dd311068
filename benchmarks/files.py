"""Memory files, one operation at a time, beneath the standard library's wrappers, and over strings."""
# ruff: noqa: ARG001, SIM115 -- every row is given a stack, and what is opened goes there

from __future__ import annotations

import io
import mmap as bare
import os
import sys
import tempfile

import ipcio.mmap
from benchmarks.rows import FLOOR, ITSELF, KIB, LINES, MIB, SELF, TMPFS, loops, row
from ipcio import strfile


def versions(before, since):
    """A goal that depends on `mmap.seek`, which returns the position since Python 3.13."""
    return since if sys.version_info >= (3, 13) else before


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


COPY = "memoryview[:] = memoryview"


def copies(stack, *sides, size=MIB):
    """Ways to copy the pages to or from somewhere else."""
    names = same_pages(stack, bytes(size))
    view = stack.enter_context(memoryview(names["m"]))
    array = bytearray(size)
    return loops(*sides, a=array, b=memoryview(array), d=bytes(size), n=size, v=view, **names)


# -- the file face -----------------------------------------------------------


@row("face", "seek, write 64 B", "mmap.mmap", versions(1.8, 1.2), floor="mmap[:64] = bytes")
def _(stack):
    sides = "h.seek(0); h.write(d)", "m.seek(0); m.write(d)", "m[:64] = d"
    return loops(*sides, d=bytes(64), **same_pages(stack, LINES))


@row("face", "seek, read 64 B", "mmap.mmap", versions(1.5, 1.05), floor="mmap[:64]")
def _(stack):
    return loops("h.seek(0); h.read(64)", "m.seek(0); m.read(64)", "m[:64]", **same_pages(stack, LINES))


@row("face", "iterate lines of 64 B", "mmap.readline until the end", 1.05, floor="BytesIO")
def _(stack):
    return loops(
        "h.seek(0)\nfor line in h: pass",
        "m.seek(0)\nfor line in iter(m.readline, b''): pass",
        "p.seek(0)\nfor line in p: pass",
        p=io.BytesIO(LINES),
        **same_pages(stack, LINES),
    )


@row("face", "seek, read 1 MiB", "mmap.mmap", 1.02, floor=ITSELF)
def _(stack):
    return copies(stack, "h.seek(0); h.read(n)", "m.seek(0); m.read(n)")


@row("face", "seek, write 1 MiB", "mmap.mmap", 1.02, floor=ITSELF)
def _(stack):
    return copies(stack, "h.seek(0); h.write(d)", "m.seek(0); m.write(d)")


@row("face", "seek, readinto 1 MiB", "bytearray[:] = mmap[:]", 1.1, floor=COPY)
def _(stack):
    return copies(stack, "h.seek(0); h.readinto(b)", "a[:] = m[:]", "b[:] = v")


@row("face", "seek, readinto 4 KiB", "bytearray[:] = mmap[:]", floor=COPY)
def _(stack):
    return copies(stack, "h.seek(0); h.readinto(b)", "a[:] = m[:]", "b[:] = v", size=4 * KIB)


@row("face", "readline of 64 B, each a call", "mmap.readline", 2.0, floor=ITSELF)
def _(stack):
    side = "{0}.seek(0)\nwhile {0}.readline(): pass"
    return loops(side.format("h"), side.format("m"), **same_pages(stack, LINES))


# -- a handle that was narrowed, and one whose descriptor is given out -----------------


def narrowed(stack, ours, whole, bare):
    names = same_pages(stack, LINES)
    names["whole"] = stack.enter_context(ipcio.mmap.open(names["h"].name, "rw"))
    names["h"].truncate(len(LINES) - 64)
    return loops(ours, whole, bare, d=bytes(64), **names)


@row("face", "narrowed: seek, write 64 B", "the whole handle", 2.0, floor="mmap.mmap")
def _(stack):
    return narrowed(stack, "h.seek(0); h.write(d)", "whole.seek(0); whole.write(d)", "m.seek(0); m.write(d)")


@row("face", "narrowed: iterate lines of 64 B", "the whole handle", 3.0, floor="mmap.mmap")
def _(stack):
    bare_loop = "m.seek(0)\nfor line in iter(m.readline, b''): pass"
    return narrowed(stack, "h.seek(0)\nfor line in h: pass", "whole.seek(0)\nfor line in whole: pass", bare_loop)


def with_descriptor(stack, *sides):
    path = file_of(stack, LINES)
    handle = stack.enter_context(ipcio.mmap.open(path, "rw"))
    handle.fileno()
    file = stack.enter_context(open(path, "r+b", buffering=0))
    return loops(*sides, h=handle, f=file, fd=file.fileno(), lseek=os.lseek, d=bytes(64))


@row("face", "descriptor given out: seek, write 64 B", "FileIO", 1.5, floor="os.lseek, twice")
def _(stack):
    return with_descriptor(stack, "h.seek(0); h.write(d)", "f.seek(0); f.write(d)", "lseek(fd, 0, 0); lseek(fd, 64, 1)")


@row("face", "descriptor given out: seek, read 64 B", "FileIO", 1.5, floor="os.lseek, twice")
def _(stack):
    return with_descriptor(stack, "h.seek(0); h.read(64)", "f.seek(0); f.read(64)", "lseek(fd, 0, 0); lseek(fd, 64, 1)")


@row("face", "descriptor given out: iterate lines of 64 B", "os.lseek for each line", 2.5, FLOOR)
def _(stack):
    bare_calls = "lseek(fd, 0, 0)\nfor _ in range(1024): lseek(fd, 64, 1)"
    return with_descriptor(stack, "h.seek(0)\nfor line in h: pass", bare_calls)


# -- the standard library's wrappers over a handle, and over the same file ---------

SCATTER = "for at in range(0, 65536, 1024): {0}.seek(at); {0}.write(d); {0}.seek(at ^ 4096); {0}.read(64)"
READ_LINES = "{0}.seek(0)\nfor line in {0}: pass"
WRITE_LINES = "{0}.seek(0)\nfor _ in range(1024): {0}.write(d)\n{0}.flush()"


def wrappers(stack, statement, data, wrapper, opened, memory, **options):
    path = file_of(stack, LINES)
    handle = stack.enter_context(wrapper(ipcio.mmap.open(path, "rw"), **options))
    file = stack.enter_context(open(path, opened, **options))
    memory = wrapper(memory, **options) if options else memory
    return loops(*map(statement.format, "hfm"), h=handle, f=file, m=memory, d=data)


@row("wrappers", "BufferedRandom: 64 B written and read, scattered", "real file on tmpfs", 1.2, floor="BytesIO")
def _(stack):
    return wrappers(stack, SCATTER, bytes(64), io.BufferedRandom, "r+b", io.BytesIO(LINES))


@row("wrappers", "BufferedRandom: iterate lines", "real file on tmpfs", 1.2, floor="BytesIO")
def _(stack):
    return wrappers(stack, READ_LINES, None, io.BufferedRandom, "r+b", io.BytesIO(LINES))


@row("wrappers", "TextIOWrapper: iterate lines", "real file on tmpfs", 1.2, floor="BytesIO")
def _(stack):
    return wrappers(stack, READ_LINES, None, io.TextIOWrapper, "r+", io.BytesIO(LINES), encoding="utf-8")


@row("wrappers", "TextIOWrapper: write lines", "real file on tmpfs", 1.2, floor="BytesIO")
def _(stack):
    return wrappers(stack, WRITE_LINES, "y" * 63 + "\n", io.TextIOWrapper, "r+", io.BytesIO(), encoding="utf-8")


# -- strfile -----------------------------------------------------------------


@row("strfile", "open 64 MiB", "strfile.open of 64 B", "flat", SELF)
def _(stack):
    return loops(
        "open(big).close()", "open(small).close()", open=strfile.open, big=bytearray(64 * MIB), small=bytearray(64)
    )


@row("strfile", "open, close of bytes", "BytesIO", 12.0, floor=ITSELF)
def _(stack):
    return loops("open(data).close()", "BytesIO(data).close()", open=strfile.open, BytesIO=io.BytesIO, data=LINES)


for kind, lines, pair in (bytes, 1.3, 3.0), (bytearray, 10.0, 8.0):

    @row("strfile", f"{kind.__name__}: iterate lines of 64 B", "BytesIO", lines, floor=ITSELF)
    def _(stack, kind=kind):
        handle, peer = stack.enter_context(strfile.open(kind(LINES))), io.BytesIO(LINES)
        return loops("h.seek(0)\nfor line in h: pass", "p.seek(0)\nfor line in p: pass", h=handle, p=peer)

    @row("strfile", f"{kind.__name__}: seek, read 64 B", "BytesIO", pair, floor=ITSELF)
    def _(stack, kind=kind):
        handle, peer = stack.enter_context(strfile.open(kind(LINES))), io.BytesIO(LINES)
        return loops("h.seek(0); h.read(64)", "p.seek(0); p.read(64)", h=handle, p=peer)
