"""``ipcio wait``: wait until a name exists, or until it does not."""

from __future__ import annotations

import time

from ipcio._cli import completion
from ipcio._cli.common import add_exit_code, add_names, add_timeout
from ipcio._cli.names import KINDS
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ipcio._cli.common import Commands

_PAUSE = 0.02  # seconds between two looks
_COST = 50  # pauses are at least so many times as long as a look: 2 % of a processor

_EXAMPLES = """\
$ echo gold 2650 | ipcio put prices
$ ipcio wait --timeout 5 prices && ipcio cat prices
gold 2650
$ ipcio rm prices
$ ipcio wait --gone prices
"""


def register(commands: Commands) -> None:
    """Add the subcommand."""
    wait = commands.add_parser(
        "wait",
        help="wait until a name exists, or until it does not",
        description="Wait until an object of this name exists, of any kind, or with --gone until none does. "
        "What only killed processes held does not exist. Waiting changes nothing and keeps nothing.",
        epilog="After a timeout nothing is printed, and the exit status is that of -E.",
        examples=_EXAMPLES,
    )
    add_names(wait, completion.of_kind, help="the name to wait for")
    wait.add_argument("--kind", choices=list(KINDS), help="only an object of this kind")
    wait.add_argument("--gone", action="store_true", help="wait until the name does not exist")
    add_timeout(wait, ", 0 to look once")
    add_exit_code(wait, "the name does not appear (with --gone: does not go)")
    wait.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ipcio._inventory import exists

    kinds = [arguments.kind] if arguments.kind else list(KINDS)
    end = float("inf") if arguments.timeout is None else time.monotonic() + arguments.timeout
    while True:
        started = time.monotonic()
        if exists(arguments.name, kinds) is not arguments.gone:
            return 0
        now = time.monotonic()
        if now >= end:
            return int(arguments.conflict_exit_code)
        time.sleep(min(max(_PAUSE, _COST * (now - started)), end - now))
