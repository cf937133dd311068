"""The exceptions of `ipcio.queue`, which are those of the standard library's `queue` as far as it has them.

To import that takes longer than to import `ipcio.queue`.  So it happens at the first look at one of
them, which the first handle takes: a process that gives up its rights later may not find the module.
"""

from __future__ import annotations

import sys

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from queue import Empty, Full

if sys.version_info < (3, 13):

    class ShutDown(Exception):  # noqa: N818 -- the standard library's word
        """The queue was shut down: nothing can be put, and nothing is left in it."""

elif TYPE_CHECKING:
    from queue import ShutDown

__all__ = ["Empty", "Full", "ShutDown"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            import queue
        except ImportError:  # the process has given up its rights before: then no other module has them, either
            queue = None
        for each in __all__:
            if each not in globals():
                globals()[each] = getattr(queue, each, None) or type(each, (Exception,), {"__module__": __name__})
        return globals()[name]
