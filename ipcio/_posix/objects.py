"""Objects under names in ``/dev/shm``: made whole or not at all, found alive or not at all.

That is where glibc keeps shared memory and named semaphores, and both are
files there.  What `ipcio._posix.shm` and `ipcio._posix.sem` do to an object between
the steps is their own; the steps are here.  Where objects are no files, the same steps
make and find the files that stand for them (`ipcio._posix.companions`).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import sys

from ipcio._forklock import fork_lock
from ipcio._names import invent_name
from ipcio._posix import lifetime, namespace, removal, shares
from ipcio._typing import TYPE_CHECKING
from ipcio._unowned import HeldByCall, close_later, held_by_calls

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from ipcio._backend import Mapping

# Linux's own; 0 where there is no such thing.
_TMPFILE: int = getattr(os, "O_TMPFILE", 0)
_NAMELESS = _TMPFILE | os.O_RDWR | os.O_CLOEXEC

# What open(O_TMPFILE) says where there is no such thing: an old file system, an old
# kernel, which takes it for O_DIRECTORY, or a look-alike of a kernel.
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT}


class OpenObject(HeldByCall):
    """What a call has opened so far; a ``with`` block gives it back if the call fails.

    The block also puts the name that the caller knows into an `OSError`.
    """

    __slots__ = ("name", "path", "share")

    def __init__(self, name: str, path: str) -> None:
        self.is_urgent = False
        self.fd = -1
        self.memory = None
        self.name = name  # as the caller spells it
        self.path = path
        self.share: shares.Share | None = None

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
        """What is the matter with the name or with the place of all objects, if that is why a call failed."""
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
        """How long a name may be, for one that is too long."""
        length = len(os.fsencode(self.name))
        more = len(os.fsencode(os.path.basename(self.path))) - length
        return f"a name may have {namespace.LONGEST - more} bytes here, not {length}"

    def hand_over(self) -> Mapping:
        """Under `fork_lock`: return what is in hand, for a handle to keep."""
        mapping = self.memory, self.fd, self.share
        self.memory = self.share = None
        self.fd = -1
        return mapping

    def close_later(self) -> None:
        """See `ipcio._unowned.HeldByCall`."""
        share, self.share = self.share, None
        if share is not None and share.owns(self.fd):
            self.fd = -1
            share.release(close_later)
        super().close_later()

    def close_copies(self) -> None:
        """See `ipcio._unowned.HeldByCall`."""
        share, self.share = self.share, None
        if share is not None:
            share.lose()
        super().close_copies()


def keep_share(raw: Any, hand: OpenObject) -> None:
    """Under `fork_lock`: the share in hand is that of a semaphore now; without one the descriptor has done its duty."""
    _, fd, raw.share = hand.hand_over()
    if raw.share is None and fd >= 0:
        os.close(fd)


class NewObject(OpenObject):
    """A new object: first without a name, then `link` shows it complete.

    So nobody ever sees half of it, and a kill at any point leaves nothing, or a
    dead object that the next call recognises.
    """

    __slots__ = ("_kept", "_perm", "_source", "_temporary", "info")

    info: os.stat_result

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name, path)
        self._temporary = ""
        self._kept = False

    def _reason(self, number: int) -> str | None:
        """See above; a new object also needs the right to create one, and ``/proc`` to get its name."""
        place = os.path.dirname(self.path)
        if number == errno.EACCES and not os.access(place, os.W_OK | os.X_OK):
            return f"this user may not create anything in {place} (for all users its mode is 1777)"
        reason = super()._reason(number)
        if number == errno.ENOENT and reason is None and not os.path.exists("/proc/self/fd"):
            return "/proc is missing, through which a new object gets its name"
        return reason

    def create_unnamed(self, perm: int, *, lives_by: str | None = None) -> None:
        """Have an empty object open as `fd`, with its mode and the first share.

        `lives_by` is the path of the share, if it is not the object's own.  What the
        dead left under the name goes first: it may fill the place that we need.  Not under
        `fork_lock`, like all that follows here: it may wait for other processes.
        """
        if shares.to_recheck:
            shares.recheck()
        if os.path.lexists(self.path) and not self._bury(self.path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        mode = perm | namespace.MANAGED
        for _ in lifetime.retry_while_busy(self.name):
            with fork_lock:
                if self._create_unnamed(mode, lives_by or self.path):
                    break
            self.roll_back()
        self._perm = perm
        if self.info.st_mode & 0o7777 != mode:  # the umask
            os.fchmod(self.fd, mode)

    def _bury(self, path: str) -> bool:
        return lifetime.free_name(path)

    def _create_unnamed(self, mode: int, lives_by: str) -> bool:
        if _has_tmpfile():
            # The share opens it once more, to read.
            self.fd = os.open(namespace.DIRECTORY, _NAMELESS, mode | stat.S_IRUSR)
            self._source = f"/proc/self/fd/{self.fd}"
        else:
            # Marked from the beginning, so that `gc` finds it if we are killed; which
            # may also find it now, before it is locked.
            self._source = self._temporary = f"{os.path.dirname(lives_by)}/.{invent_name()}"
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            self.fd = os.open(self._temporary, flags, 0o600 | namespace.MANAGED)
        self.info = os.fstat(self.fd)
        if not self.info.st_mode & stat.S_IRUSR:  # the umask
            os.fchmod(self.fd, 0o600 | namespace.MANAGED)
            self.info = os.fstat(self.fd)
        self.share = shares.Share(lives_by)
        return self.share.take(self.fd, self._source, self.info) and (
            not self._temporary or lifetime.path_means(self._temporary, self.info)
        )

    def link(self, path: str) -> None:
        """Give the object a name; `FileExistsError` if somebody alive has it."""
        while True:
            try:
                # The descriptor argument changes nothing about an absolute path, but makes
                # os.link call linkat, which alone can follow /proc/self/fd to the object.
                os.link(self._source, path, src_dir_fd=0)
                return
            except FileExistsError:
                if not self._bury(path):
                    raise

    def publish(self) -> None:
        """Give the object its name; from here on it is there for others."""
        self.link(self.path)
        if self._temporary:
            os.unlink(self._temporary)

    def mark_persistent(self, perm: int) -> None:
        """Have the object persist; the first share still says that somebody is at it."""
        self._kept = True
        namespace.mark_persistent(self.fd, perm)

    def finish(self, perm: int, *, persist: bool) -> None:
        """Last of all: have a persistent object persist, and the permissions be what they are to be."""
        if persist:
            self.mark_persistent(perm)
            assert self.share is not None
            self.share.unlock_and_disown()
            self.share = None
        elif perm != self._perm:
            os.fchmod(self.fd, perm | namespace.MANAGED)

    def close(self) -> None:
        """Close the descriptor, which has done its duty."""
        super().roll_back()

    def roll_back(self) -> None:
        """Give everything back, the name as well."""
        with contextlib.suppress(OSError):
            if self._temporary:
                os.unlink(self._temporary)
        if self._kept:
            with contextlib.suppress(OSError), removal.directory_lock(self.path):
                if lifetime.path_means(self.path, self.info):
                    os.unlink(self.path)
        super().roll_back()


class ExistingObject(OpenObject):
    """What is there under a name: opened, then joined.

    An object of another user than `owner` (None: any user) is not even locked.
    """

    __slots__ = ("info", "owner")

    info: os.stat_result

    def __init__(self, name: str, path: str, owner: int | None = None) -> None:
        super().__init__(name, path)
        self.owner = owner

    def open(self, *, writable: bool) -> None:
        """Open it, whatever it is, without following a link or waiting for another process."""
        try:
            self.fd = os.open(self.path, lifetime.PROBE | (os.O_RDWR if writable else 0))
        except FileNotFoundError:
            if lifetime.is_special(self.path):
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV)) from None
            raise
        self.info = os.fstat(self.fd)
        check_owner(self.info, self.owner)

    def join(self, lives_by: str | None = None) -> bool:
        """Take a share in it, under `fork_lock`; False if it is gone or going: `roll_back` it and look again.

        An object without our mark needs none, unless `lives_by` says where its share is.
        """
        if lives_by is None and not namespace.is_managed(self.info):
            return True
        self.share = shares.Share(lives_by or self.path)
        return self.share.join(self.fd, self.info)


def may_be_semaphore(path: str) -> bool:
    """Whether what has the name has the size of a semaphore, of either kind; which memory seldom has."""
    try:
        return os.lstat(path).st_size in {namespace.SEMAPHORE, namespace.RECORD}
    except OSError:
        return False


def is_empty(fd: int, info: os.stat_result) -> bool:
    """Whether it is a persistent segment of no bytes; one without that mark is damaged, or not complete yet."""
    return not info.st_size and stat.S_ISREG(info.st_mode) and namespace.is_persistent(fd, info)


def check_owner(info: os.stat_result, owner: int | None) -> None:
    """Refuse an object that belongs to another user than `owner` (None: any user)."""
    if owner is not None and info.st_uid != owner:
        raise PermissionError(errno.EPERM, f"the object belongs to user {info.st_uid}, not to user {owner} (owner=)")


def check_regular(info: os.stat_result, kind: str) -> None:
    """Refuse what somebody else put there if it is no file at all; `kind` is what it should have been."""
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.ENODEV, f"not {kind}: not a regular file")
    if not info.st_size:
        raise OSError(errno.EINVAL, f"not {kind} (yet): its size is 0")


@functools.cache
def _has_tmpfile() -> bool:
    """Whether files can be made without a name here and get one later (``open(2)``, O_TMPFILE)."""
    if not _TMPFILE:
        return False
    try:
        fd = os.open(namespace.DIRECTORY, _NAMELESS, 0o600)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise  # that passes, and is no answer to remember
        return False
    try:
        return os.path.exists(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
