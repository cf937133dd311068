"""How a mutex is released: by its handle, or at the end of a ``with`` block.

A signal handler may run as a function that is written in Python begins (`ipcio._record`).  If it raised as
`Mutex.__exit__` begins, the mutex would stay acquired.  So that is a function of C: the `__exit__` of `_io._IOBase`,
which calls the method `close` of its object and does nothing else.  Where one call of C releases the mutex, `close` is
that call.

A ``with`` statement keeps nothing but the bound `__exit__`.  So what this is bound to has all that a release needs,
and the share of the handle: in ``with mutex.attach("x"):`` the name exists until the end of the block.
"""

from __future__ import annotations

from ipcio._layout import WORDS
from ipcio._light import partial
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, NoReturn

    from ipcio._backend.parts import Lock, Words
    from ipcio._backend.shares import Share

    class _HasExit:  # a type checker knows other methods of `_IOBase`, which are not called here
        pass

    _Dict = dict[int, None]
else:
    from _io import _IOBase as _HasExit  # without the metaclass of `io.IOBase`

    _Dict = dict

DEPTH = WORDS + 4
"""Offset of a word: how often the owner has acquired a recursive mutex, beyond the first time."""


class Releasing:
    """What can release a mutex."""

    if not TYPE_CHECKING:  # for a type checker, attributes without slots are errors
        __slots__ = ()

    FIELDS = ("_is_recursive", "_lock", "_name", "_notes", "_releasing", "_words")

    _name: str
    _lock: Lock | None  # None: closed
    _words: Words | None
    _is_recursive: bool
    _notes: Sequence[int]  # these two as in `ipcio._backend.parts.Lock`
    _releasing: Iterator[int]

    def _open(self) -> tuple[Lock, Words]:
        lock, words = self._lock, self._words
        if lock is None or words is None:
            refuse(self._name)
        return lock, words

    def release(self) -> None:
        """Release the mutex, and let one waiting thread in.

        `RuntimeError` if this thread does not own it.
        """
        if self._notes[0]:
            depth = None
            try:
                depth = self._depth()
                self._release()
            except BaseException:
                self._release_again(depth)
                raise
        else:
            for code in self._releasing:
                if not code:
                    return
                self._refuse_release()

    def _release(self) -> None:
        lock, words = self._open()
        if not lock.is_mine():
            self._refuse_release()
        depth = self._depth()
        if depth:
            words.store(DEPTH, depth - 1)
        else:
            lock.release()

    def _release_again(self, depth: int | None) -> None:
        """Release if a signal handler has raised before that was done; `depth` is that before, None: not known."""
        if self._lock is not None and self._lock.is_mine() and depth in {None, self._depth()}:
            self._release()

    def _depth(self) -> int:
        """Return how often this thread, which owns it, has acquired it beyond the first time."""
        return self._open()[1].load(DEPTH) if self._is_recursive else 0

    def _refuse_release(self) -> NoReturn:
        _not_owned(self._name, self._open()[0])


class _InPython(_HasExit, Releasing):
    __slots__ = (*Releasing.FIELDS, "share")

    closed = True  # otherwise the collector would call `close`
    close = Releasing.release
    share: Share | None


class _InC(_HasExit):
    __slots__ = ("close", "share")

    closed = True
    close: Callable[[], None]
    share: Share | None


class _Results(_Dict):
    """What to return after a step of `releasing`; another result than 0 is an error."""

    __slots__ = ("refuse",)

    refuse: Callable[[], NoReturn]

    def __missing__(self, _: int) -> NoReturn:
        self.refuse()


def end_of_block(handle: Releasing, share: Share | None) -> Callable[..., None]:
    """Return what a ``with`` statement calls at its end."""
    lock, _ = handle._open()
    end: Any
    if isinstance(handle._notes, tuple):  # then Python code releases it
        end = _InPython()
        for field in Releasing.FIELDS:
            setattr(end, field, getattr(handle, field))
    else:
        end = _InC()
        results = _Results({0: None})
        results.refuse = partial(_not_owned, handle._name, lock)
        end.close = map(results.__getitem__, lock.releasing).__next__
    end.share = share
    exit_: Callable[..., None] = end.__exit__
    return exit_


def _not_owned(name: str, lock: Lock) -> NoReturn:
    owner = lock.owner()
    held = "" if owner is None else f"; process {owner} does"
    raise RuntimeError(f"this thread does not own mutex {name!r}{held}")


def refuse(name: str, *_: Any) -> NoReturn:
    """Raise the error of a call on a closed handle."""
    raise ValueError(f"I/O operation on closed file: mutex {name!r}")  # the io module's words
