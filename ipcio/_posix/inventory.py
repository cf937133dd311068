"""Which named objects exist, which processes hold them, and the removal of those that no process holds.

To list objects must change nothing and disturb no other process.  So no lock is tried if the
kernel lists the locks (``/proc/locks``), and the files that a process has open or mapped.  What
is seen at one moment may be gone at the next.  So an object is called an orphan only if it is
still there after no holder was seen.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time

from ipcio._light import cache, suppress
from ipcio._names import SEGMENTS
from ipcio._object_info import ProcessInfo
from ipcio._posix import lifetime, namespace, object_files, procfs, undo, undo_record, writer
from ipcio._posix.namespace import NAMES_ARE_FILES
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from ipcio._object_info import ObjectInfo
    from ipcio._posix.object_files import ObjectFile, State

_LOOKS = 3  # at the list of locks
_PAUSE = 0.01  # seconds before an object is called an orphan; its last holder needs microseconds to remove it


def list_objects() -> list[ObjectInfo]:
    return [info for _, info in _survey()]


def _survey() -> list[tuple[ObjectFile, ObjectInfo]]:
    """Return the file of each object, and what is known of the object."""
    found = list(_find_all())
    managed = {procfs.file_key(each.info) for each in found if each.is_managed}
    locked = _locked(managed)
    holders, sharing = _find_holders({procfs.file_key(each.info) for each in found}, locked)
    in_use = locked | sharing
    if managed - in_use:
        # A last holder may be in the middle of its close: it releases the lock before it removes the name.
        time.sleep(_PAUSE)
        in_use |= _locked(managed - in_use)
    return list(_describe_all(found, in_use, holders))


def _describe_all(
    found: list[ObjectFile], in_use: set[str], holders: dict[str, list[ProcessInfo]]
) -> Iterator[tuple[ObjectFile, ObjectInfo]]:
    for each in found:
        key = procfs.file_key(each.info)
        is_orphan = each.is_managed and key not in in_use
        now = _look_again(each) if is_orphan else each
        if now is None or (each.is_managed and now.is_hidden and (not is_orphan or now.has_public_name)):
            continue
        if NAMES_ARE_FILES or is_orphan or now.object_exists:
            yield now, object_files.describe(now, _state(now, is_orphan=is_orphan), holders.get(key, []))


def exists(name: str, kinds: Collection[str]) -> bool:
    place = namespace.directory()
    paths = [namespace.segment_path(name), *namespace.semaphore_paths(name, place)]
    with suppress(OSError):  # the name is too long
        paths += [namespace.segment_path(name, kind) for kind in SEGMENTS]
    found = [each for each in _find_all(map(os.path.basename, paths)) if each.name == name and each.kind in kinds]
    managed = {procfs.file_key(each.info) for each in found if each.is_managed}
    if any(_stays(each) for each in found if not each.is_managed):
        return True
    locked = _locked(managed)
    # Most names that are waited for have no file, and most that have one are locked; the search is long.
    return bool(locked or (managed and _find_holders(managed, locked)[1]))


def _stays(found: ObjectFile) -> bool:
    """Whether an object that is not managed can be attached; those of other programs begin empty."""
    if not NAMES_ARE_FILES and not found.object_exists:
        return False
    return bool(found.info.st_size) or found.is_undo or found.is_persistent or not NAMES_ARE_FILES


def free_memory() -> tuple[str, int] | None:
    if not NAMES_ARE_FILES:
        return None
    place = namespace.directory()
    about = os.statvfs(place)
    return (place, about.f_bavail * about.f_frsize) if about.f_blocks else None


def _find_all(entries: Iterable[str] | None = None) -> Iterator[ObjectFile]:
    """Yield the objects of these files of the directory, by default of all."""
    place = namespace.directory()
    for entry in os.listdir(place) if entries is None else dict.fromkeys(entries):
        path = f"{place}/{entry}"
        # If its owner exchanges, locks or forbids it meanwhile, the others are listed all the same.
        with suppress(OSError):
            info = os.lstat(path)
            if stat.S_ISREG(info.st_mode):  # nothing else can be attached
                yield object_files.identify(path, info)


def _look_again(found: ObjectFile) -> ObjectFile | None:
    """Return what is there now, None if that is another object."""
    try:
        info = os.lstat(found.path)
    except OSError:
        return None
    if procfs.file_key(info) != procfs.file_key(found.info):
        return None
    return found._replace(info=info)  # it may have come to persist


def _state(found: ObjectFile, *, is_orphan: bool) -> State:
    if found.is_managed:
        return "orphan" if is_orphan else "live"
    return "persistent" if found.is_undo or found.is_persistent else "foreign"


def remove_orphans(skipped: Callable[[str, str], object], /, *, dry_run: bool) -> Iterator[ObjectInfo]:
    place = namespace.directory()
    if dry_run:
        yield from _find_orphans(place, skipped)
        return
    # An object that is in use now was so before, so the list is read once for all.
    locks = cache(_locks)
    # Hidden names last: that of a crash-safe semaphore is removed along with its public one.
    for entry in sorted(os.listdir(place), key=lambda entry: (entry[0] == ".", entry)):
        try:
            removed = _remove_orphan(f"{place}/{entry}", entry, locks)
        except FileNotFoundError:  # another process has removed it
            continue
        except OSError as error:
            # Its owner forbids, locks or exchanges it: the others can be removed all the same.
            skipped(entry, error.strerror or str(error))
            continue
        if removed is not None:
            yield removed


def _find_orphans(place: str, skipped: Callable[[str, str], object]) -> Iterator[ObjectInfo]:
    """Yield what `remove_orphans` would remove."""
    about = os.stat(place)
    for found, info in _survey():
        if info.state != "orphan":
            continue
        # In a directory with the sticky bit, as /dev/shm is, only these users may remove a file.
        if not about.st_mode & stat.S_ISVTX or os.geteuid() in {0, about.st_uid, found.info.st_uid}:
            yield info._replace(name=found.name)
        else:
            skipped(os.path.basename(found.path), "only its owner or root can remove it")


def _remove_orphan(path: str, entry: str, locks: Callable[[], dict[str, bool]]) -> ObjectInfo | None:
    """Remove the object if it is orphaned, and return what it was; None if it stays."""
    info = os.lstat(path)
    if not stat.S_ISREG(info.st_mode):  # ipcio did not make it
        return None
    try:
        if not namespace.is_managed(info) and not _clear_persistent(path, entry):
            return None
        found = object_files.identify(path, info)
    except PermissionError:  # only its owner and root can know whether it is to be removed
        return None
    was = object_files.describe(found, "orphan", [])._replace(name=found.name)
    return was if lifetime.free_name(path, patient=False, locked=locks) else None


def _clear_persistent(path: str, entry: str) -> bool:
    """Whether this is the hidden name of an object that was to persist, left by a process that was killed."""
    if entry.startswith(undo_record.ANCHOR):
        return undo.clear_persistent(path)
    try:
        return NAMES_ARE_FILES and writer.clear_persistent(path)
    except BlockingIOError:  # a process is writing it
        return False


# -- locks and holders -------------------------------------------------------


def _locks(wanted: set[str] | None = None) -> dict[str, bool]:
    """Return the kernel's list of locks, as `procfs.flocks`, until all that are `wanted` are in it.

    The kernel gives its list in pieces, and a lock that moves from one to another meanwhile is missed.
    So the list is read more than once.
    """
    found: dict[str, bool] = {}
    for _ in range(_LOOKS):
        for key, is_exclusive in procfs.flocks().items():
            found[key] = is_exclusive or found.get(key, False)
        if wanted is not None and wanted <= found.keys():
            break
    return found


def _locked(wanted: set[str]) -> set[str]:
    """Return which of these objects are locked."""
    try:
        return wanted & _locks(wanted).keys()
    except OSError:
        return set(_try_locks(wanted))


def _try_locks(wanted: set[str]) -> Iterator[str]:
    """Yield which of these objects cannot be locked exclusively, where the kernel does not list locks.

    At worst this keeps a last holder, which tries the same lock in this very moment, from
    removing the object.  Then it is orphaned, and the next call that uses its name removes it.
    """
    place = namespace.directory()
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


def _find_holders(wanted: set[str], locked: set[str]) -> tuple[dict[str, list[ProcessInfo]], set[str]]:
    """Return which processes have these files open or mapped, and which of those not in `locked` have a lock.

    In a container, the kernel's list lacks locks that were taken outside of it, or by a process that
    has exited, as after a fork.
    """
    holders: dict[str, list[ProcessInfo]] = {}
    sharing: set[str] = set()
    root = os.path.realpath(namespace.directory()) + "/"
    for pid in sorted(filter(None, procfs.processes())) if wanted else ():
        held: set[str] = set()
        for descriptor, key in procfs.open_files(pid, root):
            if key in wanted:
                held.add(key)
                if key not in locked and key not in sharing and procfs.has_flock(pid, descriptor):
                    sharing.add(key)
        held.update(wanted.intersection(procfs.mapped_files(pid, os.fsencode(root))))
        if held:
            holder = ProcessInfo(pid, procfs.describe(pid))
            for key in held:
                holders.setdefault(key, []).append(holder)
    return holders, sharing
