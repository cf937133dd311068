"""Crash-safe semaphores: permits of killed processes are released, exactly once."""

from __future__ import annotations

import ctypes
import errno
import gc
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import ExitStack, closing, suppress

import pytest
from campaigns import campaign, rounds
from children import Event, Forked, fork_in_c
from permits import permits_of
from waiting import until_it_waits

from ipcio import sem

pytest.importorskip("fcntl", reason="no permits of killed processes are released here")

import fcntl

from ipcio._inventory import remove_orphans
from ipcio._posix import lifetime, namespace, sysv

PERMITS = 5
MAXIMUM = 32767
HIDDEN = ".ipcio-undo-"


@pytest.fixture
def s(name):
    with closing(sem.create(name, PERMITS, undo=True)) as handle:
        yield handle


def keys_of(name):
    """The keys of the System V sets that hidden names say are this semaphore's."""
    found = set()
    for entry in os.listdir(namespace.directory()):
        if entry.startswith(HIDDEN):
            path = f"{namespace.directory()}/{entry}"
            with suppress(FileNotFoundError, PermissionError), open(path, "rb") as record:
                if record.read()[88:].rstrip(b"\0") == os.fsencode(name):
                    found.add(int(entry[len(HIDDEN) :], 16))
    return found


def existing(keys):
    """Those of them that have a set."""
    with open("/proc/sysvipc/sem") as table:
        return keys & {int(line.split()[0]) for line in table.readlines()[1:]}


def the_key_of(name):
    (key,) = keys_of(name)
    assert existing({key})
    return key


def assert_nothing_left(name, *keys):
    assert not os.path.lexists(namespace.semaphore_path(name))
    assert not keys_of(name)
    assert not existing(set(keys))


class Child:
    """A child that runs functions for the test, until it is killed or asked to exit."""

    def __init__(self, fork=None, **scope):
        ours, theirs = multiprocessing.Pipe()
        self.pipe = ours
        self.forked = Forked(self._serve, ours, theirs, scope, fork=fork)
        self.pid = self.forked.pid
        theirs.close()

    @staticmethod
    def _serve(ours, theirs, scope):
        ours.close()
        gc.freeze()
        while True:
            function, arguments, options = theirs.recv()
            if function is None:
                return
            try:
                theirs.send((True, function(scope, *arguments, **options)))
            except Exception as error:
                theirs.send((False, error))

    def do(self, function, *arguments, **options):
        """Run a function of this module there, with a dictionary of its own as the first argument."""
        self.pipe.send((function, arguments, options))
        fine, answer = self.pipe.recv()
        if not fine:
            raise answer
        return answer

    def end(self):
        self.pipe.send((None, (), {}))
        self.forked.result()

    def kill(self, number=signal.SIGKILL):
        status = self.forked.kill(number)
        self.pipe.close()
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


# What a child does.


def take(scope, n=1, handle="s"):
    for _ in range(n):
        assert scope[handle].dec(0)


def give(scope, n=1, handle="s"):
    assert scope[handle].inc(n)


def attach(scope, name, handle="s"):
    scope[handle] = sem.attach(name)


def close(scope, handle="s"):
    scope.pop(handle).close()


# -- ways to end -------------------------------------------------------------

TAKINGS = {
    "one": lambda s: s.dec(),
    "three": lambda s: [s.dec(), s.dec(0), s.acquire(timeout=1)],
    "by with": lambda s: [s.__enter__(), s.__enter__()],
    "all": lambda s: [s.acquire() for _ in range(PERMITS)],
}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGSEGV, signal.SIGABRT])
@pytest.mark.parametrize("taking", TAKINGS)
def test_permits_of_the_killed_come_back(s, number, taking):
    with Event() as taken:

        def child():
            if number != signal.SIGKILL:
                signal.signal(number, signal.SIG_DFL)
            TAKINGS[taking](s)
            taken.set()
            signal.pause()

        with Forked(child) as holder:
            taken.wait()
            assert s.value < PERMITS
            assert holder.kill(number) == -number
    assert s.value == PERMITS


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("os._exit(4)", 4),
        ("raise KeyError('expected')", 1),
        ("os.abort()", -signal.SIGABRT),
        ("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
        ("ctypes.string_at(0)", -signal.SIGSEGV),
        ("t = threading.Thread(target=s.dec); t.start(); t.join(); os._exit(5)", 5),
        ("os.execv('/bin/sh', ['sh', '-c', 'exit 6'])", 6),
        ("os.closerange(3, 100); os._exit(7)", 7),
    ],
)
def test_permits_of_a_program_that_ends_come_back(s, end, status):
    code = "import ctypes, os, signal, sys, threading; from ipcio import sem"
    code += f"; s = sem.attach({s.name!r}); s.dec(); s.dec(); print(s.value, flush=True); {end}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (f"{PERMITS - 2}\n", status), done.stderr
    assert s.value == PERMITS


def test_they_come_back_once(s):
    """Not again when the parent reaps, and not again when the next one exits."""
    for _ in range(3):
        with Child(s=s) as holder, Child(s=s) as other:
            holder.do(take, 2)
            other.do(take, 1)
            os.kill(holder.pid, signal.SIGKILL)
            os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
            assert s.value == PERMITS - 1  # a zombie holds nothing
            holder.kill()
            assert s.value == PERMITS - 1
            other.do(give)
            assert s.value == PERMITS
        assert s.value == PERMITS


def test_what_was_given_back_does_not_come_back_again(s):
    with Child(s=s) as holder:
        holder.do(take, 3)
        holder.do(give, 2)
        assert s.value == PERMITS - 1
    assert s.value == PERMITS


def test_permits_survive_exec_and_end_with_the_process(s, peer):
    """The new program is the same process, and holds the permits, but no share in the name."""
    other = peer(f"s = sem.attach({s.name!r}); s.dec(); s.dec()")
    other.send("run", "os.execv('/bin/sh', ['sh', '-c', 'echo executed; read line'])")
    assert other.process.stdout.readline() == "executed\n"
    assert s.value == PERMITS - 2
    key = the_key_of(s.name)
    other.process.stdin.write("\n")
    other.process.stdin.flush()
    other.process.wait()
    assert s.value == PERMITS
    s.close()
    assert_nothing_left(s.name, key)


def test_exec_of_the_only_holder_frees_the_name(name, peer):
    other = peer(f"s = sem.create({name!r}, 2, undo=True); s.dec()")
    key = the_key_of(name)
    other.send("run", "os.execv('/bin/sh', ['sh', '-c', 'echo executed; read line'])")
    assert other.process.stdout.readline() == "executed\n"
    with closing(sem.create(name, 7, undo=True)) as h:
        other.kill()
        assert h.value == 7
    assert_nothing_left(name, key)


# -- whose permits -----------------------------------------------------------


def test_a_thread_takes_for_its_process(s):
    """The end of the thread gives nothing back; any thread may give back what any took."""

    def in_thread(scope, action):
        thread = threading.Thread(target=action, args=(scope, 2))
        thread.start()
        thread.join()

    def both(scope):
        in_thread(scope, take)
        in_thread(scope, take)
        in_thread(scope, give)

    with Forked(lambda: (both({"s": s}), s.value)) as holder:
        assert holder.result()[1] == PERMITS - 2
    assert s.value == PERMITS


@pytest.mark.parametrize(("taken", "given"), [(0, 1), (1, 2), (2, 5), (3, 2), (5, 5), (5, 32765), (0, 32762), (4, 1)])
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
def test_what_is_given_beyond_what_is_held_is_final(s, taken, given, at_once):
    if given > 1000 and not at_once:
        given = 1000
    with Child(s=s) as holder:
        holder.do(take, taken)
        if at_once:
            holder.do(give, given)
        else:
            for _ in range(given):
                holder.do(give)
        assert s.value == PERMITS - taken + given
    assert s.value == PERMITS - taken + given + max(taken - given, 0)


def test_to_take_after_giving_too_much_is_to_hold_again(s):
    with Child(s=s) as holder:
        holder.do(give, 3)
        holder.do(take, 2)
        assert s.value == PERMITS + 1
    assert s.value == PERMITS + 3


def test_an_inc_that_overflows_leaves_what_is_held_held(s):
    with Child(s=s) as holder:
        holder.do(take, 2)
        for n in (MAXIMUM, MAXIMUM - PERMITS + 3, 2**31, 2**70):
            with pytest.raises(OverflowError):
                holder.do(give, n)
        assert s.value == PERMITS - 2
    assert s.value == PERMITS


@pytest.mark.parametrize("fork", [None, fork_in_c])
def test_a_forked_child_holds_nothing_of_its_parents(s, fork):
    """What it releases stays released; its exit releases only its own permits."""

    def parent():
        take({"s": s}, 2)  # 3 left
        with Child(fork, s=s) as child:
            child.do(give, 1)  # final: 4
            child.do(take, 3)  # 1
            assert s.value == 1
            child.kill()
        assert s.value == 4
        with Child(fork, s=s) as child:
            child.do(take, 1)
            child.do(give, 2)  # one of them final: 5
        assert s.value == 5
        give({"s": s}, 1)  # one of our two

    Forked(parent).result()
    assert s.value == PERMITS + 2


def test_the_exit_of_the_parent_releases_the_parents_permits_only(s):
    with Event() as ready, Event() as gone, Event() as done:

        def child():
            s.dec()
            ready.set()
            gone.wait()
            s.inc()
            s.inc()  # final
            s.close()
            done.set()

        def parent():
            s.dec()
            s.dec()
            Forked(child)
            ready.wait()
            os.kill(os.getpid(), signal.SIGKILL)

        assert Forked(parent).wait() == -signal.SIGKILL
        assert s.value == PERMITS - 1
        gone.set()
        done.wait()
        assert s.value == PERMITS + 1


def test_a_child_forked_by_a_thread_holds_nothing_either(s):
    def parent():
        take({"s": s}, 2)
        answers = []

        def in_thread():
            answers.append(Forked(give, {"s": s}, 1).wait())

        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        return answers

    assert Forked(parent).result() == [0]
    assert s.value == PERMITS + 1


@pytest.mark.parametrize("other", ["attached", "pickled", "created with exist_ok"])
def test_all_handles_of_a_process_count_together(s, other):
    again = {
        "attached": lambda: sem.attach(s.name),
        "pickled": lambda: pickle.loads(pickle.dumps(s)),
        "created with exist_ok": lambda: sem.create(s.name, 9, undo=True, exist_ok=True),
    }[other]

    def child():
        with closing(again()) as t:
            take({"s": s}, 2)
            take({"s": t}, 1)
            give({"s": t}, 2)
            give({"s": s}, 1)
            take({"s": t}, 1)

    Forked(child).result()
    assert s.value == PERMITS


@pytest.mark.parametrize("end", ["close", "garbage"])
@pytest.mark.parametrize("given", [0, 1, 2, 4])
def test_a_permit_outlives_the_handle_that_took_it(s, end, given):
    """It is the process that holds it, and gives it back by whatever handle."""

    def child():
        t = sem.attach(s.name)
        take({"s": t}, 2)
        if end == "close":
            t.close()
        del t
        s.close()
        gc.collect()
        with closing(sem.attach(s.name)) as t:
            assert t.value == PERMITS - 2
            if given:
                t.inc(given)

    Forked(child).result()
    assert s.value == PERMITS + max(given - 2, 0)


def test_handles_that_come_and_go_lose_no_count(s):
    """Also while threads use others."""

    def child():
        def work(seed):
            chance = random.Random(seed)
            for _ in range(150):
                with closing(sem.attach(s.name)) as t:
                    if t.dec(0):
                        with closing(sem.attach(s.name)) as u:
                            chance.choice([t, u, s]).inc()

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        value = s.value
        take({"s": s}, 1)
        return value

    assert Forked(child).result() == PERMITS
    assert s.value == PERMITS


def test_a_permit_released_for_another_process_is_released_again_when_that_exits(s):
    """That is what the kernel makes of it."""
    with Child(s=s) as holder, Child(s=s) as friend:
        holder.do(take, 2)
        friend.do(give, 1)
        assert s.value == PERMITS - 1
        friend.kill()
        assert s.value == PERMITS - 1
        holder.kill()
        assert s.value == PERMITS + 1


def test_a_permit_released_for_another_process_can_be_acquired_by_it_again(s):
    """If the process releases as many before it exits, nothing is released twice."""
    with Child(s=s) as holder, Child(s=s) as friend:
        holder.do(take, 1)
        friend.do(give, 1)
        friend.do(take, 1)
        holder.do(give, 1)
        assert s.value == PERMITS
        holder.kill()
        friend.kill()
    assert s.value == PERMITS + 1  # the friend's, which released before it acquired


def test_no_released_permit_of_a_killed_process_exceeds_the_maximum(s):
    with Child(s=s) as holder:
        holder.do(take, 3)
        s.inc(MAXIMUM - PERMITS + 3)
        assert s.value == MAXIMUM
    assert s.value == MAXIMUM


def test_all_the_permits_there_can_be(name):
    with closing(sem.create(name, MAXIMUM, undo=True)) as s:
        with pytest.raises(OverflowError):
            s.inc()
        with Child(s=s) as holder:
            holder.do(take, MAXIMUM)
            assert s.value == 0
            assert not s.dec(0)
            s.inc(2)
            # More than that one process cannot hold.
            with pytest.raises((OSError, OverflowError)):
                holder.do(take, 1)
            assert s.value == 2
            take({"s": s}, 2)
        assert s.value == MAXIMUM
        with pytest.raises(OverflowError):
            s.inc()
        with Child(s=s) as holder:
            holder.do(take, MAXIMUM)
            holder.do(give, MAXIMUM)
            assert s.value == MAXIMUM
        assert s.value == MAXIMUM


@pytest.mark.parametrize("value", [0, 1, 2, 1000, MAXIMUM - 1, MAXIMUM])
def test_values_that_can_be(name, value):
    with closing(sem.create(name, value, undo=True)) as s:
        assert s.undo
        assert s.value == value
        assert s.dec(0) == (value > 0)


@pytest.mark.parametrize("value", [MAXIMUM + 1, 65535, 65536, 2**31, 2**32, 2**70])
def test_values_that_cannot_be(name, value):
    with pytest.raises(OverflowError):
        sem.create(name, value, undo=True)
    assert_nothing_left(name)


# -- who waits ---------------------------------------------------------------

WAITS = {
    "dec()": lambda s: s.dec(),
    "dec(30)": lambda s: s.dec(30),
    "acquire()": lambda s: s.acquire(),
    "acquire(timeout=30)": lambda s: s.acquire(timeout=30),
    "with": lambda s: s.__enter__(),
}


@pytest.mark.parametrize("how", WAITS)
@pytest.mark.parametrize("end", ["kill", "end"])
def test_a_waiting_process_wakes_when_the_holder_is_killed(name, how, end):
    with closing(sem.create(name, 3, undo=True)) as s, Event() as ready, Child(s=s) as holder:
        holder.do(take, 3)

        def wait():
            ready.set()
            return WAITS[how](s), s.value

        with Forked(wait) as waiter:
            ready.wait()
            until_it_waits(waiter.pid)
            getattr(holder, end)()
            assert waiter.result() == (True, 2)
        assert s.value == 3


def test_as_many_wake_as_there_were_permits(name):
    with closing(sem.create(name, 2, undo=True)) as s, ExitStack() as stack:
        holder = stack.enter_context(Child(s=s))
        holder.do(take, 2)
        reader, writer = os.pipe()
        stack.callback(os.close, reader)

        def wait():
            os.write(writer, b"r")
            s.dec()
            os.write(writer, b"g")
            signal.pause()

        waiters = [stack.enter_context(Forked(wait)) for _ in range(4)]
        os.close(writer)
        assert b"".join(os.read(reader, 1) for _ in waiters) == b"rrrr"
        for waiter in waiters:
            until_it_waits(waiter.pid)
        holder.kill()
        assert os.read(reader, 1) + os.read(reader, 1) == b"gg"
        for waiter in waiters:
            until_it_waits(waiter.pid)  # two in pause(), two in dec()
        assert s.value == 0
        # Each kill from now on either releases a permit, which wakes another, or leaves one waiting process less.
        for waiter in waiters:
            waiter.kill()
        assert s.value == 2


def test_a_kill_of_a_waiting_process_changes_nothing(name):
    with closing(sem.create(name, 0, undo=True)) as s, Event() as ready:

        def wait():
            ready.set()
            s.dec()

        with Forked(wait) as waiter:
            ready.wait()
            until_it_waits(waiter.pid)
            waiter.kill()
        assert s.value == 0
        s.inc()
        assert s.dec(0)


def test_a_permit_given_to_one_who_is_being_killed_is_not_lost(name):
    """Whether the killed process acquired it or not, it is there."""
    chance = random.Random(5)
    with closing(sem.create(name, 0, undo=True)) as s:
        for turn in range(100):
            with Event() as ready:

                def wait(ready=ready):
                    ready.set()
                    s.dec()
                    signal.pause()

                with Forked(wait) as waiter:
                    ready.wait()
                    spin(chance.random() * 2e-4)
                    s.inc()
                    spin(chance.random() * 5e-5)
                    waiter.kill()
            assert s.value == turn + 1


def spin(seconds):
    """Let a moment pass, too short to sleep."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


# -- names and lifetimes ---------------------------------------------------------


def test_permits_come_back_to_a_semaphore_without_a_name(s):
    key = the_key_of(s.name)
    with Child(s=s) as holder:
        holder.do(take, 2)
        sem.unlink(s.name)
        with closing(sem.create(s.name, 1, undo=True)) as successor:
            assert s.value == PERMITS - 2
            holder.do(take, 1)
            holder.kill()
            assert s.value == PERMITS
            assert successor.value == 1
            s.close()
            assert not existing({key})
            assert successor.value == 1
    assert_nothing_left(s.name, key)


def test_the_creator_is_killed_and_the_others_go_on(name):
    with Child() as creator, Child() as second, Child() as other:
        creator.do(create_one, name, 3)
        key = the_key_of(name)
        second.do(attach, name)
        other.do(attach, name)
        creator.do(take, 2)
        second.do(take, 1)
        assert second.do(value) == 0
        creator.kill()
        assert second.do(value) == 2
        with closing(sem.attach(name)) as s:
            assert s.value == 2
            second.do(give)
            other.do(take, 3)
            second.kill()
            assert s.value == 0
            other.do(close)
            assert s.value == 0  # closing gives no permit
            other.kill()
            assert s.value == 3
    assert_nothing_left(name, key)


def create_one(scope, name, permits, **options):
    scope["s"] = sem.create(name, permits, undo=True, **options)


def value(scope, handle="s"):
    return scope[handle].value


@pytest.mark.gc
@pytest.mark.parametrize("reclaim", ["create", "create plain", "exist_ok", "attach", "unlink", "gc", "gc unlinked"])
def test_what_the_killed_held_is_reclaimed_with_its_set(name, reclaim):
    with Child() as creator, Child() as second:
        creator.do(create_one, name, 3)
        key = the_key_of(name)
        second.do(attach, name)
        if reclaim == "gc unlinked":
            sem.unlink(name)
        creator.do(take, 2)
        second.do(take, 1)
        creator.kill()
        second.kill()
    if reclaim.startswith("gc"):
        # What it prints is for test_cli: another run's gc may be faster.
        subprocess.run([sys.executable, "-m", "ipcio", "gc"], stdout=subprocess.DEVNULL, check=True)
    elif reclaim in {"attach", "unlink"}:
        with pytest.raises(FileNotFoundError):
            getattr(sem, reclaim)(name)
    else:
        with closing(sem.create(name, 1, exist_ok=reclaim == "exist_ok", undo=reclaim != "create plain")) as s:
            assert s.created
            assert permits_of(s) == 1
            assert not existing({key})
    assert_nothing_left(name, key)


@pytest.mark.gc
def test_gc_leaves_what_is_in_use_or_persists(name, unique):
    kept = unique()
    with Child() as creator:
        creator.do(create_one, name, 2)
        sem.create(kept, 4, undo=True, persist=True).close()
        keys = the_key_of(name), the_key_of(kept)
        assert ("sem", name) not in [each[:2] for each in remove_orphans()]
        sem.unlink(name)
        assert ("sem", name) not in [each[:2] for each in remove_orphans()]
        assert existing(set(keys)) == set(keys)
        assert creator.do(value) == 2
        sem.unlink(kept)
        creator.do(close)
    assert_nothing_left(name, *keys)
    assert_nothing_left(kept, *keys)


def orphaned_and_locked(name):
    """Leave an orphaned semaphore; return its key and a descriptor with the lock of a process that is to remove it."""
    with Child() as creator:
        creator.do(create_one, name, 3)
        key = the_key_of(name)
        fd = os.open(namespace.semaphore_path(name), os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_SH)  # another run's gc would come and take it
    fcntl.flock(fd, fcntl.LOCK_EX)
    return key, fd


@pytest.mark.parametrize("call", ["attach", "create", "exist_ok"])
def test_a_removal_killed_between_the_set_and_the_names_disturbs_no_process(name, call, monkeypatch):
    """Not even of one who looked while it was at work, and could join what it left."""
    key, locked = orphaned_and_locked(name)
    sysv.remove(sysv.find(key, os.geteuid()))
    real = lifetime.try_lock

    def lock(fd, kind):
        nonlocal locked
        got = real(fd, kind)
        if not got and locked >= 0:
            os.close(locked)  # as its exit would
            locked = -1
        return got

    monkeypatch.setattr(lifetime, "try_lock", lock)
    if call == "attach":
        with pytest.raises(FileNotFoundError):
            sem.attach(name)
    else:
        with closing(sem.create(name, 4, undo=True, exist_ok=call == "exist_ok")) as s:
            assert s.created
            assert s.value == 4
    assert_nothing_left(name, key)


@pytest.mark.gc
def test_gc_goes_past_what_another_program_keeps_locked(unique, monkeypatch):
    names = sorted(unique() for _ in range(3))
    monkeypatch.setattr(lifetime, "PATIENCE", 0.01)
    _, locked = orphaned_and_locked(names[0])
    try:
        for name in names[1:]:
            with Child() as creator:
                creator.do(create_one, name, 3)
        list(remove_orphans())
        for name in names[1:]:
            assert_nothing_left(name)
    finally:
        os.close(locked)
        list(remove_orphans())
    assert_nothing_left(names[0])


@pytest.mark.parametrize("first", [False, True], ids=["plain", "undo"])
@pytest.mark.parametrize("second", [False, True], ids=["plain", "undo"])
def test_exist_ok_attaches_either_kind(name, first, second):
    with closing(sem.create(name, 2, undo=first)) as s, closing(sem.create(name, 7, undo=second, exist_ok=True)) as t:
        assert (s.created, t.created) == (True, False)
        assert s.undo == t.undo == first
        t.inc()
        assert permits_of(s) == 3
        with pytest.raises(FileExistsError):
            sem.create(name, 7, undo=second)
    assert_nothing_left(name)


# -- persistent ones ---------------------------------------------------------


@pytest.mark.gc
def test_permits_come_back_to_a_persistent_semaphore(name):
    """Also while nobody has a handle."""
    sem.create(name, 4, undo=True, persist=True).close()
    key = the_key_of(name)
    try:
        with Child() as holder, Child() as other:
            for process in (holder, other):
                process.do(attach, name)
            holder.do(take, 2)
            other.do(take, 1)
            other.do(give, 2)
            holder.do(close)
            other.do(close)
            with closing(sem.attach(name)) as s:
                assert s.value == 3
            holder.kill()
            other.kill()
        for _ in range(2):
            with closing(sem.attach(name)) as s:
                assert s.value == 5
        list(remove_orphans())
        assert existing({key})
    finally:
        sem.unlink(name)
    assert_nothing_left(name, key)
    with pytest.raises(FileNotFoundError):
        sem.attach(name)


@pytest.mark.gc
@pytest.mark.parametrize("end", ["close", "kill"])
def test_an_unlinked_persistent_semaphore_ends_with_its_last_handle(name, end):
    with Child() as other, closing(sem.create(name, 4, undo=True, persist=True)) as s:
        key = the_key_of(name)
        other.do(attach, name)
        sem.unlink(name)
        with pytest.raises(FileNotFoundError):
            sem.attach(name)
        other.do(take, 2)
        s.close()
        assert existing({key})
        assert other.do(value) == 2
        if end == "close":
            other.do(close)
        else:
            other.kill()
            list(remove_orphans())
    assert_nothing_left(name, key)


@pytest.mark.gc
def test_a_persistent_semaphore_survives_every_holder(name):
    with Child() as creator:
        creator.do(create_one, name, 2, persist=True)
        creator.do(take, 2)
    key = the_key_of(name)
    list(remove_orphans())
    with closing(sem.attach(name)) as s:
        assert s.value == 2
    with pytest.raises(FileExistsError):
        sem.create(name, 2, undo=True)
    sem.unlink(name)
    assert_nothing_left(name, key)


# -- handles in other processes ----------------------------------------------


def die_with_permits(handle, ready):
    handle.dec()
    handle.dec()
    ready.set()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_permits_taken_by_a_pickled_handle_come_back(s, method):
    # In a program of its own: a fork server would outlive the test.
    code = (
        f"import multiprocessing, sys; sys.path[:] = {[os.path.dirname(__file__), *sys.path]!r}\n"
        "import test_undo; from ipcio import sem\n"
        "if __name__ == '__main__':\n"
        f"    s = sem.attach({s.name!r}); s.dec(); context = multiprocessing.get_context({method!r})\n"
        "    ready = context.Event()\n"
        "    child = context.Process(target=test_undo.die_with_permits, args=(s, ready)); child.start()\n"
        "    ready.wait(); child.join(); print(child.exitcode, s.value)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == f"{-signal.SIGKILL} {PERMITS - 1}\n"
    assert s.value == PERMITS


def test_a_closed_handle_says_so_and_gives_nothing(s):
    with Child(s=s) as holder:
        holder.do(take, 2)
        holder.do(attach, s.name, "t")
        holder.do(close)
        assert s.value == PERMITS - 2
        holder.do(give, 1, "t")
        assert s.value == PERMITS - 1
    assert s.value == PERMITS


def test_a_set_removed_behind_our_back_is_an_error_and_no_hang(s):
    number = sysv.find(the_key_of(s.name), os.geteuid())
    with Event() as ready:

        def wait():
            ready.set()
            try:
                s.dec()
                s.dec(5)
            except OSError as error:
                return error.errno, error.filename

        take({"s": s}, PERMITS)
        with Forked(wait) as waiter:
            ready.wait()
            until_it_waits(waiter.pid)
            sysv.remove(number)
            assert waiter.result() == (errno.EIDRM, s.name)
    for call in (s.dec, lambda: s.dec(0), s.inc, lambda: s.inc(3), lambda: s.value, lambda: sem.attach(s.name)):
        with pytest.raises(OSError) as caught:
            call()
        assert (caught.value.errno, caught.value.filename) == (errno.EIDRM, s.name)


# -- anything, in any order --------------------------------------------------


class Model:
    """What the kernel makes of a semaphore and of those who use it."""

    def __init__(self, permits, processes):
        self.value = permits
        self.held = [0] * processes

    def take(self, who):
        if not self.value:
            return False
        self.value -= 1
        self.held[who] += 1
        return True

    def give(self, who, n):
        self.value += n
        self.held[who] -= min(n, self.held[who])

    def die(self, who):
        self.value += self.held[who]
        self.held[who] = 0


def try_to_take(scope, handle):
    return scope[handle].dec(0)


def give_in_a_killed_child(scope, handle, taken, given):
    """Fork; the child acquires and releases and is killed by a signal; return how many it got."""
    reader, writer = os.pipe()

    def child():
        os.write(writer, bytes([sum(scope[handle].dec(0) for _ in range(taken))]))
        if given:
            scope[handle].inc(given)
        os.kill(os.getpid(), signal.SIGKILL)

    with Forked(child) as forked:
        os.close(writer)
        assert forked.wait() == -signal.SIGKILL
    with open(reader, "rb") as answer:
        return answer.read()[0]


def copy(scope, handle, how):
    old = scope[handle]
    scope[handle] = pickle.loads(pickle.dumps(old)) if how == "pickle" else sem.attach(old.name)
    if how != "pickle":
        old.close()


@pytest.mark.parametrize("seed", range(rounds(8)))
def test_random_operations_do_what_the_kernel_would(name, seed):
    chance = random.Random(seed)
    permits, processes = 4, 3
    model = Model(permits, processes)
    handles = ["s", "t"]

    def fresh():
        born = Child()
        stack.enter_context(born)
        for handle in handles:
            born.do(attach, name, handle)
        return born

    with closing(sem.create(name, permits, undo=True)) as s, ExitStack() as stack:
        running = [fresh() for _ in range(processes)]
        told = []
        for _ in range(400):
            who = chance.randrange(processes)
            handle = chance.choice(handles)
            act = chance.choices(["take", "give", "fork", "copy", "restart"], weights=[10, 6, 2, 2, 1])[0]
            told.append((act, who, handle))
            if act == "take":
                assert running[who].do(try_to_take, handle) == model.take(who), told
            elif act == "give":
                # Mostly as much as is held, or the value would only grow.
                n = chance.choice(
                    [1, model.held[who] or 1, model.held[who] or 1, model.held[who] + chance.randrange(1, 4)]
                )
                if model.value + n > 30:
                    n = 1
                running[who].do(give, n, handle)
                model.give(who, n)
            elif act == "fork":
                taken, given = chance.randrange(4), chance.randrange(3)
                got = running[who].do(give_in_a_killed_child, handle, taken, given)
                assert got == min(taken, model.value), told
                # What it got and did not give comes back; what it gave beyond stays.
                model.value += max(given - got, 0)
            elif act == "copy":
                running[who].do(copy, handle, chance.choice(["pickle", "attach"]))
            else:
                assert running[who].kill() == -signal.SIGKILL
                model.die(who)
                running[who] = fresh()
            assert s.value == model.value, told
        for who in range(processes):
            running[who].kill()
            model.die(who)
            assert s.value == model.value


# -- the campaign ------------------------------------------------------------

KILLS = rounds(250)


def use(s, chance):
    """Take permits in some way, and give them back."""
    act = chance.randrange(7)
    if act == 0:
        with s:
            assert s.value < 3
    elif act == 1:
        assert s.dec()
        assert s.inc()
    elif act == 2:
        if s.dec(0):
            s.inc()
    elif act == 3:
        if s.dec(chance.random() / 500):
            s.inc()
    elif act == 4:  # several, given at once
        assert s.acquire()
        more = s.acquire(False)
        s.release(1 + more)
    elif act == 5:  # by another handle, which comes and goes
        with closing(sem.attach(s.name)) as t:
            with t:
                pass
            assert t.dec()
        assert s.inc()
    else:
        with s:
            os.sched_yield()


def come_and_go(name, chance):
    """Create, attach, close and unlink a semaphore that others do the same to."""
    try:
        act = chance.randrange(6)
        if act == 0:
            h = sem.create(name, 2, undo=True)
        elif act < 4:
            h = sem.create(name, 2, undo=True, exist_ok=True)
        else:
            h = sem.attach(name)
        with closing(h):
            assert h.dec(0) + h.dec(0) <= 2
            if act == 2:
                sem.unlink(name)
    except (FileExistsError, FileNotFoundError):
        pass


def work(s, second, seed):
    chance = random.Random(seed)
    try:
        while True:
            for _ in range(chance.randrange(1, 30)):
                use(s, chance)
            come_and_go(second, chance)
    except BaseException:
        traceback.print_exc()  # it would not be asked for its answer
        raise


@pytest.mark.gc
@pytest.mark.slow
@campaign
def test_kills_at_random_moments_lose_no_permit_and_make_none(name, unique):
    second = unique()
    permits, workers = 3, 5
    chance = random.Random(KILLS)
    with closing(sem.create(name, permits, undo=True)) as s, ExitStack() as stack:
        key = the_key_of(name)
        running = []
        for kill in range(1, KILLS + 1):
            while len(running) < workers:
                running.append(Forked(work, s, second, chance.random()))
                stack.enter_context(running[-1])
            time.sleep(chance.random() ** 3 / 150)
            assert running.pop(chance.randrange(workers)).kill() == -signal.SIGKILL
            if kill % 50 == 0 or kill == KILLS:  # all were killed: the value must be exact
                assert {victim.kill() for victim in running} == {-signal.SIGKILL}
                running.clear()
                stack.pop_all()
                assert s.value == permits, kill
        assert [s.dec(0) for _ in range(permits + 1)] == [True] * permits + [False]
        s.inc(permits)
        assert s.value == permits
        assert keys_of(name) == {key}
    assert_nothing_left(name, key)
    keys = keys_of(second)
    list(remove_orphans())
    assert_nothing_left(second, *keys)


def test_the_set_of_an_unlinked_one_goes_with_a_forked_child_that_closes_last(name):
    """The child asks by a path, and only the hidden one is left."""
    s = sem.create(name, PERMITS, undo=True)
    key = the_key_of(name)
    with Event() as go:

        def child():
            go.wait()
            s.close()

        with Forked(child) as forked:
            sem.unlink(name)
            s.close()
            assert existing({key})
            go.set()
            forked.result()
    assert_nothing_left(name, key)


def test_a_release_that_fails_is_an_error_whatever_a_signal_handler_does_to_errno(name):
    """Such a handler may run after any step of Python; here it is a profiler that does."""
    with closing(sem.create(name, 0, undo=True)) as s:
        sysv.remove(sysv.find(the_key_of(name), os.geteuid()))
        try:
            sys.setprofile(lambda *_: ctypes.set_errno(errno.EINTR))
            with pytest.raises(OSError) as caught:
                s.inc(2)
        finally:
            sys.setprofile(None)
    assert caught.value.errno == errno.EIDRM


def test_another_set_that_has_the_key_by_now_is_left_alone(name):
    """The set was removed by hand, and the same user made one of the same key."""
    s = sem.create(name, PERMITS, undo=True)
    key = the_key_of(name)
    sysv.remove(sysv.find(key, os.geteuid()))
    number = sysv.make(key, 0o600)
    try:
        with pytest.raises(OSError, match="set is not here"):
            sem.attach(name)
        s.close()
        assert existing({key})
    finally:
        sysv.remove(number)
    assert_nothing_left(name, key)


def test_a_key_that_another_set_has_is_not_taken_and_no_file_stands_for_that_set(name, monkeypatch):
    key = int.from_bytes(os.urandom(3), "little") + 1
    number = sysv.make(key, 0o600)
    drawn = iter([(key - 1).to_bytes(4, "little")])
    urandom = os.urandom
    monkeypatch.setattr(os, "urandom", lambda n: next(drawn, None) or urandom(n))
    try:
        with closing(sem.create(name, PERMITS, undo=True)):
            assert the_key_of(name) != key
            assert not os.path.lexists(f"{namespace.directory()}/{HIDDEN}{key:08x}")
        assert existing({key})
    finally:
        sysv.remove(number)
    assert_nothing_left(name)
    assert next(drawn, None) is None
