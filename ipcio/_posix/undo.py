"""What stands for a crash-safe semaphore in ``/dev/shm``, so that it has a name and a life as all objects.

A System V set has no name, only a key.  Where the name ``x`` would have its semaphore,
the file ``sem.x``, there is a *record* that tells the key and the id of the set.  It
begins with a real semaphore of value 0, so that a foreign ``sem_open`` gets one that
blocks, and not a SIGBUS.

The record has a second, hidden name made of the key, the *anchor*.  The anchor comes
first and goes last, and the set comes after it and goes before it.  So whoever is killed
at whatever point, even while a set goes on after ``sem.x`` was unlinked, the anchor says
that there is a set or was to be one; and the locks on the record say whether anybody
uses it (`ipcio._posix.lifetime`).  A persistent record is locked in the same way, for
the time after its `unlink`.

A file is believed to be a record only if its owner alone can have written it as it is: no
other user has permission to write, and it is *sealed*, which the kernel lets only the owner
do.  So a user with permission to write to a segment of ours cannot make a record of it.  The
permissions that the caller asks for are those of the set.  A user to whom they give the right
to write can read the file.  A name in a record is believed only where it leads to the record.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import sys

from ipcio._forklock import fork_lock
from ipcio._names import check_name
from ipcio._posix import lifetime, namespace
from ipcio._posix.namespace import RECORD, semaphore_path, semaphore_paths
from ipcio._posix.objects import keep_share
from ipcio._typing import TYPE_CHECKING, NamedTuple
from ipcio._unowned import HeldByCall

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ipcio._backend import OpenSemaphore
    from ipcio._posix.objects import ExistingObject, NewObject, OpenObject

    Handle = TypeVar("Handle")

if sys.version_info >= (3, 12):
    from _thread import _is_main_interpreter  # type: ignore[attr-defined]
else:

    def _is_main_interpreter() -> bool:
        import ctypes

        try:
            current, main = ctypes.pythonapi.PyInterpreterState_Get, ctypes.pythonapi.PyInterpreterState_Main
        except AttributeError:  # not CPython: there are no others
            return True
        current.restype = main.restype = ctypes.c_void_p
        return bool(current() == main())


__all__ = [
    "ANCHOR",
    "SIZE",
    "Record",
    "attach",
    "check_interpreter",
    "clear_persistent",
    "create",
    "is_sealed",
    "read",
    "set_of",
    "unlink",
]

_RECORD = struct.Struct("=64s16sii256s")  # a sem_t of value 0, the magic, key, whether it persists, name
_MAGIC = b"ipcio undo sem 2"

# When a record was last modified, in nanoseconds: in 1970.  Only the owner can set that, and
# what others write with a descriptor that they still have sets it to now.  So that the id
# of the set comes in one step, it is what is beyond.
_SEAL = 7_654_321_000_000_000
_NO_ID = -1  # until the set is made
_LARGEST_ID = 0x7FFFFFFF
_WRITABLE = stat.S_IWGRP | stat.S_IWOTH

SIZE = RECORD
assert _RECORD.size == SIZE
ANCHOR = ".ipcio-undo-"


class Record(NamedTuple):
    """What a sealed file says about a set."""

    key: int
    number: int
    persists: bool
    name: str
    """One component of a path."""

    def anchor(self, beside: str) -> str:
        """The path of the name that no `unlink` removes, in the directory of the path `beside`."""
        return _anchor(self.key, beside)

    def path(self, beside: str) -> str:
        """The path of the name that others know, in that directory."""
        return semaphore_path(self.name, os.path.dirname(beside))

    def names(self, beside: str, info: os.stat_result) -> list[str]:
        """The paths of that kind that mean the record, which `info` is of."""
        paths = semaphore_paths(self.name, os.path.dirname(beside))
        return [path for path in paths if lifetime.path_means(path, info)]


def _anchor(key: int, beside: str) -> str:
    return f"{os.path.dirname(beside)}/{ANCHOR}{key:08x}"


def is_sealed(info: os.stat_result) -> bool:
    """Whether a file can be a record: its owner alone can have made it, as it is."""
    return (
        info.st_size == SIZE
        and _NO_ID <= _number_in(info) <= _LARGEST_ID
        and stat.S_ISREG(info.st_mode)
        and not info.st_mode & _WRITABLE
    )


def _number_in(info: os.stat_result) -> int:
    return info.st_mtime_ns - _SEAL - 1


def _seal(fd: int, number: int) -> None:
    time = _SEAL + 1 + number
    os.utime(fd, ns=(time, time))
    if os.fstat(fd).st_mtime_ns != time:  # a file system with coarser times: the key has to do
        os.utime(fd, ns=(_SEAL, _SEAL))


def read(fd: int, info: os.stat_result) -> Record | None:
    """Return what the record open as `fd` says, None if it is no record."""
    if not is_sealed(info):
        return None
    data = os.pread(fd, SIZE, 0)
    if len(data) != SIZE:
        return None
    _, magic, key, persists, name = _RECORD.unpack(data)
    try:
        text = check_name(os.fsdecode(name.partition(b"\0")[0]))
    except ValueError:
        return None
    return Record(key, _number_in(info), bool(persists), text) if magic == _MAGIC and key > 0 else None


def set_of(record: Record, info: os.stat_result) -> int | None:
    """Return the id of the set that the record tells of, None if there is none (any more).

    A record is believed as far as its file belongs to the user who made the set, or
    one could have others operate on, and remove, what is theirs.
    """
    from ipcio._posix import sysv

    number = sysv.find(record.key, info.st_uid)
    return number if record.number in {number, _NO_ID} else None


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
    perm: int,
    persist: bool,
    into: Callable[[OpenSemaphore], Handle],
) -> Handle:
    """Make the set and the record, exclusively, after `check_interpreter`.

    `making` prepares the record; `blank` is a semaphore of value 0.
    """
    from ipcio._posix import sysv

    if value > sysv.MAXIMUM:
        raise OverflowError(f"a crash-safe semaphore's value is at most {sysv.MAXIMUM}")
    while True:
        key = int.from_bytes(os.urandom(4), "little") % 0x7FFFFFFF + 1  # 0 would mean IPC_PRIVATE
        with making() as new:
            mode = _mode_for(perm)
            new.create_unnamed(mode, share_path=_anchor(key, new.path))
            # Sealed before it has a name: from then on every process that finds it believes it.
            os.write(new.fd, _RECORD.pack(blank, _MAGIC, key, persist, os.fsencode(new.name)))
            _seal(new.fd, _NO_ID)
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
                return into(_permits(number, new))


def _permits(number: int, hand: OpenObject) -> OpenSemaphore:
    from ipcio._posix import sysv

    raw = sysv.UndoSemaphore(number, hand.name, None)
    keep_share(raw, hand)
    return raw, raw.post, raw.value, True


def _mode_for(perm: int) -> int:
    """The permissions of the record of a set that has `perm`: instead of writing to it, others may read it."""
    return perm & ~_WRITABLE | (perm & _WRITABLE) << 1


class _KeyTakenError(Exception):
    pass


def _make(new: NewObject, key: int, value: int, perm: int) -> int:
    from ipcio._posix import sysv

    anchor = _anchor(key, new.path)
    try:
        new.link(anchor)
    except FileExistsError:
        raise _KeyTakenError from None
    try:
        number = sysv.make(key, (perm | 0o600) & 0o666)
    except FileExistsError:
        os.unlink(anchor)  # lest it stand for a set that is not ours
        raise _KeyTakenError from None
    except OSError:
        # There is no set: nobody need look for it, which a sandbox would refuse as well.
        with contextlib.suppress(OSError):
            os.unlink(anchor)
        raise
    sysv.begin(number, value)
    if perm & stat.S_IRWXG and new.info.st_gid != os.getegid():  # the directory says whose group files have
        sysv.give_to_group(number, new.info.st_gid)
    _seal(new.fd, number)
    return number


def attach(found: ExistingObject, record: Record, *, again: bool) -> OpenSemaphore | None:
    """Join the semaphore whose record was found, under `fork_lock`; None if it is gone or going: look again.

    A record without a set is one of the dead, buried by somebody who was killed over it
    or has just been joined by others who will find out, too; unless the set was removed
    by force.  `again` says to look again in either case.
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
    number = set_of(record, found.info)
    if number is None:
        if again or not lifetime.path_means(anchor, found.info):
            return None
        raise OSError(errno.EIDRM, "its System V set is not here: removed, or of another IPC namespace")
    return _permits(number, found)


def unlink(found: ExistingObject, remove: Callable[[], bool]) -> bool:
    """Remove the name of a semaphore of whichever kind; a persistent record then lives by its shares.

    `remove` makes one attempt, as `removal.remove_once` does; return what it returns.  The
    caller holds `removal.directory_lock`, so the record found here is the one that loses its name.
    """
    persistent = _open_persistent(found)
    removed = remove()
    if persistent is not None:
        if removed:
            # Killed before this, we leave an anchor that persists: see `clear_persistent`.
            _mark(found.fd, found.info)
            lifetime.remove_if_orphan(persistent.anchor(found.path), found.fd)
        found.roll_back()
    return removed


def _mark(fd: int, info: os.stat_result) -> None:
    """Have the record live by its shares."""
    os.fchmod(fd, stat.S_IMODE(info.st_mode) & 0o777 & ~namespace.PERSISTENT | namespace.MANAGED)


def _open_persistent(found: ExistingObject) -> Record | None:
    """If a persistent record is there, open it and return it."""
    try:
        info = os.lstat(found.path)
    except FileNotFoundError:
        return None
    if not is_sealed(info) or namespace.is_managed(info):
        return None
    if not info.st_mode & stat.S_IRUSR and info.st_uid == os.geteuid():
        lifetime.make_readable(found.path, info)
    with fork_lock:
        found.open(writable=False)
    record = read(found.fd, found.info)
    if record is None or record.name != found.name or not lifetime.path_means(record.anchor(found.path), found.info):
        found.roll_back()
        return None
    return record


def clear_persistent(path: str) -> bool:
    """If `path` is the anchor of a record that has lost its mark, have it live by its shares; return whether it is one.

    A persistent one without a name is one: the process that removed the name was killed before
    it could do this.  So is one that does not persist: its mode was changed.
    """
    with HeldByCall() as look:
        look.open_file(path, lifetime.PROBE)
        fd = look.fd
        info = os.fstat(fd)
        record = read(fd, info)
        if record is None or record.anchor(path) != path:
            return False
        if record.persists and record.names(path, info):
            return False
        _mark(fd, info)
        return True


def _before_removal(beside: str, fd: int, info: os.stat_result) -> bool:
    """If this is a dead record, remove its set, then its names, the anchor last."""
    record = read(fd, info)
    # A copy of a record has no part in the set.
    if record is None or not lifetime.path_means(record.anchor(beside), info):
        return False
    number = set_of(record, info)
    if number is not None:
        from ipcio._posix import sysv

        sysv.remove(number)
    for path in *record.names(beside, info), record.anchor(beside):
        if lifetime.path_means(path, info):
            os.unlink(path)
    return True


lifetime.before_removal.append(_before_removal)
