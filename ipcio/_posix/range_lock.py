"""Locks that the kernel releases when their owner ends: a lock on a byte of an open file.

They serve where robust mutexes do not (`ipcio._posix.robust`): objects that other users may write to, other C
libraries, other systems.  The state is the kernel's, and no address in the object is believed.

* **Between processes** the lock is one of the open file, on a description of the object that this process alone
  has.  A forked child opens its own and closes its copy, because a lock lasts until the last copy is closed.
  Where there are no such locks (macOS), it is a lock of the process on a file that is never closed, `.locks` in
  the directory of the user.  The number of the object's file, which no other file there has, says which byte.
* **Between threads** there is a lock of Python, so the owner is a thread.  A thread that ends and holds the
  lock releases it: an object that is local to the thread notices.
* **Whether the last owner ended** before it released the lock is seen in the object: the owner writes its process
  id there, and removes it before it releases the lock.

The object is read with ``pread`` and written with ``pwrite``, not through a map: a file that another user
cuts short is an error then, and not SIGBUS.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from _thread import _local, allocate_lock, get_ident  # threading's own, without importing threading
from itertools import repeat

from ipcio._forklock import fork_lock
from ipcio._light import WeakValueDictionary, partial
from ipcio._posix import filelock, forks, lending, own_file
from ipcio._posix.lending import LENT
from ipcio._record import calling, exhaust, in_turn
from ipcio._timeouts import now
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from ipcio._posix.own_file import OwnFile

SLOT = 64  # bytes of the object for one lock
_OWNER = struct.Struct("=II")  # process id and number of its pid namespace
_BORROWER_AT = 48  # in the slot, after that: a `lending.RECORD`
_NO_OWNER = bytes(_OWNER.size)
_LARGEST_PID = 1 << 31

_locks: WeakValueDictionary[tuple[int, int, int], RangeLock] = WeakValueDictionary()
_threads: Any = _local()


def lock_at(fd: int, path: str, offset: int, pid_namespace: Callable[[], int], name: str) -> RangeLock:
    """Return the lock at this offset of the object that is open as `fd`; a process has one of each.

    The object is opened again, by its descriptor or by `path`.  `pid_namespace` returns the number of that namespace.
    """
    with fork_lock:
        info = os.fstat(fd)
        key = info.st_dev, info.st_ino, offset
        found = _locks.get(key)
        if found is None:
            found = _locks[key] = RangeLock(own_file.of(fd, path, name), offset, pid_namespace)
        return found


class RangeLock:
    """A lock on a byte; see `ipcio._backend.parts.Lock` and, for the iterators, `ipcio._posix.robust.RobustLock`."""

    __slots__ = (
        "__weakref__",
        "_file",
        "_gate",
        "_is_abandoned",
        "_is_held",
        "_namespace",
        "_offset",
        "_owner",
        "_pid_namespace",
    )

    trying: Iterator[int] = repeat(errno.EBUSY)
    releasing: Iterator[int] = repeat(errno.EBUSY)  # not used: `notes` are never 0
    notes: Sequence[int] = (1,)

    def __init__(self, file: OwnFile, offset: int, pid_namespace: Callable[[], int]) -> None:
        self._file = file
        self._offset = offset
        self._pid_namespace = pid_namespace
        self.forget()

    def forget(self) -> None:
        """Be free in this process: a forked one owns nothing."""
        self._namespace = self._pid_namespace() & 0xFFFFFFFF
        self._gate = allocate_lock()
        self._owner = 0  # the thread that holds the gate
        self._is_held = self._is_abandoned = False

    # -- the protocol ------------------------------------------------------

    def acquire(self, seconds: float | None) -> int:  # noqa: C901 -- one step after another
        me = get_ident()
        forks.this_process()  # after a fork in C, that calls `forget`
        if self._owner == me:
            raise RuntimeError("this thread holds the lock already")
        end = None if seconds is None else now() + seconds
        gate, file = self._gate, self._file
        arrived = False
        written = 0
        abandoned = False
        try:
            for arrived in calling(gate.acquire, seconds != 0, seconds or -1):  # noqa: B007
                pass
            if not arrived:
                return 0
            self._owner = me
            fd = file.descriptor()
            left = seconds if end is None or not seconds else max(end - now(), 0)
            if filelock.wait(fd, self._request(filelock.EXCLUDE), left):
                abandoned = file.read(fd, self._offset, _OWNER.size) != _NO_OWNER
                borrower = self._borrower(fd)
                is_lent = bool(borrower.notes & LENT)
                if not is_lent or lending.wait(fd, file.first + self._offset + 1, borrower, end):
                    if is_lent:
                        os.pwrite(file.data(fd), bytes(SLOT), self._offset)
                        abandoned = False
                    owner = _OWNER.pack(os.getpid(), self._namespace)
                    for written in calling(os.pwrite, file.data(fd), owner, self._offset):  # noqa: B007
                        pass
                    held = _held_by_this_thread()
                    held.add(self)
                    result = 2 if abandoned else 1
                    self._is_abandoned = abandoned
                    self._is_held = True
                    return result
        except BaseException:
            if arrived:  # and the next owner learns what this one would have learnt
                self._let_go(gate, _held_by_this_thread(), is_done=bool(written) and not abandoned)
            raise
        try:
            self._let_go(gate, set(), is_done=False)
        except BaseException:
            if self._owner == me:  # a signal handler raised before anything was done
                self._let_go(gate, set(), is_done=False)
            raise
        return 0

    def acquire_after(self, _: int, seconds: float | None) -> int:
        return self.acquire(seconds)

    def undo(self, code: int) -> None:
        pass

    def give_back(self) -> None:
        self._let_go(self._gate, _held_by_this_thread(), is_done=not self._is_abandoned)

    def release(self) -> None:
        if not self.is_mine():
            raise RuntimeError("this thread does not hold the lock")
        self._let_go(self._gate, _held_by_this_thread(), is_done=True)

    def is_mine(self) -> bool:
        forks.this_process()
        return self._owner == get_ident() and self._is_held

    def is_abandoned(self) -> bool:
        return self._is_abandoned and self.is_mine()

    def is_held(self) -> bool:
        forks.this_process()
        return self._is_held or self._conflict() is not None or self._is_lent()

    def owner(self) -> int | None:
        forks.this_process()
        if self._is_held:
            return os.getpid()
        is_lent = self._is_lent()
        if not is_lent and self._conflict() is None:
            return None
        fd = self._file.descriptor()
        pid, space = _OWNER.unpack(self._file.read(fd, self._offset, _OWNER.size))
        if is_lent:
            pid = self._borrower(fd).pid
        return pid if 0 < pid < _LARGEST_PID and space == self._namespace else None

    # -- its end -----------------------------------------------------------

    def _let_go(self, gate: LockType, held: set[RangeLock], *, is_done: bool) -> None:
        """Release the lock, in one step; `is_done`: no owner is in the object then."""
        steps: list[partial[Any]] = []
        try:
            fd = self._file.descriptor()
            steps.append(partial(filelock.ask, fd, filelock.AT_ONCE, self._request(filelock.UNLOCK)))
            if is_done:
                steps.insert(0, partial(os.pwrite, self._file.data(fd), _NO_OWNER, self._offset))
        except OSError:  # the program has closed the descriptor, and that released the lock
            pass
        free: list[partial[Any]] = [
            partial(held.discard, self),
            partial(setattr, self, "_is_held", False),
            partial(setattr, self, "_owner", 0),
            partial(gate.release),
        ]
        try:
            exhaust(in_turn(steps))
        except OSError:  # of `pwrite`; the next owner finds that this one has not released it
            exhaust(in_turn(steps[-1:]))
        finally:
            exhaust(in_turn(free))

    def thread_ended(self, thread: int) -> None:
        """Release the lock as the kernel would: the next owner finds that this one has not released it."""
        if self._owner == thread and self._is_held:
            self._let_go(self._gate, set(), is_done=False)

    # -- programs that hold it ---------------------------------------------

    def lend(self) -> None:
        fd = self._file.descriptor()
        borrower = lending.lend(fd, self._file.first + self._offset + 1)
        os.pwrite(self._file.data(fd), lending.RECORD.pack(*borrower[:3]), self._offset + _BORROWER_AT)
        # The program inherits the description, and so would its children the lock.
        filelock.ask(fd, filelock.AT_ONCE, self._request(filelock.UNLOCK))

    def take_back(self) -> None:
        lending.take_back(self._file.descriptor(), self._file.first + self._offset + 1)
        self._let_go(self._gate, _held_by_this_thread(), is_done=False)

    def _borrower(self, fd: int) -> lending.Borrower:
        _, space = _OWNER.unpack(self._file.read(fd, self._offset, _OWNER.size))
        record = self._file.read(fd, self._offset + _BORROWER_AT, lending.RECORD.size)
        return lending.Borrower(*lending.RECORD.unpack(record))._replace(is_visible=space == self._namespace)

    def _is_lent(self) -> bool:
        """Whether a program runs to which it is lent."""
        fd = self._file.descriptor()
        borrower = self._borrower(fd)
        return bool(borrower.notes & LENT) and lending.is_running(fd, self._file.first + self._offset + 1, borrower)

    # -- the kernel's lock -------------------------------------------------

    def _conflict(self) -> object:
        return filelock.conflict(self._file.descriptor(), self._request(filelock.EXCLUDE))

    def _request(self, kind: int) -> bytes:
        return filelock.request(kind, self._file.first + self._offset, 1)


class _Thread:
    """A value that is local to a thread, and goes when the thread ends: it releases what the thread holds."""

    thread = 0

    def __init__(self, held: set[RangeLock]) -> None:
        self.held = held
        self.thread = get_ident()

    def __del__(self) -> None:
        # At the end of the interpreter nothing is released: the process may still run for a while.
        if self.thread and not sys.is_finalizing():
            for lock in self.held:
                lock.thread_ended(self.thread)


def _held_by_this_thread() -> set[RangeLock]:
    """Return the locks that this thread holds."""
    known: dict[str, Any] = _threads.__dict__
    if "it" not in known:
        known["it"] = _Thread(set())
    held: set[RangeLock] = known["it"].held
    return held


# -- in a forked child ---------------------------------------------------------


def _after_fork() -> None:
    for lock in list(_locks.values()):
        lock.forget()


forks.in_child.append(_after_fork)
