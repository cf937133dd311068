"""The 32-bit words of an object: changed, and waited for, by processes that share nothing else.

On Linux a word is a *futex* (``futex(2)``).  The kernel changes the word and wakes the waiting
processes in one call, ``FUTEX_WAKE_OP``.  So a process cannot be killed between the two, and no
lock is needed.  Python has no function for that call, and neither has the C library.  It is made
by its number, which depends on the machine.  A test in private memory decides whether it works.
Elsewhere the processes that wait look again and again (`ipcio._words`).

The words of an object that another user may write to are read and changed by calls that fail if
the file was cut short (`ipcio._tuples.OpenObject`).  The kernel's futex calls are such calls:
they fail with ``EFAULT``.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from itertools import repeat, starmap

from ipcio._forklock import fork_lock
from ipcio._light import cache, lru_cache, partial
from ipcio._posix.futex import futex_number
from ipcio._timeouts import now
from ipcio._typing import TYPE_CHECKING
from ipcio._words import PolledWords, WordsInMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ipcio._backend.parts import Words
    from ipcio._tuples import OpenObject
    from ipcio._words import Access

_SLICE = 0.15  # seconds that one call waits: a signal that comes right before the call does not end it
_SIZE = 4  # bytes of a word
_MOST = 2**31 - 1  # how many are woken at once

# <linux/futex.h>
_WAIT, _WAKE_OP = 0, 5
_SET, _ADD, _CLEAR = 0, 1, 3  # what _WAKE_OP does to the word
_IF_WAS = 0x800  # its comparison: with a value that no word of ours has, for this is to wake no more processes

_LARGEST = 0x7FF  # of its arguments, which have 12 bits and a sign

_long: Callable[[int], Any] = ctypes.c_long
_ZERO, _ONE, _ALL = map(ctypes.c_long, (0, 1, _MOST))
_LONG_WAIT, _LONG_WAKE_OP = map(ctypes.c_long, (_WAIT, _WAKE_OP))  # made once: that costs time
_nobody = ctypes.c_uint32()  # a word for which no process waits
_NOBODY = ctypes.c_long(ctypes.addressof(_nobody))


class _Address(ctypes.c_long):
    """The address of a word, which keeps the memory mapped."""

    memory: object


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimeArgument(ctypes.c_long):
    """The address of a time, which keeps it."""

    time: _Timespec


@lru_cache(16)  # most waits are as long as others
def _timespec(seconds: float) -> _TimeArgument:
    """Return the argument for a wait of less than a second."""
    time = _Timespec(0, int(seconds * 1e9))
    argument = _TimeArgument(ctypes.addressof(time))
    argument.time = time
    return argument


@cache
def _futex() -> Callable[..., int] | None:
    """Return the call, for six arguments of the type ``c_long``; None where it does not do what is needed."""
    number = futex_number()
    call: Any = None if number is None else getattr(ctypes.CDLL(None, use_errno=True), "syscall", None)
    if number is None or call is None:
        return None
    call.restype = ctypes.c_long
    futex = partial(call, ctypes.c_long(number))
    with mmap.mmap(-1, mmap.PAGESIZE) as memory:
        word = ctypes.c_uint32.from_buffer(memory)
        at = ctypes.c_long(ctypes.addressof(word))
        steps = _operation(_SET, 13), _operation(_ADD, 30), _operation(_CLEAR, 1)
        works = (
            [futex(at, _long(_WAKE_OP), _long(1), _ZERO, at, each) for each in steps] == [0, 0, 0]
            and word.value == (13 + 30) & ~1
            and futex(at, _long(_WAIT), _long(41), _ZERO, _ZERO, _ZERO) == -1
            and ctypes.get_errno() == errno.EAGAIN
        )
        del word
    return futex if works else None


@cache
def _operation(kind: int, argument: int) -> ctypes.c_long:
    """Return the last argument of FUTEX_WAKE_OP; the one of the operation is 0 to 2047."""
    if not 0 <= argument <= _LARGEST:
        raise ValueError(f"0 to 2047, not {argument}")
    return ctypes.c_long(kind << 28 | argument << 12 | _IF_WAS)


def make_words(opened: OpenObject, /) -> Words:
    """Return the words of an object."""
    access = WordsInMemory(opened.memory) if opened.trusted else _WordsInFile(opened)
    futex = _futex()
    return PolledWords(access) if futex is None else _Futexes(access, opened, futex)


class _WordsInFile:
    """Words that are read and written through the descriptor, as long as it is that of the object."""

    __slots__ = ("_fd", "_info", "_name")

    def __init__(self, opened: OpenObject) -> None:
        self._fd = opened.fd
        self._name = opened.name
        self._info = os.fstat(opened.fd)

    def load(self, at: int, /) -> int:
        """Return the word."""
        with fork_lock:
            self._check(at)
            try:
                data = os.pread(self._fd, _SIZE, at)
            except OSError as error:
                error.filename = self._name
                raise
        if len(data) < _SIZE:
            raise cut_short(self._name)
        return int.from_bytes(data, sys.byteorder)

    def store(self, at: int, value: int, /) -> None:
        """Change the word."""
        with fork_lock:
            self._check(at)
            os.pwrite(self._fd, value.to_bytes(_SIZE, sys.byteorder), at)

    def _check(self, at: int) -> None:
        """Raise an error unless the descriptor is that of the object, and the word is there."""
        try:
            info = os.fstat(self._fd)
        except OSError as error:
            if error.errno != errno.EBADF:
                error.filename = self._name
                raise
            info = None
        if info is None or not os.path.samestat(info, self._info):
            raise ValueError(f"I/O operation on closed file: {self._name!r}")
        if info.st_size < at + _SIZE:
            raise cut_short(self._name)


def cut_short(name: str) -> OSError:
    """Return the error of an object that another process has cut short."""
    return OSError(errno.EFAULT, "another process has truncated the object", name)


class _Futexes:
    """Words of which the kernel knows the waiting processes; the methods are those of `ipcio._backend.parts.Words`."""

    __slots__ = ("_address", "_futex", "_load", "_longs", "_memory", "_name", "_store")

    _load: Callable[[int], int]
    _store: Callable[[int, int], None]

    def __init__(self, access: Access, opened: OpenObject, futex: Callable[..., int]) -> None:
        self._load, self._store = access.load, access.store
        self._memory = ctypes.c_uint32.from_buffer(opened.memory)  # which keeps all of it
        self._address = ctypes.addressof(self._memory)
        self._name = opened.name
        self._futex = futex
        self._longs: dict[int, ctypes.c_long] = {}  # the addresses of words

    def _long(self, at: int) -> ctypes.c_long:
        return self._longs.setdefault(at, ctypes.c_long(self._address + at))

    def load(self, at: int, /) -> int:
        """Return the word."""
        return self._load(at)

    def store(self, at: int, value: int, /) -> None:
        """Change the word."""
        self._store(at, value)

    def set_and_wake(self, at: int, value: int, /) -> None:
        """Change the word and wake all in one call."""
        self._change(at, _operation(_SET, value))

    def add_and_wake(self, at: int, number: int, /) -> None:
        """Add to the word and wake all in one call."""
        self._change(at, _operation(_ADD, number))

    def _change(self, at: int, operation: ctypes.c_long) -> None:
        word = self._longs.get(at) or self._long(at)
        if self._futex(word, _LONG_WAKE_OP, _ALL, _ZERO, word, operation) < 0:
            raise self._failure()

    def clear_bits(self, at: int, bits: int, /) -> None:
        """Clear bits of the word in one call."""
        # The kernel wakes at least one process.  So it is asked to wake those that wait for another word.
        word = self._longs.get(at) or self._long(at)
        if self._futex(_NOBODY, _LONG_WAKE_OP, _ONE, _ZERO, word, _operation(_CLEAR, bits)) < 0:
            raise self._failure()

    def ringing(self, at: int, /) -> Iterator[object]:
        """Add and wake in one call."""
        word = _Address(self._address + at)
        word.memory = self._memory
        return starmap(self._futex, repeat((word, _long(_WAKE_OP), _long(_MOST), _ZERO, word, _operation(_ADD, 1))))

    def wait(self, at: int, expected: int, seconds: float | None, /) -> bool:
        """Wait in slices, so that a signal handler can run in between."""
        futex = self._futex
        word = self._longs.get(at) or self._long(at)
        value = _long(expected)
        end = None if seconds is None else now() + seconds
        left = seconds
        while left is None or left > 0:
            time = _timespec(_SLICE if left is None or left > _SLICE else left)
            if futex(word, _LONG_WAIT, value, time, _ZERO, _ZERO) == 0:
                return True
            number = ctypes.get_errno()
            if number == errno.EAGAIN:
                return True
            if number not in {errno.ETIMEDOUT, errno.EINTR}:
                raise self._failure()
            left = None if end is None else end - now()
        return self.load(at) != expected

    def _failure(self) -> OSError:
        number = ctypes.get_errno()
        return cut_short(self._name) if number == errno.EFAULT else OSError(number, os.strerror(number), self._name)
