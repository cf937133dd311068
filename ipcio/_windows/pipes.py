"""Pipes to and from children on which no call need block: named ones, with overlapped operations at our end.

At most one operation is under way on a pipe.  The operation and its result are recorded by the
step that began or ended it (`ipcio._record`).

The system cancels the operations of a thread that exits.  A cancelled read loses nothing, nor does the
writing of one byte; but after a longer write it would be unknown how much of it the child had read.
So no such write is ever under way: what fits is written at once, and when nothing fits, a single byte
waits for room.
"""

from __future__ import annotations

import _winapi
import contextlib
import msvcrt
import os
from operator import itemgetter, methodcaller

from ipcio._record import close_first, finish, move, record
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

CHUNK = 1 << 18  # bytes of one read or write, and that a pipe holds

_OUTBOUND = 2  # not all of these are in _winapi
_REJECT_REMOTE_CLIENTS = 8
_NO_WAIT = 1
_READ_ATTRIBUTES, _WRITE_ATTRIBUTES = 0x80, 0x100  # anonymous pipes grant these, too
_INCOMPLETE = 996

_the_operation = itemgetter(0)  # of what ReadFile and WriteFile return
_data = methodcaller("getbuffer")
_result = methodcaller("GetOverlappedResult", False)  # without waiting


class Pipe:
    """A pipe to or from a child; see `ipcio._child.Pipe`."""

    def __init__(self, *, to_child: bool) -> None:
        self._handles: list[int] = []  # our end, and for an instant the child's
        self._fds: list[int] = []  # the child's
        self._pending: list[tuple[_winapi.Overlapped, int]] = []
        name = rf"\\.\pipe\ipcio-{os.urandom(16).hex()}"
        ours = _OUTBOUND if to_child else _winapi.PIPE_ACCESS_INBOUND
        ours |= _winapi.FILE_FLAG_OVERLAPPED | _winapi.FILE_FLAG_FIRST_PIPE_INSTANCE
        theirs = _winapi.GENERIC_READ | _WRITE_ATTRIBUTES if to_child else _winapi.GENERIC_WRITE | _READ_ATTRIBUTES
        made = name, ours, _REJECT_REMOTE_CLIENTS, 1, CHUNK, CHUNK, 0, 0
        record(self._handles, _winapi.CreateNamedPipe, *made)
        opened = name, theirs, 0, 0, _winapi.OPEN_EXISTING, 0, 0
        record(self._handles, _winapi.CreateFile, *opened)
        handle = self._handles[1]
        flags = (os.O_RDONLY if to_child else os.O_WRONLY) | os.O_NOINHERIT
        try:
            # As `ipcio._record.move`, with one argument more.
            self._fds.extend(map(msvcrt.open_osfhandle, map(self._handles.pop, (1,)), (flags,)))
        except OSError:
            if not self._fds:
                _winapi.CloseHandle(handle)
            raise

    @property
    def child_end(self) -> int:
        return self._fds[0]

    @property
    def our_end(self) -> int:
        return self._handles[0]

    @property
    def event(self) -> int | None:
        """The handle of an event that is set when the operation under way has ended; None if none is under way."""
        return self._pending[0][0].event if self._pending else None

    def read(self, into: list[bytes]) -> bool:
        """Take what has come, and begin the next read; return whether something had come.

        Raises `BrokenPipeError` at the end.
        """
        handle = self._handles[0]
        if not self._pending:
            record(self._pending, _winapi.ReadFile, handle, CHUNK, True)
        return self._take(into, wait=False)

    def read_rest(self, into: list[bytes]) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._read_rest(into)

    def _read_rest(self, into: list[bytes]) -> None:
        self._cancel()
        self._take(into, wait=True)
        left: Any = _winapi.PeekNamedPipe(self._handles[0])[0]
        while left > 0:
            record(self._pending, _winapi.ReadFile, self._handles[0], min(left, CHUNK), True)
            before = len(into)
            self._take(into, wait=True)
            if len(into) == before:
                break
            left -= len(into[-1])

    def _take(self, into: list[bytes], *, wait: bool) -> bool:
        if not self._pending:
            return False
        count, error = self._pending[0][0].GetOverlappedResult(wait)
        if error == _INCOMPLETE:
            return False
        if count:
            move(self._pending, 0, into, _the_operation, _data)
        else:  # cancelled, or an empty write
            self._pending.clear()
        return True

    def write(self, data: memoryview, sent: list[int]) -> bool:
        """Write some of it, and record how much; False if it does not fit: then a byte waits for room.

        No operation may be under way.  Raises `BrokenPipeError` if the child has closed its end.
        """
        handle = self._handles[0]
        size = min(len(data), CHUNK)
        _winapi.SetNamedPipeHandleState(handle, _NO_WAIT, None, None)
        while size:  # some systems write a part, others nothing, if not all of it fits
            record(self._pending, _winapi.WriteFile, handle, data[:size], True)
            if not self.written(sent):
                return False
            if sent[-1]:
                return True
            size //= 4
        _winapi.SetNamedPipeHandleState(handle, 0, None, None)
        record(self._pending, _winapi.WriteFile, handle, data[:1], True)
        return self.written(sent)

    def written(self, sent: list[int]) -> bool:
        """Record how much the write that was under way has written; False if it still is."""
        if self._pending:
            if self._pending[0][0].GetOverlappedResult(False)[1] == _INCOMPLETE:
                return False
            move(self._pending, 0, sent, _the_operation, _result, itemgetter(0))
        return True

    def close_child_end(self) -> None:
        close_first(os.close, self._fds, len(self._fds))

    def close(self) -> None:
        self.close_child_end()
        self._cancel()
        self._pending.clear()
        close_first(_winapi.CloseHandle, self._handles, len(self._handles))

    def __del__(self) -> None:
        finish(self.close)

    def _cancel(self) -> None:
        """Cancel the operation under way; if it has ended by itself, its result remains to be taken."""
        if self._pending:
            operation = self._pending[0][0]
            operation.cancel()
            with contextlib.suppress(OSError):
                operation.GetOverlappedResult(True)
