"""A child, known from every other process: signals to it, its exit, its end.

A process id says which process is meant only while that process has not been reaped: then the
kernel may give the number to another one, and the parent is not the only one that reaps (the
kernel does where SIGCHLD is ignored, and so may any other part of the program).  So a child is
known by a descriptor, which the kernel never lets mean another process (``pidfd_open(2)``).
Where the kernel has no such descriptors, it is asked right before each use of the number whether
that belongs to a child of this process that has not been reaped.
"""

from __future__ import annotations

import os
import signal
import time

from ipcio._forklock import RLock
from ipcio._light import itemgetter, suppress
from ipcio._posix.pipes import identity, is_still
from ipcio._posix.procfs import has_members
from ipcio._record import calling, close_first, record
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_FIRST_PAUSE, _LAST_PAUSE = 0.0005, 0.02  # seconds between two looks for the exit, where it is no event
_MANY = 2000  # processes that may be looked at after the exit of a leader; more take too long

# What not every system has.
_waitid = getattr(os, "waitid", None)
_pidfd_send_signal = getattr(signal, "pidfd_send_signal", None)
_P_PID, _P_PIDFD = getattr(os, "P_PID", 1), getattr(os, "P_PIDFD", 3)
_LOOK = os.WNOHANG | getattr(os, "WEXITED", 0) | getattr(os, "WNOWAIT", 0)
_GROUP = 1 << 2  # PIDFD_SIGNAL_PROCESS_GROUP, of Linux 6.9


class KnownChild:
    """A child of the process that made this object.

    All that is done to the child is done here: by its descriptor, or by its number
    under a lock and right after a look at whether the number is the child's.
    """

    # Most children never change these; one that does has its own.
    _owner = 0  # the process that started it; 0 while the object is not complete
    returncode: Any = None
    """How it ended, as soon as that has been seen."""
    is_status_lost = False
    """Whether it has ended and its status is gone."""
    _answers_by_wait = False  # whether `waitpid` is asked how it ended
    _known: tuple[int, ...] | None = None  # the identity of its descriptor
    _is_identified = False  # whether that descriptor is the child's
    _leads_group = False
    _is_unreaped = False  # it has exited, and its number must stay that of its group
    _has_killed_tree = False
    _is_grace = False

    def __init__(self) -> None:
        self._lock = RLock()  # a signal handler may kill, whatever it interrupts
        self._started: list[int] = []  # its process id
        self._pidfd: list[int] = []
        self._exits: list[Any] = []  # what the system has answered about its exit
        self._reaped: list[Any] = []  # the same from the call that reaps it, if another one asked before
        self._owner = os.getpid()

    def _identify(self) -> None:
        """Open a descriptor of the child, if the system has such, and make sure that it is the child's."""
        pidfd_open = getattr(os, "pidfd_open", None)
        if pidfd_open is None or _waitid is None:
            return
        try:
            record(self._pidfd, pidfd_open, self._started[0])
            _waitid(_P_PIDFD, self._pidfd[0], _LOOK)
            self._known = identity(self._pidfd[0])
            self._is_identified = True
        except (ChildProcessError, ProcessLookupError):  # other code has reaped it; its number may be another's by now
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
    def has_descriptor(self) -> bool:
        """Whether a descriptor of it is open."""
        return bool(self._pidfd)

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

    def look(self, *, close: bool = False) -> None:
        """See whether it has exited; reap it, unless its number is needed for others of its group.

        With `close`, close its descriptor when it has been reaped.
        """
        with self._lock:
            if self.returncode is not None or (self._is_grace and _waitid is None):
                return
            has_asked = bool(self._exits)
            code = self._ask()
            if code is None:
                return
            if self._leads_group and _waitid is not None and not self.is_status_lost:
                self._is_unreaped = True
                if self._has_killed_tree or not has_members(self._started[0], at_most=_MANY):
                    self._reap()
            self.returncode = code
            if close and self._is_identified and not (has_asked or self._leads_group or self.is_status_lost):
                # The call that reaped it has just shown that the descriptor is the child's.
                self._is_identified = False
                close_first(os.close, self._pidfd, 1)

    def _ask(self) -> int | None:
        """Ask how it ended.  The system answers only once, so the answer is recorded."""
        if not self._exits:
            try:
                if _waitid is None or self._answers_by_wait:
                    self._exits.extend(filter(itemgetter(0), calling(os.waitpid, self._started[0], os.WNOHANG)))
                else:
                    flags = _LOOK if self._leads_group else os.WEXITED | os.WNOHANG
                    self._exits.extend(filter(None, calling(_waitid, *self._which, flags)))
            except ChildProcessError:
                if not self._exits:  # otherwise a signal handler has had the answer meanwhile
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

    def await_exit(self, *, close: bool = False) -> None:
        """Wait for the exit; `close` is as for `look`."""
        if _waitid is not None:
            try:
                _waitid(*self._which, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:  # which `look` explains
                pass
        self.look(close=close)
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
