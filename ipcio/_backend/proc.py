"""What `proc` of a back end owes."""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ipcio._child_input import Input
    from ipcio._child_output import Output


class Child(Protocol):
    """A child process that was started, with the pipes to it."""

    @property
    def pid(self) -> int:
        """The process id."""
        ...

    @property
    def returncode(self) -> int | None:
        """The exit code, or a signal as a negative number; None while it runs or its pipes may hold more.

        `ChildProcessError` if the status was taken by other code of the program.
        """
        ...

    def pump(self, timeout: float | None, /) -> bool:
        """Wait until something can be done, and do it: read, write, see the exit; False if there was nothing.

        May return early.  Reads a limited amount, and after the exit what the pipes hold.
        """
        ...

    @property
    def retry_after(self) -> float | None:
        """Seconds after which `pump` is to be called again because a file was not ready; None if no file is waited for.

        `pump` returns by then.  Output that its consumer has refused stays in the pipe meanwhile.
        """
        ...

    def input_queued(self) -> None:
        """Send what has been queued for standard input since, also if another thread is in `pump`."""
        ...

    def readiness_fd(self) -> int:
        """Return a new descriptor that is readable when `pump` has something to do; -1 if the system has none.

        Then call `pump` every few milliseconds.
        """
        ...

    def close_readiness_fd(self, fd: int, /) -> None:
        """Close such a descriptor."""
        ...

    def started_here(self) -> bool:
        """Whether this very process started it; False in a process that was forked from that."""
        ...

    def kill(self, number: int, *, tree: bool, grace: bool = False) -> None:
        """Send a signal, unless it has exited; with `tree`, to all of its process group that is left.

        With `grace`, another `kill` of the same kind is to follow soon, and must reach what is left then.
        """
        ...

    def has_exited(self, *, tree: bool) -> bool:
        """Whether it has exited; with `tree`, all of its process group.  False if that cannot be known."""
        ...

    def kill_and_reap(self) -> int:
        """Kill it if it runs, reap it, and return what it ended with, as `returncode` does.

        Closes nothing, and may be called while this thread is in any other method.
        """
        ...

    def close(self) -> None:
        """Kill it if it runs, reap it, close everything, and discard what the pipes hold."""
        ...


class ProcBackend(Protocol):
    """Child processes."""

    def start(
        self,
        command: Any,
        streams: Sequence[int | None],
        cwd: Any,
        env: Any,
        *,
        start_new_session: bool,
        posix: dict[str, Any],
        stdin: Input | None,
        outputs: Sequence[Output | None],
    ) -> Child:
        """Start a child.

        `posix` are those of the arguments of `subprocess.Popen` for POSIX systems that the caller has given;
        `NotImplementedError` for one that this system lacks.

        `streams` are what `subprocess.Popen` requires for standard input, output and error.  Where one
        is `subprocess.PIPE`, `stdin` or the item of `outputs` is what flows through the pipe.
        """
        ...
