"""``ipcio stat``: all that is known of an object, one fact a line."""

from __future__ import annotations

import json
import sys

from ipcio._cli import completion
from ipcio._cli.common import add_names
from ipcio._cli.names import STATES, choose, meaning, report_missing
from ipcio._cli.table import printable, size_of
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ipcio._cli.common import Commands
    from ipcio._object_info import ObjectInfo

_IN_WORDS = {"shm": " (shared memory)", "sem": " (semaphore)"}
_EXAMPLES = """\
$ echo gold 2650 | ipcio put prices
$ ipcio stat prices
kind: shm (shared memory)
name: prices
size: 10 (10 bytes)
...
$ ipcio rm prices
"""


def register(commands: Commands) -> None:
    """Add the subcommand."""
    stat = commands.add_parser(
        "stat",
        help="print what is known of an object, one fact a line",
        description="Print what is known of the objects that have this name, of each kind, one fact a line, "
        "and an empty line between two objects. This changes nothing. A fact that the system does not provide is "
        "left out.",
        epilog="A name may be a pattern with *, ? and [...]; quote it, so that the shell does not expand it. An object "
        "that has the name literally comes first. The exit status is 1 if a name means no object. "
        "`ipcio ls --json NAME` prints the same for programs.",
        examples=_EXAMPLES,
    )
    add_names(stat, completion.of_kind, "names", "+", help="a name or a quoted pattern", metavar="NAME|PATTERN")
    stat.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from ipcio._inventory import list_objects

    chosen, missing = choose(arguments.names, list_objects())
    print("\n".join("".join(f"{line}\n" for line in _facts(each)) for each in chosen), end="")
    sys.stdout.flush()
    return report_missing(missing)


def _facts(entry: ObjectInfo) -> Iterator[str]:
    yield f"kind: {entry.kind}{_IN_WORDS.get(entry.kind, '')}"
    yield f"name: {printable(entry.name)}"
    if entry.size is not None:
        yield f"size: {entry.size} ({size_of(entry.size)})"
    if entry.value is not None:
        explained = meaning(entry)
        yield f"value: {entry.value}" + (f" ({explained})" if explained else "")
    if entry.kind == "sem":
        yield f"undo: {json.dumps(entry.undo)} ({'crash-safe' if entry.undo else 'not crash-safe'})"
    if entry.perm is not None:
        yield f"perm: {entry.perm}"
    if entry.owner is not None:
        yield f"owner: {printable(entry.owner)}"
    if entry.age is not None:
        yield f"age: {entry.age:.0f} (seconds)"
    yield f"state: {entry.state} ({STATES[entry.state]})"
    for holder in entry.holders:
        yield f"holder: {holder.pid} {printable(holder.command)}".rstrip()
