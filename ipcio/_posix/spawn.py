"""Starting a child, knowing it from every other process, and leaving nothing behind.

A process id says which process is meant only while that process has not been reaped: then the
kernel may give the number to another one, and the parent is not the only one that reaps (the
kernel does where SIGCHLD is ignored, and so may any other part of the program).  So a child is
known by a descriptor, which the kernel never lets mean another process (``pidfd_open(2)``).
Where the kernel has no such descriptors, it is asked right before each use of the number whether
that belongs to a child of this process that has not been reaped.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from _posixsubprocess import fork_exec

from ipcio._forklock import RLock, fork_lock
from ipcio._light import itemgetter, suppress
from ipcio._posix.exits import at_the_end
from ipcio._posix.pipes import inherited, is_still, open_pipe
from ipcio._posix.procfs import has_members
from ipcio._posix.start_arguments import candidates_for, explain, numbers_of, start_error, variables_in
from ipcio._record import calling, close_at, close_first, record
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_FIRST_PAUSE, _LAST_PAUSE = 0.0005, 0.02  # seconds between two looks for the exit, where it is no event
_MANY = 2000  # processes that may be looked at after the exit of a leader; more take too long

# What not every system has.
_waitid = getattr(os, "waitid", None)
_pidfd_send_signal = getattr(signal, "pidfd_send_signal", None)
_P_PID, _P_PIDFD = getattr(os, "P_PID", 1), getattr(os, "P_PIDFD", 3)
_LOOK = os.WNOHANG | getattr(os, "WEXITED", 0) | getattr(os, "WNOWAIT", 0)
_GROUP = 1 << 2  # PIDFD_SIGNAL_PROCESS_GROUP, of Linux 6.9


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
_HAS_GROUP, _HAS_VFORK = sys.version_info >= (3, 11), (3, 11) <= sys.version_info < (3, 15)  # its arguments
_COMMAS = 23 + _HAS_VFORK  # in its signature; before Python 3.12 it has none
_SHELL = "/system/bin/sh" if hasattr(sys, "getandroidapilevel") else "/bin/sh"
_STANDARD = 3  # the numbers of the standard streams are below
_REPORT = 4096  # bytes; a report of a failed start is much shorter


class Popen(subprocess.Popen[bytes]):
    """A child that is killed with its object, in the process that started it.

    All that is done to the child is done here: by its descriptor, or by its number
    under a lock and right after a look at whether the number is the child's.
    """

    _owner = 0  # the process that started it; 0 while the object is not complete

    # Whether `subprocess` is that of the standard library, and calls C as is known; gevent puts its own in place.
    _is_standard = (
        not _C_NAMES.isdisjoint(getattr(subprocess.Popen, "_execute_child").__code__.co_names)  # noqa: B009
        and (getattr(fork_exec, "__text_signature__", None) or "," * _COMMAS).count(",") == _COMMAS
    )

    def __init__(self) -> None:
        self.returncode: Any = None
        """How it ended, as soon as that has been seen."""
        self.is_status_lost = False
        """Whether it has ended and its status is gone."""
        self._start_fds: list[int] = []  # descriptors that are open during the start
        self._lock = RLock()  # a signal handler may kill, whatever it interrupts
        self._started: list[int] = []  # its process id
        self._pidfd: list[int] = []
        self._known: os.stat_result | None = None  # the identity of that descriptor
        self._is_identified = False  # whether that descriptor is the child's
        self._exits: list[Any] = []  # what the system has answered about its exit
        self._reaped: list[Any] = []  # the same from the call that reaps it, if another one asked before
        self._leads_group = False
        self._is_unreaped = False  # it has exited, and its number must stay that of its group
        self._has_killed_tree = False
        self._is_grace = False
        self.has_handle = False
        """Whether the caller of `ipcio.proc.spawn` decides what becomes of the descendants."""
        self._owner = os.getpid()
        inherited.add(self)

    # -- the start -------------------------------------------------------------

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
        self._leads_group = start_new_session or changes.get("process_group") == 0
        if self._is_standard:
            self._fork(command, streams, cwd, env, start_new_session=start_new_session, changes=changes)
            return
        stdin, stdout, stderr = streams
        super().__init__(
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
        *,
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
            -1 if stream is None else self._given(stream) if stream < 0 else stream for stream in streams
        ]
        if stderr == subprocess.STDOUT:
            stderr = 1 if stdout < 0 else stdout
        open_pipe(self._start_fds)
        reads, writes = self._start_fds[-2:]
        if writes < _STANDARD:  # the function of C requires another number
            with fork_lock:
                record(self._start_fds, fcntl.fcntl, writes, fcntl.F_DUPFD_CLOEXEC, _STANDARD)
            self._close_start_fd(writes)
            writes = self._start_fds[-1]
        pass_fds = changes.get("pass_fds")
        kept = tuple(sorted({*map(int, pass_fds), writes})) if pass_fds else (writes,)
        group = (changes.get("process_group", -1),)
        record(
            self._started,
            fork_exec,
            *(arguments, candidates, True, kept, cwd, variables),
            *(stdin, -1, -1, stdout, -1, stderr, reads, writes),
            *(True, start_new_session, *(group if _HAS_GROUP else ())),
            *(changes.get("group"), changes.get("extra_groups"), changes.get("user"), changes.get("umask", -1)),
            *((None, getattr(subprocess, "_USE_VFORK", True)) if _HAS_VFORK else (None,)),
        )
        self._identify()
        self.pid = self._started[0]
        self._close_start_fd(writes)
        report = b""
        while part := os.read(reads, _REPORT):
            report += part
        self._close_start_fds()
        if report:  # nothing else writes to it
            self._leads_group = False
            self.await_exit()
            raise start_error(report, program, cwd)

    def _given(self, stream: int) -> int:
        if stream != subprocess.DEVNULL:
            return stream
        record(self._start_fds, os.open, os.devnull, os.O_RDWR)
        return self._start_fds[-1]

    def _close_start_fd(self, fd: int) -> None:
        with fork_lock:
            close_at(os.close, self._start_fds, self._start_fds.index(fd))

    def _close_start_fds(self) -> None:
        with fork_lock:
            close_first(os.close, self._start_fds, len(self._start_fds))

    def _identify(self) -> None:
        """Open a descriptor of the child, if the system has such, and make sure that it is the child's."""
        pidfd_open = getattr(os, "pidfd_open", None)
        if pidfd_open is None or _waitid is None:
            return
        try:
            record(self._pidfd, pidfd_open, self._started[0])
            _waitid(_P_PIDFD, self._pidfd[0], _LOOK)
            self._known = os.fstat(self._pidfd[0])
            self._is_identified = True
        except (
            ChildProcessError,
            ProcessLookupError,
        ):  # other code has reaped it, and its number may be another's by now
            self.close()
            self.is_status_lost, self.returncode = True, 0
        except OSError as error:  # an old kernel, a sandbox, no descriptors left
            self.close()
            if error.errno is None:  # a signal handler's
                raise

    def started_here(self) -> bool:
        """Whether this very process started it; False in a process that was forked from that."""
        return self._owner == os.getpid()

    def check(self) -> None:
        """Leave the number of the descriptor alone from here on, if it means something else by now."""
        if self._known is not None and self._pidfd and not is_still(self._pidfd[0], self._known):
            self._is_identified = False
            self._pidfd.clear()

    @property
    def pidfd(self) -> int:
        """A descriptor that is readable after the exit, or -1."""
        return self._pidfd[0] if self._is_identified else -1

    @property
    def _which(self) -> tuple[int, int]:
        """The arguments of waitid that mean the child."""
        return (_P_PIDFD, self._pidfd[0]) if self._is_identified else (_P_PID, self._started[0])

    # -- signals ---------------------------------------------------------------

    def send(self, number: int, *, tree: bool = False, grace: bool = False) -> None:
        """Send a signal to the child if it has not ended, or to all of its group that is left.

        With `grace`, another signal is to follow: until then the number of the group is not given away.
        """
        with self._lock:
            self.check()
            self._is_grace = grace and tree
            if tree or self.returncode is None:
                self._send(number, tree=tree)
            if tree and number == signal.SIGKILL:
                self._has_killed_tree = True
                self._reap()

    def _send(self, number: int, *, tree: bool) -> None:
        if self._is_identified and _pidfd_send_signal is not None:
            try:
                _pidfd_send_signal(self._pidfd[0], number, None, _GROUP if tree else 0)
            except ProcessLookupError:
                return
            except OSError as error:
                if error.errno is None:  # a signal handler's
                    raise
            else:
                return
        if self._is_there(tree=tree):
            try:
                (os.killpg if tree else os.kill)(self._started[0], number)
            except ProcessLookupError:
                pass
            except PermissionError as error:
                error.strerror = "the child runs as another user, and this process may not signal it"
                error.filename = self._started[0]
                raise

    def _is_there(self, *, tree: bool) -> bool:
        """Whether its number is its own, or with `tree` its group's, at this moment."""
        if not self._started or (self.returncode is not None and not self._is_unreaped):
            return False
        if _waitid is None:
            self.look()  # which reaps it; then the number is still its group's, if there are others in it
            return self.returncode is None or (tree and not self.is_status_lost)
        try:
            _waitid(*self._which, _LOOK)
        except ChildProcessError:
            return False
        return True

    # -- the end ---------------------------------------------------------------

    def look(self) -> None:
        """See whether it has exited; reap it, unless its number is needed for others of its group."""
        with self._lock:
            if self.returncode is not None or (self._is_grace and _waitid is None):
                return
            code = self._ask()
            if code is None:
                return
            if self._leads_group and _waitid is not None and not self.is_status_lost:
                self._is_unreaped = True
                if self._has_killed_tree or not has_members(self._started[0], at_most=_MANY):
                    self._reap()
            self.returncode = code

    def _ask(self) -> int | None:
        """Ask how it ended.  The system answers only once, so the answer is recorded."""
        if not self._exits:
            try:
                if _waitid is None or not self._is_standard:
                    self._exits.extend(filter(itemgetter(0), calling(os.waitpid, self._started[0], os.WNOHANG)))
                else:
                    flags = _LOOK if self._leads_group else os.WEXITED | os.WNOHANG
                    self._exits.extend(filter(None, calling(_waitid, *self._which, flags)))
            except ChildProcessError:
                self.is_status_lost = True
                return 0
            if not self._exits:
                return None
        said = self._exits[0]
        if not hasattr(said, "si_status"):
            return os.waitstatus_to_exitcode(said[1])
        status: int = said.si_status
        return status if said.si_code == os.CLD_EXITED else -status

    def _reap(self) -> None:
        """Reap it, if it has exited and has not been reaped."""
        if self._is_unreaped and _waitid is not None:
            with suppress(ChildProcessError):
                if not self._reaped:
                    record(self._reaped, _waitid, *self._which, os.WEXITED | os.WNOHANG)
            self._is_unreaped = False

    def await_exit(self) -> None:
        """Wait for the exit."""
        if _waitid is not None:
            try:
                _waitid(*self._which, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:  # which `look` explains
                pass
        self.look()
        pause = _FIRST_PAUSE
        while self.returncode is None:
            time.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)
            self.look()

    def has_exited(self, *, tree: bool) -> bool:
        """Whether it has exited; with `tree`, all of its group, as far as that can be seen."""
        self.look()
        if self.returncode is None or not tree:
            return self.returncode is not None
        return not (self._is_unreaped or self.is_status_lost) or not has_members(self._started[0])

    def close_if_settled(self) -> None:
        """After its exit: close the descriptor, unless signals to its group may require it."""
        if not self._is_unreaped and not (self._leads_group and self.is_status_lost):
            self.close()

    def close(self) -> None:
        """Close the descriptor of the child."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        self.check()
        self._is_identified = False
        close_first(os.close, self._pidfd, len(self._pidfd))

    def close_copies(self) -> None:
        """Close all descriptors, without the lock, which a fork may have copied while it was held."""
        close_first(os.close, self._start_fds, len(self._start_fds))
        self._close()

    def kill_and_reap(self) -> None:
        """Kill the child, if it runs, and reap it."""
        if not self.started_here():
            return
        if self._started and self.returncode is None:
            self.send(signal.SIGKILL)
            self.await_exit()
        with self._lock:
            self._leads_group = False  # no more signals to its group
            self._reap()

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
            self._close_start_fds()
            self.close()

    __del__ = discard  # in place of Popen's, which leaves a zombie


def _end_all() -> None:
    # The children of handles that outlive the interpreter, as those in a module's global variables do.
    for each in list(inherited):
        if isinstance(each, Popen):
            each.discard()


at_the_end(_end_all)
