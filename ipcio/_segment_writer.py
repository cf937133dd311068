"""A persistent segment that is written like any new file: it grows, and gets its name when it is closed.

`ipcio.shm.create` requires the size beforehand; this is for a program that does not know it.
"""

from __future__ import annotations

import errno
import io
import os
import sys

from ipcio._typing import TYPE_CHECKING

if sys.platform != "win32":
    from ipcio._posix import writer as _chosen

if TYPE_CHECKING:
    from types import TracebackType

    from ipcio._backend import UncommittedSegment, WriterBackend


def open_writer(
    name: str, perm: int = 0o600, *, replace: bool, size: int = 0, autocommit: bool = True
) -> SegmentWriter:
    """Begin a persistent segment; `NotImplementedError` on Windows.

    replace
        Take the name from a segment that has it when the new one is complete.  Otherwise a name in use is a
        `FileExistsError`, now or then.
    size
        How many bytes to set aside at once, if that is known.  They are the segment's
        size, until it is truncated.
    autocommit
        Whether `close` gives the segment its name, or only `commit` does.
    """
    if sys.platform != "win32":
        backend: WriterBackend = _chosen
        return SegmentWriter(backend.open_writer(name, perm, size, replace=replace), autocommit=autocommit)
    raise NotImplementedError("on Windows nothing outlives its last handle, so there are no persistent segments")


class SegmentWriter(io.BufferedRandom):
    """Shared memory that is being written; other processes can attach it, complete, once this is closed.

    A kill before that leaves nothing, nor does an exception in the ``with`` block.  As with any
    file, the garbage collector closes it, too.
    """

    def __init__(self, segment: UncommittedSegment, *, autocommit: bool) -> None:
        super().__init__(io.FileIO(segment.fd, "rb+", closefd=False))
        self._segment = segment
        self._autocommit = autocommit
        self._owner = os.getpid()

    def close(self) -> None:
        """Give the segment its name, unless only `commit` does that."""
        if self.closed:
            return
        if self._owner != os.getpid():  # a copy in a forked process
            self.discard()
        elif self._autocommit:
            self.commit()
        else:
            self.flush()

    def commit(self) -> None:
        """Give the segment its name now."""
        try:
            self.flush()
            self._segment.commit()
        finally:
            self.discard()

    def discard(self) -> None:
        """Close.  Without a `commit` before, there will be no segment."""
        self.raw.close()  # so there is nowhere to flush to
        self._segment.discard()

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        self.discard()
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            error.filename = self._segment.name
