"""Named objects as macOS has them: no files, but something to open, to size once, to map and to unlink."""

from __future__ import annotations

import _multiprocessing
import _posixshmem
import builtins
import errno
import mmap
import os
import stat
import sys

from view import hide, put, view

DIRECTORY = "/dev/shm"
LONGEST = 31  # bytes of a name, with its slash
MAXIMUM = 32767  # permits

hide("os", "posix_fallocate", "O_TMPFILE")


def failure(number: int, *path: object) -> OSError:
    return OSError(number, os.strerror(number), *path)


# -- what is no file ---------------------------------------------------------


def is_there(path) -> bool:
    return isinstance(path, (str, bytes)) and f"{os.fsdecode(path)}/".startswith(f"{DIRECTORY}/")


def blind(module: str, name: str, answer: object = None, paths: int = 1) -> None:
    """Have a function find nothing under DIRECTORY: fail, or give that answer."""
    call = getattr(view(module), name) if module != "builtins" else builtins.open

    def function(*arguments, **options):
        for path in arguments[:paths]:
            if is_there(path):
                if answer is not None:
                    return answer
                raise failure(errno.ENOENT, path)
        return call(*arguments, **options)

    put(module, name, function)


for name in ("chmod", "listdir", "lstat", "mkdir", "open", "readlink", "rmdir", "scandir", "stat", "statvfs", "unlink"):
    blind("os", name)
for name in ("link", "rename", "replace"):
    blind("os", name, paths=2)
blind("os", "access", answer=False)
for name in ("exists", "isfile", "lexists"):
    blind("posixpath", name, answer=False)
blind("posixpath", "isdir", answer=True)  # or ipcio would say that Linux's own place for objects is missing


# -- descriptors of shared memory --------------------------------------------


def is_memory(fd) -> bool:
    """Whether this is one."""
    if not isinstance(fd, int):
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and os.fstat(fd).st_dev == os.stat(DIRECTORY).st_dev
    except OSError:
        return False


def refuse(module: str, name: str, number: int) -> None:
    """Have a function fail on the descriptor of shared memory."""
    call = getattr(view(module), name)

    def function(fd, *arguments, **options):
        if is_memory(fd):
            raise failure(number)
        return call(fd, *arguments, **options)

    put(module, name, function)


for name in ("fchmod", "fsync", "pread", "pwrite", "read", "readv", "write", "writev"):
    refuse("os", name, errno.EINVAL)
refuse("os", "lseek", errno.ESPIPE)
refuse("fcntl", "flock", errno.EOPNOTSUPP)
refuse("fcntl", "lockf", errno.EOPNOTSUPP)


def ftruncate(fd, length):
    """Once, to whole pages."""
    if is_memory(fd):
        if os.fstat(fd).st_size or not length:
            raise failure(errno.EINVAL)
        length = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
        if length > sys.maxsize:
            raise failure(errno.EINVAL)
    os.ftruncate(fd, length)


def fstat(fd):
    """Of memory, little is known: no inode, among others."""
    info = os.fstat(fd)
    if not is_memory(fd):
        return info
    told = [0] * len(info)
    told[stat.ST_MODE] = stat.S_IMODE(info.st_mode)
    told[stat.ST_UID], told[stat.ST_GID], told[stat.ST_SIZE] = info.st_uid, info.st_gid, info.st_size
    return os.stat_result(told)


put("os", "ftruncate", ftruncate)
put("os", "fstat", fstat)


# -- names -------------------------------------------------------------------


def check_length(name: str) -> None:
    if len(os.fsencode(name)) > LONGEST:
        raise failure(errno.ENAMETOOLONG)


def shm_open(path, flags, mode=0o777):
    check_length(path)
    return _posixshmem.shm_open(path, flags, mode=mode)


def shm_unlink(path):
    check_length(path)
    _posixshmem.shm_unlink(path)


def sem_unlink(name):
    check_length(name)
    _multiprocessing.sem_unlink(name)


class SemLock(_multiprocessing.SemLock):
    """Without a value that can be read, and with a lower maximum.  (macOS does not even notice that it is passed.)"""

    __slots__ = ()
    SEM_VALUE_MAX = MAXIMUM

    def __new__(cls, kind, value, maxvalue, name, unlink):
        check_length(name)
        return super().__new__(cls, kind, value, maxvalue, name, unlink)

    @classmethod
    def _rebuild(cls, handle, kind, maxvalue, name):
        if name is not None:
            check_length(name)
        return super()._rebuild(handle, kind, maxvalue, name)

    def _get_value(self):
        raise NotImplementedError


put("_posixshmem", "shm_open", shm_open)
put("_posixshmem", "shm_unlink", shm_unlink)
put("_multiprocessing", "sem_unlink", sem_unlink)
put("_multiprocessing", "SemLock", SemLock)
