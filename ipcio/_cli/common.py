"""What subcommands share: the types of arguments, and the one line that reports an error."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys

from ipcio._names import check_name
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Commands: TypeAlias = "argparse._SubParsersAction[Parser]"

_LARGEST_STATUS = 255
_LARGEST_PERM = 0o777
_EXAMPLES = "Examples:\n"


class Parser(argparse.ArgumentParser):
    """A parser that ends its help with examples, and names the word that a misspelt one may have meant.

    `examples` are lines as on a terminal: ``$ command``, and below it what the command prints.  A test runs them.
    """

    def __init__(self, prog: str, *, examples: str = "", epilog: str = "", **options: Any) -> None:
        super().__init__(prog, formatter_class=_Formatter, **options)
        self.examples = examples
        self.notes = epilog
        shown = [_EXAMPLES + "".join(f"  {line}\n" for line in examples.splitlines())] if examples else []
        self.epilog = "\n\n".join([*filter(None, [epilog]), *shown])

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        import difflib

        close = difflib.get_close_matches(str(value), map(str, action.choices), 1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        known = ", ".join(map(str, action.choices))
        raise argparse.ArgumentError(action, f"there is no {value!r}{meant} (known: {known})")


class _Formatter(argparse.HelpFormatter):
    """Fills each paragraph by itself, and leaves examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        before, found, examples = text.partition(_EXAMPLES)
        paragraphs = [fill(each, width, indent) for each in before.split("\n\n") if each]
        return "\n\n".join([*paragraphs, found + examples] if found else paragraphs)


def add_names(
    parser: argparse.ArgumentParser,
    completer: Callable[..., list[str]],
    word: str = "name",
    nargs: str | None = None,
    *,
    help: str,  # noqa: A002 -- as argparse calls it
    metavar: str = "NAME",
) -> None:
    """Add an argument that is the name of an object, or several; the completer lists the names that exist."""
    action = parser.add_argument(word, metavar=metavar, type=_name, nargs=nargs, help=help)
    action.completer = completer  # type: ignore[attr-defined]


def add_verbs(
    commands: Commands, kind: str, completer: Callable[..., list[str]], *, does: str, called: str = "", **texts: Any
) -> Callable[..., Parser]:
    """Add the group of subcommands for one kind of object; return a function that adds a verb to it.

    The first argument of a verb is the name of an object that exists or, with `is_new`, of a new one.
    """
    description = f"{does} by name. `ipcio rm --kind {kind} NAME` removes one."
    epilog = f"`ipcio {kind} VERB --help` describes a verb."
    group = commands.add_parser(kind, description=description, epilog=epilog, **texts)
    verbs: Commands = group.add_subparsers(metavar="VERB", required=True)

    def add_verb(
        verb: str, run: Callable[[argparse.Namespace], object], *, is_new: bool = False, **texts: Any
    ) -> Parser:
        parser = verbs.add_parser(verb, **texts)
        add_names(parser, completer, help=f"the name of the {'new ' * is_new}{called or kind}")
        parser.set_defaults(run=run)
        return parser

    return add_verb


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


def add_timeout(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the option ``--timeout``; `what` says for what to wait, or what 0 means."""
    parser.add_argument("--timeout", metavar="S", type=seconds, help=f"seconds to wait{what}; default: no limit")


def add_perm(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--perm``."""
    parser.add_argument(
        "--perm",
        metavar="MODE",
        type=_perm,
        default=0o600,
        help="the permissions, in octal as for chmod; default: 600, for this user only",
    )


def _exit_code(text: str) -> int:
    if not re.fullmatch("[0-9]+", text) or int(text) > _LARGEST_STATUS:
        raise argparse.ArgumentTypeError(f"must be an exit status, 0 to {_LARGEST_STATUS}, not {text!r}")
    return int(text)


def _perm(text: str) -> int:
    """Check permission bits, in octal as for chmod(1)."""
    if not re.fullmatch("[0-7]+", text) or int(text, 8) > _LARGEST_PERM:
        raise argparse.ArgumentTypeError(f"must be permission bits in octal, 0 to 777, not {text!r}")
    return int(text, 8)


def count(text: str) -> int:
    """Check a number of things."""
    if not re.fullmatch("[0-9]+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number, at least 1, not {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """Check how long to wait."""
    with contextlib.suppress(ValueError):
        number = float(text)
        if number >= 0:  # which NaN is not
            return number
    raise argparse.ArgumentTypeError(f"must be a number of seconds, 0 or more, not {text!r}")


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
