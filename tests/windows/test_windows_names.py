"""Events, mutexes and queues where the kernel of Windows has their locks and wakes the threads that wait."""

from __future__ import annotations

import ctypes
import errno
import signal
import threading
import time
from contextlib import closing

import pytest
from abilities import lacks
from leftovers import descriptors

from ipcio import Event, event, shm

# Left out elsewhere, not skipped: there is nothing to be installed that would run them.
pytestmark = pytest.mark.able(probe=lambda: not lacks("sections"))

if not lacks("sections"):
    from ipcio._windows import win32

KINDS = {"event": event}
LONGEST = 246  # characters of a name

every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind, name, **options):
    return KINDS[kind].create(name, *([1000] if kind == "queue" else []), **options)


class Foreign:
    """Objects of other programs, closed at the end."""

    def __init__(self) -> None:
        self.handles = []

    def make(self, function, *arguments):
        handle = function(None, *arguments)
        assert handle, ctypes.get_last_error()
        self.handles.append(handle)
        return handle


@pytest.fixture
def foreign():
    others = Foreign()
    yield others
    for handle in others.handles:
        win32.CloseHandle(handle)


def meanwhile(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread


# -- names ---------------------------------------------------------------------


@every_kind
def test_all_kinds_have_names_of_their_own(name, kind):
    with closing(make(kind, name)), closing(shm.create(name, 10)):
        for other in KINDS:
            if other != kind:
                with closing(make(other, name)) as h:
                    assert h.created
        with pytest.raises(FileExistsError):
            make(kind, name)


@every_kind
def test_a_long_name_works_and_the_error_of_a_longer_one_says_the_limit(unique, kind):
    name = unique().ljust(LONGEST, "x")
    with closing(make(kind, name)) as h, closing(KINDS[kind].attach(name)) as other:
        use(h, other)
    for call in (lambda: make(kind, name + "x"), lambda: KINDS[kind].attach(name + "x")):
        with pytest.raises(OSError, match=str(LONGEST)) as caught:
            call()
        assert caught.value.errno == errno.ENAMETOOLONG
        assert caught.value.filename == name + "x"


def use(h, other) -> None:
    """What needs every object of the kernel that belongs to the handles."""
    if isinstance(h, Event):
        h.set()
        assert other.wait(0)
        other.clear()
        assert not h.wait(0.001)


@every_kind
def test_the_error_of_an_object_in_the_way_has_the_name_that_the_caller_knows(name, kind, foreign):
    for path in f"ipcio.{kind}.{name}", f"ipcio.{kind}.{name}\x01":
        foreign.make(win32.CreateEvent, True, False, path)
        with pytest.raises(OSError) as caught:
            make(kind, name)
        assert caught.value.filename == name
        win32.CloseHandle(foreign.handles.pop())
    foreign.make(win32.CreateSemaphore, 1, 1, f"{name}/{kind} lock")
    with pytest.raises(OSError, match="another kind") as caught:
        make(kind, name)
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, name)


@every_kind
def test_a_segment_of_another_program_is_refused(name, kind):
    with shm.create(f"ipcio.{kind}.{name}", 5000):
        with pytest.raises(OSError, match=f"not an? {kind}") as caught:
            KINDS[kind].attach(name)
        assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, name)


@every_kind
def test_nothing_persists_and_no_name_in_use_is_removed(name, kind):
    with pytest.raises(NotImplementedError, match="persist"):
        make(kind, name, persist=True)
    with pytest.raises(NotImplementedError):
        make(kind, name, owner=0)
    with pytest.raises(FileNotFoundError):
        KINDS[kind].unlink(name)
    with closing(make(kind, name)):
        with pytest.raises(NotImplementedError, match=name):
            KINDS[kind].unlink(name)


@every_kind
def test_handles_leave_nothing_behind(name, kind):
    before = descriptors()
    for _ in range(3):
        with closing(make(kind, name)) as h, closing(KINDS[kind].attach(name)) as other:
            use(h, other)
    assert descriptors() == before


# -- waiting ---------------------------------------------------------------------


def test_an_event_wakes_a_process_at_once(name, peer):
    with closing(event.create(name)) as e, closing(event.create(f"{name}-2")) as waits:
        other = peer(f"from ipcio import event; e = event.attach({name!r}); w = event.attach({name + '-2'!r})")
        other.send("ask", "(w.set(), time.process_time(), e.wait(30), time.process_time(), time.time())")
        assert waits.wait(30)
        time.sleep(0.5)
        at = time.time()
        e.set()
        _, before, woken, after, woke = other.answer()
        assert woken
        assert after - before < 0.1
        assert woke - at < 0.09  # less than the time between two looks


def test_a_process_killed_before_it_could_wake_others_leaves_none_asleep(name, peer):
    with closing(event.create(name)) as e:
        other = peer(f"from ipcio import event; from ipcio._event import STATE; e = event.attach({name!r})")
        thread = meanwhile(lambda: (time.sleep(0.05), other.run("e._words.store(STATE, 3)"), other.kill()))
        assert e.wait(30)
        thread.join()
        assert e.is_set()


def test_a_process_killed_within_a_change_keeps_no_other_one_from_going_on(name, peer):
    with closing(event.create(name)) as e:
        other = peer(f"from ipcio import event; from ipcio._windows import objects; e = event.attach({name!r})")
        assert other.ask("objects.wait_for(e._words._mutex, 0)") == 0
        other.kill()
        e.set()
        assert e.is_set()
        e.clear()
        assert not e.is_set()


def test_a_set_that_a_clear_follows_wakes_all(name):
    with closing(event.create(name)) as e:
        woken = []
        for turn in range(1, 21):
            threads = [meanwhile(lambda: woken.append(e.wait(30))) for _ in range(4)]
            time.sleep(0.01)
            e.set()
            e.clear()
            for thread in threads:
                thread.join()
            assert woken == [True] * 4 * turn


@pytest.mark.parametrize("wait", [lambda e: e.wait(), lambda e: e.wait(30)], ids=["no timeout", "timeout"])
def test_ctrl_c_ends_a_wait_at_once(name, wait):
    with closing(event.create(name)) as e:
        began = []
        thread = meanwhile(lambda: (time.sleep(0.15), began.append(time.perf_counter()), signal.raise_signal(2)))
        with pytest.raises(KeyboardInterrupt):
            wait(e)
        assert time.perf_counter() - began[0] < 0.2
        thread.join()
