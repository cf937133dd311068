"""What people read: words without control characters, in columns, within the width of a terminal."""

from __future__ import annotations

import sys
import unicodedata

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["lines", "note", "shown"]

_GAP = "  "
_CUT = ".."
_FEWEST = 12  # cells that a column is cut to


def shown(text: str) -> str:
    """Return the text as one word of a line, quoted if there is in it what a terminal may obey."""
    return text if text.isprintable() else ascii(text)


def note(text: str) -> None:
    """Tell who sits there; a script that finds nothing to do need not hear of it."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"ipcio: {text}", file=sys.stderr)  # noqa: T201


def lines(rows: Sequence[Sequence[str]], *, give: int, width: int | None = None) -> list[str]:
    """Align the columns; within a width, the column `give` and then the last one are cut."""
    widths = [max(map(_cells, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
        # Most of what is missing is taken from the wider of the two, but something is left of each.
        for column in sorted((give, len(widths) - 1), key=widths.__getitem__, reverse=True):
            if excess > 0:
                cut = min(excess, max(widths[column] - _FEWEST, 0))
                widths[column] -= cut
                excess -= cut
    made = (_GAP.join(map(_fit, row, widths)).rstrip() for row in rows)
    return [line if width is None else _cut(line, width) for line in made]


def _fit(text: str, width: int) -> str:
    text = _cut(text, width)
    return text + " " * (width - _cells(text))


def _cut(text: str, width: int) -> str:
    if _cells(text) <= width:
        return text
    while text and _cells(text) > width - len(_CUT):
        text = text[:-1]
    return (text + _CUT)[: max(width, 0)]


def _cells(text: str) -> int:
    """How much room a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF") for char in text)
