"""A segment of a size that nobody knows before its end, where named objects are files.

It is written as a file, so a full ``/dev/shm`` is an error and no signal, and it has no name
as long as it is not complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat

from ipcio._forklock import fork_lock
from ipcio._names import invent_name
from ipcio._posix import lifetime, namespace, objects, removal, shm
from ipcio._unowned import HeldByCall

__all__ = ["Growing", "clear_persistent"]

_HIDDEN = re.compile(r"\.ipcio-[0-9a-f]{16}")  # what `invent_name` invents, behind a dot


class Growing:
    """See `ipcio._backend.Growing`."""

    def __init__(self, name: str, perm: int, size: int, *, replace: bool) -> None:
        self.name = name
        self._path = f"{namespace.DIRECTORY}/{name}"
        self._perm = perm
        self._replace = replace
        # To replace takes a name to rename.
        path = f"{namespace.DIRECTORY}/.{invent_name()}" if replace else self._path
        with objects.OpenObject(name, self._path), contextlib.suppress(FileNotFoundError):
            os.lstat(self._path)  # is the name too long?
        with shm.NewObject(name, path) as new:
            new.create_unnamed(perm)
            if size:
                shm.allocate(new.fd, size, reserve=True)
        self._new: objects.NewObject | None = new
        self.fd = new.fd

    def show(self) -> None:
        """See `ipcio._backend.Growing`."""
        assert self._new is not None
        with self._new as new:
            size = os.fstat(new.fd).st_size
            if size:
                shm.allocate(new.fd, size, reserve=True)  # behind what was skipped, too
            else:
                new.mark_persistent(self._perm)  # before it appears: without that mark, an empty one counts as damaged
            new.publish()
            if self._replace:
                # From here on a kill loses neither segment; see `clear_persistent`.
                new.mark_persistent(self._perm)
                self._move(new)
            new.finish(self._perm, persist=True)
            self._new = None
            new.close()

    def drop(self) -> None:
        """See `ipcio._backend.Growing`."""
        new, self._new = self._new, None
        if new is not None:
            new.roll_back()

    def _move(self, new: objects.NewObject) -> None:
        """Give the object, which has a hidden name, that of another one."""
        for _ in lifetime.retry_while_busy(self.name):
            with objects.ExistingObject(self.name, self._path) as old:
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
                shm.refuse_semaphore(self.name, old.fd, old.info)
        except FileNotFoundError:
            try:
                os.link(new.path, self._path)
            except FileExistsError:  # since: then it is to be replaced
                return False
            os.unlink(new.path)
            return True
        # We have a share in it, so no other process removes the name as that of an orphan, which might be
        # ours then.  An explicit removal is kept out by the lock of the directory.
        os.rename(new.path, self._path)
        return True


def clear_persistent(path: str) -> bool:
    """If `path` is the hidden name of a segment that its writer was killed over, have it live by its shares.

    Return whether it is one.  The form of the name says so: the mark of a persistent object may be lost.
    """
    if not _HIDDEN.fullmatch(os.path.basename(path)):
        return False
    with HeldByCall() as look:
        look.open_file(path, lifetime.PROBE)
        fd = look.fd
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return False
        # Who is about to rename it has a share until that is done.  So if there is none, this is
        # not the name any more, or never will be another.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not lifetime.path_means(path, info):
            return False
        if info.st_nlink > 1:  # it had got its name, and was to lose this one
            os.unlink(path)
            return False
        os.fchmod(fd, stat.S_IMODE(info.st_mode) & 0o777 & ~namespace.PERSISTENT | namespace.MANAGED)
        return True
