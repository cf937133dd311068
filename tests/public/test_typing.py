"""What pages, examples and docstrings call, mypy and pyright accept: the calls are taken from there.

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
import textwrap
from pathlib import Path

import pages
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted((ROOT / "ipcio").glob("*.py"))
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"::\n\n((?:    .*\n|\n)+)")  # in a docstring

# Around the few lines of a larger program.
FRAGMENT = """\
from typing import Any
from ipcio import filelock, mmap, proc, sem, shm, strfile
async def work() -> None: ...
async def fragment(h: Any, handles: Any) -> None:
"""

# Pipes of `subprocess` and the `buf` of `shared_memory` may be None, say their types, and the pages leave that
# question out, as the standard library's own pages do.  Of the others, dask and joblib say that of themselves, and
# the last names a table of the reader's.
NOT_OURS = re.compile(
    r"\b(child\.std(in|out)\.|(other|segment)\.buf[.\[]|dask\.(delayed|compute)\b|sum\(parts\)|from_pandas\(table)"
)


def checker(name: str) -> list[str]:
    if not importlib.util.find_spec(name):
        pytest.skip(f"{name} is not installed: it is in '.[dev]'")
    return [sys.executable, "-m", name]


def typed(text: str) -> list[str]:
    """What a reader types at Python's prompt, but for what raises."""
    return [each.source for each in doctest.DocTestParser().get_examples(text) if not each.exc_msg]


@pytest.fixture
def programs(tmp_path):
    """A directory with the calls of each page as a program, and with the examples."""
    made = {}
    for page in PAGES:
        name = "_".join(page.relative_to(ROOT).with_suffix("").parts).replace("-", "_")
        text = page.read_text(encoding="utf-8")
        for second, kind, block in pages.BLOCK.findall(text):
            if kind == "pycon":
                made.setdefault(f"{name}_second" if second else name, []).extend(typed(block))
        blocks = PYTHON.findall(text) if page.name != "design.md" else []  # that page shows internals
        for number, block in enumerate(blocks):
            made[f"{name}_block_{number}"] = [block if "import " in block else FRAGMENT + textwrap.indent(block, " ")]
    for module in MODULES:
        text = module.read_text(encoding="utf-8")
        if ">>>" in text:
            made[f"module_{module.stem}"] = typed(text)
        for number, block in enumerate(INDENTED.findall(text)):
            if "import " in block:
                made[f"module_{module.stem}_{number}"] = [textwrap.dedent(block)]
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
