"""What subcommands share: the types of arguments, and the line that tells of an error."""

from __future__ import annotations

import argparse
import sys

from ipcio._names import check_name
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

__all__ = ["add_names", "complain", "count", "seconds"]


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
        where = "" if error.filename is None else f": {error.filename!r}"
    print(f"ipcio: {reason if reason.isprintable() else ascii(reason)}{where}", file=sys.stderr)  # noqa: T201
