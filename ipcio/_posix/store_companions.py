"""The store of a system on which named objects are no files: macOS.  Beside each is a file of ipcio's, its *companion*.

The companion is in a directory of the user (`ipcio._posix.companion_paths`).  What
`ipcio._posix.lifetime` says of files in ``/dev/shm`` is true of it: shares are locks on it, and
a process that finds it without any removes it, and the object with it.  The companion is there
before the object and goes after it.  So if a process is killed in between, what it leaves can be
judged.  A companion says one of these states (`ipcio._posix.companions`):

``MAKING``
    the object is not there, or not complete; `attach` waits
``READY``
    it was there, complete, of exactly the size that the companion says
``FOREIGN``
    another program made the object; the companion, which keeps the name for a moment, goes

An object may be gone although its companion is there: another program unlinked it, or the
machine was started anew.  Such a companion is *void*; it is removed when it is in the way.
An object without a companion was made by another program: it is *foreign*.

Removing the name of an object that is in use, or a void companion, requires the lock of the
whole directory (`directory_lock`): a lock on the companion would not keep two removals apart.

The file of a crash-safe semaphore (`ipcio._posix.undo`) is in the place of a companion.  There
is no object then: other programs that call ``sem_open`` find none.

There is no descriptor of shared memory for the user: hardly anything could be done with it.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

from ipcio._first_contents import in_private_memory
from ipcio._forklock import fork_lock
from ipcio._light import partial, suppress
from ipcio._posix import companions, lifetime, namespace, objects
from ipcio._posix.companion_paths import path_of
from ipcio._posix.companions import FOREIGN, MAKING, READY
from ipcio._posix.found_companions import (
    ExistingSegment,
    ExistingSemaphore,
    clear_void,
    directory_lock,
    without_companion,
)
from ipcio._posix.mmap import map_descriptor
from ipcio._posix.semlock import PosixSemaphore, create_semaphore
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from typing import TypeVar

    from ipcio._backend.shm import Into

    Handle = TypeVar("Handle")
    T = TypeVar("T")

__all__ = [
    "ExistingSegment",
    "ExistingSemaphore",
    "NewRecord",
    "NewSegment",
    "NewSemaphore",
    "before_removal",
    "blank",
    "directory_lock",
    "record_perm",
]

_LARGEST = sys.maxsize  # bytes
_TOO_LARGE = {errno.EFBIG, errno.EINVAL, errno.ENOMEM}  # what sizing or mapping a new object says


def before_removal(path: str, fd: int, info: os.stat_result) -> bool:
    """Remove what belongs to an orphaned companion, or file of a crash-safe semaphore; see `ipcio._posix.lifetime`."""
    if info.st_size == namespace.RECORD:
        from ipcio._posix import undo

        return undo.before_removal(path, fd, info)
    record = companions.read(fd, info)
    if record is not None and lifetime.path_means(path_of(record.kind, record.name, os.path.dirname(path)), info):
        companions.unlink_ours(record, info)
    return False


def record_perm(_: int) -> int:
    """Return the permissions of a crash-safe semaphore: only its user can find its file, let alone the set."""
    return 0o600


def blank() -> bytes:
    """Return as many bytes as a semaphore has; no program opens them as one."""
    return bytes(struct.calcsize("4l"))


class NewRecord(objects.NewObject):
    """The file of a new crash-safe semaphore."""

    KIND = "sem"

    def create_unnamed(self, perm: int, *, share_path: str | None = None) -> None:
        """Do so; `FileExistsError` if another program has an object of that name."""
        super().create_unnamed(perm, share_path=share_path)
        self._refuse_foreign()

    def _refuse_foreign(self) -> None:
        if companions.exists(self.KIND, self.name):  # ours would have a companion, and an orphan is gone by now
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _free_name(self, path: str) -> bool:
        return super()._free_name(path) or (path == self.path and clear_void(self.KIND, self.name, path))

    def _limit(self) -> str:
        return companions.limit(self.name)


class _NewObject(NewRecord):
    """A new object and its companion: that is there first, then the object, then the companion says so."""

    _announced = False

    def _announce(self, size: int = 0) -> None:
        """Have the name; `FileExistsError` if it is in use."""
        self.create_unnamed(0o600)
        companions.write(self.fd, MAKING, size, self.KIND, self.name)
        self._announced = True
        self.publish()

    def _make(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what the function gives that makes the object, exclusively."""
        try:
            return function(*arguments)
        except FileExistsError:  # another program was faster
            companions.set_state(self.fd, FOREIGN)
            raise

    def _complete_object(self, inode: int = 0) -> None:
        companions.set_inode(self.fd, inode)
        companions.set_state(self.fd, READY)

    def finish(self, perm: int, *, persist: bool) -> None:  # noqa: ARG002 -- those of the object, which has them
        """Last of all: have a persistent object persist."""
        super().finish(0o600, persist=persist)

    def roll_back(self) -> None:
        """Give everything back, the object as well."""
        announced, self._announced = self._announced, False
        if announced:
            with suppress(OSError), directory_lock(self.path):
                if lifetime.path_means(self.path, self.info):
                    info = os.fstat(self.fd)
                    companions.unlink_ours(companions.read(self.fd, info), info)
                    os.unlink(self.path)
        super().roll_back()


class NewSegment(_NewObject):
    """A new segment."""

    KIND = "shm"

    def make(
        self,
        size: int,
        perm: int,
        *,
        persist: bool,
        reserve: bool,  # noqa: ARG002 -- the system decides
        init: Callable[[Handle], object] | None,
        into: Into[Handle],
    ) -> Handle:
        """Make it and return its handle; what `init` writes to private memory is its content.

        The system may leave no more of `perm` than the umask does.
        """
        content = None
        if init is not None:
            self.check_free()
            self._refuse_foreign()
            content = in_private_memory(self.name, size, init, into)
        self.make_of(content, size, perm)
        self.finish(perm, persist=persist)
        with fork_lock:
            return self.hand_over(into)

    def make_of(self, content: memoryview[int] | None, size: int, perm: int) -> None:
        """Make it, mapped, with this size and content (None: zeros)."""
        if size > _LARGEST:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._announce(size)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        with fork_lock:
            fd = self._make(companions.shm_open, companions.posix_name(self.name), flags, perm)
            try:
                self.memory = _fill(fd, size, perm)
                inode = os.fstat(fd).st_ino
            finally:
                os.close(fd)
        if content is not None:
            self.memory[:size] = content
        self._complete_object(inode)

    def hand_over(self, into: Into[Handle]) -> Handle:
        """Under `fork_lock`: pass on the memory and the share."""
        return super().hand_over(partial(without_companion, into))


class NewSemaphore(_NewObject):
    """A new plain semaphore."""

    _raw: PosixSemaphore

    def make(self, value: int, perm: int) -> None:
        """Make it.  The system may leave no more of `perm` than the umask does."""
        self._announce()
        with fork_lock:
            self._raw = self._make(create_semaphore, companions.posix_name(self.name), value, perm)
            self._complete_object()

    def open_semaphore(self, _: Callable[[str], PosixSemaphore]) -> PosixSemaphore | None:
        """Return it: it is open since it was made."""
        return self._raw


def _fill(fd: int, size: int, perm: int) -> mmap.mmap:
    """Give a new segment its permissions, as far as that can be done, and its size; map it."""
    with suppress(OSError):
        os.fchmod(fd, perm)
    try:
        os.ftruncate(fd, size)
        return map_descriptor(fd, size, writable=True)
    except OSError as error:
        if error.errno in _TOO_LARGE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        raise
