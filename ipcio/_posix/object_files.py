"""The file of a named object: which object it stands for, and what is known of that.

All of this is for lists.  What is there may be exchanged by its owner at any moment, so nothing is
removed or attached because of it.
"""

from __future__ import annotations

import os
import re
import time

from ipcio._layout import DATA
from ipcio._light import lru_cache, suppress
from ipcio._names import SEGMENTS
from ipcio._object_info import ObjectInfo
from ipcio._posix import lifetime, namespace, shared_names, undo_record
from ipcio._posix.namespace import NAMES_ARE_FILES
from ipcio._posix.object_values import value_of
from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    from ipcio._object_info import ProcessInfo

    Kind: TypeAlias = Literal["shm", "sem", "mutex", "event", "queue"]
    State: TypeAlias = Literal["live", "orphan", "persistent", "foreign"]

_SEGMENTS: tuple[Literal["mutex", "event", "queue"], ...] = ("mutex", "event", "queue")
_TEMPORARY = re.compile(r"\.ipcio-[0-9a-f]{16}")  # see `ipcio._posix.objects.NewObject`


class ObjectFile(NamedTuple):
    """The file of a named object."""

    path: str
    info: os.stat_result
    kind: Kind
    name: str
    size: int | None
    is_undo: bool = False
    """Whether it is a crash-safe semaphore."""
    record: undo_record.Record | None = None
    """Of a crash-safe semaphore, if it may be read."""

    @property
    def is_hidden(self) -> bool:
        """Whether this is a name that only ipcio knows."""
        entry = os.path.basename(self.path)
        return (self.is_undo and entry.startswith(undo_record.ANCHOR)) or _TEMPORARY.fullmatch(entry) is not None

    @property
    def is_managed(self) -> bool:
        """Whether it is removed with its last holder; this is always so if it has only a hidden name."""
        if self.record is not None and not self.record.persists:
            return True
        return namespace.is_managed(self.info) or self.is_hidden

    @property
    def has_public_name(self) -> bool:
        """Whether the object of a hidden name is listed under its other one."""
        if self.record is None:
            return self.info.st_nlink > 1
        return bool(self.record.names(self.path, self.info))

    @property
    def object_exists(self) -> bool:
        """Whether the object of a companion has not been removed by another program."""
        from ipcio._posix import companions

        return self.is_undo or self.kind in SEGMENTS or companions.exists(self.kind, self.name)

    @property
    def is_persistent(self) -> bool:
        """Whether ipcio made it to persist."""
        if self.info.st_mode & namespace.PERSISTENT:
            return True
        try:
            fd = os.open(self.path, lifetime.PROBE)
        except OSError:
            return False
        try:
            return namespace.is_persistent(fd, os.fstat(fd)) and os.path.samestat(os.fstat(fd), self.info)
        finally:
            os.close(fd)


def identify(path: str, info: os.stat_result) -> ObjectFile:
    """Return which object a regular file in the directory is; `FileNotFoundError` if it is gone."""
    entry = os.path.basename(path)
    named = namespace.kind_and_name(entry)
    for each in _SEGMENTS:
        if named and named[0] == each:
            size = max(info.st_size - DATA, 0) if each == "queue" else None
            return ObjectFile(path, info, each, named[1], size)
    is_hidden = entry[0] == "."
    if undo_record.is_sealed(info) and (is_hidden or (named and named[0] == "sem")):
        try:
            record = _record(path, info, named[1] if named and not is_hidden else None)
        except PermissionError:  # and only records are sealed
            return ObjectFile(path, info, "sem", named[1] if named else entry, None, is_undo=True)
        if record is not None:
            return ObjectFile(path, info, "sem", record.name, None, is_undo=True, record=record)
    if not NAMES_ARE_FILES:
        kind, name, size = _companion(path, info) or (*(named or ("shm", entry)), 0)
        return ObjectFile(path, info, "sem" if kind == "sem" else "shm", name, size if kind == "shm" else None)
    may_be_semaphore = named is not None and info.st_size == namespace.SEMAPHORE
    if named and may_be_semaphore and (named[1] != entry or shared_names.has_name(entry, path, surely=False)):
        return ObjectFile(path, info, "sem", named[1], None)
    return ObjectFile(path, info, "shm", entry, info.st_size)


def _record(path: str, info: os.stat_result, name: str | None) -> undo_record.Record | None:
    """Return the record; None if the file is a copy, or has another `name` than its record says.

    Pass None as the `name` of a hidden file.
    """
    fd = os.open(path, lifetime.PROBE)
    try:
        record = undo_record.read(fd, info) if os.path.samestat(os.fstat(fd), info) else None
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


def describe(found: ObjectFile, state: State, holders: list[ProcessInfo]) -> ObjectInfo:
    """Return what is known of an object; None for what cannot be read."""
    return ObjectInfo(
        found.kind,
        os.path.basename(found.path) if found.is_hidden else found.name,
        found.size,
        value=value_of(found),
        undo=found.is_undo,
        perm=_perm(found),
        owner=_user(found.info.st_uid),
        age=round(max(time.time() - _time_of_creation(found), 0), 3),
        state=state,
        holders=holders,
    )


def _perm(found: ObjectFile) -> str | None:
    """Return the permissions; None where only the object has them, and does not show them."""
    if found.is_undo and found.record is not None:  # the set has the permissions of other users
        with suppress(OSError, ImportError):
            number = undo_record.set_of(found.record, found.info)
            if number is not None:
                from ipcio._posix import sysv

                return f"{found.info.st_mode & 0o711 | sysv.perm_of(number) & 0o066:04o}"
    if NAMES_ARE_FILES or found.is_undo or found.kind in SEGMENTS:
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


def _time_of_creation(found: ObjectFile) -> float:
    """Return the best guess: a write through a map leaves the file's times alone, ``write`` does not."""
    info = found.info
    if found.is_undo:  # the other time is its seal
        return info.st_ctime
    created: float = getattr(info, "st_birthtime", 0) or min(info.st_mtime, info.st_ctime)
    return created


@lru_cache(64)
def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
