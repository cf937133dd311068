"""The handle of a mutex: :class:`Mutex`.

The lock is the back end's.  For a mutex that only this user can write to, acquiring and releasing are
one call of C each (`ipcio._backend.parts.Lock`), and the methods below have as few steps around it as possible.  How no
signal handler loses what was acquired is described in `ipcio._record`.
"""

from __future__ import annotations

import errno
from itertools import repeat, starmap

from ipcio._event_loop import acquire
from ipcio._layout import LOCKS, WORDS
from ipcio._light import partial
from ipcio._mutex_release import DEPTH, Releasing, end_of_block, refuse
from ipcio._named import KIND_FLAG, NamedHandle, parts
from ipcio._record import InSlot, calling
from ipcio._timeouts import check_timeout, now
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import ClassVar, TypeVar

    from typing_extensions import Self

    from ipcio._backend.parts import Lock, Words
    from ipcio._tuples import OpenObject

    T = TypeVar("T")

RECURSIVE = KIND_FLAG  # in the header

_NOTIFIED = WORDS  # a word that only the owner changes: how often waiting threads have been notified

_DEEPEST = 2**32 - 1
_SLOWLY: Iterator[int] = repeat(errno.EBUSY)
_NO_ARGUMENTS: repeat[tuple[()]] = repeat(())


class Mutex(NamedHandle, Releasing):
    """A lock that processes share: one thread of one process owns it, and the others wait.

    Functions of `ipcio.mutex` return handles; this class is not called.  ``with m:`` acquires the mutex and
    releases it after the block.

    If the owner ends without having released the mutex (it is killed, its thread ends, its process exits or calls
    ``exec``), the kernel releases it at once.  The next owner finds `abandoned` true and can
    repair what the mutex protects.

    While one thread waits, others run, and Ctrl-C ends every wait within 0.2 s: a call that is interrupted
    has acquired nothing.  A ``with`` block releases the mutex at its end, at whatever moment Ctrl-C comes.  (Except for
    a mutex that is recursive or that other users may write to, and with musl, on macOS and on Windows: there Ctrl-C in
    the first instant of the end of the block can leave the mutex acquired.)

    After `close`, every method but `close` raises `ValueError`.  Closing is optional: a handle that is
    garbage-collected closes itself.  Closing releases nothing: a mutex that a thread has acquired stays acquired
    until the thread releases it through another handle, or ends.  Handles may be shared between threads, work on both
    sides of a ``fork`` (the child owns nothing) and pickle by attaching again.
    """

    __slots__ = ("_exit", "_is_recursive", "_lock", "_notes", "_releasing", "_trying", "_words")

    KIND: ClassVar[str] = "mutex"
    HAS_LOCKS: ClassVar[bool] = True

    _trying: Iterator[int]  # as in `ipcio._backend.parts.Lock`
    _exit: Callable[..., None]

    if TYPE_CHECKING:

        def __exit__(self, *_: object) -> None: ...

    else:
        __exit__ = InSlot("_exit", "Release the mutex.")

    def _set_up(self, opened: OpenObject, flags: int) -> None:
        lock = parts.lock(opened, LOCKS[0])
        self._words = parts.words(opened)
        self._is_recursive = bool(flags & RECURSIVE)
        self._trying, self._releasing, self._notes = lock.trying, lock.releasing, lock.notes
        if self._is_recursive:
            self._trying, self._notes = _SLOWLY, (1,)
        self._lock = lock
        self._exit = end_of_block(self, self._share)

    def _end_by_collector(self) -> None:
        if self._share is not None:  # `_exit` has it, too, and a ``with`` statement may keep that
            self._fd, self._share = -1, None

    def _drop(self) -> None:
        self._exit = refuses = partial(refuse, self._name)
        self._trying = starmap(refuses, _NO_ARGUMENTS)
        self._notes = (1,)
        self._releasing = _SLOWLY
        self._lock = self._words = None

    # -- acquiring ---------------------------------------------------------

    def __enter__(self) -> Self:
        """Acquire the mutex; wait until it is free."""
        # For speed, this is `acquire` without its arguments, written out.
        for code in self._trying:
            if not code and not self._notes[0]:
                return self
            try:
                for _ in calling(self._acquire_after, code, None):
                    return self
            except BaseException:
                self._undo(code)
                raise
        raise AssertionError("unreachable")

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Acquire the mutex within `timeout` seconds; return whether it was acquired.

        None or a negative timeout waits for ever, 0 does not wait, and neither does ``acquire(False)``, which accepts
        no timeout.  Fractions are allowed; NaN raises `ValueError`.

        `RuntimeError` if this thread owns it already, whatever the timeout: waiting would never end.  A mutex
        that was created with ``recursive=True`` counts instead, and is free after as many calls of `release`.
        """
        seconds: float | None = 0
        if blocking:
            seconds = None if timeout is None else check_timeout(timeout)
        elif timeout is not None:
            raise ValueError("can't specify a timeout for a non-blocking acquire")
        for code in self._trying:
            if not code and not self._notes[0]:
                return True
            try:
                for got in calling(self._acquire_after, code, seconds):
                    return got
            except BaseException:
                self._undo(code)
                raise
        raise AssertionError("unreachable")

    def _acquire_after(self, code: int, seconds: float | None) -> bool:
        """Do the rest of `acquire` after a step of `_trying` has returned `code`."""
        lock, words = self._open()
        if self._is_recursive:
            return self._acquire_recursive(lock, words, seconds)
        try:
            for got in calling(lock.acquire_after, code, seconds):
                return got != 0
        except RuntimeError:
            if not lock.is_mine():  # it is what a signal handler has raised
                raise
            text = f"this thread owns mutex {self._name!r} already; recursive=True of create() allows that"
            raise RuntimeError(text) from None
        raise AssertionError("unreachable")

    def _acquire_recursive(self, lock: Lock, words: Words, seconds: float | None) -> bool:
        if lock.is_mine():
            depth = words.load(DEPTH) + 1
            if depth > _DEEPEST:
                raise OverflowError(f"this thread has acquired mutex {self._name!r} {depth} times")
            for _ in calling(words.store, DEPTH, depth):
                return True
        got = 0
        try:
            for got in calling(lock.acquire, seconds):  # noqa: B007 -- `calling` keeps it
                pass
            if got:
                words.store(DEPTH, 0)  # of an owner that ended it may be another number
            for answer in (got != 0,):
                return answer
        except BaseException:
            if lock.is_mine():
                lock.give_back()
            raise
        raise AssertionError("unreachable")

    def _undo(self, code: int) -> None:
        lock = self._lock
        if lock is not None and not self._is_recursive:
            lock.undo(code)

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """Do as `acquire`, without blocking the event loop of asyncio (uvloop, anyio) meanwhile.

        The owner is the *thread*, and all tasks of an event loop run in one.  So the mutex excludes other threads and
        processes, but not the tasks of this loop from one another: a second one that acquires it meanwhile gets a
        `RuntimeError` (or acquires a recursive mutex as well).  Use an `asyncio.Lock` beside it.

        If the task is cancelled, at whatever moment, or the time is up, the call has acquired nothing and
        will acquire nothing.  No thread waits.  The system cannot notify an event loop of a
        free mutex, so the call tries at least every 10 ms.  Therefore it acquires the mutex up to 10 ms
        after the release, and one task that waits uses 1 to 2 % of the time of a processor.  Processes that
        wait in `acquire` come first.

        `ValueError` if the handle is closed, during the wait too; `RuntimeError` in an event loop that is not
        asyncio's, such as trio's.
        """
        attempts = starmap(self.acquire, repeat((False,)))
        return await acquire(attempts, self._give_back, check_timeout(timeout))

    def _give_back(self) -> None:
        lock, words = self._open()
        depth = words.load(DEPTH) if self._is_recursive else 0
        if depth:
            words.store(DEPTH, depth - 1)
        else:
            lock.give_back()

    # -- waiting for a change ----------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        """Release the mutex, sleep until another thread calls `notify_all`, and acquire it again.

        Return False if `timeout` seconds have passed before a notification; None or a negative timeout waits for ever.
        Like `threading.Condition.wait` it may, in rare cases, return True without a notification: look at what
        is waited for, and wait again, or use `wait_for`.

        When the call returns or raises, this thread owns the mutex again, as many times as before.  Ctrl-C
        ends the sleep within 0.2 s, and the exception is raised when the mutex has been acquired.  Until then other
        owners may keep it for as long as they like, also past the timeout.  `abandoned` says whether
        the mutex came from an owner that had not released it.

        A thread that is killed while it sleeps takes no notification from others.  `RuntimeError` if this thread does
        not own the mutex.
        """
        seconds = check_timeout(timeout)
        lock, words = self._own()
        depth = words.load(DEPTH) if self._is_recursive else 0
        notified = words.load(_NOTIFIED)
        try:
            if depth:
                words.store(DEPTH, 0)
            lock.release()
            woken = words.wait(_NOTIFIED, notified, seconds)
        finally:
            # Twice, because a signal handler that raises may run anywhere.  (It may also have interrupted the release.)
            try:
                self._own_again(lock, words, depth)
            finally:
                self._own_again(lock, words, depth)
        return woken

    def _own_again(self, lock: Lock, words: Words, depth: int) -> None:
        if not lock.is_mine():
            _acquire_again(lock)
        if self._is_recursive:
            words.store(DEPTH, depth)

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Do as `wait` until `predicate()` is true, for `timeout` seconds at the most; return its last result.

        `predicate` is called while this thread owns the mutex.
        """
        seconds = check_timeout(timeout)
        end = None if seconds is None else now() + seconds
        result = predicate()
        while not result:
            left = None if end is None else end - now()
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result

    def notify_all(self) -> None:
        """Wake all threads of all processes that are in `wait`; each goes on when it has acquired the mutex.

        `RuntimeError` if this thread does not own the mutex.  A process that is killed within the call has notified all
        of them or none.
        """
        _, words = self._own()
        words.add_and_wake(_NOTIFIED, 1)

    def _own(self) -> tuple[Lock, Words]:
        lock, words = self._open()
        if not lock.is_mine():
            self._refuse_release()
        return lock, words

    # -- what it is --------------------------------------------------------

    def locked(self) -> bool:
        """Whether a thread of any process owns the mutex now.

        Other processes may change that before the caller looks at the answer.  False if the owner has
        ended.
        """
        lock, _ = self._open()
        return lock.is_held()

    @property
    def owner(self) -> int | None:
        """The process id of the owner; None if no process owns the mutex, or that cannot be known.

        It is for messages, not for decisions: another process may own the mutex before the caller looks at the number.
        It is unknown if ``/proc`` is missing.  In a mutex that other users may write to, the number is
        what the owner has written there, and unknown for a process of another PID namespace.
        """
        lock, _ = self._open()
        return lock.owner()

    @property
    def abandoned(self) -> bool:
        """Whether this thread owns the mutex, and has got it from an owner that ended without having released it.

        True from that `acquire` (or `wait`) until this thread releases the mutex.
        """
        lock, _ = self._open()
        return lock.is_abandoned()

    @property
    def recursive(self) -> bool:
        """Whether its owner may acquire it several times."""
        self._open()
        return self._is_recursive

    def _details(self) -> str:
        lock = self._lock
        try:
            held = lock is not None and lock.is_held()
        except (OSError, ValueError):  # another process has cut the object short
            held = False
        return f"{' recursive' if self._is_recursive else ''}{' locked' if held else ''}"


def _acquire_again(lock: Lock) -> None:
    """Acquire the lock whatever a signal handler raises meanwhile; that is raised afterwards."""
    try:
        for _ in calling(lock.acquire, None):
            return
    except OSError:  # the object is damaged
        raise
    except BaseException:
        if not lock.is_mine():
            _acquire_again(lock)
        raise
