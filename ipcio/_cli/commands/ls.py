"""``ipcio ls``: which named objects exist, and which processes hold them."""

from __future__ import annotations

import json
import os
import sys
import time

from ipcio._cli import completion, table
from ipcio._cli.common import add_names, seconds
from ipcio._cli.names import KINDS, STATES, choose, meaning, report_missing
from ipcio._cli.table import printable, size_of
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import NoReturn

    from ipcio._cli.common import Commands
    from ipcio._object_info import ObjectInfo

_HEADER = "KIND", "NAME", "SIZE/VALUE", "PERM", "OWNER", "AGE", "STATE", "HOLDERS"
_PERIOD = 2.0  # seconds
_SHORTEST = 0.1
_CLEAR, _HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[2J", "\x1b[H", "\x1b[K", "\x1b[J"

_EXAMPLES = """\
$ echo gold 2650 | ipcio put prices
$ ipcio ls prices
KIND  NAME    SIZE/VALUE  PERM  OWNER  AGE  STATE       HOLDERS
shm   prices  10 bytes    0600  ...    ...  persistent  -
$ ipcio ls -q 'prices*' --kind shm --state persistent --sort size
prices
$ ipcio ls --json --sort age
...
$ ipcio rm prices
"""


def register(commands: Commands) -> None:
    """Add the subcommand."""
    ls = commands.add_parser(
        "ls",
        help="list named objects, and the processes that hold them",
        description="List all shared memory, semaphores, mutexes, events and queues, including those of other "
        "programs: kind, name, size or value, permissions, owner, age, state, and the processes that have it open. "
        "This changes nothing.",
        epilog="The states: live, created by ipcio and open in a process; orphan, created by ipcio and no longer open "
        "in any process, so the next use of the name or `ipcio gc` removes it; persistent, created by ipcio to stay "
        "until it is removed; foreign, created by another program. Only root sees what processes of other users hold. "
        "On a terminal the list ends with the number of objects, their memory, and what is free.\n\nA name may be a "
        "pattern with *, ? and [...]; quote it, so that the shell does not expand it. An object that has the name "
        "literally comes first. The exit status is 1 if a name means no object.",
        examples=_EXAMPLES,
    )
    add_names(
        ls,
        completion.of_kind,
        "names",
        "*",
        help="list only objects that have this name or match this quoted pattern; default: all",
        metavar="NAME|PATTERN",
    )
    ls.add_argument("--kind", choices=list(KINDS), help="list only objects of this kind")
    ls.add_argument("--state", choices=list(STATES), help="list only objects in this state")
    ls.add_argument(
        "--sort",
        choices=list(_ORDERS),
        help="sort by name, or by size or age with the largest first; default: by kind, and each kind by name",
    )
    ls.add_argument("--bytes", action="store_true", help="print sizes in bytes, without a unit")
    ls.add_argument("--no-trunc", action="store_true", help="print each object in one line, however wide")
    how = ls.add_mutually_exclusive_group()
    how.add_argument("-q", "--quiet", action="store_true", help="print only the names")
    how.add_argument("--json", action="store_true", help="print a JSON list of objects, for programs")
    how.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=seconds,
        const=_PERIOD,
        help="print the list again and again on a terminal, until Ctrl-C; default: every %(const)g seconds",
    )
    ls.set_defaults(run=_run, fail=ls.error)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.watch is not None:
        if sys.platform == "win32" or not sys.stdout.isatty():
            arguments.fail("--watch is for a terminal of a POSIX system; call `ipcio ls` in a loop instead")
        _watch(arguments, max(arguments.watch, _SHORTEST))
    entries, missing = _chosen(arguments)
    if arguments.json:
        json.dump([_plain(entry) for entry in entries], sys.stdout, indent=2)
        print()
    elif arguments.quiet:
        print("".join(f"{printable(entry.name)}\n" for entry in entries), end="")
    elif entries:
        is_terminal = sys.stdout.isatty()
        width = os.get_terminal_size(sys.stdout.fileno()).columns if is_terminal else 0
        print(*_table(entries, arguments, width or None), sep="\n")  # some terminals do not know their width
        if is_terminal:
            print(f"{_totals(entries)}{_free()}")
    elif not missing:
        table.hint("there are no objects" + _FILTERED * _is_filtered(arguments))
    sys.stdout.flush()
    return report_missing(missing, _FILTERED * _is_filtered(arguments))


_FILTERED = " of that kind and state"


def _is_filtered(arguments: argparse.Namespace) -> bool:
    return bool(arguments.kind or arguments.state)


def _chosen(arguments: argparse.Namespace) -> tuple[list[ObjectInfo], list[str]]:
    """Return the objects to list, in their order, and the names that mean none of them."""
    from ipcio._inventory import list_objects

    entries = [
        entry
        for entry in list_objects()
        if arguments.kind in {None, entry.kind} and arguments.state in {None, entry.state}
    ]
    if arguments.sort:
        entries.sort(key=_ORDERS[arguments.sort])
    return choose(arguments.names, entries)


_ORDERS: dict[str, Callable[[ObjectInfo], tuple[object, ...]]] = {
    "name": lambda entry: (entry.name, list(KINDS).index(entry.kind)),
    "size": lambda entry: (entry.size is None, 0 if entry.size is None else -entry.size),
    "age": lambda entry: (entry.age is None, 0 if entry.age is None else -entry.age),
}


def _totals(entries: list[ObjectInfo]) -> str:
    objects = f"{len(entries)} object{'s' * (len(entries) != 1)}"
    return f"{objects}, {size_of(sum(entry.size or 0 for entry in entries))} of shared memory"


def _free() -> str:
    from ipcio._inventory import free_memory

    free = free_memory()
    return "" if free is None else f"; {size_of(free[1])} free in {free[0]}"


def _watch(arguments: argparse.Namespace, period: float) -> NoReturn:
    print(end=_CLEAR)
    try:
        while True:
            entries, _ = _chosen(arguments)
            width, height = os.get_terminal_size(sys.stdout.fileno())
            head = f"{len(entries)} objects at {time.strftime('%H:%M:%S')}{_free()}"
            lines = [head, *_table(entries, arguments, width)]
            # Overwritten: clearing the screen first would flicker.
            page = f"{_REST_OF_LINE}\n".join(_page(lines, width, height))
            print(_HOME + page, end=_REST_OF_LINE + _REST_OF_SCREEN, flush=True)
            time.sleep(period)
    finally:
        print(flush=True)


def _page(lines: list[str], width: int, height: int) -> list[str]:
    """Return as many lines as a terminal can show, which wraps those that are wider."""
    page: list[str] = []
    room = max(height, 3) - 1  # the last line says how many lines are missing, or shows the prompt
    for number, line in enumerate(lines):
        room -= max(-(-table.cells(line) // max(width, 1)), 1)
        if room < 0:
            return [*page, f"and {len(lines) - number} more lines"[:width]]
        page.append(line)
    return page


def _table(entries: list[ObjectInfo], arguments: argparse.Namespace, width: int | None) -> list[str]:
    rows = (_row(entry, in_bytes=arguments.bytes) for entry in entries)
    return table.lines([_HEADER, *rows], width=None if arguments.no_trunc else width)


def _plain(entry: ObjectInfo) -> dict[str, object]:
    return {**entry._asdict(), "holders": [holder._asdict() for holder in entry.holders]}


def _row(entry: ObjectInfo, *, in_bytes: bool) -> tuple[str, ...]:
    return (
        entry.kind,
        printable(entry.name),
        _amount(entry, in_bytes=in_bytes),
        entry.perm or "-",
        printable(entry.owner or "-"),
        "-" if entry.age is None else _age(entry.age),
        entry.state,
        ", ".join(f"{holder.pid} {printable(holder.command)}".rstrip() for holder in entry.holders) or "-",
    )


def _amount(entry: ObjectInfo, *, in_bytes: bool) -> str:
    if entry.kind in {"shm", "queue"}:
        size = "-" if entry.size is None else str(entry.size) if in_bytes else size_of(entry.size)
        return ", ".join(filter(None, (size, meaning(entry))))
    if entry.kind in {"mutex", "event"}:
        return meaning(entry) or "-"
    value = "value ?" if entry.value is None else f"value {entry.value}"
    return f"{value} (undo)" if entry.undo else value


def _age(age: float) -> str:
    for unit, length, limit in ("s", 1, 100), ("m", 60, 100), ("h", 3600, 48):
        if age < length * limit:
            return f"{int(age / length)}{unit}"
    return f"{int(age / 86400)}d"
