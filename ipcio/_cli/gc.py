"""``ipcio gc``: what the dead left behind."""

from __future__ import annotations

import sys

from ipcio._cli.table import note, shown
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ipcio._cli.common import Commands

__all__ = ["register"]


def register(commands: Commands) -> None:
    """Add the subcommand."""
    gc = commands.add_parser(
        "gc",
        help="remove what the dead left behind",
        description="Remove shared memory and semaphores whose every holder is dead, and print what they were. "
        "Nobody has to: the next use of the name does the same.",
        epilog="An orphaned object that cannot be removed, because it belongs to another user or because another "
        "process keeps an exclusive lock on it, is skipped at once, with a line on standard error; the exit status "
        "is 0 all the same.",
    )
    gc.set_defaults(run=_run)


def _run(_: argparse.Namespace) -> None:
    from ipcio._inventory import remove_orphans

    nothing = True
    for each in remove_orphans(_skipped):
        nothing = False
        print(each.kind, shown(each.name), *([] if each.size is None else [each.size, "bytes"]))
    if nothing:
        note("nothing was left behind")


def _skipped(name: str, reason: str) -> None:
    if sys.stderr is not None:
        print(f"ipcio: skipped {shown(name)}: {reason}", file=sys.stderr)
