"""Soak: all six modules at once, in threads and processes, some of them killed; nothing may grow.

In every round four processes and their threads use the same few names, the same file and the same
crash-safe semaphore: this one; one that runs as long as the part; and two that are killed in the midst.
When the processes have done their work, all must be as it was before the round: names, permits,
records, sets, descriptors, threads.  The memory of the two that live is measured then, and must not rise in
the long run.
"""

from __future__ import annotations

import gc
import io
import json
import os
import pickle
import random
import signal
import struct
import sys
import threading
import traceback
from array import array
from contextlib import closing, nullcontext, suppress

from abilities import lacks
from children import Adoption, Forked

from campaign.parts import Unable, new_name, part
from ipcio import filelock, mmap, proc, sem, shm, strfile

RECORDS = 8
PERMITS = 3
PATIENCE = 30  # seconds
OPERATIONS = 60  # of each process, in a round
ENOUGH = 60  # rounds: before, memory is not judged
WARM = 1 / 3  # of the rounds pass before memory is: caches and arenas fill
RISE = 2 << 20  # bytes by which the line through the rest of the rounds may rise from its first to its last
PAIR = struct.Struct("=QQ")


class Work:
    """What all have in common, and the work on it."""

    def __init__(self, place):
        self.path = str(place / "records")
        with open(self.path, "wb") as file:
            file.write(bytes(RECORDS * PAIR.size))
        self.names = [new_name() for _ in range(3)]
        self.private_names = [new_name() for _ in range(6)]
        self.memory = shm.create(new_name(), RECORDS * PAIR.size)
        self.plain = sem.create(new_name(), PERMITS)
        self.safe = sem.create(new_name(), PERMITS, undo=True)

    def close(self):
        for handle in (self.memory, self.plain, self.safe):
            handle.close()

    def some(self, rng, count, killable):
        """Do so many random operations, in two threads; what one of them raises is raised here."""
        failed = []

        def go(seed):
            ours = random.Random(seed)
            try:
                for _ in range(count // 2):
                    ours.choice(OPERATIONS_OF)(self, ours, killable)
            except BaseException:
                failed.append(traceback.format_exc())

        threads = [threading.Thread(target=go, args=(rng.random(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, "".join(failed)

    # -- the operations -----------------------------------------------------------

    def segment(self, rng, _):
        """Its name is anybody's; what is written is there, whoever else has it."""
        with shm.create(rng.choice(self.names), 4096, exist_ok=True) as h:
            place = rng.randrange(4096)
            h.seek(place)
            h.write(b"x")
            with h.getbuffer() as view:
                assert view[place] == 120
            with pickle.loads(pickle.dumps(h)) as again:
                assert again.size() == 4096

    def private(self, rng, killable):
        """An invented name, but what the killed invented only `gc` would find: theirs are from a list."""
        data = rng.randbytes(rng.randrange(1, 5000))
        try:
            h = shm.create(rng.choice(self.private_names) if killable else None, len(data))
        except FileExistsError:
            assert killable
            return
        with h:
            h.write(data)
            with shm.attach(h.name, "r") as reader:
                assert reader.read() == data

    def semaphore(self, rng, _):
        s = sem.create(rng.choice(self.names), 1, exist_ok=True, undo=rng.random() < 0.5)
        if s.dec(0.01):  # a plain one may have lost its only permit with somebody who was killed
            s.inc()
        s.close()

    def permits(self, _, killable):
        with self.safe:
            pass
        if not killable:  # a plain permit is lost with its process
            with self.plain:
                pass

    def record(self, rng, _):
        """Two numbers that differ only after somebody was killed between them: in a buffered file, and in memory."""
        place = rng.randrange(RECORDS) * PAIR.size
        with open(self.path, "r+b") as file:
            file.seek(place)
            before = file.read(PAIR.size)  # which is in the buffer, and old by now
            with filelock.locked(file, "rw", place, PAIR.size):
                file.seek(place)
                first, second = PAIR.unpack(file.read(PAIR.size))
                assert first >= PAIR.unpack(before)[0], "an old record"
                assert first - second in {0, 1}, f"a record of {first} and {second}: two had its lock"
                file.seek(place)
                file.write(PAIR.pack(first + 1, first))
                file.flush()
                file.seek(place)
                file.write(PAIR.pack(first + 1, first + 1))
                with self.memory.getbuffer() as view:
                    first, second = PAIR.unpack_from(view, place)
                    assert first - second in {0, 1}, f"{first} and {second} in memory: two had its lock"
                    view[place : place + 8] = struct.pack("=Q", first + 1)
                    view[place + 8 : place + 16] = struct.pack("=Q", first + 1)

    def child(self, rng, _):
        data = rng.randbytes(rng.randrange(1, 100_000))
        got = []
        with proc.spawn(["cat"], stdin=True, stdout=True, callback=lambda _, chunk: got.append(chunk)) as p:
            p.write(data, proc.EOF)
            assert p.wait()
        assert b"".join(got) == data

    def mapped(self, _rng, _killable):
        with mmap.open(self.path) as h:
            assert len(h.readall()) == RECORDS * PAIR.size

    def string(self, rng, _):
        text = [f"{rng.random()}\n" for _ in range(50)]
        with io.TextIOWrapper(strfile.open("".join(text))) as file:
            assert file.readlines() == text

    # -- between rounds -----------------------------------------------------------

    def settle(self):
        """Nobody but the two that live has anything: all must be free, whole and gone."""
        assert self.safe.value == PERMITS, f"{self.safe.value} permits of {PERMITS}"
        assert self.plain.value == PERMITS, f"{self.plain.value} plain permits of {PERMITS}"
        for name in self.names:
            sem.create(name, 1, undo=True).close()
        for name in self.names + self.private_names:
            shm.create(name, 10).close()
        with open(self.path, "r+b") as file:
            for place in range(0, RECORDS * PAIR.size, PAIR.size):
                assert filelock.lock(file, "rw", place, PAIR.size, timeout=PATIENCE), "a lock of a killed process"
        from leftovers_linux import names_of, paths

        from ipcio._posix import lifetime

        left = {path for path in paths() if not names_of(path).isdisjoint(self.names + self.private_names)}
        # What a killed `create` had not yet given its name is hidden; it waits for `gc`, which would remove it so.
        left = {path for path in left if "/.ipcio-undo-" not in path or not lifetime.free_name(path)}
        assert not left, f"names left: {sorted(left)}"


OPERATIONS_OF = [
    Work.segment,
    Work.private,
    Work.semaphore,
    Work.permits,
    Work.record,
    Work.child,
    Work.mapped,
    Work.string,
]


def measure():
    gc.collect()
    with open("/proc/self/statm") as file:
        memory = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return memory, len(os.listdir("/proc/self/fd")), threading.active_count()


class Steady:
    """A process that runs as long as the part, and works when it is asked to."""

    def __init__(self, work):
        theirs, self._commands = os.pipe()
        self._answers, answers = os.pipe()

        def serve():
            os.close(self._commands)  # or it would wait for itself
            with open(theirs) as commands:
                for seed in commands:
                    try:
                        work.some(random.Random(int(seed)), OPERATIONS, killable=False)
                        answer = [None, *measure()]
                    except BaseException:
                        answer = [traceback.format_exc()]
                    os.write(answers, json.dumps(answer).encode() + b"\n")

        self._process = Forked(serve)
        os.close(theirs)
        os.close(answers)
        self._file = open(self._answers)

    def start(self, seed):
        os.write(self._commands, b"%d\n" % seed)

    def finish(self):
        line = self._file.readline()
        assert line, f"the steady process exited (status {self._process.wait()})"
        error, *figures = json.loads(line)
        assert not error, error
        return figures

    def close(self):
        os.close(self._commands)
        self._file.close()
        self._process.wait()


class Victim:
    """A process that works until it is killed."""

    def __init__(self, work, seed):
        self._reader, writer = os.pipe()

        def go():
            rng = random.Random(seed)
            work.some(rng, 2, killable=True)
            os.write(writer, b"!")
            try:
                while True:
                    work.some(rng, OPERATIONS, killable=True)
            except BaseException:
                os.write(writer, traceback.format_exc().encode()[:4000])

        self._process = Forked(go)
        os.close(writer)

    def kill(self):
        """When it has done something."""
        try:
            started = os.read(self._reader, 1)
            status = self._process.kill() if started else self._process.result()
            assert status == -signal.SIGKILL, os.read(self._reader, 4000).decode()
        finally:
            os.close(self._reader)
            self._process.kill()


def rise(values):
    """Of the line through them by least squares: from the first to the last."""
    count = len(values)
    middle, mean = (count - 1) / 2, sum(values) / count
    slope = sum((i - middle) * (value - mean) for i, value in enumerate(values))
    return slope / sum((i - middle) ** 2 for i in range(count)) * (count - 1)


def judge(own, other):
    """Report the memory, round by round; it is a loss if it rose."""
    if len(own) < ENOUGH:
        return f"memory not judged before {ENOUGH} rounds"
    told = []
    for who, values in (("one process", own), ("the other", other)):
        calm = values[int(len(values) * WARM) :]
        rose = rise(calm)
        told.append(f"{who} {calm[0] >> 10:,} KiB, then {round(rose) >> 10:+,} KiB")
        assert rose <= RISE, f"memory rises: {told[-1]}"
    return "memory: " + "; ".join(told)


@part("soak")
def setup(place):
    for ability in ("fork", "files", "proc", "undo", "open file locks"):
        if lacks(ability):
            raise Unable(lacks(ability))
    with closing(Work(place)) as work, closing(Steady(work)) as steady, Adoption() as adoption:
        # In the process that is measured, so they must be small themselves: 16 bytes a round.
        figures = array("q"), array("q")
        first = []

        def one_round(rng):
            steady.start(rng.randrange(1 << 60))
            victims = []
            try:
                victims.extend(Victim(work, rng.random()) for _ in range(2))
                work.some(rng, OPERATIONS, killable=False)
            finally:
                failed = sys.exc_info()[1]
                for victim in victims:
                    with suppress(AssertionError) if failed else nullcontext():  # the first error is reported
                        victim.kill()
                memory, *theirs = steady.finish()
            orphans = adoption.wait()  # of the victims
            work.settle()
            own, *ours = measure()
            for values, value in zip(figures, (own, memory), strict=True):
                values.append(value)
            first.extend((ours, theirs) if not first else ())
            assert [ours, theirs] == first, f"descriptors and threads were {first}, are {[ours, theirs]}"
            one_round.note = f"{ours[0]} and {theirs[0]} descriptors all along"
            return {"kills": 2, "operations": 2 * OPERATIONS, "orphans": orphans}

        one_round.note = "no round"
        yield one_round
        one_round.note += "; " + judge(*figures)
