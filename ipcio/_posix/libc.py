"""What the C library offers and Python does not, with the layouts of its structures on each system.

Importing this imports `ctypes`.  The functions are called with ready-made C values:
declared argument types would cost half as much again as the call itself.
"""

from __future__ import annotations

import ctypes
import os
import sys

from ipcio._posix import undecided
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
get_errno = ctypes.get_errno


def failure() -> OSError:
    """Return the error of this thread's last call."""
    number = get_errno()
    return OSError(number, os.strerror(number))


# -- System V semaphores -----------------------------------------------------

# <sys/sem.h> and <sys/ipc.h>; the same on every architecture of a system.
if sys.platform == "linux":
    GETVAL, SETVAL = 12, 16
    _PERMISSIONS = (
        ("key", ctypes.c_int),
        ("owner", ctypes.c_uint),
        ("group", ctypes.c_uint),
        ("creator", ctypes.c_uint),
        ("creators_group", ctypes.c_uint),
        ("mode", ctypes.c_uint),
    )
elif sys.platform == "darwin":
    GETVAL, SETVAL = 5, 8
    _PERMISSIONS = (
        ("owner", ctypes.c_uint),
        ("group", ctypes.c_uint),
        ("creator", ctypes.c_uint),
        ("creators_group", ctypes.c_uint),
        ("mode", ctypes.c_ushort),
        ("sequence", ctypes.c_ushort),
        ("key", ctypes.c_int),
    )
else:
    raise undecided("what are the constants and the structures of semctl()")
IPC_CREAT, IPC_EXCL, IPC_NOWAIT = 0o1000, 0o2000, 0o4000
IPC_RMID, IPC_SET, IPC_STAT = 0, 1, 2
SEM_UNDO = 0x1000


class Operation(ctypes.Structure):
    """``struct sembuf``: what `semop` does to one semaphore of a set."""

    _fields_ = (("number", ctypes.c_ushort), ("add", ctypes.c_short), ("flags", ctypes.c_short))


class Timespec(ctypes.Structure):
    """``struct timespec``."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class SetInfo(ctypes.Structure):
    """``struct semid_ds``, which begins with ``struct ipc_perm``; the rest differs by architecture."""

    _fields_ = (*_PERMISSIONS, ("rest", ctypes.c_long * 32))


semget = _libc.semget
semop = _libc.semop
# Keeps the GIL and no errno: for what cannot block, and that is half the price.  (PyPy has only the other kind.)
semop_at_once = getattr(ctypes, "PyDLL", ctypes.CDLL)(None).semop
semtimedop = getattr(_libc, "semtimedop", None)  # macOS does not have it
semctl = _libc.semctl
semctl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int)  # what follows is variadic


# -- semaphores of POSIX -----------------------------------------------------

_sem_init = _libc.sem_init
_sem_open = _libc.sem_open
_sem_open.argtypes = (ctypes.c_char_p, ctypes.c_int)  # what follows is variadic
_sem_open.restype = ctypes.c_ssize_t  # not c_void_p: SEM_FAILED would become None


def new_semaphore(size: int, value: int) -> bytes:
    """Return the bytes of a ``sem_t`` for use between processes (``sem_init(3)``)."""
    memory = ctypes.create_string_buffer(size)
    if _sem_init(memory, 1, ctypes.c_uint(value)):
        raise failure()
    return memory.raw


def open_semaphore(path: bytes) -> int:
    """Return the address of an existing ``sem_t`` (``sem_open(3)``)."""
    address: int = _sem_open(path, 0)
    if address in {0, -1}:
        raise failure()
    return address


def create_semaphore(path: bytes, perm: int, value: int) -> int:
    """Return the address of a new ``sem_t``, created exclusively."""
    address: int = _sem_open(path, os.O_CREAT | os.O_EXCL, ctypes.c_uint(perm), ctypes.c_uint(value))
    if address in {0, -1}:
        raise failure()
    return address


# -- timers, and the signal that they send -----------------------------------

# Linux can send a timer's signal to one thread.  On other systems these names mean None.
timer_create: Any = getattr(_libc, "timer_create", None) if sys.platform == "linux" else None
timer_settime: Any = getattr(_libc, "timer_settime", None) if sys.platform == "linux" else None
timer_delete: Any = getattr(_libc, "timer_delete", None) if sys.platform == "linux" else None

# What follows is as <signal.h> and <time.h> of Linux have it.
SIGEV_THREAD_ID = 4


class SignalEvent(ctypes.Structure):
    """``struct sigevent``: what happens when a timer expires."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("how", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("padding", ctypes.c_byte * 64),
    )


class TimerTimes(ctypes.Structure):
    """``struct itimerspec``: when a timer expires, and how often again."""

    _fields_ = (
        ("again_seconds", ctypes.c_long),
        ("again_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
    )


class SignalAction(ctypes.Structure):
    """``struct sigaction``, of which only the beginning is nearly the same everywhere."""

    _fields_ = (("handler", ctypes.c_void_p), ("rest", ctypes.c_byte * 248))


sigaction, signal = _libc.sigaction, _libc.signal
DO_NOTHING = ctypes.cast(_libc.abs, ctypes.c_void_p)  # a handler in C: it requires an int, as handlers do


# -- open files --------------------------------------------------------------

fcntl = _libc.fcntl
syscall = _libc.syscall

# kcmp(2) has no function in the C library, and a number of its own on each architecture of Linux.
_KCMP = {"x86_64": 312, "i686": 349, "aarch64": 272, "riscv64": 272, "armv7l": 378, "ppc64le": 354, "s390x": 343}
_KCMP_FILE = 0


def may_share_open_file(fd: int, pid: int, descriptor: int) -> bool:
    """Whether a process's descriptor may mean the same open file as `fd`, as after ``dup`` or ``fork``.

    True if that cannot be known.
    """
    number = _KCMP.get(os.uname().machine) if sys.platform == "linux" else None
    if number is None:
        return True
    order = syscall(number, os.getpid(), pid, _KCMP_FILE, fd, descriptor)
    return order in {0, -1}  # -1: containers may forbid the question
