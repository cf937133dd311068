"""Buffers of any kind, seen as plain bytes."""

from __future__ import annotations

from ipcio._forklock import FREE_THREADED
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Buffer

COPY_TWICE = 65536
"""Up to this many bytes, a copy through a `bytes` object is as fast as one through a view."""

LINE_GUESS = 128
"""So many bytes are looked at first when a line is sought, and eight times more each round."""


def writable_bytes(buffer: Buffer) -> memoryview[int]:
    """View `buffer`, writable and contiguous but of any format, as bytes.

    The caller has to release the view: while one exists, in the traceback of an error
    say, the owner of the buffer cannot resize it.
    """
    with memoryview(buffer) as view:
        if view.readonly:
            raise TypeError(f"readinto() argument must be read-write bytes-like object, not {type(buffer).__name__!r}")
        if not view.c_contiguous:
            raise BufferError("readinto() argument must be C-contiguous")
        if view.format == "B" and view.ndim == 1:
            return view[:]
    return raw_bytes(buffer)


def raw_bytes(buffer: Buffer) -> memoryview[int]:
    """View any contiguous buffer as bytes; `memoryview.cast` refuses big-endian and structured items."""
    if TYPE_CHECKING:
        from pickle import PickleBuffer
    else:
        from _pickle import PickleBuffer  # see `ipcio._memory.prepare`; without the rest of `pickle`

    return PickleBuffer(buffer).raw()


def exporter(memory: Any) -> Any:
    """What to view `memory` through, so that any thread can release the new view."""
    return memory


if FREE_THREADED and not TYPE_CHECKING:

    def exporter(memory: Any) -> Any:
        # All views of one view are counted in one place, and without the GIL two threads that
        # release theirs miscount.  This one is counted by its references alone.
        from _pickle import PickleBuffer

        return PickleBuffer(memory) if isinstance(memory, memoryview) else memory


def line_at(view: memoryview[int], start: int, stop: int) -> bytes:
    """The line at `start`, its newline included, or what there is before `stop`.

    Looks at a little first and at eight times more each round, so that what is
    copied stays in proportion to the line.
    """
    span = LINE_GUESS
    while True:
        end = min(start + span, stop)
        piece = view[start:end].tobytes()
        cut = piece.find(b"\n") + 1
        if cut:
            return piece[:cut]
        if end == stop:
            return piece
        span *= 8
