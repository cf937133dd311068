"""A model of a queue's protocol, small enough to be searched to the end.

A few writers and readers use one ring.  Each operation is the list of steps that `ipcio._ring_put` and
`_ring_get` make, in their order; between any two of them another process may go on, or the process may be killed.
`Search` takes *every* order and checks every state:

* a message that is got is whole, was put, is the next one, and is got once;
* what a killed process had locked can be locked again, and no process waits for ever for a lock;
* a process sleeps only if it has to: at the end no reader sleeps beside a message, no writer beside room for its
  message, and no process after the shutdown.  If no process was killed, that holds without the `slices` after which
  a sleeper looks again by itself.

Left out: lengths (every message takes one place), the end of the ring, timeouts, and memory in which the stores of
one processor become visible to others late: the release of a lock comes between the store of a cell and the look at
a flag.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

DONE, SHUT = "done", "shut down"


class Protocol:
    """What the code does: each ``yield`` is a step, and gives its result.  To break it is to override one method."""

    def put(self, message):
        outcome = yield from self.try_put(message)
        while not outcome:
            bell = yield "look", "writers bell"
            yield "set", "writers flag", 1
            outcome = yield from self.try_put(message)
            if not outcome:
                yield "sleep", "writers bell", bell
                outcome = yield from self.try_put(message)
            del bell
        return outcome

    def try_put(self, message):
        yield "lock", "writers"
        tail = yield "look", "tail"
        head = yield "look", "head"
        if self.is_shut(tail):
            yield "unlock", "writers"
            return SHUT
        if not (yield "room", tail, head):
            yield "unlock", "writers"
            return None
        yield from self.store(tail, message)
        yield from self.release("writers", "readers")
        return DONE

    def store(self, tail, message):
        yield "write", tail[0], None  # half of it
        yield "write", tail[0], message
        yield "commit", "tail", (tail[0] + 1, tail[1])

    def get(self):
        outcome = yield from self.try_get()
        while not outcome:
            bell = yield "look", "readers bell"
            yield "set", "readers flag", 1
            outcome = yield from self.try_get()
            if not outcome:
                yield "sleep", "readers bell", bell
                outcome = yield from self.try_get()
            del bell
        return outcome

    def try_get(self):
        yield "lock", "readers"
        head = yield "look", "head"
        tail = yield "look", "tail"
        if head[0] == tail[0]:
            yield "unlock", "readers"
            return SHUT if self.is_shut(tail) else None
        yield from self.take(head)
        yield from self.release("readers", "writers")
        return DONE

    def take(self, head):
        message = yield "read", head[0]
        yield "commit", "head", (head[0] + 1, head[1]), message

    def release(self, ours, others):
        """Release the lock, and ring if a process at the other end may sleep."""
        yield "unlock", ours
        if (yield "look", f"{others} flag"):
            yield "set", f"{others} flag", 0
            yield "ring", f"{others} bell"

    def shutdown(self):
        yield "lock", "writers"
        tail = yield "look", "tail"
        yield "commit", "tail", (tail[0], True)
        yield "unlock", "writers"
        for end in "readers", "writers":
            yield "set", f"{end} flag", 0
            yield "ring", f"{end} bell"
        return DONE

    def is_shut(self, tail):
        return tail[1]


class Point:
    """Where an operation is: its next step or, with none, its outcome."""

    def __init__(self, operation, results):
        self.operation, self.results = operation, results
        self.step = self.outcome = None
        self.after = {}


class Process(NamedTuple):
    program: tuple  # operations still to come
    point: Point | None = None
    asleep: tuple | None = None  # (bell, its value then)
    killed: bool = False


class World(NamedTuple):
    cells: tuple  # (name, value)
    ring: tuple  # what is in each place
    sent: tuple  # messages in the order in which they were committed
    got: int  # how many of them
    locks: tuple  # (name, number of the owner)
    processes: tuple


class Search:
    """All that can happen; an `AssertionError` shows the steps that lead to what must not happen."""

    def __init__(self, *programs, places=1, kills=0, slices=False, protocol=Protocol):
        self.protocol = protocol()
        self.places, self.kills, self.slices = places, kills, slices
        self.points = {}
        cells = {"tail": (0, False), "head": (0, False)}
        cells |= {f"{end} {what}": 0 for end in ("readers", "writers") for what in ("flag", "bell")}
        processes = tuple(Process(tuple(program)) for program in programs)
        self.start = World(tuple(cells.items()), (None,) * places, (), 0, (), processes)

    def run(self, limit=2_000_000):
        """Search all states; return how many there are."""
        came = {self.start: None}
        sources, ends = {}, []
        todo = deque(came)
        while todo:
            world = todo.popleft()
            try:
                following = list(self.following(world))
                if not following:
                    ends.append(world)
                    self.check_end(world)
            except AssertionError as error:
                raise AssertionError(f"{error}\n" + "\n".join(self.story(came, world))) from None
            for number, step, after in following:
                sources.setdefault(after, []).append(world)
                if after not in came:
                    came[after] = number, step, world
                    todo.append(after)
            assert len(came) <= limit, "too many states"
        ending = set(ends)
        while ends:
            for source in sources.get(ends.pop(), ()):
                if source not in ending:
                    ending.add(source)
                    ends.append(source)
        stuck = next((world for world in came if world not in ending), None)
        assert stuck is None, "they go on for ever\n" + "\n".join(self.story(came, stuck))
        return len(came)

    def story(self, came, world):
        lines = []
        while came[world]:
            number, step, world = came[world]
            lines.append(f"{number}: {' '.join(map(str, step))}")
        return lines[::-1]

    def following(self, world):
        dead = sum(process.killed for process in world.processes)
        for number, process in enumerate(world.processes):
            if process.killed:
                continue
            if process.asleep:
                if self.slices and self.could_go_on(world, process):
                    yield number, ("looks again",), self.change(world, number, process._replace(asleep=None))
            elif process.point or process.program:
                after = self.step(world, number)
                if after:
                    yield number, self.next_step(process), after
            if dead < self.kills and (process.point or process.asleep):
                yield number, ("killed",), self.change(world, number, Process((), killed=True))

    def change(self, world, number, process, **changes):
        processes = (*world.processes[:number], process, *world.processes[number + 1 :])
        return world._replace(processes=processes, **changes)

    def next_step(self, process):
        return (process.point or self.point(process.program[0])).step

    def point(self, operation, results=()):
        """Run an operation again as far as it has come, and see where it is."""
        name, *arguments = operation
        running = getattr(self.protocol, name)(*arguments)
        made = Point(operation, results)
        try:
            made.step = next(running)
            for result in results:
                made.step = running.send(result)
        except StopIteration as end:
            made.step, made.outcome = None, end.value
        frames, chain = [], running
        while chain is not None and chain.gi_frame is not None:  # two ways to the same place are one
            variables = tuple(sorted((key, value) for key, value in chain.gi_frame.f_locals.items() if key != "self"))
            frames.append((chain.gi_code.co_name, chain.gi_frame.f_lasti, variables))
            chain = chain.gi_yieldfrom
        return self.points.setdefault((operation, made.step, made.outcome, *frames), made)

    def step(self, world, number):
        """One step of a process; None if it has to wait for a lock."""
        process = world.processes[number]
        point = process.point or self.point(process.program[0])
        kind, *arguments = point.step
        cells, locks, changes, result = dict(world.cells), dict(world.locks), {}, None
        asleep = None
        if kind == "lock":
            owner = locks.get(arguments[0])
            if owner is not None and not world.processes[owner].killed:
                return None
            locks[arguments[0]] = number
        elif kind == "unlock":
            del locks[arguments[0]]
        elif kind == "look":
            result = cells[arguments[0]]
        elif kind == "set":
            cells[arguments[0]] = arguments[1]
        elif kind == "room":
            result = arguments[0][0] - arguments[1][0] < self.places
        elif kind == "write":
            ring = list(world.ring)
            ring[arguments[0] % self.places] = arguments[1]
            changes["ring"] = tuple(ring)
        elif kind == "read":
            result = world.ring[arguments[0] % self.places]
        elif kind == "commit":
            cell, value, *taken = arguments
            if cell == "tail" and value[0] > cells["tail"][0]:
                assert value[0] - cells["head"][0] <= self.places, "a message was overwritten"
                changes["sent"] = (*world.sent, world.ring[cells["tail"][0] % self.places])
            elif cell == "head":
                assert cells["head"][0] == value[0] - 1 == world.got, "a message was got twice"
                assert taken[0] is not None, "half of a message was got"
                assert taken[0] == world.sent[world.got], "another message was got"
                changes["got"] = world.got + 1
            cells[cell] = value
        elif kind == "ring":
            cells[arguments[0]] += 1
        elif kind == "sleep":
            asleep = (arguments[0], arguments[1]) if cells[arguments[0]] == arguments[1] else None
        after = point.after.get(result)
        if after is None:
            after = point.after[result] = self.point(point.operation, (*point.results, result))
        program = process.program if process.point else process.program[1:]
        process = Process(program, after if after.step else None, asleep)
        world = self.change(
            world, number, process, cells=tuple(cells.items()), locks=tuple(sorted(locks.items())), **changes
        )
        if kind == "ring":
            woken = tuple(
                one._replace(asleep=None) if one.asleep and one.asleep[0] == arguments[0] else one
                for one in world.processes
            )
            world = world._replace(processes=woken)
        return world

    def could_go_on(self, world, process):
        """Whether a process that sleeps has no reason to."""
        cells = dict(world.cells)
        count = cells["tail"][0] - cells["head"][0]
        if cells["tail"][1]:
            return True
        return count > 0 if process.asleep[0] == "readers bell" else count < self.places

    def check_end(self, world):
        for number, process in enumerate(world.processes):
            if process.asleep:
                assert not self.could_go_on(world, process), f"{number} sleeps, and could go on"
            elif process.point and not process.killed:
                raise AssertionError(f"{number} waits for a lock for ever")
