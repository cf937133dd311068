"""Much memory from one process to another: moved through a double buffer, handed over, shared by workers.

The other side of a row is forked beforehand and waits for its turn.  So a round is what
comes afterwards: the bytes, and the word that the last of them was used.
"""
# ruff: noqa: ARG001 -- every row is given a stack

from __future__ import annotations

import functools
import mmap as bare
import multiprocessing
import os
import tempfile
from multiprocessing import shared_memory

from benchmarks import rows
from benchmarks.rows import ITSELF, KIB, MIB, TMPFS, fork, new_name, one_cpu, optional, pipe, row, timed
from ipcio import sem, shm

PAGE = 4096
HALF = 256 * KIB  # of the double buffer: both halves, and what they are copied from and to, stay in the cache


def size():
    """How much a row moves."""
    return (8 if rows.quick else 256) * MIB


# -- 256 MiB, a block at a time -----------------------------------------------


def moved(stack, block, send, receive):
    """A side: `send(blocks)` here and `receive(blocks)` in a fork, from the first byte to the last one used."""
    blocks = size() // block
    (go_in, go_out), (done_in, done_out) = pipe(stack), pipe(stack)

    def consume():
        while os.read(go_in, 1):
            receive(blocks)
            os.write(done_out, b"x")

    fork(stack, consume)

    def produce():
        os.write(go_out, b"x")
        send(blocks)
        os.read(done_in, 1)

    return timed(produce)


def look(view):
    """Use every page of it where it is."""
    return sum(view[::PAGE])


def double_buffer(stack, *, copy, block=HALF):
    """ipcio's side: the consumer copies each half into a buffer of its own, or uses it where it is."""
    segment = stack.enter_context(shm.create(new_name(), 2 * block))
    free, full = sem.create(new_name(), 2), sem.create(new_name(), 0)
    stack.callback(free.close)
    stack.callback(full.close)
    view = stack.enter_context(segment.getbuffer())
    halves = [stack.enter_context(view[at : at + block]) for at in (0, block)]
    data, own = os.urandom(block), memoryview(bytearray(block))

    def send(blocks):
        for number in range(blocks):
            free.dec()
            halves[number & 1][:] = data
            full.inc()

    def receive(blocks):
        for number in range(blocks):
            full.dec()
            if copy:
                own[:] = halves[number & 1]
            look(own if copy else halves[number & 1])
            free.inc()

    return moved(stack, block, send, receive)


# The blocks of the others are those with which each was fastest, of 16 KiB to 4 MiB; so is ours.


def through_pipe(stack, block=128 * KIB):
    """Written and read in the simplest way, into one buffer."""
    read, write = pipe(stack)
    data, own = os.urandom(block), memoryview(bytearray(block))

    def send(blocks):
        for _ in range(blocks):
            os.write(write, data)

    def receive(blocks):
        for _ in range(blocks):
            at = 0
            while at < block:
                at += os.readv(read, [own[at:]])
            look(own)

    return moved(stack, block, send, receive)


def through_connection(stack, block=256 * KIB):
    """A multiprocessing.Pipe in one direction, which is a pipe: in both it would be a socket, and slower."""
    read, write = multiprocessing.Pipe(duplex=False)
    stack.enter_context(read)
    stack.enter_context(write)
    data, own = os.urandom(block), memoryview(bytearray(block))

    def send(blocks):
        for _ in range(blocks):
            write.send_bytes(data)

    def receive(blocks):
        for _ in range(blocks):
            read.recv_bytes_into(own)
            look(own)

    return moved(stack, block, send, receive)


def through_queue(stack, block=256 * KIB):
    """A multiprocessing.Queue of few blocks, or all of them would be in memory."""
    queue = multiprocessing.Queue(4)
    stack.callback(queue.join_thread)
    stack.callback(queue.close)
    data = os.urandom(block)

    def send(blocks):
        for _ in range(blocks):
            queue.put(data)

    def receive(blocks):
        for _ in range(blocks):
            look(queue.get())

    return moved(stack, block, send, receive)


def copied(stack, times):
    """The floor: all of it copied so often within one process, by blocks."""
    data, half, own = os.urandom(HALF), memoryview(bytearray(HALF)), memoryview(bytearray(HALF))

    def copy():
        for _ in range(size() // HALF):
            half[:] = data
            if times == 2:
                own[:] = half

    return timed(copy)


MOVED = "256 MiB moved, into a buffer of the other process"
USED = "256 MiB moved, used where they are"
for peer, through, goal in (
    ("multiprocessing.Pipe: send_bytes, recv_bytes_into", through_connection, 0.2),
    ("os.pipe: write, readv", through_pipe, 0.3),
    ("multiprocessing.Queue", through_queue, None),
):

    @row("moving", MOVED, peer, goal, floor="copied twice in one process")
    def _(stack, through=through):
        return double_buffer(stack, copy=True), through(stack), copied(stack, 2)

    @row("moving", USED, peer, goal, floor="copied once in one process")
    def _(stack, through=through):
        return double_buffer(stack, copy=False), through(stack), copied(stack, 1)


# -- 256 MiB written to a name --------------------------------------------------


def written(open_file, remove):
    """A side: one segment or file of that size is written, a megabyte at a time, and removed."""
    piece = os.urandom(MIB)

    def once():
        with open_file() as file:
            for _ in range(size() // MIB):
                file.write(piece)
        remove()

    return timed(once)


def to_a_file(stack):
    path = f"{stack.enter_context(tempfile.TemporaryDirectory(dir=TMPFS))}/file"
    return written(lambda: open(path, "wb"), lambda: os.unlink(path))


WRITTEN = "256 MiB written to a name and removed"


@row("moving", f"{WRITTEN}: shm.open", "a file on tmpfs", 1.15, floor=ITSELF)
def _(stack):
    name = new_name()
    return written(lambda: shm.open(name, "wb"), lambda: shm.unlink(name)), to_a_file(stack)


@row("moving", f"{WRITTEN}: shm://", "a file on tmpfs", 1.15, floor=ITSELF)
def _(stack):
    return to_fsspec("shm"), to_a_file(stack)


@row("moving", f"{WRITTEN}: shm://", "memory:// of fsspec", 1.3, floor=ITSELF)
def _(stack):
    return to_fsspec("shm"), to_fsspec("memory")


def to_fsspec(protocol):
    files = optional("fsspec").filesystem(protocol)
    path = f"/{new_name()}" if protocol == "memory" else new_name()
    return written(lambda: files.open(path, "wb"), lambda: files.rm(path))


# -- an array that is there, handed over ------------------------------------------


def handed(stack, thing, use):
    """A side: `thing` through a connection to a fork, which does `use(thing)`."""
    here, there = multiprocessing.Pipe()
    stack.enter_context(here)
    stack.enter_context(there)

    def receive():
        while True:
            use(there.recv())
            there.send_bytes(b"x")

    fork(stack, receive)
    there.close()  # if the other one fails, this one is told

    def send():
        here.send(thing)
        here.recv_bytes()

    return timed(send)


def ours_and_theirs(stack, size):
    """Memory of ipcio's and of multiprocessing's, with every page there."""
    handle = stack.enter_context(shm.create(new_name(), size))
    segment = shared_memory.SharedMemory(new_name(), create=True, size=size)
    stack.callback(segment.unlink)
    stack.callback(segment.close)
    for view in (handle.getbuffer(), segment.buf):
        view[:] = b"x" * size
    return handle, segment


def use_handle(handle):
    import numpy as np

    with handle:
        array = np.frombuffer(handle.getbuffer())
        assert array[0] == array[-1] != 1


def use_segment(segment):
    import numpy as np

    array = np.frombuffer(segment.buf)
    assert array[0] == array[-1] != 1
    del array  # or close fails
    segment.close()


ARRAY = "an array of 256 MiB handed over"
WORD = "one byte there and back"


@row("moving", ARRAY, "the array pickled through multiprocessing.Pipe", 0.02, floor=WORD)
def _(stack):
    np = optional("numpy")
    handle = stack.enter_context(shm.create(new_name(), size()))
    array = np.full(size() // 8, 2.0)
    np.frombuffer(handle.getbuffer())[:] = array
    return (
        handed(stack, handle, use_handle),
        handed(stack, array, lambda array: array[0] + array[-1]),
        handed(stack, None, lambda _: None),
    )


@row("moving", ARRAY, "multiprocessing.shared_memory, pickled", 1.1, floor=WORD)
def _(stack):
    optional("numpy")
    one_cpu(stack)
    handle, segment = ours_and_theirs(stack, size())
    return (
        handed(stack, handle, use_handle),
        handed(stack, segment, use_segment),
        handed(stack, None, lambda _: None),
    )


# -- an array and eight workers ----------------------------------------------------

WORKERS = 8
SHARED = 64 * MIB


def parts(things, use):
    """A side: to each of eight forks its thing; each sums its part up."""

    def side(stack):
        connections = []
        for number, thing in enumerate(things):
            here, there = multiprocessing.Pipe()
            stack.enter_context(here)
            stack.enter_context(there)
            connections.append((here, thing))
            fork(stack, functools.partial(work, there, use, number))
            there.close()

        def once():
            for here, thing in connections:
                here.send(thing)
            return sum(here.recv() for here, _ in connections)

        return timed(once)

    return side


def work(connection, use, number):
    while True:
        connection.send(use(connection.recv(), number))


def part(buffer, number):
    import numpy as np

    length = SHARED // 8 // WORKERS
    return float(np.frombuffer(buffer, "f8", length, number * SHARED // WORKERS).sum())


def part_of_handle(handle, number):
    with handle:
        return part(handle.getbuffer(), number)


def part_of_segment(segment, number):
    found = part(segment.buf, number)
    segment.close()
    return found


def eight(stack, peer):
    """ipcio's side, the peer's, and the floor: workers who have had the memory all along."""
    optional("numpy")
    handle, segment = ours_and_theirs(stack, SHARED)
    memory = bare.mmap(-1, SHARED)
    memory[:] = handle.getbuffer()
    ours = parts([handle] * WORKERS, part_of_handle)
    floor = parts([None] * WORKERS, lambda _, number: part(memory, number))
    return ours(stack), peer(stack, segment), floor(stack)


EIGHT = "64 MiB summed by 8 workers"
HAD = "memory that they have"


@row("moving", EIGHT, "multiprocessing.shared_memory, pickled", 1.1, floor=HAD)
def _(stack):
    return eight(stack, lambda stack, segment: parts([segment] * WORKERS, part_of_segment)(stack))


@row("moving", EIGHT, "slices pickled through multiprocessing.Pipe", floor=HAD)
def _(stack):
    def peer(stack, segment):
        slices = optional("numpy").frombuffer(bytes(segment.buf)).reshape(WORKERS, -1)
        return parts(slices, lambda array, _: float(array.sum()))(stack)

    return eight(stack, peer)


@row("moving", EIGHT, "slices pickled by Pool.map", floor=HAD)
def _(stack):
    def peer(stack, segment):
        slices = optional("numpy").frombuffer(bytes(segment.buf)).reshape(WORKERS, -1)
        pool = stack.enter_context(multiprocessing.get_context("fork").Pool(WORKERS))  # terminated in the end
        return timed(lambda: sum(pool.map(sum_of, slices, chunksize=1)))

    return eight(stack, peer)


def sum_of(array):
    return float(array.sum())
