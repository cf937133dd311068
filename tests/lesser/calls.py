"""What macOS lacks of calls and of ``/proc``, and the one call that it has instead."""

from __future__ import annotations

import builtins
import ctypes
import errno
import fcntl
import os

from view import hide, put, view

hide("select", *(name for name in dir(view("select")._real) if name.lower().startswith("epoll")))
hide("os", "pidfd_open", "waitid", "posix_fallocate")
hide("fcntl", "F_OFD_GETLK", "F_OFD_SETLK", "F_OFD_SETLKW", "F_SETPIPE_SZ", "F_GETPIPE_SZ")
hide("signal", "pidfd_send_signal")

# -- the C library -----------------------------------------------------------

LIBRARY = {"semtimedop", "timer_create", "timer_delete", "timer_settime"}


def without(kind):
    class Library(kind):
        def __getattr__(self, name):
            if name in LIBRARY:
                raise AttributeError(f"no symbol {name} here")
            return super().__getattr__(name)

    return Library


put("ctypes", "CDLL", without(ctypes.CDLL))
put("ctypes", "PyDLL", without(ctypes.PyDLL))

# -- /proc -------------------------------------------------------------------


def blind(module, name):
    """A function that finds nothing under /proc."""

    def function(path, *rest, **options):
        if isinstance(path, (str, bytes)) and f"{os.fsdecode(path)}/".startswith("/proc/"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return getattr(module, name)(path, *rest, **options)

    return function


def blind_look(name):
    """The like of ``os.path``, which answers False."""
    ask = blind(os.path, name)

    def look(path):
        try:
            return ask(path)
        except FileNotFoundError:
            return False

    return look


for name in ("access", "link", "listdir", "lstat", "open", "readlink", "scandir", "stat"):
    put("os", name, blind(os, name))
put("builtins", "open", blind(builtins, "open"))
for name in ("exists", "isdir", "isfile", "lexists"):
    put("posixpath", name, blind_look(name))
put("os", "path", view("posixpath"))

F_GETPATH = 50


def call_fcntl(fd, command, *argument):
    """With the command of macOS that tells the path of a descriptor: 1024 bytes, the rest zeros."""
    if command != F_GETPATH:
        return fcntl.fcntl(fd, command, *argument)
    path = os.fsencode(os.readlink(f"/proc/self/fd/{fd}"))
    if not path.startswith(b"/"):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return path.ljust(len(argument[0]), b"\0")


put("fcntl", "F_GETPATH", F_GETPATH)
put("fcntl", "fcntl", call_fcntl)
