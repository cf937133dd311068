"""What pieces of a child's output look like: chunks as they were read are decoded and cut into lines.

Nothing here changes anything: each function returns the whole next state, which `ipcio._child_output` puts in place.
"""

from __future__ import annotations

import codecs
from itertools import repeat, starmap

from ipcio._forklock import FREE_THREADED, RLock
from ipcio._light import length_hint, partial
from ipcio._record import call_locked
from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_SLICE = 1 << 16  # bytes that are decoded or cut into lines at once


class OutputFormat:
    """What pieces of output look like: bytes or text, as they come or line by line."""

    def __init__(self, encoding: str | None = None, errors: str = "strict", *, lines: bool = False) -> None:
        self._empty: Any = b"" if encoding is None else ""
        self.start: Undelivered = Undelivered(None, None)
        self._newline: Any = b"\n" if encoding is None else "\n"
        self._lines = lines
        self._codec = encoding, errors
        self._decoder = None
        if encoding is not None:
            "".encode(encoding)  # LookupError, also for an encoding of something else than text
            codecs.lookup_error(errors)
            self._decoder = codecs.getincrementaldecoder(encoding)(errors)
            self.start = Undelivered(self._decoder.getstate(), None)

    def cut(self, raw: list[bytes], undelivered: Undelivered, *, final: bool) -> OutputState:
        """Make pieces of what was read.  Changes nothing: the result is the whole next state."""
        decoder_state, line = undelivered
        error = None
        left: list[bytes] = []
        pieces: list[Any] = raw
        if self._decoder is not None or self._lines:
            # Not all at once: pieces that have just been made are still in the processor's cache.
            data: Any = raw[0][:_SLICE] if raw else b""
            left = ([raw[0][_SLICE:]] if raw and len(raw[0]) > _SLICE else []) + raw[1:]
            final = final and not left
            if self._decoder is not None:
                data, decoder_state, error = self._decode(decoder_state, data, final=final)
                if isinstance(error, UnicodeDecodeError):
                    left = [error.object[error.end :], *left]
            pieces = [data] if data else []
            if self._lines:
                pieces, line = self._split(data, line)
        if not final or error is not None:
            return OutputState(left, one_by_one(pieces), error, Undelivered(decoder_state, line))
        if line is not None:
            pieces.append(self._join(line))
        return OutputState([], one_by_one(pieces), None, None)

    def _decode(self, state: Any, data: bytes, *, final: bool) -> tuple[str, Any, UnicodeError | None]:
        """Return text, the decoder's next state, and what is wrong where the text ends."""
        decoder = self._decoder
        assert decoder is not None
        decoder.setstate(state)
        try:
            text = decoder.decode(data, final)
            undecoded, _ = after = decoder.getstate()
            if not (final and undecoded):
                return text, after, None
            # Some codecs do not complain of an incomplete character at the end.
            error = UnicodeDecodeError(self._codec[0] or "", undecoded, 0, len(undecoded), "unexpected end of data")
            return text, self.start.decoder_state, error
        except UnicodeDecodeError as error:
            # The error's object begins with the bytes that the decoder had kept from before.  A decoder that
            # is written in Python, unlike one in C, knows by now whether a byte order mark is still to come.
            written_in_python = isinstance(decoder, codecs.BufferedIncrementalDecoder)
            flags = decoder.getstate()[1] if written_in_python else state[1]
            decoder.setstate((b"", flags))
            text = decoder.decode(error.object[: error.start])
            return text, (b"", decoder.getstate()[1]), error
        except UnicodeError as error:  # utf-16 without a byte order mark: the error has no position
            return "", self.start.decoder_state, error

    def _split(self, data: Any, line: _Line | None) -> tuple[list[Any], _Line | None]:
        """Return whole lines, and the beginning of one; only a newline ends a line."""
        end = data.rfind(self._newline) + 1
        if not end:
            return [], _Line(line, data) if data else line
        whole = data[:end] if line is None else self._join(_Line(line, data[:end]))
        lines = whole.splitlines(keepends=True)
        if len(lines) != whole.count(self._newline):  # `splitlines` knows other ends of lines, too
            lines = [each + self._newline for each in whole.split(self._newline)[:-1]]
        return lines, _Line(None, data[end:]) if end < len(data) else None

    def _join(self, line: _Line) -> Any:
        return self._empty.join(parts_of(line))

    def without_lines(self) -> OutputFormat:
        """The same, but pieces as they come."""
        return OutputFormat(*self._codec)


class _Line(NamedTuple):
    """The beginning of a line: a part, and those before.  To add one takes the same time however many there are."""

    before: _Line | None
    part: Any


def parts_of(line: _Line | None) -> list[Any]:
    """Return the parts of the beginning of a line, the first one first."""
    parts: list[Any] = []
    while line is not None:
        parts.append(line.part)
        line = line.before
    parts.reverse()
    return parts


class Undelivered(NamedTuple):
    """What of the bytes so far is in no piece yet."""

    decoder_state: Any
    line: _Line | None
    """A line of which the end has not come."""


class OutputState(NamedTuple):
    """All that an `Output` has."""

    raw: list[bytes]
    """Chunks, as they were read."""
    ready: Iterator[Any]
    """Pieces for the consumer.  A list's own iterator remembers in C which pieces it has given."""
    error: UnicodeError | None
    """To be raised when those are consumed."""
    undelivered: Undelivered | None
    """None when everything has been cut into pieces."""


class _OneByOne:
    """A list's iterator for a Python without the GIL, where two threads may get the same item from the built-in one."""

    def __init__(self, pieces: list[Any]) -> None:
        self._pieces = iter(pieces)
        lock = RLock()
        self._acquiring = starmap(lock.acquire, repeat(()))
        self._release = partial(lock.release)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        piece = call_locked(self, next, self._pieces, _NONE_LEFT)
        if piece is _NONE_LEFT:
            raise StopIteration
        return piece

    def __length_hint__(self) -> int:
        return length_hint(self._pieces)

    def __reduce__(self) -> Any:
        return self._pieces.__reduce__()


_NONE_LEFT: Any = object()

one_by_one: Callable[[list[Any]], Iterator[Any]] = _OneByOne if FREE_THREADED else iter


def progress_of(ready: Iterator[Any]) -> tuple[list[Any], int]:
    """Return the list over which such an iterator goes, and how many of its items it has given."""
    state: Any = ready.__reduce__()
    _, (pieces,), *at = state
    return pieces, at[0] if at else 0
