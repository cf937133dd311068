"""``ipcio event``: events for shell scripts."""

from __future__ import annotations

from ipcio._cli import completion
from ipcio._cli.common import add_exit_code, add_timeout, add_verbs
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ipcio._cli.common import Commands

_EXAMPLES = """\
$ ipcio event create ready
$ ipcio event wait --timeout 0.1 ready || echo not ready yet
not ready yet
$ ipcio event set ready
$ ipcio event wait ready && echo ready
ready
$ ipcio rm --kind event ready
"""
_CREATE_EXAMPLES = """\
$ ipcio event create ready
$ ipcio rm --kind event ready
"""
_SET_EXAMPLES = """\
$ ipcio event create ready
$ ipcio event set ready
$ ipcio rm --kind event ready
"""
_CLEAR_EXAMPLES = """\
$ ipcio event create --set ready
$ ipcio event clear ready
$ ipcio rm --kind event ready
"""
_WAIT_EXAMPLES = """\
$ ipcio event create --set ready
$ ipcio event wait ready
$ ipcio rm --kind event ready
"""


def register(commands: Commands) -> None:
    """Add the group of subcommands."""
    add_verb = add_verbs(
        commands,
        "event",
        completion.of("event"),
        help="create, set, clear and wait for events",
        does="Create and use events",
        examples=_EXAMPLES,
    )
    create = add_verb(
        "create",
        _create,
        is_new=True,
        help="create an event",
        description="Create an event, which persists until it is removed. The name must be free.",
        examples=_CREATE_EXAMPLES,
    )
    create.add_argument("--set", action="store_true", help="create it set; default: clear")
    add_verb(
        "set",
        _set,
        help="set the event",
        description="Set the event. All threads of all processes that wait for it go on.",
        examples=_SET_EXAMPLES,
    )
    add_verb(
        "clear",
        _clear,
        help="clear the event",
        description="Clear the event: from then on, waiting for it lasts until it is set again.",
        examples=_CLEAR_EXAMPLES,
    )
    wait = add_verb(
        "wait",
        _wait,
        help="wait until the event is set",
        description="Wait until the event is set.",
        epilog="After a timeout nothing is printed, and the exit status is that of -E. `ipcio wait --kind event NAME` "
        "waits until an event exists.",
        examples=_WAIT_EXAMPLES,
    )
    add_timeout(wait, ", 0 to look once")
    add_exit_code(wait, "the event is not set")


def _create(arguments: argparse.Namespace) -> None:
    from ipcio import event

    event.create(arguments.name, persist=True, is_set=arguments.set).close()


def _set(arguments: argparse.Namespace) -> None:
    from ipcio import event

    event.attach(arguments.name).set()


def _clear(arguments: argparse.Namespace) -> None:
    from ipcio import event

    event.attach(arguments.name).clear()


def _wait(arguments: argparse.Namespace) -> int:
    from ipcio import event

    return 0 if event.attach(arguments.name).wait(arguments.timeout) else arguments.conflict_exit_code
