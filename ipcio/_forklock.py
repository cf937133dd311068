"""The one lock of the process, which ``fork`` waits for, and what may be half-way without it.

What is quick and must be whole for a forked child happens under :data:`fork_lock`: a
descriptor is opened and becomes a handle's, a position is read and moved.  ``os.fork``
holds that lock too, so that a child is never born with half of something: with a share
in a name, say, that no handle of the child would ever give back.

Nothing slow happens under it, for all handles of all threads wait for it, and so does
``fork``: no wait for another process, no memory that is set aside or given back, no file
that is opened anywhere.  Such a step is made without the lock, and what the call has in
hand meanwhile is in a list here, of which a forked child closes its copies:

* A :class:`Halfway` keeps what a call has opened and no handle has yet.
* What a handle has given up, and what may be slow to close, is put away with
  :func:`put_away` under the lock and closed by :func:`clear_away` after it.

One lock, not several: garbage collection may close a handle at any point of
any operation, and two locks taken in both orders would one day meet.
Re-entrant for the same reason.

On a Python without the GIL (:data:`FREE_THREADED`) a handle of memory also has a lock of
its own, for steps that the GIL makes whole elsewhere.  ``fork`` waits for those, too.  Two
rules keep them from a deadlock: `fork_lock` comes first where both are held, and no Python code
runs while a thread holds a handle's lock without `fork_lock` (see `ipcio._memfile_fast.LockedFile`).
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import time
from _thread import RLock as _RLock  # threading's own, without importing threading
from _thread import get_ident, start_new_thread
from itertools import starmap

from ipcio._record import calling, record
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

    from typing_extensions import Self

__all__ = [
    "FREE_THREADED",
    "LARGE",
    "Halfway",
    "RLock",
    "clear_away",
    "closing",
    "fork_lock",
    "halfway",
    "handle_locks",
    "put_away",
    "put_memory_away",
    "unsettled",
]

FREE_THREADED = "free-threading" in sys.version
"""Whether this Python can run without the GIL.

The build decides, not `sys._is_gil_enabled`: the GIL is on for a moment while an extension
module is imported, and ``PYTHON_GIL=1`` only makes the locks superfluous.
"""

LARGE = 1 << 20  # bytes; less is given back to the system in a fraction of a millisecond

_PATIENCE = 50  # looks of a fork for an end of the calls in `unsettled`, which may hang
_PAUSE = 0.0002  # seconds between two looks; on a busy machine they take longer, as those calls do

_ONCE: tuple[tuple[()]] = ((),)

if sys.version_info < (3, 14) or sys.version_info >= (3, 15):
    RLock = _RLock
else:

    class RLock(_RLock):  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues] -- not final really
        """A lock that an interrupt does not leave locked.

        In a ``with`` statement, Python 3.14 lets a signal handler run, and raise, between the call of an
        ``__enter__`` that is written in C and the block.  After one that is written in Python it does not.
        """

        __slots__ = ()

        def __enter__(self) -> bool:  # type: ignore[override]
            """Acquire the lock."""
            for got in starmap(self.acquire, _ONCE):  # `ipcio._record.calling`, written out for speed
                return got
            raise AssertionError("unreachable")


fork_lock = RLock()

_ANYTHING = os.sep, os.O_RDONLY

halfway: set[Halfway] = set()
unsettled: list[int] = []  # threads in a call whose result, or whose beginning, is in no other list here
_memories: list[object] = []
_descriptors: list[int] = []
handle_locks: set[Any] = set()  # the locks that handles have of their own; add to it under `fork_lock`
_locked: list[Any] = []  # by a fork
closing: dict[int, int] = {}  # descriptors that no handle has, and the threads that will close them

put_away: Callable[[int], None] = _descriptors.append
"""Under `fork_lock`: have `clear_away` close a descriptor."""

put_memory_away: Callable[[object], None] = _memories.append
"""Under `fork_lock`: have `clear_away` let go of memory.  The caller lets go of it before `fork_lock`."""


class Halfway:
    """What a call has in hand while it does not hold `fork_lock`; a ``with`` block closes what is left at its end.

    In a forked child, where the call of another thread never ends, the copies are closed.
    """

    __slots__ = ("fd", "hurry", "memory", "thread")

    def __init__(self) -> None:
        self.hurry = False  # whether `roll_back` has another thread close what is large
        self.fd = -1
        self.memory: mmap.mmap | None = None
        self.thread = 0

    def open_file(self, path: str | bytes, flags: int) -> None:
        """Open a file however long that takes.  ``fork`` waits for it a moment but not for ever."""
        me = get_ident()
        try:
            unsettled.append(me)
            for self.fd in calling(os.open, path, flags):
                pass
        finally:
            unsettled.remove(me)

    def take(self) -> tuple[mmap.mmap | None, int]:
        """Under `fork_lock`: hand over what is in hand."""
        memory, self.memory = self.memory, None
        fd, self.fd = self.fd, -1
        return memory, fd

    def roll_back(self) -> None:
        """Close what is in hand.  Not under `fork_lock`: it may be large."""
        try:
            with fork_lock:
                self.put_away()
        finally:
            if not self.hurry or not _clear_away_elsewhere():
                clear_away()

    def put_away(self) -> None:
        """Under `fork_lock`: have `clear_away` close what is in hand."""
        if self.memory is not None:
            put_memory_away(self.memory)
            self.memory = None
        fd, self.fd = self.fd, -1
        if fd >= 0:
            put_away(fd)

    def lose(self) -> None:
        """In a forked child: close the copies of what another thread has in hand in the parent."""
        memory, fd = self.take()
        if memory is not None:
            memory.close()
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        self.thread = get_ident()
        halfway.add(self)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            if self.fd >= 0:
                self.roll_back()
        finally:
            halfway.discard(self)


# -- what is slow to close ---------------------------------------------------


def clear_away() -> None:
    """Without `fork_lock`: close what was put away.

    A forked child must neither keep a copy of what this is about to close nor close what another
    thread has opened under the same number since.  So another file takes the place of a large one,
    at once (``dup2(2)``), and the number is known here until that one is closed, under `fork_lock`.
    """
    me = get_ident()
    while _memories:
        try:
            unsettled.append(me)
            _memories.pop()  # not into a variable, which a forked child would keep for ever
        except IndexError:  # another thread was quicker
            break
        finally:
            unsettled.remove(me)
    while _descriptors:
        mine: list[int] = []  # the descriptor, and the one that takes its place
        try:
            with fork_lock:
                if not _descriptors:
                    break
                record(mine, _descriptors.pop)
                closing[mine[0]] = me
            if _is_large(mine[0]):
                with fork_lock:
                    try:
                        record(mine, os.open, *_ANYTHING)
                    except OSError:  # no descriptor left, say
                        pass
                    closing[mine[-1]] = me
                for other in mine[1:]:
                    os.dup2(other, mine[0], inheritable=False)
        finally:
            with fork_lock:
                try:
                    for fd in mine[:1]:
                        closing.pop(fd, None)
                        os.close(fd)
                finally:
                    for fd in mine[1:]:
                        closing.pop(fd, None)
                        os.close(fd)


def _clear_away_elsewhere() -> bool:
    """Have another thread do so if there is something large; return whether it does."""
    if not any(map(_is_large, list(_descriptors))):
        return False
    try:
        start_new_thread(clear_away, ())
    except RuntimeError:  # no more threads
        return False
    return True


def _is_large(fd: int) -> bool:
    try:
        return os.fstat(fd).st_size >= LARGE
    except OSError:
        return True


# -- the end of the interpreter ----------------------------------------------


@atexit.register
def _exit_begins() -> None:
    if not hasattr(gc, "callbacks"):  # PyPy
        return
    gc.callbacks.append(_interpreter_ends)
    gc.enable()  # for the one collection between the last function of `atexit` and the end of the modules


def _interpreter_ends(phase: str, _: dict[str, int]) -> None:
    """Replace the lock if a daemon thread, which runs no more, has it: handles are closed after this."""
    if phase == "start" and sys.is_finalizing():
        gc.callbacks.remove(_interpreter_ends)
        if fork_lock.acquire(blocking=False):
            fork_lock.release()
            return
        free = RLock()
        for module in list(sys.modules.values()):
            names: Any = getattr(module, "__dict__", {})
            if names.get("fork_lock") is fork_lock and names is not globals():
                names["fork_lock"] = free
        globals()["fork_lock"] = free


# -- fork --------------------------------------------------------------------


def _before() -> None:
    fork_lock.acquire()
    for _ in range(_PATIENCE):
        if not set(unsettled) - {get_ident()}:
            break
        fork_lock.release()
        try:
            time.sleep(_PAUSE)
        finally:
            fork_lock.acquire()
    if handle_locks:
        _locked.extend(filter(RLock.acquire, list(handle_locks)))  # in C, lest an interrupt leave one unlisted


def _in_parent() -> None:
    while _locked:
        _locked.pop().release()
    fork_lock.release()


def _in_child() -> None:
    """The forking thread is the only one left; if it was half-way itself, in a signal handler, it goes on."""
    try:
        me = get_ident()
        _memories.clear()
        unsettled[:] = [thread for thread in unsettled if thread == me]
        for fd, thread in list(closing.items()):
            if thread != me:
                _descriptors.append(fd)
                del closing[fd]
        while _descriptors:
            try:
                os.close(_descriptors.pop())
            except OSError:
                pass
        for hand in list(halfway):
            if hand.thread != me:
                halfway.discard(hand)
                try:
                    hand.lose()
                except OSError:
                    pass
    finally:
        _in_parent()


if sys.platform != "win32":
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
