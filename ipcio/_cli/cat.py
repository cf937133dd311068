"""``ipcio cat``: a segment's bytes on the standard output."""

from __future__ import annotations

import os
import sys

from ipcio._cli import completion
from ipcio._cli.common import add_names
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ipcio import MemoryFile
    from ipcio._cli.common import Commands

__all__ = ["register"]

_PIECE = 1 << 20  # bytes


def register(commands: Commands) -> None:
    """Add the subcommand."""
    cat = commands.add_parser(
        "cat",
        help="write the bytes of a segment to standard output",
        description="Write the bytes of a segment to the standard output, as they are when their turn comes.",
    )
    add_names(cat, completion.memory)
    cat.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from ipcio import shm
    from ipcio._cli.progress import Progress

    target = sys.stdout.fileno()
    with shm.attach(arguments.name, "r") as segment, Progress(segment.size(), target) as progress:
        for piece in _pieces(segment):
            rest = piece
            while rest:
                try:
                    written = os.write(target, rest)
                except BlockingIOError:  # somebody who shares the open file does not want to wait; we do
                    _wait_for(target)
                    continue
                rest = rest[written:]
                progress.add(written)


def _pieces(segment: MemoryFile) -> Iterator[memoryview]:
    """Give the bytes, one piece after the other."""
    try:
        source = segment.fileno()
    except OSError:  # there is none
        content = segment.getbuffer()
        yield from (content[at : at + _PIECE] for at in range(0, len(content), _PIECE))
        return
    # Not out of the memory that is mapped: all of it would count as this process's in the end.
    while piece := os.read(source, _PIECE):
        yield memoryview(piece)


def _wait_for(target: int) -> None:
    import select

    select.select([], [target], [])
