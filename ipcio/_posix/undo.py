"""The file of a crash-safe semaphore, which gives a System V set a name and a lifetime.

A System V set has no name, only a key.  Where the semaphore of the name ``x`` would be,
in the file ``sem.x``, there is a *record* with the key and the id of the set.  It
begins with a real semaphore of value 0, so that a foreign ``sem_open`` gets one that
blocks, and not SIGBUS.

The record has a second, hidden name made of the key, the *anchor*.  The anchor is created
first and removed last; the set is created after it and removed before it.  So wherever a process
is killed, and also while a set is in use after the `unlink` of ``sem.x``, the anchor shows
that there is a set, or that there was to be one.  The locks on the record show whether it is
in use (`ipcio._posix.lifetime`).  A persistent record is locked in the same way, for the time
after its `unlink`.  What is in a record, and when it is believed, is in `ipcio._posix.undo_record`.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from ipcio._forklock import fork_lock
from ipcio._light import suppress
from ipcio._posix import lifetime, namespace, undo_record
from ipcio._posix.objects import keep_share
from ipcio._typing import TYPE_CHECKING
from ipcio._unowned import HeldByCall

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ipcio._backend.sem import Into
    from ipcio._posix.objects import ExistingObject, NewObject, OpenObject

    Handle = TypeVar("Handle")

if sys.version_info >= (3, 12):
    from _thread import _is_main_interpreter  # type: ignore[attr-defined]
else:

    def _is_main_interpreter() -> bool:
        import ctypes

        try:
            current, main = ctypes.pythonapi.PyInterpreterState_Get, ctypes.pythonapi.PyInterpreterState_Main
        except AttributeError:  # not CPython: there is one interpreter
            return True
        current.restype = main.restype = ctypes.c_void_p
        return bool(current() == main())


def check_interpreter() -> None:
    """Raise `NotImplementedError` in an interpreter other than the main one.

    The kernel counts permits per process, and each interpreter would keep a count of its own: a
    permit that one acquires and another one releases would come back once more at the end.
    """
    if not _is_main_interpreter():
        raise NotImplementedError(
            "a crash-safe semaphore works only in the main interpreter of a process: the kernel counts permits per "
            "process, and interpreters do not see each other's.  Use it in the main interpreter or in a process of its "
            "own (mod_wsgi: WSGIApplicationGroup %{GLOBAL}; uWSGI: single-interpreter), or create it with undo=False"
        )


def create(
    making: Callable[[], NewObject],
    blank: bytes,
    value: int,
    *,
    bound: int | None,
    perm: int,
    persist: bool,
    into: Into[Handle],
) -> Handle:
    """Make the set and its record, exclusively; the caller has called `check_interpreter`.

    `making` returns the new object for the record; `blank` is a semaphore of value 0.
    """
    from ipcio._posix import sysv

    if max(value, bound or 0) > sysv.MAXIMUM:
        raise OverflowError(f"a crash-safe semaphore's value is at most {sysv.MAXIMUM}")
    while True:
        key = int.from_bytes(os.urandom(4), "little") % 0x7FFFFFFF + 1  # 0 would mean IPC_PRIVATE
        with making() as new:
            mode = undo_record.mode_for(perm)
            new.create_unnamed(mode, share_path=undo_record.anchor_path(key, new.path))
            # It is sealed before it has a name, because every process that finds it believes it.
            os.write(new.fd, undo_record.pack(blank, key, persist, bound, new.name))
            undo_record.seal(new.fd, undo_record.NO_ID)
            try:
                number = _make(new, key, value, perm)
            except _KeyTakenError:
                new.roll_back()
                continue
            new.publish()
            if persist:
                try:
                    namespace.mark_persistent(new.fd, mode)
                except BaseException:
                    os.fchmod(new.fd, mode | namespace.MANAGED)
                    raise
            with fork_lock:
                return _permits(into, number, new, bound)


def _permits(into: Into[Handle], number: int, hand: OpenObject, bound: int | None) -> Handle:
    from ipcio._posix import sysv

    raw = sysv.UndoSemaphore(number, hand.name, None, bound)
    keep_share(raw, hand)
    return into(raw, raw.post, raw.value, True, bound)


class _KeyTakenError(Exception):
    pass


def _make(new: NewObject, key: int, value: int, perm: int) -> int:
    from ipcio._posix import sysv

    anchor = undo_record.anchor_path(key, new.path)
    try:
        new.link(anchor)
    except FileExistsError:
        raise _KeyTakenError from None
    try:
        number = sysv.make(key, (perm | 0o600) & 0o666)
    except FileExistsError:
        os.unlink(anchor)  # it would be the anchor of a set that is not ours
        raise _KeyTakenError from None
    except OSError:
        # There is no set, so the anchor is not needed; and in a sandbox without semget `ipcio gc` could not remove it.
        with suppress(OSError):
            os.unlink(anchor)
        raise
    sysv.set_value(number, value)
    if perm & stat.S_IRWXG and new.info.st_gid != os.getegid():  # the directory gives files its group
        sysv.give_to_group(number, new.info.st_gid)
    undo_record.seal(new.fd, number)
    return number


def attach(found: ExistingObject, record: undo_record.Record, into: Into[Handle], *, again: bool) -> Handle | None:
    """Under `fork_lock`: take a share in the record that was found and return its handle; None: open the name again.

    A record in use may have lost its set.  Either another process removed the set of an orphaned record and
    was killed before it removed the names, or a program removed the set by force.  In the first case
    the name will be free when it is opened again.  So the result is None as long as `again` is
    true, and after that an `OSError` is raised.
    """
    check_interpreter()
    from ipcio._posix import sysv

    anchor = record.anchor(found.path)
    if record.name != found.name or not lifetime.path_means(anchor, found.info):
        if lifetime.path_means(found.path, found.info):
            raise OSError(errno.EINVAL, "not a semaphore: a copy of the file of a crash-safe one, or a link to it")
        return None
    sysv.check_access(record.key)
    if not found.join(share_path=anchor):
        return None
    number = undo_record.set_of(record, found.info)
    if number is None:
        if again or not lifetime.path_means(anchor, found.info):
            return None
        raise OSError(errno.EIDRM, "its System V set is not here: removed, or of another IPC namespace")
    return _permits(into, number, found, record.bound)


def unlink(found: ExistingObject, remove: Callable[[], bool]) -> bool:
    """Remove the name of a semaphore of either kind; from then on a persistent record exists as long as it has handles.

    `remove` makes one attempt, as `removal.remove_once` does, and this returns its result.  The
    caller holds `removal.directory_lock`, so the record found here is the one that loses its name.
    """
    persistent = _open_persistent(found)
    removed = remove()
    if persistent is not None:
        if removed:
            # If this process is killed before this, an anchor that persists is left: see `clear_persistent`.
            _mark_managed(found.fd, found.info)
            lifetime.remove_if_orphan(persistent.anchor(found.path), found.fd)
        found.roll_back()
    return removed


def _mark_managed(fd: int, info: os.stat_result) -> None:
    """Have the record exist only as long as it has handles."""
    os.fchmod(fd, stat.S_IMODE(info.st_mode) & 0o777 & ~namespace.PERSISTENT | namespace.MANAGED)


def _open_persistent(found: ExistingObject) -> undo_record.Record | None:
    """If the name means a persistent record, open it and return it."""
    try:
        info = os.lstat(found.path)
    except FileNotFoundError:
        return None
    if not undo_record.is_sealed(info) or namespace.is_managed(info):
        return None
    if not info.st_mode & stat.S_IRUSR and info.st_uid == os.geteuid():
        lifetime.make_readable(found.path, info)
    with fork_lock:
        found.open(writable=False)
    record = undo_record.read(found.fd, found.info)
    if record is None or record.name != found.name or not lifetime.path_means(record.anchor(found.path), found.info):
        found.roll_back()
        return None
    return record


def clear_persistent(path: str) -> bool:
    """If `path` is the anchor of a record that should be managed and lacks the mark, mark it; return whether it is one.

    Such a record is a persistent one without a public name: the process that removed the name was killed
    before it could do this.  Or it is not persistent, and some program has changed its mode.
    """
    with HeldByCall() as found:
        found.open_by(os.open, path, lifetime.PROBE)
        fd = found.fd
        info = os.fstat(fd)
        record = undo_record.read(fd, info)
        if record is None or record.anchor(path) != path:
            return False
        if record.persists and record.names(path, info):
            return False
        _mark_managed(fd, info)
        return True


def before_removal(beside: str, fd: int, info: os.stat_result) -> bool:
    """If the orphaned object is a record, remove its set, then its names, the anchor last; return whether it is one."""
    record = undo_record.read(fd, info)
    # The removal of a copy of a record must not touch the set.
    if record is None or not lifetime.path_means(record.anchor(beside), info):
        return False
    number = undo_record.set_of(record, info)
    if number is not None:
        from ipcio._posix import sysv

        sysv.remove(number)
    for path in *record.names(beside, info), record.anchor(beside):
        if lifetime.path_means(path, info):
            os.unlink(path)
    return True
