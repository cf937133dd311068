"""Programs that a subcommand runs: ``ipcio lock FILE -- COMMAND`` and the like."""

from __future__ import annotations

import sys

from ipcio._cli.common import print_error
from ipcio._typing import TYPE_CHECKING

if sys.platform == "win32":
    from ipcio._windows import command as platform
else:
    from ipcio._posix import command as platform

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["cannot_run", "platform", "split"]

_CANNOT_RUN, _NOT_FOUND = 126, 127  # as in a shell


def split(words: Sequence[str], first: int, with_value: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Split the arguments of a subcommand into those of ipcio and the command that it is to run.

    The subcommand's own words begin at `first`, and one of them is not an option: a file or a name.  The
    command begins after ``--`` or, without that, at the next word that is not an option.  `with_value` are
    the options that are followed by a value.
    """
    has_object = False
    index = first
    while index < len(words):
        word = words[index]
        if word == "--":
            return words[:index], words[index + 1 :]
        if word[:1] != "-" or word == "-":
            if has_object:
                return words[:index], words[index:]
            has_object = True
        elif _wants_value(word, with_value) and words[index + 1 : index + 2] != ["--"]:
            index += 1
        index += 1
    return words, []


def _wants_value(word: str, with_value: Sequence[str]) -> bool:
    """Whether the value of this option is the next word; argparse accepts the first letters of a long option."""
    return word in with_value or (len(word) > len("--") and any(each.startswith(word) for each in with_value))


def cannot_run(command: Sequence[str], error: OSError) -> NoReturn:
    """Report that a command cannot be run, and exit with the status that a shell has for this."""
    error.filename = command[0]
    print_error(error)
    sys.exit(_NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_RUN)
