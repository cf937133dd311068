"""Python processes that are forks of one that has imported what they need, for a fifth of what a start costs.

The server makes them with ``CLONE_PARENT``, so they are children of the process that asked for them, just as
if it had started them: it gets their signals and reaps them.  They have its standard streams, too.

The C library has no function for that, and would not notice: so each fork gets what its own ``fork`` would do for
robust mutexes.  The new thread id is written to where the C library keeps it, and the kernel is told again where the
list of the mutexes is that the thread holds.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import time

# The numbers of clone(2), set_robust_list(2) and get_robust_list(2).
_CLONE = {"x86_64": "56 273 274", "aarch64": "220 99 100"}

_SERVER = """
import ctypes, os, signal, socket, sys

channel = socket.socket(fileno=int(sys.argv[1]))
clone, set_list, get_list = map(int, sys.argv[2].split())
setup, program = sys.argv[3], compile(sys.argv[4], "<program>", "exec")
exec(setup)
api = ctypes.pythonapi
mutexes, size = ctypes.c_long(), ctypes.c_long()
api.syscall(ctypes.c_long(get_list), 0, ctypes.byref(mutexes), ctypes.byref(size))
# The C library keeps the thread id in its record of the thread, of more than 2 KiB.
api.pthread_self.restype = ctypes.c_ulong
try:
    has_record = "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
except (OSError, ValueError):
    has_record = False
record = (ctypes.c_int * 400).from_address(api.pthread_self()) if has_record else []
known = [n for n, word in enumerate(record) if word == os.getpid()]
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those at work
while True:
    words, fds, _, _ = socket.recv_fds(channel, 1000, 3)
    if not words:
        os._exit(0)
    api.PyOS_BeforeFork()
    # Which argument is which depends on the machine; the thread-local memory stays as it is.
    pid = api.syscall(ctypes.c_long(clone), *[ctypes.c_long(value) for value in (0x8000 | signal.SIGCHLD, 0, 0, 0, 0)])
    if not pid:
        for n in known:
            record[n] = os.getpid()
        api.syscall(ctypes.c_long(set_list), mutexes, size)
        api.PyOS_AfterFork_Child()
        break
    api.PyOS_AfterFork_Parent()
    for fd in fds:
        os.close(fd)
    channel.send(str(pid).encode())
channel.close()
for number, fd in enumerate(fds):
    os.dup2(fd, number)
    os.close(fd)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = words.decode().split()
sys.stdin = sys.__stdin__ = open(0, closefd=False)
sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)
sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
exec(program, {"__name__": "__main__", "__builtins__": __builtins__})
"""


class Child:
    """A process that the server has made for us; the part of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int, stdin: int, stdout: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin = open(stdin, "w")
        self.stdout = open(stdout)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        pause = 0.0005
        while self.poll() is None:
            if end is None:
                _, status = os.waitpid(self.pid, 0)
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                raise subprocess.TimeoutExpired("a fork", timeout)
            else:
                time.sleep(pause)
                pause = min(2 * pause, 0.02)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Server:
    """Forks run `program` where `setup` has been run once; `path` is where they import from."""

    def __init__(self, setup: str, program: str, path: tuple[str, ...]) -> None:
        self._owner = os.getpid()
        self._world = world()
        self._channel, theirs = socket.socketpair()
        number = _CLONE[platform.machine()]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(theirs.fileno()), str(number), setup, program],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            pass_fds=[theirs.fileno()],
        )
        self.pid = self._process.pid
        theirs.close()

    def fits(self) -> bool:
        """Whether a process that we start now would see the same: environment, directory, user, parent."""
        return os.getpid() == self._owner and world() == self._world

    def start(self, *words: str) -> Child | None:
        """Return the fork, or None if the system does not make one."""
        stdin, ours_in = os.pipe()
        ours_out, stdout = os.pipe()
        try:
            socket.send_fds(self._channel, [" ".join(["-c", *words]).encode()], [stdin, stdout, 2])
            pid = int(self._channel.recv(20) or b"-1")
        finally:
            os.close(stdin)
            os.close(stdout)
        if pid > 0:
            return Child(pid, ours_in, ours_out)
        os.close(ours_in)
        os.close(ours_out)
        return None

    def stop(self) -> None:
        self._channel.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:  # what a test left has a copy of our end
            self._process.kill()
            self._process.wait()


def world() -> tuple:
    """What a process inherits and a test may change."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return environment, os.stat(".")[1:3], os.geteuid(), os.getegid()


def able() -> bool:
    """Whether this system and this Python can make such forks."""
    return sys.platform == "linux" and sys.implementation.name == "cpython" and platform.machine() in _CLONE
