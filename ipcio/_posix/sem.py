"""Semaphores, over the store of the system: plain ones, and crash-safe ones (`ipcio._posix.undo`)."""

from __future__ import annotations

from ipcio._forklock import fork_lock
from ipcio._light import partial, suppress
from ipcio._posix import lifetime, namespace, objects, semlock, undo, undo_record
from ipcio._posix.store import store
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeVar

    from ipcio._backend.sem import Into

    Handle = TypeVar("Handle")

_ENOUGH = 10  # looks at a record without a set


def create(
    name: str,
    value: int,
    *,
    perm: int,
    persist: bool,
    crash_safe: bool,
    bound: int | None,
    into: Into[Handle],
) -> Handle:
    """Make a semaphore that is complete when it gets its name."""
    path = _path(name)
    if crash_safe:
        undo.check_interpreter()
        making, perm = partial(store.NewRecord, name, path), store.record_perm(perm)
        return undo.create(making, store.blank(), value, bound=bound, perm=perm, persist=persist, into=into)
    semlock.check_value(value)
    if bound is not None:
        semlock.check_bound(bound)
    since = None
    while True:
        with store.NewSemaphore(name, path) as new:
            new.make(value, perm)
            with fork_lock:
                raw = new.open_semaphore(semlock.open_semaphore)
                if raw is not None:
                    new.finish(perm, persist=persist)
                    return _opened(into, raw, new)
            new.roll_back()  # another process has unlinked it already: make it again
        since = lifetime.wait_a_moment(name, since)


def attach(name: str, *, owner: int | None = None, into: Into[Handle]) -> Handle:
    """Open what has the name, of either kind."""
    path, looks, since = _path(name), 0, None
    while True:
        with store.ExistingSemaphore(name, path, owner) as found:
            handle = None
            with fork_lock:
                record = _open_file(found)
                if record is not None:
                    handle = undo.attach(found, record, into, again=looks < _ENOUGH)
            if record is None:
                handle = found.open_semaphore(semlock.open_semaphore, partial(_opened, into))
            if handle is not None:
                return handle
            found.roll_back()
        looks += 1
        since = lifetime.wait_a_moment(name, since)


def unlink(name: str) -> None:
    """Remove the name."""
    for _ in lifetime.retry_while_busy(name):
        with store.ExistingSemaphore(name, _path(name)) as found, store.directory_lock(found.path):
            if undo.unlink(found, found.remove_once):
                return


def _path(name: str) -> str:
    try:
        return namespace.semaphore_path(name)
    except OSError as error:  # no descriptor for the question to the C library, say
        error.filename = name
        raise


def _open_file(found: store.ExistingSemaphore) -> undo_record.Record | None:
    """Open the file of a semaphore; return the record of a crash-safe one, which other users may only read."""
    try:
        return undo_record.read(found.fd, found.info) if found.open_if_there(writable=True) else None
    except PermissionError as error:
        if found.fd >= 0:
            raise
        with suppress(PermissionError):
            record = undo_record.read(found.fd, found.info) if found.open_if_there(writable=False) else None
            if record is not None:
                return record
        raise error from None


def _opened(into: Into[Handle], raw: semlock.PosixSemaphore, hand: objects.OpenObject) -> Handle:
    """Under `fork_lock`: hand over a plain semaphore, with its share."""
    objects.keep_share(raw, hand)
    return into(raw, partial(semlock.post, raw), semlock.value_of(raw), False, None)
