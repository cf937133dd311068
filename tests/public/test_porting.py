"""A system that ipcio has not been ported to is an error at import that says where to read on, and never a guess."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

NEED_A_PORT = [
    "import ipcio.shm",
    "import ipcio.sem",
    "import ipcio.mmap",
    "import ipcio.filelock",
    "import ipcio.proc; ipcio.proc.spawn('true')",
    "import ipcio._segment_writer",
    "ipcio.list_objects",
]


@pytest.mark.parametrize("system", ["sunos5", "freebsd15"])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has a back end of its own")
def test_an_unknown_system_is_an_error_that_points_to_the_page(system):
    code = f"""
import json, sys
sys.path[:] = json.loads(sys.argv[1])
sys.platform = {system!r}
import ipcio
from ipcio import MemoryFile, Semaphore, strfile
assert strfile.open("kept").read() == b"kept"
errors = []
for statement in {NEED_A_PORT}:
    try:
        exec(statement)
    except ImportError as error:
        errors.append(str(error))
print(json.dumps(errors))
"""
    path = json.dumps([entry for entry in sys.path if entry])
    done = subprocess.run([sys.executable, "-I", "-c", code, path], stdout=subprocess.PIPE, check=True)
    errors = json.loads(done.stdout)
    assert len(errors) == len(NEED_A_PORT)
    for error in errors:
        assert f"ipcio has not been ported to {system!r}: " in error
        assert "docs/porting.md" in error


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has a back end of its own")
def test_a_system_that_is_added_meets_each_decision_in_turn():
    """The package lets the system pass, and each module that needs a decision names it."""
    code = """
import fcntl, importlib, json, sys
sys.path[:] = json.loads(sys.argv[1])
import ipcio
importlib.import_module("ipcio._posix")
sys.platform = "freebsd15"
asked = {}
for module in "libc", "filelock", "mmap":
    try:
        importlib.import_module("ipcio._posix." + module)
    except ImportError as error:
        asked[module] = str(error)
if hasattr(fcntl, "F_GETPATH"):
    asked["mmap"] = "path"
print(json.dumps(asked))
"""
    path = json.dumps([entry for entry in sys.path if entry])
    done = subprocess.run([sys.executable, "-I", "-c", code, path], stdout=subprocess.PIPE, check=True)
    asked = json.loads(done.stdout)
    for module, words in (("libc", "semctl()"), ("filelock", "struct flock"), ("mmap", "path")):
        assert words in asked[module]
