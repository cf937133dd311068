"""The handle of a queue: :class:`Queue`."""

from __future__ import annotations

import errno
import sys
from itertools import repeat, starmap

from ipcio import _queue_errors as errors
from ipcio._bells import bell
from ipcio._bytes import raw_bytes
from ipcio._event_loop import FIRST_PAUSE, LONGEST_PAUSE, current_task, let_others_run, sleep, try_until
from ipcio._layout import DATA, LOCKS
from ipcio._light import partial
from ipcio._named import NamedHandle, parts
from ipcio._record import calling
from ipcio._ring import check_seconds
from ipcio._ring_get import Readers
from ipcio._ring_put import Writers
from ipcio._ring_state import BOOK_KEEPING, CAPACITY, CELL, CELLS, HEAD, LARGEST, READERS_BELL, TAIL, WRITERS_BELL
from ipcio._second_handle import second_handle
from ipcio._timeouts import now
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap
    from collections.abc import AsyncIterator
    from typing import Any, ClassVar, NoReturn

    from typing_extensions import Buffer, Self

    from ipcio._backend.parts import Lock
    from ipcio._queue_files import QueueReader, QueueWriter
    from ipcio._tuples import OpenObject

_IN_ONE_STEP = sys.implementation.name == "cpython" and sys.maxsize > 1 << 32
"""Whether Python stores 8 bytes in memory in one step."""


class Queue(NamedHandle, Writers, Readers):
    """Messages that processes pass on: each one is taken by one reader, the first one first.

    Functions of `ipcio.queue` return handles; this class is not called.  The methods and exceptions are those of
    the standard library's `queue.Queue`, but messages are bytes, and so is the unit of the size.

    ``for message in q`` and ``async for message in q`` get messages until the queue was shut down and is empty.

    After `close`, every method but `close` raises `ValueError`.  Closing is optional: a handle that is
    garbage-collected closes itself, and ``with q:`` closes it at the end.  Handles may be shared between
    threads, work on both sides of a ``fork`` and pickle by attaching again.
    """

    __slots__ = Writers.FIELDS

    KIND: ClassVar[str] = "queue"
    HAS_LOCKS: ClassVar[bool] = True

    # -- what it is made of ------------------------------------------------

    def _first_contents(self, memory: mmap.mmap | memoryview[int], flags: int) -> None:  # noqa: ARG002
        with memoryview(memory) as view, view[: CELLS * CELL].cast("B") as page, page.cast("Q") as cells:
            cells[CAPACITY] = len(memory) - DATA
            cells[TAIL] = cells[HEAD] = DATA

    def _set_up(self, opened: OpenObject, flags: int) -> None:  # noqa: ARG002 -- a queue has none
        # To have them imported: a process that gives up its rights later may not find the modules.
        from ipcio import _memory, _queue_files

        _memory.prepare()
        _ = errors.ShutDown, errors.Full, _queue_files
        at = CAPACITY * CELL
        size = int.from_bytes(parts.read(opened.fd, opened.memory, at + CELL)[at:], sys.byteorder)
        if not BOOK_KEEPING <= size <= min(len(opened.memory) - DATA, LARGEST):
            self._refuse("damaged: the size in its header is not that of the object")
        locks: list[Any] = [parts.lock(opened, at) for at in LOCKS]
        words = parts.words(opened)
        calls = None if opened.trusted and _IN_ONE_STEP else parts.by_calls(opened)
        if calls is None:
            cells, contents, view = _direct(opened.memory)
        else:
            cells, contents = calls
            view = contents
        # The word `notes` of a lock that C code alone can acquire is in the object, and of others it is constant.
        if calls is not None or isinstance(getattr(locks[0], "notes", ()), tuple):
            locks = list(map(_Unhurried, locks))
        bells = [bell(words, at, self._look) for at in (READERS_BELL, WRITERS_BELL)]
        self._arrange(cells, (contents, view), (DATA, size), (locks[0], locks[1]), (bells[0], bells[1]))

    def _drop(self) -> None:
        self._forget(partial(_refuse, self._name))

    # -- put and get ---------------------------------------------------------

    def put_nowait(self, data: Buffer) -> None:
        """Do as ``put(data, block=False)``."""
        for _ in calling(self.put, data, False):
            return

    def get_nowait(self) -> bytes:
        """Do as ``get(block=False)``."""
        for message in calling(self.get, False):
            return message
        raise AssertionError("unreachable")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        try:
            for message in calling(self.get):
                return message
        except errors.ShutDown:
            pass
        raise StopIteration

    # -- in an event loop ------------------------------------------------------

    async def put_async(self, data: Buffer, timeout: float | None = None) -> None:
        """Do as `put`, without blocking the event loop of asyncio (uvloop, anyio) meanwhile.

        If the task is cancelled, at whatever moment, or the time is up, the call has put nothing.  No thread
        waits: the call tries again at least every 10 ms, and one task that waits uses 1 to 2 % of the time of a
        processor.  If several tasks or processes wait, the first one that tries after there is room puts.

        `ValueError` if the handle is closed, during the wait too; `RuntimeError` in an event loop that is not
        asyncio's, such as trio's.
        """
        seconds = None if timeout is None else check_seconds(timeout)
        view = raw_bytes(data)
        try:
            self._check_length(len(view))
            if await try_until(partial(self._try_put, view, len(view), 0, 0), seconds):
                return
            raise errors.Full
        except BaseException:
            view.release()
            raise

    async def get_async(self, timeout: float | None = None) -> bytes:
        """Do as `get`, without blocking the event loop meanwhile; see `put_async`.

        A call that is cancelled, or that reaches its timeout, has taken nothing, and the order stays as it was.
        """
        seconds = None if timeout is None else check_seconds(timeout)
        message: bytes | None = await try_until(partial(self._try_take, None, 0, 0), seconds)
        if message is not None:
            return message
        raise errors.Empty

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Messages(self)

    async def __anext__(self) -> bytes:
        try:
            return await self.get_async()
        except errors.ShutDown:
            raise StopAsyncIteration from None

    # -- as a file -------------------------------------------------------------

    def writer(self) -> QueueWriter:
        """Return a raw binary file that puts a message with each `write`; see `ipcio._queue_files.QueueWriter`."""
        from ipcio._queue_files import QueueWriter

        return QueueWriter(second_handle(self))

    def reader(self) -> QueueReader:
        """Return a raw binary file that reads the messages one after the other."""
        from ipcio._queue_files import QueueReader

        return QueueReader(second_handle(self))

    # -- the end ---------------------------------------------------------------

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Messages:
    """What ``async for`` iterates over.

    Where a message is there, `__anext__` takes it as `get` does, in a third of the time of `get_async`, and the
    loop's body gets it.  Between two messages it lets other tasks run if it has not done so for a while.  A
    cancellation is noticed there, or where it waits: then it has taken nothing.
    """

    __slots__ = ("_get", "_slice_end")

    def __init__(self, queue: Queue) -> None:
        self._get = queue.get
        self._slice_end = 0.0  # other tasks have not run yet

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        pause = FIRST_PAUSE
        while True:
            if now() >= self._slice_end:
                current_task()  # `RuntimeError` without an event loop of asyncio
                self._slice_end = await let_others_run()
            try:
                for message in starmap(self._get, _WITHOUT_WAITING):  # `ipcio._record.calling`, written out for speed
                    return message
            except errors.Empty:
                await sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            except errors.ShutDown:
                raise StopAsyncIteration from None


_WITHOUT_WAITING = ((False,),)


def _refuse(name: str, *_: object) -> NoReturn:
    raise ValueError(f"I/O operation on closed file: queue {name!r}")  # the io module's words


def _direct(memory: mmap.mmap | memoryview[int]) -> tuple[Any, Any, Any]:
    """Return the cells and the bytes of memory that can be touched."""
    view = memoryview(memory)
    contents = _Copies(view) if isinstance(memory, memoryview) else memory
    return view[: CELLS * CELL].cast("B").cast("Q"), contents, view


class _Copies:
    """Memory, a slice of which is `bytes`."""

    __slots__ = ("_view",)

    def __init__(self, view: memoryview[int]) -> None:
        self._view = view

    def __getitem__(self, where: slice) -> bytes:
        return self._view[where].tobytes()

    def __setitem__(self, where: slice, data: Any) -> None:
        self._view[where] = data


class _Unhurried:
    """A lock that Python code acquires and releases, or that protects what Python code reads and writes."""

    trying = repeat(errno.EBUSY)

    def __init__(self, lock: Lock) -> None:
        self.acquire = lock.acquire
        self.releasing = starmap(lock.release, repeat(()))

    def acquire_after(self, _: int, seconds: float | None) -> int:
        for acquired in calling(self.acquire, seconds):
            return acquired
        raise AssertionError("unreachable")
