"""The input of a child on its way to the pipe: data that were queued, or what a file object gives, once and in order.

As in `_child_output`, no interrupt loses a byte or sends one twice.
"""

from __future__ import annotations

import codecs
import errno
from io import IOBase

from ipcio._forklock import RLock
from ipcio._record import record
from ipcio._timeouts import pause_after
from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_CHUNK = 1 << 18  # bytes that are read from a file object at once


class Chunk(NamedTuple):
    """What to write next."""

    data: memoryview
    sent: list[int]
    """Where the back end records how many bytes of `data` it has written."""


class Input:
    """What is to be written to a child, in order: what was queued, or what a file object gives."""

    END = Chunk(memoryview(b""), [])
    """In place of a chunk: the input has ended."""

    def __init__(
        self,
        encoding: str | None = None,
        errors: str = "strict",
        read: Callable[[int], Any] | None = None,
        *,
        read_again: bool = False,
    ) -> None:
        """`read_again`: that `read` returns None for now, and is to be called again."""
        self._encoder = None if encoding is None else codecs.getincrementalencoder(encoding)(errors)
        self._start = self._state = None if self._encoder is None else self._encoder.getstate()
        self._sending = self._latest = _Put([], self._start, ends=False, after=[])
        self._lock = RLock()  # a signal handler may queue something, too
        self._read = read
        self._from_file = read is not None
        self._read_again = read_again
        self._refusals = 0  # how many times in a row `read` has returned None
        self._fetched = _Fetched([], [])
        self._ends = False
        self._discarded = False

    @property
    def is_queue(self) -> bool:
        """Whether it is for `put`, and not read from a file object."""
        return not self._from_file

    @property
    def may_refuse(self) -> bool:
        """Whether there may be a file that has nothing for now."""
        return self._read_again

    @property
    def pending(self) -> int:
        """How many bytes are queued."""
        put = self._sending
        items = list(put.items)
        while put.after:
            put = put.after[0]
            items += put.items
        return sum(len(item[0]) - sum(item[1]) for item in items if item is not None)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to write until something is queued, or the file has something."""
        put = self._sending
        while not put.items:
            if not put.after:
                return self._read is None or self._refusals > 0
            put = put.after[0]
        return False

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the file, which has nothing now, is to be asked again: call `next_chunk`; else None."""
        return pause_after(self._refusals) if self._refusals and self._read is not None else None

    def put(self, data: Sequence[Any], end: object) -> None:
        """Queue bytes, text, and the end if `end` is the last item; or raise and queue nothing."""
        ends = bool(data) and data[-1] is end
        pieces = data[:-1] if ends else data
        if any(piece is end for piece in pieces):
            raise ValueError("write after EOF")
        with self._lock:
            while data:
                last = self._latest
                while last.after:
                    last = last.after[0]
                if last.ends:
                    raise ValueError("write after EOF")
                state = last.state
                items: list[tuple[bytes, list[int]] | None] = []
                for piece in pieces:
                    if isinstance(piece, str):
                        encoded, state = self._encode(piece, state)
                    else:
                        encoded = piece if piece.__class__ is bytes else bytes(memoryview(piece))
                    items.append((encoded, []))
                if ends:
                    items += [(self._encode("", state, final=True)[0], []), None]
                items.reverse()
                put = _Put(items, state, ends=ends, after=[])
                # If a signal handler has queued something since `last` was found, that comes first.
                last.after.append(put)
                if self._discarded:
                    return
                self._latest = last.after[0]
                if self._latest is put:
                    return

    def _encode(self, text: str, state: Any, *, final: bool = False) -> tuple[bytes, Any]:
        """Return bytes and the encoder's next state; some encodings require bytes at the end."""
        if self._encoder is None:
            if final:
                return b"", state
            raise TypeError('cannot write str without an encoding: pass encoding="utf-8", or write bytes')
        if final and state == self._start:  # nothing was encoded
            return b"", state
        self._encoder.setstate(state)
        return self._encoder.encode(text, final), self._encoder.getstate()

    def next_chunk(self) -> Chunk | None:
        """Return what to write now, `END` at the end, and None if nothing is queued now."""
        while True:
            items = self._sending.items
            while items:
                item = items[-1]
                if item is None:
                    return self.END
                if (left := unsent(*item)) is not None:
                    return Chunk(left, item[1])
                items.pop()
            if not self._sending.after:
                break
            self._sending = self._sending.after[0]
        return None if self._read is None else self._next_of_file(self._read)

    def _next_of_file(self, read: Callable[[int], Any]) -> Chunk | None:
        while True:
            fetched, sent = self._fetched
            if not fetched:
                record(fetched, read, _CHUNK)
            data = fetched[0]
            if data is None and self._read_again:
                self._refusals += 1
                self._fetched = _Fetched([], [])
                return None
            self._refusals = 0
            if isinstance(data, str) and data:
                encoded, state = self._encode(data, self._state)
                self._state, self._fetched = state, _Fetched([encoded], [])
            elif data is None and isinstance(file := getattr(read, "__self__", None), IOBase):
                self._fetched = _Fetched([], [])
                raise BlockingIOError(errno.EAGAIN, f"{file!r} has nothing to read now, and cannot be waited for")
            elif data is not None and not isinstance(data, str) and (chunk := _in_bytes(data)):
                if chunk is not data:
                    self._fetched = _Fetched([chunk], [])
                elif (left := unsent(chunk, sent)) is not None:
                    return Chunk(left, sent)
                else:
                    self._fetched = _Fetched([], [])
            elif self._ends or not (last := self._encode("", self._state, final=True)[0]):
                return self.END
            else:
                self._ends, self._fetched = True, _Fetched([last], [])

    def discard(self) -> None:
        """Forget everything: the child has closed its end of the pipe, or has exited."""
        self._discarded = True
        self._read = None
        self._sending = _Put([], None, ends=False, after=[])


class _Put(NamedTuple):
    """What one call has queued."""

    items: list[tuple[bytes, list[int]] | None]
    """Data and how much of each is sent, the last first; None for the end."""
    state: Any
    """The encoder's, after these."""
    ends: bool
    after: list[_Put]
    """What was queued next is the first of these; the others are attempts that came too late."""


class _Fetched(NamedTuple):
    """What a file object gave."""

    chunk: list[Any]
    sent: list[int]
    """How many bytes of it were written."""


def _in_bytes(data: Any) -> bytes | memoryview[int]:
    """Return it, or something equal, of which each item is a byte."""
    if isinstance(data, bytes):
        return data
    view: memoryview[int] = memoryview(data)
    if view.format == "B" and view.ndim == 1 and view.contiguous:
        return view if data.__class__ is not memoryview else data
    return view.tobytes()


def unsent(data: bytes | memoryview, sent: list[int]) -> memoryview | None:
    """Return what is left of the data when so many bytes were sent; None if that is nothing."""
    done = sum(sent)
    if len(sent) > 1:
        sent[:] = [done]
    return memoryview(data)[done:] if done < len(data) else None
