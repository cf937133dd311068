"""Names and patterns that a user types: which objects they mean, and what a misspelt one may have meant."""

from __future__ import annotations

import contextlib
import errno
import fnmatch

from ipcio._cli.common import print_error
from ipcio._cli.table import has_reader, hint, printable
from ipcio._names import CALLED
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipcio._object_info import ObjectInfo

KINDS = {"shm": "shared memory", "sem": "a semaphore", **CALLED}
"""Each kind of object, and what a user calls it."""

STATES = {
    "live": "created by ipcio, open in a process; removed with its last handle",
    "orphan": "created by ipcio, no longer open in any process; the next use of the name or `ipcio gc` removes it",
    "persistent": "created by ipcio to stay until it is removed",
    "foreign": "created by another program",
}


def meaning(entry: ObjectInfo) -> str:
    """Return what the value of an object means; nothing if there is none, or it is just a number."""
    if entry.value is None:
        return ""
    if entry.kind == "event":
        return "set" if entry.value else "clear"
    if entry.kind == "mutex":
        return f"owned by {entry.value}" if entry.value else "free"
    if entry.kind == "queue":
        return f"{entry.value} message{'s' * (entry.value != 1)}"
    return ""


_SIMILAR = 0.7  # of `difflib`: "pricse" and "prices" have 0.83


def is_pattern(word: str) -> bool:
    """Whether a word has a meaning as a pattern of names."""
    return any(char in word for char in "*?[")


def matching(word: str, objects: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    """Return the objects that have this name; if no object has it, those that it matches as a pattern."""
    literal = [each for each in objects if each.name == word]
    return literal or [each for each in objects if fnmatch.fnmatchcase(each.name, word)]


def choose(words: Sequence[str], objects: Sequence[ObjectInfo]) -> tuple[list[ObjectInfo], list[str]]:
    """Return the objects that the words mean, in the order of the list, and the words that mean none."""
    if not words:
        return list(objects), []
    found = {word: matching(word, objects) for word in words}
    chosen = [each for each in objects if any(each in some for some in found.values())]
    return chosen, [word for word, some in found.items() if not some]


def report_missing(words: Sequence[str], which: str = "") -> int:
    """Report each word that means no object, and return the exit status; `which` says which objects were meant."""
    for word in words:
        text = f"no object{which} {'matches' if is_pattern(word) else 'has the name'} {word!r}"
        error = FileNotFoundError(errno.ENOENT, text)
        error.filename = word
        print_error(error)
        suggest(error, word)
    return 1 if words else 0


def suggest(error: Exception, name: str | None) -> None:
    """If the name was not found, print a similar one for a person at a terminal."""
    if name is None or not isinstance(error, FileNotFoundError) or error.filename != name or not has_reader():
        return
    import difflib

    from ipcio._inventory import list_objects

    objects: list[ObjectInfo] = []
    with contextlib.suppress(OSError):
        objects = [each for each in list_objects() if each.state != "orphan"]
    close = difflib.get_close_matches(name, {each.name for each in objects}, 1, _SIMILAR)
    for each in objects:
        if each.name == name:
            hint(f"{KINDS[each.kind]} has that name")
        elif each.name in close:
            hint(f"did you mean {printable(each.name)!r} ({KINDS[each.kind]})?")
