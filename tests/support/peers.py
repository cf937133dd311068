"""A second Python process to talk to: it runs the code that it is sent, line by line, and is always reaped."""

from __future__ import annotations

import ast
import json
import os
import select
import subprocess
import sys
import threading

from children import KILL
from forkserver import Server, able

import ipcio

DEADLINE = 30  # seconds until a silent peer is a failed test

_IMPORTS = """
import ctypes, encodings.ascii, gc, io, json, os, pickle, signal, subprocess, sys, time, typing
from ipcio import event, mutex, queue, sem, shm, mmap, strfile
"""

# What is loaded with the first call that needs it, is loaded before the forks.
_LOADED_LATER = """
import contextlib, functools, importlib, weakref
__import__("queue")  # the standard library's; ipcio's has the name here
import ipcio._posix.libc, ipcio._posix.sysv, ipcio._posix.robust, ipcio._posix.range_lock, ipcio._posix.file_bytes
"""

_LOOP = f"""
import json, sys
scope = {{}}
exec({_IMPORTS!r}, scope)
if len(sys.argv) > 1:  # as another user, which may not be able to read the interpreter's directory
    user, os = int(sys.argv[1]), scope["os"]
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
for line in sys.stdin:
    kind, code = json.loads(line)
    if "ipcio._filelock.holders" in sys.modules:  # see `pytest_runtest_setup` in conftest.py
        sys.modules["ipcio._filelock.holders"].SEARCH_AFTER = 5
    try:
        if kind == "ask":
            answer = ["value", repr(eval(code, scope))]
        else:
            exec(code, scope)
            answer = ["value", "None"]
    except BaseException as error:
        answer = ["error", [type(error).__name__, str(error), getattr(error, "errno", None)]]
    print(json.dumps(answer), flush=True)
"""


_servers: dict[tuple[str, ...], Server] = {}


def serve(*first: str) -> None:
    """Have peers be forks of a server as long as modules are imported from here, or from `first` and then here."""
    path = (*first, *_path())
    if able() and path not in _servers:
        _servers[path] = Server(_IMPORTS + _LOADED_LATER, _LOOP, path)


def stop_serving() -> None:
    while _servers:
        _servers.popitem()[1].stop()


def _path() -> tuple[str, ...]:
    return tuple(entry for entry in sys.path if entry)


def _start(python: str, words: list[str]) -> subprocess.Popen:
    # Another interpreter has a standard library of its own.
    ours = os.path.dirname(os.path.dirname(ipcio.__file__))
    theirs = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), ours]
    return subprocess.Popen(
        [python, "-u", "-c", _LOOP, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(_path() if python == sys.executable else theirs)},
    )


class PeerError(Exception):
    """What the peer raised: `kind` is the class name, `errno` its number if it has one."""

    def __init__(self, kind: str, text: str, errno: int | None) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.errno = errno


class Peer:
    """A Python process that has imported ipcio.

    ``run(code)`` executes statements there, ``ask(expression)`` returns a literal
    value; ``send`` and ``answer`` are the two halves of ``ask``, for a peer that is
    to block meanwhile.  `python` may be another interpreter; with `user`, the peer
    becomes that user, once it has imported what it needs; only root can do that.
    """

    def __init__(self, *setup: str, python: str = sys.executable, user: int | None = None) -> None:
        words = [] if user is None else [str(user)]
        server = _servers.get(_path()) if python == sys.executable else None
        self.process = server.start(*words) if server is not None and server.fits() else None
        if self.process is None:
            self.process = _start(python, words)
        self.pid = self.process.pid
        for code in setup:
            self.run(code)

    def send(self, kind: str, code: str) -> None:
        self.process.stdin.write(json.dumps([kind, code]) + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self._line()
        if not line:
            raise AssertionError(f"the peer has exited (status {self.process.wait()})")
        kind, content = json.loads(line)
        if kind == "error":
            raise PeerError(*content)
        return ast.literal_eval(content)

    def _line(self) -> str:
        """What it says next; if it is silent for too long, it is killed, and that is nothing."""
        if hasattr(select, "poll"):  # nothing is buffered: there is one line for each that it is sent
            poll = select.poll()
            poll.register(self.process.stdout, select.POLLIN)
            if not poll.poll(DEADLINE * 1000):
                self.process.kill()
            return self.process.stdout.readline()
        watchdog = threading.Timer(DEADLINE, self.process.kill)
        watchdog.start()
        try:
            return self.process.stdout.readline()
        finally:
            watchdog.cancel()
            watchdog.join()

    def run(self, code: str) -> None:
        self.send("run", code)
        self.answer()

    def ask(self, expression: str):
        self.send("ask", expression)
        return self.answer()

    def kill(self, number: int = KILL) -> int:
        """Kill it and wait until it is gone; return its status."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def stop(self) -> None:
        """Let it end by itself (atexit runs), or make it; close the pipes."""
        try:
            self.process.stdin.close()
        except OSError:  # it is gone: BrokenPipeError, or EINVAL on Windows
            pass
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
