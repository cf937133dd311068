"""Pipes to and from children: no fork keeps a copy of an end, and no reused number is closed."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import termios
from itertools import chain

from ipcio._forklock import fork_lock
from ipcio._light import WeakSet, suppress
from ipcio._record import calling, close_first, finish, record_until
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

CHUNK = 1 << 18  # bytes of one read
LARGE = 1 << 20  # bytes that a pipe holds after `enlarge`, as far as the system allows

_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)  # of Linux

inherited: WeakSet[Any] = WeakSet()
"""Objects with descriptors that a forked process must not keep open; `close_copies` closes them there."""


def _close_inherited() -> None:
    """In a forked process, close its copies: with a copy of a pipe's end open, the child would not see the end."""
    for each in list(inherited):
        each.close_copies()


os.register_at_fork(after_in_child=_close_inherited)


class Pipe:
    """A pipe to or from a child; see `ipcio._child.Pipe`."""

    _fds: list[int] = []  # noqa: RUF012 -- of an object that an interrupt left incomplete
    _known: tuple[int, ...] | None = None  # the identity of both ends

    def __init__(self, *, to_child: bool) -> None:
        self._fds: list[int] = []  # the child's end, while it is open here, and ours
        inherited.add(self)
        open_pipe(self._fds, is_write_end_first=not to_child)
        self._known = identity(self._fds[0])

    def is_intact(self) -> bool:
        """Whether its numbers still mean its ends; those that do not are left alone from here on."""
        known = self._known
        if known is not None:
            for fd in self._fds:
                if not is_still(fd, known):
                    self._fds[:] = [fd for fd in self._fds if is_still(fd, known)]
                    break
        return bool(self._fds)

    @property
    def child_end(self) -> int:
        return self._fds[0]

    @property
    def our_end(self) -> int:
        return self._fds[-1]

    def read_rest(self, into: list[bytes]) -> None:
        fd = self.our_end
        left = int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
        with suppress(BlockingIOError):
            record_until(into, b"", -(-left // CHUNK), os.read, fd, CHUNK)

    def close_child_end(self) -> None:
        with fork_lock:
            close_first(os.close, self._fds, 1)

    def close(self) -> None:
        if self._fds:
            with fork_lock:
                self.close_copies()

    def close_copies(self) -> None:
        """Close both ends, without a lock: in a forked process, or in a garbage collection, which must not block."""
        if self.is_intact():
            close_first(os.close, self._fds, len(self._fds))

    def __del__(self) -> None:
        if self._fds:
            finish(self.close_copies)


def open_pipe(fds: list[int], *, is_write_end_first: bool = False) -> None:
    """Open a pipe, and append both ends to a list.  A fork in another thread finds both there, or none."""
    ends = calling(os.pipe)
    with fork_lock:
        fds.extend(chain.from_iterable(map(reversed, ends) if is_write_end_first else ends))


def enlarge(fd: int) -> None:
    """Let a pipe hold more: each time that it is full, one of the two processes has to wait."""
    if _SETPIPE_SZ is not None:
        with suppress(OSError):  # a user's pipes may hold so much in all, and no more
            fcntl.fcntl(fd, _SETPIPE_SZ, LARGE)


def identity(fd: int) -> tuple[int, ...]:
    """The number of the file that a descriptor means, and that of its device."""
    return os.fstat(fd)[1:3]


def is_still(fd: int, known: tuple[int, ...]) -> bool:
    """Whether a descriptor still means this file: a daemon closes all, and then other files get the numbers."""
    try:
        return os.fstat(fd)[1:3] == known
    except OSError as error:
        return error.errno != errno.EBADF
