"""What docs/design.md says of its races names tests, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
RACES = re.findall(r"^\| (\d+) \|.*\| ([^|]+) \|$", DESIGN, re.MULTILINE)


def test_every_race_names_tests_that_exist():
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    defined = set(re.findall(r"^ *def (test_\w+)\(", code, re.MULTILINE))
    assert [int(number) for number, _ in RACES] == list(range(1, len(RACES) + 1))
    for number, forced in RACES:
        named = set(re.findall(r"`(test_\w+)`", forced))
        assert named, f"race {number}"
        assert named <= defined, f"race {number}"


def test_the_diagram_names_races_of_the_table():
    diagram = (ROOT / "docs" / "_static" / "lifetime.svg").read_text(encoding="utf-8")
    numbers = {int(n) for group in re.findall(r"\(([\d, to]+)\)", diagram) for n in re.findall(r"\d+", group)}
    assert numbers
    assert numbers <= {int(number) for number, _ in RACES}
