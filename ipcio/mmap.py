"""Memory-mapped files, as files.

`open` maps a file, or a part of it, and returns a :class:`~ipcio.MemoryFile`: reads
and writes are copies in memory, shared with every process that maps or reads the
same file, with no system call between::

    from ipcio import mmap

    with mmap.open("words.txt") as h:
        for line in h:
            ...

The size of the file never changes through a handle.  If *another program* truncates a
mapped file, the missing bytes are no memory any longer, and to touch them is SIGBUS on POSIX
systems, which kills this process.  (An access to memory is not a call, so it cannot fail with an
error.)  Everything that does not touch them goes on: opening, `close`, `seek`, `tell`,
`size`, `truncate`, `flush`, `getbuffer`, `fileno`, pickling.  A system call that is
given the memory (``os.write(fd, h.getbuffer())``) fails with ``OSError(EFAULT)``, and
one on the descriptor (``os.pread(h.fileno(), n, at)``) ends where the file ends now.
So map only files that grow or are replaced by renaming, or have the programs that truncate
a file hold a lock meanwhile (`ipcio.filelock`).  If neither is possible, read the file instead.

(LuaIPC: ``ipc.mmap``; POSIX: ``mmap(2)``.  Not to be confused with the standard
library's module of the same name, on which this is built.)
"""

from __future__ import annotations

import io
import mmap as _mmap
import os
import sys

from ipcio._light import index
from ipcio._memfile import MemoryFile
from ipcio._memfile_fast import FastFile
from ipcio._memory import prepare
from ipcio._typing import TYPE_CHECKING

if sys.platform == "win32":
    from ipcio._windows import mmap as _chosen
else:
    from ipcio._posix import mmap as _chosen

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any, Literal

    from ipcio._backend.mmap import MmapBackend

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
    *,
    reserve: bool = False,
) -> MemoryFile:
    """Map `size` bytes of a file from `offset` (0: to its end) and return a handle at position 0.

    path
        A path, or an open binary file or descriptor, which may be closed
        afterwards.  The buffer of a file object is flushed first.  A file
        object must be one of `io` over a real file, or pass on the ``read`` of one, as
        `tempfile.NamedTemporaryFile` does.  An object with a ``read`` of its own is a
        `TypeError`: that of a compressed file gives other bytes than its descriptor.
    mode
        ``"r"`` maps read-only.  ``"rw"`` writes through to the file.  ``"w"`` does,
        too, and the handle refuses to read; the system still requires permission for
        both.
    reserve
        Give every byte of the part a block on the disk now, so that a full disk is an
        ``OSError(ENOSPC)`` here.  Otherwise a write into a hole of the file is SIGBUS if
        no block is left, which kills this process.  Requires a mode that writes.
        `NotImplementedError` on macOS and Windows.

    An empty file opens as an empty handle.  Raises the `OSError` with which the
    system refuses the file: `PermissionError` also for a descriptor that was not opened for
    the mode, ``ENODEV`` for anything but a regular file, and for a regular one that cannot be
    mapped, as in ``/proc``.  Raises `ValueError` for an offset that is not a multiple of
    `pagesize`, and for a part that is not within the file.
    """
    if mode not in _MODES:
        raise ValueError(f"mode must be 'r', 'w' or 'rw', not {mode!r}")
    offset, size = index(offset), index(size)
    if offset < 0 or size < 0:
        raise ValueError(f"offset and size must not be negative, not {offset} and {size}")
    if offset % pagesize:
        raise ValueError(f"offset must be a multiple of mmap.pagesize ({pagesize}), not {offset}")
    if reserve and mode == "r":
        raise ValueError("reserve=True requires mode 'w' or 'rw'")
    file = _path_or_descriptor(path)
    name = getattr(path, "name", file) if hasattr(path, "fileno") else path
    prepare()
    absolute = None if isinstance(file, int) else file if os.path.isabs(file) else os.path.abspath(file)

    def handle(memory: _mmap.mmap | None, fd: int, status: os.stat_result) -> MemoryFile:
        def reduce(handle: MemoryFile) -> tuple[Callable[..., MemoryFile], tuple[Any, ...]]:
            return open, (absolute or _backend.path_of(fd), mode, offset, len(handle._check_open()))

        if memory is None:
            return MemoryFile._over(
                None, memoryview(bytearray()), name, _MODES[mode], reduce, fd, offset, None, False, status
            )
        return FastFile._over(memory, memory, name, _MODES[mode], reduce, fd, offset, None, False, status)

    opened = _backend.open(file, writable=mode != "r", offset=offset, size=size, into=handle)
    if reserve:
        try:
            _backend.reserve(opened._lend(), offset, opened.size(), name)
        except BaseException:
            opened.close()
            raise
    return opened


def _path_or_descriptor(path: Any) -> str | bytes | int:
    if isinstance(path, (str, bytes, os.PathLike)):
        return os.fspath(path)
    if isinstance(path, io.TextIOBase):
        raise TypeError("a text file cannot be mapped; pass its path, or the binary file under it (.buffer)")
    if hasattr(path, "fileno"):
        if not _reads_its_descriptor(path):
            raise TypeError(
                f"read() of a {type(path).__name__!r} may give other bytes than its descriptor, as that of a "
                "compressed file does: use strfile.open(file.read()), or pass file.fileno() to map the descriptor's"
            )
        descriptor = index(path.fileno())
        if hasattr(path, "flush"):
            path.flush()
        return descriptor
    descriptor = index(path)
    if descriptor < 0:
        raise ValueError(f"a descriptor must not be negative, not {descriptor}")
    return descriptor


_DEEPEST = 10  # wrappers around wrappers
_BUFFERED: Any = (io.BufferedReader, io.BufferedWriter, io.BufferedRandom)
_READS_OF_BUFFERED = {kind.read for kind in _BUFFERED}
_READS = {io.FileIO.read, io.BytesIO.read}  # the second has no descriptor, which its ``fileno`` says


def _reads_its_descriptor(file: Any) -> bool:
    """Whether `file` gives the bytes of its descriptor, as far as its class shows.

    `MemoryFile` and the classes of `io` do, if their ``read`` is not overridden.  An object that passes
    on the ``read`` of another one is judged as that one.  An object without ``read`` is accepted.
    """
    for _ in range(_DEEPEST):
        kind: Any = file.__class__
        own = getattr(kind, "read", None)
        if isinstance(file, MemoryFile) or own in _READS:
            return True
        if isinstance(file, _BUFFERED) and own in _READS_OF_BUFFERED:
            file = file.raw
            continue
        read = getattr(file, "read", None)
        if read is None:
            return True
        owner = getattr(getattr(read, "__wrapped__", read), "__self__", file)
        if owner is file:
            return False
        file = owner
    return False


def __dir__() -> list[str]:
    return __all__
