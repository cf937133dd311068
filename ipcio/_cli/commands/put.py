"""``ipcio put``: a persistent segment made of standard input."""

from __future__ import annotations

import errno
import os
import stat
import sys

from ipcio._cli import completion
from ipcio._cli.common import add_names, add_perm
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ipcio._cli.common import Commands

_PIECE = 1 << 20  # bytes
_SOURCE = "standard input"

_EXAMPLES = """\
$ printf 'gold 2650\\nsilver 31\\n' | ipcio put prices
$ echo gold 2700 | ipcio put --force --perm 640 prices
$ ipcio cat prices
gold 2700
$ ipcio rm prices
"""


def register(commands: Commands) -> None:
    """Add the subcommand."""
    put = commands.add_parser(
        "put",
        help="create a segment from standard input",
        description="Read standard input to its end and create a segment of exactly that size, which persists until it "
        "is removed. The name appears when everything has been read, so no process sees an incomplete segment.",
        examples=_EXAMPLES,
    )
    add_names(put, completion.of("shm"), help="the name of the new segment")
    put.add_argument("--force", action="store_true", help="replace an existing segment when everything has been read")
    add_perm(put)
    put.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    if sys.stdin is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), _SOURCE)
    try:
        _put(arguments)
    except FileExistsError as error:
        error.strerror = f"shared memory {arguments.name!r} exists already: pass --force to replace it"
        raise


def _put(arguments: argparse.Namespace) -> None:
    from ipcio._cli.progress import Progress
    from ipcio._segment_writer import open_writer

    source = sys.stdin.fileno()
    size = _left(source)
    writer = open_writer(arguments.name, arguments.perm, replace=arguments.force, size=size)
    with writer as segment, Progress(size, source) as progress:
        for piece in _pieces(source):
            segment.write(piece)
            progress.add(len(piece))
        segment.truncate()  # a file may have become shorter since it was measured


def _left(source: int) -> int:
    """Return how many bytes can be read; 0 if that is unknown."""
    info = os.fstat(source)
    return max(info.st_size - os.lseek(source, 0, os.SEEK_CUR), 0) if stat.S_ISREG(info.st_mode) else 0


def _pieces(source: int) -> Iterator[bytes]:
    while True:
        try:
            piece = os.read(source, _PIECE)
        except BlockingIOError:  # another process that has the open file made it non-blocking
            _wait_for(source)
            continue
        except OSError as error:
            error.filename = _SOURCE
            raise
        if not piece:
            return
        yield piece


def _wait_for(source: int) -> None:
    import select

    select.select([source], [], [])
