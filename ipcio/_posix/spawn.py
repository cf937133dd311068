"""Starting a child so that nothing is left of it, by a failure, an interrupt at any moment or a dropped handle."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
from collections import deque
from itertools import chain, repeat, starmap
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Pipe", "Popen", "start"]


def start(
    command: str | Sequence[Any],
    streams: Sequence[int | None],
    cwd: Any,
    env: Mapping[Any, Any] | None,
    start_new_session: bool,  # noqa: FBT001
) -> tuple[Popen, list[Pipe | None]]:
    """Start a child whose streams are what `subprocess` takes; return it, and a pipe for each that is to be one."""
    pipes = [Pipe(to_child=number == 0) if stream == subprocess.PIPE else None for number, stream in enumerate(streams)]
    stdin, stdout, stderr = (pipe.theirs if pipe else stream for pipe, stream in zip(pipes, streams, strict=True))
    before = _children()
    try:
        popen = Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            shell=isinstance(command, str),
            cwd=cwd,
            env=env,
            start_new_session=start_new_session,
        )
    except BaseException:
        # Ctrl-C is noticed as soon as the fork is over, before Popen knows of a child.
        for pid in map(int, set(_children().split()) - set(before.split())):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        for pipe in filter(None, pipes):  # which the traceback would keep
            pipe.close()
        raise
    for pipe in filter(None, pipes):
        pipe.let_go()
    return popen, pipes


def _children() -> bytes:
    """The children that this thread has, in decimal; nothing where the system does not tell."""
    try:
        with open("/proc/thread-self/children", "rb", 0) as file:
            return file.readall()
    except (FileNotFoundError, PermissionError):
        return b""


class Pipe:
    """A pipe to or from a child; its ends go with the object."""

    def __init__(self, *, to_child: bool) -> None:
        self._fds: list[int] = []  # the child's end, while it is open here, and ours
        ends = starmap(os.pipe, ((),))
        self._fds.extend(chain.from_iterable(ends if to_child else map(reversed, ends)))

    @property
    def theirs(self) -> int:
        """The end that the child gets."""
        return self._fds[0]

    @property
    def ours(self) -> int:
        """The end that stays here."""
        return self._fds[-1]

    def let_go(self) -> None:
        """Close the child's end; it has its own copy."""
        _close(self._fds, 1)

    def close(self) -> None:
        """Close both ends."""
        _close(self._fds, len(self._fds))

    __del__ = close


def _close(fds: list[int], count: int) -> None:
    """Close the first of a list and take them out, both in one call of C: see `_streams`."""
    deque(map(os.close, map(fds.pop, repeat(0, count))), maxlen=0)


class Popen(subprocess.Popen[bytes]):
    """A child that ends with its object, in the process that started it."""

    pid = 0  # while there is no child

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.owner = os.getpid()
        self._pidfd: list[int] = []
        self._may_have_pidfd = hasattr(os, "pidfd_open")
        _alive.add(self)
        super().__init__(*arguments, **options)

    @property
    def pidfd(self) -> int:
        """A descriptor that tells of the exit; -1 where the system has no such, and after the end."""
        if self._may_have_pidfd and not self._pidfd:
            try:
                self._pidfd.extend(map(os.pidfd_open, (self.pid,)))
            except OSError as error:  # an old kernel, or a sandbox
                if error.errno is None:  # a signal handler's
                    raise
                self._may_have_pidfd = False
        return self._pidfd[0] if self._pidfd else -1

    def close(self) -> None:
        """Close what tells of the exit."""
        self._may_have_pidfd = False
        _close(self._pidfd, len(self._pidfd))

    def end(self) -> None:
        """Kill the child and reap it, if it is ours and runs."""
        self.close()
        if self.pid and self.returncode is None and self.owner == os.getpid():
            self.kill()
            self.wait()

    __del__ = end  # in place of Popen's, which leaves a zombie


_alive: WeakSet[Popen] = WeakSet()


@atexit.register
def _end_all() -> None:
    """End the children of handles that outlive the interpreter, in some module say."""
    for popen in list(_alive):
        popen.end()
