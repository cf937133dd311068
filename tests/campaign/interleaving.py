"""Interleavings: bad orders of whole processes, and every order of a model.

In turn, a schedule of several processes that chance makes, some of them killed; an order of the
model's that real processes must go through call by call; and a search of the model
in all orders, with programs that chance makes.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from model import Search
from schedules import WALKS, Schedule, Worker, explains, place_of_its_own, replay, there

from campaign.parts import Unable, new_name, part
from ipcio import shm

SEARCHED = 30_000  # states of one search at most; a longer one is given up


@part("interleaving")
def setup(_place):
    if not hasattr(os, "fork") or not os.path.isdir("/dev/shm"):
        raise Unable("named objects are not files here, or processes cannot be forked")
    shm.create(None, 1).close()  # what is found out once is found out now, not in a worker
    name = new_name()
    with ExitStack() as stack:
        stack.enter_context(place_of_its_own())
        workers = []
        stack.callback(lambda: [worker.end() for worker in workers])
        for _ in range(3):
            workers.append(Worker(name, workers))

        def one_round(rng):
            kind = rng.choice((schedule, schedule, walk, walk, walk, search))
            return kind(rng, workers, name)

        yield one_round


def schedule(rng, workers, name):
    """The results of callers fit one order of whole calls."""
    made = Schedule(rng.random(), workers, name, kills=rng.random() < 0.5, unlinks=rng.random() < 0.7)
    made.run()
    assert explains(made.history), f"no order of whole calls explains\n{made}"
    settle(workers, name)
    return {"kills": sum(done.operation == "die" for done in made.history), "schedules": 1}


def walk(rng, workers, name):
    """What the model may do, the code does."""
    programs, options = rng.choice(WALKS)
    kills = replay(Search(*programs, **options), rng, workers, name)
    settle(workers, name)
    return {"kills": kills, "walks": 1}


def settle(workers, name):
    """All handles go, and the next user finds nothing."""
    for worker in workers:
        worker.reset()
    try:
        shm.attach(name).close()
    except FileNotFoundError:
        pass
    else:
        raise AssertionError("the name is held, by nobody")
    assert not there(name), "the name is left"


def search(rng, _workers, _name):
    """No order of these programs, of which no assumption is broken, breaks a promise."""
    words = "create", "create", "attach", "attach", "unlink", "replace", "close"
    programs = [" ".join(rng.choices(words, k=rng.randint(1, 2))) for _ in range(rng.choice((2, 3)))]
    programs = [program if program.split()[0] != "close" else f"create {program}" for program in programs]
    model = Search(*programs, orphan=rng.random() < 0.5, kills=rng.randint(0, 2))
    try:
        return {"searches": 1, "states": model.run(SEARCHED)}
    except OverflowError:
        return {"given up": 1}
