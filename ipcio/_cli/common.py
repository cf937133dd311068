"""What subcommands share: the types of arguments, and the line that tells of an error."""

from __future__ import annotations

import argparse
import sys

from ipcio._names import check_name
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

__all__ = ["add_exit_code", "add_names", "complain", "count", "seconds", "split_command"]


def add_names(
    parser: argparse.ArgumentParser, completer: Callable[..., list[str]], word: str = "name", nargs: str | None = None
) -> None:
    """Add an argument that is the name of an object, or several; the completer knows which there are."""
    action = parser.add_argument(word, metavar="NAME", type=_name, nargs=nargs)
    action.completer = completer  # type: ignore[attr-defined]


def _name(text: str) -> str:
    try:
        return check_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_WITH_VALUE = "--range", "--timeout", "--conflict-exit-code", "-E"


def split_command(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Split what follows ``ipcio`` into our own words and those of a command that is to be run.

    The command is what follows ``--``; without that, it begins at the second word that is no option.
    """
    if "--" in words:
        end = list(words).index("--")
        return words[:end], words[end + 1 :]
    plain = 0
    rest = enumerate(words)
    next(rest, None)  # the subcommand
    for index, word in rest:
        if word[:1] != "-" or word == "-":
            plain += 1
            if plain == 2:  # noqa: PLR2004 -- after FILE or NAME
                return words[:index], words[index:]
        elif word in _WITH_VALUE or (len(word) > 2 and any(each.startswith(word) for each in _WITH_VALUE)):  # noqa: PLR2004
            next(rest, None)
    return words, []


def add_exit_code(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the option ``-E``: the status that says that the time was up, and nothing else."""
    parser.add_argument(
        "-E",
        "--conflict-exit-code",
        metavar="CODE",
        type=_exit_code,
        default=1,
        help=f"the exit status when {what} in time, 0 to 255; default: %(default)s, as for errors",
    )


def _exit_code(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 255:  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"must be an exit status, 0 to 255, not {number}")
    return number


def count(text: str) -> int:
    """Check a number of things."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def seconds(text: str) -> float:
    """Check how long to wait."""
    number = float(text)
    if not number >= 0:  # NaN
        raise argparse.ArgumentTypeError(f"must be a number of seconds, 0 or more, not {text}")
    return number


def complain(error: Exception) -> None:
    """Tell of the error in one line, whatever names it tells."""
    if sys.stderr is None:
        return
    reason, where = str(error), ""
    if isinstance(error, OSError):
        reason = error.strerror or reason
        # The text of an error that ipcio explains names the object already.
        where = "" if error.filename is None or repr(error.filename) in reason else f": {error.filename!r}"
    print(f"ipcio: {reason if reason.isprintable() else ascii(reason)}{where}", file=sys.stderr)
