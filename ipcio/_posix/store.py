"""The store: how objects come to be under a name, are found and are removed; chosen once for the system.

`ipcio._posix.store_files` is for systems on which named objects are files, and
`ipcio._posix.store_companions` for the others (`ipcio._posix.namespace`).  A store offers

``NewSegment(name, path)``
    ``make(size, perm, persist=..., reserve=..., init=..., into=...)`` makes a segment that appears complete or not at
    all, with its first contents, and returns its handle.
``NewSemaphore(name, path)``
    ``make(value, perm)`` makes a semaphore in the same way; then ``open_semaphore(opener)`` opens it.
``NewRecord(name, path)``
    makes the file of a crash-safe semaphore (`ipcio._posix.undo`), which begins with ``blank()``
    and has the permissions ``record_perm(perm)``.
``ExistingSegment(name, path, owner)``
    ``map(into, writable=...)`` joins what has the name, maps it and returns its handle; ``remove_once()`` tries to
    remove the name.
``ExistingSemaphore(name, path, owner)``
    ``open_if_there()`` opens the file of what has the name, ``open_semaphore(opener, into)`` joins and opens what is
    no crash-safe semaphore, and returns its handle; ``remove_once()``.

and `directory_lock`, under which names are removed, and `before_removal`, which removes what
belongs to an orphaned object.  The classes are those of `ipcio._posix.objects`.
"""

from __future__ import annotations

from ipcio._posix import lifetime, namespace
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:  # so a type checker compares each store with its callers, on the platform that has it
    import sys

    if sys.platform == "darwin":
        from ipcio._posix import store_companions as store
    else:
        from ipcio._posix import store_files as store
elif namespace.NAMES_ARE_FILES:
    from ipcio._posix import store_files as store
else:
    from ipcio._posix import store_companions as store

__all__ = ["store"]

lifetime.before_removal.append(store.before_removal)
