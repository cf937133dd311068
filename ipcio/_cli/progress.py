"""The progress of a long transfer: one line on a terminal, redrawn, and erased at the end."""

from __future__ import annotations

import os
import sys
import time

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_PATIENCE = 1.0  # seconds before the line appears
_PAUSE = 0.1  # seconds before it is drawn again
_BAR = 24  # characters, if there is room


class Progress:
    """Counts bytes, and shows the count on stderr if that is a terminal and the `other` end of the transfer is not.

    A `total` of 0 means unknown.  The line never wraps: a narrow terminal shows fewer parts.
    """

    def __init__(self, total: int, other: int) -> None:
        self._total = total
        self._done = 0
        self._shown = 0  # characters
        self._started = time.monotonic()
        seen = sys.stderr is not None and sys.stderr.isatty() and not os.isatty(other)
        self._next = self._started + _PATIENCE if seen else float("inf")

    def add(self, done: int) -> None:
        """Count so many more bytes."""
        self._done += done
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PAUSE
            self._show(self._line(now - self._started, _columns() - 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._shown:
            self._show("")
            print(end="\r", file=sys.stderr, flush=True)

    def _show(self, line: str) -> None:
        print(f"\r{line:{self._shown}}", end="", file=sys.stderr, flush=True)
        self._shown = len(line)

    def _line(self, seconds: float, room: int) -> str:
        parts = [_bytes(self._done)]
        if self._total:
            share = min(self._done / self._total, 1.0)
            done = int(share * _BAR)
            parts = [f"{share:4.0%}", f"[{'#' * done}{'-' * (_BAR - done)}]", f"{parts[0]} of {_bytes(self._total)}"]
        parts.append(f"{_bytes(self._done / max(seconds, 1e-9))}/s")
        while parts and len("  ".join(parts)) > room:
            parts.pop(1 if len(parts) > 1 else 0)
        return "  ".join(parts)


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1000:  # noqa: PLR2004 -- four digits are too many
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
