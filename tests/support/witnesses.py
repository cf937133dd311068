"""Programs that know nothing of ipcio, to talk to: in C, in Lua, in the Python of other libraries.

A program answers when it is ready, and then each line that it is sent.  Before it blocks it says
"waiting".  The C sources lie beside this module; `compiled` in conftest.py builds them.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys

from waiting import until_it_waits

SOURCES = os.path.dirname(__file__)
DEADLINE = 30  # seconds until a program that does not end is a failed test


def compile_c(source, directory, *options):
    """Build a program; return its path, or None where there is no compiler."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    path = os.path.join(directory, source.removesuffix(".c"))
    subprocess.run([compiler, "-Wall", "-Werror", "-o", path, f"{SOURCES}/{source}", *options], check=True)
    return path


@functools.cache
def lua(module):
    """A Lua that finds this module of LuaIPC, if there is one: nothing that a Python project can install."""
    for command in ("lua", "lua5.4", "lua5.3", "lua5.2", "lua5.1", "luajit"):
        path = shutil.which(command)
        if path is None:
            continue
        found = subprocess.run([path, "-e", f'require "{module}"'], stderr=subprocess.DEVNULL, check=False)
        if not found.returncode:
            return path
    return None


class Witness:
    """One such program, running; `said` is its first answer."""

    def __init__(self, *command):
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.pid = self.process.pid
        self.said = self.answer()

    def answer(self):
        return self.process.stdout.readline().rstrip()

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.answer()

    def block(self, line):
        """Have it wait, and wait until it does; `answer` is what comes of it."""
        assert self.ask(line) == "waiting"
        until_it_waits(self.pid)

    def end(self, how="exit"):
        """Let it end by itself, or kill it; return the status."""
        if how == "kill":
            self.process.kill()
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(DEADLINE)

    def stop(self):
        """Kill it unless it has ended."""
        if not self.process.stdin.closed:
            self.end("kill")
