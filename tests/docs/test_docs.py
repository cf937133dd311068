"""Every example runs: the blocks of README, docs and docstrings (see `pages`), and the programs in docs/examples."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pages
import pytest

import ipcio
from ipcio import filelock, mmap, proc, sem, shm, strfile

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
EXAMPLES = ROOT / "docs" / "examples"
MODULES = sorted((ROOT / "ipcio").rglob("*.py"))

NAMED = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES]


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """A directory with the commands that pages use."""
    directory = tmp_path_factory.mktemp("programs")
    pages.install(directory)
    return str(directory)


def with_examples():
    """Pages that show what can be run, each with what it says that it needs."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        if ">>>" in text or "```console" in text:
            needs = [*pages.said(text, "needs"), *(["sh"] if "```console" in text else [])]
            yield pytest.param(path, marks=[pytest.mark.needs(*needs)], id=str(path.relative_to(ROOT)))


@pytest.mark.parametrize("page", [*with_examples()])
def test_pages(page, unique, programs, tmp_path, monkeypatch):
    """The examples of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    for module in pages.said(text, "imports"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    assert text.count(">>>") == sum(block[3].count(">>>") for block in pages.BLOCK.finditer(text)), "not in ```pycon"
    with contextlib.closing(pages.Page(str(page), text, unique, programs)) as run:
        run.run()


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings(module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = module.read_text(encoding="utf-8")
    if ">>>" in text:
        text = re.sub(r"([\"'])(?:prices|printers)\1", rf"\1{name}\1", text)
        examples, problem = pages.session(text, {}, str(module))
        assert examples
        assert not problem, problem


def test_two_programs(name):
    """feed.py offers and follow.py reads."""
    feed = subprocess.Popen(
        [sys.executable, EXAMPLES / "feed.py", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    )
    with feed:
        assert feed.stdout.readline().rstrip() == b"offered"
        assert output("follow.py", name) == "gold 2650.0\nsilver 31.0\n"
        feed.stdin.write(b"\n")
    assert feed.returncode == 0


def output(example, *arguments):
    command = [sys.executable, EXAMPLES / example, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment(), check=True).stdout


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def test_crash(name):
    assert output("crash.py", name) == "removed\ncreated again, 100 bytes\n"


@pytest.mark.needs("undo")
def test_permits(name):
    assert output("permits.py", name) == "plain: the permit is lost\ncrash-safe: the permit is back\n"


def test_pool():
    assert output("pool.py") == f"{sum(range(250)) * 4000}\n"
    assert output("hand_over.py") == f"{sum(range(5)) * 1000}\n"


@pytest.mark.needs("descriptors")
def test_arrays(name):
    pytest.importorskip("numpy")
    assert output("arrays.py", name) == "[0.0, 2.0, 4.0, 6.0] 999000.0\n[2.0, 4.0, 6.0] 32\n"


def test_from_c(name):
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    assert output("from_c.py", name).splitlines() == ["C reads: hello from Python", "Python reads: hello from C"]


def test_every_public_name_is_in_the_reference():
    """By itself, or as a member of a module all of whose members are shown."""
    text = "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/reference/*.md"))
    assert set(ipcio.__all__) - {"__version__"} <= {*re.findall(r"ipcio\.(?:proc\.)?(\w+)", text)}
    for module in (shm, sem, mmap, filelock, proc, strfile):
        shown = re.search(rf"automodule:: {module.__name__}\n   :members:(.*)", text)
        if shown and not shown[1]:
            continue
        names = set(shown[1].replace(",", " ").split()) | set(re.findall(rf"{module.__name__}\.(\w+)", text))
        assert set(module.__all__) <= names


def test_every_example_is_tested_and_shown():
    examples = {path.name for path in EXAMPLES.iterdir() if path.suffix == ".py"}
    code = "".join(test.read_text(encoding="utf-8") for test in ROOT.glob("tests/**/test_*.py"))
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert {name for name in examples if f'"{name}"' in code} == examples
    assert {name for name in examples if f"examples/{name}\n" in shown} == examples


@pytest.mark.parametrize("page", NAMED)
def test_what_pages_name_exists(page):
    """Files that a page links to or names, relative to it or to the root."""
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert not [link for link in links if not (page.parent / link).exists()]
    named = re.findall(r"`((?:ipcio|tests|docs|benchmarks)/[\w/.-]*)`", text)
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_documentation_builds(tmp_path):
    if not all(importlib.util.find_spec(name) for name in ("sphinx", "furo", "myst_parser")):
        pytest.skip("the tools of '.[docs]' are not installed")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-b", "dummy", "-d", tmp_path / "trees"]
    subprocess.run([*command, ROOT / "docs", tmp_path], env=environment(), check=True)


def test_what_a_command_prints_is_compared():
    assert pages.printed("a\n...\nsize 10 by ...\n", "a\nsize    10 by me\n")
    assert pages.printed("a\n...\nb\n", "a\n1\n2\nb\n")
    assert not pages.printed("a\n", "a\nb\n")
    assert not pages.printed("", "ipcio: an error\n")
    assert not pages.printed("a ... b\n", "a 1\n2 b\n")


@pytest.mark.needs("sh")
def test_a_page_that_is_wrong_is_found(unique, programs, tmp_path, monkeypatch):
    """In every kind of block."""
    monkeypatch.chdir(tmp_path)
    for wrong in (
        "```pycon\n>>> 1 + 1\n3\n\n```\n",
        "<!-- second terminal -->\n```pycon\n>>> 1 + 1\n3\n\n```\n",
        "```console\n$ echo right\nwrong\n```\n",
        "```console\n$ true\n$ exit\n$ true\n```\n",
    ):
        with contextlib.closing(pages.Page("page.md", wrong, unique, programs)) as run, pytest.raises(AssertionError):
            run.run()


def slug(heading):
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_links_of_the_readme_to_sections_lead_to_one():
    """Sphinx checks those of its own pages."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
        page = (ROOT / path).read_text(encoding="utf-8") if path else text
        assert anchor in {slug(heading) for heading in re.findall(r"^#+ (.*)$", page, re.MULTILINE)}, path
