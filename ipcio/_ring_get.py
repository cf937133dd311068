"""The readers' end of a queue; see `ipcio._ring`."""

from __future__ import annotations

import errno
from _thread import get_ident

from ipcio import _queue_errors as errors
from ipcio._bytes import writable_bytes
from ipcio._light import partial
from ipcio._record import calling
from ipcio._ring import NO_TASK, Ring, Wait, acquiring, check_seconds, release_after_error
from ipcio._ring_state import (
    BOOK_KEEPING,
    HEAD,
    POSITION,
    READERS_WAIT,
    RECORD,
    SHUT_DOWN,
    STEP,
    TAIL,
    WRITERS_WAIT,
    check_room,
)
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Buffer

_unpack = RECORD.unpack
_unpack_from: Any = RECORD.unpack_from


class Readers(Ring):
    """`get`, as in the standard library's `queue`."""

    if not TYPE_CHECKING:  # for a type checker, attributes without slots are errors
        __slots__ = ()

    def get(  # noqa: C901,PLR0912 -- for speed, in one piece
        self, block: bool = True, timeout: float | None = None
    ) -> bytes:
        """Take the next message out and return it; wait until there is one.

        With `block` false, the call does not wait; with a `timeout` it waits at most so many seconds (fractions are
        allowed).  Raises `Empty` if there is no message by then, `ShutDown` if there is none and `shutdown` was
        called, `ValueError` for a negative timeout, and `OSError` if the queue is damaged.

        A process that is killed has taken the message or not; none keeps the others from going on.  Ctrl-C ends the
        wait within 0.2 s, and a call that it interrupts has taken nothing.
        """
        if timeout is not None and block:
            timeout = check_seconds(timeout)
        wait: Wait | None = None
        # This is `_try_take`, written out for speed.  It handles a message that ends before the end of the ring.  What
        # `Writers.put` does at the other end has the same steps, with head and tail exchanged: change both.
        while True:
            code = start = tail = 0
            head = -1
            cells, contents, flags = self._cells, self._bytes, self._flags
            wake, lock = self._wake_writers, self._readers
            release = lock.releasing
            for code in lock.trying:
                if not code:
                    try:
                        head = cells[HEAD]
                        tail = cells[TAIL]
                        start = head & POSITION
                        stop = tail & POSITION
                        body = start + BOOK_KEEPING
                        if stop <= start and tail & ~SHUT_DOWN != head:
                            stop = self._last
                        if body <= stop:
                            length, stamp = _unpack_from(contents, start)
                            end = body + length
                            if end <= stop and stamp == head and self._start <= start:
                                data = contents[body:end]
                                cells[HEAD] = head + length + STEP
                                for _ in release:
                                    for _ in wake[flags[WRITERS_WAIT] != 0]:
                                        return data
                    except BaseException:
                        for _ in release:
                            raise
                    next(release)
                break
            if tail != head or code or not self._start <= start <= self._last or self._kept:
                break
            # The queue is empty.
            if not block:
                raise errors.Empty
            if wait is None:
                wait = Wait(self, self._readers_bell, READERS_WAIT, timeout, tail)
            timeout = wait.until_next_look()
            if timeout == 0:
                break
        for data in calling(self._get_slowly, None, code, timeout if block else 0):
            message: bytes = data
            return message
        raise AssertionError("unreachable")

    def get_into(self, buffer: Buffer, block: bool = True, timeout: float | None = None) -> int:
        """Take the next message out, copy it into `buffer`, and return its length.

        This does as `get` without a new object for each message, which pays for large ones.  The buffer is writable and
        contiguous.  If it is too small, `ValueError` is raised and the message stays in the queue.  What a call that is
        interrupted has copied into the buffer does not count.
        """
        if timeout is not None and block:
            timeout = check_seconds(timeout)
        view = writable_bytes(buffer)
        try:
            for length in calling(self._get_slowly, view, errno.EBUSY, timeout if block else 0):
                copied: int = length
                return copied
        except BaseException:
            view.release()
            raise
        raise AssertionError("unreachable")

    def _get_slowly(self, into: memoryview[int] | None, code: int, seconds: float | None) -> Any:
        attempt = partial(self._try_take, into)
        for result in calling(self._until, attempt, code, seconds, self._readers_bell, READERS_WAIT):
            if result is not None:
                return result
        raise errors.Empty

    def _try_take(  # noqa: C901,PLR0912 -- one step after another
        self, into: memoryview[int] | None, code: int, seconds: float | None, task: Any = NO_TASK
    ) -> Any:
        """Take a message, as `_try_put` puts one; return it or, if it was copied `into` a buffer, its length."""
        if self._kept and get_ident() in self._kept:
            return self._give_kept(into, task)
        cells, flags, contents, view = self._cells, self._flags, self._bytes, self._view
        wake, lock = self._wake_writers, self._readers
        release = lock.releasing
        taken: Any = None
        for acquired in acquiring(lock, code, seconds):
            if acquired:
                try:
                    head = cells[HEAD]
                    tail = cells[TAIL]
                    used, count = self._used(tail, head)
                    if count:
                        at = head & POSITION
                        length, stamp = _unpack(self._read(contents, view, at, BOOK_KEEPING))
                        if stamp != head or length > used - count * BOOK_KEEPING:
                            raise self._damaged()
                        if into is None:
                            result = self._read(contents, view, at + BOOK_KEEPING, length)
                        else:
                            result = length
                            self._read_into(view, into, at + BOOK_KEEPING, length)
                        after = self._advance(head, length)
                        if not task._must_cancel:
                            cells[HEAD] = after
                            taken = result
                            for _ in release:
                                for _ in wake[flags[WRITERS_WAIT] != 0]:
                                    return result
                    elif tail & SHUT_DOWN:
                        raise errors.ShutDown
                    next(release)
                except BaseException:
                    if taken is not None:
                        self._kept[get_ident()] = taken if into is None else bytes(into[:taken])
                    release_after_error(release)
                    raise
            break
        return None

    def _give_kept(self, into: memoryview[int] | None, task: Any) -> Any:
        """Return a message that an earlier call of this thread has taken and did not return, as `_try_take` does."""
        thread = get_ident()
        result = data = self._kept[thread]
        if into is not None:
            result = len(data)
            check_room(into, result)
            into[:result] = data
        if not task._must_cancel:
            del self._kept[thread]
            return result
        return None
