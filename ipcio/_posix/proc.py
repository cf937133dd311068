"""Children on POSIX: the C code of `subprocess` starts them, the kernel says what can be done for them.

The exit is an event like any other where the kernel has descriptors of processes
(``pidfd_open(2)``), and is looked for now and then where it has none.  So no call waits for
the end of a pipe that a grandchild keeps open, and what a child wrote before its exit is
in the pipe when the exit is seen.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
from math import ceil

from ipcio._child import PipedChild, start_with_pipes
from ipcio._light import partial, suppress
from ipcio._posix.pipes import CHUNK, LARGE, Pipe, enlarge, identity, inherited, is_still
from ipcio._posix.selector import PollSelector, Selector
from ipcio._posix.spawn import Popen, start_popen
from ipcio._record import close_at, close_first, record, record_until
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from ipcio._child_input import Input
    from ipcio._child_output import Output

_MUCH = 1 << 15  # bytes read at once, after which a pipe is enlarged
_CHUNKS = 4  # reads or writes before another pipe has a turn
_LONGEST = 1e6  # seconds; the system's calls accept no more
_FIRST_PAUSE, _LAST_PAUSE = 0.0005, 0.02  # seconds between two looks for the exit, where it is no event

_abandoned: list[PollSelector] = []  # their descriptors' numbers mean other files by now


def start(
    command: str | Sequence[Any],
    streams: Sequence[int | None],
    cwd: Any,
    env: Mapping[Any, Any] | None,
    *,
    start_new_session: bool,
    posix: Mapping[str, Any],
    stdin: Input | None,
    outputs: Sequence[Output | None],
) -> Child:
    for fd in posix.get("pass_fds", ()):
        _check_open(fd)
    begin = partial(start_popen, command, cwd, env, start_new_session=start_new_session, posix=posix)
    popen, pipes = start_with_pipes(Pipe, streams, begin)
    return Child(popen, pipes, stdin, outputs)


def _check_open(fd: int) -> None:
    # The number may otherwise become that of a pipe of `subprocess`, which would then wait for the child's exit.
    try:
        os.fstat(fd)
    except OSError as error:
        error.strerror = f"pass_fds= names a descriptor that is not open: {fd}"
        raise


class Child(PipedChild[Pipe, Popen]):
    """A child, its pipes, and what waits for all of them."""

    _selector: PollSelector | None = None
    _known: tuple[int, ...] | None = None  # the identity of its descriptor
    _pause = _FIRST_PAUSE

    def __init__(
        self, popen: Popen, pipes: Sequence[Pipe | None], stdin: Input | None, outputs: Sequence[Output | None]
    ) -> None:
        super().__init__(popen, pipes, stdin, outputs)
        self._readiness_fds: list[int] = []  # copies of the descriptor of `_selector`
        self._enlarged: set[int] = set()  # pipes
        for fd in self._outputs:
            os.set_blocking(fd, False)
        if self._input is not None:
            os.set_blocking(self._input[0].our_end, False)
        popen.has_handle = True
        self.started_here = popen.started_here

    @property
    def returncode(self) -> int | None:
        if self._outputs:
            return None
        if self._popen.is_status_lost:
            raise self._lost_status()
        code: int | None = self._popen.returncode
        return code

    def _lost_status(self) -> ChildProcessError:
        what = "its exit status is gone: SIGCHLD is ignored, or another part of the program waits for all children"
        return ChildProcessError(errno.ECHILD, what, self.pid)

    # -- what happens --------------------------------------------------------------

    def _check(self) -> None:
        for fd, (pipe, output) in list(self._outputs.items()):
            if not pipe.is_intact():
                output.ended = True
                del self._outputs[fd]
        given = self._input
        if given is not None:
            with self._lock:
                if self._input is not None and not self._input[0].is_intact():
                    _, stream = self._input
                    self._input = None
                    stream.discard()
        if self._selector is not None:
            self._check_selector()
        self._popen.check()

    def _check_selector(self) -> None:
        selector, known = self._selector, self._known
        if selector is not None and known is not None and not is_still(selector.fileno(), known):
            _abandoned.append(selector)  # if it were collected, it would close the number
            self._selector = None
            self._readiness_fds.clear()

    def __del__(self) -> None:
        if self._selector is not None:
            with suppress(Exception):  # Python would only print it
                self._check_selector()

    def _serve(self, timeout: float | None) -> bool:
        if self._input is not None:
            self._write_without_waiting(*self._input)
        timeout = self._until_retry(timeout)
        if timeout is None and not self._outputs and self._input is None:
            self._popen.await_exit(close=not self._readiness_fds)
            return True
        pidfd = self._popen.pidfd
        if pidfd < 0:
            # The exit is no event here.  Look for it now and then.
            self._popen.look()
            if self._popen.returncode is not None:
                return True
            timeout = self._pause if timeout is None else min(self._pause, timeout)
            self._pause = min(2 * self._pause, _LAST_PAUSE)
        ready = self._poll(pidfd, timeout)
        if not ready:
            return False
        has_read = self._move(ready)
        if pidfd in ready:
            self._popen.look(close=not self._readiness_fds)
        elif pidfd < 0:
            self._pause = _FIRST_PAUSE
        elif timeout is None and not has_read and not self._outputs and self._input is None:
            self._popen.await_exit(close=not self._readiness_fds)  # most exits come right after the end of the pipes
        return True

    def _move(self, ready: Iterable[int]) -> bool:
        """Read from these pipes, write to those; return whether there was anything to read."""
        has_read = False
        for fd in ready:
            if fd in self._outputs:
                has_read |= self._read(fd)
            elif self._input is not None and self._input[0].our_end == fd:
                self._write(fd, self._input[1])
            elif fd != self._popen.pidfd:  # an interrupt came while it was closed
                self._stop_watching(fd)
        return has_read

    def _write_without_waiting(self, pipe: Pipe, stream: Input) -> None:
        """Ask a file again that had nothing; write what fits: if that is all and its end, no selector is needed."""
        if stream.retry_after is not None:
            stream.next_chunk()
        if self._selector is None and not stream.idle:
            self._write(pipe.our_end, stream)

    def _poll(self, pidfd: int, timeout: float | None) -> dict[int, int]:
        """Wait until something is ready."""
        if timeout is not None:
            timeout = min(timeout, _LONGEST)
        if self._input is not None or self._selector is not None:  # another thread may queue input meanwhile
            selector = self._selector or self._open_selector()
            self.input_queued()  # an interrupt in `Process.write` may have come before this call there
            for fd, (_, output) in self._outputs.items():
                if output.may_refuse and output.retry_after is not None:  # it stays in the pipe, and the child waits
                    self._stop_watching(fd)
                elif output.may_refuse:
                    with suppress(FileExistsError):
                        selector.register(fd, select.POLLIN)
            return dict(selector.poll(timeout))
        poll = select.poll()
        for fd, (_, output) in self._outputs.items():
            if not output.may_refuse or output.retry_after is None:
                poll.register(fd, select.POLLIN)
        if pidfd >= 0:
            poll.register(pidfd, select.POLLIN)
        return dict(poll.poll(None if timeout is None else ceil(timeout * 1000)))

    def _open_selector(self) -> PollSelector:
        inherited.add(self)
        selector = Selector()
        if selector.fileno() >= 0:
            self._known = identity(selector.fileno())
        for fd in self._outputs:
            selector.register(fd, select.POLLIN)  # epoll has the same numbers
        if self._popen.pidfd >= 0:
            selector.register(self._popen.pidfd, select.POLLIN)
        self._selector = selector
        self.input_queued()
        return selector

    def _stop_watching(self, number: int) -> None:
        if self._selector is not None:
            with suppress(FileNotFoundError):
                self._selector.unregister(number)

    def input_queued(self) -> None:
        with self._lock:
            if self._selector is not None and self._input is not None and not self._input[1].idle:
                try:
                    # A thread that waits in it is woken when there is room in the pipe.
                    self._selector.register(self._input[0].our_end, select.POLLOUT)
                except FileExistsError:
                    pass

    def _read(self, fd: int) -> bool:
        """Read what is there, within limits; return whether there was anything."""
        _, output = self._outputs[fd]
        raw = output.raw
        before = len(raw)
        try:
            record_until(raw, b"", _CHUNKS, os.read, fd, CHUNK)
        except BlockingIOError:
            pass
        else:
            if len(raw) - before < _CHUNKS:  # the end
                self._close_output(fd)
                return len(raw) > before
        if fd not in self._enlarged and sum(map(len, raw)) >= _MUCH:
            self._enlarged.add(fd)
            enlarge(fd)
            # The C library keeps as much free memory as the largest block that was ever freed.  Without
            # this it would give the chunks' memory back to the system after each read.
            bytes(2 * LARGE)
        return len(raw) > before

    def _write(self, fd: int, stream: Input) -> None:
        """Write what there is, as much as fits."""
        for _ in range(_CHUNKS):
            chunk = stream.next_chunk()  # outside of the `try`: what a file object raises is no error of the pipe
            if chunk is None:
                with self._lock:
                    if stream.idle:  # else another thread has queued something since
                        self._stop_watching(fd)
                return
            if chunk is stream.END:
                self._close_input()
                return
            data, sent = chunk
            try:
                record(sent, os.write, fd, data)
            except BlockingIOError:
                if fd not in self._enlarged:
                    self._enlarged.add(fd)
                    enlarge(fd)
                return
            except BrokenPipeError:  # the child has closed its end: it does not want the rest
                self._close_input()
                return

    def readiness_fd(self) -> int:
        if self._popen.pidfd < 0 or (selector := self._selector or self._open_selector()).fileno() < 0:
            return -1
        record(self._readiness_fds, fcntl.fcntl, selector.fileno(), fcntl.F_DUPFD_CLOEXEC, 0)
        return self._readiness_fds[-1]

    def close_readiness_fd(self, fd: int) -> None:
        if not self.started_here():
            return
        self._check()
        if fd in self._readiness_fds:
            close_at(os.close, self._readiness_fds, self._readiness_fds.index(fd))
        if self._popen.returncode is not None and not self._outputs:
            self._close_rest()

    # -- the end -------------------------------------------------------------------

    def kill(self, number: int, *, tree: bool, grace: bool = False) -> None:
        if self.started_here():
            self._popen.send(number, tree=tree, grace=grace)

    def has_exited(self, *, tree: bool) -> bool:
        return self._popen.has_exited(tree=tree)

    def kill_and_reap(self) -> int:
        self._popen.kill_and_reap()
        if self._popen.is_status_lost:
            raise self._lost_status()
        return int(self._popen.returncode)

    def close(self) -> None:
        if self.started_here():  # in a forked copy all is closed, and a lock may have been copied while it was held
            self._popen.kill_and_reap()
            self._check()
            self._discard_pipes()

    def close_copies(self) -> None:
        """In a forked process, close the selector; pipes and the child's descriptor are closed by themselves."""
        if self._selector is not None:
            self._selector.close()
        close_first(os.close, self._readiness_fds, len(self._readiness_fds))

    def _close_rest(self) -> None:
        if self._readiness_fds:  # the exit wakes the tasks that wait for them, and each closes its own
            return
        with self._lock:
            selector, self._selector = self._selector, None
            if selector is not None:
                selector.close()
        if self._popen.has_descriptor:
            self._popen.close_if_settled()
        super()._close_rest()
