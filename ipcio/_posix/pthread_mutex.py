"""Robust mutexes of the C library (``pthread_mutex_t``), which Python does not offer; and whether they work here.

Importing this imports `ctypes`.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import time
from _thread import get_native_id

from ipcio._posix import forks, libc, thread_ids
from ipcio._record import calling
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SIZE = 64  # bytes of an object for a mutex; its first word has the id of the thread that holds it
TID = 0x3FFFFFFF  # the bits of that word
LARGEST = 48  # bytes of a mutex: 40 on x86-64, 48 on 64-bit ARM

_PROCESS_SHARED, _ROBUST, _ERROR_CHECK = 1, 1, 2  # <pthread.h> of glibc

_library: Any = ctypes.CDLL(None, use_errno=True)
# Without releasing the GIL and without errno: these never wait, and that is half the price.
_at_once: Any = getattr(ctypes, "PyDLL", ctypes.CDLL)(None)
trylock: Any = getattr(_at_once, "pthread_mutex_trylock", None)
unlock: Any = getattr(_at_once, "pthread_mutex_unlock", None)
consistent: Any = getattr(_at_once, "pthread_mutex_consistent", None)
_clocklock: Any = getattr(_library, "pthread_mutex_clocklock", None)  # glibc 2.30
_timedlock: Any = getattr(_library, "pthread_mutex_timedlock", None)


_mmap: Any = _library.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_ssize_t)
_munmap: Any = _library.munmap
_FAILED = ctypes.c_void_p(-1).value
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_HERE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED


_Words = ctypes.c_uint32 * (SIZE // 4)


class Memory:
    """A map of the page in which a mutex is; it stays mapped for good if a thread of this process holds the mutex.

    A `mmap.mmap` would be unmapped when the interpreter exits, before the kernel looks for the mutexes that are
    held.  What `words` returns keeps the memory.
    """

    __slots__ = ("_at", "_size", "_start")

    def __init__(self, fd: int, offset: int) -> None:
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        self._size = offset - start + SIZE
        found = _mmap(None, self._size, _READ_WRITE, mmap.MAP_SHARED, fd, start)
        if found in {None, _FAILED}:
            raise libc.failure()
        self._start: int = found
        self._at = self._start + offset - start

    def words(self) -> Any:
        """Return the mutex, and what is in the object after it, as words."""
        made: Any = _Words.from_address(self._at)
        made._memory = self
        return made

    def refuse(self) -> None:
        """Put other memory in its place, in this process alone: what is no mutex, so calls of C return an error."""
        if _mmap(ctypes.c_void_p(self._start), self._size, _READ_WRITE, _HERE, -1, 0) != self._start:
            raise libc.failure()
        ctypes.memset(self._at, 0xFF, LARGEST)

    def __del__(self) -> None:
        try:
            if not thread_ids.may_be_of_this_process(_Words.from_address(self._at)[0] & TID):
                _munmap(ctypes.c_void_p(self._start), ctypes.c_size_t(self._size))
        except (AttributeError, TypeError):  # it was never mapped, or the interpreter exits
            pass


def wait(address: object, seconds: float) -> int:
    """Wait for a mutex, for so long; the result is that of C, and no interrupt loses it."""
    if _clocklock is not None:
        clock = time.CLOCK_MONOTONIC
        until = time.clock_gettime_ns(clock) + int(seconds * 1e9)
        call: Iterator[int] = calling(_clocklock, address, clock, ctypes.byref(libc.Timespec(*divmod(until, 10**9))))
    else:
        until = time.time_ns() + int(seconds * 1e9)
        call = calling(_timedlock, address, ctypes.byref(libc.Timespec(*divmod(until, 10**9))))
    for code in call:
        return code
    raise AssertionError("unreachable")


_blank: list[bytes | None] = []


def blank() -> bytes | None:
    """Return the bytes of a mutex that no process has used yet; None where there are no robust mutexes.

    Programs with different bytes cannot share a mutex: they have other C libraries or other sizes of words.
    """
    if not _blank:
        made = _initialised()
        if made is not None:
            is_right = _test(made)
            if is_right is None:  # that passes, and is no answer to remember
                raise OSError(errno.EAGAIN, "no thread can be started, which the test of robust mutexes requires")
            made = made if is_right else None
        _blank.append(made)
    return _blank[0]


def _initialised() -> bytes | None:
    attributes = ctypes.create_string_buffer(64)
    mutex = ctypes.create_string_buffer(SIZE)
    calls: Any = _library
    try:
        failed = (
            None in [trylock, unlock, consistent, _timedlock]
            or calls.pthread_mutexattr_init(attributes)
            or calls.pthread_mutexattr_setpshared(attributes, _PROCESS_SHARED)
            or calls.pthread_mutexattr_setrobust(attributes, _ROBUST)
            or calls.pthread_mutexattr_settype(attributes, _ERROR_CHECK)
            or calls.pthread_mutex_init(mutex, attributes)
        )
    except AttributeError:  # another C library
        return None
    return None if failed or any(mutex.raw[LARGEST:]) else mutex.raw


def _test(made: bytes) -> bool | None:
    """Whether a mutex works as it has to; None if that cannot be tested now."""
    memory = ctypes.create_string_buffer(made, SIZE)
    word = ctypes.c_uint32.from_buffer(memory)
    mutex, thread = ctypes.c_void_p(ctypes.addressof(memory)), ctypes.c_ulong()
    try:
        if trylock(mutex) or word.value != get_native_id() or trylock(mutex) != errno.EDEADLK:
            return False
        if unlock(mutex) or unlock(mutex) != errno.EPERM or word.value:
            return False
        # A thread without Python, which does nothing but acquire the mutex.
        function = ctypes.cast(_library.pthread_mutex_lock, ctypes.c_void_p)
        if _library.pthread_create(ctypes.byref(thread), None, function, mutex):
            return None
        _library.pthread_join(thread, None)
        return trylock(mutex) == errno.EOWNERDEAD and not (consistent(mutex) or unlock(mutex) or trylock(mutex))
    finally:
        unlock(mutex)


def knows_this_thread() -> bool:
    """Whether the C library knows the id of this thread: not after a fork that it has not made (``clone(2)``)."""
    made = _blank[0] if _blank else None
    if made is None:
        return False
    memory = ctypes.create_string_buffer(made, SIZE)
    mutex = ctypes.c_void_p(ctypes.addressof(memory))
    trylock(mutex)
    thread = ctypes.c_uint32.from_buffer(memory).value & TID
    unlock(mutex)
    return thread == get_native_id()


def _after_fork() -> None:
    if _blank and not knows_this_thread():
        _blank[:] = [None]


forks.in_child.append(_after_fork)
