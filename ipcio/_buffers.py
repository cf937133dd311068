"""What Python's file objects keep to themselves, and how to make them give it up.

A lock says who may touch bytes of a file; but the layers of `io` between a program and
its file keep bytes of their own.  What was read ahead before a lock was had is stale
after it, and what is still unwritten when a lock is let go comes too late.
"""

from __future__ import annotations

import io
import os

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["PLAIN", "flush", "lent", "refresh"]

PLAIN = frozenset({int, io.FileIO})
"""The usual types between which and the descriptor there is nothing; there are others."""

_DEEPEST = 10  # wrappers around wrappers


def refresh(file: Any) -> None:
    """Forget what was read ahead, so that the next read asks the file; what was written stays written.

    The position is what it was.  Raises `OSError` in the middle of ``for line in
    file`` over text: then nobody, `tell` included, can know the position.  Of a pipe
    and the like nothing is forgotten: what was read is nowhere else.
    """
    file = _layer(file)
    if _is_text(file):
        if file.readable() and file.seekable():
            at = file.tell()  # also flushes
            refresh(file.buffer)
            if at != file.buffer.tell():  # else nothing is decoded ahead, and an encoder need not forget its state
                file.seek(at)  # decodes anew from there
    elif _is_buffered(file) and file.readable() and file.seekable():
        if file.writable():
            file.flush()  # of a BufferedRandom, also drops what it has read
        # A BufferedReader that can reach a position within its buffer stays in there, but
        # not from the end.  Both in one call of C, lest Ctrl-C leave it at the end.
        seek: Callable[[int, int], int] = file.seek
        list(map(seek, (0, file.tell()), (os.SEEK_END, os.SEEK_SET)))


def flush(file: Any) -> None:
    """Have everything that was written reach the operating system; change nothing else."""
    file = _layer(file)
    if _is_text(file) and file.readable():
        # Its flush() would also allow tell() again in the middle of ``for line in file``,
        # with a wrong answer, which refresh() would then believe.
        file.read(0)  # hands what was written to the buffer
        file.buffer.flush()
    elif not isinstance(file, int | io.RawIOBase) or isinstance(file, io.FileIO):  # a class of FileIO may keep bytes
        write_out = getattr(file, "flush", None)
        if write_out is not None:
            write_out()


def lent(file: Any) -> int:
    """Return the descriptor of the `ipcio.MemoryFile` within `file`, also one that ``fileno`` does not give.

    Raises `io.UnsupportedOperation` if there is none.
    """
    layer = _layer(file)
    while _is_text(layer) or _is_buffered(layer):
        layer = _layer(layer.buffer if _is_text(layer) else layer.raw)
    # Asked of the class, as below.  The layer of `io` itself says why it has no descriptor.
    lend: Callable[[Any], int] = getattr(layer.__class__, "_lend", layer.__class__.fileno)
    return lend(layer)


# The layers are told by what their classes have, so that those of `_pyio` are known, too;
# instances are not asked, for many a wrapper passes on questions that it has no answer to.


def _is_text(file: Any) -> bool:
    return hasattr(file.__class__, "buffer")


def _is_buffered(file: Any) -> bool:
    return hasattr(file.__class__, "raw")


def _layer(file: Any) -> Any:
    """The layer of `io` inside wrappers such as those of `tempfile` and `codecs`, if there is one."""
    layer = file
    for _ in range(_DEEPEST):
        if isinstance(layer, int | io.RawIOBase) or _is_text(layer) or _is_buffered(layer):
            return layer
        inner = [getattr(layer, attribute, None) for attribute in ("file", "_file", "stream")]
        layer = next((each for each in inner if each is not None), None)
    return file  # it has none, or contains itself
