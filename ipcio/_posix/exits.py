"""The end of this process: what is to be done last, after everything else that Python runs at exit.

`atexit` is too early.  Its order is that of imports: one of its functions waits for the
children of `multiprocessing`, which may still attach, and others are the program's own.
After all of them, and before it takes the modules apart, Python collects garbage, and that
calls `gc.callbacks`.

Forked workers of `multiprocessing` end in ``os._exit`` and do none of that.  They run the
finalizers of ``multiprocessing.util``, so there is one of ours among them, the last.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import sys

from ipcio._forklock import fork_lock
from ipcio._posix import forks
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["at_the_end", "watch_workers"]

_functions: list[Callable[[], object]] = []


def at_the_end(function: Callable[[], object]) -> None:
    """Have `function` called when the process ends, in every way that runs Python's exit code; errors are ignored."""
    _functions.append(function)


def _end() -> None:
    for function in _functions:
        with contextlib.suppress(Exception):
            function()


@atexit.register
def _exit_begins() -> None:
    if not hasattr(gc, "callbacks"):  # PyPy; this is the latest that there is
        _end()
        return
    if _interpreter_ends not in gc.callbacks:
        gc.callbacks.append(_interpreter_ends)
    gc.enable()  # for the one collection after this


def _interpreter_ends(phase: str, _: dict[str, int]) -> None:
    if phase == "start" and sys.is_finalizing():
        gc.callbacks.remove(_interpreter_ends)
        # No other thread runs any more.  A daemon thread in the middle of a call keeps the lock.
        lock: Any = fork_lock
        if not lock.acquire(blocking=False):
            lock._at_fork_reinit()
            lock.acquire()
        try:
            _end()
        finally:
            fork_lock.release()


# -- workers -------------------------------------------------------------------

_LIBRARIES = "multiprocessing", "billiard"  # the second is celery's copy of the first
_SMALLEST = -1000  # priority: after all others
_ORDINARY_ENDS = {"spawn", "loky"}  # start methods whose children end as any other program

_watched: dict[str, Any] = {}  # the ``util`` of each library, once it has been found


def watch_workers() -> None:
    """Have the functions called in workers, too, as soon as a library for them has been imported."""
    for library in _LIBRARIES:
        util: Any = sys.modules.get(f"{library}.util")
        if util is not None and _watched.get(library) is not util and hasattr(util, "register_after_fork"):
            _watched[library] = util
            # A worker forgets all finalizers when it starts, and then calls these.
            util.register_after_fork(_Library(library), _Library.arm)
            _arm(library)


class _Library:
    """What `register_after_fork` holds on to, weakly."""

    def __init__(self, name: str) -> None:
        self._name = name
        _kept.append(self)

    def arm(self) -> None:
        _arm(self._name)


_kept: list[_Library] = []


def _arm(library: str) -> None:
    """In a worker that will end in ``os._exit``: arrange for the functions to be called before."""
    processes: Any = sys.modules.get(f"{library}.process")
    worker = processes.current_process()
    if getattr(worker, "_parent_pid", None) is None:
        return
    method = getattr(worker, "_start_method", None) or sys.modules[library].get_start_method(allow_none=True)
    if method not in _ORDINARY_ENDS:
        _watched[library].Finalize(None, _end, exitpriority=_SMALLEST)


forks.in_child.append(watch_workers)
