"""A model of the lifetime of a name, small enough to be searched to the end.

A few processes create, attach, close and unlink under one name.  Each operation is the list of system
calls that `ipcio._posix.lifetime` and `objects` make, in their order; between any two of them another
process may go on, or be killed.  `Search` takes *every* order and checks every state:

* as long as there is a handle, its object has the name, unless an unlink removed it.  So no close removes
  the name of an object in use, and of two creates only one succeeds;
* an object that is mapped is complete;
* what a call met was there at some moment of the call, and what it missed was not there at some moment;
* no process waits for ever: the end can be reached from every state;
* at the end, the next user finds an object that is in use, and no other.

Left out: objects without our mark, hidden names (where there is no O_TMPFILE), fork, errors, and a directory that
another program keeps locked.  Two races are open (docs/design.md, 7 and 13).  They are found if they are allowed, and
excluded by assumptions otherwise.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

SHARED, EXCLUSIVE, NO_LOCK = "SH", "EX", "UN"
MADE, GOT, EXISTS, ABSENT, DONE = "made", "got", "exists", "absent", "done"
DIRECTORY = -1  # in the place of an object
NOTE = 100  # added to the number of a file: that of a note about it, which no protocol but one of test_model.py takes


class Protocol:
    """What the code does: each ``yield`` is a system call, and gives its result.

    To break it in one place is to override one method.
    """

    def create(self):
        if (yield "access") and not (yield from self.free_name()):
            return EXISTS, 0
        fd = yield "tmpfile"
        ino = (yield "fstat", fd)[0]
        lock = yield "reopen", fd
        yield from self.make(fd, lock)
        while not (yield "link", fd):
            if not (yield from self.free_name()):
                yield from self.close((fd, lock), ino)
                return EXISTS, 0
        return MADE, (fd, lock)

    def make(self, fd, lock):
        yield "flock", lock, SHARED
        yield "posix_fallocate", fd
        yield "mmap", fd

    def attach(self):
        while True:
            fd = yield "open"
            if not fd:
                return ABSENT, 0
            ino = (yield "fstat", fd)[0]
            lock = yield "open"
            if lock:
                if (yield from self.join(lock, ino)):
                    yield "mmap", fd
                    return GOT, (fd, lock)
                yield "close", lock
            yield "close", fd
            del fd, lock, ino

    def join(self, lock, ino):
        if (
            not (yield from self.remove_if_orphan(lock))
            and (yield "flock", lock, SHARED)
            and (yield from self.held(lock))
        ):
            there = yield "fstat", lock
            return there[1] and there[0] == ino
        return False

    def held(self, _):
        """Whether there is a handle, and not only another process that attaches; the code has no way to ask."""
        return True
        yield

    def unlink(self):
        while True:
            directory = yield from self.lock_directory()
            outcome, fd = yield from self.remove_once()
            yield from self.unlock_directory(directory, fd)
            if outcome:
                return outcome, 0
            del directory, outcome, fd

    def lock_directory(self):
        directory = yield "open directory"
        while not (yield "flock", directory, EXCLUSIVE):
            yield "sleep"
        return directory

    def unlock_directory(self, directory, fd=0):
        yield "flock", directory, NO_LOCK
        if fd:  # which may be slow to free
            yield "close", fd
        yield "close", directory

    def remove_once(self):
        fd = yield "open"
        if not fd:
            return ABSENT, 0
        outcome = None
        yield "fstat", fd
        if not (yield from self.remove_if_orphan(fd)) and (yield "flock", fd, SHARED) and (yield from self.held(fd)):
            ino = (yield "fstat", fd)[0]
            if (yield "lstat") == ino:
                outcome = DONE if (yield "unlink", ino) else ABSENT
        return outcome, fd

    def replace(self):
        """As `create`, but in the place of what is there.  (For the code, that is a persistent object.)"""
        fd = yield "tmpfile"
        lock = yield "reopen", fd
        yield from self.make(fd, lock)
        while True:
            directory = yield from self.lock_directory()
            moved = yield from self.move(fd)
            yield from self.unlock_directory(directory)
            if moved:
                return MADE, (fd, lock)
            del directory, moved

    def move(self, fd):
        old = yield "open"
        if not old:
            return (yield "link", fd)
        ino = (yield "fstat", old)[0]
        lock = yield "open"
        if lock:
            if (yield from self.join(lock, ino)):
                yield "rename", fd
                yield from self.close((old, lock), ino)
                return True
            yield "close", lock
        yield "close", old
        return False

    def foreign(self):
        """An unlink by a program that knows nothing of ipcio."""
        return (DONE if (yield "unlink", 0) else ABSENT), 0

    def close(self, fds, ino):
        fd, lock = fds
        yield "fstat", lock
        yield "close", lock
        yield from self.remove_if_orphan(fd, ino)
        yield "close", fd
        return DONE, 0

    def remove_if_orphan(self, fd, known=0):
        if not (yield "flock", fd, EXCLUSIVE):
            return False
        there = known and (yield "lstat") == known
        if not there:
            ino = (yield "fstat", fd)[0]
            there = yield from self.means(ino)
        if there:
            yield ("unlink",)
        return True

    def means(self, ino):
        return (yield "lstat") == ino

    def free_name(self):
        while True:
            fd = yield "open"
            if not fd:
                return True
            ino = (yield "fstat", fd)[0]
            in_use = yield from self.is_in_use(fd, ino)
            yield "close", fd
            if in_use:
                return False
            del fd, ino, in_use

    def is_in_use(self, fd, ino):
        if (
            (yield from self.remove_if_orphan(fd))
            or not (yield "flock", fd, SHARED)
            or (yield from self.remove_if_orphan(fd))
        ):
            return False
        if not (yield from self.held(fd)):
            return False
        return (yield "lstat") == ino


class Point:
    """Where an operation is: its next system call, or, with none, its outcome."""

    def __init__(self, operation, arguments, results):
        self.operation, self.arguments, self.results = operation, arguments, results
        self.call = self.outcome = None
        self.after = {}  # the point after each result of the call


class Process(NamedTuple):
    program: tuple  # operations still to come
    point: Point | None = None  # in the midst of one
    files: tuple = ()  # open ones, as (number, object, lock)
    handles: tuple = ()  # ((number of its descriptor, number of the lock's), object)
    met: frozenset = frozenset()  # objects that were in use under the name at some moment of this operation
    missed: bool = False  # whether there was a moment of it when no process had the name
    killed: bool = False

    def holds(self):
        """Objects it has handles on, but for one that it is closing; there the close may have happened."""
        return {ino for _, ino in self.handles[self.closes() :]}

    def keeps(self):
        """Objects that it may keep in use: a call that has met one may have a share, and may close it at any time."""
        return self.met.union(self.has())

    def has(self):
        return {ino for _, ino in self.handles}

    def closes(self):
        return bool(self.point) and self.point.operation == "close"

    def reaps(self):
        return any(lock == EXCLUSIVE and ino != DIRECTORY for _, ino, lock in self.files)


class World(NamedTuple):
    path: int  # the object that the name means, or 0
    objects: tuple  # of each object: (number, whether complete, whether an unlink took its name)
    processes: tuple


class Search:
    """All that can happen to these processes; an `AssertionError` shows the calls that lead to what must not happen.

    `kills`: so many may be killed.  `killed_removals`: also between the exclusive lock and the unlink.
    `looks_hold`: a call that has met an object counts as one that may have a share in it.
    """

    def __init__(self, *programs, orphan=False, kills=0, killed_removals=False, looks_hold=True, protocol=Protocol):
        self.protocol = protocol()
        self.points = {}
        self.kills, self.killed_removals, self.looks_hold = kills, killed_removals, looks_hold
        processes = tuple(Process(tuple(program.split())) for program in programs)
        self.start = World(1, ((1, True, False),), processes) if orphan else World(0, (), processes)

    def run(self, limit=1_000_000):
        """Search all states; return how many there are."""
        came = {self.start: None}
        sources = {}
        ends = []
        queue = deque(came)
        while queue:
            world = queue.popleft()
            try:
                following = list(self.following(world))
                for number, call, after in following:
                    sources.setdefault(after, []).append(world)
                    if after not in came:
                        came[after] = number, call, world
                        queue.append(after)
                        self.check(after)
                if not following:
                    ends.append(world)
                    self.visit(world)
            except AssertionError as error:
                raise AssertionError(f"{error}\n" + "\n".join(self.story(came, world))) from None
            if len(came) > limit:
                raise OverflowError("too many states to search")
        ending = set(ends)
        while ends:
            for source in sources.get(ends.pop(), ()):
                if source not in ending:
                    ending.add(source)
                    ends.append(source)
        stuck = next((world for world in came if world not in ending), None)
        assert not stuck, "they wait for ever\n" + "\n".join(self.story(came, stuck))
        return len(came)

    def wander(self, chance):
        """One order by chance: number, operation, call or None if it is killed, outcome if that was the last call."""
        world, moves = self.start, list(self.following(self.start))
        while moves:
            number, called, after = chance.choice(moves)
            before, process = world.processes[number], after.processes[number]
            outcome = None
            if called and not process.point:
                self.step(world, number)  # once more, for `following` has taken other steps since
                outcome = self.outcome
            world, moves = after, list(self.following(after))
            self.check(world)
            if process.point and process.point.call == called:  # half of a conversion, which for the code is one call
                moves = [move for move in moves if move[0] == number and move[1]]
            else:
                yield number, before.point.operation if before.point else (*before.program, "")[0], called, outcome
        self.ended = world

    def story(self, came, world):
        lines = []
        while came[world]:
            number, call, world = came[world]
            lines.append(f"{number}: {' '.join(map(str, call or ['killed']))}")
        return lines[::-1]

    def following(self, world):
        """All that can happen next, as (number, its call or None if it is killed, the world then)."""
        killed = sum(process.killed for process in world.processes)
        for number, process in enumerate(world.processes):
            if process.killed:
                continue
            point = process.point or self.begin(process)
            if point:
                yield number, point.call, self.step(world, number)
            if killed < self.kills and process.files and (self.killed_removals or not process.reaps()):
                gone = Process((), killed=True)
                yield number, None, self.settle(world.path, dict(rows(world)), world.processes, number, gone)

    def begin(self, process):
        """The first point of the next operation, if there is one."""
        if not process.program:
            return None
        operation = process.program[0]
        return self.point(operation, process.handles[0] if operation == "close" else ())

    def point(self, operation, arguments, results=()):
        """Run an operation again as far as it has come, and see where it is."""
        running = getattr(self.protocol, operation)(*arguments)
        made = Point(operation, arguments, results)
        try:
            call = next(running)
            for result in results:
                call = running.send(result)
            made.call = call if isinstance(call, tuple) else (call,)
        except StopIteration as end:
            made.outcome = end.value
        # Two ways to the same place are one: the same lines, with the same variables.
        chain, frames = running, []
        while chain is not None and chain.gi_frame is not None:
            variables = sorted((name, value) for name, value in chain.gi_frame.f_locals.items() if name != "self")
            frames.append((chain.gi_code.co_name, chain.gi_frame.f_lasti, *variables))
            chain = chain.gi_yieldfrom
        return self.points.setdefault((operation, arguments, made.call, made.outcome, *frames), made)

    def step(self, world, number):
        """One system call of a process."""
        process, objects, path = world.processes[number], dict(rows(world)), world.path
        if not process.point:
            process = process._replace(program=process.program[1:], point=self.begin(process))
            process = self.witness(process, world.processes, path)
        kind, *arguments = process.point.call
        files = {fd: (ino, lock) for fd, ino, lock in process.files}
        fd = arguments[0] if arguments else 0
        result = True
        if kind == "access":
            result = path != 0
        elif kind in {"open", "tmpfile", "reopen", "open directory"}:
            unused = min(set(range(1, len(objects) + 2)) - set(objects))
            again = files[fd][0] if fd else 0
            ino = {"open": path, "tmpfile": unused, "reopen": again, "open directory": DIRECTORY}[kind]
            if ino > 0:
                objects.setdefault(ino, (False, False))
            result = ino and min(set(range(1, len(files) + 2)) - set(files))
            if ino:
                files[result] = ino, NO_LOCK
        elif kind == "fstat":
            result = files[fd][0], files[fd][0] == path
        elif kind == "lstat":
            result = path
        elif kind == "flock":
            ino, lock = files[fd]
            files[fd] = ino, NO_LOCK
            # A conversion gives the old lock up first, and others may come between.
            if NO_LOCK not in (lock, arguments[1]) and lock != arguments[1]:
                changed = process._replace(files=flat(files))
                return self.settle(path, objects, world.processes, number, changed)
            others = [held for one in world.processes for _, locked, held in one.files if locked == ino]
            others.remove(lock)
            refusing = {EXCLUSIVE: {SHARED, EXCLUSIVE}, SHARED: {EXCLUSIVE}, NO_LOCK: set()}[arguments[1]]
            result = not refusing.intersection(others)
            files[fd] = ino, arguments[1] if result else NO_LOCK
        elif kind == "posix_fallocate":
            objects[files[fd][0]] = True, False
        elif kind == "mmap":
            assert objects[files[fd][0]][0], "half of an object is seen"
        elif kind == "link":
            result = not path
            if result:
                path = files[fd][0]
                process = process._replace(met=process.met | {path})
        elif kind == "rename":
            if path:
                objects[path] = objects[path][0], True
            path = files[fd][0]
            process = process._replace(met=process.met | {path})
        elif kind == "unlink":
            result = path != 0
            if path:
                objects[path] = objects[path][0], bool(arguments)
            path = 0
        elif kind == "close":
            del files[fd]
            files.pop(fd + NOTE, None)
        elif kind == "note":
            files[fd + NOTE] = -1 - files[fd][0], SHARED
        elif kind == "noted":
            result = any(noted == -1 - files[fd][0] for one in world.processes for _, noted, _ in one.files)
        return self.settle(path, objects, world.processes, number, process._replace(files=flat(files)), result)

    def settle(self, path, objects, processes, number, process, result=None):
        """The world after a step: what each process has seen, the outcome of what is over, what is left."""
        processes = (*processes[:number], process, *processes[number + 1 :])
        processes = tuple(self.witness(one, processes, path) for one in processes)
        process = processes[number]
        if process.point and result is not None:
            after = process.point.after.get(result)
            if not after:
                at = process.point
                after = at.after[result] = self.point(at.operation, at.arguments, (*at.results, result))
            process = process._replace(point=after)
            if not after.call:
                process = self.finish(process)
        processes = (*processes[:number], process, *processes[number + 1 :])
        used = {path}.union(ino for one in processes for _, ino, _ in one.files)
        used.update(ino for one in processes for ino in one.keeps())
        return World(path, tuple((ino, *objects[ino]) for ino in sorted(used & set(objects))), processes)

    def finish(self, process):
        operation, (outcome, fd) = process.point.operation, process.point.outcome
        self.outcome = outcome  # the last one
        handles, program = process.handles, process.program
        if outcome in {MADE, GOT}:
            ino = {number: ino for number, ino, _ in process.files}[fd[0]]
            assert ino in process.met, "an orphaned object was attached"
            handles = (*handles, (fd, ino))
        elif operation == "close":
            handles = handles[1:]
        elif outcome == ABSENT:
            assert process.missed, f"{operation} did not find what was there all the time"
        else:
            assert process.met or operation == "foreign", f"{operation} met an orphaned object"
        while program and program[0] == "close" and not handles:  # nothing to close
            program = program[1:]
        return Process(program, None, process.files, handles)

    def check(self, world):
        taken = {ino for ino, _, unlinked in world.objects if unlinked}
        for number, process in enumerate(world.processes):
            lost = process.holds() - {world.path} - taken
            assert not lost, f"{number} has a handle on what has lost its name"

    def witness(self, process, processes, path):
        """What a process in the midst of an operation may have met, and missed, in this state."""
        if not process.point or process.closes():
            return process
        if path and path not in process.met:
            if any(path in (one.keeps() if self.looks_hold else one.has()) for one in processes):
                process = process._replace(met=process.met | {path})
        if not process.missed and not (path and any(path in one.holds() for one in processes)):
            process = process._replace(missed=True)
        return process

    def visit(self, world):
        """The next user, when all have done what they had to do: it must find what is held, and nothing else."""
        alive = any(world.path in process.holds() for process in world.processes)
        assert alive or not world.path or any(one.killed for one in world.processes), "the last close leaves the name"
        for operation in ("attach", "create"):
            visited, steps = world._replace(processes=(*world.processes, Process((operation,)))), 0
            while visited.processes[-1].program or visited.processes[-1].point:
                visited = self.step(visited, len(world.processes))
                steps += 1
                assert steps < 100, "the next user waits for ever"
            assert bool(visited.processes[-1].handles) == (alive == (operation == "attach")), f"the next {operation}"


def rows(world):
    return ((ino, (complete, unlinked)) for ino, complete, unlinked in world.objects)


def flat(files):
    return tuple((fd, *files[fd]) for fd in sorted(files))
