"""The lock that ``fork`` waits for.

A forked child has a copy of everything as it was at that instant, and only the thread that forked.  If another
thread was in the middle of a step then, the child would keep half of that step for ever: a reference to
a name, for example, that no handle of the child would ever release.  So every step that must be whole for a child
happens under :data:`fork_lock`, and ``os.fork`` acquires it, too: a descriptor is opened and becomes a
handle's, a position is read and moved.

* *Only quick steps happen under it*, because all handles of all threads wait for it, and so does ``fork``.
  Waiting for another process, allocating or freeing memory and opening a file may take long.  Such a
  step is made without the lock, and what is open meanwhile is listed in `ipcio._unowned`, so that a
  forked child can close its copies.
* *One lock for all handles.*  The garbage collector may close a handle at any point of any operation on another
  one.  With a lock for each handle, two threads would one day acquire two of them in both orders, and
  deadlock.  The lock is re-entrant for the same reason.

A Python without the GIL (:data:`FREE_THREADED`) may run two threads in a step that the GIL would make atomic, so there
a handle of memory also has a lock of its own, which ``fork`` acquires as well.  Two rules keep these locks from
deadlocks: a thread that acquires both acquires `fork_lock` first; and while a thread holds a handle's lock
without `fork_lock`, it runs no Python code (see `ipcio._memfile_locked`).
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import time
from _thread import RLock as _RLock  # threading's own, without importing threading
from _thread import get_ident
from itertools import repeat, starmap

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

FREE_THREADED = "free-threading" in sys.version
"""Whether this Python can run without the GIL.

The build decides, not `sys._is_gil_enabled`: the GIL is on for a moment while an extension
module is imported, and ``PYTHON_GIL=1`` only makes the locks superfluous.
"""

_ONCE: tuple[tuple[()]] = ((),)

if sys.version_info < (3, 14) or sys.version_info >= (3, 15):
    RLock = _RLock
else:

    class RLock(_RLock):  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues] -- not final really
        """A lock that an interrupt does not leave locked.

        In a ``with`` statement, Python 3.14 may run a signal handler between the call of an ``__enter__``
        that is written in C and the block.  After one that is written in Python it does not (`ipcio._record`).
        """

        __slots__ = ()

        def __enter__(self) -> bool:  # type: ignore[override]
            """Acquire the lock."""
            for got in starmap(self.acquire, _ONCE):  # `ipcio._record.calling`, written out for speed
                return got
            raise AssertionError("unreachable")


fork_lock = RLock()

acquiring_fork_lock: Iterator[bool] = starmap(fork_lock.acquire, repeat(()))
"""Each step acquires `fork_lock`, for a ``for`` statement (`ipcio._record`), and `release_fork_lock` releases it.

That takes a third of the time of a ``with`` statement, which matters where a handle does nothing slower.
"""

release_fork_lock = fork_lock.release

fork_waits_for: list[int] = []
"""Threads in a call of which a fork would see nothing yet, or only half.

Such a call cannot hold `fork_lock`, because it may be slow.  A fork waits a moment for it to end, but not for
ever: it may hang, on a network for instance.
"""

handle_locks: set[Any] = set()
"""The locks that handles have of their own; to be added under `fork_lock`."""

in_child: list[Callable[[], object]] = []
"""What a forked child does first, while it holds `fork_lock`."""


# -- fork --------------------------------------------------------------------

_LOOKS = 50  # of a fork for the end of the calls in `fork_waits_for`
_PAUSE = 0.0002  # seconds between two looks; on a busy machine they take longer, as those calls do

_locked_by_fork: list[Any] = []


def _before_fork() -> None:
    fork_lock.acquire()
    for _ in range(_LOOKS):
        if not set(fork_waits_for) - {get_ident()}:
            break
        fork_lock.release()
        try:
            time.sleep(_PAUSE)
        finally:
            fork_lock.acquire()
    if handle_locks:  # in one step, lest an interrupt leave one locked and unlisted
        _locked_by_fork.extend(filter(RLock.acquire, list(handle_locks)))


def _after_in_parent() -> None:
    while _locked_by_fork:
        _locked_by_fork.pop().release()
    fork_lock.release()


def _after_in_child() -> None:
    """Run `in_child`.  Of all threads only the one that forked is left."""
    try:
        me = get_ident()
        fork_waits_for[:] = [thread for thread in fork_waits_for if thread == me]
        for function in in_child:
            function()
    finally:
        _after_in_parent()


if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


# -- the end of the interpreter ----------------------------------------------


@atexit.register
def _exit_begins() -> None:
    if not hasattr(gc, "callbacks"):  # PyPy
        return
    gc.callbacks.append(_replace_lock)
    gc.enable()  # for the one collection between the last function of `atexit` and the end of the modules


def _replace_lock(phase: str, _: dict[str, int]) -> None:
    """Replace the lock if a daemon thread holds it: such threads no longer run, and handles are still to be closed."""
    if phase == "start" and sys.is_finalizing():
        gc.callbacks.remove(_replace_lock)
        if fork_lock.acquire(blocking=False):
            fork_lock.release()
            return
        free = RLock()
        new = {
            "fork_lock": free,
            "acquiring_fork_lock": starmap(free.acquire, repeat(())),
            "release_fork_lock": free.release,
        }
        old = {name: globals()[name] for name in new}
        for module in list(sys.modules.values()):
            names: Any = getattr(module, "__dict__", {})
            for name, value in old.items():
                if names.get(name) is value:
                    names[name] = new[name]
