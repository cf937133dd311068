"""``ipcio wait`` and ``ipcio stat``."""

from __future__ import annotations

import contextlib
import os

import pytest
from children import leave_orphan
from command import DEADLINE, finish, start

from ipcio import _cli, _inventory, sem, shm
from ipcio._object_info import ObjectInfo, ProcessInfo


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


# -- wait ----------------------------------------------------------------------

HERE, NOT_HERE = (0, "", ""), (1, "", "")
MAKE = {"shm": lambda name: shm.create(name, 1), "sem": lambda name: sem.create(name, 1)}


@pytest.mark.parametrize("kind", MAKE)
def test_wait_knows_what_exists(name, call, kind):
    (other,) = MAKE.keys() - {kind}
    now = "--timeout", "0"
    assert call("wait", name, *now) == NOT_HERE
    assert call("wait", name, *now, "--gone") == HERE
    with contextlib.closing(MAKE[kind](name)):
        for options in [], ["--kind", kind]:
            assert call("wait", name, *now, *options) == HERE
            assert call("wait", name, *now, *options, "--gone", "-E75") == (75, "", "")
        assert call("wait", name, *now, "--kind", other) == NOT_HERE
        assert call("wait", name, "--kind", other, "--gone") == HERE
    assert call("wait", name, "--timeout", "0.05") == NOT_HERE


@pytest.mark.needs("undo")
@pytest.mark.parametrize("persist", [False, True])
def test_wait_knows_a_crash_safe_semaphore(name, call, persist):
    with contextlib.closing(sem.create(name, 1, undo=True, persist=persist)):
        assert call("wait", name, "--timeout", "0") == HERE
        assert call("wait", name, "--timeout", "0", "--kind", "shm") == NOT_HERE
    if persist:
        assert call("wait", name, "--timeout", "0") == HERE
        sem.unlink(name)
    assert call("wait", name, "--gone", "--timeout", "0") == HERE


@pytest.mark.needs("persistence")
def test_wait_knows_what_persists(name, call):
    shm.create(name, 1, persist=True).close()
    assert call("wait", name, "--timeout", "0") == HERE
    shm.unlink(name)
    assert call("wait", name, "--timeout", "0") == NOT_HERE


@pytest.mark.needs("files")
def test_wait_knows_what_other_programs_made_once_it_has_a_size(name, call):
    with open(f"/dev/shm/{name}", "xb") as file:
        assert call("wait", name, "--timeout", "0") == NOT_HERE
        file.truncate(1)
        assert call("wait", name, "--timeout", "0") == HERE
    os.unlink(f"/dev/shm/{name}")


@pytest.mark.needs("files")
@pytest.mark.parametrize("kind", [*MAKE, pytest.param("undo", marks=pytest.mark.needs("undo"))])
def test_what_killed_processes_held_does_not_exist_for_wait(name, call, kind):
    make = {**MAKE, "undo": lambda name: sem.create(name, 1, undo=True)}[kind]
    leave_orphan(lambda: make(name))
    assert call("wait", name, "--timeout", "0") == NOT_HERE
    assert call("wait", name, "--gone") == HERE
    make(name).close()


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.sampled(2)
def test_wait_ends_when_the_name_appears_and_when_it_goes(name, call, kind, monkeypatch):
    """Between two looks it keeps nothing, so the last handle here is the last one."""
    exists = _inventory.exists
    looks = []
    act = None

    def look(*arguments):
        looks.append(exists(*arguments))
        if len(looks) == 3:
            act()
        return looks[-1]

    monkeypatch.setattr(_inventory, "exists", look)
    with contextlib.ExitStack() as held:
        act = lambda: held.enter_context(contextlib.closing(MAKE[kind](name)))  # noqa: E731 -- as below
        assert call("wait", name) == HERE
        assert looks == [False, False, False, True]
        looks.clear()
        act = held.close
        assert call("wait", name, "--gone", "--timeout", str(DEADLINE)) == HERE
        assert looks == [True, True, True, False]


@pytest.mark.parametrize("kind", MAKE)
def test_wait_of_another_process(name, kind):
    with start("wait", name, "--timeout", DEADLINE) as process, contextlib.closing(MAKE[kind](name)):
        assert finish(process) == HERE
        second = start("wait", name, "--gone", "--timeout", DEADLINE)
    with second:
        assert finish(second) == HERE


@pytest.mark.parametrize("words", [[], ["a/b"], ["NAME", "--kind", "mem"], ["NAME", "--timeout=-1"], ["NAME", "x"]])
def test_wait_usage_errors(name, call, words):
    status, output, errors = call("wait", *(name if word == "NAME" else word for word in words))
    assert (status, output) == (2, "")
    assert errors.startswith("usage: ipcio")


# -- stat ----------------------------------------------------------------------


def test_stat_prints_every_fact(call, monkeypatch):
    """Of both kinds, if both have the name; a name that exists comes before its meaning as a pattern."""
    holders = [ProcessInfo(7, "python3"), ProcessInfo(19, "\x1b[2J")]
    entries = [
        ObjectInfo("shm", "a*", 4096, None, False, "0640", "ann", 12.6, "live", holders),
        ObjectInfo("shm", "ab", 1, None, False, None, None, None, "foreign", []),
        ObjectInfo("sem", "a*", None, 3, True, "0600", "1007", 0.1, "persistent", []),
    ]
    monkeypatch.setattr(_inventory, "list_objects", lambda: entries)
    memory = [
        "kind: shm (shared memory)",
        "name: a*",
        "size: 4096 (4.0 KiB)",
        "perm: 0640",
        "owner: ann",
        "age: 13 (seconds)",
        "state: live (created by ipcio, open in a process; removed with its last handle)",
        "holder: 7 python3",
        r"holder: 19 '\x1b[2J'",
    ]
    semaphore = [
        "kind: sem (semaphore)",
        "name: a*",
        "value: 3",
        "undo: true (crash-safe)",
        "perm: 0600",
        "owner: 1007",
        "age: 0 (seconds)",
        "state: persistent (created by ipcio to stay until it is removed)",
    ]
    assert call("stat", "a*") == (0, "\n".join([*memory, "", *semaphore, ""]), "")
    other = ["kind: shm (shared memory)", "name: ab", "size: 1 (1 byte)", "state: foreign (created by another program)"]
    missing = "ipcio: no object has the name 'x'\n"
    assert call("stat", "x", "?b") == (1, "\n".join([*other, ""]), missing)


def test_stat_of_a_real_object(name, call):
    with shm.create(name, 5000):
        status, output, errors = call("stat", name)
    assert (status, errors) == (0, "")
    assert output.startswith(f"kind: shm (shared memory)\nname: {name}\n")
    assert "\nstate: live (" in output
