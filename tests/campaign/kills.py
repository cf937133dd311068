"""SIGKILL of processes that use ipcio: before and after each system call of every operation, and at random moments.

Half of the rounds take the operations one after the other, and in each every call; the others kill processes
that do a bit of everything, at any moment.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import time

from children import Adoption, Forked
from tracing import Traced, lacks_tracing

from campaign.operations import VALUE, Operation, Scene, check, choose, entries, gc_of
from campaign.parts import Unable, new_name, part
from ipcio import filelock, mmap, proc, sem, shm
from ipcio._posix import libc

ENOUGH = 60  # calls; a waiting process makes as many as there is time for


def kill_at(operation: Operation, name: str, path: str, number: int, *, after: bool, gc_first: bool) -> bool:
    """Kill a process that does it, at the call of this number; check what is left; False: it has fewer calls."""
    scene = Scene(name, path)
    try:
        scene.held = operation.before(scene)
        scene.look()
        with Traced(operation.act, scene, prepare=lambda: operation.ready(scene)) as child:
            call = child.step_to(number)
            if call is None:
                child.run()
            elif after:
                child.happen()
            status = child.kill_all()
            scene.look(child.seen)
        assert call is None or status == -signal.SIGKILL, f"status {status}"
        try:
            check(operation, scene, gc_first=gc_first)
        except Exception as error:
            when = "after" if after else "before"
            raise AssertionError(f"{operation.name}, killed {when} call {number}, {call}: {error!r}") from error
        return call is not None
    finally:
        scene.end()


# -- random moments ------------------------------------------------------------


def bustle(seed: int, names: list[str], path: str, went) -> None:
    """Do a bit of everything for ever, about a few names that others use as well."""
    rng = random.Random(seed)
    os.write(went, b"!")
    # Whom others overtook or were killed over hears so by one of these, and of nothing else.
    expected = (FileNotFoundError, FileExistsError, TimeoutError, PermissionError)
    kept = []
    while True:
        with contextlib.suppress(*expected):
            _one_thing(rng, rng.choice(names), path, kept)
        if len(kept) > 3:
            kept.pop(rng.randrange(len(kept))).close()


def _one_thing(rng, name, path, kept):
    what = rng.randrange(9)
    if what == 0:
        kept.append(shm.create(name, 5000))
    elif what == 1:
        kept.append(shm.create(name, 5000, exist_ok=True))
    elif what == 2:
        kept.append(shm.attach(name, rng.choice(["r", "rw"])))
    elif what == 3:
        kept.append(sem.create(name, VALUE, undo=rng.random() < 0.7, exist_ok=True))
    elif what == 4:
        with sem.attach(name) as semaphore:
            assert semaphore
    elif what == 5:
        with open(path, "r+b") as file, filelock.locked(file, timeout=0.01):
            os.getppid()
    elif what == 6:
        with mmap.open(path, "rw") as mapped:
            mapped.write(b"x")
    elif what == 7:
        rng.choice([shm.unlink, sem.unlink])(name)
    elif rng.random() < 0.1:
        with proc.spawn(["true"]) as child:
            child.wait()
    else:
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)


def kill_at_random(rng: random.Random, path: str) -> dict[str, int]:
    """A few processes do a bit of everything, and are killed at moments of their own."""
    with Adoption() as adoption:
        return _kill_at_random(rng, path, adoption)


def _kill_at_random(rng: random.Random, path: str, adoption: Adoption) -> dict[str, int]:
    names = [new_name(), new_name()]
    with open(path, "wb") as file:
        file.write(b"old")
    # One semaphore of a name that no process creates or unlinks: its permits are counted exactly.
    counted = sem.create(new_name(), VALUE, undo=True)
    reader, writer = os.pipe()
    workers = []
    kills = 0
    try:
        for _ in range(12):
            while len(workers) < 3:
                workers.append(Forked(_bustle_and_count, rng.randrange(1 << 32), names, path, writer, counted.name))
                assert os.read(reader, 1) == b"!"
            time.sleep(rng.random() * 0.02)
            worker = workers.pop(rng.randrange(len(workers)))
            os.kill(worker.pid, signal.SIGKILL)
            assert worker.wait() == -signal.SIGKILL, "a worker ended by itself"
            kills += 1
        for worker in workers:
            assert worker.kill() == -signal.SIGKILL, "a worker ended by itself"
            kills += 1
        workers.clear()
        # A child that they were just starting holds what they held, until it runs its program or ends.
        orphans = adoption.wait()
        os.close(writer)
        writer = -1
        assert os.read(reader, 1) == b"", "a worker wrote more than once"
        assert counted.value == VALUE, f"{counted.value} permits where {VALUE} were"
        for name in names:
            _is_free(name)
        with open(path, "r+b") as file:
            assert filelock.trylock(file), "a killed process has a lock"
    finally:
        for worker in workers:
            worker.kill()
        for fd in (reader, writer):
            if fd >= 0:
                os.close(fd)
        counted.close()
    return {"kills": kills, "orphans": orphans}


def _bustle_and_count(seed, names, path, went, counted):
    gc.disable()
    permits = sem.attach(counted)
    random.Random(seed).choice([lambda: None, lambda: permits.dec(0), lambda: (permits.dec(0), permits.inc())])()
    bustle(seed, names, path, went)


def _is_free(name):
    """No process holds it: the next call succeeds, and gc leaves nothing."""
    hidden = [entry for entry in entries(name) if entry.startswith(".ipcio-undo-")]
    keys = [int(entry.rpartition("-")[2], 16) for entry in hidden]
    for attach, create in ((shm.attach, shm.create), (sem.attach, sem.create)):
        try:
            attach(name).close()
        except FileNotFoundError:
            pass
        else:
            raise AssertionError("a killed process holds a name")
        create(name, 1).close()
    gc_of(name)
    assert not entries(name), f"gc has left {entries(name)}"
    assert not [key for key in keys if libc.semget(key, 0, 0) >= 0], "System V sets that nothing stands for"


@part("kills")
def setup(place):
    """Every call of an operation, each time the next one; and every other round, random moments."""
    if lacks_tracing():
        raise Unable(lacks_tracing())
    path = f"{place}/file"
    warm = set()

    def one_round(rng):
        if rng.random() < 0.25:
            return kill_at_random(rng, path)
        operation = choose(rng, warm, path)
        after, gc_first = rng.random() < 0.5, rng.random() < 0.5
        kills = 0
        while kills < ENOUGH and kill_at(operation, new_name(), path, kills, after=after, gc_first=gc_first):
            kills += 1
        return {"kills": kills}

    yield one_round
