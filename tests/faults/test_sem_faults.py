"""As test_faults, for semaphores: every call fails, is interrupted, is the last one before a SIGKILL in turn.

To the calls of `os` and `fcntl` come those of the C library: System V semaphores and ``sem_open``.
"""

from __future__ import annotations

import contextlib
import gc
from contextlib import closing

import pytest
from abilities import semaphore_file
from campaigns import places
from children import leave_orphan
from leftovers import descriptors
from semaphores import KINDS, crash_safe, lives, plain, there, unlinked, works
from troubles import SYSTEM_V, TROUBLES

from ipcio import sem

pytest.importorskip("fcntl", reason="system calls can be failed in forked children only")

from ipcio._posix import libc
from ipcio._posix.semlock import PosixSemaphore

pytestmark = pytest.mark.needs("files")  # for the others, see test_companions


# What a lack of descriptors changes is in the code that segments share, and tested with them.
TROUBLES = {name: trouble for name, trouble in TROUBLES.items() if name != "EMFILE"}


@pytest.fixture
def plan(plan):
    """The plan, with the C library's calls in it."""
    for name in SYSTEM_V:
        plan.watch(libc, name)
    plan.watch(PosixSemaphore, "_rebuild", staticmethod)
    return plan


# -- what is there, and what is done -----------------------------------------------


def foreign(name):
    with open(semaphore_file(name), "xb") as file:
        file.write(libc.new_semaphore(32, 3))


def prepare(state, name):
    """Bring the name into a state; return the holder that keeps it so, if any."""
    kind, _, what = state.partition(" ")
    make = {"plain": plain, "undo": crash_safe, "foreign": foreign}.get(kind)
    if what == "orphan":
        leave_orphan(lambda: make(name))
    elif what == "persistent":
        make(name, persist=True).close()
    elif what == "persistent, held":
        return make(name, persist=True)
    elif make is not None:
        return make(name)
    return None


def either(name):
    return plain(name, exist_ok=True)


# what is there before, and what is done
OPENING = {
    "create plain": ("", plain),
    "create plain persistent": ("", lambda name: plain(name, persist=True)),
    "create plain without permissions": ("", lambda name: plain(name, perm=0)),
    "create undo": ("", crash_safe),
    "create undo persistent": ("", lambda name: crash_safe(name, persist=True)),
    "create plain over an orphan, plain": ("plain orphan", plain),
    "create plain over an orphan, undo": ("undo orphan", plain),
    "create undo over an orphan, plain": ("plain orphan", crash_safe),
    "create undo over an orphan, undo": ("undo orphan", crash_safe),
    "create undo refused": ("undo", crash_safe),
    "create or attach plain": ("plain", either),
    "create or attach undo": ("undo", either),
    "create or attach over an orphan, undo": ("undo orphan", either),
    "attach plain": ("plain", sem.attach),
    "attach undo": ("undo", sem.attach),
    "attach plain persistent": ("plain persistent", sem.attach),
    "attach undo persistent": ("undo persistent", sem.attach),
    "attach foreign": ("foreign", sem.attach),
    "attach orphan plain": ("plain orphan", sem.attach),
    "attach orphan undo": ("undo orphan", sem.attach),
    "unlink plain": ("plain", sem.unlink),
    "unlink undo": ("undo", sem.unlink),
    "unlink plain persistent": ("plain persistent", sem.unlink),
    "unlink undo persistent": ("undo persistent", sem.unlink),
    "unlink undo persistent, held": ("undo persistent, held", sem.unlink),
    "unlink orphan plain": ("plain orphan", sem.unlink),
    "unlink orphan undo": ("undo orphan", sem.unlink),
    "unlink foreign": ("foreign", sem.unlink),
}


def scenarios(of):
    """Every scenario, and every one that is about making something in both ways."""
    both = [(scenario, "O_TMPFILE") for scenario in of]
    both += [(scenario, "temporary name") for scenario in of if "create" in scenario and not OPENING[scenario][0]]
    return pytest.mark.parametrize(("scenario", "way"), both, indirect=["way"])


# -- a call fails or is interrupted ------------------------------------------------


@pytest.mark.sampled(4)
@pytest.mark.parametrize("trouble", TROUBLES)
@scenarios(OPENING)
@pytest.mark.usefixtures("way")
def test_a_call_that_fails_or_is_interrupted_leaves_nothing(left, plan, scenario, trouble):
    """Not a name, not a set, not a descriptor, not a lock; and the error has the errno and the name."""
    name = left.tag
    state, act = OPENING[scenario]
    stays = state == "foreign" or "persistent" in state
    for at in places():
        before = descriptors()
        holder = prepare(state, name)
        outcome = error = None
        try:
            with plan.trouble_at(at, TROUBLES[trouble]):
                outcome = act(name)
        except (OSError, KeyboardInterrupt) as caught:
            error = caught.with_traceback(None)
        told = f"{trouble} at call {at} of {plan.calls}: {error!r}"
        if isinstance(error, OSError):
            assert error.errno is not None, told
            assert error.filename == name, told
        elif error is not None:
            assert "interrupt" in trouble, told
        if error and "create" in scenario and plan.hit not in {"unlink", "semctl"}:
            gc.collect()
            if not state:
                assert left.all() == ([], []), told
            elif state.endswith("orphan"):
                assert not lives(name), told
        if (state in {"plain", "undo"} or stays) and "unlink" not in scenario:
            assert lives(name), told
        if outcome is not None:
            assert works(outcome), told
            outcome.close()
        if holder is not None:
            assert works(holder), told
            holder.close()
        outcome = holder = None
        gc.collect()
        assert descriptors() == before, told
        if (stays or "persistent" in scenario) and lives(name):
            sem.unlink(name)
        assert not lives(name), told
        with closing(crash_safe(name)) as again:
            assert again.created, told
            assert works(again), told
        left.collect()
        assert left.all() == ([], []), told
        if not plan.reached:
            break
    assert at, "no call was seen"


CLOSING = {
    "the last": (lambda name, make: make(name), 0),
    "one of two": (lambda name, make: make(name), 1),
    "an unlinked one": (lambda name, make: [make(name), sem.unlink(name)][0], 0),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("scenario", CLOSING)
@pytest.mark.parametrize("kind", KINDS)
def test_a_close_that_fails_or_is_interrupted_has_closed(left, plan, kind, scenario, trouble):
    """The handle is closed, its descriptors are gone, it holds the name no more, and others still do."""
    name = left.tag
    prepared, others = CLOSING[scenario]
    for at in places():
        before = descriptors()
        s = prepared(name, KINDS[kind])
        rest = [sem.attach(name) for _ in range(others)]
        error = None
        try:
            with plan.trouble_at(at, TROUBLES[trouble]):
                s.close()
        except (OSError, KeyboardInterrupt) as caught:
            error = caught.with_traceback(None)
        told = f"{trouble} at call {at} of {plan.calls}: {error!r}"
        if isinstance(error, OSError):
            assert error.errno is not None, told
        assert s.closed, told
        s.close()
        assert lives(name) == bool(rest), told
        for other in rest:
            assert works(other), told
            other.close()
        s = rest = other = None
        gc.collect()
        assert descriptors() == before, told
        assert not lives(name), told
        left.collect()
        assert left.all() == ([], []), told
        if not plan.reached:
            break
    assert at, "no call was seen"


# -- killed in the middle ----------------------------------------------------------


def look(way, name):
    """Do one of the calls that find out that a name is orphaned."""
    if way in {"attach", "unlink"}:
        with pytest.raises(FileNotFoundError):
            getattr(sem, way)(name)
    elif way != "gc":
        with closing(KINDS[way](name)) as s:
            assert s.created
            assert works(s)


LOOKS = ("attach", "plain", "unlink", "undo", "gc")


@pytest.mark.sampled(3)
@scenarios([scenario for scenario, (state, _) in OPENING.items() if state in {"", "plain orphan", "undo orphan"}])
def test_a_call_that_is_killed_leaves_a_free_name(left, plan, way, scenario):
    """The next call, whichever it is, finds the name free, and `gc` removes what else there is."""
    name = left.tag
    state, act = OPENING[scenario]

    def call():
        with contextlib.suppress(FileNotFoundError):
            return act(name)

    for at in places():
        prepare(state, name)
        killed = plan.killed(call, at)
        told = f"killed before call {at}"
        if "persistent" in scenario and lives(name):
            sem.unlink(name)
        else:
            then = LOOKS[(at + len(scenario)) % len(LOOKS)]
            look(then, name)
            assert not there(name) or then == "gc", told
            if way == "O_TMPFILE" and not {then, *scenario.split()} & {"undo", "gc"}:
                assert left.all() == ([], []), told
        left.collect()
        assert left.all() == ([], []), told
        assert not lives(name), told
        if not killed:
            break
    assert at


GUESTS = {
    "attach": sem.attach,
    "create refused": crash_safe,
    "create or attach": either,
    "close": lambda name: sem.attach(name).close(),
}


@pytest.mark.parametrize("scenario", GUESTS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_attached_process_that_is_killed_does_not_disturb(left, plan, kind, scenario):
    """It neither keeps the name nor takes it along, and not the set either."""
    name = left.tag

    def attached():
        with contextlib.suppress(FileExistsError):
            return GUESTS[scenario](name)

    for at in places():
        with closing(KINDS[kind](name)) as s:
            killed = plan.killed(attached, at)
            assert works(s)
            with closing(sem.attach(name)) as other:
                assert works(other)
            with pytest.raises(FileExistsError):
                plain(name)
            left.collect()
            assert works(s)
        assert left.all() == ([], [])
        if not killed:
            break
    assert at


@pytest.mark.parametrize("state", ["plain", "undo", "plain persistent, held", "undo persistent, held"])
def test_an_unlink_that_is_killed_is_done_or_not(left, plan, state):
    """Handles go on with their semaphore in either case, and the last one is the end of it."""
    name = left.tag
    for at in places():
        with closing(prepare(state, name)) as s:
            killed = plan.killed(lambda: sem.unlink(name), at)
            if there(name):
                with closing(sem.attach(name)) as other:
                    assert works(other)
            else:
                with closing(crash_safe(name)) as new:
                    assert works(new)
            assert works(s)
        if "persistent" in state and lives(name):
            sem.unlink(name)
        s = None
        if "persistent" in state:
            left.collect()
        assert left.all() == ([], [])
        if not killed:
            break
    assert at


def test_a_killed_unlink_of_a_persistent_one_that_no_process_holds_is_done_or_not(left, plan):
    name = left.tag
    for at in places():
        prepare("undo persistent", name)
        killed = plan.killed(lambda: sem.unlink(name), at)
        if lives(name):
            sem.unlink(name)
        left.collect()
        assert left.all() == ([], [])
        if not killed:
            break
    assert at


@pytest.mark.parametrize("scenario", [scenario for scenario, (_, others) in CLOSING.items() if not others])
@pytest.mark.parametrize("kind", KINDS)
def test_a_last_close_that_is_killed_is_the_end_of_the_name(left, plan, kind, scenario):
    name = left.tag
    for at in places():
        killed = plan.killed(lambda: CLOSING[scenario][0](name, KINDS[kind]).close(), at)
        look(LOOKS[at % len(LOOKS)], name)
        left.collect()
        assert left.all() == ([], [])
        if not killed:
            break
    assert at


@pytest.mark.parametrize("state", ["undo orphan", "undo orphan, unlinked"])
def test_what_a_killed_gc_has_not_done_the_next_one_does(left, plan, state):
    name = left.tag
    for at in places():
        if state == "undo orphan":
            prepare(state, name)
        else:
            leave_orphan(lambda: unlinked(name))
        killed = plan.killed(left.collect, at)
        left.collect()
        assert left.all() == ([], [])
        if not killed:
            break
    assert at
