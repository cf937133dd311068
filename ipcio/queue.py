"""Named message queues: bounded, crash-safe, with any number of writers and readers in any processes.

A queue passes on messages, which are bytes.  Any process that creates or attaches it can put messages in and get
them out, in the same order.  Each message goes to one reader::

    from ipcio import queue

    jobs = queue.create("jobs", 64 * 1024)      # in one process
    jobs.put(b"resize cat.png")

    with queue.attach("jobs") as q:             # meanwhile, in any other
        job = q.get()

The methods and the exceptions (`Full`, `Empty`, `ShutDown`) are those of the standard library's `queue`.

**All or nothing.**  A writer that is killed, at any instruction, has put a whole message or none, and a reader has
taken one or none.  Neither keeps the others from going on at once.  A message that a reader has taken is
gone if the reader is then killed: each is delivered at most once.

**How long a name exists.**  Exactly as long as some handle in some process is open, as in
`ipcio.shm`: when a process exits or is killed, by SIGKILL too, its handles count as closed.  Messages that no
reader has taken go with the last handle.  With ``persist=True`` the queue stays until `unlink`, with its messages.  The
names of queues are a space of their own: shared memory or a semaphore may have the same name.

**As a file.**  ``q.writer()`` and ``q.reader()`` are raw binary files, for `csv`, `pickle`, `logging`,
`shutil.copyfileobj` and child processes.

Linux, macOS, Windows; :doc:`/platforms` lists the differences.  (POSIX has something similar: ``mq_open(3)``.)
"""

from __future__ import annotations

from ipcio import _named, _queue_errors
from ipcio._light import index
from ipcio._queue import Queue
from ipcio._ring_state import BOOK_KEEPING, LARGEST
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipcio._queue_errors import Empty, Full, ShutDown

__all__ = ["Empty", "Full", "ShutDown", "attach", "create", "unlink"]


def create(
    name: str | None,
    size: int,
    *,
    perm: int = 0o600,
    persist: bool = False,
    exist_ok: bool = False,
    owner: int | None = None,
) -> Queue:
    """Create a queue and return a handle.

    name
        One word, without a slash; ``None`` invents a unique one, found in the handle's ``name``.
    size
        Bytes for the messages that are in the queue at one time, and 16 more for each of them.  At least 16; less than
        8 GiB.  So one message may have `size` - 16 bytes.  The memory is set aside now.
    perm
        The permission bits of the new object, whatever the umask (macOS: only this user can find it; Windows: always
        the user alone).  A user needs both reading and writing to use it, also to get messages.  If other users may
        write, calls take several times as long, because the memory is then read and written by calls of
        the system; and those users can damage the queue, which the others notice as an `OSError`.
    persist
        The queue stays until `unlink`, with open handles or without; so do its messages.  `NotImplementedError` on
        Windows.
    exist_ok
        Attach instead if the name exists, without a race; the handle's ``created`` says which.  An existing queue
        may be larger, but not smaller (`ValueError`).
    owner
        With `exist_ok`: the user id of the user that an existing queue must belong to; see `attach`.  A new one
        belongs to this process's user.

    Raises `FileExistsError` if the name exists, `PermissionError` if an orphaned queue of another user is in the way,
    ``OSError(ENOSPC)`` if there is too little memory, ``OSError(ENAMETOOLONG)`` for a name of more than 243 bytes
    (Windows: 246 characters), `ValueError` or `TypeError` for a malformed argument.  Whenever it
    raises, nothing was made.
    """
    size = index(size)
    if not BOOK_KEEPING <= size <= LARGEST:
        raise ValueError(
            f"size must be {BOOK_KEEPING} to {LARGEST} bytes, {BOOK_KEEPING} of them for each message; not {size}"
        )
    made = _named.create(Queue, attach, name, size, perm=perm, persist=persist, exist_ok=exist_ok, owner=owner)
    if made._size < size:
        made.close()
        raise ValueError(
            f"queue {made.name!r} exists with {made._size} bytes, fewer than {size}: attach to it, or remove it first"
        )
    return made


def attach(name: str, *, timeout: float | None = 0, owner: int | None = None) -> Queue:
    """Return a handle on an existing queue.

    timeout
        How many seconds to wait for a queue of that name, so that programs may be started in any order; None or
        negative waits for ever.  It is found at most 30 ms late.
    owner
        The user id of the user that the queue must belong to.  One of another user is a `PermissionError`, before it is
        opened as a queue or locked; None allows any user.  A pickled copy of the handle has the same
        requirement.  `NotImplementedError` on Windows.

    Raises `FileNotFoundError` if the name does not exist, `PermissionError` without permission to read and
    write it, another `OSError` if there is something else under the name, or it is damaged, `ValueError` or
    `TypeError` for a malformed argument.
    """
    return _named.attach(Queue, attach, name, timeout=timeout, owner=owner)


def unlink(name: str, *, missing_ok: bool = False) -> None:
    """Remove `name` now; open handles go on with their queue, and the name is free for others.

    This is the only way to remove a persistent queue; all others are removed with their last handle.  Raises
    `FileNotFoundError` if the name does not exist, unless `missing_ok`.  On Windows, an
    existing name is a `NotImplementedError`: the system removes it with the last handle and in no other way.
    """
    _named.unlink(Queue.KIND, name, missing_ok=missing_ok)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:  # the exceptions
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(_queue_errors, name)


def __dir__() -> list[str]:
    return __all__
