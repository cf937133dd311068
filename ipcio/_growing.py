"""A persistent segment written like any new file: it grows, and has its name when it is closed.

`ipcio.shm.create` wants to know the size before.  Who cannot know it writes here.  On Linux
the bytes are where they will stay from the beginning; elsewhere they wait on the heap.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import TYPE_CHECKING, Any

from ipcio import shm

if TYPE_CHECKING:
    from types import TracebackType

if sys.platform != "win32":
    from ipcio._posix import nameless
    from ipcio._posix.abilities import NAMES_ARE_FILES

__all__ = ["GrowingSegment"]


class GrowingSegment(io.BufferedRandom):
    """Shared memory that is being written; it appears under its name when this is closed.

    A kill before that leaves nothing, nor does an exception in the ``with`` block.  As with any
    file, the garbage collector closes it, too.
    """

    def __init__(self, name: str, perm: int, *, exclusive: bool, autocommit: bool) -> None:
        super().__init__(_place())
        self._segment = name
        self._perm = perm
        self._exclusive = exclusive
        self._autocommit = autocommit

    def close(self) -> None:
        """Have the segment appear, unless a transaction decides about that later."""
        if self.closed:
            return
        if self._autocommit:
            self.commit()
        else:
            self.flush()

    def commit(self) -> None:
        """Have the segment appear now."""
        try:
            self.flush()
            _show(self.raw, self._segment, self._perm, exclusive=self._exclusive)
        finally:
            self.discard()

    def discard(self) -> None:
        """Close without a segment."""
        if not self.closed:
            raw = self.raw
            with contextlib.suppress(OSError, ValueError):  # what is still buffered may not fit
                super().close()
            raw.close()

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def _place() -> io.RawIOBase:
    """Where a segment grows until its size is known: where it will be, if that can be."""
    if sys.platform != "win32" and NAMES_ARE_FILES:
        fd = nameless.begin()
        if fd >= 0:
            return _Nameless(fd, "rb+")
    return _Heap()


class _Nameless(io.FileIO):
    """Where the system lets a file grow without a name."""

    def _dealloc_warn(self, _source: object) -> None:
        """As every handle of ours, it may be left to the garbage collector."""


class _Heap(io.RawIOBase):
    """Bytes on the heap: what `io.BytesIO` is, but raw."""

    def __init__(self) -> None:
        self.content = io.BytesIO()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        return self.content.readinto(buffer)

    def write(self, data: Any, /) -> int:
        return self.content.write(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self.content.seek(offset, whence)

    def truncate(self, size: int | None = None, /) -> int:
        return self.content.truncate(size)


def _show(place: Any, name: str, perm: int, *, exclusive: bool) -> None:
    if sys.platform != "win32" and isinstance(place, io.FileIO):
        nameless.show(place.fileno(), name, perm, exclusive=exclusive)
        return
    with place.content.getbuffer() as content:
        if not len(content):
            raise OSError(errno.EINVAL, "shared memory has at least one byte, and nothing was written", name)
        while True:
            try:
                h = shm.create(name, len(content), perm=perm, persist=True)
                break
            except FileExistsError:
                if exclusive:
                    raise
            with contextlib.suppress(FileNotFoundError):
                shm.unlink(name)
        with h:
            try:
                h.write(content)
            except BaseException:  # Ctrl-C
                shm.unlink(name)
                raise
