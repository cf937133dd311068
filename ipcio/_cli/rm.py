"""``ipcio rm``: names that go now."""

from __future__ import annotations

from ipcio._cli import completion
from ipcio._cli.common import add_names, complain
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ipcio._cli.common import Commands

__all__ = ["register"]


def register(commands: Commands) -> None:
    """Add the subcommand."""
    rm = commands.add_parser(
        "rm",
        help="remove names, whoever holds them",
        description="Remove the names of shared memory now, whoever holds it and whoever made it. Processes that "
        "have it open keep the memory; the name is free for others.",
        epilog="A name that cannot be removed keeps no other from being removed; the exit status is 1 then.",
    )
    add_names(rm, completion.of_option, "names", "+")
    rm.add_argument("--sem", action="store_true", help="the names are those of semaphores")
    rm.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ipcio import sem, shm

    unlink = sem.unlink if arguments.sem else shm.unlink
    status = 0
    for each in arguments.names:
        try:
            unlink(each)
        except (OSError, NotImplementedError) as error:
            complain(error)
            status = 1
    return status
