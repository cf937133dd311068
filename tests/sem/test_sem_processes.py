"""Semaphores between processes: never too many inside, nobody left waiting, no permit lost to Ctrl-C."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import ExitStack, closing, suppress
from functools import partial

import pytest
from abilities import semaphore_file
from campaigns import FREE_THREADED, rounds
from children import KILL, Event, Forked, visit
from permits import permits_of
from waiting import until_it_waits

from ipcio import sem

DEADLINE = 30  # seconds of silence that are a failed test
CRASH_SAFE = pytest.param(True, marks=pytest.mark.needs("undo"), id="undo")
KINDS = pytest.mark.parametrize("undo", [pytest.param(False, id="plain"), CRASH_SAFE])
needs_fork = pytest.mark.needs("fork")

WAITS = {
    "dec()": lambda s: s.dec(),
    "dec(30)": lambda s: s.dec(30),
    "dec(-1)": lambda s: s.dec(-1),
    "acquire()": lambda s: s.acquire(),
    "acquire(timeout=30)": lambda s: s.acquire(timeout=30),
    "with": lambda s: s.__enter__(),
}
HOWS = pytest.mark.parametrize("how", WAITS)


@pytest.fixture
def make(name, undo):
    """Create a semaphore of the kind that the test is run for."""
    made = []

    def create(value, **options):
        made.append(sem.create(name, value, undo=undo, **options))
        return made[-1]

    yield create
    for handle in made:
        handle.close()


def join(process):
    process.join(DEADLINE)
    assert process.exitcode == 0


def fork_quietly(process):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads
        process.start()


# -- never more inside than there are permits --------------------------------


class Reader:
    def __init__(self, fd):
        self.fd = fd
        self.inside = set()
        self.visits = 0
        self.most = 0

    def read(self):
        assert select.select([self.fd], [], [], DEADLINE)[0], f"silence; inside are {self.inside}"
        for byte in os.read(self.fd, 1000):
            who, out = divmod(byte, 2)
            if out:
                self.inside.remove(who)
                self.visits += 1
            else:
                assert who not in self.inside
                self.inside.add(who)
                self.most = max(self.most, len(self.inside))


@needs_fork
@KINDS
@pytest.mark.parametrize("start", ["fork", "multiprocessing fork", "multiprocessing spawn", "unrelated"])
@pytest.mark.parametrize(("processes", "permits"), [(4, 1), (5, 2)])
@pytest.mark.sampled(3)
def test_never_more_inside_than_permits(make, name, tmp_path, peer, start, processes, permits):
    if start in {"multiprocessing spawn", "unrelated"}:
        processes, visits = permits + 1, rounds(300)
    else:
        visits = rounds(800)
    told, go = str(tmp_path / "told"), str(tmp_path / "go")
    with ExitStack() as stack:
        fds = []
        for path in (told, go):
            os.mkfifo(path)
            fds.append(os.open(path, os.O_RDWR))
            stack.callback(os.close, fds[-1])
        s = make(permits)
        reader = Reader(fds[0])
        pids, ends = [], []
        for me in range(processes):
            arguments = visits, told, go
            if start == "fork":
                forked = stack.enter_context(Forked(visit, s, me, *arguments))
                pids.append(forked.pid)
                ends.append(forked.result)
            elif start == "unrelated":
                other = peer(f"s = sem.attach({name!r})", VISIT)
                other.send("run", f"visit(s, {me}, *{arguments!r})")
                pids.append(other.pid)
                ends.append(other.answer)
            else:
                context = multiprocessing.get_context(start.split()[1])
                process = context.Process(target=visit, args=(s, me, *arguments))
                fork_quietly(process)
                stack.callback(process.close)
                stack.callback(process.join)
                stack.callback(process.kill)
                pids.append(process.pid)
                ends.append(partial(join, process))
        # As many as may are inside, and wait there for a word; the others have to stay outside.
        while len(reader.inside) < permits:
            reader.read()
        for pid in pids:
            if start in {"fork", "multiprocessing fork"}:
                until_it_waits(pid)
        assert permits_of(s) == 0
        assert not s.dec(0)
        assert not select.select([fds[0]], [], [], 0)[0]
        os.write(fds[1], bytes(processes))
        while reader.visits < visits * processes:
            reader.read()
        for end in ends:
            end()
        assert reader.most == permits
        assert not reader.inside
        assert permits_of(s) == permits


VISIT = """
def visit(handle, me, visits, told, go):
    told, go = os.open(told, os.O_WRONLY), os.open(go, os.O_RDONLY)
    for turn in range(visits):
        with handle:
            os.write(told, bytes([2 * me]))
            if not turn:
                os.read(go, 1)
            os.write(told, bytes([2 * me + 1]))
"""


@needs_fork
@KINDS
def test_a_counter_under_a_lock_ends_exact(make):
    """Reading, adding and writing are three steps, between which another process would come in."""
    processes, rounds = 4, 1000
    s = make(1)
    with mmap.mmap(-1, 8) as memory:

        def count(me):
            for turn in range(rounds):
                if (turn + me) % 2:
                    assert s.dec() if turn % 3 else s.acquire(timeout=DEADLINE)
                else:
                    s.__enter__()
                number = int.from_bytes(memory[:], "little")
                if turn % 10 == 0:
                    os.sched_yield()
                memory[:] = (number + 1).to_bytes(8, "little")
                s.inc() if turn % 2 else s.release()

        with ExitStack() as stack:
            for forked in [stack.enter_context(Forked(count, me)) for me in range(processes)]:
                forked.result()
        assert int.from_bytes(memory[:], "little") == processes * rounds
    assert permits_of(s) == 1


# -- to and fro --------------------------------------------------------------


@needs_fork
@KINDS
@pytest.mark.parametrize("where", ["forked", "unrelated"])
def test_ping_pong(name, unique, undo, peer, tmp_path, where):
    """Each waits for the other, and none runs ahead."""
    back = unique()
    rounds = 300
    fifo = str(tmp_path / "told")
    os.mkfifo(fifo)
    with ExitStack() as stack:
        ping = stack.enter_context(closing(sem.create(name, 0, undo=undo)))
        pong = stack.enter_context(closing(sem.create(back, 0, undo=undo)))
        told = os.open(fifo, os.O_RDWR)
        stack.callback(os.close, told)

        def play():
            for _ in range(rounds):
                ping.dec()
                os.write(told, b".")
                pong.inc()
            signal.pause()  # or, of a crash-safe one, all that it took would come back

        if where == "forked":
            stack.enter_context(Forked(play))
        else:
            other = peer(f"ping = sem.attach({name!r}); pong = sem.attach({back!r})")
            other.run(f"told = os.open({fifo!r}, os.O_WRONLY)")
            other.send("run", f"for _ in range({rounds}): ping.dec(); os.write(told, b'.'); pong.inc()")
        for _ in range(rounds):
            ping.inc()
            assert pong.dec(DEADLINE)
            assert os.read(told, 10) == b"."
        assert (permits_of(ping), permits_of(pong)) == (0, 0)
        if where == "unrelated":
            other.answer()


@needs_fork
@KINDS
@HOWS
@pytest.mark.parametrize("giving", ["inc", "release", "exit of a with block"])
@pytest.mark.sampled(3)
def test_a_waiting_thread_is_woken_by_another_process(make, how, giving):
    s = make(0)
    with Event() as ready:

        def wait():
            ready.set()
            return WAITS[how](s)

        with Forked(wait) as waiter:
            ready.wait()
            until_it_waits(waiter.pid)
            {"inc": s.inc, "release": s.release, "exit of a with block": lambda: s.__exit__(None, None, None)}[giving]()
            assert waiter.result() is True
    # The waiting process was killed, and its permit of a crash-safe one was released.
    assert permits_of(s) == s.undo


@needs_fork
@KINDS
def test_as_many_wake_as_permits_are_given(make):
    s = make(0)
    reader, writer = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, reader)

        def wait():
            s.dec()
            os.write(writer, b"!")
            signal.pause()

        waiters = [stack.enter_context(Forked(wait)) for _ in range(5)]
        os.close(writer)
        for waiter in waiters:
            until_it_waits(waiter.pid)
        s.inc(3)
        assert b"".join(os.read(reader, 1) for _ in range(3)) == b"!!!"
        for waiter in waiters:
            until_it_waits(waiter.pid)
        assert not select.select([reader], [], [], 0)[0]
        assert permits_of(s) == 0
        s.inc(2)
        assert b"".join(os.read(reader, 1) for _ in range(2)) == b"!!"
        assert permits_of(s) == 0


# -- time --------------------------------------------------------------------

GRAIN = 0.002  # between the system's clock, which sem_timedwait goes by, and the one that we read


@KINDS
@pytest.mark.parametrize("taken_by", ["nobody", "us", pytest.param("another process", marks=needs_fork)])
@pytest.mark.parametrize("call", ["dec", "acquire"])
@pytest.mark.sampled(3)
def test_a_wait_without_a_set_lasts_until_its_timeout(make, taken_by, call):
    s = make(0 if taken_by == "nobody" else 1)
    with ExitStack() as stack:
        if taken_by == "us":
            s.dec()
        elif taken_by == "another process":
            taken = stack.enter_context(Event())

            def hold():
                s.dec()
                taken.set()
                signal.pause()

            stack.enter_context(Forked(hold))
            taken.wait()
        for seconds in (0.1, 0.013):
            start = time.perf_counter()
            assert (s.dec(seconds) if call == "dec" else s.acquire(timeout=seconds)) is False
            assert time.perf_counter() - start >= seconds - GRAIN
        assert s.dec(0) is False
        assert s.acquire(False) is False
        assert permits_of(s) == 0


# -- other threads -----------------------------------------------------------


@KINDS
@HOWS
def test_other_threads_go_on_while_one_waits(make, how):
    s = make(0)
    results = []
    thread = threading.Thread(target=lambda: results.append(WAITS[how](s)))
    thread.start()
    until_it_waits(os.getpid(), thread.native_id)
    assert not results
    s.inc()  # only this thread can do that
    thread.join()
    assert results == [True]
    assert permits_of(s) == 0


@needs_fork
@KINDS
def test_threads_of_several_processes_wait_together(make):
    s = make(1)
    turns = 100

    def work():
        def one():
            for _ in range(turns):
                with s:
                    inside[0] += 1
                    assert inside[0] == 1
                    inside[0] -= 1

        inside, errors = [0], []

        def guarded():
            try:
                one()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=guarded) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        return True

    with ExitStack() as stack:
        assert all(forked.result() for forked in [stack.enter_context(Forked(work)) for _ in range(3)])
    assert permits_of(s) == 1


# -- fork --------------------------------------------------------------------


@needs_fork
@KINDS
@HOWS
def test_a_fork_while_another_thread_waits(make, how):
    """The child has not got the thread, but the handle; what it does there reaches the parent's."""
    s = make(0)
    results = []
    thread = threading.Thread(target=lambda: results.append(WAITS[how](s)))
    thread.start()
    until_it_waits(os.getpid(), thread.native_id)

    def child():
        assert not s.dec(0)
        assert permits_of(s) == 0
        s.inc(2)

    with Forked(child) as forked:
        forked.result()
    thread.join()
    assert results == [True]
    assert permits_of(s) == 1
    assert s.dec(0)


@needs_fork
@KINDS
# CPython 3.13t can leave an object locked in the child at which another thread looks during the fork.
@pytest.mark.able(probe=lambda: not FREE_THREADED)
def test_a_fork_in_a_thread_while_others_wait_and_give(make):
    s = make(2)
    stop = threading.Event()
    errors = []

    def churn():
        try:
            while not stop.is_set():
                with s:
                    pass
                assert s.dec(DEADLINE)
                s.inc()
        except BaseException as error:
            errors.append(error)

    def child():
        with s:
            pass
        assert s.dec()
        s.inc()
        return "done"

    def fork():
        try:
            answers.append(Forked(child).result())
        except BaseException as error:
            errors.append(error)

    answers = []
    workers = [threading.Thread(target=churn) for _ in range(2)]
    for worker in workers:
        worker.start()
    for _ in range(15):
        forker = threading.Thread(target=fork)
        forker.start()
        forker.join()
    stop.set()
    for worker in workers:
        worker.join()
    assert not errors
    assert answers == ["done"] * 15
    assert permits_of(s) == 2


@needs_fork
@KINDS
def test_parent_and_child_use_one_handle(make):
    """And when both have closed it, the name is gone."""
    s = make(0)
    with Event() as done:

        def child():
            for _ in range(50):
                assert s.dec(DEADLINE)
            s.close()
            done.set()
            with pytest.raises(ValueError, match="closed"):
                s.dec(0)

        with Forked(child) as forked:
            for _ in range(50):
                s.inc()
            done.wait()
            forked.result()
    assert permits_of(s) == (50 if s.undo else 0)  # what the killed child had acquired
    with closing(sem.attach(s.name)):
        s.close()
    assert not os.path.lexists(semaphore_file(s.name))


# -- kills of waiting processes ------------------------------------------------


@needs_fork
@KINDS
@HOWS
def test_a_process_killed_while_it_waits_acquires_no_permit(make, how):
    s = make(0)
    with ExitStack() as stack:
        waiters = [stack.enter_context(Forked(WAITS[how], s)) for _ in range(2)]
        for waiter in waiters:
            until_it_waits(waiter.pid)
            assert waiter.kill() == -KILL
        assert permits_of(s) == 0
        s.inc()
        assert permits_of(s) == 1
        assert s.dec(0)


@needs_fork
@KINDS
def test_waiting_processes_keep_the_name(make, name):
    s = make(0)
    reader, writer = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, reader)

        def wait():
            s.dec()
            os.write(writer, b"!")
            signal.pause()

        waiters = [stack.enter_context(Forked(wait)) for _ in range(2)]
        os.close(writer)
        for waiter in waiters:
            until_it_waits(waiter.pid)
        s.close()
        with closing(sem.attach(name)) as attached:
            attached.inc()
        assert os.read(reader, 1) == b"!"
        with pytest.raises(FileExistsError):
            sem.create(name)
        for waiter in waiters:
            until_it_waits(waiter.pid)
            waiter.kill()
        with pytest.raises(FileNotFoundError):
            sem.attach(name)
    assert not os.path.lexists(semaphore_file(name))


@needs_fork
@KINDS
def test_an_unlinked_semaphore_goes_on_for_those_who_wait(make, name):
    s = make(0)
    with Forked(s.dec) as waiter:
        until_it_waits(waiter.pid)
        sem.unlink(name)
        with closing(sem.create(name, 5)) as new:
            s.inc()
            assert waiter.result() is True
            assert permits_of(new) == 5
            s.close()
            assert permits_of(new) == 5


# -- signals -----------------------------------------------------------------


def give_too_much(s, _):
    with suppress(OverflowError):
        s.inc(2**31)


def attach_nothing(s, _):
    with suppress(FileNotFoundError):
        sem.attach(f"{s.name}-not")


HANDLERS = {
    "does nothing": lambda _s, _other: None,
    "looks": lambda s, _: permits_of(s),
    "tries to take": lambda s, _: s.dec(0),
    "tries to take elsewhere": lambda _, other: other.dec(0),
    "waits elsewhere": lambda _, other: other.dec(0.001),
    "gives elsewhere": lambda _, other: other.inc(2),
    "gives too much": give_too_much,
    "attaches what is not there": attach_nothing,
    "attaches and closes": lambda s, _: sem.attach(s.name).close(),
}
# Each handler in each of the two calls of the system, and each way to wait once.
WAITS_AND_HANDLERS = [
    *((how, handler) for how in ("dec()", "dec(30)") for handler in HANDLERS),
    *((how, next(iter(HANDLERS))) for how in WAITS if how not in {"dec()", "dec(30)"}),
]


@needs_fork
@KINDS
@pytest.mark.parametrize(("how", "handler"), WAITS_AND_HANDLERS)
@pytest.mark.sampled(3)
def test_a_wait_goes_on_after_a_handler_that_does_not_raise(make, unique, undo, how, handler):
    """Whatever the handler does."""
    s = make(0)
    with closing(sem.create(unique(), 0, undo=undo)) as other, Event() as ready, Event() as handled:

        def wait():
            def handle(*_):
                HANDLERS[handler](s, other)
                handled.set()

            signal.signal(signal.SIGUSR1, handle)
            ready.set()
            return WAITS[how](s)

        with Forked(wait) as waiter:
            ready.wait()
            until_it_waits(waiter.pid)
            for _ in range(3):
                os.kill(waiter.pid, signal.SIGUSR1)
                handled.wait()
                until_it_waits(waiter.pid)
            s.inc()
            assert waiter.result() is True


@needs_fork
@KINDS
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.sampled(3)
def test_a_handler_shortens_no_timeout(make, unique, undo, handler):
    s = make(0)
    with closing(sem.create(unique(), 0, undo=undo)) as other:

        def wait():
            signal.signal(signal.SIGALRM, lambda *_: HANDLERS[handler](s, other))
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            start = time.perf_counter()
            got = s.dec(0.08)
            return got, time.perf_counter() - start

        got, seconds = Forked(wait).result()
    assert got is False
    assert seconds >= 0.08 - GRAIN


@needs_fork
@KINDS
@HOWS
def test_a_handler_that_gives_ends_the_wait(make, how):
    s = make(0)
    with Event() as ready:

        def wait():
            signal.signal(signal.SIGUSR1, lambda *_: s.inc())
            ready.set()
            return WAITS[how](s)

        with Forked(wait) as waiter:
            ready.wait()
            until_it_waits(waiter.pid)
            os.kill(waiter.pid, signal.SIGUSR1)
            assert waiter.result() is True


@needs_fork
@KINDS
@HOWS
def test_ctrl_c_ends_a_wait(make, how):
    s = make(0)
    with Event() as ready:

        def wait():
            signal.signal(signal.SIGINT, signal.default_int_handler)
            ready.set()
            try:
                WAITS[how](s)
            except KeyboardInterrupt:
                return "interrupted", s.dec(0)

        with Forked(wait) as waiter:
            ready.wait()
            until_it_waits(waiter.pid)
            os.kill(waiter.pid, signal.SIGINT)
            assert waiter.result() == ("interrupted", False)
    assert permits_of(s) == 0
    s.inc()
    assert s.dec(0)


@needs_fork
@KINDS
@HOWS
def test_ctrl_c_ends_a_program_that_waits(make, how):
    s = make(0)
    call = "s.__enter__()" if how == "with" else f"s.{how}"
    code = f"from ipcio import sem; s = sem.attach({s.name!r}); print(flush=True); {call}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        program.stdout.readline()
        until_it_waits(program.pid)
        program.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in program.stderr.read()
        assert program.wait() == -signal.SIGINT
    assert permits_of(s) == 0


ROUNDS = rounds(400)

# What the interrupted program does, and where it notes that it got a permit: in C, so that
# there is no moment between the two.
INTERRUPTED = {
    "dec()": lambda s, got: got.extend(map(s.dec, (None,))),
    "dec(5)": lambda s, got: got.extend(map(s.dec, (5,))),
    "acquire()": lambda s, got: got.extend(map(s.acquire, (True,))),
    "acquire(timeout=5)": lambda s, got: got.extend(map(s.acquire, (True,), (5,))),
    "with": None,
}


class Interrupted(KeyboardInterrupt):
    pass


def be_interrupted(s, how, requests, answers):
    """In every round, wait for a permit, of which there will be one, and for an interrupt, which will come once."""
    armed, got = [], []

    def handle(*_):
        if armed:
            armed.clear()
            raise Interrupted
        late.append(1)

    signal.signal(signal.SIGINT, handle)
    call = INTERRUPTED[how]
    chance = random.Random(how)
    interrupts = 0
    late = []
    while os.read(requests, 1) == b"r":
        got.clear()
        try:
            try:
                armed.append(1)
                os.write(answers, b"r")
                for _ in range(chance.choice([0, 2000])):  # the interrupt may come before the call
                    pass
                if call:
                    call(s, got)
                else:
                    with s:
                        armed.clear()
            finally:
                armed.clear()
        except Interrupted:
            interrupts += 1
        os.write(answers, bytes([True in got]))
    return interrupts, len(late)


def spin(seconds):
    """Let a moment pass, too short to sleep."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@needs_fork
@KINDS
@pytest.mark.parametrize("how", INTERRUPTED)
@pytest.mark.sampled(3)
def test_interrupts_at_random_moments_lose_no_permit_and_make_none(make, how):
    """In each round one permit is given and one interrupt sent, in any order and at any distance."""
    s = make(0)
    chance = random.Random(how)
    requests, answers = os.pipe(), os.pipe()
    obtained = lost = doubled = 0
    with ExitStack() as stack:
        for fd in (*requests, *answers):
            stack.callback(os.close, fd)
        with Forked(be_interrupted, s, how, requests[0], answers[1]) as victim:
            for _ in range(ROUNDS):
                os.write(requests[1], b"r")
                assert os.read(answers[0], 1) == b"r"
                acts = [s.inc, lambda: os.kill(victim.pid, signal.SIGINT)]
                chance.shuffle(acts)
                for act in acts:
                    # Now and then long enough for the other to do what it can, on a busy machine, too.
                    spin(chance.random() ** 2 * chance.choice([1e-4] * 19 + [2e-2]))
                    act()
                got = os.read(answers[0], 1)[0]
                left = permits_of(s)
                assert [s.dec(0) for _ in range(left + 1)] == [True] * left + [False]
                obtained += got
                lost += got + left < 1
                doubled += got + left > 1
            os.write(requests[1], b"e")
            interrupts, late = victim.result()
        print(f"{how}: {obtained} permits, {interrupts} interrupts, {late} that came too late; {lost=}, {doubled=}")
        assert interrupts + late == ROUNDS
        assert interrupts
        assert obtained or how == "with"
        assert (lost, doubled) == (0, 0)
        # Of a crash-safe one, the victim held what it obtained, and nothing else.
        assert permits_of(s) == (obtained if s.undo else 0)


def keep_taking(s, how, requests, answers):
    """In every round, take permits without waiting for any until the interrupt comes; tell how many."""
    armed, got = [], []

    def handle(*_):
        if armed:
            armed.clear()
            raise Interrupted

    signal.signal(signal.SIGINT, handle)
    call = INTERRUPTED[how]
    while os.read(requests, 1) == b"r":
        got.clear()
        try:
            armed.append(1)
            os.write(answers, b"r")
            while True:
                if call:
                    call(s, got)
                else:
                    with s:
                        pass
        except Interrupted:
            pass
        os.write(answers, len(got).to_bytes(4, "little"))


@needs_fork
@pytest.mark.parametrize(("undo", "how"), [(undo, how) for undo in (False, True) for how in INTERRUPTED], ids=str)
def test_nor_do_they_where_no_thread_has_to_wait(make, undo, how):
    permits = 32000
    s = make(permits)
    chance = random.Random(how)
    requests, answers = os.pipe(), os.pipe()
    with ExitStack() as stack:
        for fd in (*requests, *answers):
            stack.callback(os.close, fd)
        with Forked(keep_taking, s, how, requests[0], answers[1]) as victim:
            for _ in range(ROUNDS // 4):
                os.write(requests[1], b"r")
                assert os.read(answers[0], 1) == b"r"
                spin(chance.random() * 2e-4)
                os.kill(victim.pid, signal.SIGINT)
                got = int.from_bytes(os.read(answers[0], 4), "little")
                if how == "with" and undo:
                    # Leaving a block is a few steps here, and an interrupt among them may keep the permit.
                    assert permits_of(s) <= permits
                else:
                    assert permits_of(s) == permits - got
                if not undo:
                    s.inc(got) if got else None
                elif permits_of(s) < permits // 2:
                    break
                else:
                    permits = permits_of(s)
            os.write(requests[1], b"e")
            victim.result()
    assert permits_of(s) == 32000  # for one reason or the other


GIVEN = 5


@needs_fork
@KINDS
@pytest.mark.parametrize("taken", [0, 2])
def test_an_interrupted_inc_gives_all_or_nothing(make, taken):
    s = make(taken)
    requests, answers = os.pipe(), os.pipe()
    chance = random.Random(taken)

    def be_interrupted():
        armed = []

        def handle(*_):
            if armed:
                armed.clear()
                raise Interrupted

        signal.signal(signal.SIGINT, handle)
        while os.read(requests[0], 1) == b"r":
            assert [s.dec(0) for _ in range(taken)] == [True] * taken
            returned = False
            try:
                try:
                    armed.append(1)
                    os.write(answers[1], b"r")
                    for _ in range(chance.randrange(20)):
                        pass
                    returned = s.inc(GIVEN)
                finally:
                    armed.clear()
            except Interrupted:
                pass
            os.write(answers[1], bytes([returned]))

    late = 0
    with ExitStack() as stack:
        for fd in (*requests, *answers):
            stack.callback(os.close, fd)
        with Forked(be_interrupted) as victim:
            # Longer each time, and until one interrupt comes after the call: how long that takes, the machine decides.
            for number in range(50 * ROUNDS):
                if late and number >= ROUNDS:
                    break
                os.write(requests[1], b"r")
                assert os.read(answers[0], 1) == b"r"
                spin(chance.random() ** 2 * 3e-5 * (1 + number / ROUNDS))
                os.kill(victim.pid, signal.SIGINT)
                returned = os.read(answers[0], 1)[0]
                value = permits_of(s)
                late += returned
                assert value == GIVEN or (value == 0 and not returned)
                if value:  # the victim will take `taken` again
                    assert [s.dec(0) for _ in range(GIVEN - taken)] == [True] * (GIVEN - taken)
                else:
                    s.inc(taken) if taken else None
            os.write(requests[1], b"e")
            victim.result()
    assert late
