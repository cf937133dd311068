"""The store of a system on which named objects are files: Linux, with glibc or musl.

The files are exactly those of ``shm_open`` and ``sem_open`` (`ipcio._posix.namespace`), so what
`ipcio._posix.objects` does to files is all that they need.  What is special of each kind is here.
"""

from __future__ import annotations

import errno
import os
import struct

from ipcio._forklock import fork_lock
from ipcio._light import lru_cache, partial
from ipcio._posix import lifetime, namespace, objects, removal
from ipcio._posix.allocation import allocate
from ipcio._posix.mmap import map_descriptor
from ipcio._typing import TYPE_CHECKING
from ipcio._unowned import HeldByCall

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ipcio._backend.shm import Into

    Handle = TypeVar("Handle")
    T = TypeVar("T")

directory_lock = removal.directory_lock

_GLIBC = struct.Struct("=III20x")  # of a semaphore on 64 bits: value, waiters, kind of futex
_FUTEXES = {0, 0x80}  # private, shared
_READ_WRITE = 0o600  # what its owner needs to open a semaphore


def before_removal(path: str, fd: int, info: os.stat_result) -> bool:
    """Remove the set and the names of an orphaned crash-safe semaphore; see `ipcio._posix.lifetime`."""
    if info.st_size != namespace.RECORD:  # nearly always
        return False
    from ipcio._posix import undo

    return undo.before_removal(path, fd, info)


# -- shared memory -----------------------------------------------------------


class NewSegment(objects.NewObject):
    """A new segment."""

    def make(
        self,
        size: int,
        perm: int,
        *,
        persist: bool,
        reserve: bool,
        init: Callable[[Handle], object] | None,
        into: Into[Handle],
    ) -> Handle:
        """Make it, give it its name, and return its handle."""
        self.create_unnamed(perm)
        allocate(self.fd, size, reserve=reserve)
        with fork_lock:
            self.memory = map_descriptor(self.fd, size, writable=True)
        if init is not None:
            return self._publish_filled(perm, persist=persist, init=init, into=into)
        self.publish()
        self.finish(perm, persist=persist)
        with fork_lock:
            return self.hand_over(into)

    def _publish_filled(
        self, perm: int, *, persist: bool, init: Callable[[Handle], object], into: Into[Handle]
    ) -> Handle:
        """Have `init` write to it through the handle before it gets its name."""
        with HeldByCall() as other:  # a descriptor that the handle does not close
            other.open_by(os.dup, self.fd)
            with fork_lock:
                if persist:  # the share stays here, and is given up when the object has its name
                    handle = self._hand_over_memory(other, into)
                else:
                    if not self._temporary:
                        self._source = f"/proc/self/fd/{other.fd}"
                    handle = self.hand_over(into)
            init(handle)
            self.publish()
            self.finish(perm, persist=persist)
            self.close()
            return handle

    def _hand_over_memory(self, other: HeldByCall, into: Into[Handle]) -> Handle:
        """Under `fork_lock`: pass on the memory and the other descriptor."""
        memory, fd = self.memory, other.fd
        self.memory = None
        other.fd = -1
        return into(memory, fd, None)

    def _reason(self, number: int) -> str | None:
        if number == errno.EEXIST and _may_be_semaphore(self.path):
            from ipcio._posix import shared_names

            if shared_names.has_name(self.name, self.path, surely=True):
                return f"a semaphore has the name {self.name!r}: {shared_names.SHARED}"
        return super()._reason(number)


class ExistingSegment(objects.ExistingObject):
    """A segment that was found under a name; messages say `called`."""

    called = "shared memory"

    def map(self, into: Into[Handle], *, writable: bool) -> Handle | None:
        """Join it and map it, and return its handle; None: it is gone or going, so roll back and look again."""
        with fork_lock:
            self.open(writable=writable)
            if not self.join():
                return None
            info = self.info
            size = info.st_size
            if size in _SIZES_OF_SEMAPHORES:  # hardly ever
                refuse_semaphore(self.name, self.fd, info)
            if size or not objects.is_empty(self.fd, info):
                objects.check_regular(info, self.called)
                try:
                    self.memory = map_descriptor(self.fd, size, writable=writable)
                except ValueError:
                    raise OSError(errno.EINVAL, "another process is truncating the object") from None
            return self.hand_over(into)

    def remove_once(self) -> bool:
        """Try once to remove the name, under `directory_lock`; False: another process is in mid-step."""
        return removal.remove_once(self.path, partial(refuse_semaphore, self.name))


def refuse_semaphore(name: str, fd: int, info: os.stat_result) -> bool:
    """Refuse a semaphore that has the name; otherwise return True."""
    if info.st_size not in _SIZES_OF_SEMAPHORES:  # nearly always
        return True
    from ipcio._posix import shared_names

    return shared_names.refuse_semaphore(name, fd, info)


_SIZES_OF_SEMAPHORES = {namespace.SEMAPHORE, namespace.RECORD}  # which memory seldom has


def _may_be_semaphore(path: str) -> bool:
    try:
        return os.lstat(path).st_size in _SIZES_OF_SEMAPHORES
    except OSError:
        return False


# -- semaphores --------------------------------------------------------------


class NewSemaphore(objects.NewObject):
    """A new semaphore, plain or crash-safe."""

    def make(self, value: int, perm: int) -> None:
        """Make a plain one and give it its name."""
        # To open it by its name takes both permissions; `finish` drops those that are too many.
        self.create_unnamed(perm | _READ_WRITE)
        os.write(self.fd, new_semaphore(value))
        self.publish()

    def open_semaphore(self, opener: Callable[[str], T]) -> T | None:
        """Open it by its name; None: another process has unlinked it already."""
        return _open_semaphore(self, opener)

    def _reason(self, number: int) -> str | None:
        if number == errno.EEXIST and not namespace.semaphore_prefix():
            from ipcio._posix import shared_names

            if not shared_names.has_name(self.name, self.path, surely=False):
                return f"shared memory or another file has the name {self.name!r}: {shared_names.SHARED}"
        return super()._reason(number)


NewRecord = NewSemaphore


class ExistingSemaphore(objects.ExistingObject):
    """A semaphore that was found under a name."""

    def open_if_there(self, *, writable: bool) -> bool:
        """Open the file, under `fork_lock`; return whether there is one, which here is always so."""
        self.open(writable=writable)
        return True

    def open_semaphore(
        self, opener: Callable[[str], T], into: Callable[[T, ExistingSemaphore], Handle]
    ) -> Handle | None:
        """Join it and open it, after `open_if_there`, and return what `into` makes of it.

        None: it is gone or going, so roll back and look again.
        """
        with fork_lock:
            if not self.join():
                return None
            objects.check_regular(self.info, "a semaphore")
            self._check()
            raw = _open_semaphore(self, opener)
            return None if raw is None else into(raw, self)

    def remove_once(self) -> bool:
        """Try once to remove the name, under `directory_lock`; False: another process is in mid-step."""
        return removal.remove_once(self.path, self._is_semaphore)

    def _is_semaphore(self, fd: int, info: os.stat_result) -> bool:
        """Refuse what is no semaphore, where memory may have the name; otherwise return True."""
        if namespace.semaphore_prefix():
            return True
        from ipcio._posix import shared_names

        return shared_names.refuse_other(self.name, fd, info)

    def _check(self) -> None:
        """Refuse a file that cannot be a semaphore, in as far as that can be seen."""
        size = self.info.st_size
        if size != namespace.SEMAPHORE:
            raise OSError(errno.EINVAL, f"not a semaphore: {size} bytes, where one has {namespace.SEMAPHORE}")
        self._is_semaphore(self.fd, self.info)
        # glibc ends the process over a kind of futex that it does not know.
        data = os.pread(self.fd, size, 0)
        if len(data) != size:
            raise OSError(errno.EINVAL, "not a semaphore: another process has truncated it")
        if _GLIBC.size == namespace.SEMAPHORE and _GLIBC.unpack(data)[2] not in _FUTEXES:
            raise OSError(errno.EINVAL, "not a semaphore, but another file of that size")


@lru_cache(16)
def new_semaphore(value: int) -> bytes:
    """Return the bytes of a semaphore that no process has used yet."""
    from ipcio._posix import libc  # ctypes, which attaching does without

    new = libc.new_semaphore(namespace.SEMAPHORE, value)
    if namespace.semaphore_prefix():
        return new
    from ipcio._posix import shared_names

    return shared_names.sign(new)


def record_perm(perm: int) -> int:
    """Return the permissions of a crash-safe semaphore."""
    return perm


def blank() -> bytes:
    """Return a semaphore of value 0: what other programs find when they open a crash-safe one."""
    return new_semaphore(0)


def _open_semaphore(hand: NewSemaphore | ExistingSemaphore, opener: Callable[[str], T]) -> T | None:
    """Open the semaphore that has the name; None if that is not (any longer) the object in hand."""
    try:
        raw = opener(hand.name)
    except FileNotFoundError:
        if lifetime.path_means(hand.path, hand.info):
            raise OSError(errno.ENOSYS, "this C library keeps semaphores under other names than glibc") from None
        return None
    return raw if lifetime.path_means(hand.path, hand.info) else None
