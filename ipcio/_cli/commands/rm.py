"""``ipcio rm``: remove names now."""

from __future__ import annotations

from ipcio._cli import completion
from ipcio._cli.common import add_names, print_error
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ipcio._cli.common import Commands


def register(commands: Commands) -> None:
    """Add the subcommand."""
    rm = commands.add_parser(
        "rm",
        help="remove names, even of objects in use",
        description="Remove the names of shared memory now, even if it is in use or was created by another program. "
        "Processes that have it open keep the memory; the name is free again.",
        epilog="If a name cannot be removed, the others are removed all the same; the exit status is then 1.",
    )
    add_names(rm, completion.of_option, "names", "+")
    rm.add_argument("--sem", action="store_true", help="remove semaphores instead of shared memory")
    rm.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ipcio import sem, shm

    unlink = sem.unlink if arguments.sem else shm.unlink
    status = 0
    for each in arguments.names:
        try:
            unlink(each)
        except (OSError, NotImplementedError) as error:
            print_error(error)
            status = 1
    return status
