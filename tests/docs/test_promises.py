"""docs/promises.md names tests for each promise of docs/reliability.md and each difference of docs/platforms.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs"
SECTIONS = {
    "Reliability": ("reliability.md", "What is promised"),
    "Windows": ("platforms.md", "Windows"),
    "macOS": ("platforms.md", "macOS"),
}

if not DOCS.exists():
    pytest.skip("the documentation is not here", allow_module_level=True)


def entries(page, section):
    """The titles of a section, each with the text below."""
    text = (DOCS / page).read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^(\S.*)\n: ((?:.+\n)+)", text, re.MULTILINE))


PROMISES = {(name, title): text for name, where in SECTIONS.items() for title, text in entries(*where).items()}
HELD = {(name, title): text for name in SECTIONS for title, text in entries("promises.md", name).items()}


def functions(file):
    return {
        node.name
        for node in ast.walk(ast.parse(next(TESTS.rglob(file)).read_text(encoding="utf-8")))
        if hasattr(node, "name")
    }


def test_the_pages_have_promises():
    assert len(PROMISES) > 40
    assert HELD.keys() <= PROMISES.keys()


@pytest.mark.parametrize("promise", PROMISES, ids=": ".join)
def test_each_promise_is_held_by_tests_or_says_that_it_was_never_tried(promise):
    text = PROMISES[promise]
    held = re.findall(r"`(test_\w+\.py): ([^`]+)`", HELD.get(promise, "") + text)
    for file, names in held:
        for name in names.split(","):
            assert name.strip() in functions(file), f"{promise}: no {name.strip()} in {file}"
    assert held or "never tried" in text.lower() or promise == ("Windows", "Forks")
