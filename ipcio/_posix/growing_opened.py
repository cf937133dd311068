"""A segment of a size that nobody knows before its end, where objects can be sized once only, as on macOS.

What is written goes to a temporary file without a name; then there is a segment of its size,
which its companion (`ipcio._posix.companions`) says is complete when it is.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import tempfile

from ipcio._posix import shm_opened

__all__ = ["Growing"]


class Growing:
    """See `ipcio._backend.Growing`."""

    def __init__(self, name: str, perm: int, size: int, *, replace: bool) -> None:
        self.name = name
        self._perm = perm
        self._replace = replace
        with contextlib.suppress(FileNotFoundError):  # is there one, is the name too long?
            shm_opened.attach(name, writable=False, into=bool)
            if not replace:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 -- until `drop`
        self.fd = self._file.fileno()
        os.ftruncate(self.fd, size)

    def show(self) -> None:
        """See `ipcio._backend.Growing`.  A segment that is replaced loses the name right before."""
        size = os.fstat(self.fd).st_size
        if not size:
            raise OSError(errno.EINVAL, "nothing was written, and a segment cannot be empty here", self.name)
        with mmap.mmap(self.fd, size, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
            while True:
                if self._replace:
                    with contextlib.suppress(FileNotFoundError):
                        shm_opened.unlink(self.name)
                try:
                    shm_opened.create_filled(self.name, view, perm=self._perm)
                    return
                except FileExistsError:
                    if not self._replace:
                        raise

    def drop(self) -> None:
        """See `ipcio._backend.Growing`."""
        self._file.close()
