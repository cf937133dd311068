""":class:`Semaphore`: what every handle of sem is.

The work is done by an object of the back end, on Linux the C class behind
`multiprocessing.Semaphore`.  Its bound methods lie in slots of the handle, so that a
``with`` statement calls them and no Python in between.  A handle that is closed has
something in its slots that refuses.
"""

from __future__ import annotations

import errno
import sys
from functools import partial
from itertools import repeat, starmap
from operator import attrgetter, index

from ipcio._forklock import fork_lock
from ipcio._handover import hand_over
from ipcio._record import calling
from ipcio._timeouts import check_timeout
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from ipcio._backend import OpenSemaphore, RawSemaphore

__all__ = ["Semaphore"]

_ONE = 1  # ``is _ONE`` is the cheapest way to tell the default
_ZERO = 0
_NUMBERS = frozenset({int, float})  # the usual ones
_NOTHING: repeat[tuple[()]] = repeat(())
_AT_ONCE = repeat((False,))  # do not block


# A method that lies in a slot of the instance: C code finds it there, and it can be called on
# the class.  (No docstring: `help` would show it in place of the method's own.)
class _InSlot(property):
    def __init__(self, slot: str, doc: str) -> None:
        super().__init__(attrgetter(slot))
        self.__doc__ = doc

    def __call__(self, instance: object, *arguments: object) -> object:
        assert self.fget is not None
        return self.fget(instance)(*arguments)


class Semaphore:
    """A number of permits that processes share: taking one waits while there are none.

    Handles come from `ipcio.sem`, not from this class.  ``dec`` and ``inc`` are
    LuaIPC's words, ``acquire`` and ``release`` those of `threading.Semaphore`; they do
    the same.  ``with s:`` takes a permit and gives it back.

    While one thread waits, others run, and Ctrl-C gets through: a call that is
    interrupted has taken nothing.  (An interrupt in the instant in which a ``with``
    block over a crash-safe semaphore ends can leave the permit with the process.)

    A closed handle raises `ValueError` from every method but `close`.  Closing is
    optional: a handle that is garbage-collected closes itself.  It gives back no permit;
    a handle does not know what was taken through it.  Handles may be shared between
    threads, work on both sides of a ``fork`` and pickle by attaching again.
    """

    __slots__ = (
        "__weakref__",
        "_acquire",
        "_again",
        "_created",
        "_enter",
        "_exit",
        "_name",
        "_post",
        "_raw",
        "_release",
        "_trying",
        "_undo",
        "_value",
        "_waiting",
    )

    if TYPE_CHECKING:

        def __enter__(self) -> bool: ...
        def __exit__(self, *_: object) -> None: ...

    else:
        if sys.version_info[:2] == (3, 14):  # see `ipcio._forklock.RLock`

            def __enter__(self) -> bool:
                """Acquire a permit; wait for one if there is none."""
                for got in self._waiting:
                    return got
                raise AssertionError("unreachable")

        else:
            __enter__ = _InSlot("_enter", "Acquire a permit; wait for one if there is none.")
        __exit__ = _InSlot("_exit", "Release a permit.")

    _enter: Callable[[], bool]
    _exit: Callable[..., None]
    _acquire: Callable[..., bool]
    _waiting: Iterator[bool]  # each step takes a permit, however long that takes
    _trying: Iterator[bool]  # each step tries to take one
    _release: Callable[[], None]
    _post: Callable[[int], None]
    _value: Callable[[], int]
    _raw: RawSemaphore | None  # None: closed
    _again: Callable[[str], Semaphore]  # attaches
    _name: str
    _created: bool
    _undo: bool

    def __init__(self, *_: object, **__: object) -> None:
        """Raise `TypeError`: functions of `ipcio.sem` make handles."""
        raise TypeError("Semaphore is not called directly: use sem.create() or sem.attach()")

    @classmethod
    def _over(
        cls,
        permits: OpenSemaphore,
        name: str,
        again: Callable[[str], Semaphore],
        created: bool,
    ) -> Semaphore:
        self: Semaphore = cls.__new__(cls)
        raw, self._post, self._value, self._undo = permits
        self._enter = raw.__enter__
        self._exit = raw.__exit__
        self._acquire = raw.acquire
        self._waiting = starmap(raw.__enter__, _NOTHING)
        self._trying = starmap(raw.acquire, _AT_ONCE)
        self._release = raw.release
        self._raw = raw
        self._name = name
        self._again = again
        self._created = created
        return self

    # -- LuaIPC's words --------------------------------------------------

    def dec(self, timeout: float | None = None) -> bool:
        """Take a permit; return whether it was got.

        `timeout` None or negative waits for ever, 0 tries, anything else is seconds,
        fractions allowed; `ValueError` for NaN.  (POSIX: ``sem_wait(3)``, whose clock
        for timeouts is the system's; a crash-safe semaphore uses the monotonic one.)
        """
        # Each loop is `ipcio._record.calling`, written out for speed: no Ctrl-C loses a permit that was acquired.
        if timeout is None:
            for got in self._waiting:
                return got
        elif timeout is _ZERO:
            for got in self._trying:
                return got
        else:
            trying, acquire = self._trying, self._acquire  # both now: from here on, a close is no end of the wait
            if type(timeout) in _NUMBERS and timeout > 0:  # there may be a permit, and then no time matters
                for got in trying:
                    if got:
                        return got
                    break
            for got in calling(acquire, True, check_timeout(timeout)):
                return got
        raise AssertionError("unreachable")

    def inc(self, n: int = 1) -> bool:
        """Give `n` permits and return True.

        `OverflowError` if the value would pass the maximum of the platform (on Linux
        2147483647, for a crash-safe semaphore 32767); nothing has changed then.
        Waiting processes may get some of several permits before the last is given; a
        crash-safe semaphore gives them in one step, and so does Windows.  Elsewhere more than
        4096 are given in steps of 4096, so that other threads and signal handlers run in
        between.  If a handler raises, as the one for Ctrl-C does, a multiple of 4096 has
        been given and the rest has not.  (POSIX: ``sem_post(3)``.)
        """
        if n is _ONE:
            try:
                release = self._release
                release()
            except (ValueError, OSError) as error:
                raise self._refused(error) from None
            return True
        n = index(n)
        if n < 1:
            raise ValueError("a semaphore can be given 1 permit or more")
        self._post(n)
        return True

    # -- threading's words -----------------------------------------------

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Do as `dec`; ``acquire(False)`` tries, and takes no timeout."""
        if timeout is None:
            for got in self._waiting if blocking else self._trying:
                return got
        elif not blocking:
            raise ValueError("can't specify a timeout for a non-blocking acquire")
        for got in starmap(self.dec, ((timeout,),)):
            return got
        raise AssertionError("unreachable")

    def release(self, n: int = 1) -> None:
        """Do as `inc`, and return None."""
        if n is _ONE:
            try:
                release = self._release
                release()
            except (ValueError, OSError) as error:
                raise self._refused(error) from None
        else:
            self.inc(n)

    # -- what it is ------------------------------------------------------

    @property
    def value(self) -> int:
        """How many permits there are to take now.

        Others may take them before you look.  `NotImplementedError` where the platform
        cannot tell (macOS).
        """
        return self._value()

    @property
    def name(self) -> str:
        """The name that the handle was opened by; kept after `close`."""
        return self._name

    @property
    def created(self) -> bool:
        """Whether this very call made the semaphore (``exist_ok=True`` may attach instead)."""
        return self._created

    @property
    def undo(self) -> bool:
        """Whether it is crash-safe: permits come back from processes that die."""
        return self._undo

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._raw is None

    def __repr__(self) -> str:
        kind = " undo" if self._undo else ""
        state = " closed" if self.closed else ""
        return f"<ipcio.Semaphore name={self._name!r}{kind}{state}>"

    def __reduce__(self) -> tuple[Callable[..., Semaphore], tuple[Any, ...]]:
        with fork_lock:
            if self._raw is None:
                _refuse(self._name)
            return hand_over(self, self._raw.share, (self._again, (self._name,)))

    # -- its end ---------------------------------------------------------

    def close(self) -> None:
        """Give up this handle's share in the name; the last one takes the name with it.

        What was taken stays taken.  May be called again.
        """
        with fork_lock:
            raw, self._raw = self._raw, None
            if raw is None:
                return
            # A plain semaphore stays open for a thread that waits in it; of a crash-safe one
            # the last handle takes the set away, and the wait ends with EIDRM.
            refuse = partial(_refuse, self._name)
            self._enter = self._exit = self._acquire = self._release = self._post = self._value = refuse
            self._waiting = self._trying = starmap(refuse, _NOTHING)
            share, raw.share = raw.share, None
            if share is not None:
                share.release()

    def _refused(self, error: ValueError | OSError) -> Exception:
        """What `release` should have said."""
        if self.closed or (isinstance(error, OSError) and error.errno != errno.EOVERFLOW):
            return error
        try:
            maximum = f", which {self._value()} is"
        except NotImplementedError:
            maximum = ""
        return OverflowError(f"semaphore {self._name!r} is at its maximum{maximum}")


def _refuse(name: str, *_: object) -> NoReturn:
    raise ValueError(f"I/O operation on closed file: semaphore {name!r}")  # the io module's words
