"""Semaphores on Linux: files in ``/dev/shm``, exactly those of ``sem_open``; crash-safe ones beside."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from functools import lru_cache, partial

from ipcio._forklock import fork_lock
from ipcio._posix import kinds, lifetime, namespace, objects, removal, undo
from ipcio._record import record_times
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ipcio._backend import OpenSemaphore, Share

    Handle = TypeVar("Handle")

    class SemLock:  # typeshed does not know it
        SEM_VALUE_MAX: int

        @classmethod
        def _rebuild(cls, handle: int, kind: int, maxvalue: int, name: str | None, /) -> PosixSemaphore: ...
        def __enter__(self) -> bool: ...
        def __exit__(self, *_: object) -> None: ...
        def acquire(self, block: bool = ..., timeout: float | None = ..., /) -> bool: ...
        def release(self) -> None: ...
        def _get_value(self) -> int: ...

else:
    from _multiprocessing import SemLock

__all__ = ["STEP", "PosixSemaphore", "attach", "create", "unlink"]

_GLIBC = struct.Struct("=III20x")  # on 64 bits: value, waiters, kind of futex
_KINDS = {0, 0x80}  # private, shared
_MAXIMUM: int = SemLock.SEM_VALUE_MAX
_ENOUGH = 10  # looks at a record without a set
_COUNTING = 1  # SemLock's word for a semaphore that is no lock
_READ_WRITE = 0o600  # what its owner needs to open one

STEP = 4096  # permits released at once; less than a millisecond


class PosixSemaphore(SemLock):
    """The C class behind `multiprocessing.Semaphore`, with its share.

    A ``with`` statement keeps no more than its bound method, if the handle was made for
    it alone; and the name must live as long.
    """

    __slots__ = ("share",)

    share: Share | None


class NewObject(objects.NewObject):
    """A new semaphore, or the record of one."""

    __slots__ = ()

    def _reason(self, number: int) -> str | None:
        if number == errno.EEXIST and not (
            namespace.semaphore_prefix() or kinds.has_name(self.name, self.path, surely=False)
        ):
            return f"shared memory or another file has the name {self.name!r}: {kinds.SHARED_NAMES}"
        return super()._reason(number)


def create(
    name: str, value: int, *, perm: int, persist: bool, crash_safe: bool, into: Callable[[OpenSemaphore], Handle]
) -> Handle:
    """See `ipcio._backend.SemBackend`."""
    making = partial(NewObject, name, _path(name))
    if crash_safe:
        undo.check_interpreter()
        return undo.create(making, _fresh(0), value, perm=perm, persist=persist, into=into)
    if value > _MAXIMUM:
        raise OverflowError(f"a semaphore's value is at most {_MAXIMUM}")
    for _ in lifetime.retry_while_busy(name):
        with making() as new:
            # Opening it by its name takes both permissions; what is too much goes right after.
            new.create_unnamed(perm | _READ_WRITE)
            os.write(new.fd, _fresh(value))
            new.publish()
            with fork_lock:
                handle = _finish(new, perm, persist=persist, into=into)
                if handle is not None:
                    return handle
            new.roll_back()  # unlinked already: as if we had come later
    raise AssertionError("unreachable")


def _finish(
    new: objects.NewObject, perm: int, *, persist: bool, into: Callable[[OpenSemaphore], Handle]
) -> Handle | None:
    raw = _open(new.name, new.path, new.info)
    if raw is None:
        return None
    new.finish(perm, persist=persist)
    return into(_permits(raw, new))


def attach(name: str, *, owner: int | None = None, into: Callable[[OpenSemaphore], Handle]) -> Handle:
    """See `ipcio._backend.SemBackend`."""
    for attempt, _ in enumerate(lifetime.retry_while_busy(name)):
        with objects.ExistingObject(name, _path(name), owner) as found:
            with fork_lock:
                handle = _attach(found, again=attempt < _ENOUGH, into=into)
                if handle is not None:
                    return handle
            found.roll_back()
    raise AssertionError("unreachable")


def _attach(found: objects.ExistingObject, *, again: bool, into: Callable[[OpenSemaphore], Handle]) -> Handle | None:
    """Open what there is; None: look again."""
    record = _open_either(found)
    permits = _attach_plain(found) if record is None else undo.attach(found, record, again=again)
    return None if permits is None else into(permits)


def _attach_plain(found: objects.ExistingObject) -> OpenSemaphore | None:
    if not found.join():
        return None
    objects.check_regular(found.info, "a semaphore")
    _check(found)
    raw = _open(found.name, found.path, found.info)
    return None if raw is None else _permits(raw, found)


def _open_either(found: objects.ExistingObject) -> undo.Record | None:
    """Open a semaphore to read and write; return the record of a crash-safe one, which others may only read."""
    try:
        found.open(writable=True)
        return undo.read(found.fd, found.info)
    except PermissionError as error:
        if found.fd >= 0:
            raise
        with contextlib.suppress(PermissionError):
            found.open(writable=False)
            record = undo.read(found.fd, found.info)
            if record is not None:
                return record
        raise error from None


def unlink(name: str) -> None:
    """See `ipcio._backend.SemBackend`."""
    for _ in lifetime.retry_while_busy(name):
        with objects.ExistingObject(name, _path(name)) as found, removal.directory_lock(found.path):
            if undo.unlink(found, partial(removal.remove_once, found.path, partial(kinds.refuse_other, name))):
                return


def _path(name: str) -> str:
    try:
        return namespace.semaphore_path(name, namespace.DIRECTORY)
    except OSError as error:  # no descriptor for the question to the C library, say
        error.filename = name
        raise


@lru_cache(16)
def _fresh(value: int) -> bytes:
    """Return the bytes of a semaphore that nobody has used yet."""
    from ipcio._posix import libc  # ctypes, which attaching does without

    new = libc.new_semaphore(namespace.SEMAPHORE, value)
    return new if namespace.semaphore_prefix() else kinds.sign(new)


def _check(found: objects.ExistingObject) -> None:
    """Refuse a file that cannot be a semaphore, in as far as that can be seen."""
    size = found.info.st_size
    if size != namespace.SEMAPHORE:
        raise OSError(errno.EINVAL, f"not a semaphore: {size} bytes, where one has {namespace.SEMAPHORE}")
    kinds.refuse_other(found.name, found.fd, found.info)
    # glibc ends the process over a kind of futex that it does not know.
    data = os.pread(found.fd, size, 0)
    if len(data) != size:
        raise OSError(errno.EINVAL, "not a semaphore: another process has cut it short")
    if _GLIBC.size == namespace.SEMAPHORE and _GLIBC.unpack(data)[2] not in _KINDS:
        raise OSError(errno.EINVAL, "not a semaphore, but another file of that size")


def _open(name: str, path: str, info: os.stat_result) -> PosixSemaphore | None:
    """Open the semaphore under a name; None if that is not (any more) the object that `info` is of."""
    try:
        try:
            text = f"/{name}" if name.isascii() else os.fsencode(f"/{name}").decode()
            raw = PosixSemaphore._rebuild(0, _COUNTING, _MAXIMUM, text)
        except UnicodeDecodeError:  # bytes that SemLock cannot be told
            from ipcio._posix import libc

            handle = libc.open_semaphore(os.fsencode(f"/{name}"))
            raw = PosixSemaphore._rebuild(handle, _COUNTING, _MAXIMUM, None)
    except FileNotFoundError:
        if lifetime.path_means(path, info):
            raise OSError(errno.ENOSYS, "this C library keeps semaphores under other names than glibc") from None
        return None
    return raw if lifetime.path_means(path, info) else None


def _permits(raw: PosixSemaphore, hand: objects.OpenObject) -> OpenSemaphore:
    objects.keep_share(raw, hand)
    return raw, partial(_post, raw), raw._get_value, False


def _post(raw: SemLock, n: int) -> None:
    """Release `n` permits.  Signal handlers run only between steps of `STEP` permits."""
    if n > _MAXIMUM - raw._get_value():
        raise OverflowError(f"so many more would take the semaphore over its maximum of {_MAXIMUM}")
    for given in range(0, n, STEP):
        record_times([], min(STEP, n - given), raw.release)
