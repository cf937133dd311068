"""Locks between processes: exact counts, kills, fork, Ctrl-C, many waiters, and programs in C and Lua."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import struct
import threading
import time
from contextlib import contextmanager
from functools import partial
from itertools import starmap

import pytest
from abilities import lacks
from campaigns import rounds
from children import KILL, Event, Forked
from peers import PeerError
from strangers import apart, lock, query, trylock, unlock
from waiting import blocked, until_it_waits
from witnesses import Witness, lua

from ipcio import filelock

try:
    import fcntl
except ImportError:  # there are no classic locks, then
    fcntl = None

NOBODY = 65534
DEADLINE = 30  # seconds until what does not happen is a failed test

needs_fork = pytest.mark.needs("fork")

# Both ways to wait: in the kernel, and with a timeout that is not to run out.
waits = pytest.mark.parametrize("timeout", [None, DEADLINE], ids=["for ever", "timeout"])


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    return str(path)


def opened(path):
    return open(path, "r+b", buffering=0)


def free(path, mode="rw", offset=0, nbytes=0):
    """Whether nobody at all is in the way: asked through an open file, or by a process, that has no locks."""
    with apart(partial(opened, path)) as file:
        return query(file, mode, offset, nbytes) is None


def take(path, mode="rw", offset=0, nbytes=0, timeout=None):
    with opened(path) as file:
        return filelock.lock(file, mode, offset, nbytes, timeout=timeout)


def holding(peer, path, arguments="", user=None):
    """A peer that has a lock."""
    return peer(
        "from ipcio import filelock",
        f"f = open({path!r}, 'r+b', buffering=0)",
        f"filelock.lock(f{arguments})",
        user=user,
    )


class Elsewhere:
    """A function of this module at work in another process: a forked one or, where nothing forks, a peer."""

    def __init__(self, peer, function, *arguments):
        if not lacks("fork"):
            self.result = Forked(function, *arguments).result
        else:
            other = peer(f"from {__name__} import {function.__name__}")
            other.send("ask", f"{function.__name__}(*{arguments!r})")
            self.result = other.answer


class InThread:
    """The same in a thread, for a function that has a file of its own."""

    def __init__(self, function, *arguments):
        self.returned = []
        self.thread = threading.Thread(target=lambda: self.returned.append(function(*arguments)), daemon=True)
        self.thread.start()

    def result(self):
        self.thread.join(DEADLINE)
        return self.returned[0]


@contextmanager
def waiter(function, *arguments):
    """Somebody who waits inside ``function(*arguments)``, in another process if there can be one."""
    if not lacks("fork"):
        with blocked(function, *arguments) as forked:
            yield forked
    else:
        thread = InThread(function, *arguments)
        until_it_waits(os.getpid(), thread.thread.native_id)
        yield thread
        thread.result()


# -- an exact end --------------------------------------------------------------

RECORDS, WIDTH = 12, 10
HANDLES = {
    "raw": lambda path: open(path, "r+b", buffering=0),
    "buffered": lambda path: open(path, "r+b"),
    "text": lambda path: open(path, "r+", encoding="ascii", newline=""),
}


def count_up(path, kind, seed, times):
    """Add one to a record chosen at random, so many times; what is read before the lock is of no use after it."""
    choose = random.Random(seed)
    with HANDLES[kind](path) as file:
        for _ in range(times):
            at = choose.randrange(RECORDS) * WIDTH
            file.seek(choose.randrange(RECORDS) * WIDTH)
            file.read(WIDTH)  # reads ahead
            with filelock.locked(file, choose.choice(["w", "rw"]), at, WIDTH, timeout=choose.choice([None, DEADLINE])):
                file.seek(at)
                text = f"{int(file.read(WIDTH)) + 1:{WIDTH}}"
                file.seek(at)
                file.write(text if kind == "text" else text.encode())


def count_up_in_threads(path, kinds, seed, times):
    failures = []

    def run(kind, number):
        try:
            count_up(path, kind, f"{seed} {number}", times)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(kind, number)) for number, kind in enumerate(kinds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def total(path):
    with open(path) as file:
        text = file.read()
    assert len(text) == RECORDS * WIDTH
    return sum(int(text[at : at + WIDTH]) for at in range(0, len(text), WIDTH))


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "records"
    path.write_text(f"{0:{WIDTH}}" * RECORDS)
    return str(path)


@pytest.mark.parametrize("kinds", [("raw",), ("buffered",), ("text",), tuple(HANDLES)], ids="+".join)
def test_many_processes_lose_no_count(records, peer, kinds):
    many, times = (3, rounds(80)) if lacks("fork") else (8, rounds(150))  # what is no copy starts slowly
    each = [kinds[number % len(kinds)] for number in range(many)]
    running = [Elsewhere(peer, count_up, records, kind, number, times) for number, kind in enumerate(each)]
    for other in running:
        other.result()
    assert total(records) == many * times


@pytest.mark.needs("open file locks")
def test_threads_with_a_handle_each_lose_no_count(records, peer):
    """Two processes of four threads."""
    times = rounds(50 if lacks("fork") else 100)
    running = [
        Elsewhere(peer, count_up_in_threads, records, ["raw", "buffered", "text", "buffered"], number, times)
        for number in range(2)
    ]
    for other in running:
        other.result()
    assert total(records) == 2 * 4 * times


@needs_fork
def test_readers_never_see_half_of_what_a_writer_does(path):
    """The writer makes all bytes equal, one at a time; readers share."""
    with Event() as stop:

        def write():
            with opened(path) as file:
                for number in range(200):
                    with filelock.locked(file, "w", 0, 4):
                        for at in range(4):
                            file.seek(at)
                            file.write(bytes([number]))
            stop.set()

        def read():
            seen = set()
            with open(path, "rb") as file:
                while max(seen, default=0) < 199:
                    with filelock.locked(file, "r", 0, 4):
                        file.seek(0)
                        found = set(file.read(4))
                    assert len(found) == 1
                    seen |= found

        with Forked(read) as one, Forked(read) as two, Forked(write) as writer:
            stop.wait()
            for forked in (writer, one, two):
                forked.result()


@needs_fork
def test_two_processes_write_a_diary_together(path):
    """Every line is written in full knowledge of those before, through one text file that stays open."""
    rounds = 60
    os.truncate(path, 0)

    def write(me):
        with open(path, "a+", encoding="utf-16-le", newline="") as file:
            file.seek(0)
            seen = []
            while len(seen) < 2 * rounds:
                with filelock.locked(file):
                    seen += [line.rstrip() for line in iter(file.readline, "")]
                    if len(seen) < 2 * rounds and len(seen) % 2 == me:
                        seen.append(f"{len(seen)} après {seen[-1].partition(' ')[0] if seen else 'rien'}")
                        file.write(seen[-1] + "\r\n")
            return seen

    with Forked(write, 0) as one, Forked(write, 1) as two:
        expected = ["0 après rien", *(f"{number} après {number - 1}" for number in range(1, 2 * rounds))]
        assert one.result() == expected
        assert two.result() == expected


# -- kills ---------------------------------------------------------------------


def command(pid):
    with open(f"/proc/{pid}/comm") as file:
        return file.read().rstrip("\n")


def become_cat(holder, *, keep):
    """Have the holder turn into another program; return when it has."""
    if keep:
        holder.run("os.set_inheritable(f.fileno(), True)")
    holder.send("run", "os.execvp('cat', ['cat'])")
    end = time.monotonic() + DEADLINE
    while command(holder.pid) != "cat":
        assert time.monotonic() < end
        time.sleep(0.001)


@waits
@pytest.mark.parametrize("how", ["kill", "exit", pytest.param("exec", marks=needs_fork), "close", "drop"])
def test_the_end_of_the_holder_lets_the_waiter_in(path, peer, how, timeout):
    holder = holding(peer, path, ", 'rw', 5, 10")
    with waiter(take, path, "r", 14, 0, timeout) as waiting:
        assert not free(path, "r", 14, 1)
        if how == "kill":
            assert holder.kill() == (-KILL if hasattr(signal, "SIGKILL") else 1)
        elif how == "exit":
            holder.send("run", "os._exit(3)")
            assert holder.process.wait(DEADLINE) == 3
        elif how == "exec":
            become_cat(holder, keep=False)
        elif how == "close":
            holder.run("f.close()")
        else:
            holder.run("import warnings; warnings.simplefilter('ignore'); del f; gc.collect()")
        assert waiting.result() is True
    assert free(path)


@needs_fork
def test_a_lock_outlasts_an_exec_that_keeps_the_file_open(path, peer):
    holder = holding(peer, path)
    become_cat(holder, keep=True)
    with opened(path) as file:
        assert filelock.query(file) == (0, 0, "rw", holder.pid)
    with blocked(take, path) as waiting:
        holder.kill()
        assert waiting.result() is True


@needs_fork
@waits
def test_a_killed_waiter_leaves_nothing(path, peer, timeout):
    """Neither a lock nor a place in the queue."""
    holder = holding(peer, path)
    with (
        blocked(partial(take, timeout=timeout), path) as doomed,
        blocked(partial(take, timeout=timeout), path) as waiting,
    ):
        assert doomed.kill() == -signal.SIGKILL
        holder.run("filelock.unlock(f)")
        assert waiting.result() is True
    assert free(path)


@pytest.mark.needs("open file locks")
def test_the_holders_own_other_files_may_be_closed(path, peer):
    """What loses a classic lock."""
    holder = holding(peer, path)
    holder.run(f"open({path!r}).close(); os.close(os.open({path!r}, os.O_RDWR))")
    assert not free(path)
    holder.run("os.close(os.dup(f.fileno()))")
    assert not free(path)
    holder.run("f.close()")
    assert free(path)


# -- fork ----------------------------------------------------------------------


@needs_fork
@pytest.mark.needs("open file locks")
def test_a_child_shares_its_parents_lock_and_what_it_opens_itself_does_not(path):
    with opened(path) as file:
        filelock.lock(file, "rw", 0, 10)

        def child():
            with opened(path) as own:
                return filelock.trylock(file, "rw", 0, 20), filelock.trylock(own, "r", 0, 1)

        assert Forked(child).result() == (True, False)
        assert not free(path, "r", 10, 10)  # what the child locked is the parent's as well
        filelock.unlock(file)
        assert free(path)


@needs_fork
@pytest.mark.parametrize("who", ["parent", "child"])
@pytest.mark.needs("open file locks")
def test_parent_or_child_may_unlock(path, who):
    with opened(path) as file, Event() as go, Event() as done:
        filelock.lock(file)

        def child():
            go.wait()
            if who == "child":
                filelock.unlock(file)
            done.set()
            go.wait()

        with Forked(child) as forked:
            assert not free(path)
            if who == "parent":
                filelock.unlock(file)
            go.set()
            done.wait()
            assert free(path)
            assert filelock.trylock(file)  # and both still have it open
            go.set()
            forked.result()
        assert not free(path)


@needs_fork
@pytest.mark.parametrize("first", ["parent", "child"])
@pytest.mark.needs("open file locks")
def test_a_lock_lasts_until_the_last_of_a_forked_pair_is_gone(path, first):
    file = opened(path)
    filelock.lock(file)
    with Event() as never, Forked(never.wait) as child:
        if first == "parent":
            file.close()
            with opened(path) as other:
                assert filelock.query(other) == (0, 0, "rw", child.pid)
            with blocked(take, path) as waiting:
                child.kill()
                assert waiting.result() is True
        else:
            child.kill()
            assert not free(path)
            file.close()
    assert free(path)


# -- waiting -------------------------------------------------------------------


def system_call(pid):
    """What a sleeping process asked the kernel for: its first arguments."""
    with open(f"/proc/{pid}/syscall") as file:
        return [int(word, 16) for word in file.read().split()[1:3]]


def tells_system_calls():
    try:
        with open("/proc/self/syscall"):
            return True
    except OSError:
        return False


def switches(pid):
    """How often the process has gone to sleep."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))


@needs_fork
@pytest.mark.able(probe=tells_system_calls)
@pytest.mark.parametrize("arguments", [{}, {"timeout": None}, {"timeout": -1}, {"timeout": float("inf")}], ids=str)
def test_a_wait_for_ever_is_the_kernels(path, arguments):
    with opened(path) as holder, opened(path) as file:
        filelock.lock(holder)
        with blocked(partial(filelock.lock, **arguments), file) as waiting:
            command = fcntl.F_SETLKW if lacks("open file locks") else fcntl.F_OFD_SETLKW
            assert system_call(waiting.pid) == [file.fileno(), command]
            before = switches(waiting.pid)
            time.sleep(0.05)  # in which nothing shall happen
            assert switches(waiting.pid) == before
            filelock.unlock(holder)
            assert waiting.result() is True


@waits
def test_other_threads_run_while_one_waits(path, timeout):
    """Only this very process can let the waiter in."""
    with apart(partial(opened, path)) as holder, opened(path) as file:
        lock(holder)
        got = []
        waiter = threading.Thread(target=lambda: got.append(filelock.lock(file, timeout=timeout)))
        waiter.start()
        end = time.monotonic() + DEADLINE
        while not lacks("proc") and not asleep(waiter.native_id):
            assert time.monotonic() < end
        assert got == []
        unlock(holder)
        waiter.join()
        assert got == [True]


def asleep(thread):
    with open(f"/proc/self/task/{thread}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


@pytest.mark.parametrize("timeout", [0, 0.02])
def test_a_timeout_runs_out_while_the_range_is_held(path, peer, timeout):
    holding(peer, path, ", 'r', 5, 10")
    with opened(path) as file:
        with pytest.raises(TimeoutError) as caught:
            filelock.lock(file, "rw", 0, 8, timeout=timeout)
        assert (caught.value.errno, caught.value.filename) == (errno.ETIMEDOUT, path)
        assert filelock.lock(file, "r", 0, 8, timeout=timeout) is True
        assert filelock.lock(file, "rw", 15, 0, timeout=timeout) is True


@needs_fork
@waits
def test_all_of_many_waiters_are_served(path, timeout):
    with opened(path) as holder:
        filelock.lock(holder)
        waiting = [Forked(take, path, "rw", 0, 1, timeout) for _ in range(12)]
        waiting += [Forked(take, path, "r", 0, 2, timeout) for _ in range(12)]
        try:
            for forked in waiting:
                until_it_waits(forked.pid)
            filelock.unlock(holder)
            assert [forked.result() for forked in waiting] == [True] * 24
        finally:
            for forked in waiting:
                forked.kill()
    assert free(path)


@waits
def test_waiters_for_other_bytes_do_not_wait_for_one_another(path, timeout):
    with opened(path) as holder:
        filelock.lock(holder, "rw", 0, 1)
        filelock.lock(holder, "rw", 1, 1)
        with waiter(take, path, "rw", 0, 1, timeout) as first, waiter(take, path, "rw", 1, 1, timeout) as second:
            filelock.unlock(holder, 1, 1)
            assert second.result() is True
            if not lacks("fork"):
                until_it_waits(first.pid)
            assert not free(path, "rw", 0, 1)
            filelock.unlock(holder, 0, 1)
            assert first.result() is True


# -- changing the kind ---------------------------------------------------------


@waits
def test_a_writer_that_becomes_a_reader_lets_readers_in(path, peer, timeout):
    holder = holding(peer, path)
    with waiter(take, path, "r", 0, 0, timeout) as reader:
        holder.run("filelock.lock(f, 'r')")
        assert reader.result() is True
    assert free(path, "r")
    assert not free(path)


@waits
def test_a_reader_becomes_a_writer_when_the_other_readers_are_gone(path, peer, timeout):
    other = holding(peer, path, ", 'r'")

    def upgrade():
        with opened(path) as file:
            filelock.lock(file, "r")
            filelock.lock(file, "rw", timeout=timeout)
            return free(path, "r")

    with waiter(upgrade) as upgrading:
        assert free(path, "r")  # it goes on to share while it waits
        other.run("filelock.unlock(f)")
        assert upgrading.result() is False


@pytest.mark.needs("holders")
def test_two_readers_that_both_want_to_write_end_with_their_timeouts(path, peer):
    """Each waits for the other to stop reading; neither loses its lock."""
    readers = [holding(peer, path, ", 'r'") for _ in range(2)]
    for reader in readers:
        reader.run("""if True:
            def upgrade():
                try:
                    return filelock.lock(f, "rw", timeout=0.1)
                except TimeoutError as error:
                    return str(error)
        """)
        reader.send("ask", "upgrade()")
    for reader, other in zip(readers, reversed(readers), strict=True):
        assert re.search(in_words(other.pid), reader.answer())
    for reader in readers:
        assert free(path, "r")
        assert not free(path)
        reader.run("filelock.unlock(f)")
    assert free(path)


@pytest.mark.needs("signals")
def test_of_two_that_want_to_write_one_can_when_the_other_gives_up(path, peer):
    stubborn, patient = holding(peer, path, ", 'r'"), holding(peer, path, ", 'r'")
    stubborn.send("run", "filelock.lock(f, 'rw')")
    until_it_waits(stubborn.pid)
    with pytest.raises(PeerError, match=in_words(stubborn.pid)):
        patient.run("filelock.lock(f, 'rw', timeout=0.02)")
    patient.run("filelock.unlock(f)")
    stubborn.answer()
    assert not free(path, "r")


# -- signals -------------------------------------------------------------------


@needs_fork
@waits
def test_ctrl_c_ends_a_wait(path, peer, timeout):
    holding(peer, path, ", 'r'")

    def wait():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with opened(path) as file:
            filelock.lock(file, "r", 0, 10)
            try:
                ready.set()
                filelock.lock(file, "rw", 20, 10, timeout=timeout)
            except KeyboardInterrupt:
                return free(path, "r", 20, 10), filelock.lock(file, "r", 20, 10)
        return None

    with Event() as ready, Forked(wait) as waiting:
        ready.wait()
        until_it_waits(waiting.pid)
        os.kill(waiting.pid, signal.SIGINT)
        assert waiting.result() == (True, True)


@needs_fork
@waits
def test_a_wait_goes_on_after_a_signal_whose_handler_does_not_raise(path, timeout):
    with opened(path) as holder, Event() as handled:

        def wait():
            signal.signal(signal.SIGUSR1, lambda *_: handled.set())
            with opened(path) as file:
                ready.set()
                return filelock.lock(file, timeout=timeout)

        filelock.lock(holder)
        with Event() as ready, Forked(wait) as waiting:
            ready.wait()
            for _ in range(5):
                until_it_waits(waiting.pid)
                os.kill(waiting.pid, signal.SIGUSR1)
                handled.wait()
            until_it_waits(waiting.pid)
            filelock.unlock(holder)
            assert waiting.result() is True


@pytest.mark.needs("signals")
def test_signals_do_not_make_a_timeout_longer(path):
    """Each signal cuts one sleep short; the end stays where it was."""
    with apart(partial(opened, path)) as holder, opened(path) as file:
        lock(holder)
        before = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            with pytest.raises(TimeoutError):
                filelock.lock(file, timeout=0.05)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def compete(path):
    """Lock and unlock until killed, so that others have to wait and do not."""
    choose = random.Random(5)
    with opened(path) as file:
        while True:
            with filelock.locked(file, "rw"):
                time.sleep(choose.uniform(0, 0.0004))
            time.sleep(choose.uniform(0, 0.0004))


def interrupt(path, kind, timeout, rounds, longest):
    """Be interrupted in or near `lock`, so many times; return how often that was before it returned.

    A timer of the kernel stands for the key: what it runs is what Ctrl-C runs.
    """
    choose = random.Random(7)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    call = partial(filelock.lock, timeout=timeout)
    interrupted = 0
    returned = []  # filled before any handler can run
    with HANDLES[kind](path) as file, apart(partial(opened, path)) as other:
        for _ in range(rounds):
            try:
                # Again after a while: an import, as that of the first wait, may swallow what a handler raises.
                signal.setitimer(signal.ITIMER_REAL, choose.uniform(0.000001, longest), 0.1)
                while True:
                    returned.extend(starmap(call, ((file, "rw"),)))
                    filelock.unlock(file)
                    returned.clear()
            except KeyboardInterrupt:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if not returned:
                interrupted += 1
                # Not ours: whoever asks by another open file gets it.
                lock(other, timeout=DEADLINE / 6)
                unlock(other)
            filelock.unlock(file)
            returned.clear()
    return interrupted


@needs_fork
@waits
@pytest.mark.parametrize("kind", HANDLES)
@pytest.mark.sampled(3)
def test_an_interrupted_call_that_competes_has_no_lock(path, kind, timeout):
    with Forked(compete, path):
        assert Forked(interrupt, path, kind, timeout, 400, 0.001).result() > 10


@needs_fork
@pytest.mark.parametrize("kind", HANDLES)
def test_who_is_interrupted_in_a_call_that_need_not_wait_has_no_lock(path, kind):
    assert Forked(interrupt, path, kind, None, 3000, 0.00005).result() > 10


# -- who is in the way ---------------------------------------------------------


def in_words(pid):
    """What matches the description of a process."""
    return f"process {pid}," if lacks("commands") else rf"process {pid} \(.+\),"


def told(path, pid, mode="rw", start=0, length=0):
    """Whether `query` and `TimeoutError` name that process."""
    with opened(path) as file:
        assert filelock.query(file, "rw", start, length) == (start, length, mode, pid)
        with pytest.raises(TimeoutError, match=in_words(pid)):
            filelock.lock(file, "rw", start, length, timeout=0)
        return True


@pytest.mark.needs("holders")
@pytest.mark.parametrize("mode", ["r", "rw"])
def test_the_holder_is_named(path, peer, mode):
    bystander = peer("from ipcio import filelock", f"f = open({path!r}, 'r+b'); filelock.lock(f, 'rw', 90, 5)")
    holder = holding(peer, path, f", {mode!r}, 5, 10")
    assert told(path, holder.pid, mode, 5, 10)
    assert told(path, bystander.pid, "rw", 90, 5)


@pytest.mark.needs("holders")
def test_the_holder_of_a_classic_lock_is_named(path, peer):
    holder = peer(f"import fcntl; f = open({path!r}, 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX, 10, 5)")
    assert told(path, holder.pid, "rw", 5, 10)


@needs_fork
@pytest.mark.needs("open file locks")
def test_one_of_a_forked_pair_is_named_and_then_the_one_that_is_left(path, peer):
    asking = peer("from ipcio import filelock", f"f = open({path!r}, 'r+b')")
    with opened(path) as file, Event() as never:
        filelock.lock(file)
        with Forked(never.wait) as child:
            assert asking.ask("filelock.query(f).pid") in {os.getpid(), child.pid}
            file.close()
            assert asking.ask("filelock.query(f).pid") == child.pid
    assert asking.ask("filelock.query(f)") is None


@pytest.mark.needs("holders")
@pytest.mark.needs("open file locks")
def test_a_holder_in_this_very_process_is_named(path):
    with opened(path) as holder:
        filelock.lock(holder, "r", 3, 0)
        assert told(path, os.getpid(), "r", 3, 0)


@pytest.mark.needs("holders", "users", "witness")
@pytest.mark.root
def test_another_users_process_is_named_to_who_may_look(unique, peer):
    path = f"/dev/shm/{unique()}"
    with open(path, "xb") as file:
        os.fchmod(file.fileno(), 0o666)
    try:
        holder = holding(peer, path, user=NOBODY)
        assert told(path, holder.pid)
        asking = peer("from ipcio import filelock", f"f = open({path!r}, 'r+b')", user=NOBODY - 1)
        pid, who = None, "another process"  # whose open files may not be looked at
        if lacks("open file locks"):
            pid, who = holder.pid, f"process {holder.pid}.*"
        assert asking.ask("tuple(filelock.query(f))") == (0, 0, "rw", pid)
        with pytest.raises(PeerError, match=f"locked by {who}, all bytes from 0 on"):
            asking.run("filelock.lock(f, timeout=0)")
    finally:
        os.unlink(path)


# -- programs that know nothing of ipcio ---------------------------------------

# The same language as lock_peer.c, but for "test", which LuaIPC has no word for.
_LUA = """
local filelock = require "ipc.filelock"
local file = assert(io.open(arg[1], "r+b"))
local function say(answer) print(answer); io.stdout:flush() end
local function integer(text) return math.floor(tonumber(text)) end

say("open")
for line in io.lines() do
  local start, length = line:match("^drop (%d+) (%d+)$")
  if start then
    say(filelock.unlock(file, integer(start), integer(length)) and "done" or "again")
  else
    local verb, mode
    verb, mode, start, length = line:match("^(%l+) (%l+) (%d+) (%d+)$")
    if verb == "wait" then say("waiting") end
    local call = verb == "wait" and filelock.lock or filelock.trylock
    say(call(file, mode, integer(start), integer(length)) and "done" or "again")
  end
end
"""


@pytest.fixture(scope="session")
def lua_program(tmp_path_factory):
    path = tmp_path_factory.mktemp("lua") / "lock_peer.lua"
    path.write_text(_LUA)
    return path


@pytest.fixture
def start(request, path, compiled):
    """Start one of those programs on the file."""
    started = []

    def start(kind):
        if kind == "LuaIPC":
            program = [lua("ipc.filelock"), request.getfixturevalue("lua_program")]
        else:
            program = [compiled("lock_peer.c")]
        started.append(Witness(*program, path, kind))
        assert started[-1].said == "open"
        return started[-1]

    yield start
    for other in started:
        other.stop()


of_open_files = pytest.param("open", marks=pytest.mark.needs("open file locks"))


@pytest.fixture(
    params=[
        "classic",
        of_open_files,
        pytest.param("LuaIPC", marks=pytest.mark.able(probe=partial(lua, "ipc.filelock"))),
    ]
)
def other(start, request):
    return start(request.param)


@pytest.fixture(params=["classic", of_open_files])
def c(start, request):
    """C alone, which can also ask who is in the way."""
    return start(request.param)


@pytest.mark.needs("classic locks")
def test_what_others_hold_ipcio_does_not_get(path, other):
    with opened(path) as file:
        assert other.ask("try rw 10 5") == "done"
        assert other.ask("try r 20 5") == "done"
        assert not filelock.trylock(file, "rw", 14, 1)
        assert not filelock.trylock(file, "r", 0, 11)
        assert not filelock.trylock(file, "rw", 24, 0)
        assert filelock.trylock(file, "r", 15, 10)
        assert filelock.trylock(file, "rw", 25, 0)
        assert filelock.trylock(file, "rw", 0, 10)
        assert other.ask("drop 10 1") == "done"
        assert filelock.trylock(file, "rw", 10, 1)
        assert not filelock.trylock(file, "rw", 11, 1)


@pytest.mark.needs("classic locks")
def test_what_ipcio_holds_others_do_not_get(path, other):
    with opened(path) as file:
        filelock.lock(file, "rw", 10, 5)
        filelock.lock(file, "r", 20, 0)
        assert other.ask("try rw 14 1") == "again"
        assert other.ask("try r 0 11") == "again"
        assert other.ask("try rw 1000000 1") == "again"
        assert other.ask("try r 15 100") == "done"
        assert other.ask("try rw 0 10") == "done"
        filelock.unlock(file, 10, 1)
        assert other.ask("try rw 10 1") == "done"
        assert other.ask("try rw 11 1") == "again"


@needs_fork
@waits
@pytest.mark.parametrize("end", ["drop", "death"])
def test_ipcio_waits_for_others(path, other, timeout, end):
    assert other.ask("try rw 10 5") == "done"
    with blocked(take, path, "r", 12, 1, timeout) as waiting:
        if end == "drop":
            assert other.ask("drop 10 5") == "done"
        else:
            other.end("kill")
        assert waiting.result() is True


@pytest.mark.needs("classic locks")
@pytest.mark.parametrize("end", ["unlock", "close", "downgrade"])
def test_others_wait_for_ipcio(path, other, end):
    with opened(path) as file:
        filelock.lock(file, "rw", 10, 5)
        other.block("wait r 12 1")
        if end == "unlock":
            filelock.unlock(file, 10, 5)
        elif end == "close":
            file.close()
        else:
            filelock.lock(file, "r", 10, 5)
        assert other.answer() == "done"
        assert not free(path, "rw", 12, 1)


@pytest.mark.needs("classic locks")
def test_c_is_told_of_ipcios_locks(path, c):
    """The system has no process to name for a lock of an open file."""
    owner = os.getpid() if lacks("open file locks") else -1
    with opened(path) as file:
        assert c.ask("test rw 0 0") == "free"
        filelock.lock(file, "r", 10, 5)
        assert c.ask("test rw 0 0") == f"r 10 5 {owner}"
        assert c.ask("test r 0 0") == "free"
        filelock.lock(file, "w", 10, 0)
        assert c.ask("test r 12 1") == f"rw 10 0 {owner}"
        filelock.unlock(file)
        assert c.ask("test rw 0 0") == "free"


@pytest.mark.needs("holders")
def test_ipcio_tells_of_cs_locks(path, c):
    assert c.ask("try rw 10 5") == "done"
    assert told(path, c.pid, "rw", 10, 5)
    assert c.ask("try r 10 0") == "done"
    assert told(path, c.pid, "r", 10, 0)


@pytest.mark.needs("classic locks")
def test_a_waiter_in_c_does_not_count_as_a_holder(path, c):
    """Nor does it hold up who asks for what it waits for."""
    with opened(path) as file:
        filelock.lock(file, "r", 10, 5)
        c.block("wait rw 0 0")
        assert free(path, "r")
        with apart(partial(opened, path)) as second:
            assert trylock(second, "r", 10, 5)
            filelock.unlock(file)
            assert not filelock.trylock(file, "rw", 10, 5)
        assert c.answer() == "done"


class Party:
    """A process with an open file of its own; the same words for one in Python and one in C."""

    def __init__(self, peer, start, path, kind):
        self.kind = kind
        if kind != "ipcio":
            self.c = start(kind)
            self.pid = self.c.pid
            self.kill = partial(self.c.end, "kill")
        else:
            self.python = peer("from ipcio import filelock", f"f = open({path!r}, 'r+')")
            self.pid = self.python.pid
            self.kill = self.python.kill

    def lock(self, mode, *span):
        if self.kind == "ipcio":
            return self.python.ask(f"filelock.trylock(f, {mode!r}, *{span})")
        return {"done": True, "again": False}[self.c.ask(f"try {mode} {span[0]} {span[1]}")]

    def unlock(self, *span):
        if self.kind == "ipcio":
            return self.python.ask(f"filelock.unlock(f, *{span})")
        return self.c.ask(f"drop {span[0]} {span[1]}") == "done"


@pytest.mark.needs("classic locks")
@pytest.mark.parametrize("seed", range(2))
def test_random_ranges_of_several_processes_against_a_model(path, peer, start, seed):
    """Each party has some bytes, or the last of them and all to infinity, shared or for itself."""
    size, base = 12, [40, 2**63 - 12][seed]
    choose = random.Random(seed)
    kinds = ["ipcio", "ipcio", "classic", "classic" if lacks("open file locks") else "open"]
    parties = [Party(peer, start, path, kind) for kind in kinds]
    have = [[""] * size for _ in kinds]
    with opened(path) as probe:
        for step in range(rounds(1200)):
            me = choose.randrange(len(kinds))
            first = choose.randrange(size)
            last = choose.randrange(first, size)  # of the bytes
            span = base + first, 0 if last == size - 1 else last - first + 1
            mode = choose.choice(["r", "rw"])
            if choose.random() < 0.02:  # the C programs start fast
                if kinds[me] != "ipcio":
                    parties[me].kill()
                    parties[me] = Party(peer, start, path, kinds[me])
                    have[me] = [""] * size
            elif choose.random() < 0.3:
                assert parties[me].unlock(*span) is True
                have[me][first : last + 1] = [""] * (last - first + 1)
            else:
                others = {
                    cell for other in range(len(kinds)) if other != me for cell in have[other][first : last + 1] if cell
                }
                fine = not others or (others == {"r"} and mode == "r")
                assert parties[me].lock(mode, *span) is fine, step
                if fine:
                    have[me][first : last + 1] = [mode] * (last - first + 1)
            at = choose.randrange(size)
            holder = filelock.query(probe, "rw", base + at, 1)
            holders = {party.pid: cells[at] for party, cells in zip(parties, have, strict=True) if cells[at]}
            assert (holder is None) is (not holders), step
            if holder is not None:
                assert holders[holder.pid] == holder.mode, step


@needs_fork
def test_c_and_ipcio_take_turns(path, c):
    """A count that both add to, the one with locks of C around it."""
    times = 200
    with opened(path) as file:
        file.write(bytes(8))

    def count():
        with opened(path) as file:
            for _ in range(times):
                with filelock.locked(file, "rw", 0, 8):
                    file.seek(0)
                    number = int.from_bytes(file.read(8), "little") + 1
                    file.seek(0)
                    file.write(number.to_bytes(8, "little"))

    with Forked(count) as counting, opened(path) as file:
        for _ in range(times):
            assert c.ask("wait rw 0 8") == "waiting"
            assert c.answer() == "done"
            file.seek(0)
            number = int.from_bytes(file.read(8), "little") + 1
            file.seek(0)
            file.write(number.to_bytes(8, "little"))
            assert c.ask("drop 0 8") == "done"
        counting.result()
        file.seek(0)
        assert int.from_bytes(file.read(8), "little") == 2 * times


# -- refusals of the system ----------------------------------------------------

FCNTL = {"x86_64": 72, "aarch64": 25, "riscv64": 25}  # the number of the system call
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2


def refuse_locks(number):
    """Have the kernel refuse all locks of this process from now on, as a sandbox or a security module does."""
    import ctypes

    locks = [getattr(fcntl, f"F_{kind}SETLK{wait}") for kind in ("", "OFD_") for wait in ("", "W")]
    load, equal, answer = 0x20, 0x15, 0x06
    allowed, refused = 0x7FFF0000, 0x00050000 | number
    program = [(load, 0, 0, 0), (equal, 0, len(locks) + 1, FCNTL[os.uname().machine]), (load, 0, 0, 24)]
    program += [(equal, len(locks) - at, 0, command) for at, command in enumerate(locks)]
    program += [(answer, 0, 0, allowed), (answer, 0, 0, refused)]
    code = b"".join(struct.pack("=HBBI", *each) for each in program)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Program(len(program), code)), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "no filter")


@pytest.mark.able(probe=lambda: hasattr(fcntl, "F_OFD_SETLK") and os.uname().machine in FCNTL)
@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM], ids=["EACCES", "EPERM"])
def test_a_refusal_is_no_conflict(path, number):
    """On Linux only EAGAIN says that another has the range; everything else is raised, also without a wait."""

    def ask():
        with opened(path) as file:
            try:
                refuse_locks(number)
            except OSError as error:
                return str(error)
            for call in (
                partial(filelock.lock, file),
                partial(filelock.lock, file, timeout=0),
                partial(filelock.lock, file, timeout=0.01),
                partial(filelock.trylock, file),
                partial(filelock.locked(file, timeout=0).__enter__),
            ):
                with pytest.raises(PermissionError) as caught:
                    call()
                assert caught.value.errno == number
                assert caught.value.filename == path
        return True

    result = Forked(ask).result()
    if isinstance(result, str):
        pytest.skip(f"nothing can be filtered here: {result}")
    assert result is True
