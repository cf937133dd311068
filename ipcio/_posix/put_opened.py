"""What ``ipcio put`` does where named objects can be sized once only, as on macOS.

The input goes through a temporary file without a name; then there is a segment of its size,
which its companion (`ipcio._posix.companions`) says is complete when it is.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import tempfile
from typing import TYPE_CHECKING

from ipcio._posix import companions, objects, shm_opened
from ipcio._posix.put import fill

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["put"]

_KIND = "shm"
_PERM = 0o600


def put(name: str, pieces: Iterable[memoryview], size: int, *, replace: bool) -> None:  # noqa: ARG001
    """Make a persistent segment of what the pieces bring; nothing is gained by knowing the size before.

    It gets the name at the end.  With `replace`, another one loses it right before.
    """
    with contextlib.suppress(FileNotFoundError):  # is there one, is the name too long?
        shm_opened.attach(name, writable=False)
        if not replace:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    with objects.InHand(name, ""), tempfile.TemporaryFile(buffering=0) as spool:
        total = fill(spool.fileno(), pieces)
        with mmap.mmap(spool.fileno(), total, access=mmap.ACCESS_READ) as content:
            if replace:
                with contextlib.suppress(FileNotFoundError):
                    shm_opened.unlink(name)
            companions.retrying(_KIND, name, lambda: _create(name, content))


def _create(name: str, content: mmap.mmap) -> None:
    with companions.Making(_KIND, name) as new:
        new.announce(len(content))
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        fd = new.make(companions.shm_open, companions.posix_name(name), flags, _PERM)
        try:
            with shm_opened._fill(fd, len(content), _PERM) as memory:
                memory[: len(content)] = memoryview(content)
            inode = os.fstat(fd).st_ino
        finally:
            os.close(fd)
        new.show(inode)
        new.settle(0o600, persist=True)
        new.close()
