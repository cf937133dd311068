"""Waiting in the kernel up to a deadline, by calls of C that know of none.

A signal ends such a call, with ``EINTR``.  So a timer sends this thread one when the
time is up, and again every millisecond, since the first may come in the instant before
the thread sleeps.  Nobody wakes up before, and nobody is late.

Importing this imports `ctypes`, and raises `AttributeError` where the C library has no
timers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["call", "fcntl"]

_libc = ctypes.CDLL(None, use_errno=True)
fcntl = _libc.fcntl
_timer_create, _timer_settime, _timer_delete = _libc.timer_create, _libc.timer_settime, _libc.timer_delete
_NOTHING = ctypes.cast(_libc.abs, ctypes.c_void_p)  # a handler that does nothing, of an int: no Python runs in it

_SIGEV_THREAD_ID = 4  # Linux, as are the layouts below


class _Event(ctypes.Structure):
    """``struct sigevent``: what happens when a timer is up."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("how", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("padding", ctypes.c_byte * 64),
    )


class _Times(ctypes.Structure):
    """``struct itimerspec``: when, and how often again."""

    _fields_ = (
        ("again_seconds", ctypes.c_long),
        ("again_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
    )


def call(seconds: float, function: Callable[..., int], *arguments: object) -> bool:
    """Call until the result is 0 or the time is up, and return whether it was 0.

    `function` is one of ctypes that sets ``errno``.  Raises `OSError` for what it says,
    and `NotImplementedError` if there is no timer or no signal left to be had.
    """
    end = time.monotonic() + seconds
    number = _unused_signal()
    whole, rest = divmod(max(int(seconds * 1e9), 1), 10**9)  # 0 would stop the timer
    times = _Times(0, 10**6, whole, rest)
    event = _Event(None, number, _SIGEV_THREAD_ID, threading.get_native_id())
    timer = ctypes.c_ssize_t(-1)  # which is no timer's; 0 may be
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    try:
        if _timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
            raise NotImplementedError(os.strerror(ctypes.get_errno()))
        _timer_settime(timer, 0, ctypes.byref(times), None)
        while function(*arguments):
            code = ctypes.get_errno()
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))
            if time.monotonic() >= end:
                return False
        return True
    finally:
        if timer.value != -1:
            _timer_delete(timer)  # what it has sent is delivered when this returns
        if number in blocked:
            signal.pthread_sigmask(signal.SIG_BLOCK, {number})


_number: int | None = None


def _unused_signal() -> int:
    """A signal that interrupts and does nothing else: a real-time one that nobody here has a use for.

    Its handler stays; a program that later wants this very signal gets it, and we take another.
    """
    global _number  # noqa: PLW0603 -- once in a process
    number = _number
    if number is None or signal.getsignal(number) is not signal.SIG_DFL:
        number = _number = _last_without_handler()
    # Each time: who resets all signals, as some do after a fork, must not make ours deadly.
    _libc.signal(number, _NOTHING)
    signal.siginterrupt(number, True)  # noqa: FBT003
    return number


def _last_without_handler() -> int:
    taken = 0
    try:
        with open("/proc/self/status", "rb") as file:  # signal.getsignal() knows only those of Python
            for line in file:
                if line.startswith((b"SigIgn:", b"SigCgt:")):
                    taken |= int(line[7:], 16)
    except OSError as error:
        raise NotImplementedError(str(error)) from None
    for number in range(signal.SIGRTMAX, signal.SIGRTMIN - 1, -1):
        if not taken >> (number - 1) & 1:
            return number
    raise NotImplementedError("every real-time signal is in use")
