"""Children on POSIX: `subprocess` starts them, a selector tells what can be done for them.

The exit is an event like any other where the kernel has descriptors of processes
(``pidfd_open(2)``): so nobody waits for the end of a pipe that a grandchild keeps open,
and what a child wrote before its exit is in the pipe when the exit is seen.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import selectors
import signal
import subprocess
import sys
import termios
import threading
from functools import partial
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ipcio._streams import Input, Output

__all__ = ["Child"]

_MUCH = 1 << 15  # bytes at once, after which a pipe is to hold more
_PIPE = 1 << 20  # bytes that it then holds, as far as the system allows
_CHUNK, _CHUNKS = 1 << 18, 4  # bytes of one read, and reads until somebody else has a turn
_NONE, _UNKNOWN = -1, -2  # in place of a descriptor
_FIRST_PAUSE, _LAST_PAUSE = 0.0005, 0.02  # seconds between two looks for the exit, where it is no event


class _Popen(subprocess.Popen[bytes]):
    """A child that ends with its object, in the process that started it."""

    pid = 0  # while there is no child
    pidfd = _UNKNOWN
    stdin = stdout = stderr = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.owner = os.getpid()
        super().__init__(*arguments, **options)

    def close(self) -> None:
        """Close the ends of the pipes that are here, and what tells of the exit."""
        for file in self.stdin, self.stdout, self.stderr:
            if file is not None:
                file.close()
        pidfd, self.pidfd = self.pidfd, _NONE
        if pidfd >= 0:
            os.close(pidfd)

    def __del__(self) -> None:  # in place of Popen's, which leaves a zombie
        self.close()
        if self.pid and self.returncode is None and self.owner == os.getpid():
            self.kill()
            self.wait()


class Child:
    """See `ipcio._contract.Child`."""

    def __init__(
        self,
        command: str | Sequence[Any],
        streams: Sequence[int | None],
        cwd: Any,
        env: Mapping[Any, Any] | None,
        start_new_session: bool,  # noqa: FBT001
    ) -> None:
        before = _children()
        stdin, stdout, stderr = streams
        try:
            self._popen = _Popen(
                command,
                bufsize=0,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                shell=isinstance(command, str),
                cwd=cwd,
                env=env,
                start_new_session=start_new_session,
            )
        except (OSError, ValueError, TypeError):
            raise  # there is no child, or Popen has reaped it
        except BaseException:
            # Ctrl-C is noticed as soon as the fork is over, before Popen knows of a child.
            for pid in map(int, set(_children().split()) - set(before.split())):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
            raise
        self.pid = self._popen.pid
        self._lock = threading.Lock()
        self._reaped: list[tuple[int, int]] = []
        self._is_lost = False  # the exit status, to somebody else
        self._input: tuple[int, Input] | None = None
        self._outputs: dict[int, tuple[Any, Output]] = {}
        self._wide: set[int] = set()  # pipes that hold as much as they may
        self._selector: selectors.BaseSelector | None = None
        self._pause = _FIRST_PAUSE

    def connect(self, stdin: Input | None, outputs: Sequence[Output | None]) -> None:
        """See `ipcio._contract.Child`."""
        popen = self._popen
        if stdin is not None and popen.stdin is not None:
            self._input = _prepare(popen.stdin), stdin
        for file, output in zip((popen.stdout, popen.stderr), outputs, strict=True):
            if file is not None and output is not None:
                self._outputs[_prepare(file)] = file, output

    @property
    def returncode(self) -> int | None:
        """See `ipcio._contract.Child`."""
        if self._outputs:
            return None
        if self._is_lost:
            what = "its exit status is gone: SIGCHLD is ignored, another waits for all children, or this is a fork"
            raise ChildProcessError(errno.ECHILD, what, self.pid)
        return self._popen.returncode

    # -- what happens ----------------------------------------------------------

    def turn(self, timeout: float | None) -> bool:
        """See `ipcio._contract.Child`."""
        if self._popen.returncode is None:
            if timeout is not None or self._outputs or self._input is not None:
                if not self._serve(timeout):
                    return False
            else:
                self._await_exit()
        if self._popen.returncode is not None:
            self._finish()
        return True

    def _serve(self, timeout: float | None) -> bool:
        """Wait for events and do what they ask for; return whether there were any."""
        self._find_exit()
        if self._popen.pidfd < 0:
            # The exit is no event here. Look for it now and then.
            self._reap()
            if self._popen.returncode is not None:
                return True
            timeout = self._pause if timeout is None else min(self._pause, timeout)
            self._pause = min(2 * self._pause, _LAST_PAUSE)
        if self._input is None and self._selector is None:
            ready = self._poll(timeout)
        else:
            selector = self._selector or self._watch()
            ready = [key.fd for key, _ in selector.select(timeout)]
        for fd in ready:
            if fd in self._outputs:
                self._read(fd)
            elif self._input is not None and self._input[0] == fd:
                self._write(*self._input)
            elif fd != self._popen.pidfd and self._selector is not None:  # an interrupt came while it was closed
                self._selector.unregister(fd)
        if self._popen.pidfd in ready:
            self._reap()
        if ready:
            self._pause = _FIRST_PAUSE
        return bool(ready)

    def _find_exit(self) -> None:
        """Have a descriptor that tells of the exit, if the system has such."""
        if self._popen.pidfd == _UNKNOWN:
            try:
                self._popen.pidfd = os.pidfd_open(self.pid)
            except (AttributeError, OSError):  # an old kernel, or a sandbox
                self._popen.pidfd = _NONE

    def _poll(self, timeout: float | None) -> list[int]:
        """Wait where nobody can come to want something else meanwhile: a selector would take longer to set up."""
        poll = select.poll()
        for fd in self._outputs:
            poll.register(fd, select.POLLIN)
        if self._popen.pidfd >= 0:
            poll.register(self._popen.pidfd, select.POLLIN)
        return [fd for fd, _ in poll.poll(None if timeout is None else ceil(timeout * 1000))]

    def _watch(self) -> selectors.BaseSelector:
        selector = selectors.DefaultSelector()
        for fd in self._outputs:
            selector.register(fd, selectors.EVENT_READ)
        if self._popen.pidfd >= 0:
            selector.register(self._popen.pidfd, selectors.EVENT_READ)
        self._selector = selector
        self.attend()
        return selector

    def attend(self) -> None:
        """See `ipcio._contract.Child`."""
        with self._lock:
            if self._selector is not None and self._input is not None and not self._input[1].idle:
                # A selector of the kernel's hears of this even while a thread waits in it.
                with contextlib.suppress(KeyError):  # it knows already
                    self._selector.register(self._input[0], selectors.EVENT_WRITE)

    def _read(self, fd: int) -> None:
        """Read what is there, within limits."""
        _, output = self._outputs[fd]
        raw = output.raw
        before = len(raw)
        try:
            raw.extend(islice(iter(partial(os.read, fd, _CHUNK), b""), _CHUNKS))
        except BlockingIOError:
            pass
        else:
            if len(raw) - before < _CHUNKS:  # the end
                self._close_output(fd)
                return
        if fd not in self._wide and sum(map(len, raw)) >= _MUCH:
            self._wide.add(fd)
            _widen(fd)
            # Lest the C library give the chunks' memory back to the system between any two turns: it
            # keeps as much as the largest block that was ever given back.
            bytes(2 * _PIPE)

    def _write(self, fd: int, stream: Input) -> None:
        """Write what there is, as much as fits."""
        try:
            for _ in range(_CHUNKS):
                if isinstance(what := stream.next(), bool):
                    break
                data, sent = what
                sent.extend(map(os.write, (fd,), (data,)))
            else:
                return
        except BlockingIOError:
            if fd not in self._wide:
                self._wide.add(fd)
                _widen(fd)
            return
        except BrokenPipeError:  # the child has closed its end, and wants no more
            what = True
        if what:
            self._close_input()
            return
        with self._lock:
            if stream.idle and self._selector is not None:  # else somebody has queued something since
                self._selector.unregister(fd)

    def open_event(self) -> int:
        """See `ipcio._contract.Child`."""
        self._find_exit()
        if self._popen.pidfd < 0:
            return -1
        selector: Any = self._selector or self._watch()
        return fcntl.fcntl(selector.fileno(), fcntl.F_DUPFD_CLOEXEC, 0)

    # -- the end ---------------------------------------------------------------

    def kill(self, number: int, *, tree: bool) -> None:
        """See `ipcio._contract.Child`."""
        with self._lock:  # while the child is not reaped, nobody else has its number
            if self._popen.returncode is None and self.is_ours():
                with contextlib.suppress(ProcessLookupError):
                    (os.killpg if tree else os.kill)(self.pid, number)

    def close(self) -> None:
        """See `ipcio._contract.Child`."""
        if not self.is_ours():  # locks may have been copied while somebody had them, and selectors are shared
            self._popen.close()
            return
        if self._popen.returncode is None:
            self.kill(signal.SIGKILL, tree=False)
            self._await_exit()
        self._outputs.clear()
        self._close_input()
        self._close_rest()

    def is_ours(self) -> bool:
        """See `ipcio._contract.Child`."""
        return self._popen.owner == os.getpid()

    def _await_exit(self) -> None:
        """Wait for the exit, and only then reap, under the lock."""
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:  # which `_reap` explains
            pass
        self._reap()

    def _reap(self) -> None:
        with self._lock:
            if self._popen.returncode is not None:
                return
            try:
                self._reaped.extend(map(os.waitpid, (self.pid,), (os.WNOHANG,)))
            except ChildProcessError:
                if not self._reaped:
                    self._is_lost = True
                    self._popen.returncode = 0
                    return
            for pid, status in self._reaped:
                if pid:
                    self._popen.returncode = os.waitstatus_to_exitcode(status)

    def _finish(self) -> None:
        """Read what the child has left in the pipes, and close them.  What a grandchild writes later is nobody's."""
        for fd, (_, output) in list(self._outputs.items()):
            left = int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
            with contextlib.suppress(BlockingIOError):
                output.raw.extend(islice(iter(partial(os.read, fd, _CHUNK), b""), -(-left // _CHUNK)))
            self._close_output(fd)
        self._close_input()
        self._close_rest()

    # In these, first what tells that it is to be used goes, then the thing.

    def _close_output(self, fd: int) -> None:
        file, output = self._outputs[fd]
        output.ended = True
        del self._outputs[fd]
        if self._selector is not None:
            self._selector.unregister(fd)
        file.close()

    def _close_input(self) -> None:
        with self._lock:
            if self._input is not None:
                fd, stream = self._input
                self._input = None
                stream.discard()
                if self._selector is not None:
                    with contextlib.suppress(KeyError):
                        self._selector.unregister(fd)
        if self._popen.stdin is not None:
            self._popen.stdin.close()

    def _close_rest(self) -> None:
        with self._lock:
            selector, self._selector = self._selector, None
            if selector is not None:
                selector.close()
        self._popen.close()


def _prepare(file: Any) -> int:
    fd: int = file.fileno()
    os.set_blocking(fd, False)
    return fd


def _widen(fd: int) -> None:
    """Let a pipe hold more: every time that it is full, somebody has to wait."""
    with contextlib.suppress(OSError):  # a user may have so much in pipes, and no more
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)


def _children() -> bytes:
    """The children that this thread has, in decimal; nothing where the system does not tell."""
    try:
        fd = os.open("/proc/thread-self/children", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return b"".join(iter(partial(os.read, fd, 1 << 16), b""))
    finally:
        os.close(fd)
