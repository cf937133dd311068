"""Children in numbers, floods, grandchildren, threads, forks, interrupts, event loops: nothing lost, nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import hashlib
import io
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import count, starmap

import pytest
from campaigns import FACTOR, campaign, places, rounds
from children import Forked
from troubles import interrupted_after, ours
from waiting import until_it_waits

from ipcio import proc

resource = pytest.importorskip("resource", reason="children by fork, and limits, are of POSIX systems only")
spawn = pytest.importorskip("ipcio._posix.spawn")
known_child = pytest.importorskip("ipcio._posix.known_child")
pytestmark = pytest.mark.needs("proc", "waitid")  # by which this module looks at them

DEADLINE = 30  # seconds until what does not happen is a failed test
NOBODY = 65534
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWPID, CLONE_NEWNS, MS_REC_PRIVATE = 0x20000000, 0x20000, 0x44000
MIB = 1 << 20

# A child that the test must end: it runs longer than any test.
SLEEP = ["sleep", "90"]


@pytest.fixture(params=["pidfd", "refused", "absent"])
def kernel(request, monkeypatch):
    """Kernels and sandboxes with and without descriptors of processes."""
    if request.param == "absent":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    elif request.param == "refused":

        def refuse(*_):
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    return request.param


# For tests in which it does not matter how the lack is noticed.
both_kernels = pytest.mark.parametrize("kernel", ["pidfd", "absent"], indirect=True)


def python(code, *flags):
    return [sys.executable, *flags, "-c", code]


def apart(function, *arguments):
    """Call it in a forked copy of this process, which is killed if it hangs; return the result."""
    with Forked(function, *arguments) as forked:
        watchdog = threading.Timer(DEADLINE * max(FACTOR, 1), os.kill, (forked.pid, signal.SIGKILL))
        watchdog.start()
        try:
            return forked.result()
        finally:
            watchdog.cancel()
            watchdog.join()


def descriptors():
    """The open descriptors, but for that of the question."""
    return {fd: what for fd in os.listdir("/proc/self/fd") if (what := target(fd))}


def target(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return None


def has_children():
    """Whether this process has a child, running or not, that is not reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def gone(pid):
    """Whether there is no such process, or nothing of it but its status."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(condition):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.001)


@contextlib.contextmanager
def in_thread(function, *arguments):
    """Another thread that is blocked in it; give where its result, or what it raised, will be."""
    results = []

    def call():
        try:
            results.append(function(*arguments))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        until_it_waits(os.getpid(), thread.native_id)
        yield results
    finally:
        thread.join(DEADLINE)
        assert not thread.is_alive()


class Collector:
    """A callback that remembers."""

    def __init__(self):
        self.pieces = []

    def __call__(self, stream, data):
        self.pieces.append((stream, data))

    def of(self, stream):
        return b"".join(data for name, data in self.pieces if name == stream)


# Ways to take all output of a process that has pipes; each returns pairs and the status.


def by_callback(*arguments, **options):
    took = Collector()
    with proc.spawn(*arguments, callback=took, **options) as h:
        return took.pieces, h.wait(DEADLINE)


def by_iteration(*arguments, **options):
    with proc.spawn(*arguments, **options) as h:
        return list(h), h.wait(0)


def by_coroutine(*arguments, **options):
    async def main():
        took = []

        async def take(*pair):
            took.append(pair)

        with proc.spawn(*arguments, callback=take, **options) as h:
            status = await h.wait_async(DEADLINE)
            h.close()
            h._delivery.callback = None  # the end of the block is no coroutine's
            return took, status

    return asyncio.run(main())


def by_async_for(*arguments, **options):
    async def main():
        with proc.spawn(*arguments, **options) as h:
            return [pair async for pair in h], h.wait(0)

    return asyncio.run(main())


def to_objects(*arguments, **options):
    files = io.BytesIO(), io.BytesIO()
    with proc.spawn(*arguments, **{**options, "stdout": files[0], "stderr": files[1]}) as h:
        status = h.wait(DEADLINE)
    return list(zip(("stdout", "stderr"), (file.getvalue() for file in files), strict=True)), status


takers = pytest.mark.parametrize("take", [by_callback, by_iteration, by_coroutine, by_async_for, to_objects])


def joined(pairs, stream):
    return b"".join(data for name, data in pairs if name == stream)


# -- output of those who are gone at once ----------------------------------------


@campaign
@takers
def test_children_that_print_and_exit_at_once_lose_no_byte(take, kernel):
    for number in range(rounds(10)):
        size = (1, 4095, 65_536, 70_001)[number % 4]
        code = number % 5
        command = f"head -c {size} /dev/zero; echo error {number} >&2; exit {code}"
        pairs, status = take(command, stdout=True, stderr=True)
        assert joined(pairs, "stdout") == bytes(size)
        assert joined(pairs, "stderr") == b"error %d\n" % number
        assert status == (code == 0, "exit", code), kernel


@campaign
def test_hundreds_of_children_at_once_lose_no_line():
    handles = [
        proc.spawn(
            f"seq {number}; seq {number} {2 * number} >&2", stdout=True, stderr=True, encoding="ascii", lines=True
        )
        for number in range(rounds(150))
    ]
    for number, h in enumerate(handles):
        lines = list(h)
        assert [int(line) for stream, line in lines if stream == "stdout"] == list(range(1, number + 1))
        assert [int(line) for stream, line in lines if stream == "stderr"] == list(range(number, 2 * number + 1))
        assert h.wait()
        h.close()


# -- floods ----------------------------------------------------------------------

# Says much before it listens, then repeats on both outputs what it hears, a little at a time,
# and at the end again has much to say.
OUT_OF_STEP = python(
    "import os, random\n"
    "choose = random.Random(3)\n"
    "def say(fd, data):\n"
    "    data = memoryview(data)\n"
    "    while data:\n"
    "        data = data[os.write(fd, data[:choose.randrange(1, 1 << 20)]):]\n"
    "more = bytes(range(256)) * 8192\n"
    "say(2, more); say(1, more)\n"
    "while data := os.read(0, choose.randrange(1, 1 << 18)):\n"
    "    say(choose.choice((1, 2)), b'')\n"
    "    say(1, data)\n"
    "    say(2, data)\n"
    "say(1, more); say(2, more)\n"
)
MORE = bytes(range(256)) * 8192


@both_kernels
@takers
@pytest.mark.sampled(3)
def test_floods_in_both_directions_and_on_both_outputs_arrive(take, kernel):
    data = random.Random(4).randbytes(8 * MIB)
    pairs, status = take(OUT_OF_STEP, stdin=io.BytesIO(data), stdout=True, stderr=True)
    wanted = hashlib.sha256(MORE + data + MORE).digest()
    assert hashlib.sha256(joined(pairs, "stdout")).digest() == wanted
    assert hashlib.sha256(joined(pairs, "stderr")).digest() == wanted
    assert status, kernel


def test_a_flood_that_is_queued_piece_by_piece_arrives():
    took = Collector()
    choose = random.Random(5)
    sent = hashlib.sha256()
    with proc.spawn(OUT_OF_STEP, stdin=True, stdout=True, stderr=subprocess.DEVNULL, callback=took) as h:
        for _ in range(300):
            data = choose.randbytes(choose.randrange(1 << 16))
            sent.update(data)
            h.write(data)
            h.wait(choose.choice((0, 0, 0.0001)))
        h.write(proc.EOF)
        assert h.wait()
    assert hashlib.sha256(took.of("stdout")[len(MORE) : -len(MORE)]).digest() == sent.digest()


def peak():
    """The most memory this process has had, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) << 10


class Counting(io.RawIOBase):
    """A file of no descriptor that gives and takes, and keeps nothing."""

    def __init__(self, size=0):
        self.left = size
        self.taken = 0

    def readable(self):
        return True

    def writable(self):
        return True

    def read(self, size=-1):
        data = bytes(min(size, self.left))
        self.left -= len(data)
        return data

    def write(self, data):
        self.taken += len(data)
        return len(data)


def stream_by(way, size):
    """Let so much come; return how much did and by how much memory grew."""
    command = ["head", "-c", str(size), "/dev/zero"]
    count = [0]

    def take(_stream, data):
        count[0] += len(data)

    before = peak()
    if way == "callback":
        with proc.spawn(command, stdout=True, callback=take) as h:
            assert h.wait()
    elif way == "iteration":
        with proc.spawn(command, stdout=True) as h:
            for pair in h:
                take(*pair)
    elif way == "object":
        file = Counting()
        with proc.spawn(command, stdout=file) as h:
            assert h.wait()
        count = [file.taken]
    elif way == "through":
        file = Counting(size)
        with proc.spawn(["cat"], stdin=file, stdout=True, callback=take) as h:
            assert h.wait()
    else:

        async def main():
            with proc.spawn(command, stdout=True) as h:
                async for pair in h:
                    take(*pair)

        asyncio.run(main())
    return count[0], peak() - before


@pytest.mark.parametrize("way", ["callback", "iteration", "object", "through", "loop"])
def test_memory_is_flat_while_much_streams(way):
    apart(stream_by, way, MIB)
    size = 256 * MIB
    count, growth = apart(stream_by, way, size)
    assert count == size
    assert growth < 24 * MIB


# -- grandchildren ---------------------------------------------------------------

# Both leave somebody behind who keeps the pipe, and tell who.
LEAVE_A_SLEEPER = "sleep 90 & echo $!; exit 3"
LEAVE_A_FLOOD = "cat /dev/zero >&2 & echo $!; exit 3"


@takers
@pytest.mark.parametrize("command", [LEAVE_A_SLEEPER, LEAVE_A_FLOOD], ids=["sleeps", "floods"])
def test_a_grandchild_that_keeps_the_pipe_delays_nothing(take, command, kernel):
    pairs, status = take(command, stdout=True, stderr=True)
    grandchild = int(joined(pairs, "stdout"))
    try:
        assert status == (False, "exit", 3), kernel
        if command is LEAVE_A_SLEEPER:  # which no process has ended; the other one has lost its reader
            assert not gone(grandchild)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(grandchild, signal.SIGKILL)
    until(lambda: gone(grandchild))


@pytest.mark.parametrize("flood", [False, True], ids=["sleeps", "floods"])
def test_a_whole_tree_is_killed(flood, kernel):
    took = Collector()
    command = ("cat /dev/zero >&2" if flood else "sleep 90") + " & echo $!; read never"
    with proc.spawn(command, stdin=True, stdout=True, stderr=True, callback=took, start_new_session=True) as h:
        while not took.of("stdout").endswith(b"\n"):
            assert h.wait(0.01) is None
        h.kill("kill", tree=True)
        assert h.wait() == (False, "signal", signal.SIGKILL), kernel
    until(lambda: gone(int(took.of("stdout"))))


@pytest.fixture(params=["by descriptor", "by number"])
def group(request, monkeypatch):
    """Kernels that signal a group by the descriptor of its leader, and older ones."""
    if request.param == "by number" and known_child._pidfd_send_signal is not None:

        def refuse(fd, number, siginfo, flags):
            if flags:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            signal.pidfd_send_signal(fd, number, siginfo, flags)

        monkeypatch.setattr(known_child, "_pidfd_send_signal", refuse)
    return request.param


STUBBORN = "(trap '' TERM; echo $(exec sh -c 'echo $PPID'); exec sleep 90 >&-) & read line"


def state(pid):
    """What the kernel says a process does; empty if there is none."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
    return ""


@pytest.mark.needs("trees")
@pytest.mark.parametrize("end", ["kill", "close", "drop"])
def test_the_rest_of_a_tree_is_within_reach_after_its_leader(end, kernel, group):
    """Until then nobody else gets the number: the leader is not reaped."""
    h = proc.spawn(STUBBORN, stdin=True, stdout=True, start_new_session=True)
    rest = int(next(h)[1])
    h.kill("term", tree=True)
    seen = [*h, h.wait(), h.wait()]
    assert seen == 2 * [(False, "signal", signal.SIGTERM)], (kernel, group)
    pid = h.pid
    assert (state(pid), gone(rest)) == ("Z", False)
    if end == "kill":
        h.kill("kill", tree=True)
        until(lambda: gone(rest))
        h.kill("kill", tree=True)
    else:
        if end == "close":
            h.close()
        del h
        gc.collect()
        assert not gone(rest)
        os.kill(rest, signal.SIGKILL)
    assert not state(pid)


@pytest.mark.needs("trees")
@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.sampled(4)
def test_grace_is_for_the_whole_tree(how, kernel, group):
    """It ends with the last of the group; what is left is killed then, though its leader has gone."""
    for stays in True, False:
        trap = "''" if stays else "'sleep 0.05 >&-; exit'"
        script = f"(trap {trap} TERM; echo $(exec sh -c 'echo $PPID'); while sleep 0.01 >&-; do :; done) & wait"
        with proc.spawn(script, stdout=True, start_new_session=True) as h:
            rest = int(next(h)[1])
            grace = 0.2 if stays else 1000
            if how == "sync":
                assert h.kill(tree=True, grace=grace) is True
            else:
                assert asyncio.run(h.kill_async(tree=True, grace=grace)) is True
            until(lambda rest=rest: gone(rest))
            assert h.wait() == (False, "signal", signal.SIGTERM), (kernel, group)


def test_a_leader_that_ends_alone_is_reaped_at_once(kernel, group):
    h = proc.spawn("exit 3", start_new_session=True)
    assert h.wait() == (False, "exit", 3), (kernel, group)
    assert not state(h.pid)


@pytest.mark.needs("pidfd")
def test_the_rest_of_a_tree_is_within_reach_without_a_status():
    """Where the kernel has a descriptor for it, as from Linux 6.9 on."""

    def kill_the_rest():
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        h = proc.spawn(STUBBORN, stdin=True, stdout=True, start_new_session=True)
        rest = int(next(h)[1])
        fd = os.pidfd_open(h.pid)
        h.kill("term", tree=True)
        with contextlib.suppress(ChildProcessError):
            h.wait(DEADLINE)
        try:
            signal.pidfd_send_signal(fd, 0, None, 4)
        except OSError:
            os.kill(rest, signal.SIGKILL)
        else:
            h.kill("kill", tree=True)
        until(lambda: gone(rest))

    apart(kill_the_rest)


def test_a_child_that_is_stopped_and_goes_on_has_not_exited(kernel):
    with proc.spawn(["cat"], stdin=True, stdout=True) as h:
        h.kill(signal.SIGSTOP)
        os.waitid(os.P_PID, h.pid, os.WSTOPPED | os.WNOWAIT)
        assert h.wait(0.001) is None
        assert h.nowait() is None
        h.kill(signal.SIGCONT)
        os.waitid(os.P_PID, h.pid, os.WCONTINUED | os.WNOWAIT)
        assert h.wait(0.001) is None
        h.write(b"here", proc.EOF)
        assert list(h) == [("stdout", b"here")]
        assert h.wait(), kernel


# -- kills -----------------------------------------------------------------------


@campaign
def test_a_child_killed_at_a_random_moment_loses_nothing_it_has_written(kernel):
    """What arrives is the beginning of what it says, and ends the handle as a signal."""
    choose = random.Random(6)
    for number in range(rounds(25)):
        with proc.spawn("exec seq 10000000", stdout=True, encoding="ascii", lines=True) as h:
            lines = []
            for _ in range(choose.randrange(3)):
                lines.extend(line for _, (_, line) in zip(range(choose.randrange(5000)), h, strict=False))
            h.kill(choose.choice(("term", "kill")))
            lines.extend(line for _, line in h)
            status = h.wait()
        assert status.kind == "signal", (kernel, number)
        cut = lines.pop() if lines and not lines[-1].endswith("\n") else ""
        assert lines == [f"{n}\n" for n in range(1, len(lines) + 1)]
        assert f"{len(lines) + 1}\n".startswith(cut)


def test_other_children_of_the_program_stay_its_own(kernel):
    others = [(os.posix_spawnp("sh", ["sh", "-c", f"exit {code}"], os.environ), code) for code in (5, 6, 7)]
    for _ in range(5):
        assert by_iteration("echo x", stdout=True) == ([("stdout", b"x\n")], (True, "exit", 0)), kernel
    for pid, code in others:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code


def ignore_children():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def reap_all():
    def reap(*_):
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    signal.signal(signal.SIGCHLD, reap)


def without_status(prepare, options):
    """What comes of a child whose status somebody else takes: the errors, the output, what is left."""
    by_iteration("echo ready", stdout=True)
    prepare()
    before = descriptors()
    took = Collector()
    options = {"callback": took, **options} if options["stdout"] is True else options
    h = proc.spawn("echo out; exit 3", **options)
    until(lambda: gone(h.pid))
    errors = []
    for _ in range(3):
        try:
            assert h.wait(DEADLINE) == (False, "exit", 3)
        except ChildProcessError as error:
            errors.append(str(error))
    with contextlib.suppress(ChildProcessError):
        h.close()
    return errors, took.of("stdout"), {fd: what for fd, what in descriptors().items() if fd not in before}


@pytest.mark.parametrize("prepare", [ignore_children, reap_all])
@pytest.mark.parametrize(
    "options", [{"stdout": subprocess.DEVNULL}, {"stdout": True, "stdin": True}], ids=["", "pipes"]
)
def test_a_status_that_other_code_takes_is_an_error_that_says_so(prepare, options, kernel):
    errors, output, left = apart(without_status, prepare, options)
    assert not left, kernel
    assert len(errors) == 3
    assert all("SIGCHLD" in error for error in errors)
    assert output == (b"out\n" if options["stdout"] is True else b"")


def fail_with(h):
    with contextlib.suppress(ZeroDivisionError), h:
        raise ZeroDivisionError


WAYS_TO_END = {
    "kill": lambda h: h.kill("kill"),
    "kill the tree": lambda h: h.kill("kill", tree=True),
    "close": lambda h: h.close(),
    "fail": fail_with,
    "drop": lambda _: None,
    "wait": lambda h: h.wait(0.01),
}


def end_after_its_number_is_given_away(prepare):
    """End handles whose children others have reaped; which signals are sent by number then."""
    prepare()
    signalled = []
    os.kill = os.killpg = lambda *arguments: signalled.append(arguments)
    for end in WAYS_TO_END.values():
        kept = [proc.spawn("exit", start_new_session=True)]
        until(lambda kept=kept: not os.path.exists(f"/proc/{kept[0].pid}"))
        with contextlib.suppress(ChildProcessError):
            end(kept.pop())
        gc.collect()
    return signalled


@pytest.mark.parametrize("prepare", [ignore_children, reap_all])
def test_no_signal_is_sent_to_a_number_that_is_not_the_childs_any_more(prepare, kernel):
    assert apart(end_after_its_number_is_given_away, prepare) == [], kernel


def in_a_namespace(function, *arguments):
    """Call it in the first process of a new namespace of process ids, with a `/proc` of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWPID | CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "unshare")

    def call():
        if libc.mount(b"proc", b"/proc", b"proc", 0, None):
            raise OSError(ctypes.get_errno(), "mount")
        return function(*arguments)

    with Forked(call) as forked:
        return forked.result()


def give_its_number_away(prepare):
    """End handles whose numbers other children of this process have by now; which of these were signalled or reaped."""
    touched = []
    for name, end in WAYS_TO_END.items():
        prepare()
        kept = [proc.spawn("exit", start_new_session=True)]
        pid = kept[0].pid
        until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        while True:
            with open("/proc/sys/kernel/ns_last_pid", "w") as last:
                last.write(str(pid - 1))
            other = subprocess.Popen(SLEEP, start_new_session=True)
            if other.pid == pid:
                break
            other.kill()
            other.wait()
        if name == "wait":
            other.terminate()
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ChildProcessError):
            end(kept.pop())
        gc.collect()
        os.kill(pid, signal.SIGTERM)  # if it has been killed already, that is how it has ended
        if other.wait() != -signal.SIGTERM:
            touched.append(name)
    return touched


@pytest.mark.root
@pytest.mark.needs("pidfd")
@pytest.mark.parametrize("prepare", [ignore_children, reap_all])
def test_another_child_that_has_its_number_by_now_is_let_be(prepare):
    assert apart(in_a_namespace, give_its_number_away, prepare) == []


@pytest.mark.needs("pidfd")
def test_a_descriptor_of_another_process_is_not_taken_for_the_childs(monkeypatch):
    """The child is reaped, and its number given away, before the descriptor is opened."""
    other = int(subprocess.run("sleep 90 >&- & echo $!", shell=True, stdout=-1, check=True).stdout)
    opened = os.pidfd_open(other)

    def open_late(pid):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return os.dup(opened)

    try:
        monkeypatch.setattr(os, "pidfd_open", open_late)
        h = proc.spawn(SLEEP)
        h.kill("kill")
        h.close()
        assert not gone(other)
        signal.pidfd_send_signal(opened, signal.SIGTERM)
    finally:
        os.close(opened)


# -- threads ---------------------------------------------------------------------


def test_a_status_that_is_taken_during_a_wait_is_an_error(kernel):
    h = proc.spawn(["cat"], stdin=True)
    for _ in range(3):
        assert h.wait(0.001) is None, kernel
    os.kill(h.pid, signal.SIGKILL)
    os.waitpid(h.pid, 0)
    for _ in range(2):
        with pytest.raises(ChildProcessError, match="exit status is gone"):
            h.wait(DEADLINE)
    h.close()


@pytest.mark.parametrize("timeout", [1e8, 1e9, 1e300])
def test_a_timeout_as_long_as_one_likes(timeout, kernel):
    for options in {}, {"stdout": io.BytesIO()}, {"stdin": True}:
        h = proc.spawn("exit 4", **options)
        assert h.wait(timeout) == (False, "exit", 4), kernel
        h.close()


def test_several_processes_from_several_threads(kernel):
    failures = []

    def work(seed):
        try:
            choose = random.Random(seed)
            for _ in range(6):
                data = choose.randbytes(choose.randrange(300_000))
                pairs, status = choose.choice((by_callback, by_iteration))(["cat"], stdin=io.BytesIO(data), stdout=True)
                assert joined(pairs, "stdout") == data
                assert status
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, kernel


@pytest.mark.parametrize("way", ["wait", "iterate"])
def test_threads_that_share_a_handle_get_every_line_once(way):
    lines = Counter()
    lock = threading.Lock()

    def take(_stream, line):
        with lock:
            lines[line] += 1

    def iterate():
        for pair in h:
            take(*pair)

    with proc.spawn("seq 50000", stdout=True, lines=True, callback=take if way == "wait" else None) as h:
        threads = [threading.Thread(target=h.wait if way == "wait" else iterate) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert h.wait(0)
    assert lines == Counter(b"%d\n" % n for n in range(1, 50001))


WAITS = {"wait": lambda h: h.wait(), "timeout": lambda h: h.wait(DEADLINE), "iterate": list}
waits = pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)


@waits
def test_what_another_thread_writes_reaches_a_blocked_wait(wait, kernel):
    file = io.BytesIO()
    with proc.spawn(["cat"], stdin=True, stdout=file) as h:
        with in_thread(wait, h) as results:
            h.write(b"abc", b"def")
            until(lambda: file.getvalue() == b"abcdef")
            assert not results, kernel
            h.write(b"!" * MIB, proc.EOF)
        assert results in ([(True, "exit", 0)], [[]])
    assert file.getvalue() == b"abcdef" + b"!" * MIB


@waits
@pytest.mark.parametrize("pipes", [False, True], ids=["bare", "pipes"])
def test_kill_reaches_a_wait_that_another_thread_is_blocked_in(wait, pipes, kernel):
    options = {"stdin": True, "stdout": True} if pipes else {}
    with proc.spawn(SLEEP, **options) as h:
        with in_thread(wait, h) as results:
            h.kill()
        assert results in ([(False, "signal", signal.SIGTERM)], [[]]), kernel
        assert h.wait() == (False, "signal", signal.SIGTERM)


@waits
@pytest.mark.parametrize("pipes", [False, True], ids=["bare", "pipes"])
def test_close_reaches_a_wait_that_another_thread_is_blocked_in(wait, pipes, kernel):
    options = {"stdin": True, "stdout": True} if pipes else {}
    h = proc.spawn(SLEEP, **options)
    with in_thread(wait, h) as results:
        h.close()
    assert results in ([(False, "signal", signal.SIGKILL)], [[]]), kernel
    assert h.wait() == (False, "signal", signal.SIGKILL)


def test_close_reaches_a_wait_to_which_output_comes_meanwhile(kernel):
    ours, theirs = os.pipe()
    h = proc.spawn(["cat"], stdin=ours, stdout=True)
    output, kill = h._delivery.outputs[0], h._child.kill

    def write_first(*arguments, **options):
        os.write(theirs, b"x")
        until(lambda: output.raw or output.ended)
        kill(*arguments, **options)

    h._child.kill = write_first
    try:
        with in_thread(h.wait) as results:
            h.close()
        assert results == [(False, "signal", signal.SIGKILL)], kernel
    finally:
        del h._child.kill
        os.close(ours)
        os.close(theirs)


@campaign
def test_close_meets_another_thread_anywhere(kernel):
    for number in range(rounds(30)):
        h = proc.spawn(["cat"], stdin=True, stdout=True, callback=lambda *_: None)
        closing = threading.Timer(number % 10 / 2000, h.close)
        closing.start()
        with contextlib.suppress(ValueError):  # it is closed
            while True:
                h.write(b"x")
                h.nowait()
        closing.join()
        assert h.closed
        assert h.wait() == (False, "signal", signal.SIGKILL), kernel


def kill_from_a_handler():
    """A program that passes its own signals on to the child, as a supervisor does."""
    by_iteration("true", stdout=True)
    handled = []
    with proc.spawn(["cat"], stdin=True, stdout=subprocess.DEVNULL) as h:
        signal.signal(signal.SIGVTALRM, lambda *_: handled.append(h.kill(signal.SIGCONT)))
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.00005, 0.00005)
        while len(handled) < 40:
            h.write(b"x")
            h.nowait()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        h.write(proc.EOF)
        return bool(h.wait(DEADLINE))


def test_a_signal_handler_may_kill_whatever_it_interrupts():
    assert apart(kill_from_a_handler)


@pytest.mark.parametrize("waitid", [True, False])
def test_a_signal_handler_that_kills_at_any_point_loses_no_status(waitid, monkeypatch):
    """It may be the one to whom the system says how the child ended."""
    if not waitid:
        monkeypatch.setattr(known_child, "_waitid", None)
    before = signal.getsignal(signal.SIGUSR1)
    try:
        for at in count():
            with proc.spawn(["true"]) as h:
                os.waitid(os.P_PID, h.pid, os.WEXITED | os.WNOWAIT)
                signal.signal(signal.SIGUSR1, lambda *_, h=h: h.kill(signal.SIGCONT))
                came = interrupted_after(at, h.wait, ours, lambda: signal.raise_signal(signal.SIGUSR1))
                assert h.wait() == (True, "exit", 0), f"after call {at}"
            if not came:
                break
        assert at > 10
    finally:
        signal.signal(signal.SIGUSR1, before)


FLOOD = random.Random(4).randbytes(2 * MIB)


def handled_in_callback(took, start):
    h = proc.spawn(["cat"], stdin=True, stdout=True, callback=lambda _, data: took.append(data))
    h.write(FLOOD, proc.EOF)
    start(h)
    return h.wait()


def handled_in_iteration(took, start):
    h = proc.spawn(["cat"], stdin=True, stdout=True, lines=True)
    h.write(FLOOD, proc.EOF)
    events = iter(h)
    start(h)
    took.extend(data for _, data in events)
    return h.wait()


def handled_in_objects(took, start):
    class File:
        write = took.append

    h = proc.spawn(["cat"], stdin=io.BytesIO(FLOOD), stdout=File())
    start(h)
    return h.wait()


def handled_in_coroutine(took, start):
    async def take(_, data):
        took.append(data)

    h = proc.spawn(["cat"], stdin=True, stdout=True, callback=take)
    h.write(FLOOD, proc.EOF)
    waiting = h.wait_async()

    async def main():
        task = asyncio.ensure_future(waiting)
        await asyncio.sleep(0)
        start(h)
        return await task

    return asyncio.run(main())


def handled_in_async_for(took, start):
    async def main():
        h = proc.spawn(["cat"], stdin=True, stdout=True, lines=True)
        h.write(FLOOD, proc.EOF)
        events = aiter(h)
        start(h)
        took.extend([data async for _, data in events])
        return await h.wait_async()

    return asyncio.run(main())


handled_ways = pytest.mark.parametrize(
    "way",
    [handled_in_callback, handled_in_iteration, handled_in_objects, handled_in_coroutine, handled_in_async_for],
)


ENDS = (True, "exit", 0), (False, "signal", signal.SIGKILL)


def use_in_handlers(way, close):
    """Interrupt it all the time, or close it at some moment; return what was wrong, and how often a handler ran."""
    took, troubles, handles, handled, nested, over = [], Counter(), [], 0, [], False
    by_iteration("true", stdout=True)
    asyncio.run(asyncio.sleep(0))
    before = descriptors()

    def handler(*_):
        nonlocal handled
        handled += 1
        (h,) = handles
        nested.append(handled)
        if len(nested) < 5:  # the next alarm may interrupt this handler
            arm()
        try:
            if close:
                h.close()
                assert h.wait() == h.nowait()
                assert h.wait() in ENDS
            else:
                h.kill(signal.SIGCONT)
                # Neither waits, though the child goes on.
                assert h.nowait() in {None, (True, "exit", 0)}
                assert h.wait() in {None, (True, "exit", 0)}
        except BaseException as error:
            troubles[repr(error)] += 1
        finally:
            nested.pop()
            if not nested:  # on a busy machine, too, what is interrupted gets on a little between two alarms
                arm()

    def arm():
        if not close and not over:
            signal.setitimer(signal.ITIMER_REAL, 0.0003)

    def start(h):
        handles.append(h)
        signal.setitimer(signal.ITIMER_REAL, close or 0.0003)

    signal.signal(signal.SIGALRM, handler)
    status = way(took, start)
    over = True
    signal.setitimer(signal.ITIMER_REAL, 0)
    (h,) = handles
    if handled and close:
        troubles["open"] += not h.closed
        troubles["status"] += status not in ENDS
    else:
        troubles["output"] += b"".join(took) != FLOOD
        troubles["status"] += status != (True, "exit", 0)
    h.close()
    troubles["descriptors"] += descriptors() != before
    troubles["children"] += has_children()
    return +troubles, handled


@handled_ways
def test_a_signal_handler_that_waits_doubles_and_loses_nothing(way):
    troubles, handled = apart(use_in_handlers, way, 0)
    assert not troubles
    assert handled


@campaign
@handled_ways
def test_a_signal_handler_that_closes_ends_what_it_interrupts_without_an_error(way):
    choose = random.Random(6)
    results = [apart(use_in_handlers, way, choose.uniform(0.0002, 0.008)) for _ in range(max(8, rounds(8)))]
    assert [troubles for troubles, _ in results if troubles] == []
    assert any(handled for _, handled in results)


def write_from_a_handler():
    """Two writers, of which one interrupts the other; text has a mark at its beginning, once."""
    took, mine, handled = [], [f"{n}\n" for n in range(3000)], []
    options = {"encoding": "utf-16", "lines": True}
    with proc.spawn(["cat"], stdin=True, stdout=True, callback=lambda _, line: took.append(line), **options) as h:

        def handler(*_):
            handled.append(f"handled {len(handled)}\n")
            h.write(handled[-1])

        signal.signal(signal.SIGVTALRM, handler)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.00005, 0.00005)
        for number, line in enumerate(mine):
            h.write(line)
            if number % 50 == 0:
                h.nowait()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        h.write(proc.EOF)
        h.wait()
    return [line for line in took if line in mine] == mine, [line for line in took if "h" in line] == handled, handled


def test_a_signal_handler_that_writes_is_heard_once_and_in_order():
    mine, handlers, handled = apart(write_from_a_handler)
    assert mine
    assert handlers
    assert handled


# -- copies by fork ----------------------------------------------------------------

# What a copy may do with the handle.  It says what it got; nothing of it may touch the other one's.
COPIES = {
    "close": lambda h: h.close(),
    "exit of with": lambda h: h.__exit__(ValueError, ValueError(), None),
    "collected": lambda _: None,
    "kill": lambda h: h.kill("kill"),
    "write": lambda h: h.write(b"from the copy", proc.EOF),
    "wait": lambda h: h.wait(),
    "nowait": lambda h: h.nowait(),
    "iterate": list,
    "wait_async": lambda h: asyncio.run(h.wait_async(0.001)),
}


def use_and_drop(what, kept):
    """In a copy; what is raised there is nobody's concern, and that it is dropped is part of it."""
    h = kept.pop()
    with contextlib.suppress(Exception):
        what(h)
    h = None
    gc.collect()


@both_kernels
@pytest.mark.parametrize("state", ["fresh", "watched", "full", "ended"])
@pytest.mark.parametrize("what", COPIES.values(), ids=COPIES)
@pytest.mark.sampled(3)
def test_a_copy_in_a_forked_process_touches_nothing_of_the_original(what, state, kernel):
    file = io.BytesIO()
    h = proc.spawn(["cat"], stdin=True, stdout=file)
    sent = b""
    if state == "watched":  # all is quiet, and output is in the pipe
        h.write(b"first")
        until(lambda: h.nowait() is None and file.getvalue())
        sent = b"first"
    elif state == "full":
        h.kill(signal.SIGSTOP)
        sent = bytes(3 * MIB)
        h.write(sent)
        assert h.nowait() is None
        assert h.pending
    elif state == "ended":
        h.write(proc.EOF)
        assert h.wait()
    kept = [h]
    del h
    apart(use_and_drop, what, kept)
    h = kept[0]
    if state != "ended":
        h.kill(signal.SIGCONT)
        h.write(b"more", proc.EOF)
        sent += b"more"
    status = h.wait(DEADLINE / 6)
    h.close()
    assert status == (True, "exit", 0), kernel
    assert file.getvalue() == sent


def test_a_copy_takes_no_output_from_the_original():
    took = Collector()
    with proc.spawn("echo out; read never", stdin=True, stdout=True, callback=took) as h:
        until(lambda: select.select([h._child._pipes[1].our_end], [], [], 0)[0])
        for what in COPIES.values():
            if what is not list:
                apart(use_and_drop, what, [h])
        h.write(proc.EOF)
        h.wait()
    assert took.of("stdout") == b"out\n"


def outlive(ends):
    """Be a worker that runs until the other end of a pipe is closed, and has what it has then."""
    os.close(ends[1])
    os.read(ends[0], 1)
    return set(descriptors().values())


@pytest.mark.parametrize("state", ["fresh", "watched"])
def test_a_forked_process_does_not_keep_a_child_from_the_end_of_its_input(state, kernel):
    """Nor does it keep anything else open of what its parent has for a child."""
    before = set(descriptors().values())
    took = Collector()
    h = proc.spawn(["cat"], stdin=True, stdout=True, callback=took)
    if state == "watched":
        h.write(b"1")
        until(lambda: h.nowait() is None and took.pieces)
    opened = set(descriptors().values()) - before
    ends = os.pipe()
    with Forked(outlive, ends) as worker:
        os.close(ends[0])
        h.write(b"2", proc.EOF)
        status = h.wait(DEADLINE)
        os.close(ends[1])
        assert not opened & worker.result()
    assert status == (True, "exit", 0), kernel
    assert took.of("stdout").endswith(b"2")


@pytest.mark.timeout(DEADLINE)
def test_a_fork_in_the_midst_of_a_start_keeps_nothing_open(monkeypatch):
    """Nor does the start wait for the forked process, which had a copy of the pipe for a failure of exec."""
    fork_exec = spawn.fork_exec
    workers = []
    ends = os.pipe()

    def fork_between(*arguments):
        workers.append(Forked(outlive, ends))
        return fork_exec(*arguments)

    monkeypatch.setattr(spawn, "fork_exec", fork_between)
    h = proc.spawn(["cat"], stdin=True, stdout=True)
    h.write(proc.EOF)
    status = h.wait(DEADLINE)
    for fd in ends:
        os.close(fd)
    with workers[0] as worker:
        worker.result()
    assert status == (True, "exit", 0)


# -- a start that fails --------------------------------------------------------------


def start_in_want(limit, values):
    """Start under a limit that goes up; return the numbers of errors, what is left, and how often it worked."""
    everything = {"stdin": True, "stdout": True, "stderr": True}
    by_iteration("true", **everything)
    soft, hard = resource.getrlimit(limit)
    before = descriptors()
    errors = set()
    worked = 0
    for value in values:
        h = None
        pairs = []
        resource.setrlimit(limit, (value, hard))
        try:
            h = proc.spawn(["echo", "x"], **everything)
            pairs.extend(h)
        except OSError as error:
            errors.add(error.errno)
        finally:
            resource.setrlimit(limit, (soft, hard))
        if h is not None:  # what was in want goes on when there is enough
            pairs.extend(h)
            assert pairs == [("stdout", b"x\n")]
            assert h.wait() == (True, "exit", 0)
            h.close()
            worked += 1
        assert descriptors() == before, value
        assert not has_children(), value
    return errors, worked


def test_a_start_without_descriptors_leaves_nothing():
    errors, worked = apart(start_in_want, resource.RLIMIT_NOFILE, range(3, len(descriptors()) + 24))
    assert errors == {errno.EMFILE}
    assert worked


def without_processes():
    if os.geteuid() == 0:
        by_iteration("true", stdout=True)  # imports, which that user may be unable to do
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    return start_in_want(resource.RLIMIT_NPROC, [0, 0])


def test_a_start_without_processes_leaves_nothing():
    assert apart(without_processes) == ({errno.EAGAIN}, 0)


def fail_beside_others():
    """Failing starts in the midst of which others come by children; which of those are there afterwards."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    start = spawn.Popen.start
    others = []

    def start_another(*_):
        others.append(subprocess.Popen(SLEEP).pid)

    def adopt():
        others.append(int(subprocess.run("sleep 90 >&- & echo $!", shell=True, stdout=-1, check=True).stdout))

    def start_late(popen, *arguments, **options):
        spawn.Popen.start = start
        thread = threading.Thread(target=start_another)  # its child becomes that of another thread when it ends
        thread.start()
        thread.join()
        signal.raise_signal(signal.SIGUSR1)
        adopt()
        start(popen, *arguments, **options)

    signal.signal(signal.SIGUSR1, start_another)
    for command, options in (["/does/not/exist"], {}), (["tr\0ue"], {}), (["true"], {"cwd": "/does/not/exist"}):
        spawn.Popen.start = start_late
        with pytest.raises((OSError, ValueError)):
            proc.spawn(command, **options)
    return [os.waitpid(pid, os.WNOHANG)[0] or os.kill(pid, signal.SIGKILL) for pid in others]


def test_a_start_that_fails_touches_no_other_process():
    """Not the children of other threads, nor a signal handler's, nor orphans that this process has adopted."""
    assert apart(fail_beside_others) == [None] * 9


def start_what_is_missing(directory):
    everything = {"stdin": True, "stdout": True, "stderr": True}
    by_iteration("true", **everything)
    before = descriptors()
    for options in {}, everything:
        for command, more in (
            (["/does/not/exist"], {}),
            ([directory], {}),
            (["true"], {"cwd": f"{directory}/missing"}),
            (["tr\0ue"], {}),
            (["true"], {"env": {"A=B": "c"}}),
        ):
            with pytest.raises((OSError, ValueError)):
                proc.spawn(command, **options, **more)
            assert descriptors() == before
            assert not has_children()


def test_a_start_of_what_is_missing_leaves_nothing(tmp_path):
    apart(start_what_is_missing, str(tmp_path))


def test_the_standard_librarys_subprocess_is_known():
    """Another version of its function in C needs other arguments; a start then does without what is promised here."""
    assert spawn.Popen._is_standard


def start_without_streams(closed):
    """What a child has as its streams, once as `spawn` starts it and once as `subprocess` does."""
    for fd in closed:
        os.close(fd)
    command = ["sh", "-c", "cat; echo error >&2; readlink /proc/self/fd/2"]
    given = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    ours = b"".join(data for _, data in proc.spawn(command, stdout=True, **given))
    both = b"".join(
        data for _, data in proc.spawn(command, stdout=True, stdin=given["stdin"], stderr=subprocess.STDOUT)
    )
    peer = subprocess.run(command, stdout=subprocess.PIPE, **given, check=True).stdout
    return ours == peer, both.startswith(b"error\npipe:")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_a_start_does_not_depend_on_the_callers_standard_streams(closed):
    """Pipes that get these numbers would otherwise become streams of the child."""
    assert apart(start_without_streams, closed) == (True, True)


def start_with_interrupted_pipes(number):
    """The interrupt comes just before a pipe is made."""
    everything = {"stdin": True, "stdout": True, "stderr": True}
    by_iteration("true", **everything)
    before = descriptors()
    made = []
    pipe = os.pipe

    def interrupted():
        if len(made) == number:
            raise KeyboardInterrupt
        made.append(pipe())
        return made[-1]

    os.pipe = interrupted
    with contextlib.suppress(KeyboardInterrupt):
        proc.spawn(["true"], **everything)
    os.pipe = pipe
    gc.collect()
    return len(made), descriptors().keys() - before.keys(), has_children()


@pytest.mark.parametrize("number", range(4))  # the last one is for the errors of exec
def test_an_interrupt_between_two_pipes_leaves_none(number):
    assert apart(start_with_interrupted_pipes, number) == (number, set(), False)


# -- interrupts ------------------------------------------------------------------------


STARTS = spawn.__file__, known_child.__file__


def interrupt_start(options):
    """Interrupt a start before one instruction of Python after another, up to its end; return what was left."""
    other = subprocess.Popen(SLEEP)
    finalizer = spawn.Popen.__del__.__code__, spawn.Popen.discard.__code__  # Python drops what is raised there
    left = Counter()
    proc.spawn("exit", **options).wait()
    before = descriptors().keys()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for that here
    for number in places():
        moments = iter(range(number))

        def trace(frame, event, _, moments=moments):
            code = frame.f_code
            if code in finalizer or not (code.co_filename in STARTS or code is spawn.open_pipe.__code__):
                return None
            frame.f_trace_opcodes = True
            if event == "opcode" and next(moments, None) is None:
                raise KeyboardInterrupt
            return trace

        h = None
        sys.settrace(trace)
        with contextlib.suppress(KeyboardInterrupt):
            h = proc.spawn(SLEEP, **options)
        sys.settrace(None)
        if h is not None:
            h.close()
        with open("/proc/thread-self/children") as listing:
            left["children"] += listing.read() != f"{other.pid} "
        left["descriptors"] += len(descriptors().keys() - before)
        if h is not None or +left:
            other.kill()
            other.wait()
            break
    return +left, number


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stdin": True, "stdout": True, "start_new_session": True},
        {"user": os.getuid(), "group": os.getgid(), "umask": 0o77, "pass_fds": [0]},
    ],
    ids=["", "pipes", "changes"],
)
def test_a_start_that_is_interrupted_anywhere_leaves_nothing(options):
    left, moments = apart(interrupt_start, options)
    assert (left, moments > 300) == ({}, True)


class Timed:
    """A block, and how long it took."""

    def __enter__(self):
        self.start = time.perf_counter()

    def __exit__(self, *_):
        self.taken = time.perf_counter() - self.start


def sweep(action, number, error):
    """Interrupt it at so many random moments; after each, `action` itself says that all is well, and nothing is left.

    A timer of the kernel stands for the key: what it runs is what Ctrl-C runs.
    """

    def interrupt(*_):
        raise error

    choose = random.Random(8)
    # A file that is interrupted before its `with` block closes itself, and warns; pytest would keep the warning
    # and, by its traceback, all that the frames have.
    sys.unraisablehook = lambda _: None
    action(contextlib.nullcontext())  # imports
    usual = [Timed() for _ in range(5)]
    for window in usual:
        action(window)
    longest = min(window.taken for window in usual)
    before = descriptors()
    interrupted = 0
    troubles = Counter()

    class Window:
        def __enter__(self):
            signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, choose.uniform(0.000001, longest))

        def __exit__(self, kind, *_):
            signal.setitimer(signal.ITIMER_REAL, 0)
            nonlocal interrupted
            interrupted += kind is not None
            return kind is error

    for _ in range(number):
        try:
            action(Window())
        except error:  # on its way out of the window
            interrupted += 1
        troubles["exceptions"] += sys.exc_info()[0] is not None  # of Python 3.13, which keeps what they refer to
        gc.collect(0)
        if has_children():
            troubles["children"] += 1
            while has_children():
                with contextlib.suppress(ProcessLookupError):
                    for pid in open("/proc/thread-self/children").read().split():
                        os.kill(int(pid), signal.SIGKILL)
                os.wait()
        if left := {fd: what for fd, what in descriptors().items() if fd not in before}:
            gc.collect()
            if left := {fd: what for fd, what in descriptors().items() if fd not in before}:
                troubles["descriptors"] += 1
                for fd in left:
                    os.close(int(fd))
    assert interrupted
    return +troubles


def spawned(window):
    made = []
    with window:
        made.extend(starmap(proc.spawn, (("cat",),)))
    for h in made:
        h.close()


def spawned_with_pipes(window):
    made = []

    def start(command):
        return proc.spawn(command, stdin=True, stdout=True, stderr=True)

    with window:
        made.extend(map(start, ("exec sleep 90",)))
    for h in made:
        h.close()


LINES = "".join(f"{n}\n" for n in range(1, 3001)).encode()


def iterated(window):
    took = []
    with proc.spawn("seq 3000; seq 3000 >&2", stdout=True, stderr=True, lines=True) as h:
        with window:
            took.extend(h)
        took.extend(h)
        assert h.wait()
    assert joined(took, "stdout") == LINES
    assert joined(took, "stderr") == LINES


def waited_for(window):
    took = []

    class File:  # whose `write` no interrupt can cut in two
        write = took.append

    with proc.spawn("seq 3000", stdout=File()) as h:
        with window:
            while h.wait() is None:
                pass
        assert h.wait(DEADLINE)
    assert b"".join(took) == LINES


def written(window):
    """What is written while interrupts come arrives whole, or not at all."""
    file = io.BytesIO()
    data = b"".join(b"%05d\n" % n for n in range(4000))
    with proc.spawn(["cat"], stdin=True, stdout=file) as h:
        with window:
            for _ in range(50):
                h.write(data)
                h.wait(0)
        h.write(b"end", proc.EOF)
        assert h.wait(DEADLINE / 6)
    assert file.getvalue().replace(data, b"") == b"end"


def closed(window):
    h = proc.spawn("cat; exec sleep 90", stdin=True, stdout=True, stderr=True)
    h.write(b"x")
    with window:
        h.close()
    h.close()
    assert h.wait() == (False, "signal", signal.SIGKILL)


class OtherError(OSError):
    """What a handler may raise as well: `TimeoutError` is an `OSError`."""


actions = pytest.mark.parametrize(
    "action",
    [spawned, spawned_with_pipes, iterated, waited_for, written, closed],
    ids=["spawn", "pipes", "iterate", "wait", "write", "close"],
)


@campaign
@actions
@pytest.mark.parametrize("error", [KeyboardInterrupt, OtherError], ids=["Ctrl-C", "OSError"])
def test_an_interrupt_at_any_moment_loses_nothing_and_leaves_nothing(action, error):
    number = rounds(60)
    troubles = apart(sweep, action, number, error)
    assert troubles == {}


def test_an_interrupt_right_before_the_input_is_closed_does_not_keep_the_child():
    """A child that reads up to the end would wait for it as long as the handle is open."""

    def interrupted():
        del pipe.close
        raise KeyboardInterrupt

    h = proc.spawn(["cat"], stdin=True)
    pipe = h._child._pipes[0]
    pipe.close = interrupted
    h.write(proc.EOF)
    with pytest.raises(KeyboardInterrupt):
        h.wait()
    assert h.wait(DEADLINE / 6)


# -- handles that are dropped --------------------------------------------------------


@pytest.mark.parametrize("step", ["await_exit", "close"])
def test_a_signal_handler_that_raises_while_a_handle_is_collected_leaves_nothing(step, monkeypatch):
    """Python prints what is raised in a finalizer, and does not call that again."""
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: printed.append(unraisable.exc_type))
    call = getattr(spawn.Popen, step)

    def interrupted(*_, **__):
        monkeypatch.setattr(spawn.Popen, step, call)
        raise KeyboardInterrupt

    before = descriptors()
    h = proc.spawn(SLEEP, stdin=True, stdout=True)
    pid = h.pid
    monkeypatch.setattr(spawn.Popen, step, interrupted)
    del h
    gc.collect()
    assert printed == [KeyboardInterrupt]
    assert gone(pid)
    assert descriptors() == before


def test_a_running_handle_that_is_dropped_takes_its_child_along():
    def dropped_at_once(h):
        h.nowait()
        return h.pid

    def dropped_in_a_cycle(h):
        cycle = [h]
        cycle.append(cycle)
        return h.pid

    def dropped_in_a_thread(h):
        pid = h.pid
        kept = [h]
        del h
        thread = threading.Thread(target=kept.clear)
        thread.start()
        thread.join()
        return pid

    def dropped_while_it_gives(h):
        events = iter(h)
        h.kill(signal.SIGCONT)
        return h.pid if events else None

    for drop in dropped_at_once, dropped_in_a_cycle, dropped_in_a_thread, dropped_while_it_gives:
        for pipes in ({}, {"stdin": True, "stdout": True, "stderr": True}):
            before = descriptors()
            pid = drop(proc.spawn(SLEEP, **pipes))
            gc.collect()
            assert not os.path.exists(f"/proc/{pid}"), "neither alive nor a zombie"
            assert descriptors() == before


def run_python(code, *flags, **options):
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.run(
        python(code, *flags),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=DEADLINE / 3,
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    "keep",
    ["", "cycle = [h]; cycle.append(cycle)", "sys.kept = h", "import functools; atexit.register(h.nowait)", "del h"],
    ids=["global", "cycle", "module", "atexit", "dropped"],
)
@pytest.mark.parametrize("pipes", ["", ", stdin=True, stderr=True"], ids=["bare", "pipes"])
def test_the_end_of_the_interpreter_takes_the_child_along_without_a_warning(keep, pipes):
    """The child has the program's standard output: while one of them runs, that has no end."""
    code = f"import atexit, sys\nfrom ipcio import proc\nh = proc.spawn(['sleep', '20']{pipes})\nh.nowait()\n{keep}\n"
    ended = run_python(code, "-X", "dev", "-W", "error")
    assert (ended.returncode, ended.stderr) == (0, "")


# -- the program around ----------------------------------------------------------------


def signals():
    with open("/proc/self/status") as file:
        return [line for line in file if line.startswith(("SigCgt", "SigIgn", "SigBlk"))]


@takers
def test_dispositions_and_masks_of_signals_stay_as_they_were(take, kernel):
    before = signals()
    seen = []
    with proc.spawn(["cat"], stdin=True, stdout=True) as h:
        h.write(proc.EOF)
        seen.extend([signals(), h.nowait(), signals()])
    assert take("echo x", stdout=True)[1], kernel
    assert signals() == before
    assert all(each == before for each in (seen[0], seen[2]))


def test_a_module_that_runs_under_nohup_keeps_interrupts_ignored_and_so_do_its_children(tmp_path):
    (tmp_path / "under_nohup.py").write_text(
        "import re, sys, signal\n"
        "from ipcio import proc\n"
        "def ignored(text): return bool(int(re.search('SigIgn:\\t(.*)', text)[1], 16) & 2)\n"
        "with proc.spawn(['cat', '/proc/self/status'], stdout=True, encoding='ascii') as h:\n"
        "    status = ''.join(data for _, data in h)\n"
        "    assert h.wait()\n"
        "print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, ignored(open('/proc/self/status').read()),"
        " ignored(status))\n"
    )
    path = os.pathsep.join(entry for entry in [str(tmp_path), *sys.path] if entry)
    ended = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$0" -m under_nohup', sys.executable],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("True True True\n", "")


# -- event loops -------------------------------------------------------------------------


def watched(loop):
    return set(loop._selector.get_map())


def test_other_tasks_run_while_one_waits_and_nothing_is_left_in_the_loop(kernel):
    async def main():
        loop = asyncio.get_running_loop()
        before = watched(loop), signal.getsignal(signal.SIGCHLD), threading.enumerate()
        with proc.spawn(["cat"], stdin=True, stdout=True, callback=lambda *_: None) as h:

            async def end_it():  # the wait ends only if this runs
                for _ in range(20):
                    await asyncio.sleep(0.0001)
                h.write(b"x", proc.EOF)

            assert (await asyncio.gather(h.wait_async(), end_it()))[0]
        with proc.spawn(["cat", "/dev/zero"], stdout=True, callback=lambda *_: None) as h:

            async def kill_it():
                for _ in range(20):
                    await asyncio.sleep(0)
                h.kill("kill")

            assert (await asyncio.gather(h.wait_async(), kill_it()))[0].code == signal.SIGKILL
        with proc.spawn(SLEEP) as h:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(h.wait_async(), 0.001)
            assert await h.wait_async(0.001) is None
            assert (watched(loop), signal.getsignal(signal.SIGCHLD), threading.enumerate()) == before, kernel
            h.kill()

    asyncio.run(main())


def test_several_processes_in_one_loop(kernel):
    async def one(number):
        data = random.Random(number).randbytes(number * 50_000)
        with proc.spawn(["cat"], stdin=io.BytesIO(data), stdout=True) as h:
            assert b"".join([piece async for _, piece in h]) == data
            assert await h.wait_async(), kernel

    async def main():
        await asyncio.gather(*map(one, range(8)))

    asyncio.run(main())


def test_several_tasks_that_wait_for_one_process_all_come_to_an_end(kernel):
    async def main():
        with proc.spawn("read go; echo out", stdin=True, stdout=True, callback=lambda *_: None) as h:
            tasks = [asyncio.ensure_future(h.wait_async()) for _ in range(3)]
            for _ in range(3):
                await asyncio.sleep(0.001)
            h.write(proc.EOF)
            done, late = await asyncio.wait(tasks, timeout=DEADLINE / 6)
            for task in late:
                task.cancel()
            assert not late, kernel
            assert {task.result().kind for task in done} == {"exit"}

    asyncio.run(main())


@pytest.mark.needs("posix")
@pytest.mark.parametrize("end", ["close", "drop", "wait", "kill"])
def test_numbers_that_mean_other_files_by_now_are_left_alone(peer, end):
    """A daemon closes all descriptors, and files get the numbers: none is read, written, waited for or closed."""
    other = peer("from ipcio import proc; import tempfile")
    other.run(
        "h = proc.spawn(['cat'], stdin=True, stdout=True, callback=lambda *_: None); h.write(b'one'); h.wait(0.01)"
    )
    other.run("h.write(b'lost')")
    other.run("os.closerange(3, 1000); files = [tempfile.TemporaryFile() for _ in range(20)]")
    other.run("for file in files: file.write(b'mine'); file.flush()")
    pid = other.ask("h.pid")
    if end == "wait":
        # Its standard input has ended, and nothing reads what it still had to write.
        assert other.ask("tuple(h.wait(5))") in {(True, "exit", 0), (False, "signal", signal.SIGPIPE)}
    elif end == "kill":
        assert other.ask("h.kill(9)") is True
        assert other.ask("h.wait(5)[0]") in {True, False}
    other.run("h = None; gc.collect()" if end == "drop" else "h.close()")
    assert other.ask("[os.pread(file.fileno(), 9, 0) for file in files]") == [b"mine"] * 20
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
