"""The performance page shows what was measured, and nothing in it is written by hand."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "docs" / "_static"


@pytest.fixture(scope="module")
def chart():
    spec = importlib.util.spec_from_file_location("benchmarks_chart", ROOT / "benchmarks" / "chart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert spec.name not in sys.modules
    return module


def test_charts_and_table_are_those_of_the_run(chart):
    found = json.loads((STATIC / "benchmarks.json").read_text(encoding="utf-8"))
    drawn = chart.draw(found)
    assert drawn
    assert drawn == {path.name: path.read_text(encoding="utf-8") for path in STATIC.glob("benchmarks[-.][!j]*")}


def test_the_page_shows_each_of_them():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    shown = re.findall(r"_static/(benchmarks\S*[.](?:svg|txt))$", page, re.MULTILINE)
    assert sorted(shown) == sorted(path.name for path in STATIC.glob("benchmarks[-.][!j]*"))


def test_what_was_not_measured_is_named_and_not_drawn(chart):
    row = {"group": "sem", "operation": "with", "peer": "nobody", "kind": "peer", "goal": None, "skipped": "not here"}
    files = chart.draw({"about": {}, "date": "today", "rows": [row]})
    assert list(files) == ["benchmarks.txt"]
    assert "1 (not here)" in files["benchmarks.txt"]


def test_slower_is_to_the_right_and_faster_to_the_left(chart):
    row = {"group": "sem", "peer": "x < y", "kind": "peer", "goal": 1.5}
    rows = [{**row, "operation": "fast", "ratio": 0.5}, {**row, "operation": "slow", "ratio": 2.0}]
    bars = re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', chart.chart("title", rows))
    (fast, width), (slow, _) = bars
    assert float(fast) + float(width) == pytest.approx(float(slow), abs=0.2)
    assert "x &lt; y" in chart.chart("title", rows)


def benchmarks(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", *arguments], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    return done.stdout.decode()


@pytest.mark.needs("fork")
def test_every_row_has_a_floor_but_those_against_ipcio_itself():
    code = (
        "from benchmarks import __main__ as main; print(*((row.kind, bool(row.floor)) for row in main.ROWS), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    rows = [ast.literal_eval(line) for line in done.stdout.decode().splitlines()]
    assert len(rows) > 80
    assert all(has_floor == (kind != "self") for kind, has_floor in rows)


@pytest.mark.needs("fork", "open file locks")
def test_a_run_can_be_drawn(chart, tmp_path):
    file = tmp_path / "run.json"
    table = benchmarks("face", "filelock", "--json", str(file))
    found = json.loads(file.read_text(encoding="utf-8"))
    assert len(found["rows"]) == len(table.splitlines()) - 4
    assert {"benchmarks-memory.svg", "benchmarks-locks.svg"} <= chart.draw(found).keys()
