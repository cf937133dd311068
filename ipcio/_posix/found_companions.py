"""How objects are found and removed, where they are no files (macOS); see `ipcio._posix.store_companions`."""

from __future__ import annotations

import errno
import os

from ipcio._forklock import fork_lock
from ipcio._light import partial
from ipcio._posix import companions, lifetime, objects, removal
from ipcio._posix.companions import FOREIGN, READY
from ipcio._posix.mmap import map_descriptor
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from typing import TypeVar

    from ipcio._backend.shares import Share
    from ipcio._backend.shm import Into

    Handle = TypeVar("Handle")
    T = TypeVar("T")

directory_lock = partial(removal.directory_lock, required=True)


class _ExistingObject(objects.ExistingObject):
    """What is there under a name, if only the companion."""

    KIND = "sem"

    def open_if_there(self, *, writable: bool) -> bool:
        """Open the companion, or the file of a crash-safe semaphore, under `fork_lock`; return whether there is one."""
        try:
            self.open(writable=writable)
        except FileNotFoundError:
            return False
        return True

    def remove_once(self) -> bool:
        """Try once to remove the name, under `directory_lock`; False: another process is in mid-step."""
        return _remove_once(self.KIND, self.name, self.path)

    def _open_foreign(self, function: Callable[[], T]) -> T | None:
        """Return what the function gives that opens the object, which has no companion; None: look again.

        An object of ipcio's may have got the name since this call looked, and lost it.  While the
        name has a companion of this call, the object that has it is another program's.
        """
        if not companions.exists(self.KIND, self.name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        with objects.NewObject(self.name, self.path) as look:
            try:
                look.create_unnamed(0o600)
                companions.write(look.fd, FOREIGN, 0, self.KIND, self.name)
                look.publish()
            except FileExistsError:
                look.roll_back()
                return None
            try:
                with fork_lock:
                    return function()
            finally:
                look.roll_back()

    def _limit(self) -> str:
        return companions.limit(self.name)


class ExistingSegment(_ExistingObject):
    """A segment that was found under a name."""

    KIND = "shm"

    def map(self, into: Into[Handle], *, writable: bool) -> Handle | None:
        """Join it and map it, and return its handle; None: it is gone or going, so roll back and look again."""
        with fork_lock:
            if self.open_if_there(writable=False):
                return self.hand_over(into) if self._map_ours(writable=writable) else None
        if not self._open_foreign(partial(self._map_foreign, writable=writable)):
            return None
        with fork_lock:
            return self.hand_over(into)

    def hand_over(self, into: Into[Handle]) -> Handle:
        """Under `fork_lock`: pass on the memory and the share."""
        return super().hand_over(partial(without_companion, into))

    def _map_ours(self, *, writable: bool) -> bool:
        """Map the object of the companion; False: look again."""
        if not self.join():
            return False
        record = companions.read(self.fd, self.info)
        if record is None or record.state != READY:
            return False
        fd = self._open_object(writable=writable)
        try:
            info = os.fstat(fd)
            objects.check_owner(info, self.owner)
            if not lifetime.path_means(self.path, self.info):
                return False
            size = record.size
            if not companions.is_the_object(info, record):
                self.roll_back()  # the companion is void, and this is a foreign object
                size = info.st_size
            self.memory = _map(fd, size, writable=writable)
            return True
        finally:
            os.close(fd)

    def _map_foreign(self, *, writable: bool) -> bool:
        fd = self._open_object(writable=writable)
        try:
            info = os.fstat(fd)
            objects.check_owner(info, self.owner)
            self.memory = _map(fd, info.st_size, writable=writable)
            return True
        finally:
            os.close(fd)

    def _open_object(self, *, writable: bool) -> int:
        flags = os.O_RDWR if writable else os.O_RDONLY
        return companions.shm_open(companions.posix_name(self.name), flags, mode=0)


class ExistingSemaphore(_ExistingObject):
    """A semaphore that was found under a name."""

    def open_semaphore(
        self, opener: Callable[[str], T], into: Callable[[T, ExistingSemaphore], Handle]
    ) -> Handle | None:
        """Join it and open it, after `open_if_there`, and return what `into` makes of it.

        None: it is gone or going, so roll back and look again.
        """
        if self.fd < 0:
            foreign = self._open_foreign(partial(self._open_object_foreign, opener))
            if foreign is None:
                return None
            with fork_lock:
                return into(foreign, self)
        with fork_lock:
            if not self.join():
                return None
            record = companions.read(self.fd, self.info)
            if record is None or record.state != READY:
                return None
            raw = opener(self.name)
            return into(raw, self) if lifetime.path_means(self.path, self.info) else None

    def _open_object_foreign(self, opener: Callable[[str], T]) -> T:
        if self.owner is not None:
            text = "this system does not say who owns a semaphore, unless this user created it with ipcio (owner=)"
            raise PermissionError(errno.EPERM, text)
        return opener(self.name)


def _map(fd: int, size: int, *, writable: bool) -> mmap.mmap:
    if not size:
        raise OSError(errno.EINVAL, "not shared memory (yet): its size is 0")
    return map_descriptor(fd, size, writable=writable)


def without_companion(
    into: Into[Handle], memory: mmap.mmap | memoryview[int] | None, fd: int, share: Share | None
) -> Handle:
    """Without a share, the descriptor of the companion is no longer needed; a share closes it itself."""
    if share is None and fd >= 0:
        os.close(fd)
    return into(memory, -1, share)


# -- removal -----------------------------------------------------------------


def clear_void(kind: str, name: str, path: str) -> bool:
    """Remove the companion of an object that is gone; return whether it is gone."""
    with _ExistingObject(name, path) as found, directory_lock(path):
        with fork_lock:
            there = found.open_if_there(writable=False)
            joined = there and found.join()
        if not there:
            return not companions.exists(kind, name)
        if not joined:
            found.roll_back()
            return True
        try:
            record = companions.read(found.fd, found.info)
            if record is None or record.state != READY or companions.exists(kind, name):
                return False
            if lifetime.path_means(path, found.info):
                os.unlink(path)
            return True
        finally:
            found.roll_back()


def _remove_once(kind: str, name: str, path: str) -> bool:
    """Try once to remove the name, whichever program made the object; False: another process is in mid-step."""
    gone = False

    def ready(fd: int, info: os.stat_result) -> bool:
        nonlocal gone
        record = companions.read(fd, info)
        if record is not None:
            if record.state != READY:
                return False
            try:
                companions.unlink_object(kind, name)
            except FileNotFoundError:
                gone = True
        return True

    try:
        if not removal.remove_once(path, ready):
            return False
    except FileNotFoundError:
        companions.unlink_object(kind, name)
    if gone:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return True
