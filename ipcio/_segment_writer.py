"""A persistent segment that is written like any new file: it grows, and has its name when it is closed.

`ipcio.shm.create` wants to know the size before.  Who cannot know it writes here.
"""

from __future__ import annotations

import errno
import io
import os
import sys

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from ipcio._backend import Growing, GrowingBackend

__all__ = ["GrowingSegment", "grow"]

_backend: GrowingBackend

if sys.platform == "win32":
    from ipcio._windows import growing as _sections

    _backend = _sections
else:
    from ipcio._posix.namespace import NAMES_ARE_FILES

    if NAMES_ARE_FILES:
        from ipcio._posix import growing as _files

        _backend = _files
    else:
        from ipcio._posix import growing_opened as _opened

        _backend = _opened


def grow(name: str, perm: int = 0o600, *, replace: bool, size: int = 0, autocommit: bool = True) -> GrowingSegment:
    """Begin a persistent segment.

    replace
        At the end, take the name from a segment that has it.  Otherwise that is a
        `FileExistsError`, now or then.
    size
        How many bytes to set aside at once, if that is known.  They are the segment's
        size, until it is truncated.
    autocommit
        Whether `close` has it appear, or only `commit` does.
    """
    return GrowingSegment(_backend.Growing(name, perm, size, replace=replace), autocommit=autocommit)


class GrowingSegment(io.BufferedRandom):
    """Shared memory that is being written; it appears, complete, when this is closed.

    A kill before that leaves nothing, nor does an exception in the ``with`` block.  As with any
    file, the garbage collector closes it, too.
    """

    def __init__(self, growing: Growing, *, autocommit: bool) -> None:
        super().__init__(io.FileIO(growing.fd, "rb+", closefd=False))
        self._growing = growing
        self._autocommit = autocommit
        self._owner = os.getpid()

    def close(self) -> None:
        """Have the segment appear, unless that waits for `commit`."""
        if self.closed:
            return
        if self._owner != os.getpid():  # a copy in a forked process
            self.discard()
        elif self._autocommit:
            self.commit()
        else:
            self.flush()

    def commit(self) -> None:
        """Have the segment appear now."""
        try:
            self.flush()
            self._growing.show()
        finally:
            self.discard()

    def discard(self) -> None:
        """Close; what has not appeared never will."""
        self.raw.close()  # so there is nowhere to flush to
        self._growing.drop()

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        self.discard()
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            error.filename = self._growing.name
