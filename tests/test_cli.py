"""The command as such: statuses, one-line errors, output that cannot be written."""

from __future__ import annotations

import fcntl
import os
import subprocess

import pytest
from children import leave_dead
from command import ENVIRONMENT, run, start

import ipcio
from ipcio import _cli, sem, shm
from ipcio._posix import litter


def test_version():
    assert run("--version") == (0, f"ipcio {ipcio.__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["gc", "--help"]])
def test_help(arguments):
    status, output, errors = run(*arguments)
    assert (status, errors) == (0, "")
    assert output.startswith("usage: ipcio")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["--nonsense"],
        ["demo", "-j"],
        ["demo", "-j0"],
        ["demo", "-j", "two"],
        ["demo", "--top=-1"],
        ["gc", "prices"],
    ],
)
def test_usage_errors_are_status_2(arguments):
    status, output, errors = run(*arguments)
    assert (status, output) == (2, "")
    assert errors.startswith("usage: ipcio")
    assert errors.splitlines()[-1].startswith("ipcio")


def test_an_error_is_one_line_and_status_1(tmp_path):
    missing = tmp_path / "missing\nfile"
    status, output, errors = run("demo", missing)
    assert (status, output, errors) == (1, "", f"ipcio: No such file or directory: {str(missing)!r}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["demo"]])
def test_a_reader_that_is_gone_is_no_news(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with start(*arguments, stdout=writing) as process:
            assert process.communicate()[1] == ""
    finally:
        os.close(writing)
    assert process.returncode == 1


@pytest.mark.parametrize("arguments", [["--help"], ["demo"]])
def test_a_full_disk_is_an_error(arguments):
    with open("/dev/full", "w") as full:
        status, _, errors = run(*arguments, stdout=full)
    assert (status, errors) == (1, "ipcio: No space left on device\n")


@pytest.mark.parametrize("closed", [1, 2])
def test_without_stdout_or_stderr(closed, tmp_path):
    (tmp_path / "words").write_text("some words")
    status, _, errors = run("demo", tmp_path / "words", preexec_fn=lambda: os.close(closed), stdin=subprocess.DEVNULL)
    assert (status, errors) == (0, "")


def test_what_stdout_cannot_encode_is_escaped(tmp_path):
    (tmp_path / "words").write_text("größe", encoding="utf-8")
    status, output, errors = run("demo", tmp_path / "words", env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"})
    assert (status, errors) == (0, "")
    assert r"gr\xf6\xdfe" in output


# -- gc ----------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory for `gc` where nobody else's dead are; make objects there with ``place(name, mode)``."""
    monkeypatch.setattr(litter, "DIRECTORY", str(tmp_path))

    def make(name, mode):
        path = os.path.join(os.fsencode(tmp_path), name)
        with open(path, "xb") as file:
            file.write(b"x")
        os.chmod(path, mode)
        return path

    return make


def test_gc_names_what_it_removed(place, capsys):
    for name in [b"prices", b"sem.printers", b"two\nlines", b"z\xffrich", "größe".encode()]:
        place(name, 0o1600)
    place(b"persistent", 0o2600)
    place(b"foreign", 0o600)
    with open(place(b"living", 0o1600), "rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_SH)
        assert _cli.main(["gc"]) == 0
        told = "shm größe", "shm prices", "sem printers", r"shm 'two\nlines'", r"shm 'z\udcffrich'"
        assert capsys.readouterr() == ("".join(f"{line}\n" for line in told), "")
        assert _cli.main(["gc"]) == 0
        assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "create", [lambda name: shm.create(name, 1), sem.create, lambda name: sem.create(name, undo=True)]
)
def test_gc(name, create):
    """The program itself.  It may come upon what the dead of others left, and others upon ours."""
    leave_dead(lambda: create(name))
    status, output, errors = run("gc")
    assert (status, errors) == (0, "")
    assert {line.split()[0] for line in output.splitlines()} <= {"shm", "sem"}
    assert not [entry for entry in os.listdir("/dev/shm") if entry.endswith(name)]
