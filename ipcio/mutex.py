"""Named mutexes: one process at a time, and the next one can detect that the last one was killed.

A mutex excludes all threads of all processes but one, its owner.  Any process that creates or attaches it can
acquire it::

    from ipcio import mutex

    m = mutex.create("ledger")             # in one process

    with mutex.attach("ledger") as m:      # meanwhile, in any other: never two at a time in here
        if m.abandoned:
            ...                            # the last owner was killed in here: repair what it left

**Owners.**  The owner is a thread.  Only it can release the mutex, and it cannot acquire it twice, unless
the mutex is recursive.  A forked child owns nothing.  When the owner ends without having released the mutex, whether
its process is killed, exits, or calls ``exec``, or only its thread ends, the kernel releases the mutex at once.  No
deadlock is left behind, and the next owner, and no other process, finds `Mutex.abandoned` true.

**Condition variable.**  A mutex is a monitor as well: its owner can `Mutex.wait` until another owner calls
`Mutex.notify_all`, as with `threading.Condition`.  Processes that are killed while they wait leave nothing behind.

**How long a name exists.**  Exactly as long as some handle in some process is open, as in
`ipcio.shm`: when a process exits or is killed, by SIGKILL too, its handles count as closed.
With ``persist=True`` the mutex stays until `unlink`.  The names of mutexes are a space of their own: shared
memory or a semaphore may have the same name.

**Other users.**  A mutex that only its own user can write to (the default) is a robust mutex of the C library, and
fast.  Such a mutex contains addresses, so no other user may write to it.  One that is created with a wider ``perm``
is a lock on the object's file instead.  It keeps the same promises and is some twenty times as slow.  A
user with permission to write to a mutex can keep it for ever, pretend that an owner has ended, or wake those that
wait, but cannot harm the memory of other processes.

Linux, macOS, Windows; :doc:`/platforms` lists the differences.  (POSIX: ``pthread_mutex_lock(3)``, robust and
process-shared, ``fcntl(2)``; Windows: ``CreateMutexW``.)
"""

from __future__ import annotations

from ipcio import _named
from ipcio._mutex import RECURSIVE, Mutex

__all__ = ["attach", "create", "unlink"]


def create(
    name: str | None,
    *,
    perm: int = 0o600,
    persist: bool = False,
    exist_ok: bool = False,
    recursive: bool = False,
    owner: int | None = None,
) -> Mutex:
    """Create a mutex, which no thread owns, and return a handle.

    name
        One word, without a slash; ``None`` invents a unique one, found in the handle's ``name``.
    perm
        The permission bits of the new object, whatever the umask (macOS: only this user can find it; Windows: always
        the user alone).  A user needs both reading and writing to use it.  If other users may write to it, the mutex
        is of the slower kind; see above.
    persist
        The mutex stays until `unlink`, with open handles or without.  `NotImplementedError` on Windows.
    exist_ok
        Attach instead if the name exists, without a race; the handle's ``created`` says which.  An existing mutex is
        recursive or not, whatever `recursive` is here.
    recursive
        Its owner may acquire it several times, and must release it as often.
    owner
        With `exist_ok`: the user id of the user that an existing mutex must belong to; see `attach`.  A new one
        belongs to this process's user.

    Raises `FileExistsError` if the name exists, `PermissionError` if an orphaned mutex of another user is in the way,
    ``OSError(ENOSPC)`` if there is no room, ``OSError(ENAMETOOLONG)`` for a name of more than 243 bytes
    (Windows: 246 characters), `ValueError` or `TypeError` for a malformed argument.  Whenever it
    raises, nothing was made.
    """
    return _named.create(
        Mutex,
        attach,
        name,
        0,
        flags=RECURSIVE if recursive else 0,
        perm=perm,
        persist=persist,
        exist_ok=exist_ok,
        owner=owner,
    )


def attach(name: str, *, timeout: float | None = 0, owner: int | None = None) -> Mutex:
    """Return a handle on an existing mutex.

    timeout
        How many seconds to wait for a mutex of that name, so that programs may be started in any order; None or
        negative waits for ever.  It is found at most 30 ms late.
    owner
        The user id of the user that the mutex must belong to.  One of another user is a `PermissionError`, before it is
        opened as a mutex or locked; None allows any user.  A pickled copy of the handle has the same
        requirement.  `NotImplementedError` on Windows.

    Raises `FileNotFoundError` if the name does not exist, and `PermissionError` without permission to read and
    write it.  A mutex that was created for one user is a `PermissionError` for all others, root included, and also for
    that user if another one may write to it by now.  An `OSError` if a program with another C library or in another PID
    namespace (container) made such a mutex, if something else has the name, or if it is damaged; `ValueError` or
    `TypeError` for a malformed argument.
    """
    return _named.attach(Mutex, attach, name, timeout=timeout, owner=owner)


def unlink(name: str, *, missing_ok: bool = False) -> None:
    """Remove `name` now; open handles go on with their mutex, and the name is free for others.

    This is the only way to remove a persistent mutex; all others are removed with their last handle.  Raises
    `FileNotFoundError` if the name does not exist, unless `missing_ok`.  On Windows, an
    existing name is a `NotImplementedError`: the system removes it with the last handle and in no other way.
    """
    _named.unlink(Mutex.KIND, name, missing_ok=missing_ok)


def __dir__() -> list[str]:
    return __all__
