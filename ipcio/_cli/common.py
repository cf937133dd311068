"""What subcommands share: the types of arguments, and the one line that reports an error."""

from __future__ import annotations

import argparse
import sys

from ipcio._names import check_name
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_LARGEST_STATUS = 255


def add_names(
    parser: argparse.ArgumentParser, completer: Callable[..., list[str]], word: str = "name", nargs: str | None = None
) -> None:
    """Add an argument that is the name of an object, or several; the completer lists the names that exist."""
    action = parser.add_argument(word, metavar="NAME", type=_name, nargs=nargs)
    action.completer = completer  # type: ignore[attr-defined]


def _name(text: str) -> str:
    try:
        return check_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_exit_code(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the option ``-E``: the exit status for a timeout, and for nothing else."""
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
    if not 0 <= number <= _LARGEST_STATUS:
        raise argparse.ArgumentTypeError(f"must be an exit status, 0 to {_LARGEST_STATUS}, not {number}")
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
    if not number >= 0:  # also NaN
        raise argparse.ArgumentTypeError(f"must be a number of seconds, 0 or more, not {text}")
    return number


def print_error(error: Exception) -> None:
    """Report an error in one line on stderr, whatever characters are in a name."""
    if sys.stderr is None:
        return
    reason, where = str(error), ""
    if isinstance(error, OSError):
        reason = error.strerror or reason
        # Some messages of ipcio contain the name already.
        where = "" if error.filename is None or repr(error.filename) in reason else f": {error.filename!r}"
    print(f"ipcio: {reason if reason.isprintable() else ascii(reason)}{where}", file=sys.stderr)
