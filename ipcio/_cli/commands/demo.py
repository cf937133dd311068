"""``ipcio demo``: one job for the modules together."""

from __future__ import annotations

import os

from ipcio._cli.common import count
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ipcio._cli.common import Commands

_EXAMPLES = """\
$ echo one two two > words.txt
$ ipcio demo --workers 2 --top 1 words.txt
...
"""


def register(commands: Commands) -> None:
    """Add the subcommand."""
    demo = commands.add_parser(
        "demo",
        help="count the words of files with worker processes that find each other by name",
        description="Count the words of files with worker processes that find each other by name, "
        "and compare the result with the count of a single process.",
        examples=_EXAMPLES,
    )
    demo.add_argument(
        "files", metavar="FILE", nargs="*", help="the files; default: the sources of Python's standard library"
    )
    demo.add_argument("-j", "--workers", metavar="N", type=count, help="how many; default: two per CPU")
    demo.add_argument("-n", "--top", metavar="N", type=count, default=10, help="words to show; default: %(default)s")
    demo.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from ipcio import _demo

    _demo.run(arguments.files, arguments.workers or 2 * (os.cpu_count() or 1), arguments.top)
