"""What a process waits for at one end of a queue (`ipcio._ring.Bell`)."""

from __future__ import annotations

from itertools import repeat

from ipcio._timeouts import now, wait_until
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ipcio._backend.parts import Words
    from ipcio._ring import Bell


class _Word:
    """A word of the object, which is incremented."""

    __slots__ = ("_at", "_words", "ringing")

    def __init__(self, words: Words, at: int, ringing: Iterator[object]) -> None:
        self._words = words
        self._at = at
        self.ringing = ringing

    def look(self) -> object:
        return self._words.load(self._at)

    def wait(self, before: Any, seconds: float, /) -> bool:
        return self._words.wait(self._at, before, seconds)


class _Look:
    """A look at the queue again and again, if no call of the system waits."""

    __slots__ = ("_look", "ringing")

    def __init__(self, look: Callable[[], object]) -> None:
        self._look = look
        self.ringing: Iterator[object] = repeat(None)

    def look(self) -> object:
        return self._look()

    def wait(self, before: object, seconds: float, /) -> bool:
        return wait_until(lambda: self.look() != before, now() + seconds)


def bell(words: Words, at: int, look: Callable[[], object]) -> Bell:
    """Return the bell that is the word at this offset; where the system cannot wait for a word, what `look` sees."""
    ringing = words.ringing(at)
    return _Look(look) if ringing is None else _Word(words, at, ringing)
