"""``ipcio cat``: a segment's bytes on standard output."""

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

_PIECE = 1 << 20  # bytes

_EXAMPLES = """\
$ printf 'silver 31\\ngold 2650\\n' | ipcio put prices
$ ipcio cat prices | sort
gold 2650
silver 31
$ ipcio rm prices
"""


def register(commands: Commands) -> None:
    """Add the subcommand."""
    cat = commands.add_parser(
        "cat",
        help="write the bytes of a segment to standard output",
        description="Write the bytes of a segment to standard output. Bytes that another process changes meanwhile "
        "are written in either state.",
        examples=_EXAMPLES,
    )
    add_names(cat, completion.of("shm"), help="the name of the segment")
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
                except BlockingIOError:  # another process that has the open file made it non-blocking
                    _wait_for(target)
                    continue
                rest = rest[written:]
                progress.add(written)


def _pieces(segment: MemoryFile) -> Iterator[memoryview]:
    """Yield the bytes, one piece after the other."""
    try:
        source = segment.fileno()
    except OSError:  # memory has no descriptor on this system
        content = segment.getbuffer()
        yield from (content[at : at + _PIECE] for at in range(0, len(content), _PIECE))
        return
    # By read() and not from the map, of which every page that was touched would count as this process's memory.
    while piece := os.read(source, _PIECE):
        yield memoryview(piece)


def _wait_for(target: int) -> None:
    import select

    select.select([], [target], [])
