"""The 32-bit words of an object (`ipcio._backend.parts.Words`): memory that is shared, and a named event for each word.

Windows has no call by which one process changes a word and wakes another one.  So the change comes first and then the
wake-up.  A process that waits also looks at the word ten times a second: it sees a change within 0.1 s if the process
that made it was killed before the wake-up.  These pauses also let Ctrl-C through.

The events are *manual-reset*: once set, they end every wait, until a process that is about to wait resets them.  That
may come between the look at the word and the wait of another process, which then finds the change at its next look.

A word is changed while a mutex is held, so that of two changes at the same time none is lost.
"""

from __future__ import annotations

import random
from functools import partial
from itertools import count, repeat
from operator import attrgetter, setitem

from ipcio._record import calling, exhaust, in_turn
from ipcio._timeouts import now
from ipcio._typing import TYPE_CHECKING
from ipcio._windows import objects, win32
from ipcio._words import WordsInMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ipcio._tuples import OpenObject

_MODULUS = 1 << 32


class EventWords(WordsInMemory):
    """Words that processes wait for at named events."""

    __slots__ = ("_events", "_mutex", "_name", "_prefix")

    def __init__(self, opened: OpenObject) -> None:
        super().__init__(opened.memory)
        self._name = opened.name
        self._prefix = f"{opened.name}/{opened.kind} "  # no name of an object has a slash
        self._events: dict[int, objects.SemLock] = {}
        self._mutex = self._open(win32.CreateMutex, False, "lock")

    def set_and_wake(self, at: int, value: int, /) -> None:
        """Change the word and then wake the waiting processes."""
        self._change(at, 0, value)
        self._wake(at)

    def add_and_wake(self, at: int, number: int, /) -> None:
        """Add to the word and then wake the waiting processes."""
        self._change(at, -1, number)
        self._wake(at)

    def clear_bits(self, at: int, bits: int, /) -> None:
        """Clear bits of the word."""
        self._change(at, ~bits, 0)

    def _wake(self, at: int) -> None:
        """Wake the waiting processes."""
        if not win32.SetEvent(self._event(at).handle):
            raise win32.failure()

    def ringing(self, at: int, /) -> Iterator[object]:
        """Return an iterator of which each step changes the word, to a value that it hardly had, and wakes."""
        numbers = map((_MODULUS - 1).__and__, count(random.getrandbits(32), random.getrandbits(32) | 1))
        change: Any = setitem
        changes: Iterator[object] = map(change, repeat(self._words), repeat(at >> 2), numbers)
        wakes: Iterator[object] = map(win32.SetEvent, map(attrgetter("handle"), repeat(self._event(at))))
        steps: Any = partial(next, changes), partial(next, wakes)
        return map(exhaust, map(in_turn, repeat(steps)))

    def wait(self, at: int, expected: int, seconds: float | None, /) -> bool:
        """Wait until the word is not `expected`; to be woken without a change is not enough."""
        event = self._event(at)
        end = None if seconds is None else now() + seconds
        while True:
            win32.ResetEvent(event.handle)
            if self.load(at) != expected:
                return True
            left = objects.SLICE if end is None else min(end - now(), objects.SLICE)
            if left <= 0:
                return False
            objects.wait_for(event.handle, left)  # if it was set, perhaps for an earlier change: look again

    def _change(self, at: int, kept: int, added: int) -> None:
        """Keep these bits of the word, and add a number; if a process is killed meanwhile, the next one goes on."""
        for _ in calling(objects.wait_for, self._mutex.handle, None):
            try:
                self.store(at, ((self.load(at) & kept) + added) % _MODULUS)
            finally:
                win32.ReleaseMutex(self._mutex.handle)

    def _event(self, at: int) -> objects.SemLock:
        found = self._events.get(at)
        if found is None:
            found = self._events[at] = self._open(win32.CreateEvent, True, False, str(at))
        return found

    def _open(self, function: Callable[..., int | None], *arguments: object) -> objects.SemLock:
        *options, part = arguments
        return objects.open_or_create(function, None, *options, f"{self._prefix}{part}", called=self._name)
