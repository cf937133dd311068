"""Messages: put and got in one process, and sent from one process to others.

Where two processes are measured, the writer is forked beforehand and waits for its turn.  A round is from
the first message to the last one that was got.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
from multiprocessing import shared_memory

from benchmarks import rows
from benchmarks.rows import ITSELF, KIB, MIB, SELF, Skip, fork, loops, new_name, optional, pipe, row, timed
from ipcio import queue

SMALL = b"x" * 64
FRAME = 1920 * 1080 * 3  # bytes
SLOTS, READERS = 8, 3


def ours(stack, size=64 * KIB):
    return stack.enter_context(queue.create(new_name(), size))


def simple(stack):
    made = multiprocessing.SimpleQueue()
    stack.callback(made.close)
    return made


COPIES = "mmap[:64] = bytes; mmap[:64]"
TWICE = "m[:64] = d; m[:64]"


def mapped(stack):
    return stack.enter_context(mmap.mmap(-1, mmap.PAGESIZE))


def of_posix(stack, size=64, count=10):
    posix_ipc = optional("posix_ipc")
    made = posix_ipc.MessageQueue(None, posix_ipc.O_CREX, max_messages=count, max_message_size=size)
    stack.callback(made.unlink)
    stack.callback(made.close)
    return made


# -- in one process ----------------------------------------------------------------


@row("queue", "put, get of 64 bytes", "multiprocessing.SimpleQueue: put, get", 0.35, floor=COPIES)
def _(stack):
    return loops(
        "q.put(d); q.get()", "s.put(d); s.get()", TWICE, q=ours(stack), s=simple(stack), m=mapped(stack), d=SMALL
    )


@row("queue", "put, get of 64 bytes", "posix_ipc: send, receive", floor=COPIES)
def _(stack):
    return loops(
        "q.put(d); q.get()", "p.send(d); p.receive()", TWICE, q=ours(stack), p=of_posix(stack), m=mapped(stack), d=SMALL
    )


@row("queue", "put, get of 64 bytes, for several users", "multiprocessing.SimpleQueue: put, get", floor=COPIES)
def _(stack):
    wide = stack.enter_context(queue.create(new_name(), 64 * KIB, perm=0o660))
    return loops("q.put(d); q.get()", "s.put(d); s.get()", TWICE, q=wide, s=simple(stack), m=mapped(stack), d=SMALL)


# -- from one process to another ------------------------------------------------------


def sent(stack, put, get, data, count):
    """A side: a fork puts so many messages, and this process gets them."""
    go_in, go_out = pipe(stack)

    def produce():
        while os.read(go_in, 1):
            for _ in range(count):
                put(data)

    fork(stack, produce)

    def consume():
        os.write(go_out, b"x")
        for _ in range(count):
            get()

    side = timed(consume)
    return lambda: side() / count


def small(stack, put, get):
    return sent(stack, put, get, SMALL, 100 if rows.quick else 5000)


def small_of_ours(stack):
    q = ours(stack)
    return small(stack, q.put, q.get)


PIPE = "os.pipe"


def small_of_pipe(stack):
    reader, writer = pipe(stack)
    return small(stack, lambda data: os.write(writer, data), lambda: os.read(reader, len(SMALL)))


@row("queue", "64 bytes to another process", "multiprocessing.SimpleQueue", 0.6, floor=PIPE)
def _(stack):
    s = simple(stack)
    return small_of_ours(stack), small(stack, s.put, s.get), small_of_pipe(stack)


@row("queue", "64 bytes to another process", "posix_ipc", 1.0, floor=PIPE)
def _(stack):
    p = of_posix(stack)
    return small_of_ours(stack), small(stack, p.send, p.receive), small_of_pipe(stack)


@row("queue", "64 bytes to another process", "os.pipe, without limits of messages", floor=ITSELF)
def _(stack):
    return small_of_ours(stack), small_of_pipe(stack)


@row("queue", "64 bytes to another process", "zmq: PUSH, PULL over ipc://", floor=PIPE)
def _(stack):
    zmq = optional("zmq")
    address = f"ipc:///tmp/{new_name()}"
    made = []

    def put(data):
        if not made:  # in the fork: a context does not survive one
            made.append(zmq.Context().socket(zmq.PUSH))
            made[0].connect(address)
        made[0].send(data)

    side = small(stack, put, lambda: pull.recv())  # noqa: PLW0108 -- the fork comes before the socket
    pull = stack.enter_context(stack.enter_context(zmq.Context()).socket(zmq.PULL))
    pull.bind(address)
    return small_of_ours(stack), side, small_of_pipe(stack)


def there_and_back(stack, make, cpus):
    """A side: a message goes to another process and comes back; `make` returns the `put` and `get` of a queue."""
    count = 20 if rows.quick else 500
    (put_there, get_there), (put_back, get_back) = make(), make()
    here, there = min(cpus), max(cpus)

    def answer():
        os.sched_setaffinity(0, {there})
        while True:
            put_back(get_there())

    fork(stack, answer)

    def ask():
        os.sched_setaffinity(0, {here})
        for _ in range(count):
            put_there(SMALL)
            get_back()

    side = timed(ask)
    return lambda: side() / count


def messages_there_and_back(stack, many):
    """The sides of ipcio, multiprocessing and posix_ipc; each process on a CPU of its own, or all on one."""
    cpus = os.sched_getaffinity(0)
    if many and len(cpus) == 1:
        raise Skip("there is one CPU")
    stack.callback(os.sched_setaffinity, 0, cpus)

    def made_by(make):
        def both():
            made = make(stack)
            return getattr(made, "put", None) or made.send, getattr(made, "get", None) or (lambda: made.receive()[0])

        return there_and_back(stack, both, cpus if many else {min(cpus)})

    return made_by


class OfPipe:
    """The pipe as a queue."""

    def __init__(self, stack):
        self.reader, self.writer = pipe(stack)

    def put(self, data):
        os.write(self.writer, data)

    def get(self):
        return os.read(self.reader, len(SMALL))


for many, where in (True, "on two CPUs"), (False, "on one CPU"):

    @row("queue", f"64 bytes there and back, {where}", "multiprocessing.SimpleQueue", 0.6, floor=PIPE)
    def _(stack, many=many):
        side = messages_there_and_back(stack, many)
        return side(ours), side(simple), side(OfPipe)

    @row("queue", f"64 bytes there and back, {where}", "posix_ipc", 1.0, floor=PIPE)
    def _(stack, many=many):
        side = messages_there_and_back(stack, many)
        return side(ours), side(of_posix), side(OfPipe)


TWO_COPIES = "two copies of memory"


def copied(stack, size):
    """A side: so many bytes copied into a map and out of it."""
    return loops("m[:] = d; m[:]", m=stack.enter_context(mmap.mmap(-1, size)), d=bytes(size))[0]


@row("queue", "1 MiB to another process", "multiprocessing.Queue", 0.15, floor=TWO_COPIES)
def _(stack):
    count = 4 if rows.quick else 50
    q, m = ours(stack, 8 * MIB), multiprocessing.Queue(8)
    stack.callback(m.join_thread)
    stack.callback(m.close)
    data = bytes(MIB)
    return sent(stack, q.put, q.get, data, count), sent(stack, m.put, m.get, data, count), copied(stack, MIB)


@row("queue", "1 MiB to another process, get_into", "os.pipe, readinto", floor=TWO_COPIES)
def _(stack):
    count = 4 if rows.quick else 50
    q, (reader, writer) = ours(stack, 8 * MIB), pipe(stack)
    buffer, data = bytearray(MIB), bytes(MIB)

    def read():
        at = 0
        while at < MIB:
            at += os.readv(reader, [memoryview(buffer)[at:]])

    def write(data):
        at = 0
        while at < len(data):
            at += os.write(writer, memoryview(data)[at:])

    return (
        sent(stack, q.put, lambda: q.get_into(buffer), data, count),
        sent(stack, write, read, data, count),
        copied(stack, MIB),
    )


# -- frames of a camera: one producer, readers that share the work ------------------


def frames(stack, put, get, killed=0):
    """A side: seconds per frame.  Each reader copies the frames that it gets and says so."""
    count = 8 if rows.quick else 100
    seen_in, seen_out = pipe(stack)
    children = []

    def read():
        buffer = bytearray(FRAME)
        while True:
            get(buffer)
            os.write(seen_out, b"x")

    for _ in range(READERS):
        child = os.fork()
        if not child:
            signal.alarm(3600)
            read()
            os._exit(1)
        children.append(child)
    for child in children[:killed]:  # most probably while it waits for a frame
        os.kill(child, signal.SIGKILL)
    for child in children:
        stack.callback(os.waitpid, child, 0)
        stack.callback(os.kill, child, signal.SIGKILL)
    data = bytes(FRAME)

    def produce():
        got = 0
        for _ in range(count):
            put(data)
        while got < count:
            got += len(os.read(seen_in, count))

    side = timed(produce)
    return lambda: side() / count


def frames_of_ours(stack, killed=0):
    q = ours(stack, SLOTS * (FRAME + 16))
    return frames(stack, q.put, q.get_into, killed)


@row("queue", "1080p frames to three readers", "shared_memory and multiprocessing.Condition", floor=TWO_COPIES)
def _(stack):
    if multiprocessing.get_start_method() != "fork":
        raise Skip("the peer is made for forks")
    memory = shared_memory.SharedMemory(create=True, size=SLOTS * FRAME)
    stack.callback(memory.unlink)
    stack.callback(memory.close)
    changed = multiprocessing.Condition()
    put_at, got_at = multiprocessing.Value("Q", 0, lock=False), multiprocessing.Value("Q", 0, lock=False)

    def slot(number):
        return slice(number % SLOTS * FRAME, (number % SLOTS + 1) * FRAME)

    def put(data):
        with changed:
            changed.wait_for(lambda: put_at.value - got_at.value < SLOTS)
            memory.buf[slot(put_at.value)] = data
            put_at.value += 1
            changed.notify_all()

    def get(buffer):
        with changed:
            changed.wait_for(lambda: put_at.value > got_at.value)
            buffer[:] = memory.buf[slot(got_at.value)]
            got_at.value += 1
            changed.notify_all()

    return frames_of_ours(stack), frames(stack, put, get), copied(stack, FRAME)


@row("queue", "1080p frames, one of three readers is killed", "with all three", kind=SELF)
def _(stack):
    return frames_of_ours(stack, killed=1), frames_of_ours(stack)
