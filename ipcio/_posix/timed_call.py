"""Waiting in the kernel up to a deadline, by calls of C that know of none.

A signal ends such a call, with ``EINTR``.  So a timer sends this thread one when the
time is up, and again every millisecond, since the first may come in the instant before
the thread sleeps.  Nobody wakes up before, and nobody is late.

The signal is ``SIGURG``: hardly anybody has a use for it, the system ignores it where it
has no handler, and debuggers pass it on.  (Go stops its threads with it, for these
reasons.)  Its handler is a function of C that does nothing, and stays.

Importing this imports `ctypes`, and raises `AttributeError` where the C library has no
timers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from _thread import get_native_id  # threading's own, without importing threading

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from signal import SIG_BLOCK, SIG_IGN, SIGURG, pthread_sigmask, siginterrupt
else:
    from _signal import SIG_BLOCK, SIG_IGN, SIGURG, pthread_sigmask, siginterrupt  # signal's own, without its enums

__all__ = ["NoTimer", "call", "fcntl"]

_libc = ctypes.CDLL(None, use_errno=True)
fcntl = _libc.fcntl
_timer_create, _timer_settime, _timer_delete = _libc.timer_create, _libc.timer_settime, _libc.timer_delete

_SIGNAL = SIGURG
_NOTHING = ctypes.cast(_libc.abs, ctypes.c_void_p)  # takes an int, as handlers do

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


class _Action(ctypes.Structure):
    """``struct sigaction``, of which only the beginning is nearly the same everywhere."""

    _fields_ = (("handler", ctypes.c_void_p), ("rest", ctypes.c_byte * 248))


class NoTimer(Exception):  # noqa: N818 -- nothing is wrong: there are other ways
    """There is no timer to be had, or the signal is somebody else's; nothing was called."""


def call(seconds: float, function: Callable[..., int], *arguments: object) -> bool:
    """Call until the result is 0 or the time is up, and return whether it was 0.

    `function` is one of ctypes that sets ``errno``.  Raises `OSError` for what it says,
    and `NoTimer`.
    """
    end = time.monotonic() + seconds
    _prepare_signal()
    whole, rest = divmod(max(int(seconds * 1e9), 1), 10**9)  # 0 would stop the timer
    times = _Times(0, 10**6, whole, rest)
    event = _Event(None, _SIGNAL, _SIGEV_THREAD_ID, get_native_id())
    timer = ctypes.c_ssize_t(-1)  # which is no timer's; 0 may be
    try:
        if _timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
            raise NoTimer(os.strerror(ctypes.get_errno()))
        if _timer_settime(timer, 0, ctypes.byref(times), None):  # in a sandbox; nothing would end the wait
            raise NoTimer(os.strerror(ctypes.get_errno()))
        while function(*arguments):
            code = ctypes.get_errno()
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))
            if time.monotonic() >= end:
                return False
        return True
    finally:
        if timer.value != -1:
            _timer_delete(timer)


def _prepare_signal() -> None:
    """See to it that the signal interrupts and does nothing else, unless somebody has a use for it."""
    if _SIGNAL in pthread_sigmask(SIG_BLOCK, ()):
        raise NoTimer("SIGURG is blocked")
    present = _Action()
    _libc.sigaction(_SIGNAL, None, ctypes.byref(present))  # signal.getsignal() knows only handlers in Python
    if present.handler == _NOTHING.value:
        return
    if present.handler not in {None, SIG_IGN}:
        raise NoTimer("SIGURG has a handler")
    _libc.signal(_SIGNAL, _NOTHING)
    siginterrupt(_SIGNAL, True)
