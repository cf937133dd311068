"""Locks whose owner is a thread, and which the kernel releases when the thread ends: the mutexes of Windows.

A new lock gets a random number, and its mutex has that in its name.  So an object never meets the
mutex of an earlier one that had the same name, which may still be owned.

The kernel alone knows whether a mutex is owned and whether this thread owns it.  The process id of the owner
is in the object, and is only shown: it means nothing unless the kernel says that the mutex is owned.
"""

from __future__ import annotations

import _winapi
import os

from ipcio._record import calling
from ipcio._typing import TYPE_CHECKING
from ipcio._windows import objects, win32

if TYPE_CHECKING:
    from ipcio._backend import OpenObject

_NUMBER = 8  # bytes of the slot for the random number; the words for the owner come after it
_PID, _ABANDONED = 0, 1  # the words: the owner's process, and whether the owner before it ended without a release
_THIS_PROCESS = os.getpid()

_still_owned: list[tuple[int, objects.Handles]] = []
"""Mutexes that a thread of this process owned when its last handle of ipcio on them was closed.

Windows would forget the owner with the last handle of all processes.
"""


def first_contents() -> bytes:
    """Return the first contents of a slot."""
    return os.urandom(_NUMBER)


class MutexLock:
    """A mutex of the kernel; the protocol is `ipcio._backend.Lock`."""

    __slots__ = ("_handles", "_mutex", "_words")

    def __init__(self, opened: OpenObject, at: int) -> None:
        slot = memoryview(opened.memory)[at : at + _NUMBER + 8]
        self._words = slot[_NUMBER:].cast("I")
        self._handles = objects.Handles()
        name = f"ipcio/{bytes(slot[:_NUMBER]).hex()}"
        self._mutex = self._handles.open_or_create(win32.CreateMutex, None, False, name, called=opened.name)
        _still_owned[:] = [each for each in _still_owned if objects.owned(each[0])[0]]

    def acquire(self, seconds: float | None, /) -> int:
        if self.is_mine():
            raise RuntimeError("this thread owns the lock already")
        for code in calling(objects.wait_for, self._mutex, seconds):
            if code != _winapi.WAIT_TIMEOUT:  # no handler runs from here to the return
                self._words[_PID] = _THIS_PROCESS
                self._words[_ABANDONED] |= code == _winapi.WAIT_ABANDONED_0
                return 1 + (self._words[_ABANDONED] & 1)
        return 0

    def acquire_after(self, _: int, seconds: float | None) -> int:
        return self.acquire(seconds)

    def release(self) -> None:
        if not self.is_mine():
            raise RuntimeError("this thread does not own the lock")
        self._words[_ABANDONED] = 0
        if not win32.ReleaseMutex(self._mutex):
            raise win32.failure()

    def is_mine(self) -> bool:
        return objects.owned(self._mutex)[1]

    def is_abandoned(self) -> bool:
        return bool(self._words[_ABANDONED]) and self.is_mine()

    def is_held(self) -> bool:
        return objects.owned(self._mutex)[0]

    def is_held_here(self) -> bool:
        return self._words[_PID] == _THIS_PROCESS and self.is_held()

    def owner(self) -> int | None:
        return self._words[_PID] or None if self.is_held() else None

    def __del__(self) -> None:
        try:
            if self.is_held_here():
                _still_owned.append((self._mutex, self._handles))
        except Exception:  # noqa: BLE001, S110 -- it was never opened, or the interpreter exits
            pass
