"""Calls whose result no signal handler can lose; and when Python runs signal handlers.

**The problem.**  A handler that raises, as the one for Ctrl-C does, may run between any two steps of
the interpreter.  In ``fd = os.open(path, flags)`` there is room for one between the call and the
assignment: the file is open then, and no variable holds its number, so nothing can ever close it.  The
same goes for a permit that was acquired, bytes that were read, a child that was started.  ``try`` and
``finally`` do not help, because no variable shows them that there is something to undo.

**When handlers run.**  In the main thread alone, and only there:

* as a function that is written in Python begins;
* after a call, before its result is used (from Python 3.11 on only if the function is written in C);
* at a jump backwards, so after each round of a loop (3.10: at many jumps forwards as well);
* on 3.14 also between an ``__enter__`` that is written in C and the block of its ``with`` statement
  (https://github.com/python/cpython/issues/148874): see `ipcio._forklock.RLock`;
* within a system call that the signal interrupts.  It has done nothing by then, and is made again
  unless the handler raises.

What a handler raises at a jump backwards that is in an ``except`` or ``finally`` block itself makes Python 3.13
keep the exception which that block handles, and all to which its traceback refers.  In a function that the block
calls it does not, so loops belong there.

**When they do not.**  Between the step of an iterator that is written in C and the assignment to the
variable of the ``for`` statement, or to the variables of ``a, b = iterator``; from there to a ``return``;
while one function of C calls another.  (Where that one runs Python code, a handler may run in it.
What a handler raises in a finalizer is printed, and goes no further.)

**The remedy.**  C makes the call, and the same step of C keeps the result: ``list.extend`` over a `starmap`
of one call, or a ``for`` statement over it.  The functions below are these idioms; each says what it guarantees.
They need 20 to 60 ns more than the idiom written out.  So the fastest paths have it written out, with a comment
that names the function here: those of semaphores and of `ipcio._forklock.RLock`.

With the GIL such a step is atomic for other threads, too, unless the function waits.  What holds
without the GIL is in docs/design.md ("Without the GIL").
"""

from __future__ import annotations

from itertools import islice, repeat, starmap

from ipcio._light import attrgetter, deque, partial
from ipcio._typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Protocol

    T = TypeVar("T")

    class HasLock(Protocol):
        """What has a lock for `call_locked`."""

        @property
        def _acquiring(self) -> Iterator[object]: ...  # each step acquires it: starmap(lock.acquire, repeat(()))
        @property
        def _release(self) -> partial[None]: ...


# -- a result is kept ---------------------------------------------------------


def record(results: list[T], function: Callable[..., T], *arguments: Any) -> None:
    """Append ``function(*arguments)``: if the call was made, its result is in the list, whatever interrupts."""
    results.extend(starmap(function, (arguments,)))


def record_times(results: list[T], times: int, function: Callable[..., T], *arguments: Any) -> None:
    """Do as `record`, so many times without an interrupt in between.

    An error ends it; the results of the calls before are in the list.
    """
    results.extend(starmap(function, repeat(arguments, times)))


def record_until(results: list[T], end: T, limit: int, function: Callable[..., T], *arguments: Any) -> None:
    """Do as `record_times`, `limit` times at the most, until a result equals `end`, which is not kept."""
    results.extend(islice(iter(partial(function, *arguments), end), limit))


def calling(function: Callable[..., T], *arguments: Any) -> Iterator[T]:
    """Return an iterator of one step, which makes the call.

    In ``for x in calling(f, a): return x`` the call is made and its result returned, or no call was
    made.  The same holds of ``for self.x in calling(f, a): pass`` and the assignment, and of
    ``results.extend(filter(None, calling(f, a)))``.
    """
    return starmap(function, (arguments,))


# -- what was kept is closed, or moved, once ------------------------------------


def close_first(close: Callable[[T], object], items: list[T], count: int) -> None:
    """Take the first `count` items out of a list and close each in the same step: none is closed twice or forgotten."""
    exhaust(map(close, map(items.pop, repeat(0, count))))


def close_at(close: Callable[[T], object], items: list[T], at: int) -> None:
    """Do as `close_first` with one item, that at the index."""
    exhaust(map(close, map(items.pop, (at,))))


def move(items: list[Any], at: int, to: list[Any], *functions: Callable[[Any], Any]) -> None:
    """Take an item out of a list, pass it through the functions in turn, and append the last result to another list."""
    step: Iterator[Any] = map(items.pop, (at,))
    for function in functions:
        step = map(function, step)
    to.extend(step)


def finish(function: Callable[[], object]) -> None:
    """Call what a finalizer has to do, again if a signal handler raises in it: Python calls no finalizer twice.

    `function` does what is left.  What was raised last is raised in the end, and Python prints it.
    """
    error: BaseException | None = None
    for _ in range(_CALLS):
        try:
            function()
            break
        except BaseException as raised:  # noqa: BLE001 -- whatever a handler raises
            error = raised
    if error is not None:
        raise error


_CALLS = 100  # handlers do not raise so often in a row; a function that always raises does


# -- several calls in one step ------------------------------------------------

exhaust: Callable[[Iterable[Any]], object] = partial(deque, maxlen=0)  # pyright: ignore[reportUnknownVariableType]
"""Make all the steps of an iterator: calls, if it is a `map` or a `starmap`, with no Python code in between."""

_call: Any = partial.__call__  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]

in_turn: Callable[[Iterable[partial[Any]]], Iterator[Any]] = partial(map, _call)
"""Return an iterator that makes calls, each a `partial`: ``a, b = in_turn((f, g))`` calls f, then g."""


def call_locked(owner: HasLock, function: Callable[..., T], *arguments: Any) -> T:
    """Call while the owner's lock is held, and return the result.

    No handler runs from before the lock is acquired until after it is released, unless the
    function runs Python code: neither the lock nor the result is lost.
    """
    steps = in_turn((partial(function, *arguments), owner._release))
    for _ in owner._acquiring:  # no handler runs between this and the calls
        try:
            result: T
            result, _ = steps
        except BaseException:
            owner._release()
            raise
        return result
    raise AssertionError("unreachable")


# -- no Python code before the call ----------------------------------------------


class InSlot(property):
    """A method that is in a slot of the instance: C code finds it there, and it can be called on the class."""

    def __init__(self, slot: str, doc: str) -> None:
        super().__init__(attrgetter(slot))
        self.__doc__ = doc

    def __call__(self, instance: object, *arguments: object) -> object:
        assert self.fget is not None
        return self.fget(instance)(*arguments)
