"""Locks on ranges of a file's bytes, between processes and between threads.

Several programs share a file, and each locks the bytes that it is about to read or change::

    from ipcio import filelock

    with open("accounts", "r+b") as file:
        with filelock.locked(file, "rw", 4096, 64):      # one record
            ...                                          # no other process or thread has it locked

**Shared or exclusive.**  ``"r"`` is a shared lock: any number of readers can have one.
``"w"`` and ``"rw"`` are exclusive.  To lock a range again changes its kind.  Ranges may
overlap, be split and be joined at will, and reach beyond the end of the file (``nbytes=0``:
to infinity).  The locks are advisory: they stop only programs that lock the range, too.
(Windows: see below.)

**The owner of a lock.**  A lock belongs to the *open file*: the thing that `open` creates and
that ``dup`` and ``fork`` share (`semantics` is ``"open file"``).  So it excludes other
threads that opened the file for themselves, survives the closing of other descriptors
of the same file, and is released when the open file is closed for the last time, at the
latest when its process exits.  A forked child shares its parent's open files, and so its
locks: either of the two may unlock.  Such locks and the classic ones of ``fcntl.lockf``, of C
and of LuaIPC exclude one another.  Where the kernel lacks such locks, `semantics` is
``"process"``: threads do not exclude each other, and closing *any* descriptor of the
file loses all of a process's locks on it.

**Buffers.**  After a file has been locked, the next read through this very object sees what
the previous holder wrote: read-ahead is dropped, and the position stays.  Before `unlock`
releases the lock, everything that was written through this object reaches the operating
system.

A file is anything with a ``fileno()`` -- text, buffered, raw, a `MemoryFile`, a
temporary file -- or a descriptor; `locked` also accepts the path of a lock file.  A
`MemoryFile` that shows only part of its file, a map at an offset or a narrowed handle,
locks ranges of the whole file all the same: byte 0 is the file's first.

**Windows.**  Within one process the lock belongs to the open file; a child that inherits the
descriptor does not share the lock.  Waiting calls try again and again, without a place in a
queue.  A range that was locked exclusively is unlocked, or made shared, as a whole: for a part
of it that is `NotImplementedError`, and nothing has changed.  An upgrade from shared to
exclusive releases the shared lock for a moment.  The process that holds a lock cannot be
found: `query` tries the lock, and its answer is about the range that was asked for.  The
locks there also stop programs that lock nothing: through another open file, a range that is
locked exclusively cannot be read, and a range that is locked at all cannot be written, except
in memory that is mapped.

Linux, macOS, Windows; the page :doc:`/platforms` lists the differences.  (LuaIPC:
``ipc.filelock``; POSIX: ``fcntl(2)``, section on locks; Windows: ``LockFileEx``.)
"""

from __future__ import annotations

from ipcio._filelock import backend, holders
from ipcio._filelock.event_loop import lock_async
from ipcio._filelock.locked import locked
from ipcio._filelock.ranges import lock, trylock, unlock
from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any, Literal

    from ipcio._filelock import Mode

__all__ = ["Holder", "lock", "lock_async", "locked", "query", "semantics", "trylock", "unlock"]

semantics: Literal["open file", "process"] = backend.SEMANTICS
"""The owner of a lock here: the open file or, where the kernel lacks such locks, the process."""


class Holder(NamedTuple):
    """A lock that a request conflicts with, and the process that holds it."""

    start: int
    """The first byte of the locked range."""
    length: int
    """In bytes; 0 means to infinity."""
    mode: Literal["r", "rw"]
    """``"r"`` if the lock is shared, ``"rw"`` if it is exclusive."""
    pid: int | None
    """The process; None where that cannot be known."""


def query(file: Any, mode: Mode = "rw", offset: int = 0, nbytes: int = 0) -> Holder | None:
    """Return the lock that such a request would conflict with; None if `lock` would not wait.

    A lock of an open file belongs to every process that has it open, and the system does not
    name them.  This finds one of them, if the caller may look at that process.
    """
    found = holders.find(file, mode, offset, nbytes)
    return found and Holder(found.start, found.length, "rw" if found.exclusive else "r", found.pid)


for _each in lock, lock_async, locked, trylock, unlock:
    _each.__module__ = __name__  # which users see in tracebacks and in help()


def __dir__() -> list[str]:
    return __all__
