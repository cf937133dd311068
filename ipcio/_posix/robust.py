"""Locks that the kernel releases when their owner ends: robust mutexes of the C library, in shared memory.

A robust ``pthread_mutex_t`` belongs to a thread, and the kernel knows where the mutexes are that a thread
holds.  When the thread ends, in whatever way, or its process calls ``exec``, the kernel marks them and
wakes one waiter, which learns of it (``EOWNERDEAD``).

**Where they may be used.**  The list of a thread's mutexes consists of pointers that are in the mutexes
themselves, and the C library writes through them.  So a user that can write to a mutex can
make other processes write anywhere in their own memory.  The caller makes sure that no user but this one
(and root) can write to the object.  Other objects use `ipcio._posix.range_lock`.

**Which C libraries.**  Those that keep the thread id in the first word of a mutex, as glibc does.
`ipcio._posix.pthread_mutex` tests that in private memory, and also what the kernel does when a thread ends.

**A hole of the kernel.**  If a thread other than the main thread calls ``exec``, the kernel first gives
it the id of the main thread, and then does not recognise its mutexes: they stay locked by a thread id
that does not exist.  So a caller that waits looks for the owner, and does what the kernel has not done.

Importing this imports `ctypes`.
"""

from __future__ import annotations

import ctypes
import errno
import os
from _thread import get_native_id
from itertools import repeat, starmap

from ipcio._light import WeakSet, contextmanager
from ipcio._posix import filelock, forks, lending, libc, pthread_mutex, thread_ids
from ipcio._posix.futex import futex_number
from ipcio._posix.lending import LENT
from ipcio._posix.own_file import open_again
from ipcio._posix.pthread_mutex import TID
from ipcio._record import calling
from ipcio._timeouts import now
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any

_NOTES = 12  # index of a word after the mutex, which only the owner changes; see `RobustLock.notes`
_SLICE = 0.1  # seconds of one wait: C restarts it after a signal, and Python runs the handler when it is over

_OWNER_DIED = 0x40000000  # in the first word; <linux/futex.h>
_ACQUIRED, _BUSY = {0, errno.EOWNERDEAD}, {errno.EBUSY, errno.ETIMEDOUT}

ABANDONED = 1  # in `RobustLock.notes`
_GIVEN_BACK = 4  # there, too

_futex = futex_number()
_WAKE_OP = 5
_SET_OWNER_DIED = ctypes.c_uint32((8 | 1) << 28 | 30 << 12)  # or with 1 << 30; and the comparison is never true


class RobustLock:
    """A mutex in the memory of an object; see `ipcio._backend.parts.Lock`."""

    __slots__ = (
        "__weakref__",
        "_address",
        "_borrowed",
        "_fd",
        "_info",
        "_is_refused",
        "_lent",
        "_memory",
        "_name",
        "_namespace",
        "_path",
        "_pid_namespace",
        "_words",
        "notes",
        "releasing",
        "trying",
    )

    trying: Iterator[int]
    releasing: Iterator[int]
    notes: Any
    """Bits of a word that only the owner changes.

    `ABANDONED`: the owner before this one has ended.  The bit stays when `releasing` has released the mutex, and the
    next owner clears it.  With `_GIVEN_BACK`, it is meant for the next owner.  `LENT`: it is lent to a program.
    """

    def __init__(self, fd: int, path: str, offset: int, pid_namespace: Callable[[], int], name: str) -> None:
        """Use the mutex at this offset of the object that is open, to read and write, as `fd`.

        Its first contents are those of `ipcio._posix.pthread_mutex.blank`.  The descriptor, or else the `path` of
        the object, is needed later only after an ``exec`` by a thread that holds the mutex.
        """
        self._memory = pthread_mutex.Memory(fd, offset)
        self._words = self._memory.words()
        self._address = ctypes.byref(self._words)  # of all objects that mean an address, C gets this one soonest
        self._is_refused = False
        self._fd, self._path, self._info = fd, path, os.fstat(fd)
        self._name = name
        self._pid_namespace, self._namespace = pid_namespace, pid_namespace()
        self.notes = memoryview(self._words).cast("B").cast("I")[_NOTES : _NOTES + 1]
        arguments = repeat((self._address,))
        self._borrowed = offset + 1
        self._lent = -1
        self.trying = starmap(pthread_mutex.trylock, arguments)
        self.releasing = starmap(pthread_mutex.unlock, arguments)
        _locks.add(self)

    def check_ids(self) -> None:
        """In a forked process: refuse everything if threads have other ids than the mutex says."""
        if self._pid_namespace() != self._namespace or not pthread_mutex.knows_this_thread():
            self._is_refused = True
            self._memory.refuse()

    # -- the protocol ------------------------------------------------------

    def acquire(self, seconds: float | None) -> int:
        for code in self.trying:
            if not code and not self.notes[0]:
                return 1
            try:  # a signal handler may run as that function begins
                for got in calling(self.acquire_after, code, seconds):
                    return got
            except BaseException:
                self.undo(code)
                raise
        raise AssertionError("unreachable")

    def acquire_after(self, code: int, seconds: float | None) -> int:
        if code == errno.EDEADLK:
            raise RuntimeError("this thread holds the lock already")
        end = None if seconds is None else now() + seconds
        has_waited = False
        try:
            while code not in _ACQUIRED:
                if code not in _BUSY:
                    raise self._failure(code)
                left = _SLICE if end is None else end - now()
                is_marked = (has_waited or left <= 0) and self._mark_if_owner_is_gone()
                if left <= 0 and not is_marked:
                    return 0
                has_waited = True
                for code in calling(pthread_mutex.wait, self._address, min(left, _SLICE)):  # noqa: B007, PLR1704
                    pass
            if code or self.notes[0] & _GIVEN_BACK:
                code = errno.EOWNERDEAD  # for `undo`
                self.notes[0] = self.notes[0] & LENT | ABANDONED  # if a kill comes now, the next owner finds EOWNERDEAD
                pthread_mutex.consistent(self._address)
            else:
                self.notes[0] &= LENT
            if self.notes[0] & LENT:
                with self._file() as fd:
                    if not lending.wait(fd, self._borrowed, self._borrower(), end):
                        self.give_back()
                        return 0
                self.notes[0] = 0
            return 2 if self.notes[0] & ABANDONED else 1
        except BaseException:
            self.undo(code)
            raise

    def undo(self, code: int) -> None:
        if code in _ACQUIRED and self.is_mine():
            if code:
                self.notes[0] |= ABANDONED
                pthread_mutex.consistent(self._address)
                self.give_back()
            else:
                pthread_mutex.unlock(self._address)

    def give_back(self) -> None:
        if self.notes[0] & ABANDONED:
            self.notes[0] |= _GIVEN_BACK
        pthread_mutex.unlock(self._address)

    def release(self) -> None:
        if not self.is_mine():
            raise RuntimeError("this thread does not hold the lock")
        if self.notes[0]:
            self.notes[0] &= ~ABANDONED
        for _ in self.releasing:
            return

    def is_mine(self) -> bool:
        return bool(self._words[0] & TID == get_native_id())

    def is_abandoned(self) -> bool:
        return bool(self.notes[0] & ABANDONED) and self.is_mine()

    def is_held(self) -> bool:
        return self._is_lent() or self._owner() != 0

    def owner(self) -> int | None:
        if self._is_lent():
            return self._borrower().pid
        for _ in range(100):
            tid = self._owner()
            if not tid:
                return None
            pid = thread_ids.process_of(tid)
            if self._owner() == tid:
                return pid
        return None

    # -- programs that hold it ---------------------------------------------

    def lend(self) -> None:
        with self._file() as fd:
            self._lent = os.dup(fd)
        borrower = lending.lend(self._lent, self._borrowed)
        lending.RECORD.pack_into(self._words, _NOTES * 4, *borrower[:3])

    def take_back(self) -> None:
        os.close(self._lent)
        self.notes[0] = 0
        self.give_back()

    def _borrower(self) -> lending.Borrower:
        return lending.Borrower(*lending.RECORD.unpack_from(self._words, _NOTES * 4))

    def _is_lent(self) -> bool:
        """Whether a program runs to which it is lent."""
        if not self.notes[0] & LENT:
            return False
        with self._file() as fd:
            return lending.is_running(fd, self._borrowed, self._borrower())

    @contextmanager
    def _file(self) -> Generator[int, None, None]:
        """Open the object once more."""
        fd = open_again(self._fd, self._path, self._info)
        try:
            yield fd
        finally:
            os.close(fd)

    # -- its owner ---------------------------------------------------------

    def _owner(self) -> int:
        """Return the id of the thread that holds it, or 0."""
        word = self._words[0]
        tid: int = word & TID
        return 0 if word & _OWNER_DIED or not tid or not thread_ids.exists(tid) else tid

    def _mark_if_owner_is_gone(self) -> bool:
        """Do what the kernel does when the owner ends, if the owner does not exist; return whether that was done.

        One process does so at a time.  As long as the word has the id of a thread that does not exist, nothing else
        changes this id.
        """
        word = self._words[0]
        if not word & TID or word & _OWNER_DIED or thread_ids.exists(word & TID) or _futex is None:
            return False
        try:
            with self._file() as alone:
                filelock.wait(alone, filelock.request(filelock.EXCLUDE, 0, 1), 1)
                again = self._words[0]
                if again & TID != word & TID or again & _OWNER_DIED or thread_ids.exists(word & TID):
                    return False
                libc.syscall(_futex, self._address, _WAKE_OP, 1, ctypes.c_long(0), self._address, _SET_OWNER_DIED)
                return True
        except OSError:
            return False

    def _failure(self, code: int) -> OSError:
        if self._is_refused:
            text = "this process was forked into another PID namespace, or by a system call: attach to the object again"
            return OSError(errno.EPERM, text, self._name)
        return OSError(code, _REASONS.get(code) or os.strerror(code), self._name)


_locks: WeakSet[RobustLock] = WeakSet()


def _after_fork() -> None:
    for lock in list(_locks):
        lock.check_ids()


forks.in_child.append(_after_fork)

_REASONS = {
    errno.ENOTRECOVERABLE: "the mutex was damaged by another program: remove it and create it again",
    errno.EINVAL: "the mutex is damaged, or not one: remove it and create it again",
}
