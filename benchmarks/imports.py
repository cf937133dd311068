"""Imports, each in a fresh interpreter."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile

from benchmarks.rows import ROOT, row


def imports(stack, ours, peer):
    """Two imports, each in a fresh interpreter, from compiled files that are there."""
    cache = stack.enter_context(tempfile.TemporaryDirectory())
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

    def side(statement):
        code = f"from time import perf_counter; start = perf_counter(); {statement}; print(perf_counter() - start)"
        answer = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**environment, "PYTHONPYCACHEPREFIX": cache},
            stdout=subprocess.PIPE,
            check=True,
        )
        return float(answer.stdout)

    sides = functools.partial(side, ours), functools.partial(side, peer)
    for compiling in sides:
        compiling()
    return sides


@row("import", "import ipcio", "multiprocessing.shared_memory", 0.05)
def _(stack):
    return imports(stack, "import ipcio", "import multiprocessing.shared_memory")


@row("import", "from ipcio import shm, mmap, strfile", "multiprocessing.shared_memory")
def _(stack):
    return imports(stack, "from ipcio import shm, mmap, strfile", "import multiprocessing.shared_memory")


@row("import", "from ipcio import sem", "multiprocessing.synchronize")
def _(stack):
    return imports(stack, "from ipcio import sem", "import multiprocessing.synchronize")
