"""What an event promises threads and processes: which of them wake up, what a wait costs, what a kill leaves."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time

import loops
import pytest
from abilities import lacks
from campaigns import rounds
from children import Forked, leave_orphan
from loops import Ticking
from named_contract import FILES, NOBODY, SOMEBODY
from waiting import blocked, until_it_waits, until_threads_wait

import ipcio
from ipcio import Event, event

DEADLINE = 30  # seconds until what has not happened is a failure
CLOSED = "^I/O operation on closed file"
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
ON_POSIX = not lacks("posix")


@pytest.fixture(params=["", pytest.param("polled", marks=pytest.mark.needs("posix"))])
def way(request, monkeypatch):
    """How processes wait: as this system can, and by looking again and again."""
    if request.param:
        monkeypatch.setattr("ipcio._posix.words._futex", lambda: None)


@pytest.fixture(params=[0o600, pytest.param(0o666, marks=pytest.mark.needs("posix"))], ids=["narrow", "wide"])
def e(request, name, way):  # noqa: ARG001
    with contextlib.closing(event.create(name, perm=request.param)) as made:
        yield made


@contextlib.contextmanager
def thread(function, *arguments):
    """A function that runs in another thread; its result goes into the list."""
    results = []
    running = threading.Thread(target=lambda: results.append(function(*arguments)), daemon=True)
    running.start()
    try:
        yield results
    finally:
        running.join(DEADLINE)
        assert not running.is_alive()


# -- one process ---------------------------------------------------------------


def test_it_is_set_until_it_is_cleared(e):
    assert not e.is_set()
    for _ in range(3):
        e.set()
        e.set()
        assert e.is_set()
        assert e.wait() is True
        assert e.wait(0) is True
        e.clear()
        e.clear()
        assert not e.is_set()
        assert e.wait(0) is False
        assert e.wait(0.001) is False


def test_a_new_event_is_set_if_that_is_asked_for_and_an_existing_one_stays_as_it_is(name):
    with contextlib.closing(event.create(name, is_set=True)) as e:
        assert e.is_set()
        e.clear()
        with contextlib.closing(event.create(name, is_set=True, exist_ok=True)) as again:
            assert not again.created
            assert not again.is_set()


@pytest.mark.parametrize("forever", [None, -1, -0.001, math.inf, 1e300, 10**400])
def test_a_wait_without_an_end_ends_with_the_set(e, forever):
    with thread(e.wait, forever) as results:
        time.sleep(0.02)
        assert not results
        e.set()
    assert results == [True]


@pytest.mark.parametrize("bad", ["1", [], object(), 1j])
def test_a_timeout_that_is_no_number_is_a_type_error(e, bad):
    with pytest.raises(TypeError):
        e.wait(bad)
    with pytest.raises(ValueError, match="NaN"):
        e.wait(math.nan)


def test_set_wakes_all_threads_even_if_clear_follows_at_once(e):
    with contextlib.ExitStack() as stack:
        others = set(threading.enumerate())
        waiting = [stack.enter_context(thread(e.wait, DEADLINE)) for _ in range(5)]
        until_threads_wait(set(threading.enumerate()) - others)
        e.set()
        e.clear()
    assert waiting == [[True]] * 5
    assert not e.is_set()


def test_a_set_and_a_clear_between_two_slices_of_a_wait_are_noticed(e):
    """A thread that waits is not in the kernel all the time, and must not miss what happens when it is not."""
    words = e._words
    loads = []

    class Late:
        def __getattr__(self, name):
            return getattr(words, name)

        def load(self, at):
            loads.append(words.load(at))
            if len(loads) == 1:  # the event was clear; now all happens before the thread sleeps
                other.set()
                other.clear()
            return loads[-1]

    with contextlib.closing(event.attach(e.name)) as other:
        e._words = Late()
        try:
            assert e.wait(DEADLINE) is True
        finally:
            e._words = words
    assert not e.is_set()


def test_two_thousand_sets_in_a_row_never_look_like_none(e):
    """The number that each set changes returns after 1024, but not to what it was at the set before."""
    seen = set()
    for _ in range(2000):
        before = e._words.load(192)
        e.set()
        e.clear()
        after = e._words.load(192)
        assert after != before
        seen.add(after)
    assert len(seen) == 1024


# -- several processes -----------------------------------------------------------


def test_every_process_that_waits_is_woken(name, peer):
    with contextlib.closing(event.create(name)) as e:
        peers = [peer(f"e = event.attach({name!r})") for _ in range(3)]
        for clears in (True, False):
            for other in peers:
                other.send("ask", f"e.wait({DEADLINE})")
                until_it_waits(other.pid)
            e.set()
            if clears:
                e.clear()
            assert [other.answer() for other in peers] == [True] * 3
        assert peers[0].ask("e.is_set(), e.wait(0)") == (True, True)
        peers[0].run("e.clear()")
        assert not e.is_set()
        for other in peers:
            other.run("e.close()")


def test_no_wake_up_is_lost_in_two_hundred_turns(unique, peer):
    ping, pong = unique(), unique()
    with contextlib.closing(event.create(ping)) as to, contextlib.closing(event.create(pong)) as back:
        other = peer(f"to, back = event.attach({ping!r}), event.attach({pong!r})")
        other.send(
            "ask",
            f"[(to.wait({DEADLINE}), to.clear(), back.set())[0] for _ in range(200)].count(True), to.close(), "
            "back.close()",
        )
        for _ in range(200):
            to.set()
            assert back.wait(DEADLINE)
            back.clear()
        assert other.answer() == (200, None, None)


@pytest.mark.needs("fork")
def test_a_handle_works_on_both_sides_of_a_fork(e):
    with blocked(e.wait, DEADLINE) as child:
        e.set()
        assert child.result() is True
    e.clear()
    with Forked(e.set):
        assert e.wait(DEADLINE)


@pytest.mark.needs("fork")
def test_killed_processes_leave_nothing_to_repair(e):
    """Neither those that wait, nor those that set and clear: the next process finds a working event."""

    def change():
        while True:
            e.set()
            e.clear()

    def watch():
        while True:
            e.wait(DEADLINE)

    chance = random.Random(7)
    for _ in range(rounds(15)):
        with Forked(change), Forked(change), Forked(watch), Forked(e.wait, DEADLINE) as waiting:
            assert waiting.result() is True, "a waiting process was not woken"
            time.sleep(chance.random() / 50)
        e.clear()
        assert not e.is_set()
        with blocked(e.wait, DEADLINE) as waiting:
            e.set()
            assert waiting.result() is True
        e.clear()


@pytest.mark.needs("fork", "proc")
def test_a_wait_costs_no_processor_time(name):
    with contextlib.closing(event.create(name)) as e:

        def cost():
            before = time.process_time()
            e.wait(0.6)
            return time.process_time() - before

        assert Forked(cost).result() < 0.03


# -- interrupts --------------------------------------------------------------------


@pytest.mark.needs("signals")
def test_a_handler_that_raises_ends_the_wait(e):
    class InterruptError(Exception):
        pass

    def interrupt(*_):
        raise InterruptError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for seconds in 0.05, 0.2:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            with pytest.raises(InterruptError):
                e.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not e.is_set()


@pytest.mark.needs("signals")
def test_a_handler_may_set_what_the_interrupted_code_waits_for(e):
    before = signal.signal(signal.SIGALRM, lambda *_: e.set())
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        assert e.wait(DEADLINE)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.needs("signals")
def test_a_signal_right_before_the_kernel_waits_ends_the_wait_too(name):
    """Python has noted it and runs no handler before the call returns: so no call may wait without an end."""
    words = pytest.importorskip("ipcio._posix.words", exc_type=ImportError)
    if words._futex() is None:
        pytest.skip("no call of the kernel waits here")
    longest = []
    with contextlib.closing(event.create(name)) as e:
        futex = e._words._futex

        def watch(*arguments):
            limit = words._Timespec.from_address(arguments[3].value)
            longest.append(limit.seconds + limit.nanoseconds / 1e9)
            return futex(*arguments)

        e._words._futex = watch
        assert e.wait(0.4) is False
    assert len(longest) >= 2
    assert max(longest) <= 0.2


# -- the handle --------------------------------------------------------------------


def test_after_close_every_method_raises_value_error(e):
    for _ in range(2):
        e.close()
        assert e.closed
        for call in (e.set, e.clear, e.is_set, e.wait, lambda: pickle.dumps(e)):
            with pytest.raises(ValueError, match=CLOSED):
                call()
        assert e.name in repr(e)
        assert "closed" in repr(e)


def test_repr_says_the_state(e):
    assert repr(e) == f"<ipcio.Event name={e.name!r} clear>"
    e.set()
    assert repr(e) == f"<ipcio.Event name={e.name!r} set>"


def test_functions_make_handles():
    with pytest.raises(TypeError, match=r"event\.create"):
        Event("x")


@pytest.mark.usefixtures("way")
def test_a_thread_that_waits_goes_on_when_the_handle_is_closed(name):
    with contextlib.closing(event.create(name)) as e, contextlib.closing(event.attach(name)) as other:
        with thread(other.wait, DEADLINE) as results:
            time.sleep(0.3)
            other.close()
            assert not results
            e.set()
        assert results == [True]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickled_handle_is_attached_again(e, protocol):
    data = pickle.dumps(e, protocol)
    with contextlib.closing(pickle.loads(data)) as copy:
        assert (copy.name, copy.created) == (e.name, False)
        copy.set()
        assert e.is_set()
    e.close()
    with pytest.raises(FileNotFoundError):
        pickle.loads(data)


@pytest.mark.needs("posix")
@pytest.mark.parametrize("persist", [False, True])
def test_a_create_that_fails_at_the_end_leaves_nothing(name, monkeypatch, persist):
    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Event, "_set_up", fail)
        with pytest.raises(KeyboardInterrupt):
            event.create(name, persist=persist)
    with pytest.raises(FileNotFoundError):
        event.attach(name)


@pytest.mark.root
@pytest.mark.needs("users")
@pytest.mark.parametrize("perm", [0o600, 0o666])
def test_a_process_that_gives_up_its_rights_goes_on(name, peer, perm):
    other = peer(f"import asyncio; e = event.create({name!r}, perm={perm})")
    other.run(f"os.setgroups([]); os.setresgid(*3 * ({NOBODY},)); os.setresuid(*3 * ({NOBODY},))")
    assert other.ask("e.is_set(), e.wait(0.01), e.set(), e.wait(), asyncio.run(e.wait_async()), e.clear()") == (
        False,
        False,
        None,
        True,
        True,
        None,
    )
    other.run("e.close()")
    with contextlib.suppress(FileNotFoundError):
        event.attach(name)


# -- what others do to it --------------------------------------------------------------


def damaged(name, change):
    """An event of which the file was changed; return what attaching raises."""
    from ipcio._posix.namespace import segment_path

    event.create(name, persist=True).close()
    try:
        with open(segment_path(name, "event"), "r+b") as file:
            change(file)
        with pytest.raises(OSError) as caught:
            event.attach(name)
    finally:
        event.unlink(name)
    assert caught.value.filename == name
    return caught.value


def write(data, at=0):
    def change(file):
        file.seek(at)
        file.write(data)

    return change


@pytest.mark.needs("posix")
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (write(bytes(16)), "not an event, or damaged"),
        (write(b"ipcio mutex 1\0\0\0"), "not an event, or damaged"),
        (write(b"ipcio event 2\0\0\0"), "another version of ipcio made it"),
        (lambda file: file.truncate(63), "cut short"),
        (lambda file: file.truncate(64), "cut short"),
        (lambda file: file.truncate(4095), "cut short"),
    ],
)
def test_what_is_no_event_is_an_error_that_says_so(name, change, text):
    error = damaged(name, change)
    assert error.errno == errno.EINVAL
    assert text in error.strerror


@pytest.mark.needs("fork", "cuts", "posix")
def test_a_file_that_is_cut_short_is_an_error_and_no_sigbus(name):
    """For an event that other users may write to: its memory is not touched."""
    from ipcio._posix.namespace import segment_path

    def use():
        found = []
        with contextlib.closing(event.create(name, perm=0o666)) as e:
            with thread(lambda: errors(e.wait)) as waiting:
                time.sleep(0.2)
                os.truncate(segment_path(name, "event"), 0)
            found += waiting
            found += map(errors, (e.set, e.clear, e.is_set, e.wait, lambda: e.wait(0.1), lambda: e.wait(0)))
            assert repr(e) == f"<ipcio.Event name={name!r}>"
        return found

    def errors(call):
        try:
            call()
        except OSError as error:
            return error.errno, error.filename
        return None

    assert Forked(use).result() == [(errno.EFAULT, name)] * 7


@pytest.mark.root
@pytest.mark.needs("users", "objects for others")
def test_a_user_who_may_write_to_it_can_do_no_more_than_disturb(name, peer):
    """One rewrites every byte, again and again, and cuts it short; the others get errors or go on."""
    hostile = peer(user=SOMEBODY)
    victims = [peer(f"e = event.create({name!r}, perm=0o666, exist_ok=True)", user=NOBODY) for _ in range(2)]
    hostile.run(f"fd = os.open('/dev/shm/ipcio.event.{name}', os.O_RDWR)")
    hostile.send(
        "run",
        "end = time.monotonic() + 0.8\n"
        "while time.monotonic() < end:\n"
        "    os.pwrite(fd, os.urandom(4096 - 64), 64)\n"
        "    if not os.urandom(1)[0]: os.ftruncate(fd, os.urandom(1)[0] * 16); os.ftruncate(fd, 4096)",
    )
    for victim in victims:
        victim.send(
            "run",
            "end = time.monotonic() + 0.5\n"
            "calls = e.set, e.clear, e.is_set, lambda: e.wait(0), lambda: e.wait(0.001), lambda: repr(e)\n"
            "while time.monotonic() < end:\n"
            "    for call in calls:\n"
            "        try: call()\n"
            "        except OSError as error: assert error.errno == 14",
        )
    for each in (*victims, hostile):
        each.answer()
    for victim in victims:
        victim.run("e.close()")
    hostile.run("os.close(fd)")
    with contextlib.closing(event.create(name)) as e:
        assert e.created


# -- in an event loop ---------------------------------------------------------------------


@pytest.fixture(params=loops.NAMES)
def run(request):
    return loops.runner(request.param)


def test_a_loop_goes_on_until_another_process_sets_the_event(run, name, peer):
    other = peer()
    with contextlib.closing(event.create(name)) as e:
        other.run(f"e = event.attach({name!r})")

        async def main():
            assert await e.wait_async(0.02) is False
            waiting = Ticking(e.wait_async())
            await waiting.go_on()
            other.run("e.set(); e.clear()")
            return await waiting.result()

        assert run(main()) is True
        other.run("e.close()")


def test_async_waits_end_as_the_others_do(run, e):
    async def main():
        assert await e.wait_async(0) is False
        for wrong, error in ((math.nan, ValueError), ("1", TypeError)):
            with pytest.raises(error):
                await e.wait_async(wrong)
        task = asyncio.ensure_future(e.wait_async())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        e.set()
        assert await e.wait_async(-1) is True
        assert await asyncio.gather(*(e.wait_async() for _ in range(3))) == [True] * 3
        e.clear()
        task = asyncio.ensure_future(e.wait_async())
        await asyncio.sleep(0.02)
        e.close()
        with pytest.raises(ValueError, match=CLOSED):
            await task

    run(main())


def test_without_an_event_loop_of_asyncio_it_says_what_to_do(e):
    with pytest.raises(RuntimeError, match="requires one"):
        e.wait_async().send(None)


# -- lists, and the command -----------------------------------------------------------------


def entries(name):
    return [each for each in ipcio.list_objects() if each.name == name]


@pytest.mark.needs("posix")
def test_it_is_listed_with_its_state_and_its_holders(name):
    with contextlib.closing(event.create(name)) as e:
        (entry,) = entries(name)
        assert (entry.kind, entry.size, entry.value, entry.undo) == ("event", None, 0, False)
        assert (entry.perm, entry.state) == ("0600", "live")
        if FILES:
            assert [holder.pid for holder in entry.holders] == [os.getpid()]
        e.set()
        assert entries(name)[0].value == 1
    assert not entries(name)
    event.create(name, persist=True, is_set=True).close()
    (entry,) = entries(name)
    assert (entry.state, entry.value) == ("persistent", 1)
    event.unlink(name)


@pytest.mark.needs("posix")
def test_memory_a_semaphore_and_an_event_may_have_one_name(name):
    from ipcio import sem, shm

    if lacks("namespaces"):
        pytest.skip(lacks("namespaces"))
    with shm.create(name, 1), contextlib.closing(sem.create(name)), contextlib.closing(event.create(name)):
        assert [each.kind for each in entries(name)] == ["shm", "sem", "event"]


@pytest.mark.gc
@pytest.mark.needs("fork")
def test_what_a_killed_process_left_is_an_orphan_that_gc_removes(name):
    leave_orphan(lambda: event.create(name))
    (entry,) = entries(name)
    assert (entry.kind, entry.state) == ("event", "orphan")
    would = [each for each in ipcio.remove_orphans(dry_run=True) if each.name == name]
    removed = [each for each in ipcio.remove_orphans() if each.name == name]
    assert [each.kind for each in would] == [each.kind for each in removed] == ["event"]
    assert not entries(name)


@pytest.mark.needs("posix")
def test_fsspec_does_not_show_it(name):
    pytest.importorskip("fsspec")
    from ipcio._fsspec import SharedMemoryFileSystem

    with contextlib.closing(event.create(name)):
        assert not [each for each in SharedMemoryFileSystem().ls("", detail=False) if name in each]


# -- the kernel's call ---------------------------------------------------------------------


@pytest.mark.needs("posix")
def test_a_call_that_does_something_else_is_not_used(monkeypatch):
    """The number of a system call depends on the machine, so what it does is tried."""
    from ipcio._posix import words

    getppid = {"x86_64": 110, "aarch64": 173}.get(os.uname().machine)
    if words._futex() is None or getppid is None:
        pytest.skip("the number is not used here")
    try:
        for number in getppid, 10_000:  # the second is no system call at all
            words._futex.cache_clear()
            monkeypatch.setattr(words, "futex_number", lambda number=number: number)
            assert words._futex() is None
    finally:
        words._futex.cache_clear()


@pytest.mark.needs("posix")
def test_importing_it_asks_the_kernel_nothing_and_starts_no_thread():
    code = "import sys, threading; import ipcio.event; print(threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True)
    assert done.stdout == "1\n"
