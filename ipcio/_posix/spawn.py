"""Starting a child so that nothing is left of it, by a failure, an interrupt at any moment or a dropped handle."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import threading
from _thread import allocate_lock, start_new_thread
from collections import deque
from functools import partial
from itertools import chain, repeat, starmap
from weakref import WeakSet

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

__all__ = ["Pipe", "Popen", "start"]


def start(
    command: str | Sequence[Any],
    streams: Sequence[int | None],
    cwd: Any,
    env: Mapping[Any, Any] | None,
    start_new_session: bool,  # noqa: FBT001
) -> tuple[Popen, list[Pipe | None]]:
    """Start a child whose streams are what `subprocess` takes; return it, and a pipe for each that is to be one."""
    before = _children()  # first, for if this fails there must be no pipes yet
    pipes = [Pipe(to_child=number == 0) if stream == subprocess.PIPE else None for number, stream in enumerate(streams)]
    stdin, stdout, stderr = (pipe.theirs if pipe else stream for pipe, stream in zip(pipes, streams, strict=True))
    make = partial(
        Popen,
        command,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        shell=isinstance(command, str),
        cwd=cwd,
        env=env,
        start_new_session=start_new_session,
    )
    try:
        # Ctrl-C, which the main thread notices as soon as the fork is over, comes before Popen knows of a child.
        can_be_disturbed = before is None and threading.current_thread() is threading.main_thread()
        popen = _undisturbed(make) if can_be_disturbed else make()
    except BaseException:
        for pid in map(int, set((_children() or b"").split()) - set((before or b"").split())):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        for pipe in filter(None, pipes):  # which the traceback would keep
            pipe.close()
        raise
    for pipe in filter(None, pipes):
        pipe.let_go()
    return popen, pipes


def _undisturbed(make: Callable[[], Popen]) -> Popen:
    """Call it in a thread of its own, where no signal handler runs; what it made ends if one raises here meanwhile."""
    made: list[Popen] = []
    failed: list[BaseException] = []
    started: list[int] = []
    unwanted: list[bool] = []
    ended: list[bool] = []
    running = allocate_lock()
    running.acquire()

    def run() -> None:
        try:
            made.append(make())
        except BaseException as error:  # noqa: BLE001 -- it is raised below
            failed.append(error)
        if unwanted:
            made.clear()
        running.release()

    try:
        try:
            started.extend(map(start_new_thread, (run,), ((),)))
        except RuntimeError:  # there can be no more threads, and Popen says whether there can be processes
            if started:
                raise
            return make()
        ended.extend(map(running.acquire, (True,)))
        if failed:
            raise failed.pop()
        return made.pop()
    except BaseException:
        unwanted.append(True)
        made.clear()
        if started and not ended:
            running.acquire()
        raise


def _children() -> bytes | None:
    """The children that this thread has, in decimal; None where the system does not tell."""
    try:
        with open("/proc/thread-self/children", "rb", 0) as file:
            return file.readall()
    except (FileNotFoundError, PermissionError):
        return None


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
        self._pidfd_open = getattr(os, "pidfd_open", None)
        _alive.add(self)
        super().__init__(*arguments, **options)

    @property
    def pidfd(self) -> int:
        """A descriptor that tells of the exit; -1 where the system has no such, and after the end."""
        pidfd_open = self._pidfd_open
        if pidfd_open is not None and not self._pidfd:
            try:
                self._pidfd.extend(map(pidfd_open, (self.pid,)))
            except OSError as error:  # an old kernel, or a sandbox
                if error.errno is None:  # a signal handler's
                    raise
                self._pidfd_open = None
        return self._pidfd[0] if self._pidfd else -1

    def close(self) -> None:
        """Close what tells of the exit, and open it no more."""
        self._pidfd_open = None
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
