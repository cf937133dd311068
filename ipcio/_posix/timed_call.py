"""A call of C that waits in the kernel, and has no timeout of its own, with a timeout.

A signal ends such a call, with ``EINTR``.  So a timer sends one to this thread when the
time is up, and again every millisecond, because the first may come in the instant before
the thread sleeps.  The wait uses no processor time, and is over at the right moment.

The signal is ``SIGURG``: hardly any program handles it, the system ignores it where it
has no handler, and debuggers pass it on.  (Go stops its threads with it, for these
reasons.)  Its handler is a function of C that does nothing, and stays.

Importing this imports `ctypes`, and raises `ImportError` where the C library has no timer
that sends a signal to one thread.
"""

from __future__ import annotations

import errno
import os
import time
from _thread import get_native_id  # threading's own, without importing threading
from ctypes import byref, c_ssize_t

from ipcio._posix import libc
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from signal import SIG_BLOCK, SIG_IGN, SIGURG, pthread_sigmask, siginterrupt
else:
    from _signal import SIG_BLOCK, SIG_IGN, SIGURG, pthread_sigmask, siginterrupt  # signal's own, without its enums

_timer_create, _timer_settime, _timer_delete = libc.timer_create, libc.timer_settime, libc.timer_delete
if not (_timer_create and _timer_settime and _timer_delete):
    raise ImportError("the C library has no timers that send a signal to one thread")

_SIGNAL = SIGURG


class NoTimer(Exception):  # noqa: N818 -- nothing is wrong: there are other ways
    """No timer is available, or another part of the program uses the signal; nothing was called."""


def call(seconds: float, function: Callable[..., int], *arguments: object) -> bool:
    """Call until the result is 0 or the time is up, and return whether it was 0.

    `function` is one of ctypes that sets ``errno``.  Raises `OSError` for its error, and `NoTimer`.
    """
    end = time.monotonic() + seconds
    _prepare_signal()
    whole, rest = divmod(max(int(seconds * 1e9), 1), 10**9)  # 0 would stop the timer
    times = libc.TimerTimes(0, 10**6, whole, rest)
    event = libc.SignalEvent(None, _SIGNAL, libc.SIGEV_THREAD_ID, get_native_id())
    timer = c_ssize_t(-1)  # which is no timer's; 0 may be
    try:
        if _timer_create(time.CLOCK_MONOTONIC, byref(event), byref(timer)):
            raise NoTimer(os.strerror(libc.get_errno()))
        if _timer_settime(timer, 0, byref(times), None):  # in a sandbox; nothing would end the wait
            raise NoTimer(os.strerror(libc.get_errno()))
        while function(*arguments):
            code = libc.get_errno()
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))
            if time.monotonic() >= end:
                return False
        return True
    finally:
        if timer.value != -1:
            _timer_delete(timer)


def _prepare_signal() -> None:
    """Have the signal interrupt and do nothing else; `NoTimer` if another part of the program uses it."""
    if _SIGNAL in pthread_sigmask(SIG_BLOCK, ()):
        raise NoTimer("SIGURG is blocked")
    present = libc.SignalAction()
    libc.sigaction(_SIGNAL, None, byref(present))  # signal.getsignal() knows only handlers in Python
    if present.handler == libc.DO_NOTHING.value:
        return
    if present.handler not in {None, SIG_IGN}:
        raise NoTimer("SIGURG has a handler")
    libc.signal(_SIGNAL, libc.DO_NOTHING)
    siginterrupt(_SIGNAL, True)
