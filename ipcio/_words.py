"""The 32-bit words of an object (`ipcio._backend.parts.Words`), where the system can only look at memory.

A process that waits for a word looks at it again and again, with longer and longer pauses.
"""

from __future__ import annotations

from ipcio._timeouts import now, wait_until
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from typing import Protocol

    class Access(Protocol):
        """How words are read and written; `at` is an offset in bytes."""

        def load(self, at: int, /) -> int: ...
        def store(self, at: int, value: int, /) -> None: ...


_MODULUS = 1 << 32


class WordsInMemory:
    """Words that are read and written through the map."""

    __slots__ = ("_words",)

    def __init__(self, memory: mmap.mmap | memoryview[int]) -> None:
        view = memoryview(memory)
        self._words = view[: len(view) & -4].cast("B").cast("I")

    def load(self, at: int, /) -> int:
        """Return the word."""
        return self._words[at >> 2]

    def store(self, at: int, value: int, /) -> None:
        """Change the word."""
        self._words[at >> 2] = value


class PolledWords:
    """Words at which waiting processes look again and again, with the methods of `ipcio._backend.parts.Words`."""

    __slots__ = ("_load", "_store")

    _load: Callable[[int], int]
    _store: Callable[[int, int], None]

    def __init__(self, access: Access) -> None:
        self._load, self._store = access.load, access.store

    def load(self, at: int, /) -> int:
        """Return the word."""
        return self._load(at)

    def store(self, at: int, value: int, /) -> None:
        """Change the word."""
        self._store(at, value)

    def set_and_wake(self, at: int, value: int, /) -> None:
        """Change the word; the waiting processes see that by themselves."""
        self.store(at, value)

    def add_and_wake(self, at: int, number: int, /) -> None:
        """Add to the word."""
        self.store(at, (self.load(at) + number) % _MODULUS)

    def clear_bits(self, at: int, bits: int, /) -> None:
        """Clear bits of the word."""
        self.store(at, self.load(at) & ~bits)

    def ringing(self, at: int, /) -> None:
        """Return None: the waiting processes look by themselves."""

    def wait(self, at: int, expected: int, seconds: float | None, /) -> bool:
        """Wait until the word is not `expected`."""
        return wait_until(lambda: self.load(at) != expected, None if seconds is None else now() + seconds)
