"""Imports, each in a fresh interpreter."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile

from benchmarks.rows import ROOT, row


def imports(stack, *statements):
    """Imports, each in a fresh interpreter, from compiled files that are there."""
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

    sides = [functools.partial(side, statement) for statement in statements]
    for compiling in sides:
        compiling()
    return sides


# What nobody can do without: the modules in C that system calls come from.
MEMORY = "import mmap, _posixshmem"
SEMAPHORE = "import _multiprocessing"
ALL = "import mmap, _posixshmem, _multiprocessing, _posixsubprocess, fcntl, select"


@row("import", "import ipcio", "multiprocessing.shared_memory", 0.05, floor="nothing")
def _(stack):
    return imports(stack, "import ipcio", "import multiprocessing.shared_memory", "pass")


@row("import", "from ipcio import shm, mmap, strfile", "multiprocessing.shared_memory", floor=MEMORY)
def _(stack):
    return imports(stack, "from ipcio import shm, mmap, strfile", "import multiprocessing.shared_memory", MEMORY)


@row("import", "from ipcio import sem", "multiprocessing.synchronize", floor=SEMAPHORE)
def _(stack):
    return imports(stack, "from ipcio import sem", "import multiprocessing.synchronize", SEMAPHORE)


MODULES = "shm", "sem", "mmap", "filelock", "proc", "strfile", "mutex", "event", "queue"

for module in MODULES:

    @row("import", f"from ipcio import {module}", "multiprocessing.shared_memory", 0.45, floor="nothing")
    def _(stack, module=module):
        return imports(stack, f"from ipcio import {module}", "import multiprocessing.shared_memory", "pass")


@row("import", "all nine modules of ipcio", "multiprocessing.shared_memory", 0.6, floor=ALL)
def _(stack):
    return imports(stack, f"from ipcio import {', '.join(MODULES)}", "import multiprocessing.shared_memory", ALL)
