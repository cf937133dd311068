"""What named objects there are, and who has them.

Looking must change nothing and be in nobody's way, so no lock is tried where it can be
seen: the kernel lists the locks there are (``/proc/locks``), and which files a process has
open or mapped.  What is seen at one moment may be gone at the next; an object is called
dead only if it was still there after nobody was seen to hold it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import struct
import time
from functools import lru_cache

from ipcio._posix import kinds, lifetime, namespace, procfs, undo
from ipcio._posix.namespace import NAMES_ARE_FILES
from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from ipcio._backend import Entry, ProcessInfo

__all__ = ["directory", "identify", "survey"]

_COUNT = struct.Struct("=Q24x")  # on 64 bits, the value is in the lower half of the first word
_LARGEST = 0x7FFFFFFF  # SEM_VALUE_MAX; musl has the bit above for itself
_TEMPORARY = re.compile(r"\.ipcio-[0-9a-f]{16}")  # see `ipcio._posix.objects.NewObject`
_LOOKS = 3  # at the list of locks
_PAUSE = 0.01  # seconds before an object is called an orphan; its last holder needs microseconds to remove it


class Found(NamedTuple):
    """A file that is a named object, or stands for one."""

    path: str
    info: os.stat_result
    kind: Literal["shm", "sem"]
    name: str
    size: int | None
    is_undo: bool = False
    """Whether it is a crash-safe semaphore."""
    record: undo.Record | None = None
    """Of a crash-safe semaphore, if it may be read."""

    @property
    def is_hidden(self) -> bool:
        """Whether it has no name but one that only ipcio knows."""
        entry = os.path.basename(self.path)
        return (self.is_undo and entry.startswith(undo.ANCHOR)) or _TEMPORARY.fullmatch(entry) is not None

    @property
    def lives_by_shares(self) -> bool:
        """Whether it goes with its last holder; what has no name but a hidden one always does."""
        if self.record is not None and not self.record.persists:
            return True
        return namespace.is_managed(self.info) or self.is_hidden


def directory() -> str:
    """Where the files are."""
    if not NAMES_ARE_FILES:
        from ipcio._posix import companions  # which knows what goes along with a companion

        assert companions
    return namespace.directory()


# -- what it is --------------------------------------------------------------


def identify(path: str, info: os.stat_result) -> Found:
    """Tell what a regular file in the directory is; `FileNotFoundError` if it is not there any more."""
    entry = os.path.basename(path)
    named = namespace.kind_and_name(entry)
    is_hidden = entry[0] == "."
    if undo.is_sealed(info) and (is_hidden or (named and named[0] == "sem")):
        try:
            record = _record(path, info, named[1] if named and not is_hidden else None)
        except PermissionError:  # and nothing else is sealed
            return Found(path, info, "sem", named[1] if named else entry, None, is_undo=True)
        if record is not None:
            return Found(path, info, "sem", record.name, None, is_undo=True, record=record)
    if not NAMES_ARE_FILES:
        kind, name, size = _companion(path, info) or (*(named or ("shm", entry)), 0)
        return Found(path, info, "sem" if kind == "sem" else "shm", name, size if kind == "shm" else None)
    may_be_semaphore = named is not None and info.st_size == namespace.SEMAPHORE
    if named and may_be_semaphore and (named[1] != entry or kinds.has_name(entry, path, surely=False)):
        return Found(path, info, "sem", named[1], None)
    return Found(path, info, "shm", entry, info.st_size)


def _record(path: str, info: os.stat_result, name: str | None) -> undo.Record | None:
    """Return the record, None of a copy or where it lies under another `name` than its own; None is a hidden one."""
    fd = os.open(path, lifetime.PROBE)
    try:
        record = undo.read(fd, info) if os.path.samestat(os.fstat(fd), info) else None
    finally:
        os.close(fd)
    if record is None or name not in {None, record.name}:
        return None
    made = lifetime.path_means(record.anchor(path), info)
    return record if made or _TEMPORARY.fullmatch(os.path.basename(path)) else None


def _companion(path: str, info: os.stat_result) -> tuple[str, str, int] | None:
    from ipcio._posix import companions

    fd = os.open(path, lifetime.PROBE)
    try:
        record = companions.read(fd, info)
    finally:
        os.close(fd)
    return (record.kind, record.name, record.size) if record is not None else None


# -- what there is -----------------------------------------------------------


def survey() -> list[Entry]:
    """See `ipcio._backend.InventoryBackend`."""
    found = list(_look())
    keys = {procfs.file_key(each.info) for each in found}
    locked = _locked({procfs.file_key(each.info) for each in found if each.lives_by_shares})
    holders, sharing = _search(keys, locked)
    unheld = {procfs.file_key(each.info) for each in found if each.lives_by_shares} - locked - sharing
    if unheld:  # or a last holder is in the middle of its close, and has let go of the lock before it removes the name
        time.sleep(_PAUSE)
        locked |= _locked(unheld)
    entries: list[Entry] = []
    for each in found:
        held = True
        if each.lives_by_shares:
            key = procfs.file_key(each.info)
            held = key in locked or key in sharing
            again = each if held else _look_again(each)
            if again is None:
                continue
            each = again  # noqa: PLW2901 -- it may have come to persist
            if each.is_hidden and (held or _has_public_name(each)):
                continue
        if NAMES_ARE_FILES or not held or _object_is_there(each):
            entries.append(_entry(each, held=held, holders=holders.get(procfs.file_key(each.info), [])))
    entries.sort(key=lambda entry: (entry["kind"] != "shm", entry["name"]))
    return entries


def _look() -> Iterator[Found]:
    place = directory()
    for entry in os.listdir(place):
        path = f"{place}/{entry}"
        # What its owner exchanges, locks or forbids meanwhile is no error of a list.
        with contextlib.suppress(OSError):
            info = os.lstat(path)
            if stat.S_ISREG(info.st_mode):  # nothing else can be attached
                yield identify(path, info)


def _look_again(found: Found) -> Found | None:
    """Tell what is there now, None if that is something else; nobody was seen to hold the object."""
    try:
        info = os.lstat(found.path)
    except OSError:
        return None
    if procfs.file_key(info) != procfs.file_key(found.info):
        return None
    return found._replace(info=info)


def _has_public_name(found: Found) -> bool:
    """Whether the object of a hidden name is listed under its other one."""
    if found.record is None:
        return found.info.st_nlink > 1
    return bool(found.record.names(found.path, found.info))


def _object_is_there(found: Found) -> bool:
    """Whether what a file stands for has not been removed by others."""
    from ipcio._posix import companions

    return found.is_undo or companions.exists(found.kind, found.name)


def _entry(found: Found, *, held: bool, holders: list[ProcessInfo]) -> Entry:
    info = found.info
    state: Literal["live", "orphan", "persistent", "foreign"]
    if found.lives_by_shares:
        state = "live" if held else "orphan"
    else:
        state = "persistent" if found.is_undo or _is_persistent(found) else "foreign"
    return {
        "kind": found.kind,
        "name": os.path.basename(found.path) if found.is_hidden else found.name,
        "size": found.size,
        "value": _value(found),
        "undo": found.is_undo,
        "perm": _perm(found),
        "owner": _user(info.st_uid),
        "age": round(max(time.time() - _born(found), 0), 3),
        "state": state,
        "holders": holders,
    }


def _is_persistent(found: Found) -> bool:
    if found.info.st_mode & namespace.PERSISTENT:
        return True
    try:
        fd = os.open(found.path, lifetime.PROBE)
    except OSError:
        return False
    try:
        return namespace.is_persistent(fd, os.fstat(fd)) and os.path.samestat(os.fstat(fd), found.info)
    finally:
        os.close(fd)


def _value(found: Found) -> int | None:
    if found.kind != "sem":
        return None
    try:
        return _value_of_set(found) if found.is_undo else _value_in_file(found.path, found.info)
    except (OSError, ImportError):
        return None


def _value_of_set(found: Found) -> int | None:
    number = undo.set_of(found.record, found.info) if found.record is not None else None
    if number is None:
        return None
    from ipcio._posix import libc

    value: int = libc.semctl(number, 0, libc.GETVAL)
    return value if value >= 0 else None


def _value_in_file(path: str, info: os.stat_result) -> int | None:
    if not NAMES_ARE_FILES or _COUNT.size != namespace.SEMAPHORE:
        return None
    fd = os.open(path, lifetime.PROBE)
    try:
        data = os.pread(fd, namespace.SEMAPHORE, 0)
        if not os.path.samestat(os.fstat(fd), info) or len(data) != namespace.SEMAPHORE:
            return None
    finally:
        os.close(fd)
    word: int = _COUNT.unpack(data)[0]
    return word & _LARGEST


def _perm(found: Found) -> str | None:
    """Return the permissions, None where only the object has them and does not tell."""
    if found.is_undo and found.record is not None:  # the set has what others may do
        with contextlib.suppress(OSError, ImportError):
            number = undo.set_of(found.record, found.info)
            if number is not None:
                from ipcio._posix import sysv

                return f"{found.info.st_mode & 0o711 | sysv.perm_of(number) & 0o066:04o}"
    if NAMES_ARE_FILES or found.is_undo:
        return f"{found.info.st_mode & 0o777 & ~namespace.PERSISTENT:04o}"
    if found.kind != "shm":
        return None
    from ipcio._posix import companions

    try:
        fd = companions.shm_open(companions.posix_name(found.name), os.O_RDONLY, mode=0)
    except OSError:
        return None
    try:
        return f"{os.fstat(fd).st_mode & 0o777:04o}"
    finally:
        os.close(fd)


def _born(found: Found) -> float:
    """When it was made, as far as that can be told: memory that is written to keeps its times, a file does not."""
    info = found.info
    if found.is_undo:  # sealed by the other time
        return info.st_ctime
    born: float = getattr(info, "st_birthtime", 0) or min(info.st_mtime, info.st_ctime)
    return born


@lru_cache(64)
def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


# -- who has it --------------------------------------------------------------


def _locked(wanted: set[str]) -> set[str]:
    """Return which of these objects somebody holds a lock on."""
    try:
        locked = wanted & procfs.flocks().keys()
        # The kernel tells its list in pieces, and what moves from one to another meanwhile is missed.
        for _ in range(_LOOKS - 1):
            if locked == wanted:
                break
            locked |= wanted & procfs.flocks().keys()
    except OSError:
        return set(_tried(wanted))
    return locked


def _tried(wanted: set[str]) -> Iterator[str]:
    """Where no list tells: which of these objects cannot be locked exclusively.

    At worst that keeps a last holder, who wants the same lock in this very moment, from
    removing the object; it is dead then, and the next call or `gc` removes it.
    """
    place = directory()
    for entry in os.listdir(place):
        try:
            fd = os.open(f"{place}/{entry}", lifetime.PROBE)
        except OSError:
            continue
        key = procfs.file_key(os.fstat(fd))
        try:
            if key in wanted:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield key
        finally:
            os.close(fd)


def _search(wanted: set[str], locked: set[str]) -> tuple[dict[str, list[ProcessInfo]], set[str]]:
    """Return which processes have these files open or mapped, and which of those not in `locked` have a lock.

    In a container, the kernel's list of locks lacks those that were taken outside of it, and those
    whose taker has exited, as after a fork.
    """
    holders: dict[str, list[ProcessInfo]] = {}
    sharing: set[str] = set()
    root = os.path.realpath(directory()) + "/"
    for pid in sorted(filter(None, procfs.processes())) if wanted else ():
        held: set[str] = set()
        for descriptor, key in procfs.open_files(pid, root):
            if key in wanted:
                held.add(key)
                if key not in locked and key not in sharing and procfs.has_flock(pid, descriptor):
                    sharing.add(key)
        held.update(wanted.intersection(procfs.mapped_files(pid, os.fsencode(root))))
        if held:
            holder: ProcessInfo = {"pid": pid, "command": procfs.describe(pid)}
            for key in held:
                holders.setdefault(key, []).append(holder)
    return holders, sharing
