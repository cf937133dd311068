"""What ``ipcio put`` does where named objects are files: a segment of a size that nobody knows before its end.

It is written as a file, so a full ``/dev/shm`` is an error and no signal, and has no name
as long as it is not complete: whatever happens, it is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from typing import TYPE_CHECKING

from ipcio._names import invent_name
from ipcio._posix import lifetime, objects, shm

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

__all__ = ["fill", "put"]

_PERM = 0o600


def put(name: str, pieces: Iterable[memoryview], size: int, *, replace: bool) -> None:
    """Make a persistent segment of what the pieces bring, `size` bytes if that is known (else 0).

    It gets the name at the end.  With `replace`, it takes it from the object that has it; until
    then that one stays.
    """
    path = f"{objects.DIRECTORY}/{name}"
    with objects.InHand(name, path), contextlib.suppress(FileNotFoundError):
        os.lstat(path)  # is the name too long?
    with objects.Making(name, f"{objects.DIRECTORY}/.{invent_name()}" if replace else path) as new:
        new.begin(_PERM)
        if size:
            shm._allocate(new.fd, size, reserve=True)  # what there is no room for is refused at once
        fill(new.fd, pieces)
        with _uninterrupted():
            new.appear()
            if replace:
                _move(new, path)
            # Only now.  A kill right before takes both segments, but a hidden one that persists would stay for ever.
            new.settle(_PERM, persist=True)
        new.close()


def fill(fd: int, pieces: Iterable[memoryview]) -> int:
    """Write the pieces to a new file, and return how many bytes they were, and the file has."""
    total = 0
    for piece in pieces:
        rest = piece
        while rest:
            written = os.write(fd, rest)
            total += written
            rest = rest[written:]
    if not total:
        raise OSError(errno.EINVAL, "there is nothing to read, and a segment cannot be empty")
    os.ftruncate(fd, total)  # what was measured before may have become shorter
    return total


def _move(new: objects.Making, path: str) -> None:
    """Give the object, which has a hidden name, that of another one."""
    for _ in lifetime.attempts(new.name):
        with objects.Finding(new.name, path) as old:
            try:
                old.open(writable=False)
                if not old.join():
                    continue
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):  # since: then it is to be replaced
                    os.link(new.path, path)
                    os.unlink(new.path)
                    return
                continue
            # We have a share in it, so nobody removes the name as that of the dead, which might be ours then.
            os.rename(new.path, path)
            old.drop()
            return


@contextlib.contextmanager
def _uninterrupted() -> Generator[None, None, None]:
    """Let Ctrl-C wait."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
