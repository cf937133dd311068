"""The files of named objects: created complete or not at all, and found in use or not at all.

In ``/dev/shm`` shared memory and named semaphores are files themselves.  The steps that create
and find one are here.  What happens to the file between the steps depends on the kind of object
(`ipcio._posix.store_files`).  Where objects are no files, the same steps create and find the files
beside them (`ipcio._posix.store_companions`).
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from itertools import starmap

from ipcio._forklock import fork_lock
from ipcio._light import cache, suppress
from ipcio._names import invent_name
from ipcio._posix import lifetime, namespace, removal, shares
from ipcio._record import calling
from ipcio._typing import TYPE_CHECKING
from ipcio._unowned import HeldByCall, close_later, held_by_calls

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, TypeVar

    from ipcio._backend.shm import Into

    Handle = TypeVar("Handle")

_TMPFILE: int = getattr(os, "O_TMPFILE", 0)  # of Linux; 0 elsewhere
_UNNAMED = _TMPFILE | os.O_RDWR | os.O_CLOEXEC

# Errors from open(O_TMPFILE) where it is missing: in an old file system, in an old kernel, for
# which it is O_DIRECTORY, and in sandboxes that imitate a kernel.
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}


class OpenObject(HeldByCall):
    """The object that a call is about: its open descriptor, memory and share, until a handle takes them over.

    If the ``with`` block fails, it closes them, and puts the name that the caller knows into the `OSError`.
    """

    share: shares.Share | None = None

    def __init__(self, name: str, path: str, owner: int | None = None) -> None:
        self.name = name  # as the user spells it
        self.path = path
        self.owner = owner  # the user that an existing object must belong to

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is None:
            held_by_calls.discard(self)
            return
        # After what a signal handler raised, the caller does not wait until gigabytes are freed.
        self.is_urgent = not isinstance(error, OSError) or error.errno is None
        try:
            self.roll_back()
        finally:
            held_by_calls.discard(self)
        if isinstance(error, OSError) and error.errno is not None:
            self._complete(error)

    def _complete(self, error: OSError) -> None:
        """Put the name that the caller knows into the error, which keeps the traceback of the call that failed."""
        if error.strerror == os.strerror(error.errno or 0):
            error.strerror = self._reason(error.errno or 0) or error.strerror
        error.filename = self.name
        if error.filename2 is not None:  # of `os.link`
            del error.filename2
        error.args = error.errno, error.strerror

    def _reason(self, number: int) -> str | None:
        """Return what is wrong with the name or the directory, if that is why a call failed."""
        if number == errno.ENAMETOOLONG:
            return self._limit()
        place = namespace.DIRECTORY
        if number in {errno.ENOENT, errno.ENOTDIR} and sys.platform == "linux" and not os.path.isdir(place):
            return (
                f"{place} is missing, where Linux keeps shared memory and semaphores: "
                "mount a tmpfs there (mode 1777), or use ipcio.mmap over a file"
            )
        if number == errno.EROFS:
            return (
                f"{os.path.dirname(self.path)} is mounted read-only: nothing can be created, changed or removed there"
            )
        return None

    def _limit(self) -> str:
        """Return how long a name may be; this one is too long."""
        length = len(os.fsencode(self.name))
        more = len(os.fsencode(os.path.basename(self.path))) - length
        return f"a name may have {namespace.LONGEST - more} bytes here, not {length}"

    def hand_over(self, into: Into[Handle]) -> Handle:
        """Under `fork_lock`: pass on what is open, and return the handle of it."""
        memory, fd, share = self.memory, self.fd, self.share
        self.memory = self.share = None
        self.fd = -1
        return into(memory, fd, share)

    def close_later(self) -> None:
        """Do as `HeldByCall` does, for the share as well."""
        share, self.share = self.share, None
        if share is not None and share.owns(self.fd):
            self.fd = -1
            share.release(close_later)
        elif share is not None and self.fd >= 0 and share.has_closed(self.fd):
            self.fd = -1
        super().close_later()

    def close_copies(self) -> None:
        """Do as `HeldByCall` does, for the share as well."""
        share, self.share = self.share, None
        if share is not None:
            share.close_copy()
        super().close_copies()


def keep_share(raw: Any, hand: OpenObject) -> None:
    """Under `fork_lock`: give the share to a semaphore; if there is none, close the descriptor."""
    fd, raw.share = hand.fd, hand.share
    hand.share = None
    hand.fd = -1
    if raw.share is None and fd >= 0:
        os.close(fd)


class NewObject(OpenObject):
    """A new object: it has no name at first, and gets it in one step (`link`) when it is complete.

    So no process ever sees an incomplete object, and a kill at any point leaves nothing, or an
    orphaned object that the next call removes.
    """

    info: os.stat_result
    _temporary = ""
    _persists = False

    def _reason(self, number: int) -> str | None:
        """Do as for other objects; a new one also needs permission to create it, and ``/proc`` to get its name."""
        place = os.path.dirname(self.path)
        if number == errno.EACCES and not os.access(place, os.W_OK | os.X_OK):
            return f"this user may not create anything in {place} (for all users its mode is 1777)"
        reason = super()._reason(number)
        if number == errno.ENOENT and reason is None and not os.path.exists("/proc/self/fd"):
            return "/proc is missing, through which a new object gets its name"
        return reason

    def create_unnamed(self, perm: int, *, share_path: str | None = None) -> None:
        """Create an empty object, open as `fd`, with its mode and the first share.

        `share_path` is the path of the share, if that is not the object's own.  An orphaned object that
        has the name is removed first, because it may fill the memory that the new one needs.
        This and the following steps may wait for other processes, so the caller does not hold `fork_lock`.
        """
        if shares.to_recheck:
            shares.recheck()
        self.check_free()
        mode = perm | namespace.MANAGED
        since = None
        while True:
            with fork_lock:
                if self._create_unnamed(mode, share_path or self.path):
                    break
            self.roll_back()
            since = lifetime.wait_a_moment(self.name, since)
        self._perm = perm
        if self.info.st_mode & 0o7777 != mode:  # the umask
            os.fchmod(self.fd, mode)

    def check_free(self) -> None:
        """Remove an orphaned object that has the name; `FileExistsError` if the name is in use."""
        # A link that leads nowhere is not seen here, but by `link`.
        if os.access(self.path, os.F_OK) and not self._free_name(self.path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _free_name(self, path: str) -> bool:
        """Remove an orphaned object that has the name; return whether the name is free now."""
        return lifetime.free_name(path)

    def _create_unnamed(self, mode: int, share_path: str) -> bool:
        if _has_tmpfile():
            # The share opens it once more, to read.
            for self.fd in starmap(os.open, ((namespace.DIRECTORY, _UNNAMED, mode | stat.S_IRUSR),)):
                pass  # `ipcio._record.calling`, written out for speed
            self._source = f"/proc/self/fd/{self.fd}"
        else:
            # It has its mark from the beginning, so `ipcio gc` removes it if this process is killed, and
            # also if it looks before the file is locked.
            temporary = self._source = self._temporary = f"{os.path.dirname(share_path)}/.{invent_name()}"
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            for self.fd in calling(os.open, temporary, flags, 0o600 | namespace.MANAGED):
                pass
        info = self.info = os.fstat(self.fd)
        if not info.st_mode & stat.S_IRUSR:  # the umask
            os.fchmod(self.fd, 0o600 | namespace.MANAGED)
            info = self.info = os.fstat(self.fd)
        self.share = shares.Share(share_path)
        try:
            return self.share.take(self.fd, self._source, info) and (
                not self._temporary or lifetime.path_means(self._temporary, info)
            )
        except FileNotFoundError:
            if not self._temporary:
                raise
            return False  # `ipcio gc` was faster than the lock

    def link(self, path: str) -> None:
        """Give the object a name; `FileExistsError` if an object has it that is not orphaned."""
        while True:
            try:
                # The descriptor argument means nothing for an absolute path.  But with it os.link calls
                # linkat, and only that can follow /proc/self/fd to the object.
                os.link(self._source, path, src_dir_fd=0)
                return
            except FileExistsError:
                if not self._free_name(path):
                    raise

    def publish(self) -> None:
        """Give the object its name; from here on other processes can attach."""
        self.link(self.path)
        if self._temporary:
            os.unlink(self._temporary)

    def mark_persistent(self, perm: int) -> None:
        """Have the object persist; the first share still shows that it is in use."""
        self._persists = True
        namespace.mark_persistent(self.fd, perm)

    def finish(self, perm: int, *, persist: bool) -> None:
        """Do the last step: set the final permissions, and let a persistent object persist."""
        if persist:
            self.mark_persistent(perm)
            assert self.share is not None
            self.share.unlock_and_disown()
            self.share = None
        elif perm != self._perm:
            os.fchmod(self.fd, perm | namespace.MANAGED)

    def close(self) -> None:
        """Close the descriptor, which is no longer needed."""
        super().roll_back()

    def roll_back(self) -> None:
        """Undo everything: close what is open, and remove the names."""
        with suppress(OSError):
            if self._temporary:
                os.unlink(self._temporary)
        if self._persists:
            with suppress(OSError), removal.directory_lock(self.path):
                if lifetime.path_means(self.path, self.info):
                    os.unlink(self.path)
        super().roll_back()


class ExistingObject(OpenObject):
    """The object that has a name: it is opened, and then a share in it is taken.

    If it belongs to another user than `owner` (None: any user), it is not even locked.
    """

    info: os.stat_result

    def open(self, *, writable: bool) -> None:
        """Open it, of whatever kind it is, without following a link or waiting for another process."""
        try:
            arguments = self.path, lifetime.PROBE | os.O_RDWR if writable else lifetime.PROBE
            for self.fd in starmap(os.open, (arguments,)):  # `ipcio._record.calling`, written out for speed
                pass
        except FileNotFoundError:
            if lifetime.is_special(self.path):
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None
            raise
        self.info = os.fstat(self.fd)
        if self.owner is not None:
            check_owner(self.info, self.owner)

    def join(self, share_path: str | None = None) -> bool:
        """Take a share in it, under `fork_lock`.

        Return False if the object has lost its name or is losing it.  The caller closes it (`roll_back`)
        and opens the name again.  An object that is not managed has no shares, unless `share_path`
        is the path of its share.
        """
        if share_path is None and not namespace.is_managed(self.info):
            return True
        self.share = shares.Share(share_path or self.path)
        return self.share.join(self.fd, self.info)


def is_empty(fd: int, info: os.stat_result) -> bool:
    """Whether this is a persistent segment of no bytes; an empty file that is not persistent is no complete segment."""
    return not info.st_size and stat.S_ISREG(info.st_mode) and namespace.is_persistent(fd, info)


def check_owner(info: os.stat_result, owner: int | None) -> None:
    """Raise `PermissionError` if the object belongs to another user than `owner` (None: any user)."""
    if owner is not None and info.st_uid != owner:
        raise PermissionError(errno.EPERM, f"the object belongs to user {info.st_uid}, not to user {owner} (owner=)")


def check_regular(info: os.stat_result, kind: str) -> None:
    """Raise `OSError` if a name means no file, or an empty one; `kind` is what it should have been."""
    if stat.S_ISREG(info.st_mode):
        if not info.st_size:
            raise OSError(errno.EINVAL, f"not {kind} (yet): its size is 0")
    elif stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    else:
        raise OSError(errno.ENODEV, f"not {kind}: not a regular file")


@cache
def _has_tmpfile() -> bool:
    """Whether a file can be created without a name here and get one later (``open(2)``, O_TMPFILE)."""
    if not _TMPFILE:
        return False
    try:
        fd = os.open(namespace.DIRECTORY, _UNNAMED, 0o600)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise  # a failure that passes is no answer to remember
        return False
    try:
        return os.path.exists(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
