"""The lifetime protocol, searched to the end by a model; and that the model is the code, and can fail.

The same with more processes and longer programs: ``python -m tests.campaign interleaving``.
"""

from __future__ import annotations

import os
import random
from contextlib import ExitStack

import pytest
from campaigns import campaign, rounds
from model import DONE, EXCLUSIVE, EXISTS, MADE, SHARED, Protocol, Search

from ipcio import shm

pytest.importorskip("fcntl")

from schedules import WALKS, Worker, place_of_its_own, replay, there

from ipcio._posix import namespace

# -- nothing is found --------------------------------------------------------

HELD = [
    (("create close", "create close"), {}),
    (("create close", "attach close", "unlink"), {}),
    (("create unlink close", "create close"), {"kills": 2}),
    (("create", "attach close", "unlink"), {"kills": 1}),
    (("create", "attach"), {"orphan": True, "kills": 2}),
    (("create", "attach", "unlink"), {"orphan": True}),
    (("attach", "unlink", "attach"), {"orphan": True, "kills": 1}),
    (("create unlink create close close", "unlink create"), {"kills": 2}),
    (("create unlink create close close", "replace close"), {"kills": 1}),
]


@pytest.mark.parametrize(("programs", "options"), HELD)
@pytest.mark.sampled(3)
def test_no_order_breaks_a_promise(programs, options):
    states = Search(*programs, **options).run()
    print(f"{', '.join(programs)}: {states} states")
    assert states > 100


# -- what is open is found ---------------------------------------------------


def test_a_killed_removal_lets_in_one_more_process():
    """Race 7 of docs/design.md, open: the model finds it as soon as it may."""
    with pytest.raises(AssertionError, match="an orphaned object was attached"):
        Search("attach", "attach", orphan=True, kills=1, killed_removals=True).run()
    Search("attach", "attach", orphan=True, kills=1).run()


def test_to_ask_twice_lets_that_process_in_with_the_help_of_another():
    """So that is no remedy for race 7: each process takes the other for a holder, and both have lost their shares."""
    options = {"orphan": True, "kills": 1, "killed_removals": True, "protocol": AttachThatAsksTwice}
    Search("attach", "attach", **options).run()
    with pytest.raises(AssertionError, match="an orphaned object was attached") as found:
        Search("attach", "attach", "attach", **options).run()
    assert len(str(found.value).splitlines()) == 1 + 19


class AttachThatAsksTwice(Protocol):
    def join(self, lock, _):
        for _ in range(2):
            if (yield from self.remove_if_orphan(lock)) or not (yield "flock", lock, SHARED):
                return False
        return (yield "fstat", lock)[1]


def test_a_note_that_only_holders_have_would_close_race_7():
    """In the directory, at a place of the object's own; what it would cost is in docs/design.md."""
    options = {"orphan": True, "kills": 1, "killed_removals": True}
    for programs in (("attach", "attach", "attach"), ("attach", "create", "attach"), ("attach", "unlink", "attach")):
        Search(*programs, protocol=HoldersThatAreNoted, **options).run()
    Search("create close", "attach close", protocol=HoldersThatAreNoted).run()


class HoldersThatAreNoted(Protocol):
    """Each handle has a note of its own; what only looks, or is about to join, has none."""

    def make(self, fd, lock):
        yield from super().make(fd, lock)
        yield "note", lock

    def join(self, lock, ino):
        if (yield from super().join(lock, ino)):
            yield "note", lock
            return True
        return False

    def held(self, fd):
        return (yield "noted", fd)


def test_a_look_counts_as_a_share_until_it_ends():
    """Race 13 of docs/design.md, open: the last handle is closed while an `unlink` looks, and then `attach` begins."""
    with pytest.raises(AssertionError, match="an orphaned object was attached"):
        Search("create close", "unlink", "attach", looks_hold=False).run()
    Search("create close", "create", looks_hold=False).run()
    Search("create close", "attach close", looks_hold=False).run()


def test_a_foreign_unlink_in_the_midst_of_a_close_costs_a_newer_object_its_name():
    """Between the look at the name and the unlink, by a program that takes no lock."""
    with pytest.raises(AssertionError, match="has lost its name"):
        Search("create close", "create", "foreign").run()


# -- what would be wrong is found --------------------------------------------


class NoLookAtTheLinks(Protocol):
    def join(self, lock, _):
        return not (yield from self.remove_if_orphan(lock)) and (yield "flock", lock, SHARED)


class NoComparison(Protocol):
    def means(self, _):
        yield "lstat"
        return True


class NameBeforeLock(Protocol):
    def create(self):
        fd = yield "tmpfile"
        lock = yield "reopen", fd
        yield "posix_fallocate", fd
        while not (yield "link", fd):
            if not (yield from self.free_name()):
                yield "close", lock
                yield "close", fd
                return EXISTS, 0
        yield "flock", lock, SHARED
        return MADE, (fd, lock)


class NameBeforeSize(Protocol):
    def create(self):
        fd = yield "tmpfile"
        lock = yield "reopen", fd
        yield "flock", lock, SHARED
        if not (yield "link", fd):
            yield "close", lock
            yield "close", fd
            return EXISTS, 0
        yield "posix_fallocate", fd
        return MADE, (fd, lock)


class LinkThatReplaces(Protocol):
    def create(self):
        fd = yield "tmpfile"
        lock = yield "reopen", fd
        yield from self.make(fd, lock)
        while not (yield "link", fd):
            yield ("unlink",)
        return MADE, (fd, lock)


class QuestionThatKeepsTheShare(Protocol):
    """The question comes while the share is still there: each closer sees the other."""

    def close(self, fds, ino):
        fd, lock = fds
        yield from self.remove_if_orphan(fd, ino)
        yield "close", lock
        yield "close", fd
        return DONE, 0


class ProbeThatLooksOnce(Protocol):
    def is_in_use(self, fd, ino):
        if (yield from self.remove_if_orphan(fd)) or not (yield "flock", fd, SHARED):
            return False
        return (yield "lstat") == ino


class DeadThatComeAlive(Protocol):
    def join(self, lock, _):
        return (yield "flock", lock, SHARED) and (yield "fstat", lock)[1]


class ReaperThatOnlyWaits(Protocol):
    def join(self, lock, _):
        if (yield "flock", lock, EXCLUSIVE):
            return False
        return (yield "flock", lock, SHARED) and (yield "fstat", lock)[1]


class RemovalWithoutALock(Protocol):
    def close(self, fds, _):
        for fd in fds:
            yield "close", fd
        yield ("unlink",)
        return DONE, 0


class RemovalsSideBySide(Protocol):
    """Each with a lock on the object alone, so that one can come late."""

    def lock_directory(self):
        return (yield "open directory")

    def unlock_directory(self, directory, fd=0):
        for each in filter(None, (fd, directory)):
            yield "close", each


class ReplacementWithoutAShare(Protocol):
    def move(self, fd):
        yield "rename", fd
        return True


REMOVALS = "create unlink create close close"

BREAKAGES = [
    (NoLookAtTheLinks, ("create close", "attach"), {}, "has lost its name"),
    (NoComparison, ("create unlink close", "create"), {}, "has lost its name"),
    (NameBeforeLock, ("create", "attach"), {}, "lost its name"),
    (NameBeforeSize, ("create", "attach"), {}, "half of an object"),
    (LinkThatReplaces, ("create", "create"), {}, "has lost its name"),
    (QuestionThatKeepsTheShare, ("create close", "attach close"), {}, "leaves the name"),
    (ProbeThatLooksOnce, ("create close", "create"), {}, "leaves the name"),
    (DeadThatComeAlive, ("attach",), {"orphan": True}, "orphaned object was attached"),
    (ReaperThatOnlyWaits, ("attach",), {"orphan": True}, "wait for ever"),
    (RemovalWithoutALock, ("create close", "attach"), {}, "has lost its name"),
    (RemovalsSideBySide, (REMOVALS, "unlink create"), {}, "has lost its name"),
    (RemovalsSideBySide, (REMOVALS, "replace"), {}, "has lost its name"),
    (ReplacementWithoutAShare, ("create close", "replace"), {}, "has lost its name"),
]


@pytest.mark.parametrize(
    ("protocol", "programs", "options", "complaint"),
    BREAKAGES,
    ids=[f"{breakage[0].__name__}: {', '.join(breakage[1])}" for breakage in BREAKAGES],
)
@pytest.mark.sampled(3)
def test_a_protocol_with_one_thing_wrong_is_found_out(protocol, programs, options, complaint):
    Search(*programs, **options).run()
    with pytest.raises(AssertionError, match=complaint):
        Search(*programs, protocol=protocol, **options).run()


# -- the model is the code ---------------------------------------------------


@campaign
@pytest.mark.needs("fork", "files")
@pytest.mark.parametrize(("programs", "options"), WALKS)
def test_the_model_is_the_code(name, programs, options):
    """Orders taken from the model by chance, with all they meet, are what the code does call by call."""
    shm.create(None, 1).close()  # what is found out once is found out now, not in a worker
    with ExitStack() as stack:
        stack.enter_context(place_of_its_own())
        workers = []
        stack.callback(lambda: [worker.end() for worker in workers])
        for _ in programs:
            workers.append(Worker(name, workers))
        for seed in range(rounds(10)):
            replay(Search(*programs, **options), random.Random(seed), workers, name)
            if there(name):  # of one who was killed
                os.unlink(f"{namespace.DIRECTORY}/{name}")
