"""The command ``ipcio``, also ``python -m ipcio``: its output, its errors and its exit status."""
# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import errno
import io
import os
import sys

from ipcio import __version__
from ipcio._cli.common import Parser, print_error
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXAMPLES = """\
$ echo gold 2650 | ipcio put prices
$ ipcio cat prices
gold 2650
$ ipcio rm prices
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    if sys.stdout is None:  # closed before this program started
        sys.stdout = _ClosedOutput()
    if isinstance(sys.stdout, io.TextIOWrapper):  # any name can be printed on any terminal
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportUnknownMemberType]
    arguments = None
    try:
        try:
            arguments = _parse(sys.argv[1:] if argv is None else argv)
            return arguments.run(arguments) or 0
        finally:
            _flush()  # so that a full disk or a closed pipe is noticed here, and not at exit
    except KeyboardInterrupt:
        return 130  # as a shell reports a command that SIGINT ended
    except (OSError, ValueError, OverflowError, RuntimeError) as error:
        _discard_output()
        if not _is_closed_pipe(error):
            print_error(error)
            if isinstance(error, FileNotFoundError):
                from ipcio._cli import names

                names.suggest(error, getattr(arguments, "name", None))
        return 1


class _ClosedOutput(io.TextIOBase):
    """A standard output that was closed before the program started: after a `write`, `flush` fails.

    `write` itself does not fail, because argparse ignores its errors.
    """

    _printed = False

    def write(self, text: str) -> int:
        self._printed |= bool(text)
        return len(text)

    def flush(self) -> None:
        printed, self._printed = self._printed, False
        if printed:
            self.fileno()

    def fileno(self) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard output")


def _is_closed_pipe(error: Exception) -> bool:
    """Whether the program that reads our output has exited, as in ``ipcio ... | head``."""
    if sys.platform == "win32" and isinstance(error, OSError) and error.errno == errno.EINVAL:
        return error.filename is None  # Windows does not always use the error of a broken pipe
    return isinstance(error, BrokenPipeError)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    from ipcio._cli import commands

    # Versions of argparse differ in what they make of ``--``, so a command that is to be run is cut off first.
    words, command = commands.split(words)
    asked = "_ARGCOMPLETE" in os.environ  # by the shell, which words can come next
    # To make the parsers of all subcommands takes as long as most of them do.
    is_known = not asked and words and words[0] in commands.NAMES
    parser = make_parser(words[:1] if is_known else commands.NAMES)
    if asked:
        from ipcio._cli import completion

        completion.answer(parser)
    if not words:
        parser.print_help()
        parser.exit()
    return parser.parse_args(words, argparse.Namespace(command=command))


def make_parser(names: Sequence[str] | None = None) -> Parser:
    """Return the parser of the command, with all subcommands or with these."""
    from ipcio._cli import commands

    parser = Parser(
        "ipcio",
        description="Inter-process communication in which memory is a file: list, create, use and remove shared "
        "memory, semaphores, mutexes, events and queues by name, and run commands under a lock or a permit.",
        epilog="`ipcio COMMAND --help` describes a command. An error is one line on standard error and exit status 1; "
        "a mistake in the call is exit status 2.",
        examples=_EXAMPLES,
    )
    parser.add_argument(
        "--version", action="version", version=f"ipcio {__version__}", help="print the version number and exit"
    )
    commands.register(parser.add_subparsers(metavar="COMMAND", required=True), names or commands.NAMES)
    return parser


def _flush() -> None:
    print(end="", flush=True)


def _discard_output() -> None:
    """Send what cannot be written to stdout nowhere; otherwise Python would report an error at exit."""
    try:
        _flush()
    except OSError:
        if not isinstance(sys.stdout, _ClosedOutput):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
