"""Locks that belong to a thread, and that the kernel releases when it ends: the mutexes of Windows.

A new lock gets a random number, and its mutex has that in its name.  So an object never meets the
mutex of an earlier one that had the same name, which may still be owned.

The kernel alone knows whether a mutex is owned and whether this thread owns it.  Which thread of which process the
owner is stands in the object.  That is what `MutexLock.owner` shows if the kernel says that the mutex is owned.
It also saves the question to the kernel where this thread is clearly another one.
"""

from __future__ import annotations

import _winapi
import ctypes
import os
from _thread import get_native_id
from itertools import repeat

from ipcio._record import calling
from ipcio._typing import TYPE_CHECKING
from ipcio._windows import objects, win32

if TYPE_CHECKING:
    from ipcio._tuples import OpenObject

_NUMBER = 8  # bytes of the slot for the random number; the words for the owner come after it
_PID, _THREAD, _ABANDONED = range(3)  # the words: the owner, and whether the last one ended without a release
_THIS_PROCESS = os.getpid()

_still_owned: dict[str, objects.SemLock] = {}
"""Mutexes that a thread of this process owned when a lock was collected.

Windows would forget the owner with the last handle of all processes.  They are closed when this process releases
them by another lock or, if the owner has ended, when it opens one.
"""


def first_contents() -> bytes:
    """Return the first contents of a slot."""
    return os.urandom(_NUMBER)


def close_unowned() -> None:
    """Close those of `_still_owned` that are not owned any longer."""
    for name, mutex in list(_still_owned.items()):
        if not objects.owned(mutex.handle)[0]:
            _still_owned.pop(name, None)


class MutexLock:
    """A mutex of the kernel; the protocol is `ipcio._backend.parts.Lock`."""

    __slots__ = ("_mutex", "_name", "_words")

    trying = releasing = repeat(1)
    notes = (1,)

    def __init__(self, opened: OpenObject, at: int) -> None:
        slot = memoryview(opened.memory)[at : at + _NUMBER + 12]
        self._words = slot[_NUMBER:].cast("I")
        self._name = f"ipcio/{bytes(slot[:_NUMBER]).hex()}"
        self._mutex = objects.open_or_create(win32.CreateMutex, None, False, self._name, called=opened.name)
        close_unowned()

    def acquire(self, seconds: float | None, /) -> int:
        thread = get_native_id()
        words = self._words
        if words[_THREAD] == thread and self.is_mine():
            raise RuntimeError("this thread holds the lock already")
        for code in calling(objects.wait_for, self._mutex.handle, seconds):
            if code != _winapi.WAIT_TIMEOUT:  # no handler runs from here to the return
                words[_PID] = _THIS_PROCESS
                words[_THREAD] = thread
                words[_ABANDONED] |= code == _winapi.WAIT_ABANDONED_0
                return 1 + (words[_ABANDONED] & 1)
        return 0

    def acquire_after(self, _: int, seconds: float | None, /) -> int:
        return self.acquire(seconds)

    def undo(self, _: int, /) -> None:
        pass

    def release(self) -> None:
        words = self._words
        if words[_THREAD] == get_native_id() or self.is_mine():
            words[_ABANDONED] = 0
            self.give_back()
        else:
            raise RuntimeError("this thread does not hold the lock")

    def give_back(self) -> None:
        self._words[_THREAD] = 0
        if not win32.ReleaseMutex(self._mutex.handle):
            if ctypes.get_last_error() == win32.ERROR_NOT_OWNER:
                raise RuntimeError("this thread does not hold the lock")
            raise win32.failure()
        _still_owned.pop(self._name, None)

    def is_mine(self) -> bool:
        return objects.owned(self._mutex.handle)[1]

    def is_abandoned(self) -> bool:
        return bool(self._words[_ABANDONED]) and self.is_mine()

    def is_held(self) -> bool:
        return objects.owned(self._mutex.handle)[0]

    def owner(self) -> int | None:
        return self._words[_PID] or None if self.is_held() else None

    def lend(self) -> None:
        raise NotImplementedError("on Windows no process becomes another program")

    def take_back(self) -> None:
        pass

    def __del__(self) -> None:
        try:
            if self._words[_PID] == _THIS_PROCESS and self.is_held():
                _still_owned[self._name] = self._mutex
        except Exception:  # noqa: BLE001, S110 -- it was never opened, or the interpreter exits
            pass
