"""Memory-mapped files, as files.

`open` maps a file, or a part of it, and returns a :class:`~ipcio.MemoryFile`: reads
and writes are copies in memory, shared with every process that maps or reads the
same file, with no system call between::

    from ipcio import mmap

    with mmap.open("words.txt") as h:
        for line in h:
            ...

The size of the file never changes through a handle.  A file that *somebody else*
cuts short while it is mapped takes the memory away under its readers.  On POSIX
systems who touches the lost bytes then dies of SIGBUS: a memory access is no call
that could fail.  What does not touch them goes on: opening, `close`, `seek`, `tell`,
`size`, `truncate`, `flush`, `getbuffer`, `fileno`, pickling.  A system call that is
given the memory (``os.write(fd, h.getbuffer())``) fails with ``OSError(EFAULT)``, and
one on the descriptor (``os.pread(h.fileno(), n, at)``) ends where the file ends now.
So map files that only grow or are replaced by renaming, and have those who cut a
file take a lock (`ipcio.filelock`); where neither can be had, read it and do not
map it.

(LuaIPC: ``ipc.mmap``; POSIX: ``mmap(2)``.  Not to be confused with the standard
library's module of the same name, on which this is built.)
"""

from __future__ import annotations

import io
import mmap as _mmap
import os
import sys
from operator import index

from ipcio._direct import DirectFile
from ipcio._memfile import MemoryFile, prepare
from ipcio._typing import TYPE_CHECKING

if sys.platform == "win32":
    from ipcio._windows import mmap as _chosen
else:
    from ipcio._posix import mmap as _chosen

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any, Literal

    from ipcio._contract import FileMapping, MmapBackend

__all__ = ["open", "pagesize"]

_backend: MmapBackend = _chosen

pagesize: int = _mmap.ALLOCATIONGRANULARITY
"""What `offset` must be a multiple of, in bytes."""

_MODES = {"r": "rb", "w": "wb", "rw": "rb+"}


def open(
    path: str | bytes | os.PathLike[Any] | int | IO[bytes],
    mode: Literal["r", "w", "rw"] = "r",
    offset: int = 0,
    size: int = 0,
) -> MemoryFile:
    """Map `size` bytes of a file from `offset` (0: to its end) and return a handle at position 0.

    path
        A path, or an open binary file or descriptor, which may be closed
        afterwards.  What a file object holds back in a buffer is flushed first.
    mode
        ``"r"`` maps read-only.  ``"rw"`` writes through to the file.  ``"w"`` does,
        too, and the handle refuses to read (the system still needs permission for
        both).

    An empty file opens as an empty handle.  Raises the `OSError` with which the
    system refuses the file (`PermissionError` also for a descriptor whose own mode
    forbids it; ``ENODEV`` for what is no regular file), `ValueError` for an offset
    that is no multiple of `pagesize` or a part that is not within the file.
    """
    if mode not in _MODES:
        raise ValueError(f"mode must be 'r', 'w' or 'rw', not {mode!r}")
    offset, size = index(offset), index(size)
    if offset < 0 or size < 0:
        raise ValueError(f"offset and size must not be negative, not {offset} and {size}")
    if offset % pagesize:
        raise ValueError(f"offset must be a multiple of mmap.pagesize ({pagesize}), not {offset}")
    file = _path_or_descriptor(path)
    name = getattr(path, "name", file) if hasattr(path, "fileno") else path
    prepare()
    absolute = None if isinstance(file, int) else os.path.abspath(file)

    def handle(mapping: FileMapping) -> MemoryFile:
        memory, fd, _ = mapping

        def recipe(memory: _mmap.mmap | memoryview) -> tuple[Callable[..., MemoryFile], tuple[Any, ...]]:
            return open, (absolute or _backend.path_of(fd), mode, offset, len(memory))

        if memory is None:
            return MemoryFile._over(memoryview(bytearray()), name, _MODES[mode], recipe, fd, offset)
        return DirectFile._over(memory, memory, name, _MODES[mode], recipe, fd, offset)

    return _backend.open(file, writable=mode != "r", offset=offset, size=size, into=handle)


def _path_or_descriptor(path: Any) -> str | bytes | int:
    if isinstance(path, (str, bytes, os.PathLike)):
        return os.fspath(path)
    if isinstance(path, io.TextIOBase):
        raise TypeError("a text file cannot be mapped; pass its path, or the binary file under it (.buffer)")
    if hasattr(path, "fileno"):
        descriptor = index(path.fileno())
        if hasattr(path, "flush"):
            path.flush()
        return descriptor
    descriptor = index(path)
    if descriptor < 0:
        raise ValueError(f"a descriptor must not be negative, not {descriptor}")
    return descriptor


def __dir__() -> list[str]:
    return __all__
