"""``ipcio rm``: remove names now."""

from __future__ import annotations

from importlib import import_module

from ipcio._cli import completion, names
from ipcio._cli.common import add_names, print_error
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from ipcio._cli.common import Commands

_EXAMPLES = """\
$ echo gold 2650 | ipcio put prices
$ ipcio rm 'prices*'
$ ipcio rm -f prices
$ ipcio sem create printers 2
$ ipcio rm --sem printers
$ ipcio event create ready
$ ipcio rm --kind event ready
"""


def register(commands: Commands) -> None:
    """Add the subcommand."""
    rm = commands.add_parser(
        "rm",
        help="remove names, even of objects in use",
        description="Remove the names of shared memory, or with --kind of other objects, now, even if it is in use or "
        "was created by another program. Processes that have it open keep it; the name is free again.",
        epilog="A name may be a pattern with *, ? and [...]; quote it, so that the shell does not expand it. An object "
        "that has the name literally comes first. If a name cannot be removed, the others are removed all the same; "
        "the exit status is then 1.",
        examples=_EXAMPLES,
    )
    add_names(rm, completion.of_option, "names", "+", help="a name or a quoted pattern", metavar="NAME|PATTERN")
    kind = rm.add_mutually_exclusive_group()
    kind.add_argument("--kind", choices=list(names.KINDS), default="shm", help="the kind of object; default: shm")
    kind.add_argument("--sem", action="store_const", dest="kind", const="sem", help="the same as --kind sem")
    rm.add_argument("-f", "--force", action="store_true", help="a name that does not exist is not an error")
    rm.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    unlink: Callable[..., None] = import_module(f"ipcio.{arguments.kind}").unlink
    status = 0
    for each in arguments.names:
        try:
            _remove(each, arguments.kind, unlink)
        except (OSError, NotImplementedError) as error:
            if arguments.force and isinstance(error, FileNotFoundError):
                continue
            print_error(error)
            names.suggest(error, each)
            status = 1
    return status


def _remove(word: str, kind: str, unlink: Callable[..., None]) -> None:
    """Remove the object that has this name; if no object has it, those that it matches as a pattern."""
    try:
        unlink(word)
    except FileNotFoundError:
        if not names.is_pattern(word):
            raise
        from ipcio._inventory import list_objects

        found = [each for each in names.matching(word, list_objects()) if each.kind == kind]
        if not found:
            raise
        for each in found:
            unlink(each.name, missing_ok=True)  # an orphaned one, or one that was removed meanwhile
