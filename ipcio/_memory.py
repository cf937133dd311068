"""What a handle of memory has open, and how it gives that back.

A handle owns memory and, where the platform has them, a descriptor of the object and a share
in its name.  :class:`OpenMemory` keeps these from the call that opened them until the handle
is closed or garbage-collected.  It knows neither a position nor which part of the memory the
handle shows: those are in `ipcio._memory_place`.
"""

from __future__ import annotations

import errno
import io
import os
import sys

from ipcio._buffering import PREPARATIONS
from ipcio._forklock import acquiring_fork_lock, fork_lock, release_fork_lock
from ipcio._light import cache, suppress
from ipcio._typing import TYPE_CHECKING
from ipcio._unowned import LARGE, close_later, close_listed, free_later

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from typing import Any, BinaryIO

    from ipcio._backend.shares import Share

    # Type checkers see `io.FileIO` as a `typing.BinaryIO`.  So they accept a handle wherever a
    # binary file is documented.
    class _RawBinaryFile(io.RawIOBase, BinaryIO):
        pass

    Memory = mmap.mmap | memoryview[int]  # or `bytes`, of a handle that never writes
    Reopen = tuple[Callable[..., Any], tuple[Any, ...]]
    Reduce = Callable[[Any], Reopen]
else:
    _RawBinaryFile = io.RawIOBase

CLOSED = "I/O operation on closed file."  # the io module's words


class OpenMemory(_RawBinaryFile):
    """Memory, a descriptor and a share in a name, as long as the handle is open."""

    __slots__ = (
        "_created",
        "_fd",
        "_file_offset",
        "_lent",
        "_memory",
        "_mode",
        "_name",
        "_opened",
        "_reduce",
        "_share",
    )

    _name: str | Any
    _mode: str
    _created: bool
    _memory: Memory | None  # all of it; None: closed
    _fd: int  # the descriptor behind the memory, or -1
    _lent: int  # the descriptor that users get and `ipcio.filelock` locks; -1 until one is needed
    _file_offset: int  # where in the descriptor's file the memory begins
    _reduce: Reduce  # called with the handle: how to open this memory again, for pickle; must not keep it mapped
    _share: Share | None  # in keeping the name
    _opened: os.stat_result | None  # what the descriptor has open, if no share owns it

    def _check_open(self) -> Memory:
        memory = self._memory
        if memory is None:
            raise ValueError(CLOSED)
        return memory

    def _lend(self) -> int:
        """The descriptor for users and for locks, of all that lies behind the memory; made when first needed."""
        lent = self._lent
        if lent < 0:
            with fork_lock:
                self._check_open()
                if self._fd < 0:
                    raise io.UnsupportedOperation("fileno: this memory has no descriptor; getbuffer() gives its bytes")
                if self._lent < 0:
                    # Not the one that a share's lock is on.  What the user locks, unlocks or closes
                    # must not matter to the name, and the lock must not last as long as a map.
                    self._lent = self._fd if self._share is None else self._share.lend(self._fd)
                lent = self._lent
        return lent

    def _map_again(self, size: int) -> mmap.mmap | None:
        """Map the first `size` bytes once more; None where that is not possible.  Under `fork_lock`."""
        if self._fd < 0 or not size:
            return None
        # Both are imported already: the memory came from there.
        if sys.platform == "win32":
            from ipcio._windows.mmap import map_descriptor
        else:
            from ipcio._posix.mmap import map_descriptor
        try:
            is_ours = _is_open(self._fd, self._opened) if self._share is None else self._share.is_open(self._fd)
            if is_ours:
                return map_descriptor(self._fd, size, writable=self._mode != "rb", offset=self._file_offset)
        except (OSError, ValueError):  # no address space or descriptor is left, or the file has become shorter
            pass
        return None

    def _drop_memory(self, *, is_explicit: bool) -> None:
        """Under `fork_lock`: give up the memory, in a call of `close` if `is_explicit`, and otherwise in `__del__`."""
        raise NotImplementedError

    def _close(self, *, is_explicit: bool) -> None:
        """Give everything back, once; see `_drop_memory`."""
        close: Callable[..., None] = os.close
        for _ in acquiring_fork_lock:
            try:
                if self._memory is None:
                    return
                fd, lent, share = self._fd, self._lent, self._share
                if len(self._memory) >= LARGE:
                    close = close_later
                    free_later(self._memory)
                try:
                    self._drop_memory(is_explicit=is_explicit)
                finally:
                    self._memory = self._share = None
                    self._fd = self._lent = -1
                    try:
                        if lent >= 0 and lent != fd:
                            close(lent)
                    finally:
                        if share is not None:  # which owns the descriptor
                            share.release(close)
                        elif fd >= 0:
                            is_ours = True
                            try:
                                is_ours = _is_open(fd, self._opened)
                            finally:
                                if is_ours:
                                    close(fd)
            finally:
                release_fork_lock()
                if close is close_later:
                    close_listed()
            break


def _is_open(fd: int, opened: os.stat_result | None) -> bool:
    """Whether `fd` still is what was opened: a daemon closes all descriptors, and the numbers then mean other files."""
    if opened is None:  # that could not be seen
        return True
    try:
        now = os.fstat(fd)
        return now.st_ino == opened.st_ino and now.st_dev == opened.st_dev
    except OSError as error:
        return error.errno != errno.EBADF


@cache
def prepare() -> None:
    """Import what methods of handles need, before the first handle is made.

    A process that has given up its rights (``setuid``, ``chroot``) may find no modules later, or
    those of another user.  The caller holds no lock of ours: another thread may hold the lock of
    an import and wait for ours, in a garbage collection.
    """
    for module in "ctypes", "_pickle":
        with suppress(ImportError):  # it is missing, or not for this sub-interpreter: the method will say so
            __import__(module)
    for each in PREPARATIONS:
        each()
