"""``ipcio lock``: a command that runs while a range of a file is locked."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys

from ipcio._cli.common import add_exit_code, complain, seconds
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipcio._cli.common import Commands

__all__ = ["register"]


def register(commands: Commands) -> None:
    """Add the subcommand."""
    lock = commands.add_parser(
        "lock",
        usage="ipcio lock [-h] [--shared] [--range OFF[:LEN]] [--timeout S | --nonblock] [-E CODE] "
        "FILE [--] COMMAND [ARGUMENT ...]",
        help="run a command while a range of a file is locked",
        description="Lock a range of a file, made if need be, and become the command. So the exit status and the "
        "signals are the command's own, and the lock lasts as long as the command and every process that inherited "
        "the open file from it. Programs that lock the range with fcntl(2), lockf or LuaIPC are kept out, too, and "
        "keep us out; those that use flock(1) are not.",
        epilog="The command begins after --, or at the first word after FILE that is no option of ours. The exit "
        "status is 1 if the file cannot be locked (CODE of -E if it was not in time); 126 for a command that cannot be "
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
    wait = lock.add_mutually_exclusive_group()
    wait.add_argument("--timeout", metavar="S", type=seconds, help="seconds to wait; default: for ever")
    wait.add_argument("--nonblock", dest="timeout", action="store_const", const=0.0, help="do not wait: --timeout 0")
    add_exit_code(lock, "the file could not be locked")
    lock.set_defaults(run=_run, fail=lock.error)


def _run(arguments: argparse.Namespace) -> int:
    from ipcio import filelock

    if sys.platform == "win32":
        from ipcio._windows import command
    else:
        from ipcio._posix import command

    if not any(arguments.command[:1]):
        arguments.fail("no COMMAND; it follows FILE")
    command.occupy()
    with contextlib.suppress(OSError):  # made with the permissions that the umask leaves, as any file
        os.close(os.open(arguments.file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    held = filelock.locked(
        arguments.file, "r" if arguments.shared else "rw", *arguments.range, timeout=arguments.timeout
    )
    try:
        command.inherit(held.__enter__().fileno())
    except TimeoutError as error:
        error.filename = arguments.file
        complain(error)
        return int(arguments.conflict_exit_code)
    try:
        command.become(arguments.command)
    except OSError as error:
        error.filename = arguments.command[0]
        complain(error)
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)  # as a shell says


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch("([0-9]+)(?::([0-9]*))?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"must be OFF or OFF:LEN, in bytes, not {text!r}")
    offset, length = int(found[1]), int(found[2] or 0)
    if offset + max(length, 1) > 2**63:
        raise argparse.ArgumentTypeError(f"reaches beyond the last byte that a file can have, {2**63 - 1}")
    return offset, length
