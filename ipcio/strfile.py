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
import os
from operator import index

from ipcio._bytes import raw_bytes
from ipcio._memfile import MemoryFile
from ipcio._memfile_fast import FastFile
from ipcio._memory import prepare
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from typing_extensions import Buffer

__all__ = ["open"]


def open(data: str | Buffer | MemoryFile) -> MemoryFile:
    """Return a read-only handle over `data`, at position 0.

    `data` is a `str`, read as UTF-8, or any contiguous buffer: `bytes`,
    `bytearray`, `memoryview`, `array.array`, a numpy array of any item type, another
    handle.  While the handle is open, a `bytearray` cannot be resized.  The handle has no
    descriptor; it pickles by value.

    Raises `TypeError` for an object that is not a buffer, `BufferError` for a buffer that is
    not contiguous, `UnicodeEncodeError` for a `str` with lone surrogates.
    """
    if isinstance(data, str):
        data = data.encode()
    elif isinstance(data, MemoryFile):  # before Python 3.12 no buffer by itself
        data = data.getbuffer()
    prepare()
    with memoryview(data) as whole:
        plain = whole.format == "B" and whole.ndim == 1 and whole.contiguous
        view = (whole[:] if plain else raw_bytes(data)).toreadonly()
    if type(data) is bytes:  # which never changes, so BytesIO needs no copy
        return FastFile._over(_BytesCursor(data), view, "<strfile>", "rb", _reduce)
    return MemoryFile._over(None, view, "<strfile>", "rb", _reduce)


class _BytesCursor(io.BytesIO):
    """`io.BytesIO` that refuses, as a map does, to seek before the start."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence != os.SEEK_SET and index(offset) < 0:  # BytesIO would stop at 0
            raise ValueError("it may be before the start")
        return super().seek(offset, whence)


def _reduce(view: memoryview[int]) -> tuple[Callable[..., MemoryFile], tuple[Any, ...]]:
    return open, (view.tobytes(),)


def __dir__() -> list[str]:
    return __all__
