"""The subcommands, one module for each.

A module has a function ``register``, which adds a parser.  The parser's default ``run`` is a function
that is called with the parsed arguments.  It imports what it needs and returns the exit status,
None for 0.  What `ipcio` raises ends as one line on stderr and exit status 1, and so does
`SystemExit` with a line of its own.  Usage errors are argparse's, with exit status 2.

A new subcommand is a module here and its name in `NAMES`.  The help, the shell's completion, the manual page and the
tests of all three find it there.  If a subcommand runs another program, its module lists it in `RUNS`: the words
with which the subcommand begins, and its options that are followed by a value.
"""

from __future__ import annotations

from importlib import import_module

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipcio._cli.common import Commands

NAMES = "demo", "ls", "stat", "wait", "rm", "gc", "put", "cat", "sem", "mutex", "event", "queue", "lock"
"""In the order of ``ipcio --help``."""


def register(commands: Commands, names: Sequence[str] = NAMES) -> None:
    """Add the parsers of all subcommands, or of these."""
    for name in names:
        import_module(f"{__name__}.{name}").register(commands)


def split(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Split the arguments of ``ipcio`` into its own and the command, if any, that a subcommand is to run."""
    if words and words[0] in NAMES:
        runs = getattr(import_module(f"{__name__}.{words[0]}"), "RUNS", {})
        for path, with_value in runs.items():
            if tuple(words[: len(path)]) == path:
                from ipcio._cli import programs

                return programs.split(words, len(path), with_value)
    return words, ()
