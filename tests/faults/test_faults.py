"""Every system call fails in turn, is interrupted in turn, is the last one before a SIGKILL in turn.

Modules of the package see stand-ins for `os`, `fcntl` and `mmap` that count
their calls; see `troubles.Plan`.  A scenario is run again and again, with trouble at its
first call, at its second, and so on until a run has fewer calls than that.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from contextlib import closing

import pytest
from campaigns import places
from children import leave_orphan
from leftovers import descriptors
from troubles import TROUBLES, kill_after, kill_before

from ipcio import mmap, shm

pytest.importorskip("fcntl", reason="system calls can be failed in forked children only")
pytestmark = pytest.mark.needs("files")  # for the others, see test_companions


def there(name):
    return os.path.lexists(f"/dev/shm/{name}")


def lives(name):
    try:
        shm.attach(name).close()
    except FileNotFoundError:
        return False
    return True


def make_foreign(name):
    with open(f"/dev/shm/{name}", "xb") as file:
        file.write(bytes(100))


def make_persistent(name):
    shm.create(name, 100, persist=True).close()


def fill(h):
    h.write(bytes(5))


def write(name, mode):
    with shm.open(name, mode) as f:
        f.write(bytes(100))


# scenario: what is there before, what is done, and whether the name outlives all handles if nothing goes wrong
OPENING = {
    "create": (None, lambda name: shm.create(name, 100), False),
    "create sparse": (None, lambda name: shm.create(name, 100, reserve=False), False),
    "create persistent": (None, lambda name: shm.create(name, 100, persist=True), True),
    "create filled": (None, lambda name: shm.create(name, 100, init=fill), False),
    "create filled persistent": (None, lambda name: shm.create(name, 100, persist=True, init=fill), True),
    "create by writing": (None, lambda name: write(name, "xb"), True),
    "create by replacing": ("persistent", lambda name: write(name, "wb"), True),
    "create over an orphan": ("orphan", lambda name: shm.create(name, 100), False),
    "create refused": ("live", lambda name: shm.create(name, 100), False),
    "create or attach": ("live", lambda name: shm.create(name, 100, exist_ok=True), False),
    "create or attach, too small": ("live", lambda name: shm.create(name, 101, exist_ok=True), False),
    "attach": ("live", shm.attach, False),
    "attach read-only": ("live", lambda name: shm.attach(name, "r"), False),
    "attach persistent": ("persistent", shm.attach, True),
    "attach foreign": ("foreign", shm.attach, True),
    "attach orphan": ("orphan", shm.attach, False),
    "attach absent": (None, shm.attach, False),
    "unlink": ("live", shm.unlink, False),
    "unlink orphan": ("orphan", shm.unlink, False),
    "unlink foreign": ("foreign", shm.unlink, False),
}


def prepare(what, name):
    """Bring the name into a state; return the holder that keeps it so, if any."""
    if what == "live":
        return shm.create(name, 100)
    if what == "orphan":
        leave_orphan(lambda: shm.create(name, 100))
    elif what == "persistent":
        make_persistent(name)
    elif what == "foreign":
        make_foreign(name)
    return None


def scenarios(of):
    """Every scenario, and those that make an object in both ways."""
    both = [(scenario, "O_TMPFILE") for scenario in of]
    both += [(scenario, "temporary name") for scenario in of if "create" in scenario]
    return pytest.mark.parametrize(("scenario", "way"), both, indirect=["way"])


@pytest.mark.sampled(4)
@pytest.mark.parametrize("trouble", TROUBLES)
@scenarios(OPENING)
@pytest.mark.usefixtures("way")
def test_a_call_that_fails_or_is_interrupted_leaves_nothing(left, plan, scenario, trouble):
    """Not a name, not a descriptor, not a lock; and the error has the errno and the name."""
    name = left.tag
    state, act, stays = OPENING[scenario]
    for at in places():
        gc.collect()
        before = descriptors()
        holder = prepare(state, name)
        outcome = error = None
        try:
            with plan.trouble_at(at, TROUBLES[trouble]):
                outcome = act(name)
        except (OSError, ValueError, KeyboardInterrupt) as caught:
            error = caught.with_traceback(None)
        told = f"{trouble} at call {at} of {plan.calls}: {error!r}"
        if isinstance(error, OSError):
            assert error.errno is not None, told
            assert error.filename == name or "too small" in scenario, told  # it is closing then
        elif isinstance(error, ValueError):
            assert "too small" in scenario, told
        elif isinstance(error, KeyboardInterrupt):
            assert "interrupt" in trouble, told
        if error and state is None:
            assert not there(name), told
        if state in {"live", "persistent", "foreign"} and "unlink" not in scenario:
            assert lives(name), told
        if outcome is not None:
            assert outcome.read() == bytes(100), told
            outcome.close()
        if holder is not None:
            holder.close()
        outcome = holder = None
        gc.collect()
        assert descriptors() == before, told
        if plan.hit == "unlink":  # the system refused it
            left.clear_unnamed()
        assert not left.unnamed(), told
        if state in {"persistent", "foreign"} or stays:
            if there(name):
                shm.unlink(name)
        else:
            assert not lives(name), told
        with shm.create(name, 50) as again:
            assert again.created, told
            assert again.read() == bytes(50), told
        if not plan.reached:
            break
    assert at, "no call was seen"


CLOSING = {
    "the last": (0, lambda h: h.close()),
    "one of two": (1, lambda h: h.close()),
    "one with a shared descriptor": (0, lambda h: (h.fileno(), h.close())),
    "one with a view": (0, lambda h: keep(h.getbuffer(), h.close)),
}


def keep(view, close):
    try:
        close()
    finally:
        view.release()


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("scenario", CLOSING)
def test_a_close_that_fails_or_is_interrupted_has_closed(name, plan, scenario, trouble):
    """The handle is closed, its descriptors are gone, it holds the name no more, and others still do."""
    others, act = CLOSING[scenario]
    for at in places():
        gc.collect()
        before = descriptors()
        h = shm.create(name, 100)
        rest = [shm.attach(name) for _ in range(others)]
        error = None
        try:
            with plan.trouble_at(at, TROUBLES[trouble]):
                act(h)
        except (OSError, KeyboardInterrupt) as caught:
            error = caught.with_traceback(None)
        told = f"{trouble} at call {at} of {plan.calls}: {error!r}"
        if isinstance(error, OSError):
            assert error.errno is not None, told
        if not h.closed:  # the trouble came before
            assert "shared descriptor" in scenario, told
        h.close()
        assert h.closed, told
        assert lives(name) == bool(rest), told
        for other in rest:
            other.close()
        h = rest = other = None
        gc.collect()
        assert descriptors() == before, told
        assert not lives(name), told
        with shm.create(name, 50) as again:
            assert again.created, told
        if not plan.reached:
            break
    assert at, "no call was seen"


def _open_file(path):
    with open(path, "rb") as file:
        return mmap.open(file)


MAPPING = {
    "a path": mmap.open,
    "a path for writing": lambda path: mmap.open(path, "rw"),
    "a part": lambda path: mmap.open(path, "r", mmap.pagesize, 10),
    "a file": _open_file,
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("scenario", MAPPING)
def test_a_mapping_that_fails_or_is_interrupted_leaves_nothing(tmp_path, plan, scenario, trouble):
    path = str(tmp_path / "file")
    with open(path, "wb") as file:
        file.write(bytes(mmap.pagesize + 100))
    for at in places():
        gc.collect()
        before = descriptors()
        h = error = None
        try:
            with plan.trouble_at(at, TROUBLES[trouble]):
                h = MAPPING[scenario](path)
        except (OSError, KeyboardInterrupt) as caught:
            error = caught.with_traceback(None)
        told = f"{trouble} at call {at} of {plan.calls}: {error!r}"
        if isinstance(error, OSError):
            assert error.errno is not None, told
            if plan.hit not in {"fcntl", "fstat"}:  # of a descriptor
                assert error.filename == path or scenario == "a file", told
        if h is not None:
            h.close()
        h = None
        gc.collect()
        assert descriptors() == before, told
        if not plan.reached:
            break
    assert at, "no call was seen"


# -- killed in the middle ----------------------------------------------------


# A kill before a call is a kill after the one before it, but for calls between that are not watched: once is enough.
@pytest.mark.parametrize(
    ("trouble", "then"),
    [*((kill_after, then) for then in ("attach", "create", "exist_ok", "unlink")), (kill_before, "create")],
)
@pytest.mark.parametrize("scenario", ["create", "create sparse", "create over an orphan"])
@pytest.mark.sampled(3)
def test_a_create_that_is_killed_was_never(left, plan, way, scenario, trouble, then):
    """Wherever the kill hits, the next call of whatever kind finds a free name and no trace of it."""
    name = left.tag
    state, act, _ = OPENING[scenario]
    for at in places():
        prepare(state, name)
        killed = plan.killed(lambda: act(name), at, trouble)
        if then in {"attach", "unlink"}:
            with pytest.raises(FileNotFoundError):
                getattr(shm, then)(name)
            assert not there(name)
        with shm.create(name, 200, exist_ok=then == "exist_ok") as h:
            assert h.created
            assert h.read() == bytes(200)
        if way == "O_TMPFILE":
            assert not left.unnamed()
        left.clear_unnamed()  # what `ipcio gc` is for
        if not killed:
            break
    assert at


@pytest.mark.parametrize("trouble", [kill_before, kill_after])
@pytest.mark.parametrize("scenario", ["attach", "attach read-only", "create refused", "create or attach", "close"])
def test_an_attached_process_that_is_killed_does_not_disturb(name, plan, scenario, trouble):
    """Killed in the middle of an attach or a close, it neither keeps the name nor takes it along."""
    act = OPENING[scenario][1] if scenario != "close" else lambda name: shm.attach(name).close()
    for at in places():
        with shm.create(name, 100) as h:

            def attached():
                try:
                    return act(name)
                except FileExistsError:
                    return None

            killed = plan.killed(attached, at, trouble)
            h.write(b"here")
            with shm.attach(name) as other:
                assert other.read(4) == b"here"
            with pytest.raises(FileExistsError):
                shm.create(name, 100)
        assert not there(name)
        if not killed:
            break
    assert at


@pytest.mark.parametrize("trouble", [kill_before, kill_after])
def test_an_unlink_that_is_killed_is_done_or_not(name, plan, trouble):
    for at in places():
        with shm.create(name, 100) as h:
            killed = plan.killed(lambda: shm.unlink(name), at, trouble)
            if there(name):
                with shm.attach(name) as other:
                    h.write(b"here")
                    assert other.read(4) == b"here"
            else:
                with shm.create(name, 100) as new:
                    assert new.created
        assert not there(name)
        if not killed:
            break
    assert at


def test_ctrl_c_during_a_large_reservation_leaves_nothing(name):
    """The call is long enough to be hit: the memory is given back, no name is made."""

    def interrupted():
        raise KeyboardInterrupt

    opened = descriptors()
    before = signal.signal(signal.SIGALRM, lambda *_: interrupted())
    timer = signal.setitimer(signal.ITIMER_REAL, 0)  # the watchdog's
    try:
        for microseconds in range(200, 4000, 400):
            try:
                signal.setitimer(signal.ITIMER_REAL, microseconds / 1e6)
                with closing(shm.create(name, 16 << 20)):
                    time.sleep(0.01)  # longer than the timer; pause() could miss the signal
            except KeyboardInterrupt:
                pass
            gc.collect()
            assert not lives(name)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)
        # A signal in the very call that opens a file loses its descriptor, with any
        # Python program: the handler runs before the number can be stored.
        for fd in descriptors().keys() - opened.keys():
            assert os.fstat(int(fd)).st_size == 0
            os.close(int(fd))
