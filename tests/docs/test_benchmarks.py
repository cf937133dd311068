"""The performance page shows what was measured, and nothing in it is written by hand."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from html import unescape
from importlib.util import find_spec
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


@pytest.fixture(scope="module")
def runs(chart):
    found = [json.loads(path.read_text(encoding="utf-8")) for path in STATIC.glob("benchmarks-*.json")]
    return sorted(found, key=chart.python_of, reverse=True)


def words(picture):
    """All texts of a picture, in the order in which they are drawn."""
    return list(map(unescape, re.findall(r"<text[^>]*>([^<]*)</text>", picture)))


def test_the_table_is_that_of_the_runs(chart, runs):
    assert (STATIC / "benchmarks.txt").read_text(encoding="utf-8") == chart.table(runs)


def test_the_pictures_are_those_of_the_newest_run(chart, runs):
    """Without the library that draws them: they say what was measured, and nothing else."""
    pictures = {path.name: path.read_text(encoding="utf-8") for path in STATIC.glob("benchmarks-*.svg")}
    panels = chart.drawn(runs[0])
    assert pictures.keys() == {f"benchmarks-{panel}-{theme}.svg" for panel in panels for theme in ("light", "dark")}
    for panel, rows in panels.items():
        light, dark = (pictures[f"benchmarks-{panel}-{theme}.svg"] for theme in ("light", "dark"))
        assert words(light) == words(dark)
        assert "#000000" not in dark
        ratios = [chart.three(row["ratio"]) for row in rows]
        at = words(light).index(ratios[0])
        assert words(light)[at : at + len(ratios)] == ratios
        assert words(light)[:at][-1] == chart.label(rows[-1])
        assert {row["operation"] for row in rows} <= set(words(light))
        assert len(dark) < 60_000


def test_the_page_shows_each_of_them():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    images = re.findall(
        r"^!\[Chart: .+\]\(_static/(\S+-(light|dark)[.]svg)\)[{][.]only-(light|dark) ", page, re.MULTILINE
    )
    assert sorted(name for name, _, _ in images) == sorted(path.name for path in STATIC.glob("benchmarks-*.svg"))
    assert all(theme == shown for _, theme, shown in images)
    assert "_static/benchmarks.txt\n" in page


def test_what_was_not_measured_is_named_and_not_drawn(chart):
    row = {"group": "sem", "operation": "with", "peer": "nobody", "kind": "peer", "goal": None, "skipped": "not here"}
    run = {"about": {"python": "CPython 3.14.0"}, "date": "today", "rows": [row]}
    assert not chart.drawn(run)
    assert "1 (not here)" in chart.table([run])


def test_the_table_has_a_column_for_each_python_and_marks_a_missed_goal(chart):
    side = {"min": 1e-6}
    row = {"group": "sem", "operation": "with", "peer": "x", "kind": "peer", "goal": 1.5, "ours": side, "theirs": side}
    runs = [
        {"about": {"python": f"CPython {version}"}, "date": "today", "rows": [{**row, "ratio": ratio}]}
        for version, ratio in (("3.14.0", 1.501), ("3.9.1", 2.0))
    ]
    table = chart.table(runs)
    assert "| Python 3.14 | Python 3.9 | goal |" in table
    assert "| 1.50 | **2.00** ✗ | 1.5 |" in table
    assert "CPython 3.14.0, on today: 0 of 1 rows" in table
    assert "CPython 3.9.1, on today: 1 of 1 rows" in table
    assert max(runs, key=chart.python_of) is runs[0]


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
@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib, which draws charts, is not installed")
def test_a_run_can_be_drawn_and_slower_is_to_the_right(chart, tmp_path):
    file = tmp_path / "benchmarks-here.json"
    table = benchmarks("face", "filelock", "--json", str(file))
    found = json.loads(file.read_text(encoding="utf-8"))
    assert len(found["rows"]) == len(table.splitlines()) - 4
    subprocess.run([sys.executable, "-m", "benchmarks.chart", str(tmp_path)], cwd=ROOT, check=True)
    panels = chart.drawn(found)
    assert panels.keys() == {"memory", "lines", "locks"}
    for panel, rows in panels.items():
        picture = (tmp_path / f"benchmarks-{panel}-dark.svg").read_text(encoding="utf-8")
        bars = re.findall(r'<g id="bar-\d+">\s*<path d="M ([\d.]+) [\d.]+\s+L ([\d.]+)', picture)
        assert len({one for one, _ in bars}) == 1
        for row, (one, end) in zip(rows, bars, strict=True):
            assert (float(end) > float(one)) == (row["ratio"] > 1)
