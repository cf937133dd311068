"""What macOS lacks of calls and of ``/proc``, and the one call that it has instead."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys

import objects  # noqa: F401 -- what is done here goes above that
from view import hide, put, view

hide("select", *(name for name in dir(view("select")._real) if name.lower().startswith("epoll")))
hide("os", "pidfd_open", "waitid", "posix_fallocate")
hide("fcntl", "F_OFD_GETLK", "F_OFD_SETLK", "F_OFD_SETLKW", "F_SETPIPE_SZ", "F_GETPIPE_SZ")
hide("signal", "pidfd_send_signal")
for name in ("read", "write"):  # no Python in what is to be one call of C: an interrupt in it would lose what it did
    put("os", name, getattr(os, name))

# -- the C library -----------------------------------------------------------

LIBRARY = {"semtimedop", "timer_create", "timer_delete", "timer_settime"}
LIBRARY |= {"pthread_mutex_consistent", "pthread_mutex_timedlock", "pthread_mutexattr_setrobust"}


def without(kind):
    class Library(kind):
        def __getattr__(self, name):
            if name in LIBRARY:
                raise AttributeError(f"no symbol {name} here")
            return super().__getattr__(name)

    return Library


put("ctypes", "CDLL", without(ctypes.CDLL))
put("ctypes", "PyDLL", without(ctypes.PyDLL))

# No machine for which ipcio knows the number of futex(2).
put("os", "uname", lambda: os.uname_result(("Darwin", "here", "23", "", "arm64")))

# -- /proc -------------------------------------------------------------------


def blind(module, name, *, answers=True):
    """Have ipcio find nothing under /proc by that function: an error, or the answer False."""
    above = vars(view(module)).get(name)

    def function(path, *rest, **options):
        if isinstance(path, (str, bytes)) and f"{os.fsdecode(path)}/".startswith("/proc/"):
            if answers:
                return False
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return (above or getattr(sys.modules[module], name))(path, *rest, **options)

    put(module, name, function)


for name in ("link", "listdir", "lstat", "open", "readlink", "scandir", "stat"):
    blind("os", name, answers=False)
blind("builtins", "open", answers=False)
blind("os", "access")
for name in ("exists", "isdir", "isfile", "lexists"):
    blind("posixpath", name)
put("os", "path", view("posixpath"))

F_GETPATH = 50


def call_fcntl(fd, command, *argument):
    """With the command of macOS that returns the path of a descriptor: 1024 bytes, the rest zeros."""
    if command != F_GETPATH:
        return fcntl.fcntl(fd, command, *argument)
    path = os.fsencode(os.readlink(f"/proc/self/fd/{fd}"))
    if not path.startswith(b"/"):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return path.ljust(len(argument[0]), b"\0")


put("fcntl", "F_GETPATH", F_GETPATH)
put("fcntl", "fcntl", call_fcntl)
