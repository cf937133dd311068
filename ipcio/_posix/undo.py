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
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct

from ipcio._posix import lifetime
from ipcio._posix.objects import Making, directory, semaphore_path
from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipcio._posix.objects import Finding
    from ipcio._posix.sysv import UndoSemaphore

__all__ = ["ANCHOR", "SIZE", "Record", "attach", "create", "make_mortal", "read", "set_of", "unlink"]

_RECORD = struct.Struct("=64s16sii256s")  # a sem_t of value 0, the magic, key, id, name
_MAGIC = b"ipcio undo sem 1"
_ID = struct.Struct("=i")
_ID_AT = struct.calcsize("=64s16si")
_NO_ID = -1  # until the set is made

SIZE = _RECORD.size
ANCHOR = ".ipcio-undo-"


class Record(NamedTuple):
    """What a file says about a set; anybody can write such a file."""

    key: int
    number: int
    name: str

    @property
    def anchor(self) -> str:
        """The path of the name that no `unlink` removes."""
        return _anchor(self.key)


def _anchor(key: int) -> str:
    return f"{directory()}/{ANCHOR}{key:08x}"


def read(fd: int, info: os.stat_result) -> Record | None:
    """Return what the record open as `fd` says, None if it is no record."""
    if info.st_size != SIZE:
        return None
    data = os.pread(fd, SIZE, 0)
    if len(data) != SIZE:
        return None
    _, magic, key, number, name = _RECORD.unpack(data)
    return Record(key, number, os.fsdecode(name.partition(b"\0")[0])) if magic == _MAGIC and key > 0 else None


def set_of(record: Record, info: os.stat_result) -> int | None:
    """Return the id of the set that the record tells of, None if there is none (any more).

    A record is believed as far as its file belongs to the user who made the set, or
    one could have others operate on, and remove, what is theirs.
    """
    from ipcio._posix import sysv

    number = sysv.find(record.key, info.st_uid)
    return number if record.number in {number, _NO_ID} else None


def create(name: str, path: str, blank: bytes, value: int, *, perm: int, persist: bool) -> UndoSemaphore:
    """Make the set and the record, exclusively; `blank` is a semaphore of value 0."""
    from ipcio._posix import sysv

    if value > sysv.MAXIMUM:
        raise OverflowError(f"a crash-safe semaphore's value is at most {sysv.MAXIMUM}")
    while True:
        key = int.from_bytes(os.urandom(4), "little") % 0x7FFFFFFF + 1  # 0 would mean IPC_PRIVATE
        with Making(name, path) as new:
            new.begin(perm, lives_by=_anchor(key))
            try:
                number = _make(new, key, blank, value, perm)
            except _KeyTakenError:
                new.drop()
                continue
            new.appear()
            if persist:
                try:
                    os.fchmod(new.fd, perm | lifetime.KEEP)
                except BaseException:
                    os.fchmod(new.fd, perm | lifetime.MARK)
                    raise
            return sysv.UndoSemaphore(number, name, new.share)


class _KeyTakenError(Exception):
    pass


def _make(new: Making, key: int, blank: bytes, value: int, perm: int) -> int:
    from ipcio._posix import sysv

    os.write(new.fd, _RECORD.pack(blank, _MAGIC, key, _NO_ID, os.fsencode(new.name)))
    anchor = _anchor(key)
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
    os.pwrite(new.fd, _ID.pack(number), _ID_AT)
    return number


def attach(found: Finding, record: Record, *, again: bool) -> UndoSemaphore | None:
    """Join the semaphore whose record was found; None if it is gone or going: look again what is there now.

    A record without a set is one of the dead, buried by somebody who was killed over it
    or has just been joined by others who will find out, too; unless the set was removed
    by force.  `again` says to look again in either case.
    """
    from ipcio._posix import sysv

    if not lifetime.names(record.anchor, found.info):
        if lifetime.names(found.path, found.info):
            raise OSError(errno.EINVAL, "not a semaphore: a copy of the file of a crash-safe one")
        found.drop()
        return None
    if not found.join(lives_by=record.anchor):
        return None
    number = set_of(record, found.info)
    if number is None:
        found.drop()
        if again or not lifetime.names(record.anchor, found.info):
            return None
        raise OSError(errno.EIDRM, "its System V set is not here: removed, or of another IPC namespace")
    return sysv.UndoSemaphore(number, found.name, found.share)


def unlink(found: Finding, remove: Callable[[], bool]) -> bool:
    """Remove the name of a semaphore of whichever kind; a persistent record then lives by its shares.

    `remove` makes one attempt, as `lifetime.remove_once` does; return what it returns.  The
    caller is `lifetime.alone`, so the record found here is the one that loses its name.
    """
    persistent = _open_persistent(found)
    removed = remove()
    if persistent is not None:
        if removed:
            # Killed before this, we leave an anchor that persists: see `make_mortal`.
            os.fchmod(found.fd, stat.S_IMODE(found.info.st_mode) & 0o777 & ~lifetime.KEEP | lifetime.MARK)
            lifetime.bury(persistent.anchor, found.fd)
        found.drop()
    return removed


def _open_persistent(found: Finding) -> Record | None:
    """If a persistent record is there, open it and return it."""
    try:
        info = os.lstat(found.path)
    except FileNotFoundError:
        return None
    if not (info.st_mode & lifetime.KEEP and stat.S_ISREG(info.st_mode) and info.st_size == SIZE):
        return None
    if not info.st_mode & stat.S_IRUSR and info.st_uid == os.geteuid():
        os.chmod(found.path, stat.S_IMODE(info.st_mode) | stat.S_IRUSR)
    found.open(writable=False)
    record = read(found.fd, found.info)
    if record is None or not lifetime.names(record.anchor, found.info):
        found.drop()
        return None
    return record


def make_mortal(path: str) -> bool:
    """If `path` is the anchor of a persistent record that has lost its name, have it live by its shares.

    Whoever removed the name was killed before he could.  Return whether it is one.
    """
    fd = os.open(path, lifetime.PROBE)
    try:
        info = os.fstat(fd)
        record = read(fd, info) if info.st_mode & lifetime.KEEP else None
        if record is None or record.anchor != path or lifetime.names(semaphore_path(record.name), info):
            return False
        os.fchmod(fd, stat.S_IMODE(info.st_mode) & 0o777 & ~lifetime.KEEP | lifetime.MARK)
        return True
    finally:
        os.close(fd)


def _last_rites(fd: int, info: os.stat_result) -> bool:
    """If this is a dead record, remove its set, then its names, the anchor last."""
    record = read(fd, info)
    # A copy of a record has no part in the set.
    if record is None or not lifetime.names(record.anchor, info):
        return False
    number = set_of(record, info)
    if number is not None:
        from ipcio._posix import sysv

        sysv.remove(number)
    for path in semaphore_path(record.name), record.anchor:
        if lifetime.names(path, info):
            os.unlink(path)
    return True


lifetime.last_rites.append(_last_rites)
