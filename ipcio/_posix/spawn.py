"""Starting a child: it runs, or nothing is left of it, whatever interrupts the start."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from _posixsubprocess import fork_exec

from ipcio._forklock import fork_lock
from ipcio._light import suppress
from ipcio._posix.exits import at_the_end
from ipcio._posix.known_child import KnownChild
from ipcio._posix.pipes import inherited, open_pipe
from ipcio._posix.start_arguments import candidates_for, explain, numbers_of, start_error, variables_in
from ipcio._record import close_at, close_first, finish, record
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


def start_popen(
    command: str | Sequence[Any],
    cwd: Any,
    env: Mapping[Any, Any] | None,
    streams: Sequence[int | None],
    *,
    start_new_session: bool,
    posix: Mapping[str, Any],
) -> Popen:
    """Start a child with these standard streams; after an error no child is left."""
    if sys.version_info < (3, 11) and "process_group" in posix:
        raise NotImplementedError("process_group= requires Python 3.11 or later: pass start_new_session=True")
    changes = numbers_of(posix) if posix else posix
    popen = Popen()
    try:
        popen.start(command, streams, cwd, env, start_new_session=start_new_session, changes=changes)
    except BaseException as error:
        popen.discard()  # the traceback would keep it
        if isinstance(error, OSError) and error.filename in (None, cwd):
            explain(error, command, posix)
        raise
    return popen


# The module in C, or its function, by the version of Python.  A replacement of `subprocess` uses neither.
_C_NAMES = {"_fork_exec", "_posixsubprocess"}
_SIGNATURE = getattr(fork_exec, "__text_signature__", None)  # before Python 3.12 it has none
_HAS_GROUP = sys.version_info >= (3, 11)  # among its arguments
_HAS_VFORK = "allow_vfork" in _SIGNATURE if _SIGNATURE else _HAS_GROUP  # the last one, until some 3.14
_COMMAS = 23 + _HAS_VFORK
_UNCHANGED: tuple[Any, ...] = (*([-1] if _HAS_GROUP else []), None, None, None, -1)  # process group to umask
_SHELL = "/system/bin/sh" if hasattr(sys, "getandroidapilevel") else "/bin/sh"
_STANDARD = 3  # the numbers of the standard streams are below
_REPORT = 4096  # bytes; a report of a failed start is much shorter


class Popen(KnownChild, subprocess.Popen[bytes]):
    """A child that is killed with its object, in the process that started it."""

    has_handle = False
    """Whether the caller of `ipcio.proc.spawn` decides what becomes of the descendants."""

    # Whether `subprocess` is that of the standard library, and calls C as is known; gevent puts its own in place.
    _is_standard = (
        not _C_NAMES.isdisjoint(getattr(subprocess.Popen, "_execute_child").__code__.co_names)  # noqa: B009
        and (_SIGNATURE or "," * _COMMAS).count(",") == _COMMAS
    )
    if not _is_standard:
        _answers_by_wait = True

    def __init__(self) -> None:
        self._start_fds: list[int] = []  # descriptors that are open during the start
        super().__init__()
        inherited.add(self)

    def start(
        self,
        command: str | Sequence[Any],
        streams: Sequence[int | None],
        cwd: Any,
        env: Mapping[Any, Any] | None,
        *,
        start_new_session: bool,
        changes: Mapping[str, Any],
    ) -> None:
        """Start it.  If this raises, `discard` ends what has begun."""
        if start_new_session or changes.get("process_group") == 0:
            self._leads_group = True
        if self._is_standard:
            self._fork(command, streams, cwd, env, start_new_session, changes)
            return
        stdin, stdout, stderr = streams
        super(KnownChild, self).__init__(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            shell=isinstance(command, str),
            cwd=cwd,
            env=env,
            start_new_session=start_new_session,
            **changes,
        )
        self._started.append(self.pid)
        self._identify()

    def _fork(
        self,
        command: str | Sequence[Any],
        streams: Sequence[int | None],
        cwd: Any,
        env: Mapping[Any, Any] | None,
        start_new_session: bool,
        changes: Mapping[str, Any],
    ) -> None:
        # A signal handler may raise between the fork, or the making of a pipe, and the assignment by which `subprocess`
        # stores the result.  So this does what `subprocess.Popen` does, by the same function of C, and records both.
        self.args = command
        arguments: Sequence[Any] = [_SHELL, "-c", command] if isinstance(command, str) else command
        program = arguments[0]
        sys.audit("subprocess.Popen", program, arguments, cwd, env)
        candidates = candidates_for(os.fsencode(program), env)
        variables = None if env is None else variables_in(env)
        stdin, stdout, stderr = [
            -1 if stream is None else stream if stream >= 0 else self._given(stream) for stream in streams
        ]
        if stderr == subprocess.STDOUT:
            stderr = 1 if stdout < 0 else stdout
        start_fds = self._start_fds
        open_pipe(start_fds)
        reads, writes = start_fds[-2:]
        if writes < _STANDARD:  # the function of C requires another number
            with fork_lock:
                record(start_fds, fcntl.fcntl, writes, fcntl.F_DUPFD_CLOEXEC, _STANDARD)
                close_at(os.close, start_fds, -2)
            writes = start_fds[-1]
        kept: tuple[int, ...] = (writes,)
        changed = _UNCHANGED
        if changes:
            kept = tuple(sorted({*map(int, changes.get("pass_fds", ())), writes}))
            group = (changes.get("process_group", -1),) if _HAS_GROUP else ()
            changed = *group, *map(changes.get, ("group", "extra_groups", "user")), changes.get("umask", -1)
        use_vfork = (getattr(subprocess, "_USE_VFORK", True),) if _HAS_VFORK else ()
        record(
            self._started,
            fork_exec,
            *(arguments, candidates, True, kept, cwd, variables),
            *(stdin, -1, -1, stdout, -1, stderr, reads, writes, True, start_new_session),
            *(*changed, None, *use_vfork),
        )
        self._identify()
        self.pid = self._started[0]
        with fork_lock:
            close_at(os.close, start_fds, -1)
        report = b""
        while part := os.read(reads, _REPORT):
            report += part
        with fork_lock:
            close_first(os.close, start_fds, len(start_fds))
        if report:  # nothing else writes to it
            self._leads_group = False
            self.await_exit()
            raise start_error(report, program, cwd)

    def _given(self, stream: int) -> int:
        if stream != subprocess.DEVNULL:
            return stream
        record(self._start_fds, os.open, os.devnull, os.O_RDWR)
        return self._start_fds[-1]

    def close_copies(self) -> None:
        """Close all descriptors, without the lock, which a fork may have copied while it was held."""
        close_first(os.close, self._start_fds, len(self._start_fds))
        self._close()

    def discard(self) -> None:
        """Kill it, reap it, and close all its descriptors.

        A child that still has the rights that this process has given up cannot be killed.  It sees
        the end of its pipes.  If an interrupt prevents that the caller gets a handle, the whole group is
        killed, if it is the child's own.
        """
        if not self._owner or not (self.returncode is None or self._is_unreaped or self._pidfd or self._start_fds):
            return
        if self.started_here():
            with suppress(PermissionError):
                if self._started and self._leads_group and not self.has_handle:
                    self.send(signal.SIGKILL, tree=True)
                self.kill_and_reap()
            with fork_lock:
                close_first(os.close, self._start_fds, len(self._start_fds))
            self.close()

    def __del__(self) -> None:  # in place of Popen's, which leaves a zombie
        finish(self.discard)


def _end_all() -> None:
    # The children of handles that outlive the interpreter, as those in a module's global variables do.
    for each in list(inherited):
        if isinstance(each, Popen):
            each.discard()


at_the_end(_end_all)
