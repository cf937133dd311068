"""Mutexes, events and queues: every system call of `create`, `attach`, `unlink` and `close` fails, or is the last one.

As `test_faults.py` does for shared memory, which says more about the plan.
"""

from __future__ import annotations

import gc
import os

import pytest
from campaigns import places
from children import leave_orphan
from leftovers import descriptors
from troubles import TROUBLES, kill_after

from ipcio import event, mutex, queue
from ipcio._names import SEGMENTS

pytest.importorskip("fcntl", reason="system calls can be failed in forked children only")
pytestmark = pytest.mark.needs("files")

KINDS = {
    "mutex": (mutex,),
    "event": (event,),
    "queue": (queue, 100),
}  # each with the arguments of `create` after the name


@pytest.fixture(params=KINDS)
def kind(request):
    return Kind(request.param, *KINDS[request.param])


class Kind:
    """The calls of a module."""

    def __init__(self, name, module, *arguments):
        self.prefix = SEGMENTS[name]
        self.module = module
        self.arguments = arguments
        self.attach = module.attach
        self.unlink = module.unlink

    def create(self, name, **options):
        return self.module.create(name, *self.arguments, **options)

    def lives(self, name):
        try:
            self.attach(name).close()
        except FileNotFoundError:
            return False
        return True

    def there(self, name):
        return os.path.lexists(f"/dev/shm/{self.prefix}{name}")

    def prepare(self, what, name):
        """Bring the name into a state; return the holder that keeps it so, if any."""
        if what == "live":
            return self.create(name)
        if what == "orphan":
            leave_orphan(lambda: self.create(name))
        elif what == "persistent":
            self.create(name, persist=True).close()
        return None


# scenario: what is there before, what is done, and whether the name outlives all handles if nothing goes wrong
OPENING = {
    "create": (None, lambda kind, name: kind.create(name), False),
    "create wide": (None, lambda kind, name: kind.create(name, perm=0o666), False),
    "create persistent": (None, lambda kind, name: kind.create(name, persist=True), True),
    "create over an orphan": ("orphan", lambda kind, name: kind.create(name), False),
    "create or attach": ("live", lambda kind, name: kind.create(name, exist_ok=True), False),
    "attach": ("live", lambda kind, name: kind.attach(name), False),
    "attach persistent": ("persistent", lambda kind, name: kind.attach(name), True),
    "attach orphan": ("orphan", lambda kind, name: kind.attach(name), False),
    "unlink": ("live", lambda kind, name: kind.unlink(name), False),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("scenario", OPENING)
@pytest.mark.parametrize("way", ["O_TMPFILE"], indirect=True)
@pytest.mark.usefixtures("way")
def test_a_call_that_fails_or_is_interrupted_leaves_nothing(left, plan, kind, scenario, trouble):
    name = left.tag
    state, act, stays = OPENING[scenario]
    for at in places():
        gc.collect()
        before = descriptors()
        holder = kind.prepare(state, name)
        outcome = error = None
        try:
            with plan.trouble_at(at, TROUBLES[trouble]):
                outcome = act(kind, name)
        except (OSError, KeyboardInterrupt) as caught:
            error = caught.with_traceback(None)
        told = f"{trouble} at call {at} of {plan.calls}: {error!r}"
        if isinstance(error, OSError):
            assert error.errno is not None, told
            assert error.filename == name, told
        elif isinstance(error, KeyboardInterrupt):
            assert "interrupt" in trouble, told
        if error and state is None:
            assert not kind.there(name), told
        if state in {"live", "persistent"} and "unlink" not in scenario:
            assert kind.lives(name), told
        for handle in (outcome, holder):
            if handle is not None:
                handle.close()
        outcome = holder = handle = None
        gc.collect()
        assert descriptors() == before, told
        if plan.hit == "unlink":  # the system refused it
            left.clear_unnamed()
        assert not left.unnamed(), told
        if state == "persistent" or stays:
            if kind.there(name):
                kind.unlink(name)
        else:
            assert not kind.lives(name), told
        again = kind.create(name)
        assert again.created, told
        again.close()
        if not plan.reached:
            break
    assert at, "no call was seen"


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("others", [0, 1])
def test_a_close_that_fails_or_is_interrupted_has_closed(left, plan, kind, others, trouble):
    name = left.tag
    for at in places():
        gc.collect()
        before = descriptors()
        handle = kind.create(name)
        rest = [kind.attach(name) for _ in range(others)]
        error = None
        try:
            with plan.trouble_at(at, TROUBLES[trouble]):
                handle.close()
        except (OSError, KeyboardInterrupt) as caught:
            error = caught.with_traceback(None)
        told = f"{trouble} at call {at} of {plan.calls}: {error!r}"
        assert handle.closed, told
        handle.close()
        assert kind.lives(name) == bool(rest), told
        for other in rest:
            other.close()
        handle = rest = other = None
        gc.collect()
        assert descriptors() == before, told
        assert not kind.lives(name), told
        if not plan.reached:
            break
    assert at, "no call was seen"


@pytest.mark.parametrize("scenario", ["create", "create over an orphan", "attach", "attach persistent"])
def test_a_call_that_is_killed_leaves_what_the_next_call_removes(left, plan, kind, scenario):
    name = left.tag
    state, act, _ = OPENING[scenario]
    for at in places():
        holder = kind.prepare(state, name)
        reached = plan.killed(lambda: act(kind, name), at, kill_after)
        if state in {"live", "persistent"}:
            assert kind.lives(name)
        if holder is not None:
            holder.close()
        if state == "persistent":
            kind.unlink(name)
        assert not kind.lives(name), f"killed after call {at}"
        again = kind.create(name)
        assert again.created
        again.close()
        left.clear_unnamed()
        if not reached:
            break
    assert at, "no call was seen"
