"""docs/platforms.md: each line on what a system cannot do names the tests that hold it, and they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "platforms.md"

if not PAGE.exists():
    pytest.skip("the documentation is not here", allow_module_level=True)


def lines(system):
    """What the page says of a system: titles, and what is said under them."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {system}\n")[1].split("\n## ")[0]
    return re.findall(r"^(\S.*)\n: ((?:.+\n)+)", section, re.MULTILINE)


LINES = [(f"{system}: {title}", text) for system in ("Windows", "macOS") for title, text in lines(system)]


def functions(file):
    return {
        node.name
        for node in ast.walk(ast.parse(next(TESTS.rglob(file)).read_text(encoding="utf-8")))
        if hasattr(node, "name")
    }


def test_there_is_a_line_for_each_system_and_difference():
    assert len(LINES) > 30


@pytest.mark.parametrize(("title", "text"), LINES, ids=[title for title, _ in LINES])
def test_each_line_is_held_by_tests_or_says_that_it_was_never_tried(title, text):
    held = re.findall(r"`(test_\w+\.py): ([^`]+)`", text)
    for file, names in held:
        for name in names.split(","):
            assert name.strip() in functions(file), f"{title}: no {name.strip()} in {file}"
    assert held or "never tried" in text.lower() or title == "Windows: Forks"
