"""Every example runs: the ``>>>`` blocks of README, docs and docstrings, and the programs in docs/examples."""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
EXAMPLES = ROOT / "docs" / "examples"
MODULES = sorted((ROOT / "ipcio").rglob("*.py"))

BLOCK = re.compile(r"^```pycon\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(text, path, scope):
    test = doctest.DocTestParser().get_doctest(text, scope, path.name, str(path), 0)
    report = []
    doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF).run(test, out=report.append)
    assert not report, "".join(report)
    return len(test.examples)


def with_name(name, text):
    """The names that all examples use, of memory and of semaphores, become one that is unique to this run."""
    return re.sub(r"([\"'])(?:prices|printers)\1", rf"\1{name}\1", text)


def page_of(path):
    """These show programs and promises of POSIX systems, each example what those before it left."""
    needs = ["posix", "undo", "persistence", "open file locks"] if path.name in {"README.md", "guide.md"} else []
    needs += ["value", "descriptors"] if path.name == "guide.md" else []
    return pytest.param(path, marks=[pytest.mark.needs(*needs)], id=path.name)


@pytest.mark.parametrize("page", [page_of(path) for path in PAGES])
def test_pages(page, name, tmp_path, monkeypatch):
    """The examples of a page, in their order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    blocks, at = [], 0
    for block in BLOCK.finditer(text):  # the lines between them blank, so that the numbers are right
        blocks += ["\n" * text.count("\n", at, block.start(1)), block[1]]
        at = block.end(1)
    assert text.count(">>>") == sum(block.count(">>>") for block in blocks), "examples outside of ```pycon blocks"
    run(with_name(name, "".join(blocks)), page, {})


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings(module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = module.read_text(encoding="utf-8")
    if ">>>" in text:
        assert run(with_name(name, text), module, {})


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
    assert output("crash.py", name) == "gone with its holder\nmade anew, 100 bytes\n"


@pytest.mark.needs("undo")
def test_permits(name):
    assert output("permits.py", name) == "plain: the permit is lost\ncrash-safe: the permit is back\n"


def test_pool():
    assert output("pool.py") == f"{sum(range(250)) * 4000}\n"


@pytest.mark.needs("descriptors")
def test_arrays(name):
    pytest.importorskip("numpy")
    assert output("arrays.py", name) == "[0.0, 2.0, 4.0, 6.0] 999000.0\n[2.0, 4.0, 6.0] 32\n"


def test_from_c(name):
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    assert output("from_c.py", name).splitlines() == ["C reads: hello from Python", "Python reads: hello from C"]


def test_every_example_is_tested_and_shown():
    examples = {path.name for path in EXAMPLES.iterdir() if path.suffix == ".py"}
    code = Path(__file__).read_text(encoding="utf-8")
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    assert {name for name in examples if f'"{name}"' in code} == examples
    assert {name for name in examples if f"examples/{name}\n" in guide} == examples


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
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
