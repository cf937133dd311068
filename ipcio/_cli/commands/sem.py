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


def register(commands: Commands) -> None:
    """Add the group of subcommands."""
    sem = commands.add_parser(
        "sem",
        help="create and use semaphores",
        description="Create and use semaphores by name. `ipcio rm --sem NAME` removes one.",
    )
    verbs = sem.add_subparsers(metavar="VERB", required=True)

    create = verbs.add_parser(
        "create",
        help="create a semaphore",
        description="Create a semaphore, which persists until it is removed. The name must be free.",
    )
    add_names(create, completion.semaphores)
    create.add_argument("value", metavar="VALUE", type=_value, help="the number of permits, 0 or more")
    create.add_argument("--undo", action="store_true", help="crash-safe: killed processes release their permits")
    create.set_defaults(run=_create)

    inc = verbs.add_parser("inc", help="release permits", description="Release permits of the semaphore.")
    add_names(inc, completion.semaphores)
    inc.add_argument("n", metavar="N", type=count, nargs="?", default=1, help="how many; default: %(default)s")
    inc.set_defaults(run=_inc)

    dec = verbs.add_parser(
        "dec",
        help="acquire a permit",
        description="Acquire a permit, and wait for one if need be. A crash-safe semaphore is refused: its "
        "permit would be released again when this command exits.",
        epilog="After a timeout nothing is printed, and the exit status is that of -E.",
    )
    add_names(dec, completion.semaphores)
    dec.add_argument("--timeout", metavar="S", type=seconds, help="seconds to wait, 0 to try once; default: no limit")
    add_exit_code(dec, "there is no permit")
    dec.set_defaults(run=_dec)

    value = verbs.add_parser(
        "value", help="print the number of permits", description="Print how many permits can be acquired."
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
        raise OSError(None, "this command cannot keep a permit of a crash-safe semaphore", arguments.name)
    return 0 if semaphore.dec(arguments.timeout) else arguments.conflict_exit_code


def _print_value(arguments: argparse.Namespace) -> None:
    from ipcio import sem

    print(sem.attach(arguments.name).value)
