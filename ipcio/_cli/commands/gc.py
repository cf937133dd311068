"""``ipcio gc``: remove what processes that were killed have left."""

from __future__ import annotations

import sys

from ipcio._cli.table import hint, printable
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ipcio._cli.common import Commands

_EXAMPLES = """\
$ ipcio gc --dry-run
...
$ ipcio gc
...
"""


def register(commands: Commands) -> None:
    """Add the subcommand."""
    gc = commands.add_parser(
        "gc",
        help="remove orphaned objects",
        description="Remove shared memory, semaphores, mutexes, events and queues that no process holds any longer "
        "because their holders were killed, and print a line for each. The next call that uses such a name removes "
        "it, too, so running this is optional.",
        epilog="An orphaned object is skipped, with a line on standard error, if it belongs to another user or if "
        "another process keeps an exclusive lock on it. The exit status is 0 even then.",
        examples=_EXAMPLES,
    )
    gc.add_argument("-n", "--dry-run", action="store_true", help="print what would be removed, and remove nothing")
    gc.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from ipcio._inventory import remove_each_orphan

    nothing = True
    for each in remove_each_orphan(_print_skipped, dry_run=arguments.dry_run):
        nothing = False
        print(each.kind, printable(each.name), *([] if each.size is None else [each.size, "bytes"]))
    if nothing:
        hint("there are no orphaned objects")


def _print_skipped(name: str, reason: str) -> None:
    if sys.stderr is not None:
        print(f"ipcio: skipped {printable(name)}: {reason}", file=sys.stderr)
