"""A wait with a timeout: asleep in the kernel, woken by a timer's signal, of which nothing is left afterwards."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
from abilities import lacks
from campaigns import campaign, rounds
from children import Event, Forked
from waiting import DEADLINE, blocked, until_it_waits

from ipcio import filelock
from ipcio._filelock import ranges

if lacks("deadlines"):
    pytest.skip(lacks("deadlines"), allow_module_level=True)

import resource

from ipcio._posix import filelock as backend
from ipcio._posix import libc, timed_call

pytestmark = pytest.mark.hurried

CHOSEN = signal.SIGURG  # that wakes who waits
SHORT = 0.02  # seconds: a timeout that is to run out
ALL = backend.request(backend.EXCLUDE, 0, 0)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    return str(path)


@pytest.fixture
def held(path):
    """The path of a file that this very process has locked, and how to let go."""
    with opened(path) as file:
        filelock.lock(file)
        yield partial(filelock.unlock, file)


def opened(path):
    return open(path, "r+b", buffering=0)


def free(path):
    with opened(path) as file:
        return filelock.query(file) is None


def take(path, timeout=DEADLINE):
    with opened(path) as file:
        return filelock.lock(file, timeout=timeout)


def timers(pid="self"):
    """The lines about timers of a process; none on a kernel that does not tell."""
    try:
        with open(f"/proc/{pid}/timers") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def mask():
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.fixture(autouse=True)
def nothing_of_the_wait_left():
    before = mask()
    assert not timers()
    yield
    assert not timers()
    assert mask() == before


def times_out(path, timeout=SHORT):
    """Wait in vain; return whether that ended as it should: not early, and with nothing left."""
    before = mask()
    start = time.monotonic()
    try:
        take(path, timeout)
    except TimeoutError as error:
        return (
            time.monotonic() - start >= timeout and error.errno == errno.ETIMEDOUT and not timers() and mask() == before
        )
    return False


def gets_it(path):
    """Wait and get it; return whether nothing is left."""
    before = mask()
    return take(path) is True and not timers() and mask() == before


def clear():
    """Have no Python handler run that the test run has; for a child."""
    for number in signal.SIGALRM, signal.SIGCHLD, signal.SIGINT, signal.SIGUSR1:
        signal.signal(number, signal.SIG_DFL)


class HandlerError(Exception):
    pass


def fail(error):
    """A handler that raises."""

    def handler(*_):
        raise error

    return handler


# -- asleep --------------------------------------------------------------------


def waiters(path):
    """Those that the kernel knows to wait for a lock on the file."""
    about = os.stat(path)
    with open("/proc/locks") as file:
        lines = [line.split() for line in file if " -> OFDLCK " in line]
    return [words for words in lines if words[6].endswith(f":{about.st_ino}")]


def until_waited_for(path, count=1):
    end = time.monotonic() + DEADLINE
    while len(waiters(path)) < count:
        assert time.monotonic() < end, "nobody waits"
        time.sleep(0.0005)


def until_asleep(path, pid):
    """It is in the queue, and has gone to sleep there."""
    until_waited_for(path)
    until_it_waits(pid)


def switches(pid):
    """How often it has gone to sleep."""
    with open(f"/proc/{pid}/status") as file:
        return [line for line in file if line.startswith("voluntary_ctxt_switches")]


def tells_who_waits():
    return os.path.exists("/proc/locks")


@pytest.mark.able(probe=tells_who_waits)
def test_a_wait_sleeps_in_the_kernel_until_it_is_over(path, held):
    with blocked(gets_it, path) as waiting:
        until_asleep(path, waiting.pid)
        before = switches(waiting.pid)
        time.sleep(0.05)  # in which nothing shall happen
        assert switches(waiting.pid) == before
        held()
        assert waiting.result() is True
    assert not waiters(path)
    assert free(path)


@pytest.mark.able(probe=tells_who_waits)
@pytest.mark.skipif(not os.path.exists("/proc/self/timers"), reason="the kernel does not tell timers")
def test_a_wait_has_one_timer_which_wakes_its_own_thread(path, held):
    with blocked(gets_it, path) as waiting:
        until_asleep(path, waiting.pid)
        found = timers(waiting.pid)
        assert len([line for line in found if line.startswith("ID:")]) == 1
        assert f"notify: signal/tid.{waiting.pid}" in found
        held()
        assert waiting.result() is True


@pytest.mark.able(probe=tells_who_waits)
def test_a_timeout_takes_it_out_of_the_queue(path, held):
    assert times_out(path)
    assert not waiters(path)
    held()
    assert free(path)


@pytest.mark.parametrize("end", ["unlock", "kill"])
def test_the_end_of_the_holder_wakes_it(path, peer, end):
    holder = peer("from ipcio import filelock", f"f = open({path!r}, 'r+b'); filelock.lock(f)")
    with blocked(gets_it, path) as waiting:
        if end == "kill":
            holder.kill()
        else:
            holder.run("filelock.unlock(f)")
        assert waiting.result() is True


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("timeout", [1e-12, 1e-6, 0.001, 0.0123, 0.07])
def test_a_timeout_is_never_early(path, timeout):
    for _ in range(3):
        assert times_out(path, timeout)
    with opened(path) as file:
        start = time.monotonic()
        assert backend.wait(file.fileno(), ALL, timeout) is False
        assert time.monotonic() - start >= timeout


@pytest.mark.able(probe=tells_who_waits)
@pytest.mark.parametrize("timeout", [10**6, 10**9, 1e12, 1e30, 1.7e308])
def test_a_timeout_as_long_as_one_likes(path, held, timeout):
    with blocked(take, path, timeout) as waiting:
        until_asleep(path, waiting.pid)
        before = switches(waiting.pid)
        time.sleep(0.01)  # in which nothing shall happen
        assert switches(waiting.pid) == before
        held()
        assert waiting.result() is True


# -- what is left --------------------------------------------------------------

ERRORS = [
    KeyboardInterrupt(),
    HandlerError("mine"),
    TimeoutError("mine"),
    ValueError("mine"),
    NotImplementedError("mine"),
    AttributeError("mine"),
]
both = pytest.mark.parametrize("shut", [False, True], ids=["unblocked", "blocked"])


def end_in(path, error, shut, ready, handled):
    """Wait until a handler raises; return whether that came out, with the mask and the timers of before."""

    def handler(*_):
        handled.set()
        raise error

    clear()
    signal.signal(signal.SIGUSR1, handler)
    if shut:
        signal.pthread_sigmask(signal.SIG_BLOCK, {CHOSEN})
    before = mask()
    with opened(path) as file:
        try:
            ready.set()
            filelock.lock(file, timeout=DEADLINE)
        except BaseException as caught:
            return caught is error, mask() == before, timers()
    return None


@both
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_a_handler_raises_ends_the_wait(path, held, error, shut):
    with Event() as ready, Event() as handled, Forked(end_in, path, error, shut, ready, handled) as waiting:
        ready.wait()
        until_it_waits(waiting.pid)
        os.kill(waiting.pid, signal.SIGUSR1)
        handled.wait()
        held()  # so that who does not hear comes to an end as well
        assert waiting.result() == (True, True, [])
    assert free(path)


def interrupted_after(name, path, error):
    """Have a handler raise as soon as that call has returned, as if its signal had come then, before anybody sees it.

    Nobody is in the way, but the first try says so.
    """
    signal.signal(signal.SIGUSR1, fail(error))
    place = libc if hasattr(libc, name) else timed_call
    real = getattr(place, name)

    def call(*arguments):
        result = real(*arguments)
        os.kill(os.getpid(), signal.SIGUSR1)
        return result

    setattr(place, name, call)
    answers = iter([BlockingIOError(errno.EAGAIN, "made up")])
    ask = ranges._ask

    def refuse_once(*arguments):
        for answer in answers:
            raise answer
        return ask(*arguments)

    ranges._ask = refuse_once
    with opened(path) as file:
        try:
            filelock.lock(file, timeout=DEADLINE)
        except BaseException as caught:
            setattr(place, name, real)
            return caught is error, timers(), free(path)
    return None


steps = pytest.mark.parametrize("name", ["_timer_create", "_timer_settime", "fcntl", "_timer_delete"])


@steps
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_a_handler_raises_after_any_call_leaves_nothing(path, name, error):
    assert Forked(interrupted_after, name, path, error).result() == (True, [], True)


@both
def test_a_call_that_fails_leaves_nothing(shut):
    def call():
        if shut:
            signal.pthread_sigmask(signal.SIG_BLOCK, {CHOSEN})
        before = mask()
        try:
            backend.wait(10**6, ALL, DEADLINE)
        except OSError as error:
            return error.errno, mask() == before, timers()
        return None

    assert Forked(call).result() == (errno.EBADF, True, [])


@both
def test_success_and_timeout_leave_nothing(path, held, shut):
    def wait(ready):
        if shut:
            signal.pthread_sigmask(signal.SIG_BLOCK, {CHOSEN})
        late = times_out(path)
        ready.set()
        return late, gets_it(path)

    with Event() as ready, Forked(wait, ready) as waiting:
        ready.wait()
        until_it_waits(waiting.pid)
        held()
        assert waiting.result() == (True, True)


@pytest.mark.able(probe=tells_who_waits)
def test_a_command_inherits_neither_timer_nor_mask(path, held):
    """Started by `ipcio lock`, which becomes the command once it has waited."""
    show = "import signal, sys; print(signal.pthread_sigmask(signal.SIG_BLOCK, [])); print(*open(sys.argv[1]))"
    shown = "/proc/self/timers" if os.path.exists("/proc/self/timers") else os.devnull
    command = [sys.executable, "-m", "ipcio", "lock", "--timeout", str(DEADLINE), path, "--"]
    command += [sys.executable, "-c", show, shown]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
        until_waited_for(path)
        held()
        assert waiting.stdout.read().split("\n") == [str(mask()), "", ""]
    assert waiting.returncode == 0
    assert free(path)


# -- anywhere ------------------------------------------------------------------


@pytest.mark.able(probe=tells_who_waits)
def test_threads_wait_at_once_each_with_its_own_timer(path, held):
    results = []

    def wait(function):
        results.append((function, function(path)))

    threads = [
        threading.Thread(target=wait, args=(function,)) for function in [times_out_alone] * 4 + [gets_it_alone] * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads[:4]:
        thread.join()
    assert results == [(times_out_alone, True)] * 4
    until_waited_for(path, 4)
    held()
    for thread in threads[4:]:
        thread.join()
    assert results[4:] == [(gets_it_alone, True)] * 4
    assert free(path)


def times_out_alone(path):
    """As `times_out`, where other threads may have timers."""
    before = mask()
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        take(path, 0.06)
    return time.monotonic() - start >= 0.06 and mask() == before


def gets_it_alone(path):
    before = mask()
    return take(path) is True and mask() == before


@pytest.mark.able(probe=tells_who_waits)
@pytest.mark.usefixtures("held")
def test_a_forked_child_waits_like_its_parent(path):
    """Also one that was forked while another thread waits: the timer is not its own."""
    assert times_out(path)
    thread = threading.Thread(target=times_out_alone, args=(path,))
    thread.start()
    until_waited_for(path)
    with Forked(times_out, path) as child:
        assert child.result() is True
    thread.join()


@pytest.mark.usefixtures("held")
def test_a_spawned_child_waits_like_its_parent(path):
    code = f"""if True:
        import os, signal
        from ipcio import filelock
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        with open({path!r}, "r+b") as file:
            try:
                filelock.lock(file, timeout={SHORT})
            except TimeoutError:
                os._exit(7 if signal.pthread_sigmask(signal.SIG_BLOCK, []) == before else 8)
    """
    child = multiprocessing.get_context("spawn").Process(target=exec, args=(code,))
    child.start()
    child.join()
    assert child.exitcode == 7
    child.close()


# -- a program with signals of its own -----------------------------------------


@pytest.mark.usefixtures("held")
def test_a_program_may_reset_all_signals_between_two_waits(path):
    def wait():
        before = times_out(path)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        return before, times_out(path)

    assert Forked(wait).result() == (True, True)


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("handler", ["function", "SIG_IGN"])
def test_a_program_that_wants_the_signal_that_was_chosen_gets_it(path, handler):
    def wait():
        before = times_out(path)
        handled = []
        mine = signal.SIG_IGN if handler == "SIG_IGN" else lambda *_: handled.append(CHOSEN)
        signal.signal(CHOSEN, mine)
        after = times_out(path)
        heard = list(handled)
        signal.raise_signal(CHOSEN)
        return before, after, heard, len(handled), signal.getsignal(CHOSEN) == mine

    assert Forked(wait).result() == (True, True, [], int(handler == "function"), True)


@pytest.mark.usefixtures("held")
def test_a_library_that_wants_the_signal_that_was_chosen_gets_it(path):
    """One in C, of whose handlers Python knows nothing."""

    def wait():
        before = times_out(path)
        theirs = ctypes.cast(ctypes.CDLL(None).labs, ctypes.c_void_p)
        put = ctypes.CDLL(None).signal
        put.restype = ctypes.c_void_p
        put(CHOSEN, theirs)
        after = times_out(path)
        return before, after, put(CHOSEN, theirs) == theirs.value

    assert Forked(wait).result() == (True, True, True)


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("first", [True, False], ids=["before the first wait", "after it"])
def test_a_program_that_keeps_signals_blocked_to_fetch_them_loses_none(path, first):
    """As for sigwait or a signalfd: it is pending when the wait begins."""

    def wait():
        if not first:
            assert times_out(path)
        signal.pthread_sigmask(signal.SIG_BLOCK, {CHOSEN})
        os.kill(os.getpid(), CHOSEN)
        return times_out(path), CHOSEN in signal.sigpending()

    assert Forked(wait).result() == (True, True)


@pytest.mark.usefixtures("held")
def test_the_signal_that_was_chosen_comes_from_elsewhere(path):
    """It ends neither the program nor the wait."""

    def wait():
        ready.set()
        return times_out(path, 0.06)

    with Event() as ready, Forked(wait) as waiting:
        ready.wait()
        until_it_waits(waiting.pid)
        for _ in range(50):
            os.kill(waiting.pid, CHOSEN)
        assert waiting.result() is True


def test_handlers_run_while_the_wait_goes_on(path, held):
    numbers = signal.SIGCHLD, signal.SIGALRM, signal.SIGINT, signal.SIGTERM, signal.SIGWINCH, signal.SIGRTMIN

    def wait():
        for number in numbers:
            signal.signal(number, lambda *_: handled.set())
        ready.set()
        return gets_it(path)

    with Event() as ready, Event() as handled, Forked(wait) as waiting:
        ready.wait()
        for number in numbers:
            until_it_waits(waiting.pid)
            os.kill(waiting.pid, number)
            handled.wait()
        until_it_waits(waiting.pid)
        held()
        assert waiting.result() is True


def test_signals_of_the_waiters_own_do_not_end_its_wait(path, held):
    """A child that ends, and an alarm."""

    def wait():
        heard = set()
        signal.signal(signal.SIGCHLD, lambda number, _: heard.add(number))
        signal.signal(signal.SIGALRM, lambda number, _: heard.add(number))
        with Event() as go:
            child = Forked(go.wait)
            signal.setitimer(signal.ITIMER_REAL, 0.002)
            go.set()
            fine = times_out(path, 0.05)
            child.wait()
        ready.set()
        return fine, heard, gets_it(path)

    with Event() as ready, Forked(wait) as waiting:
        ready.wait()
        held()
        assert waiting.result() == (True, {signal.SIGCHLD, signal.SIGALRM}, True)


@pytest.mark.able(probe=tells_who_waits)
def test_a_handler_may_wait_too(path, held, tmp_path):
    """On the same thread, within the outer wait, with a timer of its own."""
    inner = []

    def waits_within(*_):
        with opened(other) as one, opened(other) as two:
            filelock.lock(one)
            try:
                filelock.lock(two, timeout=SHORT)
            except TimeoutError:
                inner.append("timed out")
        handled.set()

    def wait():
        signal.signal(signal.SIGUSR1, waits_within)
        return gets_it(path), inner

    other = str(tmp_path / "other")
    with open(other, "xb"):
        pass
    with Event() as handled, Forked(wait) as waiting:
        until_asleep(path, waiting.pid)
        os.kill(waiting.pid, signal.SIGUSR1)
        handled.wait()
        until_asleep(path, waiting.pid)
        held()
        assert waiting.result() == (True, ["timed out"])


def test_a_storm_of_signals_changes_nothing(path, held):
    choose = random.Random(11)

    def wait():
        heard = []
        for number in numbers:
            signal.signal(number, lambda *_: heard.append(1))
        ready.set()
        late = times_out(path, 0.1)
        ready.set()
        return late, gets_it(path), len(heard) > 0

    # Not more: they nest, on the small stack that faulthandler gave them.
    numbers = [signal.SIGUSR1, signal.SIGRTMIN]
    with Event() as ready, Forked(wait) as waiting:
        for _ in range(2):
            ready.wait()
            for _ in range(2000):
                os.kill(waiting.pid, choose.choice([*numbers, CHOSEN]))
        held()
        assert waiting.result() == (True, True, True)
    assert free(path)


@campaign
def test_a_storm_of_errors_leaves_nothing(path):
    """An alarm that raises, at any moment of short waits that end either way."""

    def wait():
        choose = random.Random(13)
        signal.signal(signal.SIGALRM, fail(HandlerError()))
        before = mask()
        with opened(path) as holder, opened(path) as file:
            for turn in range(max(100, rounds(150))):  # 300 in the run of CI at full length
                try:
                    # Once more after a second: Python ignores an error that is raised while it ends a generator.
                    signal.setitimer(signal.ITIMER_REAL, choose.uniform(0.000001, 0.003), 1)
                    while True:
                        filelock.lock(holder)
                        with pytest.raises(TimeoutError):
                            filelock.lock(file, timeout=choose.uniform(0, 0.001))
                        filelock.unlock(holder)
                        filelock.lock(file, timeout=DEADLINE)
                        filelock.unlock(file)
                except HandlerError:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                assert timers() == [], turn
                assert mask() == before, turn
                filelock.unlock(holder)
                filelock.unlock(file)

    Forked(wait).result()
    assert free(path)


# -- without -------------------------------------------------------------------


def use_the_signal():
    signal.signal(CHOSEN, lambda *_: None)


def block_the_signal():
    signal.pthread_sigmask(signal.SIG_BLOCK, {CHOSEN})


def allow_no_timers():
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))


def have_no_ctypes():
    import ipcio._posix

    del ipcio._posix.timed_call, sys.modules["ipcio._posix.timed_call"]
    sys.modules["ctypes"] = None
    backend._wait_until = backend._way_to_wait()


@pytest.mark.parametrize("lack", [use_the_signal, block_the_signal, allow_no_timers, have_no_ctypes])
def test_where_there_is_no_timer_it_tries_again_and_again(path, held, lack):
    def wait():
        lack()
        polled = []
        real, backend.poll = backend.poll, lambda *arguments: polled.append(arguments) or real(*arguments)
        late = times_out(path)
        ready.set()
        return late, polled != [], gets_it(path)

    with Event() as ready, Forked(wait) as waiting:
        ready.wait()
        held()
        assert waiting.result() == (True, True, True)
    assert free(path)
