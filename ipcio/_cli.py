"""The command ``ipcio``, also ``python -m ipcio``.

A subcommand is a function that takes the parsed arguments; it imports what it
needs.  It may raise `OSError`, or `SystemExit` with a line of its own: either
ends as one line on stderr and exit status 1.  Usage errors are argparse's, with
exit status 2.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from typing import TYPE_CHECKING

from ipcio import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # any word can be shown on any terminal
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportUnknownMemberType]
    try:
        try:
            arguments = _parser().parse_args(argv)
            arguments.run(arguments)
        finally:
            print(end="", flush=True)  # noqa: T201  # a full disk or a closed pipe shows here, not at exit
    except KeyboardInterrupt:
        return 130  # as a shell says that SIGINT ended a command
    except BrokenPipeError:  # ``ipcio ... | head``
        _forget_output()
        return 1
    except OSError as error:
        _forget_output()
        where = "" if error.filename is None else f": {error.filename!r}"
        sys.exit(f"ipcio: {error.strerror or error}{where}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("ipcio", description="Inter-process communication in which memory is a file.")
    parser.add_argument("--version", action="version", version=f"ipcio {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="workers that share nothing but names count the words of files",
        description="Count the words of files with worker processes that share nothing but names, "
        "and check the result against a count by a single process.",
    )
    demo.add_argument("files", metavar="FILE", nargs="*", help="default: the sources of Python's standard library")
    demo.add_argument("-j", "--workers", metavar="N", type=_count, help="how many; default: two per CPU")
    demo.add_argument("-n", "--top", metavar="N", type=_count, default=10, help="words to show; default: %(default)s")
    demo.set_defaults(run=_demo)

    gc = commands.add_parser(
        "gc",
        help="remove what the dead left behind",
        description="Remove shared memory and semaphores whose every holder is dead, and print their names. "
        "Nobody has to: the next use of the name does the same.",
    )
    gc.set_defaults(run=_gc)

    return parser


def _gc(_: argparse.Namespace) -> None:
    from ipcio._posix import litter

    for kind, name in litter.collect():
        print(kind, name if name.isprintable() else ascii(name))  # noqa: T201


def _demo(arguments: argparse.Namespace) -> None:
    from ipcio import _demo

    _demo.run(arguments.files, arguments.workers or 2 * (os.cpu_count() or 1), arguments.top)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _forget_output() -> None:
    """Let what is still buffered for stdout go nowhere, or Python would complain of it at exit."""
    if sys.stdout is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
