"""Named shared memory, as files.

A segment is memory under a name; every process that creates or attaches it gets a
:class:`~ipcio.MemoryFile` over the same bytes::

    from ipcio import shm

    with shm.create("prices", 4096) as h:      # in one process
        h.write(b"hello")

    with shm.attach("prices") as h:            # meanwhile, in any other
        h.read(5)

**How long a name lives.**  Exactly as long as some handle in some process is open.
It does not matter who created it and who closes first.  A process that dies, by
SIGKILL too, counts as having closed its handles.  Afterwards `attach` raises
`FileNotFoundError` and `create` succeeds; at worst the dead bytes wait in memory
for that next call.  The kernel keeps the count (see ``docs/design.md``): there is
no helper process and no lock that goes stale.  ``persist=True`` opts out.

**Who else can be there.**  ``shm.create("x", n)`` makes what C calls
``shm_open("/x")``, with no header bytes: C programs, LuaIPC, ``posix_ipc`` and
`multiprocessing.shared_memory` meet ipcio by name, in both directions.  Such
programs hold no share in the name: an ipcio segment goes when the last *ipcio*
handle does, and objects that they made are attached but never removed.

Linux, macOS, Windows; what differs is told in ``docs/platforms.md``: on Windows nothing
persists and no name can be removed.  (LuaIPC: ``ipc.shm``; POSIX: ``shm_open(3)``; Windows:
``CreateFileMappingW``.)
"""

from __future__ import annotations

import sys
from functools import partial
from operator import index

from ipcio._memfile import MemoryFile
from ipcio._memfile_fast import FastFile
from ipcio._memory import prepare
from ipcio._names import attach_in_time, check_name, check_owner, check_perm, create_or_attach, explained, owner_of_new
from ipcio._typing import TYPE_CHECKING

if sys.platform == "win32":
    from ipcio._windows import shm as _chosen
else:
    from ipcio._posix import shm as _chosen

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from ipcio._backend import Mapped, ShmBackend

__all__ = ["attach", "create", "unlink"]

_KIND = "shared memory"  # in messages

_backend: ShmBackend = _chosen


def create(
    name: str | None,
    size: int,
    *,
    perm: int = 0o600,
    persist: bool = False,
    exist_ok: bool = False,
    reserve: bool = True,
    owner: int | None = None,
) -> MemoryFile:
    """Create a segment of `size` bytes, all zero, and return a handle open for reading and writing.

    name
        One word, without a slash; ``None`` invents a unique one, found in the
        handle's ``name``.
    perm
        The permission bits of the new object, whatever the umask (macOS: at most these;
        Windows: always the user alone).
    persist
        The segment stays until `unlink`, whoever holds it.  `NotImplementedError` on
        Windows.
    exist_ok
        Attach instead if the name lives, without a race; the handle's ``created``
        tells which.  An existing segment may be larger, but not smaller.
    owner
        With `exist_ok`: the user id of the user to whom an existing segment must belong; see
        `attach`.  A new one belongs to this process's user.
    reserve
        Have the memory set aside now, so that a full ``/dev/shm`` is an error here
        and not a SIGBUS later.  What does not fit is refused before anything is set
        aside.  Other threads go on meanwhile, and Ctrl-C ends the call.
        ``False`` makes a sparse segment.  (Windows always sets
        it aside; macOS cannot, and finds memory as long as there is a place to swap.)

    Raises `FileExistsError` if the name lives, ``OSError(ENOSPC)`` if the memory
    cannot be had, `PermissionError` if a dead segment of another user is in the
    way, ``OSError(ENAMETOOLONG)`` for a name of more than 255 bytes (macOS: 30
    characters, Windows: 258), `ValueError` or `TypeError` for a malformed argument.
    Whenever it raises, nothing was made.
    """
    if name is not None:
        check_name(name)
    size = index(size)
    if size <= 0:
        raise ValueError(f"size must be at least 1 byte, not {size}")
    perm = check_perm(perm)
    owner = check_owner(owner)
    prepare()

    def make(wanted: str) -> MemoryFile:
        return _backend.create(
            wanted,
            size,
            perm=perm,
            persist=bool(persist),
            reserve=bool(reserve),
            into=lambda mapping: _handle(mapping, wanted, "rb+", owner_of_new(owner), created=True),
        )

    def join(wanted: str) -> MemoryFile:
        return _backend.attach(
            wanted,
            writable=True,
            owner=owner,
            into=lambda mapping: _handle(mapping, wanted, "rb+", owner, created=False),
        )

    with explained(_KIND, name):
        handle = create_or_attach(name, make, join if exist_ok else None)
    if handle.size() < size:
        held = handle.size()
        handle.close()
        raise ValueError(f"segment {name!r} exists with {held} bytes, fewer than the {size} asked for")
    return handle


def attach(
    name: str,
    mode: Literal["r", "rw"] = "rw",
    *,
    timeout: float | None = 0,
    owner: int | None = None,
) -> MemoryFile:
    """Return a handle on an existing segment, at position 0.

    mode
        ``"rw"`` reads and writes; ``"r"`` maps the memory read-only.
    timeout
        How many seconds to wait for a segment of that name, so that programs may be started
        in any order; None or negative waits for ever.  It is found at most 30 ms late.
    owner
        The user id of the user to whom the segment must belong.  One of another user is a
        `PermissionError`, before it is mapped or locked; None allows any user.  A pickled
        copy of the handle insists, too.  `NotImplementedError` on Windows.

    A segment that ipcio made is never seen half-made; one that was written empty gives an
    empty handle.  What others put under the name is checked before it is mapped.  Raises
    `FileNotFoundError` if the name does not live, `PermissionError` if its permissions
    forbid the mode, another `OSError` if there is something else under the name (a
    directory, a link, a FIFO, an empty object of another program), `ValueError` or
    `TypeError` for a malformed argument.
    """
    check_name(name)
    if mode not in {"r", "rw"}:
        raise ValueError(f"mode must be 'r' or 'rw', not {mode!r}")
    owner = check_owner(owner)
    writable = mode == "rw"
    prepare()

    def join() -> MemoryFile:
        return _backend.attach(
            name,
            writable=writable,
            owner=owner,
            into=lambda mapping: _handle(mapping, name, "rb+" if writable else "rb", owner, created=False),
        )

    with explained(_KIND, name):
        return attach_in_time(join, timeout)


def unlink(name: str, *, missing_ok: bool = False) -> None:
    """Remove `name` now; open handles keep their memory, and the name is free for others.

    The only way to remove a persistent segment or one that ipcio did not make;
    all others go by themselves.  Raises `FileNotFoundError` if the name does not
    exist, unless `missing_ok`, `NotImplementedError` on Windows if it does: there a name goes with its last
    handle and in no other way.  (POSIX: ``shm_unlink(3)``.)
    """
    check_name(name)
    try:
        with explained(_KIND, name):
            _backend.unlink(name)
    except FileNotFoundError:
        if not missing_ok:
            raise


def _handle(mapping: Mapped, name: str, mode: str, owner: int | None, *, created: bool) -> MemoryFile:
    memory, fd, share = mapping
    again = attach if owner is None else partial(attach, owner=owner), (name, "r" if mode == "rb" else "rw")

    def recipe(_: object) -> tuple[Callable[..., MemoryFile], tuple[str, ...]]:
        return again

    if memory is None:  # an empty segment
        memory = memoryview(bytearray())
    if isinstance(memory, memoryview):
        return MemoryFile._over(None, memory, name, mode, recipe, fd, 0, share, created)
    return FastFile._over(memory, memory, name, mode, recipe, fd, 0, share, created)


def __dir__() -> list[str]:
    return __all__
