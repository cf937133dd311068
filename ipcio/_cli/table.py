"""Output for people: text without control characters, in columns, within the width of a terminal."""

from __future__ import annotations

import sys
import unicodedata

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_GAP = "  "
_COMMA = ", "
_FEWEST = 24  # cells that the last column needs beside the others
_NEXT_UNIT = 1024
_INDENT = 6  # cells before the last column on lines of its own


def printable(text: str) -> str:
    """Return the text, escaped if it contains characters that could control a terminal."""
    return text if text.isprintable() else ascii(text)


def has_reader() -> bool:
    """Whether a person at a terminal reads the messages; a script does not need hints."""
    return sys.stderr is not None and sys.stderr.isatty()


def hint(text: str) -> None:
    """Print a message for a person at a terminal."""
    if has_reader():
        print(f"ipcio: {text}", file=sys.stderr)


def lines(rows: Sequence[Sequence[str]], *, width: int | None = None) -> list[str]:
    """Align the columns; nothing is cut off.  With a width, the last column is folded at its commas."""
    widths = [max(map(cells, column)) for column in zip(*rows, strict=True)][:-1]
    start = sum(widths) + len(_GAP) * len(widths)
    made: list[str] = []
    for *first, last in rows:
        line = _GAP.join(map(_fit, first, widths)) + _GAP
        if width is None or start + cells(last) <= width:
            made.append((line + last).rstrip())
        elif start + _FEWEST <= width:
            folded = _fold(last, width - start)
            made += [line + folded[0], *(" " * start + piece for piece in folded[1:])]
        else:  # the terminal is too narrow for the last column beside the others
            made += [line.rstrip(), *(" " * _INDENT + piece for piece in _fold(last, width - _INDENT))]
    return made


def _fold(text: str, room: int) -> list[str]:
    """Break a list at its commas, where a line would be wider than `room` cells."""
    first, *rest = text.split(_COMMA)
    folded = [first]
    for each in rest:
        if cells(folded[-1]) + len(_COMMA) + cells(each) < room:  # a comma may follow
            folded[-1] += _COMMA + each
        else:
            folded[-1] += _COMMA.rstrip()
            folded.append(each)
    return folded


def _fit(text: str, width: int) -> str:
    return text + " " * (width - cells(text))


def cells(text: str) -> int:
    """Return how many cells of a terminal a text fills."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)


def size_of(size: float) -> str:
    """Spell a number of bytes for people, in the largest unit of which there is at least one."""
    unit = "byte" if size == 1 else "bytes"
    for larger in "KiB", "MiB", "GiB", "TiB", "PiB":
        if round(size, 1) < _NEXT_UNIT:
            break
        size /= _NEXT_UNIT
        unit = larger
    return f"{size} {unit}" if isinstance(size, int) else f"{size:.1f} {unit}"
