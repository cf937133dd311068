"""The help: every argument is explained, every example works, near misses are named, and the manual page agrees."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib.util
import sys
from pathlib import Path

import pages
import pytest

from ipcio import _cli, _inventory, shm
from ipcio._cli import commands, programs
from ipcio._object_info import ObjectInfo

DOCS = Path(__file__).parents[2] / "docs"


def manual():
    """The module that makes the manual page."""
    spec = importlib.util.spec_from_file_location("manpage", DOCS / "manpage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsers(parser):
    """A parser and those below it."""
    return [parser, *(each for below in manual().commands(parser) for each in parsers(below))]


ALL = parsers(_cli.make_parser())
EACH = [pytest.param(each, marks=[pytest.mark.gc] * (each.prog == "ipcio gc"), id=each.prog) for each in ALL]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory with the command."""
    directory = tmp_path_factory.mktemp("programs")
    pages.install(directory)
    return str(directory)


@pytest.mark.needs("sh", "persistence", "value", "undo", "open file locks")
@pytest.mark.parametrize("parser", EACH)
@pytest.mark.sampled(3)
def test_every_example_works(parser, unique, installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parser.examples
    with contextlib.closing(pages.Page(parser.prog, parser.examples, unique, installed)) as page:
        page.shell(parser.examples)


@pytest.mark.parametrize("parser", EACH)
def test_every_argument_is_explained(parser):
    assert parser.description
    for action in parser._actions:
        assert action.help or isinstance(action, argparse._SubParsersAction), action


@pytest.mark.parametrize("width", ["30", "80", "300"])
def test_the_help_shows_the_examples_as_they_are(monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", width)
    for parser in ALL:
        parser.print_help()
        output = capsys.readouterr().out
        assert output.endswith("Examples:\n" + "".join(f"  {line}\n" for line in parser.examples.splitlines()))


def test_the_bare_command_prints_its_help(capsys):
    with pytest.raises(SystemExit) as end:
        _cli.main([])
    assert not end.value.code
    output, errors = capsys.readouterr()
    assert output.startswith("usage: ipcio")
    assert errors == ""
    assert all(f"\n    {word}" in output for word in commands.NAMES)


def test_the_manual_page_agrees_with_the_help():
    """If not: ``python docs/manpage.py > docs/ipcio.1``."""
    assert (DOCS / "ipcio.1").read_text(encoding="utf-8") == manual().page(_cli.make_parser())


# -- near misses ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["sme"], "'sem'"),
        (["nonsense"], None),
        (["sem", "crate"], "'create'"),
        (["ls", "--kind", "shn"], "'shm'"),
        (["ls", "--state", "orphaned"], "'orphan'"),
    ],
)
def test_a_misspelt_word_of_the_command(capsys, words, meant):
    with pytest.raises(SystemExit) as end:
        _cli.main(words)
    assert end.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"there is no {words[-1]!r}" in last
    assert ("did you mean" in last) is (meant is not None)
    assert meant is None or f"did you mean {meant}?" in last


THERE = [
    ObjectInfo("shm", "prices", 1, None, False, None, None, None, "live", []),
    ObjectInfo("sem", "printers", None, 1, False, None, None, None, "live", []),
    ObjectInfo("shm", "pages", 1, None, False, None, None, None, "orphan", []),
]


@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (["cat", "pricse"], ["did you mean 'prices' (shared memory)?"]),
        (["cat", "printers"], ["a semaphore has that name"]),
        (["sem", "value", "printer"], ["did you mean 'printers' (a semaphore)?"]),
        (["stat", "pricess"], ["did you mean 'prices' (shared memory)?"]),
        (["rm", "price", "quite-another"], ["did you mean 'prices' (shared memory)?"]),
        (["cat", "page"], []),
    ],
)
def test_a_misspelt_name_is_a_hint_on_a_terminal(monkeypatch, capsys, words, hints):
    """In a line of its own, after the error; a script gets the error alone."""

    def find_nothing(name, *_, **__):
        raise FileNotFoundError(errno.ENOENT, f"no {name!r}", name)

    monkeypatch.setattr(_inventory, "list_objects", lambda: THERE)
    monkeypatch.setattr("ipcio.shm.attach", find_nothing)
    monkeypatch.setattr("ipcio.shm.unlink", find_nothing)
    monkeypatch.setattr("ipcio.sem.attach", find_nothing)
    monkeypatch.setattr(sys.stdout, "fileno", lambda: 1)
    for is_terminal in False, True:
        monkeypatch.setattr(sys.stderr, "isatty", lambda is_terminal=is_terminal: is_terminal)
        assert _cli.main(words) == 1
        errors = capsys.readouterr().err.splitlines()
        assert [line for line in errors if not line.startswith("ipcio: no ")] == [
            f"ipcio: {hint}" for hint in hints if is_terminal
        ]


def test_a_list_that_fails_spoils_no_error(monkeypatch, capsys, name):
    def fail():
        raise OSError(errno.EACCES, "forbidden")

    monkeypatch.setattr(_inventory, "list_objects", fail)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(FileNotFoundError):
        shm.attach(name)
    assert _cli.main(["sem", "value", name]) == 1
    assert capsys.readouterr().err.count("\n") == 1


# -- the command of a subcommand -----------------------------------------------


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("FILE -- true", 1),
        ("FILE true", 1),
        ("--timeout 5 FILE true", 3),
        ("FILE --timeout 5 true -- x", 3),
        ("--time 5 FILE -- true", 3),
        ("--timeout=5 FILE true", 2),
        ("FILE git log -- path", 1),
        ("FILE --timeout -- true", 2),
        ("-- true", 0),
        ("FILE", 1),
        ("- true", 1),
    ],
)
def test_where_the_command_begins(words, ours):
    """At ``--``, or at the first word after the object that is no option, whichever comes first."""
    words = words.split()
    rest = words[ours + 1 :] if words[ours : ours + 1] == ["--"] else words[ours:]
    assert programs.split(["lock", *words], 1, ("--timeout", "-E")) == (["lock", *words[:ours]], rest)
