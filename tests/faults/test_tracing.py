"""The tracer itself; and every operation of ipcio killed before, and failing at, each of its system calls.

`python -m tests.campaign kills failure` does so at more length: after each call, too, with every errno,
and at random moments.
"""

from __future__ import annotations

import errno
import os
import signal
from itertools import takewhile

import pytest
from campaigns import places
from tracing import Traced, calls, lacks_tracing

from ipcio import sem, shm

pytest.importorskip("fcntl", reason="calls are traced on POSIX systems only")

pytestmark = [pytest.mark.needs("fork", "files"), pytest.mark.able(probe=lambda: not lacks_tracing())]


def make_and_remove(path):
    os.mkdir(path)
    os.rmdir(path)
    return "done"


def names(seen):
    return [call.name.removesuffix("at") for call in seen]


def test_a_trace_has_every_call_and_no_more(tmp_path):
    seen = calls(make_and_remove, f"{tmp_path}/x")
    assert seen[0].path == f"{tmp_path}/x"
    assert len(seen) == 2
    assert names(seen)[0] == "mkdir"


def test_a_child_stands_before_its_call_and_then_behind_it(tmp_path):
    path = f"{tmp_path}/x"
    with Traced(make_and_remove, path) as child:
        child.step()
        assert not os.path.exists(path)
        assert child.happen() == 0
        assert os.path.exists(path)
        assert child.result() == "done"
    assert not os.path.exists(path)


@pytest.mark.parametrize("after", [False, True])
def test_what_is_killed_before_a_call_does_not_make_it(tmp_path, after):
    path = f"{tmp_path}/x"
    with Traced(make_and_remove, path) as child:
        child.step()
        if after:
            child.happen()
        assert child.kill() == -signal.SIGKILL
    assert os.path.exists(path) is after


@pytest.mark.parametrize("happened", [False, True])
def test_a_call_that_is_to_fail_says_so(tmp_path, happened):
    path = f"{tmp_path}/x"
    with Traced(make_and_remove, path, check=lambda _, raised: raised.errno) as child:
        child.step()
        child.fail(errno.ENOSPC, happened=happened)
        assert child.result() == errno.ENOSPC
    assert os.path.exists(path) is happened


def test_others_go_on_while_a_child_stands_still(tmp_path):
    path = f"{tmp_path}/x"
    with Traced(make_and_remove, path, check=lambda _, raised: type(raised).__name__) as child:
        child.step()
        os.mkdir(path)
        assert child.result() == "FileExistsError"


# -- ipcio ---------------------------------------------------------------------


def operations():
    from campaign.operations import OPERATIONS

    return OPERATIONS


# Those of the most calls are for the campaign, which does all.
FEW = (
    *("shm: create over an orphan", "shm: create persistent", "shm: attach", "shm: close, the only one"),
    *("shm: unlink", "shm: fork with another holder", "sem: create or attach, held", "sem: close, inherited"),
    *("undo: create", "undo: close, the only one", "undo: inc of what is held", "undo: with", "undo: unlink"),
    *("mutex: with", "mutex: release", "event: set and clear", "event: wait", "queue: put", "queue: get"),
    *("lock: lock", "lock: unlock", "mmap: open", "proc: close"),
)


@pytest.mark.parametrize("operation", FEW)
@pytest.mark.sampled(3)
def test_a_process_killed_before_any_call_leaves_no_other_waiting(operation, unique, tmp_path):
    from campaign.kills import kill_at
    from campaign.operations import warm_up

    path = f"{tmp_path}/file"
    warm_up(operations()[operation], unique(), path)
    for turn, number in enumerate(places()):
        if not kill_at(operations()[operation], unique(), path, number, after=False, gc_first=turn % 2 == 0):
            break
    assert number


@pytest.mark.parametrize("operation", FEW)
@pytest.mark.sampled(3)
def test_a_call_that_fails_is_reported_and_nothing_is_left(operation, unique, tmp_path):
    from campaign.failure import errors_of, fail_at
    from campaign.operations import warm_up

    path = f"{tmp_path}/file"
    warm_up(operations()[operation], unique(), path)
    seen = calls_of(operations()[operation], unique(), path)
    assert seen
    for number in takewhile(lambda at: at < len(seen), places()):
        errors = errors_of(seen[number])
        if errors:
            fail_at(operations()[operation], unique(), path, number, errors[number % len(errors)])


def calls_of(operation, name, path):
    from campaign.operations import Scene, check

    scene = Scene(name, path)
    try:
        scene.held = operation.before(scene)
        with Traced(operation.act, scene, prepare=lambda: operation.ready(scene), check=lambda *_: None) as child:
            child.result()
        scene.look(child.seen)
        check(operation, scene, gc_first=True)
    finally:
        scene.end()
    return child.seen


# -- what the campaign has found -------------------------------------------------


def fault(operation, call_name, number, unique, path, which=0):
    """Have such a call of the operation fail; the first of them, or a later one."""
    from campaign.failure import fail_at
    from campaign.operations import warm_up

    warm_up(operations()[operation], unique(), path)
    seen = calls_of(operations()[operation], unique(), path)
    at = [place for place, call in enumerate(seen) if call.name == call_name][which]
    return fail_at(operations()[operation], unique(), path, at, number)[1]


def test_a_lock_that_a_sandbox_forbids_does_not_make_a_name_in_use_an_orphan(unique, tmp_path):
    assert fault("shm: attach", "flock", errno.EPERM, unique, f"{tmp_path}/file") == "PermissionError"


@pytest.mark.needs("deadlines")
def test_a_timer_that_cannot_be_set_is_no_wait_for_ever(unique, tmp_path):
    said = fault("lock: lock, too late", "timer_settime", errno.EPERM, unique, f"{tmp_path}/file")
    assert said == "TimeoutError"


KINDS = {
    "shm": (lambda name: shm.create(name, 5000), shm.attach, lambda h: (h.size(), h.read()) == (5000, bytes(5000))),
    "sem": (lambda name: sem.create(name, 3), sem.attach, lambda s: s.value == 3),
    "undo": (lambda name: sem.create(name, 3, undo=True), sem.attach, lambda s: s.value == 3),
}
KEPT = []  # in the child, where it ends with the process


@pytest.mark.parametrize("kind", KINDS)
def test_a_look_between_any_two_calls_of_a_create_finds_nothing_or_all_of_it(kind, unique):
    create, attach, is_whole = KINDS[kind]
    create(unique()).close()  # what is done once only
    name = unique()

    def make():
        KEPT.append(create(name))
        os.stat("/")  # it stops once more

    with Traced(make) as child:
        found = []
        while child.step():
            try:
                handle = attach(name)
            except FileNotFoundError:
                found.append(False)
            else:
                assert is_whole(handle)
                handle.close()
                found.append(True)
    assert found[:5] == [False] * 5
    assert found == sorted(found)
    assert found[-1]
    with pytest.raises(FileNotFoundError):  # it was removed with its process
        attach(name)
