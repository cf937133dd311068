"""What people read: words without control characters, in columns, within the width of a terminal."""

from __future__ import annotations

import sys
import unicodedata

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["cells", "lines", "note", "shown"]

_GAP = "  "
_COMMA = ", "
_FEWEST = 24  # cells that the last column needs beside the others
_INDENT = 6  # cells before the last column on lines of its own


def shown(text: str) -> str:
    """Return the text as one word of a line, quoted if there is in it what a terminal may obey."""
    return text if text.isprintable() else ascii(text)


def note(text: str) -> None:
    """Tell who sits there; a script that finds nothing to do need not hear of it."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"ipcio: {text}", file=sys.stderr)


def lines(rows: Sequence[Sequence[str]], *, width: int | None = None) -> list[str]:
    """Align the columns; nothing is cut.  Within a width, the last column is folded at its commas."""
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
        else:  # there is no room beside the others
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
    """How much room a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)
