"""The handle of an event: :class:`Event`.

All of an event is one word.  Its lowest bit says whether the event is set.  The ten bits above are a
number that each `Event.set` changes, so that a waiting process notices a `set` even if a `clear` followed
before the process could look.  `set` and `clear` are one step of the kernel each.  So there is no lock, no
process ever sees half of a change, and a process that is killed leaves nothing to repair.
"""

from __future__ import annotations

import sys
from itertools import repeat, starmap

from ipcio._event_loop import acquire
from ipcio._layout import WORDS
from ipcio._named import KIND_FLAG, NamedHandle, parts
from ipcio._timeouts import check_timeout
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap
    from typing import ClassVar

    from ipcio._backend.parts import Words
    from ipcio._tuples import OpenObject

STATE = WORDS

_SET = 1
_NUMBERS = 0x7FE  # the bits of the number: the kernel sets a word to at most 2047
IS_SET = KIND_FLAG  # in the header: the event was created set


class Event(NamedHandle):
    """A flag that processes share: some wait until another one sets it.

    Functions of `ipcio.event` return handles; this class is not called.  The methods are those of
    `threading.Event`, and work between any threads of any processes.

    After `close`, every method but `close` raises `ValueError`.  Closing is optional: a handle that is
    garbage-collected closes itself.  Handles may be shared between threads, work on both sides of a
    ``fork`` and pickle by attaching again.
    """

    __slots__ = ("_words",)

    KIND: ClassVar[str] = "event"
    HAS_LOCKS: ClassVar[bool] = False

    _words: Words | None

    def _first_contents(self, memory: mmap.mmap | memoryview[int], flags: int) -> None:
        memory[STATE : STATE + 4] = (_SET if flags & IS_SET else 0).to_bytes(4, sys.byteorder)

    def _set_up(self, opened: OpenObject, flags: int) -> None:  # noqa: ARG002 -- an event has none to keep
        self._words = parts.words(opened)

    def _drop(self) -> None:
        self._words = None

    def _open_words(self) -> Words:
        words = self._words
        if words is None:
            self._check_open()
            raise AssertionError("unreachable")
        return words

    def set(self) -> None:
        """Set the event and wake all threads of all processes that wait for it.

        Each of them returns from its `wait`, also if the event is cleared again at once.  Setting an event that is
        set changes nothing.
        """
        words = self._words or self._open_words()
        words.set_and_wake(STATE, (words.load(STATE) + 2) & _NUMBERS | _SET)

    def clear(self) -> None:
        """Clear the event: from now on, `wait` waits until the next `set`."""
        (self._words or self._open_words()).clear_bits(STATE, _SET)

    def is_set(self) -> bool:
        """Whether the event is set."""
        return bool((self._words or self._open_words()).load(STATE) & _SET)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set, for `timeout` seconds at the most; return whether it was set.

        None or a negative timeout waits for ever, 0 does not wait, and fractions are allowed.  NaN raises
        `ValueError`.  On Linux and Windows the wait costs no processor time: the kernel wakes the thread (``futex(2)``,
        ``SetEvent``).  Elsewhere the thread looks at the event every 20 ms or more often.  While it waits, other
        threads run, and Ctrl-C ends the wait within 0.2 s.  If another thread closes this handle meanwhile, the wait
        goes on.
        """
        seconds = check_timeout(timeout)
        words = self._words or self._open_words()
        state = words.load(STATE)
        return bool(state & _SET) or words.wait(STATE, state, seconds)

    async def wait_async(self, timeout: float | None = None) -> bool:
        """Do as `wait`, without blocking the event loop of asyncio (uvloop, anyio) meanwhile.

        No thread waits.  The system cannot notify an event loop of a change of memory, so the call looks at the event
        every 10 ms or more often.  Therefore it returns up to 10 ms after the `set`, and one task that waits uses
        1 to 2 % of the time of a processor.  A `set` that is followed by a `clear` at once is noticed as well.

        `ValueError` if the handle is closed, during the wait too; `RuntimeError` in an event loop that is not
        asyncio's, such as trio's.
        """
        seconds = check_timeout(timeout)
        state = self._open_words().load(STATE)
        return await acquire(starmap(self._was_set_since, repeat((state,))), _nothing, seconds)

    def _was_set_since(self, state: int) -> bool:
        now = self._open_words().load(STATE)
        return bool(now & _SET) or now != state

    def _details(self) -> str:
        try:
            return " set" if self.is_set() else " clear"
        except (OSError, ValueError):  # another process has cut the object short, another thread has closed the handle
            return ""


def _nothing() -> None:
    pass
