"""The writing of a segment of a size that is known only when it is complete."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import stat

from ipcio._forklock import fork_lock
from ipcio._light import suppress
from ipcio._names import invent_name
from ipcio._posix import lifetime, namespace, objects, removal, shm
from ipcio._posix.allocation import allocate, check_room
from ipcio._typing import TYPE_CHECKING
from ipcio._unowned import HeldByCall

if TYPE_CHECKING:
    from ipcio._backend.writer import UncommittedSegment
    from ipcio._posix import store_companions, store_files
elif namespace.NAMES_ARE_FILES:
    from ipcio._posix import store_files
else:
    from ipcio._posix import store_companions

_HIDDEN = re.compile(r"\.ipcio-[0-9a-f]{16}")  # what `invent_name` invents, behind a dot


def open_writer(name: str, perm: int, size: int, *, replace: bool) -> UncommittedSegment:
    """Begin a segment; see `ipcio._backend.writer.WriterBackend`."""
    return (_InPlace if namespace.NAMES_ARE_FILES else _ByCopy)(name, perm, size, replace=replace)


class _InPlace:
    """Writes to the segment itself, which has no name as long as it is not complete."""

    def __init__(self, name: str, perm: int, size: int, *, replace: bool) -> None:
        self.name = name
        self._path = namespace.segment_path(name)
        self._perm = perm
        self._replace = replace
        # To replace another segment, this one needs a name that can be renamed.
        path = f"{namespace.DIRECTORY}/.{invent_name()}" if replace else self._path
        with objects.OpenObject(name, self._path), suppress(FileNotFoundError):
            os.lstat(self._path)  # is the name too long?
        with store_files.NewSegment(name, path) as new:
            new.create_unnamed(perm)
            if size:
                allocate(new.fd, size, reserve=True)
        self._new: store_files.NewSegment | None = new
        self.fd = new.fd

    def commit(self) -> None:
        """Give the segment its name."""
        assert self._new is not None
        with self._new as new:
            size = os.fstat(new.fd).st_size
            if size:
                allocate(new.fd, size, reserve=True)  # also behind what was skipped
            else:
                new.mark_persistent(self._perm)  # before it has a name: without that mark, an empty one is damaged
            new.publish()
            if self._replace:
                # From here on a kill loses neither segment; see `clear_persistent`.
                new.mark_persistent(self._perm)
                self._move(new)
            new.finish(self._perm, persist=True)
            self._new = None
            new.close()

    def check_room(self, size: int) -> None:
        """Raise ``OSError(ENOSPC)`` if the file cannot have so many bytes."""
        check_room(self.fd, size)

    def discard(self) -> None:
        """Close the file."""
        new, self._new = self._new, None
        if new is not None:
            new.roll_back()

    def _move(self, new: objects.NewObject) -> None:
        """Give the object, which has a hidden name, that of another one."""
        for _ in lifetime.retry_while_busy(self.name):
            with store_files.ExistingSegment(self.name, self._path) as old:
                with removal.directory_lock(self._path):
                    moved = self._move_over(old, new)
                old.roll_back()
                if moved:
                    return

    def _move_over(self, old: objects.ExistingObject, new: objects.NewObject) -> bool:
        """Do so, if what is there now lets us; False: look again."""
        try:
            with fork_lock:
                old.open(writable=False)
                if not old.join():
                    return False
                store_files.refuse_semaphore(self.name, old.fd, old.info)
        except FileNotFoundError:
            try:
                os.link(new.path, self._path)
            except FileExistsError:  # another process was faster: that one is replaced
                return False
            os.unlink(new.path)
            return True
        # This process has a share in the old one, so no other process takes it for an orphan and
        # removes the name, which might be the new one's by then.  The lock of the directory excludes `unlink`.
        os.rename(new.path, self._path)
        return True


class _ByCopy:
    """Writes to a temporary file without a name, and then a segment of its size: macOS sizes a segment once only."""

    fd = -1

    def __init__(self, name: str, perm: int, size: int, *, replace: bool) -> None:
        self.name = name
        self._perm = perm
        self._replace = replace
        with suppress(FileNotFoundError):  # is there one, is the name too long?
            shm.attach(name, writable=False, into=_drop)
            if not replace:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        from tempfile import mkstemp  # which a list of objects, which also imports this module, does without

        self.fd, path = mkstemp()  # a file object would warn if it is garbage-collected
        os.unlink(path)
        os.ftruncate(self.fd, size)

    def commit(self) -> None:
        """Make the segment.  One that it replaces loses the name right before."""
        size = os.fstat(self.fd).st_size
        if not size:
            raise OSError(errno.EINVAL, "nothing was written, and a segment cannot be empty here", self.name)
        with mmap.mmap(self.fd, size, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
            while True:
                if self._replace:
                    with suppress(FileNotFoundError):
                        shm.unlink(self.name)
                try:
                    self._create(view)
                    return
                except FileExistsError:
                    if not self._replace:
                        raise

    def check_room(self, size: int) -> None:
        """Raise ``OSError(ENOSPC)`` if the file cannot have so many bytes."""
        check_room(self.fd, size)

    def discard(self) -> None:
        """Close the file."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.discard()

    def _create(self, content: memoryview[int]) -> None:
        with store_companions.NewSegment(self.name, namespace.segment_path(self.name)) as new:
            new.make_of(content, len(content), self._perm)
            new.finish(self._perm, persist=True)
            with fork_lock:
                new.hand_over(_drop)


def _drop(*_: object) -> bool:
    """Take over what was opened, in place of a handle, and keep nothing of it."""
    return True


def clear_persistent(path: str) -> bool:
    """If `path` is the hidden name of a segment that a killed process was writing, mark it as managed.

    So it is removed like any orphan.  Return whether it is one.  Its name shows that: the kernel may
    have dropped the mark of a persistent object.
    """
    if not _HIDDEN.fullmatch(os.path.basename(path)):
        return False
    with HeldByCall() as look:
        look.open_by(os.open, path, lifetime.PROBE)
        fd = look.fd
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return False
        # A process that is about to rename it has a share until that is done.  So if there is
        # none, this is not the name any longer, or will never get another.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not lifetime.path_means(path, info):
            return False
        if info.st_nlink > 1:  # it had got its name, and was to lose this one
            os.unlink(path)
            return False
        os.fchmod(fd, stat.S_IMODE(info.st_mode) & 0o777 & ~namespace.PERSISTENT | namespace.MANAGED)
        return True
