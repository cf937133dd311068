"""``ipcio sem`` and ``ipcio rm``: semaphores for shell scripts, and names that go; completion of both."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from unittest.mock import ANY

import pytest
from abilities import lacks
from command import DEADLINE, ENVIRONMENT, finish, start
from waiting import until_it_waits

from ipcio import _cli, sem, shm
from ipcio._cli import completion


@pytest.fixture
def call(capfd):
    """Run the command in this process; return its status and what it wrote."""

    def run_it(*words):
        try:
            status = _cli.main(words)
        except SystemExit as end:
            status = end.code
        return status, *capfd.readouterr()

    return run_it


@pytest.fixture
def persistent(name):
    """A name under which a semaphore may be left: it is unlinked at the end."""
    yield name
    with contextlib.suppress(FileNotFoundError):
        sem.unlink(name)


DONE = 0, "", ""


def is_one_line(told, name=None):
    """Whether it is status 1 and one line of complaint, of that name."""
    status, output, errors = told
    assert (status, output) == (1, "")
    assert errors.startswith("ipcio: ")
    assert errors.count("\n") == 1
    assert errors[:-1].isprintable()
    return name is None or repr(name) in errors


# -- sem -----------------------------------------------------------------------


@pytest.mark.needs("persistence", "value")
def test_a_semaphore_is_made_used_and_stays(persistent, call):
    assert call("sem", "create", persistent, "2") == DONE
    assert call("sem", "value", persistent) == (0, "2\n", "")
    assert call("sem", "dec", persistent) == DONE
    assert call("sem", "dec", persistent, "--timeout", "10") == DONE
    assert call("sem", "value", persistent) == (0, "0\n", "")
    assert call("sem", "inc", persistent) == DONE
    assert call("sem", "inc", persistent, "3") == DONE
    assert call("sem", "value", persistent) == (0, "4\n", "")
    assert call("rm", "--sem", persistent) == DONE
    assert is_one_line(call("sem", "value", persistent), persistent)


@pytest.mark.needs("persistence")
def test_permits_are_those_of_everybody(persistent, call):
    call("sem", "create", persistent, "0")
    with contextlib.closing(sem.attach(persistent)) as ours:
        assert not ours.dec(0)
        call("sem", "inc", persistent)
        assert ours.dec(0)
        ours.inc()
        assert call("sem", "dec", persistent, "--timeout", "0") == DONE
        assert not ours.dec(0)


@pytest.mark.parametrize("seconds", ["0", "0.01"])
def test_dec_says_by_its_status_alone_that_the_time_is_up(name, call, seconds):
    """So that it can be distinguished from an error, which has a line."""
    with contextlib.closing(sem.create(name, 0)):
        assert call("sem", "dec", name, "--timeout", seconds) == (1, "", "")


@pytest.mark.needs("signals", "proc")
def test_dec_waits_for_a_permit_and_can_be_interrupted(name):
    with contextlib.closing(sem.create(name, 0)) as permits:
        for end, told in [(lambda _: permits.inc(), DONE), (lambda p: p.send_signal(signal.SIGINT), (130, "", ""))]:
            with start("sem", "dec", name) as process:
                try:
                    while not any(entry.endswith(f"sem.{name}") for entry in maps(process.pid)):
                        assert process.poll() is None
                    until_it_waits(process.pid)
                    end(process)
                    assert finish(process) == told
                finally:
                    process.kill()


def maps(pid):
    with open(f"/proc/{pid}/maps") as file:
        return [line.rstrip("\n") for line in file]


@pytest.mark.needs("persistence")
def test_a_name_in_use_is_not_created_again(name, call):
    with contextlib.closing(sem.create(name, 3)) as permits:
        assert is_one_line(call("sem", "create", name, "5"), name)
        assert [permits.dec(0) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("verb", ["inc", "dec", "value"])
def test_a_semaphore_that_does_not_live(name, call, verb):
    assert is_one_line(call("sem", verb, name), name)


@pytest.mark.needs("undo")
def test_a_release_past_the_bound_is_one_line(name, call):
    with contextlib.closing(sem.create(name, 1, max=1, undo=True)):
        assert is_one_line(call("sem", "inc", name), name)
        assert is_one_line(call("sem", "inc", name, "5"), name)


@pytest.mark.needs("undo")
def test_a_crash_safe_semaphore(persistent, call):
    """To acquire a permit while the same command runs would be of no use."""
    assert call("sem", "create", "--undo", persistent, "1") == DONE
    with contextlib.closing(sem.attach(persistent)) as permits:
        assert permits.undo
        assert is_one_line(call("sem", "dec", persistent), persistent)
        assert permits.value == 1
        assert call("sem", "inc", persistent, "2") == DONE
        assert call("sem", "value", persistent) == (0, "3\n", "")
    sem.unlink(persistent)


@pytest.mark.needs("persistence")
def test_more_permits_than_there_can_be(persistent, call):
    assert is_one_line(call("sem", "create", persistent, str(10**10)))
    call("sem", "create", persistent, "1")
    assert is_one_line(call("sem", "inc", persistent, str(2**31 - 1)))
    assert call("sem", "dec", persistent, "--timeout=0") == DONE
    assert call("sem", "dec", persistent, "--timeout=0") == (1, "", "")


@pytest.mark.able(probe=lambda: lacks("persistence"))
def test_semaphores_where_nothing_persists(name, call):
    assert is_one_line(call("sem", "create", name, "1"))


# -- sem run -------------------------------------------------------------------

HOLD = "sh", "-c", "echo in; read line; exit 5"


@contextlib.contextmanager
def running(name, *options, command=HOLD):
    """A command that has a permit until its standard input ends."""
    with start("sem", "run", *options, name, "--", *command, stdin=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == "in\n"
            yield process
        finally:
            process.kill()


@pytest.mark.needs("sh")
@pytest.mark.parametrize("undo", [False, pytest.param(True, marks=pytest.mark.needs("undo"))])
def test_a_command_has_a_permit_as_long_as_it_runs(name, undo):
    with contextlib.closing(sem.create(name, 1, undo=undo)) as permits:
        with running(name) as process:
            assert not permits.dec(0)
            for options, expected in ([], 1), (["-E75"], 75):
                with start("sem", "run", name, "--timeout=0", *options, "echo", "never") as other:
                    assert finish(other) == (expected, "", "")
            process.stdin.close()
            assert process.wait() == 5
        assert permits.dec(0)
        permits.inc()
        for command, expected in ("/no/such/command", 127), ("/", 126):
            with start("sem", "run", name, command) as process:
                status, output, errors = finish(process)
            assert (status, output, errors.count("\n")) == (expected, "", 1)
            assert repr(command) in errors
            assert permits.dec(0)
            permits.inc()


@pytest.mark.needs("sh", "signals", "proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_and_releases_the_permit(name, number):
    """SIGTERM of ipcio is passed on; Ctrl-C reaches both from the terminal."""
    with contextlib.closing(sem.create(name, 1)) as permits:
        with running(name, command=["sh", "-c", "echo in; exec sleep 60"]) as process:
            if number == signal.SIGINT:
                (child,) = children_of(process.pid)
                process.send_signal(number)
                os.kill(child, number)
            else:
                process.send_signal(number)
            assert finish(process)[0] == 128 + number
        assert permits.dec(0)


@pytest.mark.needs("signals", "proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_for_a_permit(name, number):
    with contextlib.closing(sem.create(name, 0)) as permits:
        with start("sem", "run", name, "true") as process:
            try:
                while not any(entry.endswith(f"sem.{name}") for entry in maps(process.pid)):
                    assert process.poll() is None
                until_it_waits(process.pid)
                process.send_signal(number)
                assert finish(process) == (128 + number, "", "")
            finally:
                process.kill()
        permits.inc()
        assert permits.dec(0)


@pytest.mark.needs("posix")
def test_a_signal_while_the_command_starts_is_passed_on(monkeypatch):
    """Sent just before the child is known."""
    from ipcio._posix import command

    popen = subprocess.Popen

    def start_late(words):
        child = popen(words)
        os.kill(os.getpid(), signal.SIGTERM)
        return child

    monkeypatch.setattr(subprocess, "Popen", start_late)
    before = signal.getsignal(signal.SIGTERM)
    with command.supervising() as run_command:
        assert run_command(["sleep", "60"]) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.needs("posix", "proc")
@pytest.mark.parametrize("undo", [False, pytest.param(True, marks=pytest.mark.needs("undo"))])
def test_the_file_of_the_semaphore_is_not_the_commands_stdin(name, undo):
    command = "sem", "run", name, "--", "readlink", "/proc/self/fd/0"
    with contextlib.closing(sem.create(name, 1, undo=undo)):
        with start(*command, stdin=None, preexec_fn=lambda: os.close(0)) as process:
            assert finish(process) == (1, "", "")


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


@pytest.mark.needs("sh", "undo", "signals")
def test_a_crash_safe_permit_is_the_commands_own(name):
    """ipcio becomes the command, which keeps the name as well; SIGKILL releases both."""
    permits = sem.create(name, 1, undo=True)
    with running(name, command=["sh", "-c", "echo in; echo $$; read line"]) as process:
        assert process.stdout.readline() == f"{process.pid}\n"
        permits.close()
        with contextlib.closing(sem.attach(name)) as permits:
            assert not permits.dec(0)
            process.kill()
            assert permits.dec(DEADLINE)
    with pytest.raises(FileNotFoundError):
        sem.attach(name)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["create"],
        ["run", "NAME"],
        ["run", "NAME", "--"],
        ["run", "--", "true"],
        ["run", "NAME", "--timeout", "--", "true"],
        ["run", "NAME", "--nonsense", "true"],
        ["create", "NAME"],
        ["create", "NAME", "-1"],
        ["create", "NAME", "x"],
        ["create", "a/b", "1"],
        ["create", "", "1"],
        ["inc"],
        ["inc", "NAME", "0"],
        ["inc", "NAME", "1.5"],
        ["dec", "NAME", "--timeout", "nan"],
        ["dec", "NAME", "--timeout=-1"],
        ["dec", "NAME", "5"],
        ["value"],
        ["value", "two\nlines/"],
        ["nonsense", "NAME"],
    ],
)
def test_sem_usage_errors(name, call, words):
    status, output, errors = call("sem", *(name if word == "NAME" else word for word in words))
    assert (status, output) == (2, "")
    assert errors.startswith("usage: ipcio")
    assert errors.splitlines()[-1].startswith("ipcio")
    with pytest.raises(FileNotFoundError):
        sem.attach(name)


# -- rm ------------------------------------------------------------------------


@pytest.mark.needs("persistence")
def test_rm_removes_each_name_that_it_can(unique, call):
    names = [unique() for _ in range(3)]
    for name in names[::2]:
        shm.create(name, 1, persist=True).close()
    assert is_one_line(call("rm", *names), names[1])
    status, output, errors = call("rm", *names)
    assert (status, output) == (1, "")
    starts = [line.split(": ")[:2] for line in errors.splitlines()]
    assert starts == [["ipcio", f"no shared memory {name!r}"] for name in names]


@pytest.mark.needs("unlinking")
def test_rm_removes_an_object_in_use(name, call):
    with shm.create(name, 3) as h:
        assert call("rm", name) == DONE
        with pytest.raises(FileNotFoundError):
            shm.attach(name)
        h.write(b"abc")
    with contextlib.closing(sem.create(name, 1)) as permits:
        assert call("rm", "--sem", name) == DONE
        assert permits.dec(0)


@pytest.mark.needs("unlinking", "namespaces")
def test_rm_keeps_to_its_kind(name, call):
    with shm.create(name, 3), contextlib.closing(sem.create(name, 1)):
        assert call("rm", "--sem", name) == DONE
        assert is_one_line(call("rm", "--sem", name), name)
        assert call("rm", name) == DONE


@pytest.mark.able(probe=lambda: lacks("unlinking"))
def test_rm_where_names_go_with_their_last_handle_only(name, call):
    with shm.create(name, 3):
        assert is_one_line(call("rm", name), name)


@pytest.mark.needs("persistence")
def test_rm_of_patterns(unique, call):
    """An object that has the name literally comes first; what another program removes meanwhile is no error."""
    name = unique()
    names = [name, f"{name}-a", f"{name}-b", f"{name}-*"]
    for each in names:
        shm.create(each, 1, persist=True).close()
    with contextlib.closing(sem.create(f"{name}-s", 1)):
        assert call("rm", f"{name}-*") == DONE
        assert left(names) == names[:3]
        assert call("rm", f"{name}-[!a]") == DONE
        assert left(names) == names[:2]
        assert is_one_line(call("rm", f"{name}-[!a]"))
        assert call("rm", f"{name}*", f"{name}*") == (1, "", ANY)
        assert left(names) == []
        sem.attach(f"{name}-s").close()


@pytest.mark.needs("unlinking")
def test_rm_force_ignores_what_does_not_exist_and_nothing_else(name, call):
    with shm.create(name, 1):
        assert call("rm", "-f", f"{name}-1", name, f"{name}-*", name) == DONE
        assert left([name]) == []
        assert call("rm", "-f", "--sem", name) == DONE
        assert call("rm", "-f", "a/b")[0] == 2
        assert call("rm", "-f")[0] == 2


def left(names):
    found = []
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            shm.attach(name).close()
            found.append(name)
    return found


def test_rm_tells_a_strange_name_in_one_line(unique, call):
    name = unique("\n\x1b[2J")
    status, output, errors = call("rm", name)
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert errors[:-1].isprintable()


@pytest.mark.needs("persistence")
def test_rm_of_a_malformed_name_removes_nothing(name, call):
    shm.create(name, 1, persist=True).close()
    try:
        for words in ([name, "a/b"], ["--sem"], [name, ".."], []):
            status, output, errors = call("rm", *words)
            assert (status, output) == (2, "")
            assert errors.startswith("usage: ipcio rm")
    finally:
        shm.unlink(name)


# -- completion ----------------------------------------------------------------


def test_completion_knows_the_names(unique):
    pages, printers, strange = unique(), unique(), unique("\n")
    with shm.create(pages, 1), contextlib.closing(sem.create(printers)), shm.create(strange, 1):
        assert pages in completion.of("shm")(prefix="")
        assert printers not in completion.of("shm")()
        assert strange not in completion.of("shm")()
        assert printers in completion.of("sem")()
        assert pages not in completion.of("sem")()
        assert pages in completion.of_option(parsed_args=argparse.Namespace(kind="shm"))
        assert printers in completion.of_option(parsed_args=argparse.Namespace(kind="sem"))
        assert {pages, printers} <= {*completion.of_kind(parsed_args=argparse.Namespace(kind=None))}
        assert printers not in completion.of_kind(parsed_args=argparse.Namespace(kind="shm"))


@pytest.mark.needs("posix")
@pytest.mark.parametrize("words", ["sem run", "wait --gone"])
def test_completion_in_a_shell(unique, tmp_path, words):
    """What argcomplete's function for the shell asks."""
    pytest.importorskip("argcomplete")
    name = unique()
    with contextlib.closing(sem.create(name)):
        line = f"ipcio {words} {name[:-1]}"
        answer = tmp_path / "answer"
        environment = {
            **ENVIRONMENT,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
            "_ARGCOMPLETE_IFS": "\n",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        }
        with start(env=environment) as process:
            assert finish(process) == DONE
    assert name in answer.read_text().split()


def test_without_argcomplete_the_command_does_its_work(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    assert call("--version")[0] == 0


@pytest.mark.parametrize("module", ["__main__", "_cli/__init__"])
def test_argcomplete_is_told_that_it_may_ask(module):
    """It looks no further than this."""
    path = os.path.join(os.path.dirname(os.path.dirname(_cli.__file__)), f"{module}.py")
    with open(path, "rb") as file:
        assert b"PYTHON_ARGCOMPLETE_OK" in file.read(1024)


def test_help_imports_no_feature():
    """It is printed at once."""
    code = (
        "import sys; from ipcio import _cli\n"
        "try: _cli.main(['--help'])\n"
        "finally: print(sorted(m for m in sys.modules if m.startswith('ipcio.') and '._cli' not in m), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0
    assert done.stderr == "['ipcio._names', 'ipcio._timeouts', 'ipcio._typing']\n"
