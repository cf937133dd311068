"""The command ``ipcio``, also ``python -m ipcio``.

Each subcommand, or group of them, is a module here: its ``register`` adds the parser, and
``run`` is a function that takes the parsed arguments and imports what it needs.  It returns
the exit status, None for 0, or raises: what `ipcio` raises ends as one line on stderr and exit
status 1, and so does `SystemExit` with a line of its own.  Usage errors are argparse's, with
exit status 2.
"""
# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import errno
import io
import os
import sys

from ipcio import __version__
from ipcio._cli.common import complain, split_command
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    if sys.stdout is None:  # closed before this program started
        sys.stdout = _ClosedOutput()
    if isinstance(sys.stdout, io.TextIOWrapper):  # any word can be shown on any terminal
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportUnknownMemberType]
    try:
        try:
            arguments = _parse(sys.argv[1:] if argv is None else argv)
            return arguments.run(arguments) or 0
        finally:
            _flush()  # a full disk or a closed pipe shows here, not at exit
    except KeyboardInterrupt:
        return 130  # as a shell says that SIGINT ended a command
    except (OSError, OverflowError, NotImplementedError) as error:
        _forget_output()
        if not _is_of_reader(error):
            complain(error)
        return 1


class _ClosedOutput(io.TextIOBase):
    """A standard output that was closed before the program started: what was printed is an error of the next `flush`.

    (Not of `write`: argparse ignores those.)
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


def _is_of_reader(error: Exception) -> bool:
    """Whether nobody reads what we print any more, as in ``ipcio ... | head``."""
    if sys.platform == "win32" and isinstance(error, OSError) and error.errno == errno.EINVAL:
        return error.filename is None  # it has no word of its own for that, or not always
    return isinstance(error, BrokenPipeError)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    # argparse's ways with ``--`` differ from version to version, so a command to be run is cut off before.
    words, command = split_command(words) if words[:1] == ["lock"] else (words, ())
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what the next word may be
        from ipcio._cli import completion

        completion.answer(parser)
    return parser.parse_args(words, argparse.Namespace(command=command))


def _parser() -> argparse.ArgumentParser:
    from ipcio._cli import cat, demo, gc, lock, ls, put, rm, sem

    parser = argparse.ArgumentParser("ipcio", description="Inter-process communication in which memory is a file.")
    parser.add_argument("--version", action="version", version=f"ipcio {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (demo, ls, rm, gc, put, cat, sem, lock):
        module.register(commands)
    return parser


def _flush() -> None:
    print(end="", flush=True)


def _forget_output() -> None:
    """Let what cannot be written to stdout go nowhere, or Python would complain of it at exit."""
    try:
        _flush()
    except OSError:
        if not isinstance(sys.stdout, _ClosedOutput):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
