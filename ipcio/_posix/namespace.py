"""Where named objects are, what their files are called, and which mode bits mark them: decided once, here.

There are two kinds of POSIX system:

* On Linux named objects are files in ``/dev/shm``.  They can be listed, locked, linked, read
  and written as other files can.
* On macOS they can only be opened, sized once, mapped and unlinked.  So ipcio keeps a file of
  its own for each, a *companion*, in a directory of the user (`ipcio._posix.companion_paths`).

Either way there is a file on which each handle has a lock, and "the file of an object" means
that one.  The kind of system is found by a look at it, not by its name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from ipcio._light import cache, suppress
from ipcio._names import SEGMENTS, invent_name

NAMES_ARE_FILES: bool = os.access("/dev/shm", os.F_OK)
"""Whether named objects are files in `DIRECTORY`."""

DIRECTORY = "/dev/shm"
LONGEST = 255  # bytes of a file's name there: NAME_MAX

SEMAPHORE = struct.calcsize("4l")  # bytes of a sem_t, in glibc and in musl
RECORD = 344  # bytes of the file of a crash-safe semaphore; see `ipcio._posix.undo`

_GLIBC_PREFIX = "sem."

# <linux/fs.h>: only the owner can set the flag of what a backup is to leave out.  The kernel
# keeps it for memory since Linux 6.0; elsewhere the calls fail.
_FLAGS = struct.Struct("=I4x")
_GET_FLAGS, _SET_FLAGS = (direction | struct.calcsize("l") << 16 | 0x6600 for direction in (0x80000001, 0x40000002))
_NO_DUMP = 0x40

# `MANAGED` is on the file of an object that exists as long as it has handles, `PERSISTENT` on
# that of one that ipcio made to persist.  In a directory of our own every file is ours, so there
# the first needs no bit, and the second is one that every file system lets an owner set.
# The first decides what is removed, and only a chmod takes it away.  The second is for lists
# alone: the kernel drops it when another user writes, and where the directory gives files
# a group that their owner is not in.  `mark_persistent` therefore sets a flag as well, which stays.
MANAGED, PERSISTENT = (stat.S_ISVTX, stat.S_ISGID) if NAMES_ARE_FILES else (0, stat.S_IXUSR)

if NAMES_ARE_FILES:

    def directory() -> str:
        """Return the path of the directory in which the files of objects are."""
        return DIRECTORY

    def segment_path(name: str, kind: str = "shm") -> str:
        """Return the path of a segment's file; `kind` is "shm" or one of `ipcio._names.SEGMENTS`."""
        return f"{DIRECTORY}/{SEGMENTS.get(kind, '')}{name}"

    def file_perm(perm: int) -> int:
        """Return the permissions of the file of a mutex, an event or a queue."""
        return perm

    def semaphore_path(name: str, place: str | None = None) -> str:
        """Return the path of a semaphore's file, in the directory `place` or in `directory`."""
        return f"{place or DIRECTORY}/{semaphore_prefix()}{name}"

    def semaphore_paths(name: str, place: str) -> tuple[str, ...]:
        """Return all paths that the file may have: programs that share a directory may have different C libraries."""
        return f"{place}/{_GLIBC_PREFIX}{name}", f"{place}/{name}"

    def kind_and_name(entry: str) -> tuple[str, str] | None:
        """Return which object may have a file called `entry`; None: only shared memory of that name."""
        for kind, prefix in SEGMENTS.items():
            if entry.startswith(prefix) and entry != prefix:
                return kind, entry[len(prefix) :]
        prefix = semaphore_prefix()
        return ("sem", entry[len(prefix) :]) if entry.startswith(prefix) and entry != prefix else None

    def is_managed(info: os.stat_result) -> bool:
        """Whether an object exists as long as it has handles; only those are ever removed without `unlink`."""
        return bool(info.st_mode & MANAGED) and stat.S_ISREG(info.st_mode)

    def mark_persistent(fd: int, perm: int) -> None:
        """Have an object persist, with these permissions; its file is open as `fd`."""
        with suppress(OSError):
            fcntl.ioctl(fd, _SET_FLAGS, _FLAGS.pack(_NO_DUMP))
        os.fchmod(fd, perm | PERSISTENT)

    def is_persistent(fd: int, info: os.stat_result) -> bool:
        """Whether ipcio made an object, which is not `is_managed`, to persist; its file is open as `fd`."""
        if info.st_mode & PERSISTENT:
            return True
        try:
            flags: int = _FLAGS.unpack(fcntl.ioctl(fd, _GET_FLAGS, bytes(_FLAGS.size)))[0]
        except OSError:
            return False
        return bool(flags & _NO_DUMP)

else:
    from ipcio._posix import companion_paths

    _LONGEST_HERE = 80  # a byte of the name may be three of the file's

    def directory() -> str:
        """Return the path of the directory in which the files of objects are."""
        return companion_paths.directory()

    def segment_path(name: str, kind: str = "shm") -> str:
        """Return the path of a segment's file; `kind` is "shm" or one of `ipcio._names.SEGMENTS`."""
        length = len(os.fsencode(name))
        if kind in SEGMENTS and length > _LONGEST_HERE:
            text = f"a name may have {_LONGEST_HERE} bytes here, not {length}"
            raise OSError(errno.ENAMETOOLONG, text, name)
        return companion_paths.path_of(kind, name)

    def file_perm(perm: int) -> int:
        """Return the permissions of the file of a mutex, an event or a queue: its user finds it, whatever `perm` is."""
        return perm & 0o066 | 0o600

    def semaphore_path(name: str, place: str | None = None) -> str:
        """Return the path of a semaphore's file, in the directory `place` or in `directory`."""
        return companion_paths.path_of("sem", name, place)

    def semaphore_paths(name: str, place: str) -> tuple[str, ...]:
        """Return all paths that the file may have."""
        return (companion_paths.path_of("sem", name, place),)

    def kind_and_name(entry: str) -> tuple[str, str] | None:
        """Return which object may have a file called `entry`; None: no object."""
        return companion_paths.name_of(entry)

    def is_managed(info: os.stat_result) -> bool:
        """Whether an object exists as long as it has handles; only those are ever removed without `unlink`."""
        return not info.st_mode & PERSISTENT and stat.S_ISREG(info.st_mode)

    def mark_persistent(fd: int, perm: int) -> None:
        """Have an object persist, with these permissions; its file is open as `fd`."""
        os.fchmod(fd, perm | PERSISTENT)

    def is_persistent(fd: int, info: os.stat_result) -> bool:  # noqa: ARG001 -- of files elsewhere the mode is not enough
        """Whether ipcio made an object, which is not `is_managed`, to persist; its file is open as `fd`."""
        return bool(info.st_mode & PERSISTENT)


@cache
def semaphore_prefix() -> str:
    """Return what the C library puts before the name of a semaphore's file: ``sem.`` (glibc), or nothing (musl).

    The C library is asked for a semaphore with an invented name of the greatest length for
    a file.  If it puts something before the name, the name is too long; otherwise there is no such
    semaphore.  Nothing is made.
    """
    try:
        raw = __import__("_multiprocessing").SemLock
    except ImportError:  # this Python has no semaphores, but may list and remove those of other programs
        return _GLIBC_PREFIX
    try:
        raw._rebuild(0, 1, 1, f"/{invent_name():-<{LONGEST}}")
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno not in {errno.ENAMETOOLONG, errno.EINVAL}:
            raise  # a failure that passes is no answer to remember
    return _GLIBC_PREFIX
