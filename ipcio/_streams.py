"""What flows between a process and its child: pieces of output on their way out, data on its way in.

A signal handler that raises, as that of Ctrl-C, must neither lose a byte nor double one.
So what a call gave or did is recorded in the step that makes the call (`ipcio._record`),
and every other step is one assignment.
"""

from __future__ import annotations

import codecs
import errno
from functools import partial
from io import IOBase
from itertools import chain, repeat, starmap
from operator import length_hint

from ipcio._forklock import FREE_THREADED, RLock
from ipcio._record import call_locked, exhaust, record
from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

__all__ = ["Form", "Input", "Output"]

_CHUNK = 1 << 18  # bytes that are read from a file object at once
_BITE = 1 << 16  # bytes that are decoded or cut into lines at once


class Form:
    """What pieces of output look like: bytes or text, as they come or line by line."""

    def __init__(self, encoding: str | None = None, errors: str = "strict", *, lines: bool = False) -> None:
        self._empty: Any = b"" if encoding is None else ""
        self.start: _Kept = _Kept(None, None)
        self._newline: Any = b"\n" if encoding is None else "\n"
        self._lines = lines
        self._name = encoding or ""
        self._decoder = None
        if encoding is not None:
            "".encode(encoding)  # LookupError, also for what is no encoding of text
            codecs.lookup_error(errors)
            self._decoder = codecs.getincrementaldecoder(encoding)(errors)
            self.start = _Kept(self._decoder.getstate(), None)

    def cut(self, raw: list[bytes], kept: _Kept, *, final: bool) -> _Flow:
        """Make pieces of what was read.  Changes nothing: the result is the whole of what comes next."""
        state, line = kept
        error = None
        left: list[bytes] = []
        pieces: list[Any] = raw
        if self._decoder is not None or self._lines:
            # Not all at once: pieces that have just been made are still in the processor's cache.
            data: Any = raw[0][:_BITE] if raw else b""
            left = ([raw[0][_BITE:]] if raw and len(raw[0]) > _BITE else []) + raw[1:]
            final = final and not left
            if self._decoder is not None:
                data, state, error = self._decode(state, data, final=final)
                if isinstance(error, UnicodeDecodeError):
                    left = [error.object[error.end :], *left]
            pieces = [data] if data else []
            if self._lines:
                pieces, line = self._split(data, line)
        if not final or error is not None:
            return _Flow(left, _one_by_one(pieces), error, _Kept(state, line))
        if line is not None:
            pieces.append(self._whole(line))
        return _Flow([], _one_by_one(pieces), None, None)

    def _decode(self, state: Any, data: bytes, *, final: bool) -> tuple[str, Any, UnicodeError | None]:
        """Return text, the decoder's next state, and what is wrong where the text ends."""
        decoder = self._decoder
        assert decoder is not None
        decoder.setstate(state)
        try:
            text = decoder.decode(data, final)
            kept, _ = after = decoder.getstate()
            if not (final and kept):
                return text, after, None
            # Some codecs forget what is left at the end.
            return text, self.start.state, UnicodeDecodeError(self._name, kept, 0, len(kept), "unexpected end of data")
        except UnicodeDecodeError as error:
            # Its object begins with what the decoder had kept of the bytes before; those of
            # Python, unlike those of C, know by now whether a mark at the beginning is over.
            written_in_python = isinstance(decoder, codecs.BufferedIncrementalDecoder)
            flags = decoder.getstate()[1] if written_in_python else state[1]
            decoder.setstate((b"", flags))
            text = decoder.decode(error.object[: error.start])
            return text, (b"", decoder.getstate()[1]), error
        except UnicodeError as error:  # utf-16 without a mark: it does not say where
            return "", self.start.state, error

    def _split(self, data: Any, line: _Line | None) -> tuple[list[Any], _Line | None]:
        """Return whole lines, and the beginning of one; only a newline ends a line."""
        end = data.rfind(self._newline) + 1
        if not end:
            return [], _Line(line, data) if data else line
        whole = data[:end] if line is None else self._whole(_Line(line, data[:end]))
        lines = whole.splitlines(keepends=True)
        if len(lines) != whole.count(self._newline):  # it knows other ends of lines, too
            lines = [each + self._newline for each in whole.split(self._newline)[:-1]]
        return lines, _Line(None, data[end:]) if end < len(data) else None

    def _whole(self, line: _Line | None) -> Any:
        parts: list[Any] = []
        while line is not None:
            parts.append(line.part)
            line = line.before
        return self._empty.join(reversed(parts))


class _Line(NamedTuple):
    """The beginning of a line: a part, and those before.  To add one takes the same time however many there are."""

    before: _Line | None
    part: Any


class _Kept(NamedTuple):
    """What of the bytes so far is in no piece yet."""

    state: Any
    """The decoder's."""
    line: _Line | None
    """A line whose end has not come."""


class _Flow(NamedTuple):
    """All that an `Output` has."""

    raw: list[bytes]
    """Chunks, as they were read."""
    ready: Iterator[Any]
    """Pieces for the consumer.  It is a list's, and so remembers what is gone without Python's help."""
    error: UnicodeError | None
    """To be raised when those are consumed."""
    kept: _Kept | None
    """None when all has been cut."""


class Output:
    """One stream of a child's output."""

    def __init__(self, name: str, form: Form, text: Form | None = None) -> None:
        self.name = name
        self._text = text  # for a consumer of which only its first piece shows that it requires text
        self._first: Iterator[Any] | None = None
        self.ended = False
        """Whether nothing more will be read; to be set by who reads."""
        self._form = form
        self._flow = _Flow([], iter([]), None, form.start)

    @property
    def raw(self) -> list[bytes]:
        """Where who reads puts what he has read, in the same call of C."""
        return self._flow.raw

    @property
    def finished(self) -> bool:
        """Whether everything has been consumed and nothing more will come."""
        _, ready, error, kept = self._flow
        return kept is None and not length_hint(ready) and error is None

    def pieces(self) -> Iterator[Any]:
        """Give what there is.  A piece is gone when somebody has got it.

        Raises `UnicodeError`, once, in the place of bytes that cannot be decoded.
        """
        return chain.from_iterable(self.batches())

    def batches(self) -> Iterator[Iterator[Any]]:
        """The same, several at a time."""
        while self._step():
            yield self._flow.ready

    def batch(self) -> Iterator[Any] | None:
        """The first of them, None if there is nothing."""
        return self._flow.ready if self._step() else None

    def _step(self) -> bool:
        """Have something ready, if there is anything; return whether there was."""
        raw, ready, error, kept = self._flow
        if length_hint(ready):
            return True
        if error is not None:
            self._flow = _Flow(raw, ready, None, kept)
            raise error
        if kept is None or not (raw or self.ended):
            return False
        self._flow = self._form.cut(raw, kept, final=self.ended)
        if self._first is None:
            self._first = self._flow.ready
        return True

    def give_as_text(self) -> bool:
        """Whether the consumer may get text, now that it refuses its first piece: then it gets that, too, again."""
        raw, ready, error, _ = self._flow
        pieces, count = _given(ready)
        if self._text is None or ready is not self._first or count != 1:
            return False
        form, self._text = self._text, None
        self._form, self._flow = form, _Flow([*pieces, *raw], iter([]), error, form.start)
        exhaust(ready)
        return True

    def give_rest(self, count: int) -> None:
        """The consumer has had only so many bytes of its last piece: give the rest again."""
        raw, ready, error, kept = self._flow
        pieces, given = _given(ready)
        if given and isinstance(pieces[given - 1], bytes):
            self._flow = _Flow(raw, _one_by_one([pieces[given - 1][count:], *pieces[given:]]), error, kept)
            exhaust(ready)

    @property
    def waiting(self) -> bool:
        """Whether a consumer would get something now."""
        while self._step():
            if length_hint(self._flow.ready):
                return True
        return False

    def discard(self) -> None:
        """Forget everything: nobody wants it any more."""
        self.ended = True
        ready = self._flow.ready
        self._flow = _Flow([], iter([]), None, None)
        exhaust(ready)  # somebody may be in the middle of it


class _OneByOne:
    """The iterator of a list on a Python without the GIL, where two threads may get the same item from that itself."""

    def __init__(self, pieces: list[Any]) -> None:
        self._pieces = iter(pieces)
        lock = RLock()
        self._acquiring = starmap(lock.acquire, repeat(()))
        self._release = partial(lock.release)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        piece = call_locked(self, next, self._pieces, _END)
        if piece is _END:
            raise StopIteration
        return piece

    def __length_hint__(self) -> int:
        return length_hint(self._pieces)

    def __reduce__(self) -> Any:
        return self._pieces.__reduce__()


_END: Any = object()

_one_by_one: Callable[[list[Any]], Iterator[Any]] = _OneByOne if FREE_THREADED else iter


def _given(ready: Iterator[Any]) -> tuple[list[Any], int]:
    """Return the list that such an iterator goes through, and how far it is."""
    state: Any = ready.__reduce__()
    _, (pieces,), *at = state
    return pieces, at[0] if at else 0


class Input:
    """What is to be written to a child, in order: what was queued, or what a file object gives."""

    def __init__(
        self, encoding: str | None = None, errors: str = "strict", read: Callable[[int], Any] | None = None
    ) -> None:
        self._encoder = None if encoding is None else codecs.getincrementalencoder(encoding)(errors)
        self._start = self._state = None if self._encoder is None else self._encoder.getstate()
        self._sending = self._latest = _Put([], self._start, ends=False, after=[])
        self._lock = RLock()  # a signal handler may queue something, too
        self._read = read
        self._from_file = read is not None
        self._fetched = _Fetched([], [])
        self._ends = False
        self._discarded = False

    @property
    def is_queue(self) -> bool:
        """Whether it is for `put`, and not read from a file object."""
        return not self._from_file

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
        """Whether there is nothing to write until something is queued."""
        put = self._sending
        while not put.items:
            if not put.after:
                return self._read is None
            put = put.after[0]
        return False

    def put(self, data: Sequence[Any], end: object) -> None:
        """Queue bytes, text, and the end if that is the last; or raise and queue nothing."""
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
                        encoded = bytes(memoryview(piece))  # a copy, unless it cannot change
                    items.append((encoded, []))
                if ends:
                    items += [(self._encode("", state, final=True)[0], []), None]
                items.reverse()
                put = _Put(items, state, ends=ends, after=[])
                # A signal handler that has queued something since was first.
                last.after.append(put)
                if self._discarded:
                    return
                self._latest = last.after[0]
                if self._latest is put:
                    return

    def _encode(self, text: str, state: Any, *, final: bool = False) -> tuple[bytes, Any]:
        """Return bytes and the encoder's next state; some encodings need a last word."""
        if self._encoder is None:
            if final:
                return b"", state
            raise TypeError('cannot write str without an encoding: pass encoding="utf-8", or write bytes')
        if final and state == self._start:  # nothing was encoded
            return b"", state
        self._encoder.setstate(state)
        return self._encoder.encode(text, final), self._encoder.getstate()

    def next(self) -> tuple[memoryview, list[int]] | bool:
        """Return what to write now, and where to put how much of it was, in the same call of C.

        False if there is nothing now, True if it is the end.
        """
        while True:
            items = self._sending.items
            while items:
                item = items[-1]
                if item is None:
                    return True
                if (left := _unsent(*item)) is not None:
                    return left, item[1]
                items.pop()
            if not self._sending.after:
                break
            self._sending = self._sending.after[0]
        return False if self._read is None else self._next_of_file(self._read)

    def _next_of_file(self, read: Callable[[int], Any]) -> tuple[memoryview, list[int]] | bool:
        while True:
            fetched, sent = self._fetched
            if not fetched:
                record(fetched, read, _CHUNK)
            data = fetched[0]
            if isinstance(data, str) and data:
                encoded, state = self._encode(data, self._state)
                self._state, self._fetched = state, _Fetched([encoded], [])
            elif data is None and isinstance(file := getattr(read, "__self__", None), IOBase):
                self._fetched = _Fetched([], [])
                raise BlockingIOError(errno.EAGAIN, f"{file!r} has nothing to read now, and cannot be waited for")
            elif data is not None and not isinstance(data, str) and (chunk := _in_bytes(data)):
                if chunk is not data:
                    self._fetched = _Fetched([chunk], [])
                elif (left := _unsent(chunk, sent)) is not None:
                    return left, sent
                else:
                    self._fetched = _Fetched([], [])
            elif self._ends or not (last := self._encode("", self._state, final=True)[0]):
                return True
            else:
                self._ends, self._fetched = True, _Fetched([last], [])

    def discard(self) -> None:
        """Forget everything: nobody reads it any more."""
        self._discarded = True
        self._read = None
        self._sending = _Put([], None, ends=False, after=[])


class _Put(NamedTuple):
    """What was queued at once."""

    items: list[tuple[bytes, list[int]] | None]
    """Data, the last first, and how much of each is sent; None for the end."""
    state: Any
    """The encoder's, behind it."""
    ends: bool
    after: list[_Put]
    """What was queued next, the first of these: the others are tries that came too late."""


class _Fetched(NamedTuple):
    """What a file object gave."""

    chunk: list[Any]
    sent: list[int]
    """How much of it is."""


def _in_bytes(data: Any) -> bytes | memoryview[int]:
    """Return it, or something equal, of which each item is a byte."""
    if isinstance(data, bytes):
        return data
    view: memoryview[int] = memoryview(data)
    if view.format == "B" and view.ndim == 1 and view.contiguous:
        return view if data.__class__ is not memoryview else data
    return view.tobytes()


def _unsent(data: bytes | memoryview, sent: list[int]) -> memoryview | None:
    done = sum(sent)
    if len(sent) > 1:
        sent[:] = [done]
    return memoryview(data)[done:] if done < len(data) else None
