"""The command as such: statuses, one-line errors, output that cannot be written."""

from __future__ import annotations

import os
import subprocess

import pytest
from command import ENVIRONMENT, run, start

import ipcio


def test_version():
    assert run("--version") == (0, f"ipcio {ipcio.__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"]])
def test_help(arguments):
    status, output, errors = run(*arguments)
    assert (status, errors) == (0, "")
    assert output.startswith("usage: ipcio")


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["--nonsense"], ["demo", "-j"], ["demo", "-j0"], ["demo", "-j", "two"], ["demo", "--top=-1"]],
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
