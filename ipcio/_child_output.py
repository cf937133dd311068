"""The output of a child on its way to its consumer: chunks as they were read become pieces, bytes or text or lines.

A signal handler that raises, as that of Ctrl-C does, must neither lose a byte nor deliver one twice.
So what was read is recorded in the step that reads it (`ipcio._record`), and each other step computes
the whole next state (`ipcio._output_format`), which one assignment puts in place.
"""

from __future__ import annotations

from itertools import chain

from ipcio._child_input import unsent
from ipcio._light import length_hint
from ipcio._output_format import OutputState, one_by_one, parts_of, progress_of
from ipcio._record import calling, exhaust
from ipcio._timeouts import pause_after
from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ipcio._output_format import OutputFormat


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
        self._state = OutputState([], iter([]), None, form.start)
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
            self._state = OutputState(raw, ready, None, undelivered)
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
        pieces, given = progress_of(ready)
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
        pieces, count = progress_of(ready)
        if self._text_form is None or ready is not self._first or count != 1:
            return False
        form, self._text_form = self._text_form, None
        self._form, self._state = form, OutputState([*pieces, *raw], iter([]), error, form.start)
        exhaust(ready)
        return True

    def give_rest(self, count: int) -> None:
        """After the consumer has accepted only `count` bytes of its last piece: give the rest again."""
        raw, ready, error, undelivered = self._state
        pieces, given = progress_of(ready)
        if given and isinstance(pieces[given - 1], bytes):
            again = one_by_one([pieces[given - 1][count:], *pieces[given:]])
            self._state = OutputState(raw, again, error, undelivered)
            exhaust(ready)

    def give_no_lines(self) -> None:
        """Give what is left in pieces as they come: a million lines take long, and nothing looks at them any more."""
        raw, ready, error, undelivered = self._state
        if undelivered is not None:
            pieces, given = progress_of(ready)
            left = one_by_one([*pieces[given:], *parts_of(undelivered.line)])
            self._state = OutputState(raw, left, error, undelivered._replace(line=None))
            exhaust(ready)
        self._form = self._form.without_lines()

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
        self._state = OutputState([], iter([]), None, None)
        exhaust(ready)  # a consumer may be iterating over it
