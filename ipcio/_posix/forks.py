"""Whether this process has been forked since the last look: C code may fork without running Python's hooks.

uWSGI does so.  A page of memory that the kernel clears in every forked process
(``MADV_WIPEONFORK``, Linux 4.14) shows it.  A look at the page costs a tenth of ``getpid``.
Where the kernel has no such pages, only forks that run the hooks are noticed.
"""

from __future__ import annotations

import mmap
import os
import sys

from ipcio._forklock import fork_lock
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_WIPE_ON_FORK = 18  # the mmap module has no name for it


def _make_page() -> mmap.mmap | bytearray:
    if sys.platform != "linux":  # where the number may mean something else
        return bytearray(b"\1")
    try:
        made = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        made.madvise(_WIPE_ON_FORK)
        made[0] = 1
    except (OSError, AttributeError, ValueError):  # an old kernel, or a sandbox
        return bytearray(b"\1")
    return made


page = _make_page()
"""Its first byte is 0 in a forked process that has not called `notice` yet."""

in_child: list[Callable[[], object]] = []
"""Functions that a forked process calls when it notices that it is one."""

_this = object()


def notice() -> None:
    """In a forked process: call the functions of `in_child`, and remember that this has been done."""
    global _this  # noqa: PLW0603 -- a fact about the process
    with fork_lock:
        _this = object()
        for function in in_child:
            function()
        page[0] = 1


os.register_at_fork(after_in_child=notice)


def this_process() -> object:
    """Return an object that stands for this process, and for no process that is forked from it."""
    if not page[0]:
        notice()
    return _this
