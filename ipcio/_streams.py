"""What flows between a process and its child: pieces of output on their way out, data on its way in.

A signal handler that raises, as that of Ctrl-C, may run between any two steps of
Python, and must neither lose a byte nor double one.  So what a call gave or did is
recorded by a function of C that calls it (``list.extend`` over a ``map``), and every
other step is one assignment.
"""

from __future__ import annotations

import codecs
from collections import deque
from itertools import chain
from operator import length_hint
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Form", "Input", "Output"]

_CHUNK = 1 << 18  # bytes that are read from a file object at once
_BITE = 1 << 16  # bytes that are decoded or cut into lines at once


class Form:
    """What pieces of output look like: bytes or text, as they come or line by line."""

    def __init__(self, encoding: str | None = None, errors: str = "strict", *, lines: bool = False) -> None:
        self._empty: Any = b"" if encoding is None else ""
        self.start: _Kept = _Kept(None, ())
        self._newline: Any = b"\n" if encoding is None else "\n"
        self._lines = lines
        self._decoder = None
        if encoding is not None:
            "".encode(encoding, errors)  # LookupError
            codecs.lookup_error(errors)
            self._decoder = codecs.getincrementaldecoder(encoding)(errors)
            self.start = _Kept(self._decoder.getstate(), ())

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
                if error is not None:
                    left = [error.object[error.end :], *left]
            pieces = [data] if data else []
            if self._lines:
                pieces, line = self._split(data, line)
        if not final or error is not None:
            return _Flow(left, iter(pieces), error, _Kept(state, line))
        if line:
            pieces.append(self._empty.join(line))
        return _Flow([], iter(pieces), None, None)

    def _decode(self, state: Any, data: bytes, *, final: bool) -> tuple[str, Any, UnicodeDecodeError | None]:
        """Return text, the decoder's next state, and what is wrong where the text ends."""
        decoder = self._decoder
        assert decoder is not None
        decoder.setstate(state)
        try:
            return decoder.decode(data, final), decoder.getstate(), None
        except UnicodeDecodeError as error:
            # Its object begins with what the decoder had kept of the bytes before.
            decoder.setstate((b"", state[1]))
            text = decoder.decode(error.object[: error.start])
            return text, (b"", decoder.getstate()[1]), error

    def _split(self, data: Any, line: tuple[Any, ...]) -> tuple[list[Any], tuple[Any, ...]]:
        """Return whole lines, and the beginning of one; only a newline ends a line."""
        end = data.rfind(self._newline) + 1
        if not end:
            return [], (*line, data) if data else line
        whole = self._empty.join((*line, data[:end]))
        lines = whole.splitlines(keepends=True)
        if len(lines) != whole.count(self._newline):  # it knows other ends of lines, too
            lines = [each + self._newline for each in whole.split(self._newline)[:-1]]
        return lines, (data[end:],) if end < len(data) else ()


class _Kept(NamedTuple):
    """What of the bytes so far is in no piece yet."""

    state: Any
    """The decoder's."""
    line: tuple[Any, ...]
    """The parts of a line whose end has not come."""


class _Flow(NamedTuple):
    """All that an `Output` has."""

    raw: list[bytes]
    """Chunks, as they were read."""
    ready: Iterator[Any]
    """Pieces for the consumer.  It is a list's, and so remembers what is gone without Python's help."""
    error: UnicodeDecodeError | None
    """To be raised when those are consumed."""
    kept: _Kept | None
    """None when all has been cut."""


class Output:
    """One stream of a child's output."""

    def __init__(self, name: str, form: Form) -> None:
        self.name = name
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

        Raises `UnicodeDecodeError`, once, in the place of bytes that cannot be decoded.
        """
        return chain.from_iterable(self.batches())

    def batches(self) -> Iterator[Iterator[Any]]:
        """The same, several at a time."""
        while self._step():
            yield self._flow.ready

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
        return True

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
        self._flow = _Flow([], iter([]), None, None)


class Input:
    """What is to be written to a child, in order: what was queued, or what a file object gives."""

    def __init__(
        self, encoding: str | None = None, errors: str = "strict", read: Callable[[int], Any] | None = None
    ) -> None:
        self._queue: deque[tuple[bytes, list[int]] | None] = deque()  # data, and how much of it is sent; None: the end
        self._encoder = None if encoding is None else codecs.getincrementalencoder(encoding)(errors)
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
        return sum(len(item[0]) - sum(item[1]) for item in list(self._queue) if item is not None)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to write until something is queued."""
        return not self._queue and self._read is None

    def put(self, data: Sequence[Any], end: object) -> None:
        """Queue bytes, text, and the end if that is the last; or raise and queue nothing."""
        ends = bool(data) and data[-1] is end
        pieces = data[:-1] if ends else data
        if any(piece is end for piece in pieces) or (self._ends and data):
            raise ValueError("write after EOF")
        items: list[tuple[bytes, list[int]] | None] = [(self._encode(piece), []) for piece in pieces]
        if not self._discarded:
            self._ends = ends
            self._queue.extend([*items, None] if ends else items)

    def _encode(self, piece: Any) -> bytes:
        if not isinstance(piece, str):
            return bytes(memoryview(piece))  # a copy, unless it cannot change
        if self._encoder is None:
            raise TypeError("a str takes spawn(..., encoding=...); without, data are bytes")
        return self._encoder.encode(piece)

    def next(self) -> tuple[memoryview, list[int]] | bool:
        """Return what to write now, and where to put how much of it was, in the same call of C.

        False if there is nothing now, True if it is the end.
        """
        while self._queue:
            item = self._queue[0]
            if item is None:
                return True
            if (left := _unsent(*item)) is not None:
                return left, item[1]
            self._queue.popleft()
        if self._read is None:
            return False
        while True:
            fetched, sent = self._fetched
            if not fetched:
                fetched.extend(map(self._read, (_CHUNK,)))
            data = fetched[0]
            if not data:
                return True
            if isinstance(data, str):
                assert self._encoder is not None
                self._fetched = _Fetched([self._encoder.encode(data)], [])
            elif (left := _unsent(data, sent)) is not None:
                return left, sent
            else:
                self._fetched = _Fetched([], [])

    def discard(self) -> None:
        """Forget everything: nobody reads it any more."""
        self._discarded = True
        self._read = None
        self._queue.clear()


class _Fetched(NamedTuple):
    """What a file object gave."""

    chunk: list[Any]
    sent: list[int]
    """How much of it is."""


def _unsent(data: bytes, sent: list[int]) -> memoryview | None:
    done = sum(sent)
    if len(sent) > 1:
        sent[:] = [done]
    return memoryview(data)[done:] if done < len(data) else None
