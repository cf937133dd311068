r"""A read-only file over a string or any buffer, without a copy.

Where `io.BytesIO` copies everything but `bytes`, `open` looks at the memory of the
object itself: opening takes the same time for a byte and a gigabyte, and what the
owner of a mutable buffer changes, the reader sees::

    from ipcio import strfile

    with strfile.open(bytearray(b"one\ntwo\n")) as h:
        h.readlines()

(LuaIPC: ``ipc.strfile``.)
"""

from __future__ import annotations

import io

from ipcio._bytes import raw_bytes
from ipcio._forklock import FREE_THREADED
from ipcio._memfile import MemoryFile
from ipcio._memory import prepare
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from typing_extensions import Buffer

__all__ = ["open"]

if FREE_THREADED:
    from ipcio._memfile import MemoryFile as _BufferFile
    from ipcio._memfile_fast import FastFile as _BytesFile
else:
    from ipcio._memfile_strfile import BufferFile as _BufferFile
    from ipcio._memfile_strfile import BytesFile as _BytesFile


def open(data: str | Buffer | MemoryFile) -> MemoryFile:
    """Return a read-only handle over `data`, at position 0.

    `data` is a `str`, read as UTF-8, or any contiguous buffer: `bytes`,
    `bytearray`, `memoryview`, `array.array`, a numpy array of any item type, another
    handle.  While the handle is open, a `bytearray` cannot be resized.  The handle has no
    descriptor; it pickles by value.

    Raises `TypeError` for an object that is not a buffer, `BufferError` for a buffer that is
    not contiguous, `UnicodeEncodeError` for a `str` with lone surrogates.
    """
    prepare()
    if type(data) is bytes:  # which never changes, so BytesIO needs no copy
        memory: Any = data
        return _BytesFile._over(io.BytesIO(data), memory, "<strfile>", "rb", _reduce)
    if isinstance(data, str):
        return open(data.encode())
    if isinstance(data, MemoryFile):  # before Python 3.12 no buffer by itself
        data = data.getbuffer()
    with memoryview(data) as whole:
        plain = whole.format == "B" and whole.ndim == 1 and whole.contiguous
        view = (whole[:] if plain else raw_bytes(data)).toreadonly()
    return _BufferFile._over(None, view, "<strfile>", "rb", _reduce)


def _reduce(handle: MemoryFile) -> tuple[Callable[..., MemoryFile], tuple[Any, ...]]:
    return open, (bytes(handle._check_open()),)


def __dir__() -> list[str]:
    return __all__
