"""The handle of memory while the caller has its descriptor: its position is the offset of that.

:class:`OffsetFile` makes one system call for each operation.  ``lseek`` by as many bytes as are read or written
moves the offset and returns where it is then: the bytes in between belong to this call.

Python releases the GIL for ``lseek``.  Meanwhile no other thread may close the descriptor, because its number may
then mean another file, nor look at the offset and set it.  `fork_lock` would take as long as the system call.
So each handle has a *turn* instead:

* A quick step takes the turn if it is free, and gives it back at its end.  With the GIL, the interpreter switches
  threads at calls and at jumps, so nothing comes between the look at ``_turn`` and its change.
* Every other method holds `fork_lock`, and waits for the end of a quick step.  The turn is reserved for it then, even
  if quick steps follow each other without a pause (`OffsetFile._alone`).
* A quick step waits for nothing.  If it cannot have the turn, it leaves the work to the complete method.
* In the midst of a quick step, a signal handler or a finalizer may run.  It may use the same handle: the stack of the
  thread shows that.  It may wait for `fork_lock`: a thread that waits for the turn releases that from time to time.
"""

from __future__ import annotations

import io
import os
import sys
import time

from ipcio._buffering import add_memory
from ipcio._bytes import writable_bytes
from ipcio._forklock import fork_lock, in_child
from ipcio._light import WeakSet, index
from ipcio._memfile import MemoryFile
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    from typing_extensions import Buffer

    T = TypeVar("T")

_FREE, _MOVING, _ALONE, _RESERVED = range(4)  # the values of `_turn`
_LOOKS = 8  # at the turn of a quick step, which usually ends sooner
_LONGEST = 1.0  # seconds to wait with the lock

_handles: WeakSet[OffsetFile] = WeakSet()


class OffsetFile(MemoryFile):
    """Memory, while the caller has its descriptor."""

    __slots__ = ()

    def _use_offset(self) -> None:
        """Become such a handle.  The caller holds `fork_lock`."""
        # A FileIO checks that it is open as it makes the call, and is faster than `os.lseek`.
        self._move = io.FileIO(self._user_fd, closefd=False).seek
        self._turn = self._next_turn = _FREE
        kind: Any = OffsetFile
        self.__class__ = kind
        _handles.add(self)

    # -- quick steps -------------------------------------------------------

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == 0 and type(offset) is int and not self._turn:
            self._turn = 1
            try:
                move = self._move  # in two steps, which Python 3.11 and later make faster
                self._position = position = move(offset, 0)
                return position
            except (OSError, ValueError, OverflowError) as error:
                _reraise_foreign(error)
            finally:
                self._turn = self._next_turn
        return self._alone(MemoryFile.seek, index(offset), index(whence))

    def read(self, size: int | None = -1, /) -> bytes:
        if type(size) is int and size > 0 and self._mode != "wb" and not self._turn:
            self._turn = 1
            try:
                if self._position + size <= self._size:
                    move = self._move
                    end = move(size, 1)
                    if end <= self._size:
                        self._position = end
                        memory: Any = self._memory
                        return memory[end - size : end]  # type: ignore[no-any-return]
                    move(-size, 1)  # another program had moved the offset
            except (OSError, ValueError, TypeError) as error:
                _reraise_foreign(error)
            finally:
                self._turn = self._next_turn
        return self._alone(MemoryFile.read, -1 if size is None else index(size))

    def readline(self, size: int | None = -1, /) -> bytes:
        if size == -1 and self._mode != "wb" and not self._turn:
            self._turn = 1
            try:
                start = self._position
                memory: Any = self._memory
                if memory.tell() != start:
                    memory.seek(start)
                line: bytes = memory.readline()
                end = start + len(line)
                if line and end <= self._size:
                    move = self._move
                    if move(len(line), 1) == end:
                        self._position = end
                        return line
                    move(-len(line), 1)
            except (OSError, ValueError, AttributeError) as error:
                _reraise_foreign(error)
            finally:
                self._turn = self._next_turn
        return self._alone(MemoryFile.readline, -1 if size is None else index(size))

    def write(self, data: Buffer, /) -> int:
        if type(data) is bytes and self._mode != "rb" and not self._turn:
            self._turn = 1
            try:
                size = len(data)
                if self._position + size <= self._size:
                    move = self._move
                    end = move(size, 1)
                    if end <= self._size:
                        self._position = end
                        self._memory[end - size : end] = data  # type: ignore[index]
                        return size
                    move(-size, 1)
            except (OSError, ValueError, TypeError) as error:
                _reraise_foreign(error)
            finally:
                self._turn = self._next_turn
        with memoryview(data) as source:
            return self._alone(MemoryFile.write, source)

    # -- every other method that looks at the position -----------------------

    def _alone(self, method: Callable[..., T], *arguments: Any) -> T:
        """Call a method of `MemoryFile` while no quick step of another thread is under way."""
        within, give_up = False, 0.0  # a time in seconds
        while True:
            with fork_lock:
                for looks in range(_LOOKS):
                    if self._turn == _ALONE:  # a signal handler or a finalizer, in the midst of such a call
                        return method(self, *arguments)
                    if self._turn != _MOVING:
                        self._turn = _ALONE
                        try:
                            return method(self, *arguments)
                        finally:
                            self._turn = self._next_turn = _FREE
                    if within:  # in the midst of a quick step, which has the turn again afterwards
                        self._turn = _ALONE
                        try:
                            return method(self, *arguments)
                        finally:
                            if self._turn == _ALONE:
                                self._turn = _MOVING
                    self._next_turn = _RESERVED
                    if not looks:
                        within = self._is_in_own_step()
                    if not within:
                        time.sleep(0)
            # The thread of that step may wait for the lock.  If this thread cannot release it here, it goes on at last.
            give_up = give_up or time.monotonic() + _LONGEST
            within = fork_lock._is_owned() and time.monotonic() > give_up  # type: ignore[attr-defined]
            time.sleep(0)

    def _get_position(self) -> int:
        if self._turn != _ALONE:  # the call began before the handle had this class, and has not come by `_alone`
            self._next_turn = _RESERVED
            give_up = time.monotonic() + _LONGEST
            while time.monotonic() < give_up:
                if self._turn != _MOVING:
                    self._turn = _RESERVED
                    break
                time.sleep(0)
        return MemoryFile._get_position(self)

    def _is_in_own_step(self) -> bool:
        frame = sys._getframe(2).f_back  # without the method that called `_alone`
        while frame is not None:
            if frame.f_code in _STEPS and frame.f_locals.get("self") is self:
                return True
            frame = frame.f_back
        return False

    def tell(self) -> int:
        return self._alone(MemoryFile.tell)

    def readinto(self, buffer: Buffer, /) -> int:
        with writable_bytes(buffer) as target:
            return self._alone(MemoryFile.readinto, target)

    readinto1 = readinto

    def __iter__(self) -> Iterator[bytes]:
        self._check_readable()
        return self._rest()

    def truncate(self, size: int | None = None, /) -> int:
        return self._alone(MemoryFile._truncate, None if size is None else index(size))

    def _where(self) -> tuple[int, int]:
        return self._alone(MemoryFile._where)

    def close(self) -> None:
        if self._memory is not None:
            self._alone(_stop)
        MemoryFile.close(self)


def _stop(handle: OffsetFile) -> None:
    """Have every quick step leave its work to the complete method from now on."""
    mover: Any = handle._move
    mover.__self__.close()  # the descriptor stays open: the handle closes it


def _reraise_foreign(error: Exception) -> None:
    """Raise an error that came from Python code, that is, from a signal handler or a finalizer."""
    traceback = error.__traceback__
    if traceback is not None and traceback.tb_next is not None:
        raise error


_STEPS = {step.__code__ for step in (OffsetFile.seek, OffsetFile.read, OffsetFile.readline, OffsetFile.write)}


def _free_turns() -> None:
    for handle in _handles:
        handle._turn = handle._next_turn = _FREE


in_child.append(_free_turns)  # a step that another thread was in the midst of has no end there

OffsetFile.__name__ = OffsetFile.__qualname__ = MemoryFile.__name__  # users see one type of handle
add_memory(OffsetFile)
