"""The writers' end of a queue; see `ipcio._ring`."""

from __future__ import annotations

import errno

from ipcio import _queue_errors as errors
from ipcio._bytes import raw_bytes
from ipcio._light import partial
from ipcio._record import calling
from ipcio._ring import NO_TASK, Ring, acquiring, check_seconds, release_after_error
from ipcio._ring_state import BOOK_KEEPING, HEAD, POSITION, READERS_WAIT, RECORD, SHUT_DOWN, STEP, TAIL, WRITERS_WAIT
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Buffer

_pack = RECORD.pack


class Writers(Ring):
    """`put`, as in the standard library's `queue`."""

    if not TYPE_CHECKING:  # for a type checker, attributes without slots are errors
        __slots__ = ()

    def put(  # noqa: C901,PLR0912 -- for speed, in one piece
        self, data: Buffer, block: bool = True, timeout: float | None = None
    ) -> None:
        """Put a message in; wait until there is room for it.

        `data` is any contiguous bytes-like object, from 0 bytes to the size of the queue less 16.  With `block`
        false, the call does not wait; with a `timeout` it waits at most so many seconds (fractions are allowed).
        Raises `Full` if there is no room by then, `ShutDown` after `shutdown`, `ValueError` for a message that is
        larger than the queue or a negative timeout, and `OSError` if the queue is damaged.

        A process that is killed has put all of the message or nothing.  Ctrl-C ends the wait within 0.2 s, and
        a call that it interrupts has put nothing.  (Where other users may write to the queue, on macOS, on Windows
        and with musl, a Ctrl-C at the very end of a call may raise after the message was put.)
        """
        if timeout is not None and block:
            timeout = check_seconds(timeout)
        if type(data) is not bytes:
            view = raw_bytes(data)
            try:
                for _ in calling(self._put_slowly, errno.EBUSY, view, len(view), timeout if block else 0):
                    return
            except BaseException:
                view.release()
                raise
        length = len(data)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] -- `bytes`
        code = head = 0
        # This is `_try_put`, written out for speed.  It handles a message that ends before the end of the ring.  What
        # `Readers.get` does at the other end has the same steps, with head and tail exchanged: change both.
        cells, contents, flags = self._cells, self._bytes, self._flags
        wake, lock = self._wake_readers, self._writers
        release = lock.releasing
        for code in lock.trying:
            if not code:
                try:
                    tail = cells[TAIL]
                    head = cells[HEAD]
                    start = tail & POSITION
                    stop = head & POSITION
                    body = start + BOOK_KEEPING
                    end = body + length
                    if stop <= start and (stop < start or tail == head):
                        stop = self._last
                    if end <= stop and self._start <= start and not tail & SHUT_DOWN:
                        contents[start:body] = _pack(length, tail)
                        contents[body:end] = data
                        cells[TAIL] = tail + length + STEP
                        for _ in release:
                            for _ in wake[flags[READERS_WAIT] != 0]:
                                return
                except BaseException:
                    for _ in release:
                        raise
                next(release)
            break
        seen = None if code else head
        for _ in calling(self._put_slowly, code, data, length, timeout if block else 0, seen):
            return

    def _put_slowly(self, code: int, data: Buffer, length: int, seconds: float | None, seen: int | None = None) -> None:
        self._check_length(length)
        attempt = partial(self._try_put, data, length)
        for done in calling(self._until, attempt, code, seconds, self._writers_bell, WRITERS_WAIT, seen):
            if done is not None:
                return
        raise errors.Full

    def _try_put(
        self,
        data: Buffer,
        length: int,
        code: int,
        seconds: float | None,
        task: Any = NO_TASK,
        late: list[int] | None = None,
    ) -> bool | None:
        """Put if there is room, the lock can be acquired in time, and the task is not cancelled; else return None.

        `code` is what a step of `trying` said; 0 if there was none.  If a signal handler raises after the message was
        put, `late` gets its length.
        """
        has_put = False
        cells, contents, flags = self._cells, self._bytes, self._flags
        wake, lock = self._wake_readers, self._writers
        release = lock.releasing
        for acquired in acquiring(lock, code, seconds):
            if acquired:
                try:
                    tail = cells[TAIL]
                    used, _ = self._used(tail, cells[HEAD])
                    if tail & SHUT_DOWN:
                        raise errors.ShutDown
                    if length + BOOK_KEEPING <= self._size - used:
                        at = tail & POSITION
                        self._write(contents, at, _pack(length, tail))
                        self._write(contents, at + BOOK_KEEPING, data)
                        after = self._advance(tail, length)
                        if not task._must_cancel:
                            cells[TAIL] = after
                            has_put = True
                            for _ in release:
                                for _ in wake[flags[READERS_WAIT] != 0]:
                                    return True
                    next(release)
                except BaseException:
                    if has_put and late is not None:
                        late.append(length)
                    release_after_error(release)
                    raise
            break
        return None
