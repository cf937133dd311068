"""A child process from its start to its end in one call: what `ipcio.proc.run` does."""

from __future__ import annotations

import errno

from ipcio._process_base import EOF
from ipcio._typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
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

    stdout: Any
    stderr: Any


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
    pieces: dict[str, list[Any]] = {name: [] for name in ("stdout", "stderr") if options[name] is True}
    callback = options.pop("callback", None)
    if pieces and (callback is None or callable(callback)):
        options["callback"] = _collector(pieces, callback)
    elif callback is not None:
        options["callback"] = callback  # an error of `spawn`
    is_text = options.get("encoding") is not None
    output = {name: lambda name=name: ("" if is_text else b"").join(pieces[name]) for name in pieces}
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
            while child.wait(_A_MOMENT) is None and not child._only_waits_for_files():
                pass
            error = TimeoutExpired(
                errno.ETIMEDOUT, f"the program was killed: it ran longer than {timeout} seconds", command
            )
            error.stdout, error.stderr = (output[name]() if name in output else None for name in ("stdout", "stderr"))
            raise error
    stdout, stderr = (output[name]() if name in output else None for name in ("stdout", "stderr"))
    if check and not status.ok:
        code = -status.code if status.kind == "signal" else status.code
        raise subprocess.CalledProcessError(code, command, stdout, stderr)
    return Completed(status, stdout, stderr)


def _collector(
    pieces: dict[str, list[Any]], callback: Callable[[str, Any], object] | None
) -> Callable[[str, Any], object]:
    def collect(stream: str, data: Any) -> object:
        pieces[stream].append(data)
        return None if callback is None else callback(stream, data)

    return collect


def _end(child: Process[Any], options: dict[str, Any]) -> None:
    """Kill the child, and its descendants if it has a session or a process group of its own."""
    child.kill("kill", tree=bool(options["start_new_session"]) or options.get("process_group") == 0)
