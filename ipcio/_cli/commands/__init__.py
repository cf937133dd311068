"""The subcommands, one module for each.

A module has a function ``register``, which adds a parser.  The parser's default ``run`` is a function
that is called with the parsed arguments.  It imports what it needs and returns the exit status,
None for 0.  What `ipcio` raises ends as one line on stderr and exit status 1, and so does
`SystemExit` with a line of its own.  Usage errors are argparse's, with exit status 2.

A new subcommand is a module here and its name in `NAMES`.  The help, the shell's completion and the
tests of both find it there.
"""

from __future__ import annotations

from importlib import import_module

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipcio._cli.common import Commands

NAMES = "demo", "ls", "rm", "gc", "put", "cat", "sem", "lock"
"""In the order of ``ipcio --help``."""


def register(commands: Commands) -> None:
    """Add the parsers of all subcommands."""
    for name in NAMES:
        import_module(f"{__name__}.{name}").register(commands)


def split(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Split the arguments of ``ipcio`` into its own and the command, if any, that a subcommand is to run."""
    if words[:1] == ["lock"]:
        from ipcio._cli.commands import lock

        return lock.split(words)
    return words, ()
