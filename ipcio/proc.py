r"""Child processes: all of their output is delivered, and reading it cannot deadlock.

::

    from ipcio import proc

    with proc.spawn(["sort"], stdin=True, stdout=True, encoding="utf-8", lines=True) as h:
        h.write("b\n", "a\n", proc.EOF)
        for stream, line in h:
            print(stream, line, end="")
    print(h.wait())

Output goes to a callback, to any file object, or to a loop over the handle; input comes from
`Process.write` or any file object.  Input and output of any size are passed on at the same time,
so neither side can deadlock.  `Process.wait` returns when the *child* has exited and all that
it wrote has been delivered, even if a grandchild keeps its pipes open.

The calling program is left alone: its signal handlers, its event loop and its other children.

Linux, macOS, Windows; the page :doc:`/platforms` lists the differences.  (LuaIPC: ``ipc.proc``;
Python: `subprocess`.)
"""

from __future__ import annotations

import sys

from ipcio._light import cache
from ipcio._output_format import OutputFormat
from ipcio._process import Process
from ipcio._process_base import EOF, ExitStatus
from ipcio._run import Completed, TimeoutExpired, run_to_end
from ipcio._typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from typing_extensions import Buffer

    from ipcio._backend.proc import ProcBackend
    from ipcio._child_input import Input
    from ipcio._child_output import Output

    _RedirectInput = Callable[[Any, str | None, str], tuple[int | None, Input | None]]
    _RedirectOutput = Callable[
        [str, Any, OutputFormat, str | None, str],
        tuple[int | None, Output | None, Callable[[Any], object] | None],
    ]
    _Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
    _Command = str | Sequence[_Path]

_BYTES = OutputFormat()
_ALL_BITS = 0o777  # of a umask

__all__ = ["EOF", "Completed", "ExitStatus", "Process", "TimeoutExpired", "run", "spawn"]


@overload
def spawn(
    cmd: _Command,
    *,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    callback: Callable[[str, bytes], object] | None = None,
    encoding: None = None,
    errors: str = "strict",
    lines: bool = False,
    cwd: _Path | None = None,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    start_new_session: bool = False,
    process_group: int | None = None,
    user: str | int | None = None,
    group: str | int | None = None,
    extra_groups: Iterable[str | int] | None = None,
    umask: int = -1,
    pass_fds: Iterable[int] = (),
) -> Process[bytes]: ...


@overload
def spawn(
    cmd: _Command,
    *,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    callback: Callable[[str, str], object] | None = None,
    encoding: str,
    errors: str = "strict",
    lines: bool = False,
    cwd: _Path | None = None,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    start_new_session: bool = False,
    process_group: int | None = None,
    user: str | int | None = None,
    group: str | int | None = None,
    extra_groups: Iterable[str | int] | None = None,
    umask: int = -1,
    pass_fds: Iterable[int] = (),
) -> Process[str]: ...


def spawn(
    cmd: _Command,
    *,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    callback: Callable[[str, Any], object] | None = None,
    encoding: str | None = None,
    errors: str = "strict",
    lines: bool = False,
    cwd: _Path | None = None,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    start_new_session: bool = False,
    process_group: int | None = None,
    user: str | int | None = None,
    group: str | int | None = None,
    extra_groups: Iterable[str | int] | None = None,
    umask: int = -1,
    pass_fds: Iterable[int] = (),
) -> Process[Any]:
    r"""Start a program and return its handle.

    cmd
        A string is for the shell; a sequence is a program and its arguments, without one.
    stdin, stdout, stderr
        True for a pipe to this program, None or False for the stream that this program
        has itself, a descriptor, a file object, `subprocess.DEVNULL`, and for stderr
        `subprocess.STDOUT`.  The child gets the descriptor of a file object, at its
        position, and continues from there.  A file object without one (`io.BytesIO`,
        `io.StringIO`), and a `MemoryFile`, is read and written here, while the program waits.
    callback
        Called with ``"stdout"`` or ``"stderr"`` and data from the pipe, while the program
        waits.  Without a callback, iterate over the handle.
    encoding, errors
        Decode output, and allow text in `Process.write`.
    lines
        Give whole lines, which end with ``\n`` and keep it; a last one may lack it.
    cwd, env, start_new_session
        As for `subprocess.Popen`.
    process_group, user, group, extra_groups, umask, pass_fds
        As for `subprocess.Popen`, on POSIX systems; Windows raises `NotImplementedError` for
        each of them, and Python 3.10 for `process_group`.  The child makes these changes to itself
        before the program starts, so other threads of the caller notice nothing.  `user`, `group` and
        `extra_groups` require root.  ``process_group=0`` makes a group that ``kill(tree=True)``
        reaches, as a session does.

    Raises `OSError` if the program cannot be started (its ``filename`` says whether
    the program or `cwd` is the reason), `ValueError` or `TypeError` for a malformed
    argument or a closed file, `ValueError` for a callback, an encoding or lines where
    no stream goes through a pipe and for `process_group` with `start_new_session`, `LookupError` for
    an encoding that Python does not know, or a user or group that the system does not know,
    `PermissionError` for a user, a group or a process group that the caller may not choose,
    `io.UnsupportedOperation` for a file that is not open for that; then nothing is left
    behind.
    """
    command = cmd if isinstance(cmd, str) else list(cmd)
    if command == []:
        raise ValueError("cmd must name a program")
    if callback is not None and not callable(callback):
        raise TypeError("the callback must be callable")
    if env is not None and not hasattr(env, "items"):
        raise TypeError(f"env must be a mapping, not {type(env).__name__!r}")
    if process_group is not None and start_new_session:
        raise ValueError("start_new_session=True makes a process group already: pass process_group= without it")
    pass_fds = tuple(pass_fds)
    posix: dict[str, Any] = {}
    if pass_fds or umask != -1 or not (process_group is user is group is extra_groups is None):
        posix = _changes(process_group, user, group, extra_groups, umask, pass_fds)
    form = _BYTES if encoding is None and not lines else OutputFormat(encoding, errors, lines=lines)
    redirect_input, redirect_output, backend = _parts()
    child_in, source = redirect_input(stdin, encoding, errors)
    child_out, output, sink = redirect_output("stdout", stdout, form, encoding, errors)
    child_err, output_too, sink_too = redirect_output("stderr", stderr, form, encoding, errors)
    if source is None and output is None and output_too is None:
        if callback is not None or lines:
            name = "lines" if callback is None else "callback"
            raise ValueError(f"{name}= has no effect without a pipe: pass stdout=True or stderr=True to spawn()")
        if encoding is not None:
            raise ValueError(
                "encoding= has no effect without a pipe: pass stdin=True, stdout=True or stderr=True to spawn()"
            )
    child = backend.start(
        command,
        (child_in, child_out, child_err),
        cwd,
        env,
        start_new_session=start_new_session,
        posix=posix,
        stdin=source,
        outputs=(output, output_too),
    )
    ends = [] if output is None else [(output, sink)]
    if output_too is not None:
        ends.append((output_too, sink_too))
    queue = source if source is not None and source.is_queue else None
    return Process(child, queue, ends, callback, leads_group=start_new_session or process_group == 0)


@overload
def run(
    cmd: _Command,
    *,
    input: Buffer | None = None,
    timeout: float | None = None,
    check: bool = False,
    stdin: Any = ...,
    stdout: Any = ...,
    stderr: Any = ...,
    callback: Callable[[str, bytes], object] | None = None,
    encoding: None = None,
    errors: str = "strict",
    lines: bool = False,
    cwd: _Path | None = None,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    start_new_session: bool = True,
    process_group: int | None = None,
    user: str | int | None = None,
    group: str | int | None = None,
    extra_groups: Iterable[str | int] | None = None,
    umask: int = -1,
    pass_fds: Iterable[int] = (),
) -> Completed[bytes]: ...


@overload
def run(
    cmd: _Command,
    *,
    input: Buffer | str | None = None,
    timeout: float | None = None,
    check: bool = False,
    stdin: Any = ...,
    stdout: Any = ...,
    stderr: Any = ...,
    callback: Callable[[str, str], object] | None = None,
    encoding: str,
    errors: str = "strict",
    lines: bool = False,
    cwd: _Path | None = None,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    start_new_session: bool = True,
    process_group: int | None = None,
    user: str | int | None = None,
    group: str | int | None = None,
    extra_groups: Iterable[str | int] | None = None,
    umask: int = -1,
    pass_fds: Iterable[int] = (),
) -> Completed[str]: ...


def run(
    cmd: _Command,
    *,
    input: Any = None,  # noqa: A002 -- as `subprocess.run` has it
    timeout: float | None = None,
    check: bool = False,
    **as_spawn: Any,
) -> Completed[Any]:
    """Run a program to its end and return its status and what it wrote.

    cmd, and all that is not named here
        As for `spawn`.  Standard output and standard error are captured, unless they are
        given.  A `callback` gets each piece as it comes, too.
    input
        What the program reads from standard input, which otherwise is empty.  Bytes, or with
        an `encoding` text.
    timeout
        Seconds after which the program and its descendants are killed and `TimeoutExpired` is
        raised, a `TimeoutError`; its attributes `stdout` and `stderr` are what was written
        until then; a `callback` is not called any more.  None or negative waits for ever.
    check
        Raise `subprocess.CalledProcessError` if the program does not exit with 0.

    The program runs in a session of its own, so that it can be killed together with its
    descendants, also when an exception such as Ctrl-C ends the call.  ``process_group=0`` gives
    it a process group of its own instead.  ``start_new_session=False``, or another `process_group`,
    leaves it in the caller's session, and then only the program itself is killed.

    Raises what `spawn` and `Process.wait` raise, and `ValueError` for `input` with `stdin` and for a
    `callback` that is a coroutine function.
    """
    return run_to_end(spawn, cmd, input, timeout, check, as_spawn)


def _changes(
    process_group: int | None,
    user: str | int | None,
    group: str | int | None,
    extra_groups: Iterable[str | int] | None,
    umask: int,
    pass_fds: Sequence[int],
) -> dict[str, Any]:
    """Check what a child changes before the program starts, and return it without what stays as it is."""
    if process_group is not None and process_group < 0:
        raise ValueError(f"process_group must be 0 for a new group, or the number of one, not {process_group!r}")
    if umask != -1 and not 0 <= umask <= _ALL_BITS:
        raise ValueError(f"umask must be between 0 and 0o777, or -1 for that of the caller, not {umask!r}")
    if isinstance(extra_groups, str):  # as `subprocess`
        raise ValueError(f"extra_groups must be a list, such as [{extra_groups!r}], not a str")  # noqa: TRY004
    if any(fd < 0 for fd in pass_fds):
        raise ValueError(f"pass_fds must be open descriptors, which are never negative, not {pass_fds!r}")
    changes = (
        ("process_group", process_group, None),
        ("user", user, None),
        ("group", group, None),
        ("extra_groups", None if extra_groups is None else list(extra_groups), None),
        ("umask", umask, -1),
        ("pass_fds", pass_fds, ()),
    )
    return {name: value for name, value, default in changes if value != default}


@cache
def _parts() -> tuple[_RedirectInput, _RedirectOutput, ProcBackend]:
    # Not before the first start, for `subprocess`, on which all of them rest, takes longer to import than all of ipcio.
    from ipcio._stdio import redirect_input, redirect_output

    if sys.platform == "win32":
        from ipcio._windows import proc
    else:
        from ipcio._posix import proc
    return redirect_input, redirect_output, proc


def __dir__() -> list[str]:
    return __all__
