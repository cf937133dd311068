"""Writers and readers that are killed at random moments: whole messages, each one once, and the others go on."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import struct
import time
import zlib

import pytest
from campaigns import campaign, rounds
from children import Forked
from waiting import at_best_within, until_it_waits

from ipcio import queue

pytestmark = pytest.mark.needs("fork")

LIVES = 4096
NOTE = struct.Struct("=II")  # a writer's life and number


def write(name, table, life):
    """Put messages for ever, and note in shared memory how many were begun and how many are done, each in one store."""
    q = queue.attach(name)
    chance = random.Random(life)
    number = 0
    while True:
        body = NOTE.pack(life, number) + chance.randbytes(chance.choice([0, 3, 30, 300]))
        number += 1
        table[2 * life] = number
        q.put(body + zlib.crc32(body).to_bytes(4, "little"))
        table[2 * life + 1] = number


def read(name, seen, into):
    """Get messages for ever, and send a note of each."""
    q = queue.attach(name)
    buffer = bytearray(1000)
    while True:
        data = bytes(buffer[: q.get_into(buffer)]) if into else q.get()
        os.write(seen, note_of(data))


def note_of(data):
    body, check = data[:-4], data[-4:]
    assert zlib.crc32(body).to_bytes(4, "little") == check, "a torn message"
    return body[: NOTE.size]


def drain(pipe, notes):
    with contextlib.suppress(BlockingIOError):
        while True:
            notes += os.read(pipe, 1 << 16)


@campaign
@pytest.mark.parametrize(("perm", "size"), [(0o600, 700), (0o600, 20_000), (0o666, 3000)])
@pytest.mark.sampled(3)
def test_killed_writers_and_readers_tear_lose_and_double_nothing(name, perm, size):
    """A reader that is killed may have taken one message that it could not note."""
    chance = random.Random(size)
    table = memoryview(mmap.mmap(-1, LIVES * 16)).cast("Q")
    pipe, seen = os.pipe()
    os.set_blocking(pipe, False)
    notes = bytearray()
    running = {}
    lives, killed_readers = 0, 0
    with queue.create(name, size, perm=perm) as q:
        try:
            for _ in range(rounds(200 if perm == 0o600 else 60)):
                while len(running) < 5:
                    if sum(running.values()) < 3:
                        running[Forked(write, name, table, lives)] = True
                        lives += 1
                    else:
                        running[Forked(read, name, seen, chance.random() < 0.3)] = False
                time.sleep(chance.random() * 0.012)
                victim = chance.choice(list(running))
                assert victim.kill() == -signal.SIGKILL, victim.result()
                killed_readers += not running.pop(victim)
                drain(pipe, notes)
        finally:
            for one, writes in running.items():
                one.kill()
                killed_readers += not writes
        drain(pipe, notes)
        with contextlib.suppress(queue.Empty):
            while True:
                notes += note_of(q.get(timeout=0.01))
        q.put(b"and it goes on")
        assert q.get() == b"and it goes on"
    os.close(pipe)
    os.close(seen)
    got = [[] for _ in range(lives)]
    for life, number in NOTE.iter_unpack(notes):
        got[life].append(number)
    lost = 0
    for life, numbers in enumerate(got):
        begun, done = table[2 * life], table[2 * life + 1]
        assert len(set(numbers)) == len(numbers), "a message was got twice"
        assert not numbers or max(numbers) < begun, "a message that was never put"
        lost += len(set(range(done)) - set(numbers))
    assert lost <= killed_readers, f"{lost} messages lost, and {killed_readers} readers killed"
    assert sum(map(len, got)) > 10 * rounds(20)


@pytest.mark.parametrize("perm", [0o600, 0o666])
def test_a_process_that_is_killed_in_the_midst_of_a_call_lets_the_others_go_on_at_once(name, perm):
    """It is stopped and killed while it holds the lock of its end."""
    with queue.create(name, 1000, perm=perm) as q:
        for _ in range(10):
            q.put(b"before")
        for lock, call in (q._writers, lambda: q.put(b"x", timeout=20)), (q._readers, lambda: q.get(timeout=20)):

            def die(lock=lock):
                assert lock.acquire(5)
                os.kill(os.getpid(), signal.SIGKILL)

            def attempt(die=die, call=call):
                before = q.qsize()
                assert Forked(die).wait() == -signal.SIGKILL
                start = time.monotonic()
                call()
                took = time.monotonic() - start
                assert abs(q.qsize() - before) == 1
                return took

            at_best_within(1, attempt)


def test_a_killed_sleeper_takes_no_wake_up_along(name):
    """Neither a reader nor a writer that waits: the next process that waits is woken at once."""
    with queue.create(name, 100) as q, queue.create(f"{name}-done", 100) as done:
        for make_them_wait, call, free in (
            (q.get, lambda: q.get(timeout=20), lambda: q.put(b"")),
            (lambda: q.put(bytes(50)), lambda: q.put(bytes(50), timeout=20), q.get),
        ):
            for _ in range(10):
                sleeper = Forked(make_them_wait)
                until_it_waits(sleeper.pid)
                sleeper.kill()
                with Forked(lambda call=call: (call(), done.put(b"!"))) as other:
                    until_it_waits(other.pid)
                    free()
                    assert done.get(timeout=20) == b"!"
                    other.wait()
            while not q.empty():
                q.get()
            q.put(bytes(50))  # for the writers
