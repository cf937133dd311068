"""``ipcio lock``: run a command while a range of a file is locked."""

from __future__ import annotations

import argparse
import contextlib
import os
import re

from ipcio._cli.common import add_exit_code, print_error, seconds
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipcio._cli.common import Commands

RUNS = {("lock",): ("--range", "--timeout", "--conflict-exit-code", "-E")}

_EXAMPLES = """\
$ ipcio lock accounts -- echo this process has the lock
this process has the lock
$ ipcio lock --range 0:64 --timeout 5 accounts echo this process has locked a record
this process has locked a record
$ ipcio lock --nonblock -E 75 accounts true || echo another process has the lock
"""


def register(commands: Commands) -> None:
    """Add the subcommand."""
    lock = commands.add_parser(
        "lock",
        usage="ipcio lock [-h] [--shared] [--range OFF[:LEN]] [--timeout S | --nonblock] [-E CODE] "
        "FILE [--] COMMAND [ARGUMENT ...]",
        help="run a command while a range of a file is locked",
        description="Lock a range of a file, which is created if it is missing, and become the command. So exit status "
        "and signals are the command's own. The range stays locked until the command has exited, and every process "
        "that inherited the open file from it. Locks of fcntl(2), lockf and LuaIPC conflict with this one; those of "
        "flock(1) do not.",
        epilog="The command begins after --, or at the first word after FILE that is not an option of ipcio lock. The "
        "exit status is 1 if the file cannot be locked (CODE of -E after a timeout); 126 if the command cannot be run, "
        "127 if it is not found; otherwise that of the command.",
        examples=_EXAMPLES,
    )
    lock.add_argument("file", metavar="FILE", help="the file to lock, a regular file")
    lock.add_argument("--shared", action="store_true", help="a shared lock; default: an exclusive one")
    lock.add_argument(
        "--range",
        metavar="OFF[:LEN]",
        type=_range,
        default=(0, 0),
        help="the first byte, and the number of bytes (0 or nothing: to infinity); default: the whole file, even if it "
        "grows",
    )
    wait = lock.add_mutually_exclusive_group()
    wait.add_argument("--timeout", metavar="S", type=seconds, help="seconds to wait; default: no limit")
    wait.add_argument("--nonblock", dest="timeout", action="store_const", const=0.0, help="do not wait: --timeout 0")
    add_exit_code(lock, "the file cannot be locked")
    lock.set_defaults(run=_run, fail=lock.error)


def _run(arguments: argparse.Namespace) -> int:
    from ipcio import filelock
    from ipcio._cli import programs

    if not any(arguments.command[:1]):
        arguments.fail("pass a COMMAND after FILE")
    programs.platform.occupy()
    with contextlib.suppress(OSError):  # created with the usual permissions, those that the umask leaves
        os.close(os.open(arguments.file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    held = filelock.locked(
        arguments.file, "r" if arguments.shared else "rw", *arguments.range, timeout=arguments.timeout
    )
    try:
        programs.platform.inherit(held.__enter__().fileno())
    except TimeoutError as error:
        error.filename = arguments.file
        print_error(error)
        return int(arguments.conflict_exit_code)
    try:
        programs.platform.become(arguments.command)
    except OSError as error:
        programs.cannot_run(arguments.command, error)


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch("([0-9]+)(?::([0-9]*))?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"must be OFF or OFF:LEN, in bytes, not {text!r}")
    offset, length = int(found[1]), int(found[2] or 0)
    if offset + max(length, 1) > 2**63:
        raise argparse.ArgumentTypeError(f"reaches beyond the last byte that a file can have, {2**63 - 1}")
    return offset, length
