"""What a mutex promises between threads and processes: one owner, and what the next one learns of its end."""

from __future__ import annotations

import contextlib
import errno
import gc
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from abilities import lacks
from campaigns import rounds
from children import Event, Forked
from named_contract import NOBODY, SOMEBODY
from troubles import interrupted_after
from waiting import blocked

from ipcio import Mutex, mutex

DEADLINE = 30  # seconds until what has not happened is a failure
CLOSED = "^I/O operation on closed file"

posix = pytest.mark.needs("posix")
KINDS = [0o600, pytest.param(0o666, marks=posix), pytest.param("lesser", marks=posix)]


@pytest.fixture(params=KINDS, ids=["narrow", "wide", "lesser"])
def make(request, name, monkeypatch):
    """Create mutexes: for this user alone, for all users, and on a system without robust mutexes."""
    perm = request.param
    if perm == "lesser":
        perm = 0o600
        monkeypatch.setattr("ipcio._posix.pthread_mutex.blank", lambda: None)
        monkeypatch.setattr("ipcio._posix.words._futex", lambda: None)
    with contextlib.ExitStack() as stack:

        def create(**options):
            return stack.enter_context(contextlib.closing(mutex.create(name, perm=perm, **options)))

        yield create


@pytest.fixture
def m(make):
    return make()


@contextlib.contextmanager
def thread(function, *arguments):
    """A function under way in another thread, whose results are in the list."""
    results = []
    running = threading.Thread(target=lambda: results.append(function(*arguments)), daemon=True)
    running.start()
    try:
        yield results
    finally:
        running.join(DEADLINE)
        assert not running.is_alive()


def elsewhere(function, *arguments):
    """What the function returns, or raises, in another thread."""
    with thread(lambda: outcome(function, *arguments)) as results:
        pass
    return results[0]


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return type(error)


def assert_free(m, *, abandoned=False):
    assert m.acquire(timeout=DEADLINE)
    assert m.abandoned == abandoned
    m.release()
    assert m.acquire(False)
    assert not m.abandoned
    m.release()
    assert not m.locked()
    assert m.owner is None


# -- one process ---------------------------------------------------------------


def test_one_thread_owns_it_from_acquire_to_release(m):
    for acquire in m.acquire, lambda: m.acquire(timeout=5), lambda: m.acquire(False), m.__enter__:
        assert acquire()
        assert m.locked()
        assert m.owner == os.getpid()
        assert not m.abandoned
        assert elsewhere(m.acquire, False) is False
        assert elsewhere(m.acquire, True, 0) is False
        assert elsewhere(m.acquire, True, 0.01) is False
        assert elsewhere(m.release) is RuntimeError
        assert elsewhere(lambda: (m.locked(), m.owner, m.abandoned)) == (True, os.getpid(), False)
        m.release()
        assert_free(m)
    with m as same:
        assert same is m
        assert m.locked()
    assert_free(m)
    with pytest.raises(KeyError), m:
        raise KeyError
    assert_free(m)


def test_what_this_thread_owns_it_cannot_acquire_again(m):
    with mutex.attach(m.name) as other:
        for handle in m, other:
            for call in (
                handle.acquire,
                handle.__enter__,
                lambda h=handle: h.acquire(False),
                lambda h=handle: h.acquire(timeout=0),
            ):
                with pytest.raises(RuntimeError, match="owns"):
                    call()
        other.release()
        other.acquire()
    for call in (
        m.release,
        m.wait,
        m.notify_all,
        lambda: m.wait_for(lambda: False),
        lambda: m.__exit__(None, None, None),
    ):
        with pytest.raises(RuntimeError, match="does not own"):
            call()
    assert_free(m)


@pytest.mark.parametrize("forever", [None, -1, -0.001, math.inf, 1e300, 10**400])
def test_a_wait_without_an_end_ends_with_the_release(m, forever):
    def own():
        if m.acquire(timeout=forever):
            m.release()
            return True
        return False

    m.acquire()
    with thread(own) as results:
        time.sleep(0.01)
        assert not results
        m.release()
    assert results == [True]


def test_malformed_arguments_raise_and_acquire_nothing(m):
    for bad in "1", [], 1j:
        with pytest.raises(TypeError):
            m.acquire(timeout=bad)
    with pytest.raises(ValueError, match="NaN"):
        m.acquire(timeout=math.nan)
    with pytest.raises(ValueError, match="non-blocking"):
        m.acquire(False, 1)
    assert_free(m)
    with m, pytest.raises(ValueError, match="NaN"):
        m.wait(math.nan)
    assert_free(m)


def test_a_recursive_one_counts(make):
    m = make(recursive=True)
    assert m.recursive
    with contextlib.closing(mutex.attach(m.name)) as other:
        assert other.recursive
        assert other.acquire(False)
        with m, other:
            other.release()
            assert m.acquire(timeout=0)
            assert elsewhere(m.acquire, False) is False
        assert elsewhere(m.acquire, False) is False
        m.release()
        with pytest.raises(RuntimeError, match="does not own"):
            m.release()
    assert_free(m)


def test_a_recursive_one_that_its_owner_did_not_release_begins_at_one(make):
    m = make(recursive=True)
    elsewhere(lambda: [m.acquire() for _ in range(3)] and None)
    assert m.acquire(timeout=DEADLINE)
    assert m.abandoned
    m.release()
    assert_free(m)


def test_one_that_is_not_recursive_says_so(m, name):
    assert not m.recursive
    with contextlib.closing(mutex.create(name, exist_ok=True, recursive=True)) as other:
        assert not other.created
        assert not other.recursive


# -- the handle ------------------------------------------------------------------


def test_closing_and_collecting_a_handle_release_nothing(m):
    other = mutex.attach(m.name)
    other.acquire()
    other.close()
    del other
    gc.collect()
    assert m.locked()
    assert m.owner == os.getpid()
    assert elsewhere(m.acquire, False) is False
    with pytest.raises(RuntimeError):
        m.acquire(False)
    m.release()
    assert_free(m)
    mutex.attach(m.name).acquire()
    gc.collect()
    assert elsewhere(m.acquire, False) is False
    m.release()
    assert_free(m)


def test_a_recursive_one_keeps_its_count_without_a_handle(make):
    m = make(recursive=True)
    other = mutex.attach(m.name)
    for _ in range(3):
        other.acquire()
    other.close()
    m.release()
    m.release()
    assert m.locked()
    m.release()
    assert_free(m)


def test_a_with_statement_keeps_the_handle(name):
    with mutex.create(name):
        gc.collect()
        with contextlib.closing(mutex.attach(name)) as other:
            assert other.locked()
    gc.collect()
    with pytest.raises(FileNotFoundError):
        mutex.attach(name)


def test_after_close_every_method_raises_value_error(m):
    for _ in range(2):
        m.close()
        assert m.closed
        calls = m.acquire, m.release, m.locked, m.wait, m.notify_all, m.__enter__, lambda: pickle.dumps(m)
        more = lambda: m.owner, lambda: m.abandoned, lambda: m.recursive, lambda: m.acquire(False)
        for call in (*calls, *more, lambda: m.wait_for(lambda: False), lambda: m.__exit__(None, None, None)):
            with pytest.raises(ValueError, match=CLOSED):
                call()
    assert repr(m) == f"<ipcio.Mutex name={m.name!r} closed>"


def test_repr_says_the_state(make):
    m = make(recursive=True)
    assert repr(m) == f"<ipcio.Mutex name={m.name!r} recursive>"
    with m:
        assert repr(m) == f"<ipcio.Mutex name={m.name!r} recursive locked>"


def test_functions_make_handles():
    with pytest.raises(TypeError, match=r"mutex\.create"):
        Mutex("x")


def test_a_pickled_handle_is_attached_again(m):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with contextlib.closing(pickle.loads(pickle.dumps(m, protocol))) as copy, copy:
            assert (copy.name, copy.created) == (m.name, False)
            assert elsewhere(m.acquire, False) is False
    assert_free(m)


# -- owners that end ---------------------------------------------------------------


def test_a_thread_that_ends_lets_the_next_one_in_which_is_told(m):
    assert elsewhere(m.acquire) is True
    assert_free(m, abandoned=True)
    assert elsewhere(m.acquire) is True
    with mutex.attach(m.name) as other:
        assert other.abandoned
        assert m.abandoned
        assert elsewhere(lambda: m.abandoned) is False
        m.release()
        assert not m.abandoned
        other.acquire()
    assert_free(m)
    assert elsewhere(m.acquire) is True
    with m:
        assert m.abandoned
    assert not m.abandoned
    assert elsewhere(lambda: m.acquire() and (m.abandoned, m.release())) == (False, None)
    assert_free(m)


ENDS = {
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "exit": "sys.exit(0)",
    "os._exit": "os._exit(0)",
    "closed": "m.close(); sys.exit(0)",
    "collected": "del m; gc.collect(); sys.exit(0)",
    "kept": "sys.kept = m; sys.exit(0)",
    "cycle": "box.box, box.m = box, m; del m, box; sys.exit(0)",
    "thread": "t = threading.Thread(target=m.acquire); m.release(); t.start(); t.join(); os._exit(0)",
    "exec": "os.execv('/bin/sh', ['sh', '-c', ''])",
    "daemon": "os.closerange(3, 100); os._exit(0)",
}


@posix
@pytest.mark.parametrize(
    ("end", "perm"), [*((end, 0o600) for end in ENDS), *((end, 0o666) for end in ("exit", "thread", "exec"))]
)
def test_a_program_that_ends_lets_the_next_one_in_which_is_told(name, end, perm):
    code = "import gc, os, signal, sys, threading; from ipcio import mutex"
    if end == "cycle":
        code += "\nclass Box: pass\nbox = Box()"
    code += f"\nm = mutex.attach({name!r}); m.acquire(); print(flush=True); {ENDS[end]}"
    with contextlib.closing(mutex.create(name, perm=perm)) as m:
        done = subprocess.run(
            [sys.executable, "-c", code.replace("m.mine = m", "box.box, box.m = box, m")], check=False
        )
        assert done.returncode in {0, -signal.SIGKILL}
        assert_free(m, abandoned=True)


@pytest.mark.needs("fork")
def test_a_killed_owner_lets_in_exactly_one_at_once_which_is_told(m):
    with Event() as has:

        def hold():
            m.acquire()
            has.set()
            signal.pause()

        def work():
            with m:
                return m.abandoned

        with Forked(hold) as owner:
            has.wait()
            with blocked(work) as one, blocked(work) as two, blocked(work) as three:
                assert m.owner == owner.pid
                two.kill()
                owner.kill()
                assert sorted([one.result(), three.result()]) == [False, True]
    assert_free(m)


@pytest.mark.needs("fork")
def test_nobody_owns_what_a_killed_process_owned(m):
    with Event() as has:

        def hold():
            m.acquire()
            has.set()
            signal.pause()

        with Forked(hold) as owner:
            has.wait()
            assert m.locked()
            owner.kill()
            assert not m.locked()
            assert m.owner is None
            assert not m.abandoned
    assert_free(m, abandoned=True)


@pytest.mark.needs("fork")
def test_a_forked_child_owns_nothing(make):
    m = make(recursive=True)
    m.acquire()
    m.acquire()

    def child():
        assert m.owner == os.getppid()
        assert not m.abandoned
        for call in m.release, m.notify_all, m.wait:
            with pytest.raises(RuntimeError):
                call()
        return m.acquire(False), m.acquire(timeout=0.01)

    assert Forked(child).result() == (False, False)
    m.release()
    assert m.locked()
    m.release()
    assert Forked(m.acquire).result() is True
    assert_free(m, abandoned=True)


@pytest.mark.needs("fork")
def test_kills_at_any_moment_leave_a_mutex_and_a_whole_count(m):
    """What it protects is torn only where an owner was killed, and then the next one is told."""
    from ipcio import shm

    with contextlib.closing(shm.create(None, 16)) as memory:
        words = memory.getbuffer().cast("Q")

        def work():
            while True:
                with m:
                    if m.abandoned:
                        words[1] = words[0]
                    assert words[0] == words[1]
                    words[0] += 1
                    words[1] += 1

        chance = random.Random(5)
        workers = [Forked(work) for _ in range(3)]
        for _ in range(rounds(40)):
            time.sleep(chance.uniform(0, 0.005))
            workers.pop(0).kill()
            assert m.acquire(timeout=DEADLINE)
            if m.abandoned:
                words[1] = words[0]
            assert words[0] == words[1]
            m.release()
            workers.append(Forked(work))
        for worker in workers:
            assert worker.kill() == -signal.SIGKILL, "a worker found what it protects torn"
        assert words[0]
        words.release()
    m.acquire(timeout=DEADLINE)
    m.release()


# -- the monitor ---------------------------------------------------------------------


def test_a_wait_ends_with_the_notification_and_owns_it_again(m):
    ready = []

    def consume():
        with m:
            ready.append("waits")
            answer = m.wait(DEADLINE)
            assert m.owner == os.getpid()
            return answer, elsewhere(m.acquire, False)

    with thread(consume) as one, thread(consume) as two:
        while len(ready) < 2:
            time.sleep(0.001)
        with m:
            m.notify_all()
            assert not one
            assert not two
    assert [*one, *two] == [(True, False)] * 2
    assert_free(m)


def test_a_wait_that_times_out_owns_it_again(m):
    with m:
        for seconds in 0, 1e-9, 0.02:
            assert m.wait(seconds) is False
            assert elsewhere(m.acquire, False) is False
        assert m.wait_for(lambda: 0, 0.02) == 0
        assert m.wait_for(lambda: "yes", 0) == "yes"
    assert_free(m)


def test_a_wait_of_a_recursive_one_releases_it_wholly(make):
    m = make(recursive=True)

    def notify():
        with m:
            m.notify_all()

    for _ in range(3):
        m.acquire()
    with thread(notify):
        assert m.wait(DEADLINE) is True
    for _ in range(3):
        assert elsewhere(m.acquire, False) is False
        m.release()
    assert_free(m)


def test_a_wait_that_gets_it_from_an_owner_that_ended_is_told(m):
    with m:
        with thread(lambda: m.acquire(timeout=DEADLINE) and m.notify_all()):
            assert m.wait(DEADLINE) is True
            assert m.abandoned
        assert m.abandoned
        assert m.wait(0) is False
        assert not m.abandoned
    assert_free(m)


@pytest.mark.needs("fork")
def test_killed_waiters_and_notifiers_take_no_notification_from_others(m):
    def wait():
        with m:
            while True:
                m.wait(DEADLINE)

    def notify():
        while True:
            with m:
                m.notify_all()

    def once():
        with m:
            return m.wait(DEADLINE)

    chance = random.Random(11)
    for _ in range(rounds(16)):
        with Forked(wait) as victim, Forked(notify) as other, Forked(once) as waiting:
            time.sleep(chance.uniform(0, 0.004))
            victim.kill()
            assert waiting.result() is True
            other.kill()
        with blocked(once) as waiting:
            with m:
                m.notify_all()
            assert waiting.result() is True


# -- interrupts --------------------------------------------------------------------------


def ours(module):
    return module.startswith("ipcio")


def at_each_point(attempt, check, most=400):
    """Interrupt `attempt` at each point at which Python runs signal handlers."""
    for count in range(most):
        came = interrupted_after(count, attempt, ours)
        check(came)
        if not came:
            return
    raise AssertionError("it does not end")


@pytest.mark.needs("signals")
@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("abandoned", [False, True])
def test_ctrl_c_at_any_point_of_acquire_acquires_nothing_and_hides_no_end(make, recursive, abandoned):
    m = make(recursive=recursive)

    def check(came):
        if came:
            assert elsewhere(m.locked) is False, "it stays acquired"
            if not abandoned:
                assert_free(m)
        else:
            assert m.abandoned == abandoned
            m.release()

    for acquire in m.acquire, lambda: m.acquire(timeout=1), lambda: m.acquire(False), m.__enter__:
        if abandoned:
            assert elsewhere(m.acquire) is True
            while m.locked():
                pass
        at_each_point(acquire, check)
    assert_free(m)


@pytest.mark.needs("signals")
@pytest.mark.parametrize("recursive", [False, True])
def test_ctrl_c_at_any_point_of_wait_owns_it_again(make, recursive):
    m = make(recursive=recursive)
    m.acquire()
    if recursive:
        m.acquire()

    def check(came):
        assert came in {False, True}
        assert elsewhere(m.acquire, False) is False
        if recursive:
            m.release()
            assert m.locked()
            m.acquire()

    at_each_point(lambda: m.wait(0.001), check)
    m.release()
    if recursive:
        m.release()
    assert_free(m)


@pytest.mark.needs("fork", "signals")
def test_a_handler_that_raises_ends_every_wait(m):
    class InterruptError(Exception):
        pass

    def interrupt(*_):
        raise InterruptError

    def interrupted(call):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        start = time.monotonic()
        with pytest.raises(InterruptError):
            call()
        return time.monotonic() - start

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        m.acquire()
        took = [interrupted(m.wait), interrupted(lambda: m.wait_for(lambda: False))]
        assert m.owner == os.getpid()
        m.release()
        with Event() as has:

            def hold():
                m.acquire()
                has.set()
                signal.pause()

            with Forked(hold) as owner:
                has.wait()
                took += [interrupted(m.acquire), interrupted(m.__enter__), interrupted(lambda: m.acquire(timeout=60))]
                assert m.owner == owner.pid
        assert min(took) < 1  # all of them, on a machine that is not busy
        assert_free(m, abandoned=True)
    finally:
        signal.signal(signal.SIGALRM, before)


# -- what others do to it -----------------------------------------------------------------


def path_of(name):
    from ipcio._posix.namespace import segment_path

    return segment_path(name, "mutex")


@contextlib.contextmanager
def changed(name, change, **options):
    """A mutex of which the file was changed, and what attaching raises."""
    mutex.create(name, persist=True, **options).close()
    try:
        with open(path_of(name), "r+b") as file:
            change(file)
        with pytest.raises(OSError) as caught:
            mutex.attach(name)
        assert caught.value.filename == name
        yield caught.value
    finally:
        mutex.unlink(name)


def write(data, at=0):
    def change(file):
        file.seek(at)
        file.write(data)

    return change


def has_mutexes():
    if lacks("posix"):
        return False
    from ipcio._posix import pthread_mutex

    return pthread_mutex.blank() is not None


robust = pytest.mark.able(probe=has_mutexes)


@posix
@pytest.mark.parametrize(
    ("change", "number", "text"),
    [
        (write(b"ipcio event 1\0\0\0"), errno.EINVAL, "not a mutex"),
        (write(b"ipcio mutex 9\0\0\0"), errno.EINVAL, "another version"),
        (lambda file: file.truncate(100), errno.EINVAL, "cut short"),
        pytest.param(write(b"\4", 32), errno.EINVAL, "another C library or word size", marks=robust),
        pytest.param(write(b"\1", 24), errno.EINVAL, "another PID namespace", marks=robust),
        pytest.param(lambda file: os.fchmod(file.fileno(), 0o620), errno.EPERM, "wider perm=", marks=robust),
    ],
)
def test_what_this_process_cannot_share_is_an_error_that_says_so(name, change, number, text):
    with changed(name, change) as error:
        assert error.errno == number
        assert text in error.strerror


@robust
@pytest.mark.root
@pytest.mark.needs("users")
def test_root_does_not_use_what_another_user_could_change(name, peer):
    """Such a user could make root write anywhere in its memory."""
    other = peer("from ipcio import mutex", f"m = mutex.create({name!r})", user=NOBODY)
    with pytest.raises(PermissionError, match="wider perm="):
        mutex.attach(name)
    other.run("m.close()")


@pytest.mark.root
@pytest.mark.needs("users", "files")
def test_users_exclude_each_other_if_the_permissions_let_them(name, peer):
    one = peer("from ipcio import mutex", f"m = mutex.create({name!r}, perm=0o666)", user=NOBODY)
    two = peer("from ipcio import mutex", f"m = mutex.attach({name!r}, owner={NOBODY})", user=SOMEBODY)
    with contextlib.closing(mutex.attach(name)) as m:
        one.run("m.acquire()")
        assert two.ask("m.acquire(False)") is False
        assert two.ask("m.owner") == m.owner == one.pid
        assert m.acquire(timeout=0.01) is False
        two.send("ask", "m.acquire(timeout=30)")
        one.kill()
        assert two.answer() is True
        assert two.ask("m.abandoned") is True
        two.run("m.release()")
        assert_free(m)
        with pytest.raises(PermissionError):
            mutex.attach(name, owner=SOMEBODY)
    two.run("m.close()")
    # What is left of the first is an orphan of another user, or gone with the last share.
    with contextlib.suppress(FileNotFoundError):
        mutex.unlink(name)


@pytest.mark.needs("fork", "cuts", "files")
def test_a_file_that_is_cut_short_is_an_error_and_no_sigbus(name):
    """Of a mutex that other users may write to, no process touches the memory."""
    with contextlib.closing(mutex.create(name, perm=0o666)) as m:

        def victim():
            with m:
                os.truncate(path_of(name), 0)
                errors = [outcome(call) for call in (m.notify_all, lambda: m.wait(0.01))]
            return [*errors, outcome(m.acquire), outcome(m.locked), repr(m)]

        with Forked(victim) as forked:
            results = forked.result()
        assert all(result in {OSError, False, True} or isinstance(result, str) for result in results)
        assert OSError in results


@pytest.mark.root
@pytest.mark.needs("users", "files", "fork")
def test_a_user_who_may_write_to_it_can_do_no_more_than_disturb(name, peer):
    """That user rewrites all bytes in a loop while two processes use it: no crash, and no wait that never ends."""
    with contextlib.closing(mutex.create(name, perm=0o666)) as m:
        vandal = peer(f"file = open({path_of(name)!r}, 'r+b', buffering=0)", user=NOBODY)
        vandal.send("run", "while True: file.seek((0, 64, 112, 192)[os.urandom(1)[0] % 4]); file.write(os.urandom(64))")

        def use():
            end = time.monotonic() + 0.5
            times = 0
            while time.monotonic() < end:
                with contextlib.suppress(OSError), m:
                    times += 1
                    m.notify_all()
                    m.wait(0.0005)
                    assert m.owner == os.getpid()
                    assert not isinstance(outcome(lambda: m.abandoned), type)
                m.locked()
            return times

        with Forked(use) as one, Forked(use) as other:
            assert one.result()
            assert other.result()
        vandal.kill()
        assert m.acquire(timeout=DEADLINE)
        m.release()


@pytest.mark.root
@pytest.mark.needs("users")
@pytest.mark.parametrize("perm", [0o600, 0o666])
def test_a_process_that_gives_up_its_rights_goes_on(name, peer, perm):
    other = peer(f"import asyncio; from ipcio import mutex; m = mutex.create({name!r}, perm={perm})")
    other.run(f"os.setgroups([]); os.setresgid(*3 * ({NOBODY},)); os.setresuid(*3 * ({NOBODY},))")
    other.run("m.acquire(); m.release(); m.acquire(timeout=1); m.notify_all(); m.wait(0.001)")
    assert other.ask("m.owner == os.getpid(), m.locked(), m.abandoned, m.release()") == (True, True, False, None)
    assert other.ask("asyncio.run(m.acquire_async()), m.release(), m.locked(), m.owner") == (True, None, False, None)
    other.run("m.close()")
    with contextlib.suppress(FileNotFoundError):
        mutex.unlink(name)
