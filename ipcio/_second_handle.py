"""A second handle on an object that a handle has open, also if the object has lost its name in the meantime."""

from __future__ import annotations

import os

from ipcio._forklock import fork_lock
from ipcio._typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ipcio._backend.shares import Share
    from ipcio._named import NamedHandle

    Handle = TypeVar("Handle", bound=NamedHandle)


def second_handle(handle: Handle) -> Handle:
    """Return it.  The object is open until both are closed."""
    with fork_lock:
        opened = handle._check_open()
        share, fd = handle._share, handle._fd
        if share is not None:
            if not isinstance(share, _SharedByHandles):
                handle._share = share = _SharedByHandles(share)
            share.count += 1
        elif fd >= 0:
            fd = os.dup(fd)
        second = handle._over(handle.name, handle._again, False, opened.memory, fd, share)
    try:
        # Not checked again: this process may have given up its rights since the first handle was opened.
        second._prepare(opened._replace(fd=fd), 0)
    except BaseException:
        second.close()
        raise
    return second


class _SharedByHandles:
    """The share of several handles, which the last one of them releases; see `ipcio._backend.shares.Share`."""

    def __init__(self, share: Share) -> None:
        self.count = 1
        self._share = share
        self.lend, self.is_open = share.lend, share.is_open
        self.pass_to_program = share.pass_to_program

    def pass_to(self, child: Any, /) -> Any:
        return self._share.pass_to(child)

    def release(self, close: Callable[[int], None] = os.close, /) -> None:
        """Release it for one of the handles."""
        with fork_lock:
            self.count -= 1
            if not self.count:
                self._share.release(close)
