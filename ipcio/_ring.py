"""Messages in a ring of memory: put in at one end and taken out at the other, by processes that may be killed.

**Commit.**  A writer holds the lock of the writers and changes the tail alone.  A reader holds the lock of
the readers and changes the head alone (see `ipcio._ring_state`).  The store that does so comes after everything
else.  So a message was put or was not, at whatever instruction a process is killed, and there is nothing to repair.

**Sleep.**  A process that waits holds no lock.  It sets the flag of its end, looks once more, and then waits
for a *bell*, which a process at the other end rings if it finds the flag set after a commit.  It looks
again after `SLICE` seconds, because that process may be killed between the two.

**Interrupts.**  No signal handler runs from the commit to the return of the call (see `ipcio._record`), so a
call that raises has put or taken nothing.  Where Python code releases the lock, a handler may raise in there.
Then the message has been put; one that has been taken is kept for the next call of the thread.

:class:`Ring` knows neither names nor files: it is given the memory, the locks and the bells.  docs/design.md
("Queues") has the races, and the model that was searched for them.
"""

from __future__ import annotations

from itertools import repeat, starmap

from ipcio._light import partial, setitem, suppress
from ipcio._record import calling, exhaust, in_turn
from ipcio._ring_state import (
    CELLS,
    HEAD,
    READERS_WAIT,
    SHUT_DOWN,
    TAIL,
    WRITERS_WAIT,
    RingState,
)
from ipcio._timeouts import check_timeout, now
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn, Protocol, TypeVar

    from ipcio._ring_state import Bytes, Cells

    T = TypeVar("T")

    class RingLock(Protocol):
        """The lock of one end, see `ipcio._backend.parts.Lock`, with the steps that the quick ways are made of."""

        trying: Iterator[int]
        """Each step tries to acquire the lock: 0 if it did; otherwise call `acquire_after` with the result."""
        releasing: Iterator[object]
        """Each step releases the lock; if C code alone makes it, it raises nothing."""

        def acquire(self, seconds: float | None, /) -> int: ...
        def acquire_after(self, code: int, seconds: float | None, /) -> int: ...

    class Bell(Protocol):
        """What processes at one end wait for."""

        ringing: Iterator[object]
        """Each step wakes all that wait; C code alone, which does not raise."""

        def look(self) -> object:
            """Return what `wait` compares."""
            ...

        def wait(self, before: object, seconds: float, /) -> object:
            """Wait so long, or until it has been rung since it was `before`."""
            ...


SLICE = 0.1  # seconds until a process that waits looks again
LOOKS = 300  # before it sleeps: 15 to 20 microseconds
MOST_OMITTED = 64  # how often it sleeps without looking first, if that was in vain


_set: Any = setitem


class _NoLock:
    """In the place of the locks of a queue that was closed."""

    def __init__(self, refuse: Callable[..., NoReturn]) -> None:
        self.trying: Iterator[int] = starmap(refuse, repeat(()))
        self.releasing: Iterator[object] = self.trying
        self.acquire = self.acquire_after = refuse


class NoTask:
    """In the place of a task of an event loop: it is never cancelled."""

    _must_cancel = False


NO_TASK: Any = NoTask()


class Ring(RingState):
    """The memory of a queue with its locks and bells; `ipcio._ring_put` and `ipcio._ring_get` have the two ends."""

    if not TYPE_CHECKING:  # for a type checker, attributes without slots are errors
        __slots__ = ()

    FIELDS = (
        "_bytes",
        "_cells",
        "_flags",
        "_kept",
        "_last",
        "_readers",
        "_readers_bell",
        "_size",
        "_spins",
        "_start",
        "_view",
        "_wake_readers",
        "_wake_writers",
        "_writers",
        "_writers_bell",
    )

    _flags: Cells  # the same cells; after `close`, others
    _readers: RingLock
    _writers: RingLock
    _readers_bell: Bell
    _writers_bell: Bell
    _wake_readers: tuple[Iterator[object], Iterator[object]]  # what to do if no reader waits, and if one may
    _wake_writers: tuple[Iterator[object], Iterator[object]]
    _spins: dict[int, tuple[int, int]]  # by flag: how often not to look, and how often after that; see `moves_soon`
    _kept: dict[int, Any]  # by thread: what a call has taken that a signal handler did not let return

    def _arrange(
        self,
        cells: Cells,
        contents: tuple[Bytes, Any],
        ring: tuple[int, int],
        locks: tuple[RingLock, RingLock],
        bells: tuple[Bell, Bell],
    ) -> None:
        """Be over this memory; `ring` is the offset and the size, and readers come before writers."""
        self._cells = self._flags = cells
        self._bytes, self._view = contents
        self._start, self._size = ring
        self._last = sum(ring) - 1
        self._kept = {}
        self._spins = {READERS_WAIT: (0, 1), WRITERS_WAIT: (0, 1)}
        self._readers, self._writers = locks
        self._readers_bell, self._writers_bell = bells
        self._wake_readers, self._wake_writers = (
            (repeat(None), _clearing(cells, flag, bell))
            for flag, bell in zip((READERS_WAIT, WRITERS_WAIT), bells, strict=True)
        )

    def _forget(self, refuse: Callable[..., NoReturn]) -> None:
        """Let the memory go: from now on, `refuse` is called in place of a step that acquires a lock.

        A call of another thread that has begun has references to all that it needs.
        """
        gone: Any = None
        self._readers = self._writers = _NoLock(refuse)
        self._flags = [1] * CELLS
        self._cells = self._bytes = self._view = self._readers_bell = self._writers_bell = gone
        self._wake_readers = self._wake_writers = gone

    # -- both --------------------------------------------------------------

    def _until(
        self,
        attempt: Callable[[int, float | None], T],
        code: int,
        seconds: float | None,
        bell: Bell,
        flag: int,
        seen: int | None = None,
    ) -> T | None:
        """Attempt until the result is something, for so long (None: no limit); return None then.

        `flag` is the cell that says that a process waits, and `code` what the last try to acquire the lock
        said, 0 if the caller has just looked in vain; `seen` is as for `Wait`.
        """
        if code or seconds == 0:
            # It is never long before the lock is free.
            for result in calling(attempt, code, None if seconds == 0 else seconds):
                if result is not None:
                    return result
        wait = Wait(self, bell, flag, seconds, seen)
        while (left := wait.until_next_look()) != 0:
            for result in calling(attempt, 0, left):
                if result is not None:
                    return result
        return None

    def moves_soon(self, flag: int, seen: int) -> bool:
        """Look for some microseconds whether the other end moves; the more often in vain, the less often.

        The kernel needs 10 to 50 microseconds to wake a process, and the call costs the other process time.
        """
        cells, spins = self._cells, self._spins
        omit, next_time = spins[flag]
        if omit:
            spins[flag] = omit - 1, next_time
        elif cells:
            cell = TAIL if flag == READERS_WAIT else HEAD
            for _ in repeat(None, LOOKS):
                if cells[cell] != seen:
                    spins[flag] = 0, 1
                    return True
            spins[flag] = next_time, min(2 * next_time, MOST_OMITTED)
        return False

    # -- the end -----------------------------------------------------------

    def shutdown(self, immediate: bool = False) -> None:
        """Refuse further messages, for all handles in all processes and for good.

        From now on `put` raises `ShutDown`, and so does `get` as soon as the queue is empty.  Calls that wait are
        woken.
        With `immediate`, the messages that are in the queue are discarded.  May be called again.
        """
        cells, wakes = self._cells, (self._wake_readers, self._wake_writers)

        def refuse_more() -> None:
            cells[TAIL] |= SHUT_DOWN

        def discard_all() -> None:
            cells[HEAD] = cells[TAIL] & ~SHUT_DOWN

        _change(self._writers, refuse_more)
        if immediate:
            _change(self._readers, discard_all)
        for wake in wakes:
            next(wake[1])


class Wait:
    """The wait of one call at an end of a queue, for so many seconds (None: no limit).

    It is no generator: a signal handler that runs while one is closed cannot raise.
    """

    __slots__ = ("_before", "_bell", "_end", "_flag", "_left", "_ring", "_seen")

    def __init__(self, ring: Ring, bell: Bell, flag: int, seconds: float | None, seen: int | None) -> None:
        """`seen` is the cell of the other end as the caller has just seen it, None if that is not known."""
        if not bell:
            ring._check_open()
        self._ring, self._bell, self._flag = ring, bell, flag
        self._end = None if seconds is None else now() + seconds
        self._left = seconds
        self._seen = seen
        self._before: object = None  # what the bell was when this process said that it waits

    def until_next_look(self) -> float | None:
        """Wait until the caller has to look; return how many seconds are left, 0 if the time is up."""
        left = self._left
        if left == 0:
            return 0
        if self._seen is not None:
            seen, self._seen = self._seen, None
            if self._ring.moves_soon(self._flag, seen):
                return left
        elif self._before is not None:
            if self._end is not None:
                self._left = left = max(self._end - now(), 0)
            if left == 0:
                return 0
            woken = self._bell.wait(self._before, SLICE if left is None else min(left, SLICE))
            self._before = None
            if woken:
                return left
        self._before = self._bell.look()
        self._ring._flags[self._flag] = 1
        return left


def release_after_error(release: Iterator[object]) -> None:
    """Release the lock if it is still held: a signal handler may have raised after the release."""
    with suppress(RuntimeError):
        next(release)


def _change(lock: RingLock, change: Callable[[], None]) -> None:
    for acquired in calling(lock.acquire, None):
        if acquired:
            try:
                change()
                next(lock.releasing)
            except BaseException:
                release_after_error(lock.releasing)
                raise


def check_seconds(timeout: float) -> float | None:
    """Return how many seconds to wait; as in the standard library's `queue`, a negative number is a `ValueError`."""
    if timeout < 0:
        raise ValueError("timeout must be a number of seconds, 0 or more, or None to wait for ever")
    return check_timeout(timeout)


def acquiring(lock: RingLock, code: int, seconds: float | None) -> Iterator[int]:
    """Return an iterator of one step, which acquires the lock in time or is 0."""
    return calling(lock.acquire_after, code, seconds) if code else calling(lock.acquire, seconds)


def _clearing(flags: Cells, flag: int, bell: Bell) -> Iterator[object]:
    """Return an iterator of which each step clears the flag and rings the bell."""
    clear: Any = partial(_set, flags, flag, 0)
    steps: tuple[Any, Any] = clear, partial(next, bell.ringing)
    return map(exhaust, map(in_turn, repeat(steps)))
