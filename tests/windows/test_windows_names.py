"""Events, mutexes and queues where the kernel of Windows has their locks and wakes the threads that wait."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import signal
import sys
import threading
import time
from contextlib import closing

import pytest
from abilities import lacks
from leftovers import descriptors
from waiting import at_best_within, until_threads_wait

from ipcio import Event, Mutex, event, mutex, queue, shm

# Left out elsewhere, not skipped: there is nothing to be installed that would run them.
pytestmark = pytest.mark.able(probe=lambda: not lacks("sections"))

if not lacks("sections"):
    from ipcio._windows import win32

KINDS = {"event": event, "mutex": mutex, "queue": queue}
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
    elif isinstance(h, Mutex):
        with h:
            assert other.locked()
            other.notify_all()
            assert not h.wait(0.001)
    else:
        h.put(b"message")
        assert other.get() == b"message"
        with pytest.raises(queue.Empty):
            h.get(timeout=0.001)


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


@every_kind
def test_an_interrupt_loses_no_handle(name, kind, monkeypatch):
    """Between any two steps of create, attach and close; what the call had is closed by the next call or as garbage."""
    from troubles import interrupted_after

    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # pytest's own keeps the frames

    def open_and_close():
        with closing(make(kind, name)), closing(KINDS[kind].attach(name)):
            pass

    open_and_close()
    before = descriptors()
    count = calm = 0
    while calm < 10:  # Python ignores one that comes as a destructor begins
        inside = interrupted_after(count, open_and_close, lambda module: module.startswith("ipcio"))
        calm = 0 if inside else calm + 1
        count += 1
        gc.collect()
        open_and_close()
        assert descriptors() == before, count
        with pytest.raises(FileNotFoundError):
            KINDS[kind].attach(name)
    assert count > 50


@every_kind
def test_an_interrupt_of_a_call_keeps_no_other_thread_out(name, kind):
    from troubles import interrupted_after

    with closing(make(kind, name)) as h:
        count, inside = 0, True
        while inside:
            inside = interrupted_after(count, lambda: use(h, h), lambda module: module.startswith("ipcio"))
            if kind == "mutex" and h._lock.is_mine():  # the interrupt came before the release
                h.release()
            while kind == "queue" and not h.empty():  # or after the message was put
                h.get()
            used = []
            thread = meanwhile(lambda used=used: (use(h, h), used.append(True)))
            thread.join(30)
            assert used, count
            count += 1
        assert count > 20


# -- waiting ---------------------------------------------------------------------


def test_an_event_wakes_a_process_at_once(name, peer):
    with closing(event.create(name)) as e, closing(event.create(f"{name}-2")) as waits:
        other = peer(f"from ipcio import event; e = event.attach({name!r}); w = event.attach({name + '-2'!r})")

        def attempt():
            e.clear()
            waits.clear()
            other.send("ask", "(w.set(), time.process_time(), e.wait(30), time.process_time(), time.time())")
            assert waits.wait(30)
            time.sleep(0.5)
            at = time.time()
            e.set()
            _, before, woken, after, woke = other.answer()
            assert woken
            assert after - before < 0.1
            return woke - at

        at_best_within(0.09, attempt)  # less than the time between two looks


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
        assert other.ask("objects.wait_for(e._words._mutex.handle, 0)") == 0
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
            until_threads_wait(threads)
            e.set()
            e.clear()
            for thread in threads:
                thread.join()
            assert woken == [True] * 4 * turn


def test_a_process_that_notifies_wakes_all_and_may_be_killed_before(name, peer):
    with closing(mutex.create(name)) as m:
        other = peer(f"from ipcio import mutex; from ipcio._mutex import _NOTIFIED; m = mutex.attach({name!r})")
        for killed in (False, True):
            woken = []

            def sleep(woken=woken):
                with m:
                    woken.append(m.wait(30))

            threads = [meanwhile(sleep) for _ in range(3)]
            until_threads_wait(threads)
            if killed:  # between the change of the word and the wake-up
                other.run("m.acquire(); m._words.store(_NOTIFIED, m._words.load(_NOTIFIED) + 1)")
                other.kill()
            else:
                other.run("with m: m.notify_all()")
            for thread in threads:
                thread.join()
            assert woken == [True] * 3


def test_an_owner_that_is_killed_leaves_the_mutex_to_the_next_one_which_learns_of_it(name, peer):
    with closing(mutex.create(name)) as m:
        other = peer(f"from ipcio import mutex; m = mutex.attach({name!r}); m.acquire()")
        assert (m.locked(), m.owner) == (True, other.pid)
        assert not m.acquire(timeout=0.01)
        other.kill()
        assert (m.locked(), m.owner) == (False, None)
        assert not m.abandoned
        with m:
            assert m.abandoned
            assert m.owner == os.getpid()
        with m:
            assert not m.abandoned


@pytest.mark.parametrize("at", ["before a get", "in a get", "in a put"])
def test_a_queue_goes_on_when_a_process_is_killed(name, peer, at):
    with closing(queue.create(name, 100)) as q:
        other = peer(f"from ipcio import queue; q = queue.attach({name!r})")
        if at == "before a get":
            other.run("q._readers.acquire(None)")
        else:
            if at == "in a put":
                q.put(bytes(70))
            other.send("run", "q.get()" if at == "in a get" else "q.put(bytes(70))")
            time.sleep(0.1)
        other.kill()
        if at == "in a put":
            assert q.get(timeout=30) == bytes(70)
        q.put(b"one")
        assert q.get(timeout=30) == b"one"
        assert q.empty()


WAITS = {
    "an event": (event, lambda e: e.wait()),
    "an event, timeout": (event, lambda e: e.wait(30)),
    "a mutex, notified": (mutex, lambda m: m.acquire() and m.wait()),
    "a queue, empty": (queue, lambda q: q.get()),
    "a queue, full": (queue, lambda q: (q.put(bytes(900)), q.put(bytes(900)))),
}


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_ends_a_wait_at_once(name, wait):
    module, function = WAITS[wait]

    def attempt():
        with closing(make(module.__name__.removeprefix("ipcio."), name)) as h:
            began = []
            thread = meanwhile(lambda: (time.sleep(0.15), began.append(time.perf_counter()), signal.raise_signal(2)))
            with pytest.raises(KeyboardInterrupt):
                function(h)
            took = time.perf_counter() - began[0]
            thread.join()
            if module is mutex:
                h.release()
            return took

    at_best_within(0.2, attempt)
