""":class:`Semaphore`: what every handle of sem is.

The work is done by an object of the back end, on Linux the C class behind
`multiprocessing.Semaphore`.  Its bound methods lie in slots of the handle, so that a
``with`` statement calls them and nothing else: special methods are looked up on the
class, and what is found there is the slot.  A handle that is closed has something in
its slots that refuses.
"""

from __future__ import annotations

import errno
from functools import partial
from operator import index
from typing import TYPE_CHECKING

from ipcio._forklock import turn
from ipcio._timeouts import check_timeout

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from ipcio._contract import Permits, RawSemaphore

__all__ = ["Semaphore"]

_ONE = 1  # ``n is _ONE`` is the cheapest way to tell the default
_AT_ONCE = False  # do not block


class Semaphore:
    """A number of permits that processes share: taking one waits while there are none.

    Handles come from `ipcio.sem`, not from this class.  ``dec`` and ``inc`` are
    LuaIPC's words, ``acquire`` and ``release`` those of `threading.Semaphore`; they do
    the same.  ``with s:`` takes a permit and gives it back.

    While one thread waits, others run, and Ctrl-C gets through: an interrupted wait has
    taken nothing.  (Where there was nothing to wait for, an interrupt may come between
    the permit and the caller's next step, as in `threading`; ``with`` has no such gap.)

    A closed handle raises `ValueError` from every method but `close`.  Closing is
    optional: a handle that is garbage-collected closes itself.  It gives back no permit;
    a handle does not know what was taken through it.  Handles may be shared between
    threads, work on both sides of a ``fork`` and pickle by attaching again.
    """

    __slots__ = (
        "__enter__",
        "__exit__",
        "__weakref__",
        "_acquire",
        "_again",
        "_created",
        "_name",
        "_post",
        "_raw",
        "_release",
        "_undo",
        "_value",
    )

    __enter__: Callable[[], bool]
    __exit__: Callable[..., None]
    _acquire: Callable[..., bool]
    _release: Callable[[], None]
    _post: Callable[[int], None]
    _value: Callable[[], int]
    _raw: RawSemaphore | None  # None: closed
    _again: Callable[[str], Semaphore]  # attaches

    def __init__(
        self,
        permits: Permits,
        name: str,
        again: Callable[[str], Semaphore],
        created: bool,  # noqa: FBT001 -- as in MemoryFile
    ) -> None:
        raw, self._post, self._value, self._undo = permits
        self._raw = raw
        self.__enter__ = raw.__enter__
        self.__exit__ = raw.__exit__
        self._acquire = raw.acquire
        self._release = raw.release
        self._name = name
        self._again = again
        self._created = created

    # -- LuaIPC's words --------------------------------------------------

    def dec(self, timeout: float | None = None) -> bool:
        """Take a permit; return whether it was got.

        `timeout` None or negative waits for ever, 0 tries, anything else is seconds,
        fractions allowed; `ValueError` for NaN.  (POSIX: ``sem_wait(3)``, whose clock
        for timeouts is the system's; a crash-safe semaphore uses the monotonic one.)
        """
        if timeout is None:
            acquire = self._acquire  # a local is called faster than an attribute
            if acquire(_AT_ONCE):
                return True
            return self._wait(None)
        if timeout == 0:
            return self._acquire(_AT_ONCE)
        seconds = check_timeout(timeout)
        return self._acquire(_AT_ONCE) or self._wait(seconds)

    def inc(self, n: int = 1) -> bool:
        """Give `n` permits and return True.

        `OverflowError` if the value would pass the maximum of the platform (on Linux
        2147483647, for a crash-safe semaphore 32767); nothing has changed then.
        Waiting processes may get some of several permits before the last is given; a
        crash-safe semaphore gives them in one step.  (POSIX: ``sem_post(3)``.)
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
            raise ValueError(f"a semaphore can be given 1 permit or more, not {n}")
        self._post(n)
        return True

    # -- threading's words -----------------------------------------------

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:  # noqa: FBT001, FBT002 -- threading's
        """Do as `dec`; ``acquire(False)`` tries, and takes no timeout."""
        if timeout is not None:
            if not blocking:
                raise ValueError("can't specify a timeout for a non-blocking acquire")
            return self.dec(timeout)
        acquire = self._acquire
        if acquire(_AT_ONCE):
            return True
        return self._wait(None) if blocking else False

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

    def __reduce__(self) -> tuple[Callable[[str], Semaphore], tuple[str]]:
        if self._raw is None:
            _refuse(self._name)
        return self._again, (self._name,)

    # -- its end ---------------------------------------------------------

    def close(self) -> None:
        """Give up this handle's share in the name; the last one takes the name with it.

        What was taken stays taken.  May be called again.
        """
        with turn:
            raw, self._raw = self._raw, None
            if raw is None:
                return
            # What a thread is waiting in now stays open until it returns.
            refuse = partial(_refuse, self._name)
            self.__enter__ = self.__exit__ = self._acquire = self._release = self._post = self._value = refuse
            if raw.share is not None:
                raw.share.give_up()

    def _wait(self, seconds: float | None) -> bool:
        """Take a permit within that time; return whether it was got."""
        got: list[bool] = []
        try:
            # A signal handler that raises (Ctrl-C) may run as soon as a call returns, before
            # anybody sees what it returned.  So the answer is stored within the call.
            got.extend(map(self._acquire, (True,), (seconds,)))
        except BaseException:
            if True in got:
                self._release()
            raise
        return got[0]

    def _refused(self, error: ValueError | OSError) -> Exception:
        """What `release` should have said."""
        if self.closed or (isinstance(error, OSError) and error.errno != errno.EOVERFLOW):
            return error
        return OverflowError(f"semaphore {self._name!r} is at its maximum, which {self._value()} is")


def _refuse(name: str, *_: object) -> NoReturn:
    raise ValueError(f"I/O operation on closed file: semaphore {name!r}")  # the io module's words
