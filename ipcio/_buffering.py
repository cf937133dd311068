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

PLAIN: set[type] = {int, io.FileIO}
"""The usual types between which and the descriptor there is nothing; there are others."""

MEMORY: set[type] = set()
"""The types of `ipcio.MemoryFile`, which are plain, too; `ipcio.filelock` goes straight to their descriptor."""

_DEEPEST = 10  # wrappers around wrappers


def add_memory(*types: type) -> None:
    """Have these types known as those of `ipcio.MemoryFile`."""
    MEMORY.update(types)
    PLAIN.update(types)


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
    elif _is_buffered(file) and file.readable():
        if file.writable() and file.seekable():
            file.flush()  # of a BufferedRandom, also drops what it has read
        _forget_read_ahead(file)


def _forget_read_ahead(file: Any) -> None:
    try:
        at: int = file.tell()
    except OSError:
        if file.seekable():
            raise
        return
    # A BufferedReader that can reach a position within its buffer stays in there, but
    # not from the end.  Both in one step (`ipcio._record`), lest Ctrl-C leave it at the end.
    seek: Callable[[int, int], int] = file.seek
    list(map(seek, (0, at), _END_AND_BACK))


def _forget_decoded(file: io.TextIOWrapper) -> None:
    buffer = file.buffer
    if type(buffer) is not io.BufferedRandom:
        refresh(file)
        return
    at = file.tell()  # also flushes the buffer, which then has nothing read ahead
    if at != buffer.tell():
        file.seek(at)


_END_AND_BACK = os.SEEK_END, os.SEEK_SET

# What `refresh` and `flush` come to for the very types that `open` gives, in as few steps as can be.
FORGET: dict[type, Callable[[Any], object]] = {
    io.BufferedRandom: io.BufferedRandom.flush,  # also drops what it has read
    io.BufferedReader: _forget_read_ahead,
    io.TextIOWrapper: _forget_decoded,
}


def flush(file: Any) -> None:
    """Have everything that was written reach the operating system; change nothing else."""
    file = _layer(file)
    if _is_text(file) and file.readable():
        _write_encoded(file)
    elif not isinstance(file, int | io.RawIOBase) or isinstance(file, io.FileIO):  # a class of FileIO may keep bytes
        write_out = getattr(file, "flush", None)
        if write_out is not None:
            write_out()


def _write_encoded(file: Any) -> None:
    # The flush() of a text file would also allow tell() again in the middle of ``for line in
    # file``, with a wrong answer, which refresh() would then believe.
    file.read(0)  # hands what was written to the buffer
    file.buffer.flush()


def _write_text(file: io.TextIOWrapper) -> None:
    if type(file.buffer) in FORGET:  # so it can be read
        file.read(0)
        file.buffer.flush()
    else:
        flush(file)


WRITE_OUT: dict[type, Callable[[Any], object]] = {
    io.BufferedRandom: io.BufferedRandom.flush,
    io.BufferedReader: io.BufferedReader.flush,
    io.BufferedWriter: io.BufferedWriter.flush,
    io.TextIOWrapper: _write_text,
}


def lent(file: Any) -> int:
    """Return the descriptor of the `ipcio.MemoryFile` within `file`, also one that ``fileno`` does not give.

    Raises `io.UnsupportedOperation` if there is none.
    """
    layer = innermost(file)
    # Asked of the class, as below.  The layer of `io` itself says why it has no descriptor.
    lend: Callable[[Any], int] = getattr(layer.__class__, "_lend", layer.__class__.fileno)
    return lend(layer)


def innermost(file: Any) -> Any:
    """Return what lies under the layers of `io` and wrappers: often a `io.FileIO`."""
    layer = _layer(file)
    while _is_text(layer) or _is_buffered(layer):
        layer = _layer(layer.buffer if _is_text(layer) else layer.raw)
    return layer


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
