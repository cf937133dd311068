"""What a list shows of the contents of an object: the value of a semaphore, the owner of a mutex, and so on.

The contents are read by calls that fail if the file was truncated, and any number in them may be wrong: another
user may have written it.  So it is shown, and nothing is done because of it.
"""

from __future__ import annotations

import os
import struct
import sys

from ipcio._layout import HEADER, LOCKS, MESSAGES, MESSAGES_AT, QUEUE_HEAD, QUEUE_TAIL, RANGE_LOCKS, SLOT, WIDE, WORDS
from ipcio._posix import lifetime, namespace, procfs, thread_ids, undo_record
from ipcio._posix.namespace import NAMES_ARE_FILES
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipcio._posix.object_files import ObjectFile

_COUNT = struct.Struct("=Q24x")  # on 64 bits, the value is in the lower half of the first word
_LARGEST = 0x7FFFFFFF  # SEM_VALUE_MAX; musl uses the bit above for itself

# The slot of a lock.  A range lock: process, PID namespace.  A robust mutex: its first word, another one.  Both:
# notes, and the process to which the lock is lent, with its start.
_OWNER = struct.Struct("=II40xIIQ")
_LENT = 2  # of the notes
_THREAD, _OWNER_ENDED = 0x3FFFFFFF, 0x40000000  # in the first word of a robust mutex


def value_of(found: ObjectFile) -> int | None:
    """Return the value as `ipcio._object_info.ObjectInfo` has it; None if there is none, or it cannot be read."""
    try:
        if found.is_undo:
            return _value_of_set(found)
        function = _VALUES.get(found.kind)
        return None if function is None else function(found)
    except (OSError, ImportError):
        return None


def _read(found: ObjectFile, at: int, size: int) -> bytes:
    """Return so many bytes of the object; `OSError` if they are not there any longer."""
    fd = os.open(found.path, lifetime.PROBE)
    try:
        data = os.pread(fd, size, at)
        if not os.path.samestat(os.fstat(fd), found.info) or len(data) != size:
            raise FileNotFoundError
        return data
    finally:
        os.close(fd)


def _value_of_set(found: ObjectFile) -> int | None:
    number = undo_record.set_of(found.record, found.info) if found.record is not None else None
    if number is None:
        return None
    from ipcio._posix import libc

    value: int = libc.semctl(number, 0, libc.GETVAL)
    return value if value >= 0 else None


def _value_of_semaphore(found: ObjectFile) -> int | None:
    if not NAMES_ARE_FILES or _COUNT.size != namespace.SEMAPHORE:
        return None
    word: int = _COUNT.unpack(_read(found, 0, namespace.SEMAPHORE))[0]
    return word & _LARGEST


def _state_of_event(found: ObjectFile) -> int:
    return int.from_bytes(_read(found, WORDS, 4), sys.byteorder) & 1


def _messages_of_queue(found: ObjectFile) -> int:
    tail, head = (int.from_bytes(_read(found, at, 8), sys.byteorder) for at in (QUEUE_TAIL, QUEUE_HEAD))
    return ((tail >> MESSAGES_AT) - (head >> MESSAGES_AT)) & MESSAGES


def _owner_of_mutex(found: ObjectFile) -> int | None:
    """Return the process of the owner, 0 if the mutex is free."""
    # First of all: if this process is the program to which a mutex is lent (`ipcio._posix.lending`), it would lose the
    # mutex by opening and closing the file.
    borrower = procfs.process_that_locked(procfs.file_key(found.info), LOCKS[0] + 1)
    if borrower is not None:
        return borrower
    data = _read(found, 0, LOCKS[0] + SLOT)
    _, flags, _, _, layout = HEADER.unpack_from(data)
    first, space, notes, pid, start = _OWNER.unpack_from(data, LOCKS[0])
    if notes & _LENT:
        return pid if start and procfs.start_of(pid) == start else 0
    if not first:
        return 0
    if flags & WIDE or layout.startswith(RANGE_LOCKS):
        if space != os.stat("/proc/self/ns/pid").st_ino & 0xFFFFFFFF:
            return None
        return first if thread_ids.exists(first) else 0
    thread = first & _THREAD
    is_owned = thread and not first & _OWNER_ENDED and thread_ids.exists(thread)
    return thread_ids.process_of(thread) if is_owned else 0


_VALUES = {
    "sem": _value_of_semaphore,
    "mutex": _owner_of_mutex,
    "event": _state_of_event,
    "queue": _messages_of_queue,
}
