"""A child process from its start to its end in one call: what `ipcio.proc.run` does."""

from __future__ import annotations

import errno

from ipcio._delivery import is_coroutine_function
from ipcio._process_base import EOF
from ipcio._typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from ipcio._process import Process
    from ipcio._process_base import ExitStatus

_A_MOMENT = 0.1  # seconds

_Output = TypeVar("_Output")


class Completed(NamedTuple, Generic[_Output]):
    """What a child did from its start to its end.  True only if it exited with 0."""

    status: ExitStatus
    """How it ended."""
    stdout: _Output
    """What it wrote to standard output; None if that was given to `run`."""
    stderr: _Output
    """The same for standard error."""

    def __bool__(self) -> bool:
        return self.status.ok


class TimeoutExpired(TimeoutError):  # noqa: N818 -- as `subprocess` has it
    """The time of `ipcio.proc.run` was up; `stdout` and `stderr` are what the child had written until then."""

    _pieces: Mapping[str, list[Any]] = {}

    @property
    def stdout(self) -> Any:
        """What the child had written to standard output; None if that was given to `run`."""
        return self._joined("stdout")

    @property
    def stderr(self) -> Any:
        """The same for standard error."""
        return self._joined("stderr")

    def _joined(self, name: str) -> Any:
        # Not before it is asked for: to copy a gigabyte takes a second, and the time of the caller is up.
        if (pieces := self._pieces.get(name)) is None:
            return None
        pieces[:] = [_join(pieces)]
        return pieces[0]


def run_to_end(
    spawn: Callable[..., Process[Any]],
    command: Any,
    data: Any,
    timeout: float | None,
    check: bool,
    options: dict[str, Any],
) -> Completed[Any]:
    """Start the child, pass everything on, wait, and return what it did."""
    if data is not None and "stdin" in options:
        raise ValueError("input= and stdin= exclude each other: input is what standard input reads")
    import subprocess

    session = options.get("process_group") is None
    options = {"stdout": True, "stderr": True, "start_new_session": session, **options}
    options.setdefault("stdin", True if data is not None else subprocess.DEVNULL)
    pieces, callbacks = _capture(options)
    with spawn(command, **options) as child:
        try:
            if data is not None:
                child.write(data, EOF)
            status = child.wait(timeout)
        except BaseException:
            _end(child, options)
            raise
        if status is None:
            _end(child, options)
            callbacks.clear()  # the caller's may take long for each piece, and its time is up
            child._delivery.give_no_lines()
            while child.wait(_A_MOMENT) is None and not child._only_waits_for_files():
                pass
            error = TimeoutExpired(
                errno.ETIMEDOUT, f"the program was killed: it ran longer than {timeout} seconds", command
            )
            error._pieces = pieces
            raise error
    stdout, stderr = (_join(pieces[name]) if name in pieces else None for name in ("stdout", "stderr"))
    if check and not status.ok:
        code = -status.code if status.kind == "signal" else status.code
        raise subprocess.CalledProcessError(code, command, stdout, stderr)
    return Completed(status, stdout, stderr)


def _capture(options: dict[str, Any]) -> tuple[dict[str, list[Any]], list[Any]]:
    """Have the output captured in the lists that are returned; then the second one is what is also called with it."""
    empty: Any = b"" if options.get("encoding") is None else ""
    pieces: dict[str, list[Any]] = {name: [empty] for name in ("stdout", "stderr") if options[name] is True}
    callback = options.get("callback")
    if is_coroutine_function(callback):
        raise ValueError("run() cannot await the callback: use spawn(), and `await process.wait_async()`")
    if not pieces or not (callback is None or callable(callback)):
        return pieces, []  # an error of `spawn`, if there is a callback
    if callback is None:
        options.pop("lines", None)  # nothing sees the pieces
    callbacks = [] if callback is None else [callback]

    def collect(stream: str, data: Any) -> None:
        pieces[stream].append(data)
        for each in callbacks:
            each(stream, data)

    options["callback"] = collect
    return pieces, callbacks


def _join(pieces: list[Any]) -> Any:
    """Join pieces of bytes, or of text; there is at least one."""
    return pieces[0][:0].join(pieces)


def _end(child: Process[Any], options: dict[str, Any]) -> None:
    """Kill the child, and its descendants if it has a session or a process group of its own."""
    child.kill("kill", tree=bool(options["start_new_session"]) or options.get("process_group") == 0)
