"""``ipcio sem``: semaphores for shell scripts."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError

from ipcio._cli import completion
from ipcio._cli.common import add_exit_code, add_names, count, seconds
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ipcio._cli.common import Commands

__all__ = ["register"]


def register(commands: Commands) -> None:
    """Add the group of subcommands."""
    sem = commands.add_parser(
        "sem",
        help="make and use semaphores",
        description="Make and use semaphores by name. `ipcio rm --sem NAME` removes one.",
    )
    verbs = sem.add_subparsers(metavar="VERB", required=True)

    create = verbs.add_parser(
        "create",
        help="make a semaphore",
        description="Make a semaphore that persists until it is removed, and whose name nobody has.",
    )
    add_names(create, completion.semaphores)
    create.add_argument("value", metavar="VALUE", type=_value, help="the number of permits, 0 or more")
    create.add_argument("--undo", action="store_true", help="crash-safe: permits of processes that die come back")
    create.set_defaults(run=_create)

    inc = verbs.add_parser("inc", help="give permits", description="Give permits to the semaphore.")
    add_names(inc, completion.semaphores)
    inc.add_argument("n", metavar="N", type=count, nargs="?", default=1, help="how many; default: %(default)s")
    inc.set_defaults(run=_inc)

    dec = verbs.add_parser(
        "dec",
        help="take a permit",
        description="Take a permit, and wait for one if need be. A crash-safe semaphore is refused: it would have "
        "the permit back at the end of this very command.",
        epilog="When the time is up, nothing is printed and the exit status is that of -E.",
    )
    add_names(dec, completion.semaphores)
    dec.add_argument("--timeout", metavar="S", type=seconds, help="seconds to wait, 0 to try; default: for ever")
    add_exit_code(dec, "there was no permit")
    dec.set_defaults(run=_dec)

    value = verbs.add_parser(
        "value", help="print how many permits there are", description="Print how many permits there are to take."
    )
    add_names(value, completion.semaphores)
    value.set_defaults(run=_print_value)


def _value(text: str) -> int:
    if not re.fullmatch("[0-9]+", text):
        raise ArgumentTypeError(f"must be a number of permits, 0 or more, not {text!r}")
    return int(text)


def _create(arguments: argparse.Namespace) -> None:
    from ipcio import sem

    sem.create(arguments.name, arguments.value, persist=True, undo=arguments.undo).close()


def _inc(arguments: argparse.Namespace) -> None:
    from ipcio import sem

    sem.attach(arguments.name).inc(arguments.n)


def _dec(arguments: argparse.Namespace) -> int:
    from ipcio import sem

    semaphore = sem.attach(arguments.name)
    if semaphore.undo:
        raise OSError(None, "a crash-safe semaphore has its permit back when this command ends", arguments.name)
    return 0 if semaphore.dec(arguments.timeout) else arguments.conflict_exit_code


def _print_value(arguments: argparse.Namespace) -> None:
    from ipcio import sem

    print(sem.attach(arguments.name).value)
