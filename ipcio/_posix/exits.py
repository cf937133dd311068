"""The exit of this process: functions that run last, after everything else that Python runs at exit.

The functions of `atexit` run too early.  Their order is that of imports: one of them waits for
the children of `multiprocessing`, which may still attach, and others are the program's own.
After all of them, and before it empties the modules, Python collects garbage, and that
calls `gc.callbacks`.

Forked workers of `multiprocessing` exit by ``os._exit``, without any of that.  But they run the
finalizers of ``multiprocessing.util``, and ours is the last of these.
"""

from __future__ import annotations

import atexit
import gc
import sys

from ipcio._forklock import fork_lock
from ipcio._light import suppress
from ipcio._posix import forks
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_functions: list[Callable[[], object]] = []


def at_the_end(function: Callable[[], object]) -> None:
    """Have `function` called when the process exits, unless that runs no Python code; errors are ignored."""
    _functions.append(function)


def _end() -> None:
    for function in _functions:
        with suppress(Exception):
            function()


@atexit.register
def _exit_begins() -> None:
    if not hasattr(gc, "callbacks"):  # PyPy, which has no later moment
        _end()
        return
    if _interpreter_ends not in gc.callbacks:
        gc.callbacks.append(_interpreter_ends)
    gc.enable()  # for the one collection after this


def _interpreter_ends(phase: str, _: dict[str, int]) -> None:
    if phase == "start" and sys.is_finalizing():
        gc.callbacks.remove(_interpreter_ends)
        # No other thread will run again.  A daemon thread that was in the middle of a call still has the lock.
        lock: Any = fork_lock
        if not lock.acquire(blocking=False):
            lock._at_fork_reinit()
            lock.acquire()
        try:
            _end()
        finally:
            fork_lock.release()


# -- workers -------------------------------------------------------------------

_LIBRARIES = ("multiprocessing", "multiprocessing.util"), ("billiard", "billiard.util")  # the second is celery's copy
_LAST = -1000  # the priority of a finalizer that runs after all others
_EXIT_AS_PROGRAMS = {"spawn", "loky"}  # with these start methods, children exit as any Python program does

_watched: dict[str, Any] = {}  # the ``util`` of each library that has been found


def watch_workers() -> None:
    """Have the functions called in workers, too; call this again after one of the libraries may have been imported."""
    for library, name in _LIBRARIES:
        util: Any = sys.modules.get(name)
        if util is not None and _watched.get(library) is not util and hasattr(util, "register_after_fork"):
            _watched[library] = util
            # A worker forgets all finalizers when it starts, and then calls these.
            util.register_after_fork(_Library(library), _Library.arm)
            _arm(library)


class _Library:
    """An argument for `register_after_fork`, which keeps a weak reference only."""

    def __init__(self, name: str) -> None:
        self._name = name
        _kept.append(self)

    def arm(self) -> None:
        _arm(self._name)


_kept: list[_Library] = []


def _arm(library: str) -> None:
    """In a worker that will exit by ``os._exit``: have the functions called before that."""
    processes: Any = sys.modules.get(f"{library}.process")
    worker = processes.current_process()
    if getattr(worker, "_parent_pid", None) is None:
        return
    method = getattr(worker, "_start_method", None) or sys.modules[library].get_start_method(allow_none=True)
    if method not in _EXIT_AS_PROGRAMS:
        _watched[library].Finalize(None, _end, exitpriority=_LAST)


forks.in_child.append(watch_workers)
