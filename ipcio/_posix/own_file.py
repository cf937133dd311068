"""An object, opened once more by this process alone, for locks that last as long as the process.

A lock of an open file (`ipcio._posix.filelock`) is released with the last copy of the description.  So a forked child
opens a description of its own, and closes its copy of that of its parent.
"""

from __future__ import annotations

import errno
import os

from ipcio._forklock import fork_lock
from ipcio._light import WeakValueDictionary
from ipcio._posix import filelock, forks, namespace
from ipcio._record import calling

_OF_FILE = filelock.SEMANTICS == "open file"
_BYTES_OF_AN_OBJECT = 4096  # of the file that all locks are on, where that is another one
_MOST_OBJECTS = 1 << 50

_files: WeakValueDictionary[tuple[int, int], OwnFile] = WeakValueDictionary()


def of(fd: int, path: str, name: str) -> OwnFile:
    """Under `fork_lock`: return the one of the object that is open as `fd`, and has or had the path."""
    info = os.fstat(fd)
    key = info.st_dev, info.st_ino
    found = _files.get(key)
    if found is None:
        found = _files[key] = OwnFile(fd, path, name)
    return found


class OwnFile:
    """An object, opened once more, for all of its locks."""

    __slots__ = ("__weakref__", "_common", "_fd", "_info", "_name", "_path", "first")

    def __init__(self, fd: int, path: str, name: str) -> None:
        self._fd = -1
        self._info = os.fstat(fd)
        self._path = path
        self._name = name  # for errors
        self.first = 0 if _OF_FILE else self._info.st_ino % _MOST_OBJECTS * _BYTES_OF_AN_OBJECT
        self._common = _common_file()
        try:
            self._fd = open_again(fd, path, self._info)
        except PermissionError:  # its creator denied it to themselves; then no other handle has it open, either
            self._fd = os.dup(fd)

    def descriptor(self) -> int:
        """Return the descriptor that the locks are on; `OSError` if the program has closed it."""
        forks.this_process()  # after a fork in C, that calls `_after_fork`
        if self._common is not None:
            return self._common.descriptor()
        return self.data(-1)

    def data(self, fd: int) -> int:
        """Return the descriptor of the object; `fd` is what `descriptor` has just returned."""
        if _OF_FILE and fd >= 0:
            return fd
        if self._fd < 0 or not _is(self._fd, self._info):
            raise OSError(errno.EBADF, "this process can no longer open the object: attach to it again", self._name)
        return self._fd

    def read(self, fd: int, offset: int, size: int) -> bytes:
        """Read from the object; `OSError` if it was cut short."""
        data = os.pread(self.data(fd), size, offset)
        if len(data) < size:
            raise OSError(errno.EFAULT, "another process has truncated the object", self._name)
        return data

    def renew(self) -> None:
        """In a forked process: open a description of its own, and close the copy."""
        copy, self._fd = self._fd, -1
        if copy >= 0 and _is(copy, self._info):
            try:
                self._fd = open_again(copy, self._path, self._info)
            except OSError:  # this process has given up its rights; `data` says so
                pass
            os.close(copy)

    def __del__(self) -> None:
        if self._fd >= 0 and _is(self._fd, self._info):
            os.close(self._fd)


def open_again(fd: int, path: str, info: os.stat_result) -> int:
    """Open the object that is open as `fd`, and has or had this path, once more, to read and write."""
    for known, flags in (f"/proc/self/fd/{fd}", 0), (path, os.O_NOFOLLOW):
        opened, is_it = -1, False
        try:
            for opened in calling(os.open, known, flags | os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC):  # noqa: B007
                pass
            is_it = _is(opened, info)
        except FileNotFoundError:
            continue
        finally:
            if opened >= 0 and not is_it:
                os.close(opened)
        if is_it:
            return opened
    raise OSError(
        errno.ENOENT, "the object has no name any longer, and /proc is missing, through which it is opened again"
    )


def _is(fd: int, info: os.stat_result) -> bool:
    """Whether `fd` is that file: a program may close all descriptors, and the numbers then mean other files."""
    try:
        return os.path.samestat(os.fstat(fd), info)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        return False


class _CommonFile:
    """The file that the locks of all objects are on, where locks belong to a process.

    A process loses all its locks on a file when it closes any descriptor of it.  So this one is open as long
    as any `OwnFile` is, and an object's file would not do.
    """

    __slots__ = ("__weakref__", "_fd", "_info")

    def __init__(self) -> None:
        self._fd = -1
        self._info: os.stat_result | None = None

    def descriptor(self) -> int:
        if not self._is_open():
            with fork_lock:  # of two threads, one opens it: the other descriptor could not be closed again
                if not self._is_open():
                    self._open()
        return self._fd

    def _open(self) -> None:
        if self._fd < 0 or self._info is not None:
            self._info = None
            # With this mode it is not taken for an orphaned object.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            path = f"{namespace.directory()}/.locks"
            for self._fd in calling(os.open, path, flags, 0o600 | namespace.PERSISTENT):
                pass
        self._info = os.fstat(self._fd)

    def _is_open(self) -> bool:
        info = self._info
        return info is not None and _is(self._fd, info)

    def __del__(self) -> None:
        if self._is_open():
            os.close(self._fd)


_common: WeakValueDictionary[str, _CommonFile] = WeakValueDictionary()


def _common_file() -> _CommonFile | None:
    """Return the file for all locks; None where each object has its own."""
    if _OF_FILE:
        return None
    if namespace.NAMES_ARE_FILES:
        text = "this object requires locks of open files (Linux 3.15), as other users may write to it"
        raise NotImplementedError(text)
    return _common.setdefault("it", _CommonFile())


def _after_fork() -> None:
    for file in list(_files.values()):
        file.renew()


forks.in_child.append(_after_fork)
