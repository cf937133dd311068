"""``ipcio mutex``: commands that run one at a time, and what their end means for the mutex."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
from abilities import lacks
from command import DEADLINE, finish, start
from named_contract import FILES

from ipcio import _cli, list_objects, mutex

HOLD = "sh", "-c", "echo in; read line; exit 5"

KINDS = [0o600, pytest.param(0o666, marks=pytest.mark.needs("posix"))]


@pytest.fixture(params=KINDS, ids=["narrow", "wide"])
def m(request, name):
    with contextlib.closing(mutex.create(name, perm=request.param)) as made:
        yield made


@contextlib.contextmanager
def running(name, *options, command=HOLD):
    """A command that has the mutex until its standard input ends."""
    with start("mutex", "run", *options, name, "--", *command, stdin=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == "in\n"
            yield process
        finally:
            process.kill()


def assert_free(m):
    assert m.acquire(timeout=DEADLINE)
    assert not m.abandoned
    m.release()
    assert not m.locked()
    assert m.owner is None


@pytest.mark.needs("sh")
def test_a_command_has_the_mutex_as_long_as_it_runs(name, m):
    with running(name) as process:
        assert m.locked()
        assert m.owner == process.pid or lacks("posix")
        assert not m.acquire(False)
        assert not m.acquire(timeout=0.01)
        for options, expected in ([], 1), (["-E75"], 75):
            with start("mutex", "run", name, "--timeout=0", *options, "echo", "never") as other:
                assert finish(other) == (expected, "", "")
        process.stdin.close()
        assert process.wait() == 5
    assert_free(m)
    for command, expected in ("/no/such/command", 127), ("/", 126):
        with start("mutex", "run", name, command) as process:
            status, output, errors = finish(process)
        assert (status, output, errors.count("\n")) == (expected, "", 1)
        assert repr(command) in errors
        assert_free(m)


@pytest.mark.needs("sh", "posix")
def test_a_killed_command_releases_it_at_once_and_its_children_do_not_keep_it(name, m):
    with running(name, command=["sh", "-c", "sleep 60 <&- 2>&- & echo in; echo $!; read line"]) as process:
        child = int(process.stdout.readline())
        assert m.owner == process.pid
        if FILES:
            assert [each.value for each in list_objects() if each.name == name] == [process.pid]
        process.kill()
        process.wait()
        try:
            assert_free(m)
        finally:
            subprocess.run(["kill", str(child)], check=True)
            process.stdout.read()  # ends when the child does, which has kept the name, but not the mutex


@pytest.mark.needs("sh", "proc", "open file locks")  # elsewhere ipcio does not know when a process was started
def test_a_command_that_closes_all_files_keeps_it(name, m):
    close = "import os; os.closerange(3, 100); print('in', flush=True); input()"
    with running(name, command=[sys.executable, "-c", close]) as process:
        assert m.owner == process.pid
        if FILES:
            assert [each.value for each in list_objects() if each.name == name] == [process.pid]
        assert not m.acquire(timeout=0.01)
        process.stdin.close()
        process.wait()
    assert_free(m)


@pytest.mark.needs("sh", "posix", "open file locks")
def test_a_command_that_acquires_what_it_has_already_gets_an_error(name, m):  # noqa: ARG001
    again = f"from ipcio import mutex; print('in', flush=True); mutex.attach({name!r}).acquire()"
    with start("mutex", "run", name, "--", sys.executable, "-c", again) as process:
        _, _, errors = finish(process)
    assert "RuntimeError" in errors
    assert "ipcio mutex run" in errors
    nested = sys.executable, "-m", "ipcio", "mutex", "run", name, "true"
    with start("mutex", "run", name, "--", *nested) as process:
        status, _, errors = finish(process)
    assert (status, errors.count("\n")) == (1, 1)
    assert errors.startswith("ipcio: `ipcio mutex run` has acquired this mutex")


@pytest.mark.needs("sh")
def test_it_is_created_if_there_is_none_and_goes_with_the_last_command(name):
    with running(name) as process:
        with contextlib.closing(mutex.attach(name)) as m:
            assert m.locked()
        with start("mutex", "run", name, "--timeout=0", "echo", "never") as other:
            assert finish(other) == (1, "", "")
        process.stdin.close()
        assert process.wait() == 5
    with pytest.raises(FileNotFoundError):
        mutex.attach(name)


@pytest.mark.needs("persistence")
def test_create_makes_a_persistent_one(name):
    with start("mutex", "create", name) as process:
        assert finish(process) == (0, "", "")
    try:
        with start("mutex", "create", name) as process:
            status, _, errors = finish(process)
        assert status == 1
        assert "exists already" in errors
        with contextlib.closing(mutex.attach(name)) as m:
            assert_free(m)
    finally:
        mutex.unlink(name)


@pytest.mark.parametrize(
    "words", [[], ["create"], ["run", "NAME"], ["run", "NAME", "--"], ["run", "NAME", "--nonsense", "true"], ["x"]]
)
def test_usage_errors(name, words, capfd):
    with pytest.raises(SystemExit) as end:
        _cli.main(["mutex", *(name if word == "NAME" else word for word in words)])
    output, errors = capfd.readouterr()
    assert (end.value.code, output) == (2, "")
    assert errors.startswith("usage: ipcio")
