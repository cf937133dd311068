"""Operations on a name, interleaved system call by system call: workers, schedules, and what explains an outcome.

Workers are processes that stop before each of their system calls, and a `Schedule` with a
seed says which one goes on.  So every run of a seed is the same, and thousands of orders
are tried that chance alone would hardly ever bring about.  `explains` says whether *some*
order of whole calls could have had these outcomes (linearizability): each call takes
effect at one moment between its beginning and its end, on a name with a plain count of
its holders.  `replay` has workers go through an order that the model allows.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import tempfile
from contextlib import contextmanager

from children import Forked, watch_calls

from ipcio import _segment_writer, shm
from ipcio._posix import namespace

MADE, GOT, EXISTS, ABSENT, DONE, PENDING = "made", "got", "exists", "absent", "done", "pending"


@contextmanager
def place_of_its_own():
    """Have names in a directory that no other program locks, so that the same orders give the same calls."""
    usual = namespace.DIRECTORY
    place = namespace.DIRECTORY = tempfile.mkdtemp(prefix="ipcio-place-", dir=usual)
    try:
        yield
    except BaseException:  # what is left in it is what failed; without it, later tests pass
        shutil.rmtree(place)
        raise
    else:
        os.rmdir(place)
    finally:
        namespace.DIRECTORY = usual


class Worker:
    """A forked process that stops before each system call."""

    def __init__(self, name, others=()):
        self._channel, remote = socket.socketpair()
        self._process = Forked(_serve, remote, name, [self._channel, *(worker._channel for worker in others)])
        remote.close()

    def begin(self, operation, size):
        """Start an operation; return the call that it stops at, or None and the outcome."""
        return self._talk(f"{operation} {size}")

    def step(self):
        return self._talk("go")

    def reset(self):
        assert self._talk("reset 0") == (None, (DONE, 0))

    def kill(self):
        assert self._process.kill() == -signal.SIGKILL
        self._channel.close()

    def end(self):
        self._channel.close()
        self._process.kill()

    def _talk(self, line):
        self._channel.send(line.encode())
        kind, what, number = self._channel.recv(100).decode().split()
        if kind == "at":
            return what, None
        assert kind == "outcome", what
        return None, (what, int(number))


def _serve(channel, name, inherited):
    for other in inherited:
        other.close()
    handles = []
    stepping = False

    def on_call(called, _args, call):
        if called == "monotonic":
            return 0.0
        if stepping:
            channel.send(f"at {called} 0".encode())
            if channel.recv(100) != b"go":
                os._exit(1)
        return None if called == "sleep" else call()

    def perform(operation, size):
        try:
            if operation == "create":
                handles.append(shm.create(name, size))
            elif operation == "ensure":
                handles.append(shm.create(name, size, exist_ok=True))
            elif operation == "attach":
                handles.append(shm.attach(name))
            elif operation == "close":
                closing = handles.pop(0)
                size = closing.size()
                closing.close()
                return DONE, size
            elif operation == "unlink":
                shm.unlink(name)
                return DONE, 0
            elif operation == "replace":
                with _segment_writer.open_writer(name, replace=True) as file:
                    file.write(bytes(size))
                return DONE, 0
            else:
                while handles:
                    handles.pop().close()
                return DONE, 0
        except FileExistsError:
            return EXISTS, 0
        except FileNotFoundError:
            return ABSENT, 0
        return (MADE if handles[-1].created else GOT), handles[-1].size()

    watch_calls(on_call)
    while request := channel.recv(100):
        operation, size = request.decode().split()
        stepping = operation != "reset"
        try:
            told = "outcome {} {}".format(*perform(operation, int(size)))
        except BaseException as error:
            told = f"failed {type(error).__name__}:{str(error).replace(' ', '_')[:60]} 0"
        channel.send(told.encode())


class Done:
    """One operation of one worker: what it was, when, and what came of it."""

    def __init__(self, worker, operation, size, began):
        self.worker = worker
        self.operation = operation
        self.size = size
        self.began = began
        self.ended = float("inf")
        self.outcome = (PENDING, 0)

    def __repr__(self):
        return f"{self.worker}: {self.operation} {self.size} [{self.began}-{self.ended}] {self.outcome}"


def explains(history):
    """Whether some order of the operations, one after the other, gives all these outcomes."""
    workers = sorted({done.worker for done in history})
    lanes = [[] for _ in workers]
    for done in history:
        # A call in progress may hold an object that it has found, as a handle would.
        stages = {"unlink": ("look", done, "drop"), "close": (done,), "die": (done,)}
        for stage in stages.get(done.operation, ("look", "drop", done)):
            if isinstance(stage, str):
                part = Done(done.worker, stage, 0, done.began)
                part.ended = done.ended
            else:
                part = stage
            lanes[workers.index(done.worker)].append(part)
    seen = set()

    def follow(frontier, live, held):
        """`held`: worker and size, for each handle; and whether it is one only in passing."""
        key = frontier, live, tuple(sorted(held))
        if key in seen:
            return False
        seen.add(key)
        heads = [lane[at] for lane, at in zip(lanes, frontier, strict=True) if at < len(lane)]
        if not heads:
            return True
        horizon = min(done.ended for done in heads)
        for lane_number, lane in enumerate(lanes):
            at = frontier[lane_number]
            if at == len(lane) or lane[at].began > horizon:
                continue
            following = (*frontier[:lane_number], at + 1, *frontier[lane_number + 1 :])
            for after in effects(lane[at], live, held):
                if follow(following, *after):
                    return True
        return False

    return follow((0,) * len(lanes), None, ())


def effects(done, live, held):
    """All that the operation may have done to the name, given what it said."""
    outcome, size = done.outcome
    pending = outcome == PENDING
    if pending:
        yield live, held  # killed before it took effect
    if done.operation == "die":
        yield remaining(live, [handle for handle in held if handle[0] != done.worker])
    elif done.operation == "look":
        yield live, held
        if live is not None:
            yield live, (*held, (done.worker, live, True))
    elif done.operation == "drop":
        yield remaining(live, [handle for handle in held if handle[::2] != (done.worker, True)])
    elif done.operation == "close":
        own = [handle for handle in held if handle[0] == done.worker and (pending or handle[1] == size)]
        if own:
            index = held.index(own[0])
            yield remaining(live, held[:index] + held[index + 1 :])
    elif done.operation == "unlink":
        if outcome == ABSENT:
            if live is None:
                yield live, held
        elif live is not None:
            yield None, held
    else:  # create, ensure, attach
        if outcome == EXISTS and live is not None:
            yield live, held
        if outcome == ABSENT and live is None:
            yield live, held
        if live is None and done.operation != "attach" and outcome in {MADE, PENDING}:
            yield done.size, (*held, (done.worker, done.size, False))
        if live is not None and done.operation != "create" and (outcome == PENDING or (outcome, size) == (GOT, live)):
            yield live, (*held, (done.worker, live, False))


def remaining(live, held):
    return (live if any(handle[1] == live for handle in held) else None), tuple(held)


LONGEST = 5  # operations of one worker in a run


class Schedule:
    """One run: a seed, the operations that it gives to the workers, and the order that it makes of them."""

    def __init__(self, seed, workers, name, *, kills, unlinks):
        self.chance = random.Random(seed)
        self.workers = workers
        self.name = name
        self.kills = kills
        self.unlinks = unlinks
        self.history = []
        self.trace = []
        self.clock = 0
        self.size = 1

    def choose(self, worker, handles):
        """The next operation of a worker that has so many handles."""
        self.size += 1
        # The size identifies the object.  Every object must be large enough for "ensure", whose objects
        # all have one size: that does no harm where only one object is held at a time.
        others = ["unlink"] if self.unlinks else ["ensure"]
        kind = self.chance.choice(["create", "attach", "attach", *others, *["close"] * (2 * handles)])
        return Done(worker, kind, 1 if kind == "ensure" else self.size, self.clock)

    def run(self):
        chance, count = self.chance, len(self.workers)
        left = [chance.randint(1, LONGEST) for _ in range(count)]
        current, handles = [None] * count, [0] * count
        # Either any worker at any time, or the first in a list of ranks that changes now and then.
        ranks = chance.sample(range(count), count) if chance.random() < 0.6 else None
        while any(left) or any(current):
            able = [worker for worker in range(count) if left[worker] or current[worker]]
            worker = min(able, key=ranks.index) if ranks else chance.choice(able)
            self.clock += 1
            assert self.clock < 5000, "they wait for each other"
            if self.kills and current[worker] and chance.random() < 0.02:
                self._kill(worker, current, handles)
                left[worker] = 0
                continue
            if current[worker] is None:
                left[worker] -= 1
                done = current[worker] = self.choose(worker, handles[worker])
                self.history.append(done)
                stop, outcome = self.workers[worker].begin(done.operation, done.size)
            else:
                stop, outcome = self.workers[worker].step()
            self.trace.append(f"{worker} {current[worker].operation}: {stop or outcome}")
            if outcome:
                done, current[worker] = current[worker], None
                self.clock += 1
                done.ended, done.outcome = self.clock, outcome
                handles[worker] += (outcome[0] in {MADE, GOT}) - (done.operation == "close")
            if ranks and (stop == "sleep" or chance.random() < 0.06):
                ranks.remove(worker)
                ranks.append(worker)

    def _kill(self, worker, current, handles):
        self.workers[worker].kill()
        self.clock += 1
        death = Done(worker, "die", 0, self.clock - 1)
        current[worker].ended = death.ended = self.clock
        death.outcome = DONE, 0
        self.history.append(death)
        self.trace.append(f"{worker} killed")
        current[worker], handles[worker] = None, 0
        others = [other for other in self.workers if other is not self.workers[worker]]
        self.workers[worker] = Worker(self.name, others)

    def __str__(self):
        return "\n".join([*map(repr, self.history), *self.trace])


def there(name):
    return os.path.lexists(f"{namespace.DIRECTORY}/{name}")


WALKS = [
    (("create close attach close", "attach close create close", "create close"), {}),
    (("create close", "attach close", "unlink create close"), {}),
    (("create unlink create close close", "unlink attach close", "create attach close close"), {}),
    (("create close", "attach close", "unlink attach close"), {"kills": 1}),
]


def replay(search, chance, workers, name):
    """Have real processes go through an order of the model's: the same calls, the same outcomes, the same name."""
    stops = {}
    deaths = 0
    for number, operation, call, outcome in search.wander(chance):
        if call is None:
            workers[number].kill()
            workers[number] = Worker(name, [worker for worker in workers if worker is not workers[number]])
            stops.pop(number, None)
            deaths += 1
            continue
        kind, said = call[0], None
        if number not in stops:
            stops[number], said = workers[number].begin(operation, 100)
        if kind not in {"access", "sleep"}:  # which the stand-ins do not see, or are led through below
            expected = "open" if kind in {"tmpfile", "reopen", "open directory"} else kind
            # Before some closes there is a look at how large the object is, and before an orphan is opened
            # one whether it has the size of a semaphore; the model has none.
            while (kind, stops[number]) in {("close", "fstat"), ("open", "lstat")}:
                stops[number], said = workers[number].step()
            assert stops[number] == expected, f"{number} {operation}: {stops[number]} {said}, the model: {call}"
            stops[number], said = workers[number].step()
            # An lstat right after open looks whether what cannot be opened is a device, and one before an error
            # whether a semaphore has the name; the model has none.
            while stops[number] == "sleep" or (stops[number] == "lstat" and (kind == "open" or outcome == "exists")):
                stops[number], said = workers[number].step()
        told = said[0] if said else None
        assert told == outcome, f"{number} {operation}: {told or stops[number]}, the model: {outcome}"
        if said:
            del stops[number]
    assert there(name) == bool(search.ended.path)
    for worker in workers:
        worker.reset()
    return deaths
