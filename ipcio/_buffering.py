"""The read-ahead and the unwritten data of Python's file objects.

A lock protects bytes of a file, but the layers of `io` between a program and its file keep
copies.  Data that were read ahead before the lock was acquired may be stale, and data that are
still unwritten when it is released reach the file too late.
"""

from __future__ import annotations

import io
import os

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NOTHING_READ: set[type] = {int, io.FileIO, io.BufferedWriter}
"""Usual types that read nothing ahead."""

NOTHING_UNWRITTEN: set[type] = {int, io.FileIO, io.BufferedReader}
"""Usual types in which nothing waits to be written."""

MEMORY: set[type] = set()
"""The classes that a handle of memory can have; `ipcio.filelock` asks them for a descriptor."""

PREPARATIONS: list[Callable[[], object]] = []
"""What is called before the first handle of memory is made: see `ipcio._memory.prepare`."""

_DEEPEST = 10  # wrappers around wrappers
_type: Callable[[Any], type] = type  # of anything, for type checkers


def add_memory(*types: type) -> None:
    """Add these to `MEMORY`.  They read nothing ahead, and nothing waits in them."""
    for kinds in MEMORY, NOTHING_READ, NOTHING_UNWRITTEN:
        kinds.update(types)


def refresh(file: Any) -> None:
    """Forget what was read ahead, so that the next read asks the file; what was written stays written.

    The position does not change.  Raises `OSError` in the middle of ``for line in
    file`` over text, where the position is unknown, also to `tell`.  What was read from a
    pipe is kept, because it is nowhere else.
    """
    file = _layer(file)
    if _is_text(file):
        if file.readable() and file.seekable():
            at = file.tell()  # also flushes
            refresh(file.buffer)
            if at != file.buffer.tell():  # otherwise nothing is decoded ahead, and an encoder may keep its state
                file.seek(at)  # decodes again from there
    elif _is_buffered(file) and file.readable():
        if file.writable() and file.seekable():
            file.flush()  # a BufferedRandom also drops what it has read
        _forget_read_ahead(file)


def _forget_read_ahead(file: Any) -> int | None:
    """Return the position, or None if there is none."""
    try:
        at: int = file.tell()
    except OSError:
        if file.seekable():
            raise
        return None
    raw = file.raw
    if type(raw) is io.FileIO and raw.tell() == at:  # which is faster than to move
        return at
    # A BufferedReader keeps its buffer if the new position lies within it.  From the end of the
    # file it does not.  Both moves are one step (`ipcio._record`), so that Ctrl-C cannot leave it at the end.
    seek: Callable[[int, int], int] = file.seek
    list(map(seek, (0, at), _END_AND_BACK))
    return at


def _forget_decoded(file: io.TextIOWrapper) -> None:
    buffer: Any = file.buffer
    kind = _type(buffer)
    if kind is io.BufferedReader and file.seekable():
        at = file.tell()
        if at != _forget_read_ahead(buffer):
            file.seek(at)
    elif kind is io.BufferedRandom:
        at = file.tell()  # also flushes the buffer, which then has nothing read ahead
        if at != buffer.tell():
            file.seek(at)
    else:
        refresh(file)


_END_AND_BACK = os.SEEK_END, os.SEEK_SET

# `refresh` and `flush` in as few steps as possible, for exactly the types that `open` returns.
FORGET: dict[type, Callable[[Any], object]] = {
    io.BufferedRandom: io.BufferedRandom.flush,  # which also drops what was read
    io.BufferedReader: _forget_read_ahead,
    io.TextIOWrapper: _forget_decoded,
}


def flush(file: Any) -> None:
    """Have everything that was written reach the operating system; change nothing else."""
    file = _layer(file)
    if _is_text(file) and file.readable():
        _write_encoded(file)
    elif not isinstance(file, int | io.RawIOBase) or isinstance(file, io.FileIO):  # a subclass of FileIO may keep data
        write_out = getattr(file, "flush", None)
        if write_out is not None:
            write_out()


def _write_encoded(file: Any) -> None:
    # `flush` of a text file would also allow `tell` again in the middle of ``for line in file``.
    # Its answer would be wrong, and `refresh` would believe it.
    file.read(0)  # hands what was written to the buffer
    file.buffer.flush()


def _write_text(file: io.TextIOWrapper) -> None:
    buffer: Any = file.buffer
    kind = _type(buffer)
    if kind is io.BufferedRandom:
        file.read(0)  # as in `_write_encoded`
        buffer.flush()
    elif kind is not io.BufferedReader:
        flush(file)


WRITE_OUT: dict[type, Callable[[Any], object]] = {
    io.BufferedRandom: io.BufferedRandom.flush,
    io.BufferedWriter: io.BufferedWriter.flush,
    io.TextIOWrapper: _write_text,
}


def lent(file: Any) -> int:
    """Return the descriptor of the `ipcio.MemoryFile` within `file`, also one that ``fileno`` does not give.

    Raises `io.UnsupportedOperation` if that has no descriptor.
    """
    layer = innermost(file)
    # The class is asked, as below.  A layer of `io` itself says why it has no descriptor.
    lend: Callable[[Any], int] = getattr(layer.__class__, "_lend", layer.__class__.fileno)
    return lend(layer)


def innermost(file: Any) -> Any:
    """Return the object under the layers of `io` and under wrappers: often an `io.FileIO`."""
    layer = _layer(file)
    while _is_text(layer) or _is_buffered(layer):
        layer = _layer(layer.buffer if _is_text(layer) else layer.raw)
    return layer


# A layer is recognised by the attributes of its class, so those of `_pyio` are recognised, too.
# Instances are not asked, because many wrappers pass every question on.


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
