"""A persistent segment that is written like any new file: it grows, and gets its name when it is closed.

`ipcio.shm.create` requires the size beforehand; this is for a program that does not know it.
"""

from __future__ import annotations

import io
import os
import sys

from ipcio._bytes import raw_bytes
from ipcio._light import WeakSet
from ipcio._typing import TYPE_CHECKING

if sys.platform != "win32":
    from ipcio._posix import writer as _chosen
    from ipcio._posix.exits import at_the_end

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer

    from ipcio._backend.writer import UncommittedSegment, WriterBackend

_PIECE = 1 << 24  # bytes, written in some ten milliseconds; signal handlers run in between


def open_writer(name: str, perm: int = 0o600, *, replace: bool, size: int = 0, readable: bool = False) -> SegmentWriter:
    """Begin a persistent segment; `NotImplementedError` on Windows.

    replace
        Take the name from a segment that has it when the new one is complete.  Otherwise a name in use is a
        `FileExistsError`, now or then.
    size
        How many bytes to set aside at once, if that is known.  They are the segment's
        size, until it is truncated.
    readable
        Whether what was written can be read, too.
    """
    if sys.platform != "win32":
        backend: WriterBackend = _chosen
        mode = ("w" if replace else "x") + ("+b" if readable else "b")
        try:
            return SegmentWriter(backend.open_writer(name, perm, size, replace=replace), mode)
        except FileExistsError as error:
            _explain(error)
            raise
    raise NotImplementedError("on Windows nothing outlives its last handle, so there are no persistent segments")


class SegmentWriter(io.FileIO):
    """A new persistent segment that is being written, as a raw binary file that grows.

    `close` gives it its name: other processes can attach it then, complete and exactly as long as what was
    written.  It is discarded instead, and what had the name stays as it is, if the ``with`` block raises an exception,
    if `discard` is called, if the writer, or a file of `io` that wraps it, is garbage-collected, if the writer is still
    open when the process exits or is killed, and if a `write` has failed.
    """

    def __init__(self, segment: UncommittedSegment, mode: str) -> None:
        self._segment = segment
        self._owner = os.getpid()
        self._is_incomplete = False  # a write has failed
        self.is_wrapped = False  # another object, which has a finalizer, decides what becomes of the segment
        super().__init__(segment.fd, mode, closefd=False)
        self.name: str = segment.name
        _open_writers.add(self)

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<ipcio.SegmentWriter name={self.name!r} mode={self.mode!r}{state}>"

    def write(self, b: Buffer, /) -> int:
        """Write all of a bytes-like object and return its size.

        An `OSError`, for instance ``ENOSPC``, may leave a part of it written.  The segment cannot be completed then:
        `close` discards it.
        """
        with raw_bytes(b) as view:
            done = 0
            try:
                if len(view) > _PIECE:
                    self._segment.check_room(self.tell() + len(view))
                while done < len(view):
                    with view[done : done + _PIECE] as rest:
                        done += super().write(rest)
            except BaseException as error:
                self._is_incomplete = not self.closed
                if isinstance(error, OSError) and error.errno is not None and error.filename is None:
                    error.filename = self.name
                raise
            return done

    def close(self) -> None:
        """Give the segment its name, and close the file.

        Raises `FileExistsError` if the mode is ``"xb"`` and the name has come into use; ``OSError(EINVAL)`` if
        nothing was written and the system has no empty segments (macOS).  The segment is discarded then.
        In a forked process, the copy of a writer that the parent opened is only discarded.
        """
        if self.closed:
            return
        try:
            if not self._is_incomplete and not self.is_copy():
                self._segment.commit()
        except FileExistsError as error:
            _explain(error)
            raise
        finally:
            self.discard()

    def discard(self) -> None:
        """Close the file without giving the segment a name; the name means what it meant before."""
        super().close()
        self._segment.discard()

    def is_copy(self) -> bool:
        """Whether this is the copy, in a forked process, of a writer that the parent opened."""
        return self._owner != os.getpid()

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        if not self.closed and not self.is_wrapped:
            self.discard()

    def _dealloc_warn(self, _: object) -> None:
        """Be told by a file of `io` around this one that it is garbage-collected; it calls `close` next."""
        self._is_incomplete = not self.is_wrapped


_open_writers: WeakSet[SegmentWriter] = WeakSet()


def _discard_all() -> None:
    # Otherwise a file of `io` that wraps a writer would close it when the process exits.
    for writer in list(_open_writers):
        writer.discard()


if sys.platform != "win32":
    at_the_end(_discard_all)


def _explain(error: FileExistsError) -> None:
    """Have the error say what to do."""
    error.strerror = f"shared memory {error.filename!r} exists already: mode 'wb' replaces it"
    error.args = error.errno, error.strerror
