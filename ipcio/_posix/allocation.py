"""Memory that is set aside for an object, so that a full ``/dev/shm`` is an error and no SIGBUS later."""

from __future__ import annotations

import errno
import os
import sys

from ipcio._posix import namespace

_PIECE = 1 << 20  # bytes; a fraction of a millisecond


def allocate(fd: int, size: int, *, reserve: bool) -> None:
    """Give the object its size, with memory behind every byte if `reserve`.

    The caller does not hold `fork_lock`, because this may take seconds.  Memory is set aside in pieces: signal
    handlers run in between, and a signal that comes within a piece makes no more than that piece begin anew.
    """
    if size > sys.maxsize:  # more than a file offset can say
        raise _no_room(fd, size)
    if not reserve:
        os.ftruncate(fd, size)
        return
    if sys.platform == "darwin" or not hasattr(os, "posix_fallocate"):
        _write_zeros(fd, size)
        return
    if size > _PIECE:
        check_room(fd, size)
    try:
        if size <= _PIECE:
            os.posix_fallocate(fd, 0, size)
        else:
            for start in range(0, size, _PIECE):
                os.posix_fallocate(fd, start, min(_PIECE, size - start))
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL}:
            os.ftruncate(fd, size)
        elif error.errno in {errno.ENOSPC, errno.EFBIG}:
            raise _no_room(fd, size) from None
        else:
            raise


def _write_zeros(fd: int, size: int) -> None:
    for start in range(os.fstat(fd).st_size, size, _PIECE):  # not over what is there
        piece = bytes(min(_PIECE, size - start))
        if os.pwrite(fd, piece, start) < len(piece):
            raise _no_room(fd, size)


def check_room(fd: int, size: int) -> None:
    """Raise ``OSError(ENOSPC)`` before other processes find the directory full, if that is where `size` bytes lead."""
    if size > _room(fd):
        raise _no_room(fd, size)


def _room(fd: int) -> int:
    """Return how many bytes the object can have, as far as that is known."""
    place = os.fstatvfs(fd)
    if place.f_blocks:
        free = place.f_bavail * place.f_frsize
    else:  # without a limit of its own: what memory there is
        try:
            with open("/proc/meminfo", "rb") as file:
                about = dict(line.split()[:2] for line in file)
            free = 1024 * sum(int(about[key]) for key in (b"MemAvailable:", b"SwapFree:"))
        except (OSError, KeyError, ValueError):
            return sys.maxsize
    return free + 512 * os.fstat(fd).st_blocks


def _no_room(fd: int, size: int) -> OSError:
    place = os.fstatvfs(fd)
    text = f"{os.strerror(errno.ENOSPC)}: {_amount(size)} asked for"
    if place.f_blocks:
        free, whole = (_amount(blocks * place.f_frsize) for blocks in (place.f_bavail, place.f_blocks))
        text += f", {namespace.DIRECTORY} has {free} free of {whole}"
    return OSError(
        errno.ENOSPC, f"{text} (`ipcio gc` removes orphaned objects; `docker run --shm-size` sets a container's size)"
    )


def _amount(size: int) -> str:
    """Spell a size in bytes for people."""
    for unit, shift in ("GiB", 30), ("MiB", 20), ("KiB", 10):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.1f} {unit}"
    return f"{size} bytes"
