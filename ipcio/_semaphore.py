"""The handle of a semaphore: :class:`Semaphore`.

The work is done by an object of the back end, on Linux by the C class behind
`multiprocessing.Semaphore`.  Its bound methods are in slots of the handle, so that a ``with``
statement calls them, with no Python code in between.  `Semaphore.close` puts a function
there that raises.
"""

from __future__ import annotations

import errno
import sys
from itertools import repeat, starmap

from ipcio._event_loop import acquire
from ipcio._forklock import fork_lock
from ipcio._handover import hand_over
from ipcio._light import index, partial
from ipcio._names import Named
from ipcio._record import InSlot, calling
from ipcio._timeouts import check_timeout
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from ipcio._backend.sem import RawSemaphore

_new: Callable[..., Any] = object.__new__
_ONE = 1  # ``is _ONE`` is the fastest test for the default
_ZERO = 0
_NUMBERS = frozenset({int, float})  # the usual types
_NO_ARGUMENTS: repeat[tuple[()]] = repeat(())
_DO_NOT_BLOCK = repeat((False,))


class Semaphore(Named):
    """A number of permits that processes share: to acquire one, a process waits until one is free.

    Functions of `ipcio.sem` return handles; this class is not called.  ``dec`` and ``inc`` are
    LuaIPC's words, ``acquire`` and ``release`` those of `threading.Semaphore`; they do
    the same.  ``with s:`` acquires a permit and releases it after the block.

    While one thread waits, others run, and Ctrl-C interrupts the wait: a call that is
    interrupted has acquired nothing.  (An interrupt in the instant in which a ``with``
    block over a crash-safe semaphore ends can leave the permit with the process.)

    After `close`, every method but `close` raises `ValueError`.  Closing is
    optional: a handle that is garbage-collected closes itself.  Closing releases no permit,
    because a handle does not know which permits were acquired through it.  Handles may be shared between
    threads, work on both sides of a ``fork`` and pickle by attaching again.
    """

    __slots__ = (
        "__weakref__",
        "_acquire",
        "_attach",
        "_bound",
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
                """Acquire a permit; wait until one is free."""
                for got in self._waiting:
                    return got
                raise AssertionError("unreachable")

        else:
            __enter__ = InSlot("_enter", "Acquire a permit; wait until one is free.")
        __exit__ = InSlot("_exit", "Release a permit.")

    _enter: Callable[[], bool]
    _exit: Callable[..., None]
    _acquire: Callable[..., bool]
    _waiting: Iterator[bool]  # each step acquires a permit, however long it waits
    _trying: Iterator[bool]  # each step tries to acquire one
    _release: Callable[[], None]
    _post: Callable[[int], None]
    _value: Callable[[], int]
    _raw: RawSemaphore | None  # None: closed
    _attach: Callable[[str], Semaphore]
    _undo: bool
    _bound: int | None  # past which a release is a `ValueError`

    def __init__(self, *_: object, **__: object) -> None:
        """Raise `TypeError`: functions of `ipcio.sem` make handles."""
        raise TypeError("Semaphore is not called directly: use sem.create() or sem.attach()")

    @classmethod
    def _over(
        cls,
        name: str,
        attach: Callable[[str], Semaphore],
        created: bool,
        max_here: int | None,  # of this handle alone; `bound` is the semaphore's own
        raw: RawSemaphore,
        post: Callable[[int], None],
        value: Callable[[], int],
        undo: bool,
        bound: int | None,
    ) -> Semaphore:
        self: Semaphore = _new(cls)
        self._post = post
        self._value = value
        self._undo = undo
        self._bound = bound
        self._enter = raw.__enter__
        self._exit = raw.__exit__
        self._acquire = raw.acquire
        self._waiting = starmap(raw.__enter__, _NO_ARGUMENTS)
        self._trying = starmap(raw.acquire, _DO_NOT_BLOCK)
        self._release = raw.release
        self._raw = raw
        self._name = name
        self._attach = attach
        self._created = created
        if max_here is not None and not undo:
            self._bind(max_here)
        return self

    def _bind(self, bound: int) -> None:
        """Have releases through this handle look at the value first."""
        self._bound = bound
        name, value, post, release = self._name, self._value, self._post, self._release

        def check(n: int) -> None:
            if value() + n > bound:
                raise ValueError(f"so many permits would exceed the bound of semaphore {name!r}, max={bound}")

        def release_one(*_: object) -> None:
            check(1)
            release()

        def post_many(n: int) -> None:
            check(n)
            post(n)

        self._release = self._exit = release_one
        self._post = post_many

    # -- LuaIPC's words --------------------------------------------------

    def dec(self, timeout: float | None = None) -> bool:
        """Acquire a permit within `timeout` seconds; return whether it was acquired.

        None or a negative timeout waits for ever, 0 does not wait, and fractions are allowed.  NaN
        raises `ValueError`.  (POSIX: ``sem_wait(3)``, which measures timeouts by the system's
        clock; a crash-safe semaphore uses the monotonic clock.)
        """
        # Each loop is `ipcio._record.calling`, written out for speed: no Ctrl-C loses a permit that was acquired.
        if timeout is None:
            for got in self._waiting:
                return got
        elif timeout is _ZERO:
            for got in self._trying:
                return got
        else:
            trying, acquire = self._trying, self._acquire  # both now: a later close does not end the wait
            if type(timeout) in _NUMBERS and timeout > 0:  # if a permit is free, the timeout does not matter
                for got in trying:
                    if got:
                        return got
                    break
            for got in calling(acquire, True, check_timeout(timeout)):
                return got
        raise AssertionError("unreachable")

    def inc(self, n: int = 1) -> bool:
        """Release `n` permits and return True.

        `OverflowError` if the value would exceed the maximum of the platform (on Linux
        2147483647, for a crash-safe semaphore 32767), and `ValueError` if it would exceed the
        ``max`` of ``create``; nothing has changed then.
        A crash-safe semaphore releases several permits in one step, and so does Windows.
        Elsewhere waiting processes may get some of them before the last is released.  There, more
        than 4096 are released in steps of 4096, so that other threads and signal handlers run in
        between.  If a handler raises, as the one for Ctrl-C does, a multiple of 4096 has
        been released and the rest has not.  (POSIX: ``sem_post(3)``.)
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
            raise ValueError(f"n must be at least 1, not {n}")
        self._post(n)
        return True

    # -- threading's words -----------------------------------------------

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Do as `dec`; ``acquire(False)`` does not wait, and accepts no timeout."""
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

    # -- in an event loop ------------------------------------------------

    async def acquire_async(self, timeout: float | None = None) -> bool:
        """Do as `dec`, without blocking the event loop of asyncio (uvloop, anyio) meanwhile.

        If the task is cancelled, at whatever moment, or the time is up, the call has acquired nothing and
        will acquire nothing.  No thread waits.  The system cannot notify an event loop of a
        free permit, so the call tries at least every 10 ms.  Therefore it acquires a permit up to 10 ms
        after the release, and one task that waits uses 1 to 2 % of the time of a processor.
        There is no queue: the first task or process that tries after a release gets the permit,
        and processes that wait in `dec` come first.

        `ValueError` if the handle is closed, during the wait too; `RuntimeError` in an event loop that is not
        asyncio's, such as trio's.
        """
        return await acquire(starmap(self.dec, repeat((0,))), self.release, check_timeout(timeout))

    # -- what it is ------------------------------------------------------

    @property
    def value(self) -> int:
        """How many permits are free now.

        Other processes may change that before the caller looks at the number.  `NotImplementedError` where the
        system does not say it (macOS).
        """
        return self._value()

    @property
    def undo(self) -> bool:
        """Whether it is crash-safe: when a process exits or is killed, the permits that it holds are released."""
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
            return hand_over(self, self._raw.share, (self._attach, (self._name,)))

    # -- its end ---------------------------------------------------------

    def close(self) -> None:
        """Close the handle; when the last handle of all processes is closed, the name is removed.

        Permits that were acquired stay acquired.  May be called again.
        """
        with fork_lock:
            raw, self._raw = self._raw, None
            if raw is None:
                return
            # A thread that waits in a plain semaphore goes on waiting.  The last handle of a
            # crash-safe one removes the set, and then the wait ends with EIDRM.
            refuse = partial(_refuse, self._name)
            self._enter = self._exit = self._acquire = self._release = self._post = self._value = refuse
            self._waiting = self._trying = starmap(refuse, _NO_ARGUMENTS)
            share, raw.share = raw.share, None
            if share is not None:
                share.release()

    def _refused(self, error: ValueError | OSError) -> Exception:
        """Return what is to be raised in place of an error of `_release`."""
        if self.closed or (isinstance(error, OSError) and error.errno != errno.EOVERFLOW):
            return error
        if self._bound is not None and isinstance(error, ValueError):
            return error
        try:
            maximum = f", which {self._value()} is"
        except NotImplementedError:
            maximum = ""
        return OverflowError(f"semaphore {self._name!r} is at its maximum{maximum}")


def _refuse(name: str, *_: object) -> NoReturn:
    raise ValueError(f"I/O operation on closed file: semaphore {name!r}")  # the io module's words
