"""The files that the file system of `ipcio._fsspec` opens."""

from __future__ import annotations

import io

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from ipcio import MemoryFile
    from ipcio._segment_writer import SegmentWriter


class SharedMemoryReader(io.BufferedReader):
    """A segment open for reading; `raw` is the `ipcio.MemoryFile`.

    It is buffered because parsers make many small reads; large reads bypass the buffer.
    """

    def __init__(self, raw: MemoryFile) -> None:
        super().__init__(raw)
        self._memory = raw
        self.size = raw.size()
        """In bytes; a number, as in fsspec's own files."""

    def getbuffer(self) -> memoryview[int]:
        """Return the memory itself, read-only, without a copy."""
        return self._memory.getbuffer()


class SharedMemoryWriter(io.BufferedRandom):
    """A new segment; other processes can attach it, complete, once this is closed, or `commit` is called.

    It is buffered because libraries make many small writes.  `raw` is what `ipcio.shm.open` returns.
    Unlike that, this is closed if it is garbage-collected: what compresses for fsspec only drops the file that it
    writes to.
    """

    def __init__(self, raw: SegmentWriter, *, autocommit: bool) -> None:
        super().__init__(raw)
        raw.is_wrapped = True
        self._segment = raw
        self._autocommit = autocommit

    def close(self) -> None:
        """Give the segment its name, unless only `commit` does that."""
        if self.closed:
            return
        if self._autocommit or self._segment.is_copy():
            self.commit()
        else:
            self.flush()

    def commit(self) -> None:
        """Give the segment its name now."""
        try:
            if not self._segment.is_copy():
                self.flush()
                self._segment.close()
        finally:
            self.discard()

    def discard(self) -> None:
        """Close.  Without a `commit` before, there will be no segment."""
        self._segment.discard()  # so there is nowhere to flush to

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
