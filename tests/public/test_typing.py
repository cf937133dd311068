"""What the pages and examples call, mypy and pyright accept: the calls are taken from the pages themselves.

`typing_api.py` beside this has what no page shows, and what the checkers have to refuse.
"""

from __future__ import annotations

import doctest
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pages
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# Pipes of `subprocess` and the `buf` of `shared_memory` may be None, say their types, and the pages leave that
# question out, as the standard library's own pages do.  The last two are what dask and joblib say of themselves.
NOT_OURS = re.compile(r"\b(child\.std(in|out)\.|other\.buf\[|dask\.(delayed|compute)\b|sum\(parts\))")


def checker(name: str) -> list[str]:
    if not importlib.util.find_spec(name):
        pytest.skip(f"{name} is not installed: it is in '.[dev]'")
    return [sys.executable, "-m", name]


@pytest.fixture
def programs(tmp_path):
    """A directory with the calls of each page as a program, and with the examples."""
    made = {}
    for page in PAGES:
        name = "_".join(page.relative_to(ROOT).with_suffix("").parts).replace("-", "_")
        for second, kind, text in pages.BLOCK.findall(page.read_text(encoding="utf-8")):
            if kind == "pycon":
                calls = [each.source for each in doctest.DocTestParser().get_examples(text) if not each.exc_msg]
                made.setdefault(f"{name}_second" if second else name, []).extend(calls)
    for example in (ROOT / "docs" / "examples").glob("*.py"):
        made[f"example_{example.stem}"] = [example.read_text(encoding="utf-8")]
    assert len(made) > 30
    for name, sources in made.items():
        lines = "".join(sources).splitlines()
        marked = (f"{line.partition('  #')[0]}  # type: ignore" if NOT_OURS.search(line) else line for line in lines)
        (tmp_path / f"{name}.py").write_text("\n".join(marked) + "\n", encoding="utf-8")
    return tmp_path


def said(command: list[str], programs: Path) -> str:
    environment = {**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=programs, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout


def test_mypy_accepts_every_call(programs):
    # Functions that a page defines say nothing of their types; the calls in them are checked all the same.
    options = ["--strict", "--allow-untyped-defs", "--check-untyped-defs", "--allow-untyped-calls", "--no-incremental"]
    lenient = ["--allow-redefinition", "--ignore-missing-imports", "--implicit-reexport", "--no-warn-unused-ignores"]
    output = said([*checker("mypy"), *options, *lenient, "--allow-untyped-decorators", "."], programs)
    assert output.startswith("Success"), output


@pytest.mark.timeout(300)  # the first run of pyright fetches what it consists of
def test_pyright_accepts_every_call(programs):
    (programs / "pyrightconfig.json").write_text(
        json.dumps(
            {
                "extraPaths": [str(ROOT)],
                "reportMissingImports": False,
                "reportMissingModuleSource": False,
                "reportUnusedExpression": False,
            }
        )
    )
    output = said([*checker("pyright"), "--pythonpath", sys.executable], programs)
    assert "\n0 errors" in f"\n{output}", output
