"""Locks on ranges of a file: of the open file if the kernel offers those, otherwise of the process."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys

from ipcio._light import partial
from ipcio._posix import procfs, undecided
from ipcio._timeouts import poll
from ipcio._tuples import Conflict
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Literal

    from ipcio._tuples import Owner

SHARE, EXCLUDE, UNLOCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK

# struct flock: type, whence, start, length (0: to infinity), pid (0 for locks of an open
# file), in the order and with the padding of each system.  In a request, only type, start and
# length are not 0.
#
# POSIX allows EAGAIN and EACCES for a conflict.  On Linux it is EAGAIN, and EACCES comes from a
# security module.
if sys.platform == "linux":
    _ANSWER = struct.Struct("hhqqi0q")
    _KIND, _START, _LENGTH, _PID = 0, 2, 3, 4
    # Function and method of C: see `ipcio._backend.filelock.LockBackend`.
    request = struct.Struct("hqq4x0q").pack
    BUSY: tuple[type[OSError], ...] = (BlockingIOError,)
elif sys.platform == "darwin":
    _ANSWER = struct.Struct("qqihh")
    _KIND, _START, _LENGTH, _PID = 3, 0, 1, 2
    BUSY: tuple[type[OSError], ...] = (BlockingIOError, PermissionError)

    def request(kind: int, start: int, length: int, /) -> bytes:
        return _ANSWER.pack(start, length, 0, kind, 0)

else:
    raise undecided("what is the layout of struct flock, and which errors of fcntl() mean that a lock conflicts")


ask = fcntl.fcntl

_OFD_GET = getattr(fcntl, "F_OFD_GETLK", None)


def _has_ofd() -> bool:
    """Whether this kernel has open-file-description locks; the header may promise what the kernel lacks."""
    if _OFD_GET is None:
        return False
    fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        ask(fd, _OFD_GET, request(SHARE, 0, 0))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


_OFD = "OFD_" if _has_ofd() else ""

SEMANTICS: Literal["open file", "process"] = "open file" if _OFD else "process"

AT_ONCE: int = getattr(fcntl, f"F_{_OFD}SETLK")
_WAIT: int = getattr(fcntl, f"F_{_OFD}SETLKW")
_GET: int = getattr(fcntl, f"F_{_OFD}GETLK")


def wait(fd: int, request: bytes, seconds: float | None) -> bool:
    if seconds is None:
        ask(fd, _WAIT, request)
        return True
    return _wait_until(seconds, fd, request) if seconds else _poll(0, fd, request)


def _poll(seconds: float, fd: int, request: bytes) -> bool:
    return poll(partial(ask, fd, AT_ONCE, request), BUSY, seconds)


def prepare() -> None:
    global _wait_until, _may_share_open_file
    _wait_until, _may_share_open_file = _way_to_wait(), _way_to_compare()


def _first_wait(seconds: float, fd: int, request: bytes) -> bool:
    prepare()
    return _wait_until(seconds, fd, request)


def _first_comparison(fd: int, pid: int, other: int) -> bool:
    prepare()
    return _may_share_open_file(fd, pid, other)


_wait_until: Callable[[float, int, bytes], bool] = _first_wait
_may_share_open_file: Callable[[int, int, int], bool] = _first_comparison


def _way_to_wait() -> Callable[[float, int, bytes], bool]:
    try:
        from ipcio._posix import libc, timed_call
    except ImportError:  # no ctypes, or no timers in the C library
        return _poll

    def wait_in_the_kernel(seconds: float, fd: int, request: bytes) -> bool:
        try:
            return timed_call.call(seconds, libc.fcntl, fd, _WAIT, request)
        except timed_call.NoTimer:
            return _poll(seconds, fd, request)

    return wait_in_the_kernel


def conflict(fd: int, request: bytes) -> Conflict | None:
    found = _ANSWER.unpack(ask(fd, _GET, request))
    if found[_KIND] == UNLOCK:
        return None
    # A lock of an open file has no process (-1), and a process in another pid namespace has no
    # number here (0).
    pid = found[_PID] if found[_PID] > 0 else None
    return Conflict(found[_START], found[_LENGTH], found[_KIND] == EXCLUDE, pid)


def _always(*_: int) -> bool:
    return True


def _way_to_compare() -> Callable[[int, int, int], bool]:
    try:
        from ipcio._posix import libc
    except ImportError:  # no ctypes
        return _always  # any two descriptors may mean the same open file
    return libc.may_share_open_file


describe = procfs.describe


def owners(fd: int, lock: Conflict, among: Iterable[Owner] = (), /) -> Iterator[Owner | None]:
    return procfs.lock_owners(fd, lock, among, _may_share_open_file)


# -- lock files ----------------------------------------------------------------

_PERM = 0o600  # of a lock file that `open_path` makes
_OPENING = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MOST_LINKS = 40  # that are followed, one after the other; Linux's own limit
_MOST_CHANGES = 10000  # of what the path means, between two looks at it


def open_path(path: Any, flags: int) -> int:
    link = os.fsdecode(path)
    links = 0
    for _ in range(_MOST_CHANGES):
        try:
            info = os.lstat(link)
        except FileNotFoundError:
            try:
                return _make(link, flags)
            except FileExistsError:  # since then
                continue
        if stat.S_ISLNK(info.st_mode):
            link = _follow(path, link, info)
            links += 1
            if links > _MOST_LINKS:
                break
            continue
        _check_regular(path, info)  # before it is opened, for that alone may change a device
        try:
            fd = os.open(link, flags | _OPENING)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ELOOP}:  # since then
                continue
            raise
        try:
            _check_regular(path, os.fstat(fd))
            os.set_blocking(fd, True)
        except BaseException:
            os.close(fd)
            raise
        return fd
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _make(path: str, flags: int) -> int:
    fd = os.open(path, flags | os.O_CREAT | os.O_EXCL | _OPENING, _PERM)
    try:
        if os.fstat(fd).st_mode & 0o777 != _PERM:  # the umask
            os.fchmod(fd, _PERM)
        os.set_blocking(fd, True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _follow(path: Any, link: str, info: os.stat_result) -> str:
    """Return where a link of the user's own leads."""
    if info.st_uid != os.geteuid():
        raise PermissionError(errno.EACCES, "a symbolic link of another user is not followed to a lock file", path)
    target = os.path.join(os.path.dirname(link), os.readlink(link))
    again = os.lstat(link)
    same = (again.st_dev, again.st_ino, again.st_ctime_ns) == (info.st_dev, info.st_ino, info.st_ctime_ns)
    return target if same else link


def _check_regular(path: Any, info: os.stat_result) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.ENODEV, "only a regular file can be locked by its path", path)
