"""Create, attach, close, unlink and kills, interleaved system call by system call; see `schedules`."""

from __future__ import annotations

import os
import pickle
from contextlib import ExitStack

import pytest
from campaigns import campaign, rounds
from children import Event, Forked, leave_orphan, watch_calls

from ipcio import sem, shm

pytest.importorskip("fcntl")

import fcntl

from schedules import (
    ABSENT,
    DONE,
    EXISTS,
    GOT,
    MADE,
    PENDING,
    Done,
    Schedule,
    Worker,
    explains,
    place_of_its_own,
    there,
)

from ipcio._posix import lifetime, namespace, objects

pytestmark = pytest.mark.needs("fork", "files")


@pytest.fixture
def place():
    with place_of_its_own():
        yield


def test_the_checker_knows_right_from_wrong():
    def history(*lines):
        made = []
        for worker, operation, size, began, ended, *outcome in lines:
            done = Done(worker, operation, size, began)
            done.ended, done.outcome = ended, tuple(outcome)
            made.append(done)
        return made

    assert explains(history((0, "create", 5, 1, 4, MADE, 5), (1, "create", 6, 2, 3, EXISTS, 0)))
    assert explains(history((0, "create", 5, 1, 4, MADE, 5), (1, "attach", 0, 2, 3, ABSENT, 0)))
    assert not explains(history((0, "create", 5, 1, 2, MADE, 5), (1, "attach", 0, 3, 4, ABSENT, 0)))
    assert not explains(history((0, "create", 5, 1, 2, MADE, 5), (1, "create", 6, 3, 4, MADE, 6)))
    assert not explains(history((1, "create", 6, 3, 4, EXISTS, 0)))
    closed = (0, "create", 5, 1, 2, MADE, 5), (0, "close", 0, 3, 4, DONE, 5)
    assert explains(history(*closed, (1, "attach", 0, 5, 6, ABSENT, 0)))
    assert not explains(history(*closed, (1, "attach", 0, 5, 6, GOT, 5)))
    killed = (0, "create", 5, 1, 9, PENDING, 0), (0, "die", 0, 8, 9, DONE, 0)
    assert explains(history(*killed, (1, "attach", 0, 2, 3, GOT, 5)))
    assert explains(history(*killed, (1, "attach", 0, 2, 3, ABSENT, 0)))
    assert not explains(history(*killed, (1, "attach", 0, 10, 11, GOT, 5)))


@campaign
@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("before", "kills", "unlinks", "runs"),
    [
        ("nothing", False, False, 200),
        ("an orphan", False, False, 125),
        ("nothing", False, True, 200),
        # Not an orphan with kills: who is killed between finding an object orphaned and
        # removing its name may let one more process in (docs/design.md).
        ("nothing", True, True, 25),
    ],
)
def test_what_callers_are_told_fits_one_order_of_whole_calls(name, before, kills, unlinks, runs):
    with ExitStack() as stack:
        workers = []
        stack.callback(lambda: [worker.end() for worker in workers])
        for _ in range(3):
            workers.append(Worker(name, workers))
        for seed in range(rounds(runs)):
            if before == "an orphan":
                leave_orphan(lambda: shm.create(name, 4999))
            schedule = Schedule(seed, workers, name, kills=kills, unlinks=unlinks)
            schedule.run()
            assert explains(schedule.history), f"seed {seed}\n{schedule}"
            for worker in workers:
                worker.reset()
            with pytest.raises(FileNotFoundError):
                shm.attach(name)
            assert not there(name), f"seed {seed}\n{schedule}"


@pytest.fixture
def workers(name):
    """Three of them, in a place of their own."""
    with ExitStack() as stack:
        stack.enter_context(place_of_its_own())
        made = []
        stack.callback(lambda: [worker.end() for worker in made])
        for _ in range(3):
            made.append(Worker(name, made))
        yield made
        for worker in made:
            worker.reset()
        assert not there(name)


def until(call, stop, outcome, worker):
    """Let a worker go on until it is at that call or at its end; return the outcome if so."""
    while outcome is None and stop != call:
        stop, outcome = worker.step()
    return outcome


def whole(worker, operation, size=0):
    return until("", *worker.begin(operation, size), worker)


def test_an_unlink_that_comes_late_removes_no_newer_object(name, workers):
    """One removal waits for another, so none removes anything but what it has looked at."""
    remover, holder, newer = workers
    assert whole(holder, "create", 10) == (MADE, 10)
    late = until("unlink", *remover.begin("unlink", 0), remover)
    assert until("sleep", *holder.begin("unlink", 0), holder) is None
    assert until("", None, late, remover) == (DONE, 0)
    assert until("", None, None, holder) == (ABSENT, 0)
    # Now the last holder of a second object is about to remove that one.
    assert whole(holder, "create", 20) == (MADE, 20)
    assert whole(holder, "close") == (DONE, 10)
    closed = until("unlink", *holder.begin("close", 0), holder)
    assert until("sleep", *newer.begin("create", 30), newer) is None
    assert until("", None, closed, holder) == (DONE, 20)
    assert until("", None, None, newer) == (MADE, 30)
    with shm.attach(name) as h:
        assert h.size() == 30


@pytest.mark.parametrize("first", ["unlink", "replace"])
@pytest.mark.parametrize("second", ["unlink", "replace"])
def test_an_unlink_and_a_replacement_happen_one_after_the_other(name, workers, first, second):
    """Whichever has looked at the name, no other comes in between."""
    one, other, holder = workers
    assert whole(holder, "create", 10) == (MADE, 10)
    assert until({"replace": "rename"}.get(first, first), *one.begin(first, 20), one) is None
    assert until("sleep", *other.begin(second, 30), other) is None
    assert until("", None, None, one) == (DONE, 0)
    gone = first == second == "unlink"
    assert until("", None, None, other) == ((ABSENT if gone else DONE), 0)
    assert there(name) == (second == "replace")
    if second == "replace":
        assert whole(one, "unlink") == (DONE, 0)


def test_a_replacement_and_the_last_close_do_not_lose_the_name(name, workers):
    """The last holder of the old segment is about to remove the name, which must not be the new one's by then."""
    holder, replacer, _ = workers
    assert whole(holder, "create", 10) == (MADE, 10)
    closed = until("unlink", *holder.begin("close", 0), holder)
    # It waits; or, if it does not, it must not have taken the name yet.
    replaced = until("sleep", *replacer.begin("replace", 20), replacer)
    assert until("", None, closed, holder) == (DONE, 10)
    assert until("", None, replaced, replacer) == (DONE, 0)
    with shm.attach(name) as h:
        assert h.size() == 20
    shm.unlink(name)


def test_gc_leaves_what_is_about_to_replace_another_as_it_is(name, workers):
    """Removable in that moment, it would be lost if its writer were killed in the next."""
    from ipcio._posix import writer

    replacer, holder, _ = workers
    assert whole(holder, "create", 10) == (MADE, 10)
    assert until("rename", *replacer.begin("replace", 20), replacer) is None
    (hidden,) = [entry for entry in os.listdir(namespace.DIRECTORY) if entry.startswith(".ipcio-")]
    with pytest.raises(BlockingIOError):
        writer.clear_persistent(f"{namespace.DIRECTORY}/{hidden}")
    replacer.step()
    replacer.kill()
    workers[0] = Worker(name, workers[1:])
    with shm.attach(name) as h:
        assert h.size() == 20
    shm.unlink(name)


def test_a_removal_that_is_killed_keeps_no_other_from_it(name, workers):
    """Its lock on the directory goes with it."""
    one, other, holder = workers
    assert whole(holder, "create", 10) == (MADE, 10)
    assert until("unlink", *one.begin("unlink", 0), one) is None
    assert until("sleep", *other.begin("unlink", 0), other) is None
    one.kill()
    workers[0] = Worker(name, [other, holder])
    assert until("", None, None, other) == (DONE, 0)
    assert not there(name)


def test_two_calls_that_look_at_an_orphan_do_not_take_each_other_for_holders(name, workers):
    """Create finds it free, even if somebody else is looking at it at the moment."""
    remover, creator, attacher = workers
    leave_orphan(lambda: shm.create(name, 5))
    # The first has the lock and has removed the name; the others have opened the object before.
    outcomes = {worker: until("flock", *worker.begin("attach", 0), worker) for worker in (remover, attacher)}
    outcomes[creator] = until("flock", *creator.begin("create", 10), creator)
    outcomes[remover] = until("close", *remover.step(), remover)
    for worker in (creator, attacher):  # refused the exclusive lock
        outcomes[worker] = until("flock", *worker.step(), worker)
    assert until("", None, outcomes[remover], remover) == (ABSENT, 0)
    for worker in (creator, attacher):  # granted the shared one
        if outcomes[worker] is None:
            _, outcomes[worker] = worker.step()
    assert until("", None, outcomes[creator], creator) == (MADE, 10)
    until("", None, outcomes[attacher], attacher)


def test_two_creates_that_both_found_the_name_free_and_only_one_has_it(workers):
    first, second, _ = workers
    for worker, size in (first, 10), (second, 20):
        assert until("link", *worker.begin("create", size), worker) is None
    assert until("", None, None, second) == (MADE, 20)
    assert until("", None, None, first) == (EXISTS, 0)
    assert whole(first, "attach") == (GOT, 20)


def test_of_a_last_close_and_a_look_at_the_same_moment_the_name_does_not_stay(name, workers):
    """A call that looks has a shared lock for a moment, and the last close is refused for that."""
    holder, looker, _ = workers
    assert whole(holder, "create", 10) == (MADE, 10)
    assert until("flock", *looker.begin("create", 20), looker) is None
    assert looker.step() == ("flock", None)  # refused the exclusive one
    _, outcome = looker.step()  # granted the shared one
    assert whole(holder, "close") == (DONE, 10)
    outcome = until("", None, outcome, looker)
    assert outcome in {(MADE, 20), (EXISTS, 0)}
    assert there(name) == (outcome == (MADE, 20))


@pytest.mark.parametrize("third", ["create", "attach"])
def test_a_call_during_the_look_of_a_create_finds_the_name_in_use(workers, third):
    """Race 13 of docs/design.md, open: it begins after the last close, and meets the lock of a call that looks."""
    looker, holder, other = workers
    assert whole(holder, "create", 10) == (MADE, 10)
    assert until("flock", *looker.begin("create", 20), looker) is None
    assert looker.step() == ("flock", None)  # refused the exclusive lock
    looker.step()  # granted the shared one
    assert whole(holder, "close") == (DONE, 10)
    met = whole(other, third, 30)
    outcome = until("", *looker.step(), looker)
    if third == "create":
        assert (met, outcome) == ((EXISTS, 0), (MADE, 20))
    else:
        assert (met, outcome) == ((GOT, 10), (EXISTS, 0))


@pytest.mark.gc
def test_a_collection_of_orphans_makes_no_name_look_held(name, monkeypatch):
    """It asks for exclusive locks only: a shared one, if granted, would let an `attach` in after the last close."""
    from ipcio._inventory import remove_orphans

    asked = []
    lock = lifetime.try_lock

    def note(fd, kind):
        asked.append(kind)
        return lock(fd, kind)

    with shm.create(name, 10), sem.create(name, 1, undo=True):
        monkeypatch.setattr(lifetime, "try_lock", note)
        assert name not in [found.name for found in remove_orphans()]
        monkeypatch.undo()
    assert asked
    assert set(asked) == {fcntl.LOCK_EX | fcntl.LOCK_NB}


def test_a_create_that_meets_an_orphan_in_its_last_step_removes_it(name, workers):
    """It was not there when the create began."""
    creator, other, _ = workers
    assert until("link", *creator.begin("create", 20), creator) is None
    assert whole(other, "create", 10) == (MADE, 10)
    other.kill()
    workers[1] = Worker(name, [creator, workers[2]])
    assert until("", None, None, creator) == (MADE, 20)


@pytest.mark.parametrize("mask", [0o022, 0o777])
def test_a_new_object_that_gc_removes_before_it_is_locked_is_made_again(name, monkeypatch, mask):
    """Where a file cannot be made without a name, it has a hidden one and no lock for some calls."""
    monkeypatch.setattr(objects, "_has_tmpfile", lambda: False)
    at, removed = -1, []

    def on_call(called, _args, call):
        nonlocal at
        hidden = [entry for entry in os.listdir(namespace.DIRECTORY) if entry.startswith(".ipcio-")]
        if at >= 0 and hidden:
            at -= 1
            if at < 0 and lifetime.free_name(f"{namespace.DIRECTORY}/{hidden[0]}", patient=False):
                removed.append(called)
        return call()

    with place_of_its_own(), monkeypatch.context() as patch:
        watch_calls(on_call, patch.setattr)
        usual = os.umask(mask)
        try:
            for number in range(50):
                at = number
                shm.create(name, 10).close()
                assert not os.listdir(namespace.DIRECTORY)
                if at >= 0:
                    break
        finally:
            os.umask(usual)
    assert at >= 0
    assert {"open", "flock"} <= set(removed)


@pytest.mark.parametrize("ours", [False, True])
def test_a_create_that_is_interrupted_as_it_ends_removes_its_own_object_alone(name, monkeypatch, ours):
    """By then the name may be another's."""
    others = []

    def on_call(called, _args, call):
        if called == "fchmod" and there(name) and not others:  # it is about to persist
            call()
            if ours:
                others.append(None)
            else:
                others.append(0)
                shm.unlink(name)
                others[:] = [shm.create(name, 20)]
            raise KeyboardInterrupt
        return call()

    with monkeypatch.context() as patch:
        watch_calls(on_call, patch.setattr)
        with pytest.raises(KeyboardInterrupt):
            shm.create(name, 10, persist=True)
    assert there(name) == (not ours)
    if not ours:
        others.pop().close()
        assert not there(name)


@pytest.mark.parametrize("refused", [0, 1])
def test_of_two_last_closes_that_meet_the_second_to_ask_removes_the_name(name, workers, refused):
    pair = workers[:2]
    assert whole(pair[0], "create", 10) == (MADE, 10)
    assert whole(pair[1], "attach") == (GOT, 10)
    one, other = pair[refused], pair[not refused]
    for worker in pair:
        assert until("close", *worker.begin("close", 0), worker) is None  # the share, before they ask
    assert one.step() == ("flock", None)
    assert one.step() == ("close", None)  # refused; its share has gone already
    assert until("unlink", *other.step(), other) is None
    assert until("", None, None, other) == (DONE, 10)
    assert until("", None, None, one) == (DONE, 10)
    assert not there(name)


def test_a_parent_and_its_child_that_close_at_the_same_moment_exclude_each_other(name, monkeypatch):
    """They have one description, by which both would be granted the exclusive lock; so only one of them asks by it."""
    h = shm.create(name, 10)
    seen = []

    with Event() as reached, Event() as go:

        def stop(called, _args, call):
            if called == "flock":
                reached.set()
                go.wait()
            return call()

        def child():
            watch_calls(stop)
            h.close()

        forked = Forked(child)
        reached.wait()

        def on_call(called, _args, call):
            if called == "unlink":
                go.set()
                forked.wait()
                seen.append(there(name))
            return call()

        watch_calls(on_call, monkeypatch.setattr)
        h.close()
    assert seen == [True]
    assert not there(name)


def test_an_attach_that_opened_before_the_last_close_has_nothing(workers):
    """It was refused the exclusive lock by a holder, who is gone when it is granted the shared one."""
    holder, attacher, newer = workers
    assert whole(holder, "create", 10) == (MADE, 10)
    assert until("flock", *attacher.begin("attach", 0), attacher) is None
    assert attacher.step() == ("flock", None)  # refused
    assert whole(holder, "close") == (DONE, 10)
    assert attacher.step() == ("fstat", None)  # granted
    assert whole(newer, "create", 20) == (MADE, 20)
    assert until("", *attacher.step(), attacher) == (GOT, 20)


USES = {
    "fork": lambda _: Forked(int).wait(),
    "fileno": lambda h: h.fileno(),
    "a view": lambda h: h.getbuffer().release(),
    "another handle": lambda h: shm.attach(h.name).close(),
    "a copy by pickle": lambda h: pickle.loads(pickle.dumps(h)).close(),
    "a close after a fork": lambda h: (another := shm.attach(h.name), Forked(int).wait(), another.close()),
    "a create that finds it": lambda h: shm.create(h.name, 1, exist_ok=True).close(),
}


@pytest.mark.parametrize("use", USES)
def test_at_no_moment_of_its_use_is_a_handle_without_a_lock(name, monkeypatch, use):
    """Whoever asks between any two system calls hears that the object is in use."""
    calls = []

    def on_call(called, args, call):
        result = call()
        if called not in {"monotonic", "sleep"}:
            calls.append(called)
            assert in_use(name), f"after {calls}, {args}"
        return result

    h = shm.create(name, 100)
    watch_calls(on_call, monkeypatch.setattr)
    USES[use](h)
    monkeypatch.undo()
    h.close()
    assert not there(name)


def in_use(name):
    fd = os.open(f"{namespace.DIRECTORY}/{name}", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
