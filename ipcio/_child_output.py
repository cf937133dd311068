"""The output of a child on its way to its consumer: chunks as they were read become pieces, bytes or text or lines.

A signal handler that raises, as that of Ctrl-C does, must neither lose a byte nor deliver one twice.
So what was read is recorded in the step that reads it (`ipcio._record`), and each other step computes
the whole next state, which one assignment puts in place.
"""

from __future__ import annotations

import codecs
from itertools import chain, repeat, starmap

from ipcio._child_input import unsent
from ipcio._forklock import FREE_THREADED, RLock
from ipcio._light import length_hint, partial
from ipcio._record import call_locked, calling, exhaust
from ipcio._timeouts import pause_after
from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_SLICE = 1 << 16  # bytes that are decoded or cut into lines at once


class OutputFormat:
    """What pieces of output look like: bytes or text, as they come or line by line."""

    def __init__(self, encoding: str | None = None, errors: str = "strict", *, lines: bool = False) -> None:
        self._empty: Any = b"" if encoding is None else ""
        self.start: _Undelivered = _Undelivered(None, None)
        self._newline: Any = b"\n" if encoding is None else "\n"
        self._lines = lines
        self._name = encoding or ""
        self._decoder = None
        if encoding is not None:
            "".encode(encoding)  # LookupError, also for an encoding of something else than text
            codecs.lookup_error(errors)
            self._decoder = codecs.getincrementaldecoder(encoding)(errors)
            self.start = _Undelivered(self._decoder.getstate(), None)

    def cut(self, raw: list[bytes], undelivered: _Undelivered, *, final: bool) -> _OutputState:
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
            return _OutputState(left, _one_by_one(pieces), error, _Undelivered(decoder_state, line))
        if line is not None:
            pieces.append(self._join(line))
        return _OutputState([], _one_by_one(pieces), None, None)

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
            error = UnicodeDecodeError(self._name, undecoded, 0, len(undecoded), "unexpected end of data")
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

    def _join(self, line: _Line | None) -> Any:
        parts: list[Any] = []
        while line is not None:
            parts.append(line.part)
            line = line.before
        return self._empty.join(reversed(parts))


class _Line(NamedTuple):
    """The beginning of a line: a part, and those before.  To add one takes the same time however many there are."""

    before: _Line | None
    part: Any


class _Undelivered(NamedTuple):
    """What of the bytes so far is in no piece yet."""

    decoder_state: Any
    line: _Line | None
    """A line of which the end has not come."""


class _OutputState(NamedTuple):
    """All that an `Output` has."""

    raw: list[bytes]
    """Chunks, as they were read."""
    ready: Iterator[Any]
    """Pieces for the consumer.  A list's own iterator remembers in C which pieces it has given."""
    error: UnicodeError | None
    """To be raised when those are consumed."""
    undelivered: _Undelivered | None
    """None when everything has been cut into pieces."""


class _Offered(NamedTuple):
    """How much of a piece its consumer has accepted."""

    ready: Iterator[Any]
    at: int
    """Which piece of those it is."""
    accepted: list[int]


class Output:
    """One stream of a child's output."""

    may_refuse = False
    """Whether the consumer may refuse pieces for a while: then `offer` is called."""
    ended = False
    """Whether nothing more will be read; set by the back end."""
    _text_form: OutputFormat | None = None  # for a consumer that may refuse its first piece because it requires text
    _first: Iterator[Any] | None = None
    _offered = _Offered(iter([]), 0, [])
    _refusals = 0  # of the consumer, in a row

    def __init__(
        self, name: str, form: OutputFormat, text_form: OutputFormat | None = None, *, offer: bool = False
    ) -> None:
        self.name = name
        self._form = form
        self._state = _OutputState([], iter([]), None, form.start)
        if text_form is not None:
            self._text_form = text_form
        if offer:
            self.may_refuse = True

    @property
    def raw(self) -> list[bytes]:
        """The list in which the back end records what it reads."""
        return self._state.raw

    @property
    def finished(self) -> bool:
        """Whether everything has been consumed and nothing more will come."""
        _, ready, error, undelivered = self._state
        return undelivered is None and not length_hint(ready) and error is None

    def pieces(self) -> Iterator[Any]:
        """Iterate over the pieces that are there.  A piece is removed when the consumer has received it.

        Raises `UnicodeError`, once, in the place of bytes that cannot be decoded.
        """
        return chain.from_iterable(self.batches())

    def batches(self) -> Iterator[Iterator[Any]]:
        """The same, several pieces at a time."""
        while self._prepare():
            yield self._state.ready

    def batch(self) -> Iterator[Any] | None:
        """The first of these batches, None if there is nothing."""
        return self._state.ready if self._prepare() else None

    def _prepare(self) -> bool:
        """Make pieces, unless some are ready; return whether there are any, or may be after one more call."""
        raw, ready, error, undelivered = self._state
        if length_hint(ready):
            return True
        if error is not None:
            self._state = _OutputState(raw, ready, None, undelivered)
            raise error
        if undelivered is None or not (raw or self.ended):
            return False
        self._state = self._form.cut(raw, undelivered, final=self.ended)
        if self._first is None:
            self._first = self._state.ready
        return True

    def offer(self, write: Callable[[Any], int | None]) -> bool:
        """Offer the next bytes to the consumer, which returns how many it accepts, None for none now.

        Return whether it accepted any.  A piece is removed when all of it was accepted.  An interrupt loses nothing.
        """
        ready = self._state.ready
        pieces, given = _given(ready)
        if given >= len(pieces):  # another method has discarded them
            return True
        if self._offered.ready is not ready or self._offered.at != given:
            self._offered = _Offered(ready, given, [])
        sent = self._offered.accepted
        left = unsent(pieces[given], sent)
        if left is None:
            next(ready, None)
            return True
        before = len(sent)
        try:
            sent.extend(filter(None, calling(write, left)))
        except BrokenPipeError:  # it will never accept the piece
            next(ready, None)
            raise
        has_accepted = len(sent) > before
        self._refusals = 0 if has_accepted else self._refusals + 1
        return has_accepted

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the consumer, which has refused a piece, is offered it again; else None."""
        return pause_after(self._refusals) if self._refusals and length_hint(self._state.ready) else None

    def give_as_text(self) -> bool:
        """After the consumer has refused its first piece: whether it gets that and all others as text instead."""
        raw, ready, error, _ = self._state
        pieces, count = _given(ready)
        if self._text_form is None or ready is not self._first or count != 1:
            return False
        form, self._text_form = self._text_form, None
        self._form, self._state = form, _OutputState([*pieces, *raw], iter([]), error, form.start)
        exhaust(ready)
        return True

    def give_rest(self, count: int) -> None:
        """After the consumer has accepted only `count` bytes of its last piece: give the rest again."""
        raw, ready, error, undelivered = self._state
        pieces, given = _given(ready)
        if given and isinstance(pieces[given - 1], bytes):
            again = _one_by_one([pieces[given - 1][count:], *pieces[given:]])
            self._state = _OutputState(raw, again, error, undelivered)
            exhaust(ready)

    @property
    def waiting(self) -> bool:
        """Whether a consumer would get something now."""
        while self._prepare():
            if length_hint(self._state.ready):
                return True
        return False

    def discard(self) -> None:
        """Forget everything, and what comes later."""
        self.ended = True
        ready = self._state.ready
        self._state = _OutputState([], iter([]), None, None)
        exhaust(ready)  # a consumer may be iterating over it


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

_one_by_one: Callable[[list[Any]], Iterator[Any]] = _OneByOne if FREE_THREADED else iter


def _given(ready: Iterator[Any]) -> tuple[list[Any], int]:
    """Return the list over which such an iterator goes, and how many of its items it has given."""
    state: Any = ready.__reduce__()
    _, (pieces,), *at = state
    return pieces, at[0] if at else 0
