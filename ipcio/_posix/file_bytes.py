"""The bytes of an object, read and written by calls of the system and not through a map.

If another user cuts the file short, such a call fails, and touching a map would be a SIGBUS.
"""

from __future__ import annotations

import os
import sys

from ipcio._forklock import fork_lock
from ipcio._posix import namespace, own_file
from ipcio._posix.words import cut_short
from ipcio._record import calling
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ipcio._tuples import OpenObject

_CELL = 8
_LOOKS = 100


class FileBytes:
    """The bytes, as slices of them."""

    __slots__ = ("_file", "_name")

    def __init__(self, opened: OpenObject) -> None:
        with fork_lock:
            path = namespace.segment_path(opened.name, opened.kind)
            self._file = own_file.of(opened.fd, path, opened.name)
        self._name = opened.name

    def __getitem__(self, where: slice) -> bytes:
        fd, at = self._file.data(-1), where.start
        pieces: list[bytes] = []
        while at < where.stop:
            piece = os.pread(fd, where.stop - at, at)
            if not piece:
                raise cut_short(self._name)
            pieces.append(piece)
            at += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def __setitem__(self, where: slice, data: Buffer) -> None:
        fd, at = self._file.data(-1), where.start
        with memoryview(data) as view:
            while at < where.stop:
                at += os.pwrite(fd, view[at - where.start :], at)


class FileCells:
    """The same as unsigned numbers of 8 bytes, each of which a process stores in one step."""

    __slots__ = ("_bytes", "_file")

    def __init__(self, contents: FileBytes) -> None:
        self._bytes = contents
        self._file = contents._file

    def __getitem__(self, number: int) -> int:
        """Return the number.  Nothing promises that a call reads all 8 bytes in one step, so it reads them again."""
        where = slice(number * _CELL, (number + 1) * _CELL)
        data = self._bytes[where]
        for _ in range(_LOOKS):
            before, data = data, self._bytes[where]
            if data == before:
                break
        return int.from_bytes(data, sys.byteorder)

    def __setitem__(self, number: int, value: int) -> None:
        fd, data = self._file.data(-1), value.to_bytes(_CELL, sys.byteorder)
        for _ in calling(os.pwrite, fd, data, number * _CELL):
            return
