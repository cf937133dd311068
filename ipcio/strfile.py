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
from typing import TYPE_CHECKING

from ipcio._direct import CursorFile
from ipcio._memfile import MemoryFile, raw_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from typing_extensions import Buffer

__all__ = ["open"]


def open(data: str | Buffer | MemoryFile) -> MemoryFile:
    """Return a read-only handle over `data`, at position 0.

    `data` is a `str`, read as UTF-8, or any contiguous buffer: `bytes`,
    `bytearray`, `memoryview`, `array.array`, a numpy array of any item type, another
    handle.  While the handle is open an object that could be resized (`bytearray`)
    cannot be.  The handle has no descriptor; it pickles by value.

    Raises `TypeError` for what is no buffer, `BufferError` for one that is not
    contiguous, `UnicodeEncodeError` for a `str` with lone surrogates.
    """
    if isinstance(data, str):
        data = data.encode()
    elif isinstance(data, MemoryFile):  # before Python 3.12 no buffer by itself
        data = data.getbuffer()
    view = memoryview(data)
    if view.format != "B" or view.ndim != 1 or not view.contiguous:
        view = raw_bytes(view)
    view = view.toreadonly()

    def reopen() -> tuple[Callable[..., MemoryFile], tuple[Any, ...]]:
        return open, (view.tobytes(),)

    if type(data) is bytes:  # nobody can change it, and BytesIO shares it
        return CursorFile(view, "<strfile>", "rb", reopen, cursor=io.BytesIO(data))
    return MemoryFile(view, "<strfile>", "rb", reopen)
