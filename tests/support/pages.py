"""How a page of the documentation is run: all its examples, in their order.

```` ```pycon```` blocks are a session of Python.  One that the line ``<!-- second terminal -->``
precedes is for another process, which lasts to the end of the page or until it kills itself
with SIGKILL.  In ```` ```console```` blocks the lines after ``$`` are run by a shell, and what
stands below is what they print, stderr included; runs of spaces are as good as one, ``...``
stands for anything, and in a line by itself for any lines or none.

What a page needs it says itself: ``<!-- needs: posix, undo -->`` (see `abilities`), and
``<!-- imports: numpy -->`` for what may not be installed.  Its names of memory and semaphores are
made unique to the run: those of `NAMES`, and those of ``<!-- names: one, another -->``.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
import warnings

from command import DEADLINE, ENVIRONMENT
from peers import Peer

from ipcio import mutex

BLOCK = re.compile(r"^(<!-- second terminal -->\n)?```(pycon|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMES = ["prices", "printers", "ready", "ledger", "jobs", "backup"]
MARK = "---8<---"


def said(text: str, word: str) -> list[str]:
    """What ``<!-- word: one, another -->`` on a page says."""
    found = re.findall(rf"^<!-- {word}: (.*) -->$", text, re.MULTILINE)
    return [one.strip() for line in found for one in line.split(",")]


def session(text: str, scope: dict, where: str = "", line: int = 0) -> tuple[int, str]:
    """Run the examples of Python in a text; return their number, and what went wrong."""
    test = doctest.DocTestParser().get_doctest(text, {}, os.path.basename(where), where, line)
    test.globs = scope  # not a copy: the next session goes on with it
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF | doctest.ELLIPSIS)
    with warnings.catch_warnings():
        # Of a test process with threads, which the reader's has not.
        warnings.filterwarnings("ignore", "This process .*is multi-threaded", DeprecationWarning)
        runner.run(test, out=report.append, clear_globs=False)
    return len(test.examples), "".join(report)


def printed(wanted: str, got: str) -> bool:
    """Whether a command printed what it should."""
    pattern = ""
    for line in wanted.splitlines():
        if line == "...":
            pattern += r"(?:.*\n)*"
        else:
            pattern += ".*".join(" +".join(map(re.escape, re.split(" +", part))) for part in line.split("...")) + r"\n"
    return re.fullmatch(pattern, got) is not None


class Page:
    """Runs blocks in the current directory; to be closed."""

    def __init__(self, where: str, text: str, unique, programs: str) -> None:
        self.where, self.text, self.programs = where, text, programs
        self.names = {word: unique() for word in NAMES + said(text, "names")}
        self.scope: dict = {}
        self.second: Peer | None = None

    def run(self) -> None:
        for block in BLOCK.finditer(self.text):
            second, kind, text = block.groups()
            line = self.text.count("\n", 0, block.start(3))
            if kind == "console":
                self.shell(text)
            elif second:
                self.elsewhere(self.named(text), line)
            else:
                problem = session(self.named(text), self.scope, self.where, line)[1]
                assert not problem, problem

    def close(self) -> None:
        self.scope.clear()
        if self.second is not None:
            self.second.stop()
        if "ipcio mutex run" in self.text:  # a mutex that it created is an orphan once the command has ended
            for name in self.names.values():
                mutex.unlink(name, missing_ok=True)

    def named(self, text: str) -> str:
        """Replace names in Python code, in quotes or in a URL."""
        words = "|".join(map(re.escape, self.names))
        return re.sub(rf"(?<=[\"'])({words})(?=[\"'])|(?<=shm://)({words})\b", lambda m: self.names[m[0]], text)

    def elsewhere(self, text: str, line: int) -> None:
        if self.second is None:
            self.second = Peer("scope = {}", "import pages")
        ends = "SIGKILL" in text
        question = f"pages.session({text!r}, scope, {self.where!r}, {line})[1]"
        if ends:
            self.second.send("ask", question)
            assert not self.second.process.stdout.readline()
            self.second.stop()
            self.second = None
        else:
            problem = self.second.ask(question)
            assert not problem, problem

    def shell(self, text: str) -> None:
        words = "|".join(map(re.escape, self.names))
        text = re.sub(rf"(?<![\w.-])({words})(?!\w|-|\.\w)", lambda m: self.names[m[0]], text)
        before, *commands = re.split(r"^\$ ", text, flags=re.MULTILINE)
        assert not before, f"no command: {before}"
        # A line that ends with a backslash goes on in the next one.
        pairs = [re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*)\n(.*)", command, re.DOTALL).groups() for command in commands]
        script = "".join(f"{command}\nstatus=$?; echo '{MARK}'; (exit $status)\n" for command, _ in pairs)
        # Where this user may not look, the shell cannot say that a program is missing.
        searchable = [entry for entry in ENVIRONMENT["PATH"].split(os.pathsep) if os.access(entry or ".", os.X_OK)]
        done = subprocess.run(
            ["sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            env={**ENVIRONMENT, "PATH": os.pathsep.join([self.programs, *searchable])},
            timeout=DEADLINE,
            check=False,
        )
        outputs = done.stdout.split(f"{MARK}\n")
        for (command, wanted), got in zip(pairs, outputs, strict=False):
            assert printed(wanted, got), f"$ {command}\n{got}instead of\n{wanted}"
        assert len(outputs) == len(pairs) + 1, done.stdout


def install(directory) -> None:
    """Put the commands that a shell is to find into a directory: this Python, and its ipcio."""
    for name, words in ("python3", []), ("ipcio", ["-m", "ipcio"]):
        program = directory / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, *words])} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
