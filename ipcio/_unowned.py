"""What is open and belongs to no handle: not yet, or no longer.

A quick step that opens or closes something happens under `ipcio._forklock.fork_lock`, and a fork waits for
it.  A slow step does not.  So what it has open is listed here, and a forked child, in which the other threads
do not go on, closes its copies of what they have listed.  (Closing a copy never unlocks what the parent has locked.)

* *Not yet:* a :class:`HeldByCall` has what a call has opened, until a handle takes it over.
* *No longer:* when a handle is closed, freeing a large segment may take long.  So what the handle gives up
  is listed with :func:`close_later` or :func:`free_later` under the lock, and :func:`close_listed` closes it
  without the lock.
"""

from __future__ import annotations

import os
from _thread import get_ident, start_new_thread
from itertools import starmap

from ipcio._forklock import fork_lock, fork_waits_for, in_child
from ipcio._record import close_at, record
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from typing_extensions import Self

LARGE = 1 << 20  # bytes; less is freed in a fraction of a millisecond

_ANY_FILE = os.sep, os.O_RDONLY

held_by_calls: set[HeldByCall] = set()

closed_by: dict[int, int] = {}
"""Descriptors that belong to no handle and are in no other list, and the thread that closes each."""

_descriptors: list[int] = []  # for `close_listed`
_memories: list[object] = []

close_later: Callable[[int], None] = _descriptors.append
"""Under `fork_lock`: have `close_listed` close a descriptor."""

free_later: Callable[[object], None] = _memories.append
"""Under `fork_lock`: have `close_listed` free memory, of which the caller keeps no reference."""


# -- not yet a handle's --------------------------------------------------------


class HeldByCall:
    """What a call has opened, while it does not hold `fork_lock`; a ``with`` block closes what is left at its end."""

    is_urgent = False  # whether `roll_back` has another thread close what is large
    fd = -1
    memory: mmap.mmap | None = None
    thread = 0

    def open_by(self, function: Callable[..., int], *arguments: Any) -> None:
        """Hold the descriptor that the function returns.  A fork waits a moment for the call, but not for ever."""
        me = get_ident()
        try:
            fork_waits_for.append(me)
            for self.fd in starmap(function, (arguments,)):  # `ipcio._record.calling`, written out for speed
                pass
        finally:
            fork_waits_for.remove(me)

    def roll_back(self) -> None:
        """Close what is open.  Not under `fork_lock`: it may be large."""
        try:
            with fork_lock:
                self.close_later()
        finally:
            if not self.is_urgent or not _close_in_another_thread():
                close_listed()

    def close_later(self) -> None:
        """Under `fork_lock`: have `close_listed` close what is open."""
        if self.memory is not None:
            free_later(self.memory)
            self.memory = None
        fd, self.fd = self.fd, -1
        if fd >= 0:
            close_later(fd)

    def close_copies(self) -> None:
        """In a forked child: close the copies of what a call in another thread of the parent has open."""
        memory, self.memory = self.memory, None
        fd, self.fd = self.fd, -1
        if memory is not None:
            memory.close()
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        self.thread = get_ident()
        for _ in starmap(held_by_calls.add, ((self,),)):  # as in `open_by`: there is an `__exit__` for each in the set
            return self
        raise AssertionError("unreachable")

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            if self.fd >= 0:
                self.roll_back()
        except BaseException:
            if self.fd >= 0:  # a signal handler has raised before that began
                self.roll_back()
            raise
        finally:
            held_by_calls.discard(self)


# -- no longer a handle's ------------------------------------------------------


def close_listed() -> None:
    """Without `fork_lock`: close what `close_later` and `free_later` have listed."""
    me = get_ident()
    while _memories:
        try:
            fork_waits_for.append(me)
            _memories.pop()  # not into a variable, which a forked child would keep for ever
        except IndexError:  # another thread was quicker
            break
        finally:
            fork_waits_for.remove(me)
    while _descriptors:
        _close_one(me)


def _close_one(me: int) -> None:
    """Close one descriptor.

    A forked child must close its copy, but never close what another thread has opened under the same number
    since.  So the number of a large file is closed under the lock, and before that another file takes its
    place (``dup2(2)``), which is the slow step.
    """
    mine: list[int] = []  # the descriptor, and the one that replaces it
    try:
        with fork_lock:
            try:
                record(mine, _descriptors.pop)
            except IndexError:  # another thread was quicker, or a handle that the garbage collector closes
                return
            closed_by[mine[0]] = me
        if _is_large(mine[0]):
            with fork_lock:
                try:
                    record(mine, os.open, *_ANY_FILE)
                except OSError:  # no descriptor is left, for instance
                    pass
                closed_by[mine[-1]] = me
            for other in mine[1:]:
                os.dup2(other, mine[0], inheritable=False)
    finally:
        try:
            _close_mine(mine)
        except BaseException:
            _close_mine(mine)  # what is left: a signal handler may have raised before any of it
            raise


def _close_mine(mine: list[int]) -> None:
    with fork_lock:
        while mine:
            closed_by.pop(mine[0], None)
            close_at(os.close, mine, 0)


def _close_in_another_thread() -> bool:
    """Have a new thread run `close_listed` if something large is listed; return whether it does."""
    if not any(map(_is_large, list(_descriptors))):
        return False
    try:
        start_new_thread(close_listed, ())
    except RuntimeError:  # no more threads
        return False
    return True


def _is_large(fd: int) -> bool:
    try:
        return os.fstat(fd).st_size >= LARGE
    except OSError:
        return True


# -- in a forked child ---------------------------------------------------------


def _close_copies() -> None:
    """Close the copies of what other threads have listed.

    What this thread has listed stays: if a signal handler forked, the call that it interrupted goes on here, too.
    """
    me = get_ident()
    _memories.clear()
    for fd, thread in list(closed_by.items()):
        if thread != me:
            _descriptors.append(fd)
            del closed_by[fd]
    while _descriptors:
        try:
            os.close(_descriptors.pop())
        except OSError:
            pass
    for held in list(held_by_calls):
        if held.thread != me:
            held_by_calls.discard(held)
            try:
                held.close_copies()
            except OSError:
                pass


in_child.append(_close_copies)
