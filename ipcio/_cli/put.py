"""``ipcio put``: the standard input becomes a segment that persists."""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import TYPE_CHECKING

from ipcio._cli import completion
from ipcio._cli.common import add_names

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ipcio._cli.common import Commands
    from ipcio._cli.progress import Progress

__all__ = ["register"]

_PIECE = 1 << 20  # bytes


def register(commands: Commands) -> None:
    """Add the subcommand."""
    put = commands.add_parser(
        "put",
        help="make a segment of what is read from standard input",
        description="Read the standard input to its end and make a segment of exactly that size of it, which persists "
        "until it is removed. Nobody sees half of it: the name is there when all has been read.",
    )
    add_names(put, completion.memory)
    put.add_argument("--force", action="store_true", help="replace a segment that has the name, at the very end")
    put.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    if sys.platform == "win32":
        from ipcio import shm

        shm.create(arguments.name, 1, persist=True)  # says why not
    else:
        from ipcio._cli.progress import Progress
        from ipcio._posix.abilities import NAMES_ARE_FILES

        if NAMES_ARE_FILES:
            from ipcio._posix.put import put
        else:
            from ipcio._posix.put_opened import put

        if sys.stdin is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard input")
        source = sys.stdin.fileno()
        size = _left(source)
        with Progress(size, source) as progress:
            put(arguments.name, _pieces(source, progress), size, replace=arguments.force)


def _left(source: int) -> int:
    """How much there is to read, 0 if nobody knows."""
    info = os.fstat(source)
    return max(info.st_size - os.lseek(source, 0, os.SEEK_CUR), 0) if stat.S_ISREG(info.st_mode) else 0


if sys.platform != "win32":

    def _pieces(source: int, progress: Progress) -> Iterator[memoryview]:
        """Give what there is to read, each piece until the next is asked for."""
        piece = memoryview(bytearray(_PIECE))
        while True:
            try:
                length = os.readv(source, [piece])
            except BlockingIOError:  # somebody who shares the open file does not want to wait; we do
                _wait_for(source)
                continue
            if not length:
                return
            yield piece[:length]
            progress.add(length)

    def _wait_for(source: int) -> None:
        import select

        select.select([source], [], [])
