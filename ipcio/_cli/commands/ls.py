"""``ipcio ls``: which named objects exist, and which processes hold them."""

from __future__ import annotations

import json
import os
import sys
import time

from ipcio._cli import table
from ipcio._cli.common import seconds
from ipcio._cli.table import printable
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from ipcio._backend import ObjectInfo
    from ipcio._cli.common import Commands

_HEADER = "KIND", "NAME", "SIZE/VALUE", "PERM", "OWNER", "AGE", "STATE", "HOLDERS"
_PERIOD = 2.0  # seconds
_SHORTEST = 0.1
_NEXT_UNIT = 1024
_CLEAR, _HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[2J", "\x1b[H", "\x1b[K", "\x1b[J"


def register(commands: Commands) -> None:
    """Add the subcommand."""
    ls = commands.add_parser(
        "ls",
        help="list shared memory and semaphores, and the processes that hold them",
        description="List all shared memory and semaphores, including those of other programs: kind, name, size or "
        "value, permissions, owner, age, state, and the processes that have it open. This changes nothing.",
        epilog="The states: live, created by ipcio and open in a process; orphan, created by ipcio and no longer open "
        "in any process, so the next use of the name or `ipcio gc` removes it; persistent, created by ipcio to stay "
        "until it is removed; foreign, created by another program. Only root sees what processes of other users hold.",
    )
    how = ls.add_mutually_exclusive_group()
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


def _run(arguments: argparse.Namespace) -> None:
    from ipcio._inventory import list_objects

    if arguments.watch is not None:
        if sys.platform == "win32" or not sys.stdout.isatty():
            arguments.fail("--watch is for a terminal of a POSIX system; call `ipcio ls` in a loop instead")
        _watch(list_objects, max(arguments.watch, _SHORTEST))
    entries = list_objects()
    if arguments.json:
        json.dump([_plain(entry) for entry in entries], sys.stdout, indent=2)
        print()
    elif entries:
        width = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None
        print(*_table(entries, width), sep="\n")
    else:
        table.hint("there is no shared memory and there are no semaphores")


def _watch(list_objects: Callable[[], list[ObjectInfo]], period: float) -> None:
    print(end=_CLEAR)
    try:
        while True:
            entries = list_objects()
            width, height = os.get_terminal_size(sys.stdout.fileno())
            lines = [f"{len(entries)} objects at {time.strftime('%H:%M:%S')}", *_table(entries, width)]
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


def _table(entries: list[ObjectInfo], width: int | None) -> list[str]:
    return table.lines([_HEADER, *map(_row, entries)], width=width)


def _plain(entry: ObjectInfo) -> dict[str, object]:
    return {**entry._asdict(), "holders": [holder._asdict() for holder in entry.holders]}


def _row(entry: ObjectInfo) -> tuple[str, ...]:
    return (
        entry.kind,
        printable(entry.name),
        _amount(entry),
        entry.perm or "-",
        printable(entry.owner or "-"),
        "-" if entry.age is None else _age(entry.age),
        entry.state,
        ", ".join(f"{holder.pid} {printable(holder.command)}".rstrip() for holder in entry.holders) or "-",
    )


def _amount(entry: ObjectInfo) -> str:
    if entry.kind == "shm":
        return "-" if entry.size is None else _size(entry.size)
    value = "value ?" if entry.value is None else f"value {entry.value}"
    return f"{value} (undo)" if entry.undo else value


def _size(size: float) -> str:
    """In the largest unit of which there is at least one."""
    unit = "byte" if size == 1 else "bytes"
    for larger in "KiB", "MiB", "GiB", "TiB", "PiB":
        if round(size, 1) < _NEXT_UNIT:
            break
        size /= _NEXT_UNIT
        unit = larger
    return f"{size} {unit}" if isinstance(size, int) else f"{size:.1f} {unit}"


def _age(age: float) -> str:
    for unit, length, limit in ("s", 1, 100), ("m", 60, 100), ("h", 3600, 48):
        if age < length * limit:
            return f"{int(age / length)}{unit}"
    return f"{int(age / 86400)}d"
