"""What the C library offers and Python does not: unnamed semaphores to copy from, System V semaphores, ``syscall``.

Importing this imports `ctypes`.  The functions are called with ready-made C values:
declared argument types would cost half as much again as the call itself.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = [
    "GETVAL",
    "IPC_CREAT",
    "IPC_EXCL",
    "IPC_NOWAIT",
    "IPC_RMID",
    "IPC_SET",
    "IPC_STAT",
    "SEM_UNDO",
    "SETVAL",
    "Operation",
    "SetInfo",
    "Timespec",
    "create_semaphore",
    "failure",
    "get_errno",
    "new_semaphore",
    "open_semaphore",
    "semctl",
    "semget",
    "semop",
    "semop_at_once",
    "semtimedop",
    "syscall",
]

_libc = ctypes.CDLL(None, use_errno=True)
get_errno = ctypes.get_errno
syscall = _libc.syscall

# <sys/ipc.h>, <sys/sem.h> of Linux, the same on every architecture, and of macOS.
IPC_CREAT, IPC_EXCL, IPC_NOWAIT = 0o1000, 0o2000, 0o4000
IPC_RMID, IPC_SET, IPC_STAT = 0, 1, 2
GETVAL, SETVAL = (12, 16) if sys.platform == "linux" else (5, 8)
SEM_UNDO = 0x1000


class Operation(ctypes.Structure):
    """``struct sembuf``: what `semop` does to one semaphore of a set."""

    _fields_ = (("number", ctypes.c_ushort), ("add", ctypes.c_short), ("flags", ctypes.c_short))


class Timespec(ctypes.Structure):
    """``struct timespec``."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class SetInfo(ctypes.Structure):
    """``struct semid_ds``, of which only the beginning is the same on every architecture."""

    if sys.platform == "linux":
        _fields_ = (
            ("key", ctypes.c_int),
            ("owner", ctypes.c_uint),
            ("group", ctypes.c_uint),
            ("creator", ctypes.c_uint),
            ("creators_group", ctypes.c_uint),
            ("mode", ctypes.c_uint),
            ("rest", ctypes.c_long * 32),
        )
    else:
        _fields_ = (
            ("owner", ctypes.c_uint),
            ("group", ctypes.c_uint),
            ("creator", ctypes.c_uint),
            ("creators_group", ctypes.c_uint),
            ("mode", ctypes.c_ushort),
            ("sequence", ctypes.c_ushort),
            ("key", ctypes.c_int),
            ("rest", ctypes.c_long * 32),
        )


semget = _libc.semget
semop = _libc.semop
# Keeps the GIL and no errno: for what cannot block, and that is half the price.  (PyPy has only the other kind.)
semop_at_once = getattr(ctypes, "PyDLL", ctypes.CDLL)(None).semop
semtimedop = getattr(_libc, "semtimedop", None)  # macOS has none
semctl = _libc.semctl
semctl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int)  # what follows is variadic

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
    """Return the address of a new ``sem_t``, made exclusively."""
    address: int = _sem_open(path, os.O_CREAT | os.O_EXCL, ctypes.c_uint(perm), ctypes.c_uint(value))
    if address in {0, -1}:
        raise failure()
    return address


def failure() -> OSError:
    """What the last call of this thread ended with."""
    number = get_errno()
    return OSError(number, os.strerror(number))
