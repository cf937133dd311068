"""The command ``ipcio``, also ``python -m ipcio``.

A subcommand is a function that takes the parsed arguments; it imports what it
needs.  It may raise `OSError`, or `SystemExit` with a line of its own: either
ends as one line on stderr and exit status 1.  Usage errors are argparse's, with
exit status 2.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import sys
from typing import TYPE_CHECKING

from ipcio import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # any word can be shown on any terminal
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportUnknownMemberType]
    try:
        try:
            arguments = _parse(sys.argv[1:] if argv is None else argv)
            arguments.run(arguments)
        finally:
            print(end="", flush=True)  # noqa: T201  # a full disk or a closed pipe shows here, not at exit
    except KeyboardInterrupt:
        return 130  # as a shell says that SIGINT ended a command
    except OSError as error:
        _forget_output()
        if not _is_of_reader(error):
            sys.exit(_line(error))
        return 1
    return 0


def _is_of_reader(error: OSError) -> bool:
    """Whether nobody reads what we print any more, as in ``ipcio ... | head``."""
    if sys.platform == "win32":  # which has no word of its own for that
        return error.errno == errno.EINVAL and error.filename is None
    return isinstance(error, BrokenPipeError)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    # argparse's ways with ``--`` differ from version to version, so a command to be run is cut off before.
    end = words.index("--") if words[:1] == ["lock"] and "--" in words else len(words)
    return _parser().parse_args(words[:end], argparse.Namespace(command=words[end + 1 :]))


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

    lock = commands.add_parser(
        "lock",
        usage="ipcio lock [-h] [--shared] [--range OFF[:LEN]] [--timeout S] FILE -- COMMAND [ARGUMENT ...]",
        help="run a command while a range of a file is locked",
        description="Lock a range of a file, made if need be, and become the command. So the exit status and the "
        "signals are the command's own, and the lock lasts as long as the command and every process that inherited "
        "the open file from it. Programs that lock the range with fcntl(2), lockf or LuaIPC are kept out, too, and "
        "keep us out; those that use flock(1) are not.",
        epilog="The exit status is 1 if the file cannot be locked, in time or at all; 126 for a command that cannot be "
        "run, 127 for one that is not found; otherwise the command's.",
    )
    lock.add_argument("file", metavar="FILE")
    lock.add_argument("--shared", action="store_true", help="share the range with others that do; default: exclude all")
    lock.add_argument(
        "--range",
        metavar="OFF[:LEN]",
        type=_range,
        default=(0, 0),
        help="the first byte, and how many (0 or nothing: to infinity); default: the whole file, however it grows",
    )
    lock.add_argument("--timeout", metavar="S", type=_seconds, help="seconds to wait; default: for ever")
    lock.set_defaults(run=_lock, fail=lock.error)

    return parser


def _gc(_: argparse.Namespace) -> None:
    if sys.platform == "win32":
        from ipcio._windows import litter
    else:
        from ipcio._posix import litter

    for kind, name in litter.collect():
        print(kind, name if name.isprintable() else ascii(name))  # noqa: T201


def _lock(arguments: argparse.Namespace) -> NoReturn:
    from ipcio import filelock

    if sys.platform == "win32":
        from ipcio._windows import command
    else:
        from ipcio._posix import command

    if not any(arguments.command[:1]):
        arguments.fail("no COMMAND; it follows after --")
    try:
        fd = _open(arguments.file, command.open_inherited, shared=arguments.shared)
        filelock.lock(fd, "r" if arguments.shared else "rw", *arguments.range, timeout=arguments.timeout)
    except OSError as error:
        error.filename = arguments.file  # not a descriptor
        raise
    try:
        command.become(arguments.command)
    except OSError as error:
        error.filename = arguments.command[0]
        if sys.stderr is not None:
            print(_line(error), file=sys.stderr)  # noqa: T201
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)  # as a shell says


def _open(path: str, opener: Callable[[str, int], int], *, shared: bool) -> int:
    """Open the file to lock, and make it if need be."""
    try:
        try:
            return opener(path, os.O_RDWR)
        except FileNotFoundError:
            # Only now with O_CREAT, which Linux may refuse for the file of another in a directory like /tmp.
            return opener(path, os.O_RDWR | os.O_CREAT)
    except OSError:
        if not (shared and os.path.exists(path)):
            raise
        return opener(path, os.O_RDONLY)


def _demo(arguments: argparse.Namespace) -> None:
    from ipcio import _demo

    _demo.run(arguments.files, arguments.workers or 2 * (os.cpu_count() or 1), arguments.top)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch("([0-9]+)(?::([0-9]*))?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"must be OFF or OFF:LEN, in bytes, not {text!r}")
    offset, length = int(found[1]), int(found[2] or 0)
    if offset + max(length, 1) > 2**63:
        raise argparse.ArgumentTypeError(f"reaches beyond the last byte that a file can have, {2**63 - 1}")
    return offset, length


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds >= 0:  # NaN
        raise argparse.ArgumentTypeError(f"must be a number of seconds, 0 or more, not {text}")
    return seconds


def _line(error: OSError) -> str:
    """The error as one line, whatever names it tells."""
    reason = error.strerror or str(error)
    where = "" if error.filename is None else f": {error.filename!r}"
    return f"ipcio: {reason if reason.isprintable() else ascii(reason)}{where}"


def _forget_output() -> None:
    """Let what is still buffered for stdout go nowhere, or Python would complain of it at exit."""
    if sys.stdout is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
