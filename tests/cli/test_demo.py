"""``ipcio demo``: the counts are right, and no killed process leaves anything behind."""

from __future__ import annotations

import collections
import contextlib
import errno
import glob
import os
import signal
import subprocess
import sys
import sysconfig
import time

import pytest
from command import DEADLINE, ENVIRONMENT, finish, run, start

from ipcio import _cli, _demo, filelock, proc, sem, shm


@pytest.fixture
def files(tmp_path):
    """Files of many kinds, as a list of paths."""
    contents = [
        b"",
        b"\n",
        b"one two two three three three\n" * 100,
        b"no newline at the end",
        b"windows\r\nlines\r\n\tand\ttabs\x0b\x0cand form feeds\r\n",
        "größe größe größe größe \u3000 überall\u2028 日本 日本 日本".encode(),
        b"\xff\xfe undecodable \xc3 \xe2\x82 bytes\n" * 7,
        bytes(range(256)) * 10,
        b"a-very-long-word-" * 20000,
    ]
    paths = [str(tmp_path / f"file {number}") for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        with open(path, "wb") as file:
            file.write(content)
    return paths


@pytest.fixture
def slow(tmp_path):
    """A file that keeps a worker busy for a while."""
    path = tmp_path / "slow"
    path.write_bytes(b"here are eight words in a line here\n" * 25_000)
    return str(path)


def words_of(paths):
    """The count to expect, come by otherwise than the demo does."""
    counts = collections.Counter()
    for path in paths:
        with open(path, "rb") as file:
            text = file.read().decode("utf-8", errors="replace").lower()
            counts.update(
                "".join(letter if letter.isalnum() and not letter.isdecimal() else " " for letter in text).split()
            )
    return counts


def parse(output):
    """The numbers of the demo's tables: each worker's, the total, the frequent words."""
    lines = output.splitlines()
    first = next(at for at, line in enumerate(lines) if line.split()[:1] == ["worker"])
    last = next(at for at, line in enumerate(lines) if line.split()[:1] == ["total"])
    workers = [[int(number) for number in line.split()] for line in lines[first + 1 : last]]
    total = [int(number) for number in lines[last].split()[1:]]
    frequent = [line.split() for line in lines[last + 1 :] if line[:8].strip().isdigit()]
    return workers, total, [(word, int(count)) for count, word in frequent]


def results(output):
    """What is printed after the lines that say what the demo does: nothing if a worker fails."""
    return output.partition("\n\n")[2]


def wait_until(condition, otherwise):
    give_up = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < give_up, otherwise
        time.sleep(0.001)


def read(path):
    with open(path) as file:
        return file.read()


def wait_until_stopped(pids):
    for pid in pids:
        wait_until(lambda pid=pid: read(f"/proc/{pid}/stat").rpartition(") ")[2][0] == "T", f"{pid} does not stop")


def stop(pids):
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    wait_until_stopped(pids)


def go_on(pids):
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


# A worker that finds this stops before its first step.
STOP = """
import os, signal, sys
if "ipcio._demo" in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGSTOP)
"""


class Held:
    """A demo that is stopped, and so are its workers, before they did anything."""

    def __init__(self, folder, workers, *files) -> None:
        (folder / "sitecustomize.py").write_text(STOP)
        path = f"{folder}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"
        self.demo = start("demo", "-j", workers, *files, env={**ENVIRONMENT, "PYTHONPATH": path})
        self.pids = []
        try:
            wait_until(lambda: len(self.children()) == workers, "no workers")
            self.pids = self.children()
            wait_until_stopped(self.pids)
            stop([self.demo.pid])
            (self.name,) = {read(f"/proc/{pid}/cmdline").split("\0")[-3] for pid in self.pids}
            (record,) = records_of(self.name).values()
            self.key = record.key
        except BaseException:
            self.kill()
            raise

    def children(self):
        assert self.demo.poll() is None, finish(self.demo)
        return [int(pid) for pid in read(f"/proc/{self.demo.pid}/task/{self.demo.pid}/children").split()]

    def finish(self):
        """Let the demo go on, if it is alive, and return what it ends with: its status, the results and stderr."""
        go_on([self.demo.pid])
        status, output, errors = finish(self.demo)
        return status, results(output), errors

    def kill(self):
        for pid in [self.demo.pid, *self.pids]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.demo.communicate()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:  # nobody else would, and who is stopped never ends
            self.kill()
            return
        # What was orphaned has a moment to notice.
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in self.pids), "workers left")
        assert not left_of(self.name)
        assert self.key not in keys_of_sets()


@pytest.fixture
def hold(tmp_path_factory):
    """Start a demo and stop it; see `Held`."""
    folder = tmp_path_factory.mktemp("path")
    return lambda *arguments: Held(folder, *arguments)


def left_of(name):
    return {entry for entry in os.listdir("/dev/shm") if name in entry} | records_of(name).keys()


def records_of(name):
    """The hidden names in /dev/shm that stand for the semaphore of a run."""
    found = {}
    for entry in os.listdir("/dev/shm"):
        if entry.startswith(".ipcio-undo-"):
            with contextlib.suppress(OSError), open(f"/dev/shm/{entry}", "rb") as file:
                from ipcio._posix import undo_record

                record = undo_record.read(file.fileno(), os.fstat(file.fileno()))
                if record is not None and name in record.name:
                    found[entry] = record
    return found


def keys_of_sets():
    """All System V sets of this machine."""
    return {int(line.split()[0]) for line in read("/proc/sysvipc/sem").splitlines()[1:]}


# -- counts ------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3, 100])
def test_counts(files, workers):
    status, output, errors = run("demo", "-j", workers, "-n", 1000, *files)
    assert (status, errors) == (0, "")
    rows, total, frequent = parse(output)
    expected = words_of(files)
    assert total == [len(files), sum(map(os.path.getsize, files)), expected.total()]
    assert sorted(row[0] for row in rows) == list(range(1, min(workers, len(files)) + 1))
    assert [sum(column) for column in list(zip(*rows, strict=True))[2:]] == total
    assert len({row[1] for row in rows}) == len(rows)  # processes
    assert sorted(count for _, count in frequent) == sorted(expected.values())
    assert set(frequent) >= {(word, count) for word, count in expected.items() if len(word) < 60}
    permits = max(1, min(os.cpu_count(), len(rows) - 1))
    assert f" {permits} permit" in output
    assert all(line.isprintable() and len(line) < 100 for line in output.split("\n"))


def test_without_files_it_counts_the_standard_library():
    status, output, errors = run("demo")
    assert (status, errors) == (0, "")
    rows, total, frequent = parse(output)
    sources = glob.glob(os.path.join(sysconfig.get_path("stdlib"), "*.py"))
    expected = words_of(sources)
    assert total == [len(sources), sum(map(os.path.getsize, sources)), expected.total()]
    assert frequent == expected.most_common(10)
    assert len(rows) == min(2 * os.cpu_count(), len(sources))


def test_the_same_file_twice_counts_twice(files):
    status, output, _ = run("demo", "-j2", files[2], files[2])
    assert status == 0
    assert parse(output)[2] == [("three", 600), ("two", 400), ("one", 200)]


@pytest.mark.needs("posix")
def test_strange_and_relative_file_names(tmp_path):
    names = [b"new\nline", b"\xff\xfe", b"-j", b"quote\"'\\", "größe".encode()]
    for number, name in enumerate(names):
        with open(os.path.join(os.fsencode(tmp_path), name), "w") as file:
            file.write("found" + "abcde"[number])
    paths = [os.fsdecode(os.path.join(b".", name)) for name in names[:-1]]
    status, output, errors = run("demo", "-j1", "--", *paths, os.fsdecode(names[-1]), cwd=tmp_path)
    assert (status, errors) == (0, "")
    assert sorted(parse(output)[2]) == [("found" + letter, 1) for letter in "abcde"]


def test_modules_among_the_files_are_not_imported(tmp_path):
    """Started as the script `ipcio`, that is: ``python -m`` itself looks there first."""
    for module in ["json", "csv", "asyncio", "selectors", "subprocess", "ipcio"]:
        (tmp_path / f"{module}.py").write_text("raise SystemExit('imported the wrong module')")
    code = (
        "import sys; sys.path = [entry for entry in sys.path if entry]\n"
        "from ipcio._cli import main; sys.exit(main(['demo', 'json.py']))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)


# -- bad files ---------------------------------------------------------------


@pytest.fixture
def no_workers(monkeypatch):
    def spawn(*_, **__):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(proc, "spawn", spawn)


@pytest.mark.usefixtures("no_workers")
def test_a_bad_file_stops_the_demo_before_anything_is_started(files, tmp_path):
    with pytest.raises(FileNotFoundError):
        _demo.run([*files, str(tmp_path / "missing")], 2, 10)
    with pytest.raises(IsADirectoryError):
        _demo.run([*files, str(tmp_path)], 2, 10)


@pytest.mark.needs("posix")
def test_bad_files_are_one_line(files, tmp_path, capsys):
    os.mkfifo(tmp_path / "fifo")
    for bad, complaint in [
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "fifo", "only a regular file can be mapped"),
        ("/dev/null", "only a regular file can be mapped"),
        (f"{files[0]}/below", "Not a directory"),
    ]:
        assert _cli.main(["demo", files[2], str(bad)]) == 1
        assert capsys.readouterr() == ("", f"ipcio: {complaint}: {str(bad)!r}\n")


@pytest.mark.usefixtures("no_workers")
@pytest.mark.needs("permissions")
def test_an_unreadable_file_too(tmp_path):
    path = tmp_path / "secret"
    path.write_text("secret")
    path.chmod(0)
    if os.getuid() == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            _demo.run([str(path)], 2, 10)
    finally:
        os.seteuid(os.getuid())


def test_a_difference_is_an_error(files, monkeypatch, capsys):
    right = _demo._plain_count

    def wrong(paths):
        total, counts = right(paths)
        counts["two"] += 1
        return total, counts

    monkeypatch.setattr(_demo, "_plain_count", wrong)
    with pytest.raises(SystemExit, match="otherwise than the workers"):
        _demo.run(files, 2, 10)
    output, errors = capsys.readouterr()
    assert (results(output), errors) == ("", "")


def test_no_sources_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(SystemExit, match="name a FILE"):
        _demo.run([], 2, 10)


# -- turns -------------------------------------------------------------------


def value(name):
    turns = sem.attach(f"{name}-turns")
    try:
        assert turns.undo
        return turns.value
    finally:
        turns.close()


@pytest.mark.needs("posix", "proc", "files", "undo")
def test_no_more_count_at_once_than_were_admitted(hold, slow):
    """A worker that is killed in its turn does not strand the others."""
    workers = 3
    with hold(workers, *[slow] * (2 * workers)) as held:
        permits = min(os.cpu_count(), workers - 1)
        counting = []
        while len(counting) < permits:
            go_on(held.pids)
            stop(held.pids)
            counting = [pid for pid in held.pids if slow in read(f"/proc/{pid}/maps")]
            assert value(held.name) <= permits - len(counting)
        killed = held.pids.index(counting[0]) + 1
        os.kill(counting[0], signal.SIGKILL)
        go_on(held.pids)
        others = {f"{held.name}-{number}" for number in range(1, workers + 1) if number != killed}
        wait_until(lambda: others <= left_of(held.name), "the others do not go on")
        assert value(held.name) == permits
        complaint = f"ipcio: worker {killed} (process {counting[0]}) was killed by SIGKILL\n"
        assert held.finish() == (1, "", complaint)


@pytest.mark.parametrize(
    ("number", "complaint"),
    [
        (errno.ENOSPC, "ipcio: the system allows no more System V semaphores"),
        (errno.ENOSYS, "ipcio: the kernel has no System V semaphores"),
    ],
)
@pytest.mark.needs("undo")
def test_no_semaphore_to_be_had_is_one_line(files, number, complaint):
    code = (
        "import ctypes, sys; from ipcio import _cli; from ipcio._posix import libc\n"
        f"libc.semget = lambda *_: (ctypes.set_errno({number}), -1)[1]\n"
        "sys.exit(_cli.main(['demo', sys.argv[1]]))"
    )
    command = [sys.executable, "-c", code, files[0]]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == 1
    assert "-turns" in done.stderr


# -- the report --------------------------------------------------------------


@pytest.mark.needs("posix", "proc", "files", "undo")
def test_only_one_worker_at_a_time_writes_into_the_report(hold, files):
    with hold(3, *files) as held, shm.attach(f"{held.name}-report") as report, filelock.locked(report):
        go_on(held.pids)
        wait_until(lambda: waiters(report) == 3, "not all workers come to wait")
        assert not any(report.read())
        os.kill(held.pids[0], signal.SIGKILL)
        wait_until(lambda: waiters(report) == 2, "killed workers wait")
        filelock.unlock(report)
        complaint = f"ipcio: worker 1 (process {held.pids[0]}) was killed by SIGKILL\n"
        assert held.finish() == (1, "", complaint)


@pytest.mark.needs("posix", "proc", "files", "undo")
def test_who_waits_for_the_report_writes_it_later(hold, files):
    with hold(3, *files) as held:
        with shm.attach(f"{held.name}-report") as report, filelock.locked(report):
            go_on(held.pids)
            wait_until(lambda: waiters(report) == 3, "not all workers come to wait")
        status, output, errors = held.finish()
    assert (status, errors) == (0, "")
    assert sorted(row[:2] for row in parse(output)[0]) == [[at, pid] for at, pid in enumerate(held.pids, 1)]


def waiters(report):
    """How many wait for a lock on it."""
    about = os.fstat(report.fileno())
    place = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    return sum("->" in line and place in line.split() for line in read("/proc/locks").splitlines())


# -- kills -------------------------------------------------------------------


@pytest.mark.needs("posix", "proc", "files", "undo")
def test_a_killed_worker_is_one_line(hold, slow, files):
    with hold(2, slow, *files) as held:
        go_on(held.pids)
        os.kill(held.pids[0], signal.SIGKILL)
        assert held.finish() == (1, "", f"ipcio: worker 1 (process {held.pids[0]}) was killed by SIGKILL\n")


@pytest.mark.needs("posix", "proc", "files", "undo")
def test_a_worker_that_hangs_does_not_hide_that_another_was_killed(hold, slow, files):
    with hold(2, slow, *files) as held:
        os.kill(held.pids[1], signal.SIGKILL)
        assert held.finish() == (1, "", f"ipcio: worker 2 (process {held.pids[1]}) was killed by SIGKILL\n")


@pytest.mark.needs("posix", "proc", "files", "undo")
def test_a_worker_killed_when_its_result_is_there(hold, files):
    """The name is in sight, but its only holder was killed: it is an orphan."""
    with hold(1, *files) as held:
        (pid,) = held.pids
        go_on([pid])
        wait_until(lambda: f"{held.name}-1" in left_of(held.name), "no result")
        os.kill(pid, signal.SIGKILL)
        assert held.finish() == (1, "", f"ipcio: worker 1 (process {pid}) was killed by SIGKILL\n")


@pytest.mark.needs("posix", "proc", "files", "undo")
def test_what_a_worker_fails_of_is_told(hold, slow):
    with hold(1, slow) as held:
        os.unlink(slow)
        go_on(held.pids)
        complaint = f"FileNotFoundError: [Errno 2] No such file or directory: {slow!r}"
        worker = f"ipcio: worker 1 (process {held.pids[0]})"
        assert held.finish() == (1, "", f"{worker} ended with status 1: {complaint}\n")


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.needs("posix", "proc", "files", "undo")
def test_interrupt(hold, slow, files, stopped):
    """Ctrl-C ends it quietly, whatever state the workers are in."""
    with hold(2, slow, *files) as held:
        go_on(held.pids[stopped:])
        held.demo.send_signal(signal.SIGINT)
        assert held.finish() == (130, "", "")


@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM"])
@pytest.mark.needs("posix", "proc", "files", "undo")
def test_workers_outlive_the_parent_and_leave(hold, slow, files, number):
    """They hold the names when the parent is gone, and the last of them takes the names along."""
    number = signal.Signals[number]
    with hold(2, slow, *files) as held:
        go_on(held.pids)
        wait_until(lambda: f"{held.name}-2" in left_of(held.name), "no result")
        stop(held.pids)  # the first thing that goes with the parent may be the pipe for which they wait
        held.demo.send_signal(number)
        assert held.finish() == (-number, "", "")
        go_on(held.pids)


# -- progress ----------------------------------------------------------------


@pytest.mark.needs("posix")
def test_progress_on_a_terminal_only(slow, files):
    import pty

    ours, terminal = pty.openpty()
    try:
        with start("demo", "-j2", slow, *files, stderr=terminal) as demo:
            os.close(terminal)
            status, output, _ = finish(demo)
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
    assert status == 0
    assert "\r" not in output
    assert f"of {len(files) + 1} files" in shown
    assert shown.endswith("\r\x1b[K")  # and is gone
