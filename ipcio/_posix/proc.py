"""Children on POSIX: `subprocess` starts them, the kernel tells what can be done for them.

The exit is an event like any other where the kernel has descriptors of processes
(``pidfd_open(2)``), and is looked for now and then where it has none: so nobody waits for
the end of a pipe that a grandchild keeps open, and what a child wrote before its exit is
in the pipe when the exit is seen.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import sys
import termios
from math import ceil

from ipcio._forklock import RLock
from ipcio._posix.spawn import Pipe, inherited, is_open, start
from ipcio._record import close_at, close_first, record, record_until
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ipcio._streams import Input, Output

__all__ = ["Child"]

_MUCH = 1 << 15  # bytes at once, after which a pipe is to hold more
_PIPE = 1 << 20  # bytes that it then holds, as far as the system allows
_CHUNK, _CHUNKS = 1 << 18, 4  # bytes of one read, and reads until somebody else has a turn
_LONGEST = 1e6  # seconds that the calls of the system take at once
_FIRST_PAUSE, _LAST_PAUSE = 0.0005, 0.02  # seconds between two looks for the exit, where it is no event

# What not every system has.
_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)


class _Poll:
    """What is needed here of `select.epoll`, for systems without: who waits hears of what others register."""

    def __init__(self) -> None:
        self._events: dict[int, int] = {}
        self._bell = Pipe(to_child=False)  # to ourselves
        for fd in self._bell.theirs, self._bell.ours:
            os.set_blocking(fd, False)

    def register(self, fd: int, events: int) -> None:
        if fd in self._events:
            raise FileExistsError
        self._events[fd] = events
        with contextlib.suppress(BlockingIOError):  # then it has rung often enough
            os.write(self._bell.theirs, b"!")

    def unregister(self, fd: int) -> None:
        self._events.pop(fd, None)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(self._bell.ours, select.POLLIN)
        for fd, events in list(self._events.items()):
            poll.register(fd, events)
        ready = dict(poll.poll(None if timeout is None else ceil(timeout * 1000)))
        if ready.pop(self._bell.ours, None):
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell.ours, _MUCH)
        return list(ready.items())

    def fileno(self) -> int:
        return -1  # there is none to wait for

    def close(self) -> None:
        self._bell.close()


_Watch: type[_Poll] = getattr(select, "epoll", _Poll)

_lost: list[_Poll] = []  # whose number means something else by now


class Child:
    """See `ipcio._backend.Child`."""

    def __init__(
        self,
        command: str | Sequence[Any],
        streams: Sequence[int | None],
        cwd: Any,
        env: Mapping[Any, Any] | None,
        start_new_session: bool,
    ) -> None:
        self._watched: _Poll | None = None
        self._watched_as: os.stat_result | None = None  # what its descriptor is
        self._events: list[int] = []  # copies of its descriptor
        self._popen, self._pipes = start(command, streams, cwd, env, start_new_session)
        inherited.add(self)
        self.pid = self._popen.pid
        self._lock = RLock()  # a signal handler may write, whatever it interrupts
        self._input: tuple[Pipe, Input] | None = None
        self._outputs: dict[int, tuple[Pipe, Output]] = {}
        self._wide: set[int] = set()  # pipes that hold as much as they may
        self._pause = _FIRST_PAUSE

    def connect(self, stdin: Input | None, outputs: Sequence[Output | None]) -> None:
        """See `ipcio._backend.Child`."""
        to_child, *from_child = self._pipes
        if to_child is not None and stdin is not None:
            os.set_blocking(to_child.ours, False)
            self._input = to_child, stdin
        for pipe, output in zip(from_child, outputs, strict=True):
            if pipe is not None and output is not None:
                os.set_blocking(pipe.ours, False)
                self._outputs[pipe.ours] = pipe, output

    @property
    def returncode(self) -> int | None:
        """See `ipcio._backend.Child`."""
        if self._outputs:
            return None
        if self._popen.is_lost:
            raise self._lost()
        code: int | None = self._popen.returncode
        return code

    def _lost(self) -> ChildProcessError:
        what = "its exit status is gone: SIGCHLD is ignored, or another part of the program waits for all children"
        return ChildProcessError(errno.ECHILD, what, self.pid)

    # -- what happens ----------------------------------------------------------

    def pump(self, timeout: float | None) -> bool:
        """See `ipcio._backend.Child`."""
        self._check()
        if self._popen.returncode is None:
            if timeout is not None or self._outputs or self._input is not None:
                if not self._serve(timeout if timeout is None else min(timeout, _LONGEST)):
                    return False
            else:
                self._popen.await_exit()
        if self._popen.returncode is not None:
            self._finish()
        return True

    def _check(self) -> None:
        """Leave numbers alone that mean something else by now; what came through such a pipe has ended."""
        for fd, (pipe, output) in list(self._outputs.items()):
            if not pipe.is_there():
                output.ended = True
                del self._outputs[fd]
        with self._lock:
            if self._input is not None and not self._input[0].is_there():
                _, stream = self._input
                self._input = None
                stream.discard()
        self._check_watched()
        self._popen.check()

    def _check_watched(self) -> None:
        watched, known = self._watched, self._watched_as
        if watched is not None and known is not None and not is_open(watched.fileno(), known):
            _lost.append(watched)  # its end would close the number
            self._watched = None
            self._events.clear()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # nobody could catch it
            self._check_watched()

    def _serve(self, timeout: float | None) -> bool:
        """Wait for events and do what they ask for; return whether there were any."""
        if self._popen.pidfd < 0:
            # The exit is no event here. Look for it now and then.
            self._popen.look()
            if self._popen.returncode is not None:
                return True
            timeout = self._pause if timeout is None else min(self._pause, timeout)
            self._pause = min(2 * self._pause, _LAST_PAUSE)
        if self._input is None and self._watched is None:
            ready = self._poll(timeout)
        else:
            watched = self._watched or self._watch()
            self.attend()  # an interrupt may have kept who queued something from it
            ready = [fd for fd, _ in watched.poll(timeout)]
        for fd in ready:
            if fd in self._outputs:
                self._read(fd)
            elif self._input is not None and self._input[0].ours == fd:
                self._write(fd, self._input[1])
            elif fd != self._popen.pidfd:  # an interrupt came while it was closed
                self._unregister(fd)
        if self._popen.pidfd in ready:
            self._popen.look()
        if ready:
            self._pause = _FIRST_PAUSE
        return bool(ready)

    def _poll(self, timeout: float | None) -> list[int]:
        """Wait where nobody can come to want something else meanwhile."""
        poll = select.poll()
        for fd in self._outputs:
            poll.register(fd, select.POLLIN)
        if self._popen.pidfd >= 0:
            poll.register(self._popen.pidfd, select.POLLIN)
        return [fd for fd, _ in poll.poll(None if timeout is None else ceil(timeout * 1000))]

    def _watch(self) -> _Poll:
        watched = _Watch()
        if watched.fileno() >= 0:
            self._watched_as = os.fstat(watched.fileno())
        for fd in self._outputs:
            watched.register(fd, select.POLLIN)  # epoll has the same numbers
        if self._popen.pidfd >= 0:
            watched.register(self._popen.pidfd, select.POLLIN)
        self._watched = watched
        self.attend()
        return watched

    def _unregister(self, fd: int) -> None:
        if self._watched is not None:
            with contextlib.suppress(FileNotFoundError):
                self._watched.unregister(fd)

    def attend(self) -> None:
        """See `ipcio._backend.Child`."""
        with self._lock:
            if self._watched is not None and self._input is not None and not self._input[1].idle:
                try:
                    # Who waits in it hears of this.
                    self._watched.register(self._input[0].ours, select.POLLOUT)
                except FileExistsError:
                    pass

    def _read(self, fd: int) -> None:
        """Read what is there, within limits."""
        _, output = self._outputs[fd]
        raw = output.raw
        before = len(raw)
        try:
            record_until(raw, b"", _CHUNKS, os.read, fd, _CHUNK)
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
        for _ in range(_CHUNKS):
            if isinstance(what := stream.next(), bool):  # what a source raises is not of the pipe
                break
            data, sent = what
            try:
                record(sent, os.write, fd, data)
            except BlockingIOError:
                if fd not in self._wide:
                    self._wide.add(fd)
                    _widen(fd)
                return
            except BrokenPipeError:  # the child has closed its end, and wants no more
                what = True
                break
        else:
            return
        if what:
            self._close_input()
            return
        with self._lock:
            if stream.idle:  # else somebody has queued something since
                self._unregister(fd)

    def open_event(self) -> int:
        """See `ipcio._backend.Child`."""
        if self._popen.pidfd < 0 or (watched := self._watched or self._watch()).fileno() < 0:
            return -1
        record(self._events, fcntl.fcntl, watched.fileno(), fcntl.F_DUPFD_CLOEXEC, 0)
        return self._events[-1]

    def close_event(self, fd: int) -> None:
        """See `ipcio._backend.Child`."""
        if not self.is_ours():
            return
        self._check()
        if fd in self._events:
            close_at(os.close, self._events, self._events.index(fd))
        if self._popen.returncode is not None and not self._outputs:
            self._close_rest()

    # -- the end ---------------------------------------------------------------

    def kill(self, number: int, *, tree: bool, grace: bool = False) -> None:
        """See `ipcio._backend.Child`."""
        if self.is_ours():
            self._popen.send(number, tree=tree, grace=grace)

    def has_gone(self, *, tree: bool) -> bool:
        """See `ipcio._backend.Child`."""
        return self._popen.has_gone(tree=tree)

    def end(self) -> int:
        """See `ipcio._backend.Child`."""
        self._popen.end()
        if self._popen.is_lost:
            raise self._lost()
        return int(self._popen.returncode)

    def close(self) -> None:
        """See `ipcio._backend.Child`."""
        if not self.is_ours():  # what it had open is closed there, and a lock may be a copy of one that was held
            return
        self._popen.end()
        self._check()
        self._outputs.clear()
        self._close_input()
        self._close_rest()

    def close_copies(self) -> None:
        """In a forked process, close what is not a pipe's or the child's."""
        if self._watched is not None:
            self._watched.close()
        close_first(os.close, self._events, len(self._events))

    def is_ours(self) -> bool:
        """See `ipcio._backend.Child`."""
        return self._popen.is_ours()

    def _finish(self) -> None:
        """Read what the child has left in the pipes, and close them.  What a grandchild writes later is nobody's."""
        for fd, (_, output) in list(self._outputs.items()):
            left = int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
            with contextlib.suppress(BlockingIOError):
                record_until(output.raw, b"", -(-left // _CHUNK), os.read, fd, _CHUNK)
            self._close_output(fd)
        self._close_input()
        self._close_rest()

    # In these, first what tells that it is to be used goes, then the thing.

    def _close_output(self, fd: int) -> None:
        pipe, output = self._outputs[fd]
        output.ended = True
        del self._outputs[fd]
        self._unregister(fd)
        pipe.close()

    def _close_input(self) -> None:
        with self._lock:
            if self._input is None:
                return
            pipe, stream = self._input
            self._input = None
            stream.discard()
            self._unregister(pipe.ours)
        pipe.close()

    def _close_rest(self) -> None:
        if self._events:  # who waits for one is woken by the exit, and comes back
            return
        with self._lock:
            watched, self._watched = self._watched, None
            if watched is not None:
                watched.close()
        self._popen.let_go()
        for pipe in self._pipes:
            if pipe is not None:
                pipe.close()


def _widen(fd: int) -> None:
    """Let a pipe hold more: every time that it is full, somebody has to wait."""
    if _SETPIPE_SZ is not None:
        with contextlib.suppress(OSError):  # a user may have so much in pipes, and no more
            fcntl.fcntl(fd, _SETPIPE_SZ, _PIPE)
