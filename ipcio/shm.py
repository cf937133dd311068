"""Named shared memory, as files.

A segment is memory under a name; every process that creates or attaches it gets a
:class:`~ipcio.MemoryFile` over the same bytes:

>>> from ipcio import shm
>>> ours = shm.create("prices", 4096)  # in one process
>>> ours.write(b"hello")
5
>>> theirs = shm.attach("prices")  # meanwhile, in any other
>>> theirs.read(5)
b'hello'
>>> ours.close()
>>> theirs.close()

**How long a name exists.**  Exactly as long as some handle in some process is open.
It does not matter which process created it and which closes first.  When a process
exits or is killed, by SIGKILL too, its handles count as closed.  Once all are closed, `attach`
raises `FileNotFoundError` and `create` succeeds.  After a crash the memory may stay in use until
such a call, or `ipcio gc`.  The kernel keeps the count (:doc:`/design` explains how): there is
no helper process and no stale lock.  With ``persist=True`` the segment stays until `unlink`.

**Other programs.**  ``shm.create("x", n)`` makes what C calls
``shm_open("/x")``, with no header bytes.  C programs, LuaIPC, ``posix_ipc`` and
`multiprocessing.shared_memory` attach the segments of ipcio by name, and ipcio theirs.  They
do not count as holders: an ipcio segment is removed with the last *ipcio*
handle, and segments that they made are attached but never removed.

Linux, macOS, Windows; the page :doc:`/platforms` lists the differences: on Windows nothing
persists and no name can be removed.  (LuaIPC: ``ipc.shm``; POSIX: ``shm_open(3)``; Windows:
``CreateFileMappingW``.)
"""

from __future__ import annotations

import sys

from ipcio._light import index, partial
from ipcio._memfile import MemoryFile
from ipcio._memfile_fast import FastFile
from ipcio._memory import prepare
from ipcio._names import (
    attach_in_time,
    check_name,
    check_owner,
    check_perm,
    create_or_attach,
    explain,
    owner_of_new,
    remove_name,
)
from ipcio._typing import TYPE_CHECKING, overload

if sys.platform == "win32":
    from ipcio._windows import shm as _chosen
else:
    from ipcio._posix import shm as _chosen

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from ipcio._backend.shares import Share
    from ipcio._backend.shm import Into, ShmBackend
    from ipcio._memory import Memory
    from ipcio._segment_writer import SegmentWriter

__all__ = ["attach", "create", "open", "unlink"]

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
    init: Callable[[MemoryFile], object] | None = None,
) -> MemoryFile:
    """Create a segment of `size` bytes, all zero, and return a handle open for reading and writing.

    name
        One word, without a slash; ``None`` invents a unique one, found in the
        handle's ``name``.
    perm
        The permission bits of the new object, whatever the umask (macOS: at most these;
        Windows: always the user alone).
    persist
        The segment stays until `unlink`, with open handles or without.  `NotImplementedError` on
        Windows.
    exist_ok
        Attach instead if the name exists, without a race; the handle's ``created``
        says which.  An existing segment may be larger, but not smaller (`ValueError`).
    reserve
        Reserve the memory now, so that a full ``/dev/shm`` is an error here
        and not a SIGBUS later.  A size that does not fit is refused before anything is
        reserved.  Other threads run meanwhile, and Ctrl-C ends the call.
        ``False`` makes a sparse segment.  (Windows always reserves the memory;
        macOS cannot, and finds memory as long as it can swap.)
    owner
        With `exist_ok`: the user id of the user that an existing segment must belong to; see
        `attach`.  A new one belongs to this process's user.
    init
        A function that writes the first contents.  It is called with the handle before another
        process can find the name, so no process ever sees zeros where the contents will be.  Afterwards the
        handle's position is 0.  With `exist_ok` it is called only if this call makes the segment; if
        several processes create at once, it may run in those that then attach as well, in vain.  If it
        raises an exception, `create` raises that, and nothing was made.  (On macOS and Windows it is called
        with a handle on private memory, which is closed when its bytes have been copied.
        On macOS a C program that opens the name in the microseconds of the copy may see zeros.)

    Raises `FileExistsError` if the name exists, `PermissionError` if an orphaned segment
    of another user is in the way, ``OSError(ENOSPC)`` if there is too little memory,
    ``OSError(ENAMETOOLONG)`` for a name of more than 255 bytes (macOS: 30
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
    _check_init(init)
    prepare()
    raised: list[BaseException] = []  # by `init`
    make = partial(_make, size, perm, bool(persist), bool(reserve), owner_of_new(owner), init, raised)
    handle = None
    try:
        handle = create_or_attach(name, make, partial(_join, "rb+", owner) if exist_ok else None)
    except OSError as error:
        explain(error, _KIND, name)
        raise
    except _InitRaised:
        pass
    if handle is None:  # it is raised out here, where no text and no meaning are given to errors of the system
        raise raised.pop()
    if exist_ok and not handle.created and handle.size() < size:
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
        The user id of the user that the segment must belong to.  One of another user is a
        `PermissionError`, before it is mapped or locked; None allows any user.  A pickled
        copy of the handle has the same requirement.  `NotImplementedError` on Windows.

    A segment that ipcio made is always complete; one that was written empty gives an
    empty handle.  What other programs put under the name is checked before it is mapped.  Raises
    `FileNotFoundError` if the name does not exist, `PermissionError` if its permissions
    forbid the mode, another `OSError` if there is something else under the name (a
    directory, a link, a FIFO, an empty object of another program), `ValueError` or
    `TypeError` for a malformed argument.
    """
    check_name(name)
    if mode not in {"r", "rw"}:
        raise ValueError(f"mode must be 'r' or 'rw', not {mode!r}")
    owner = check_owner(owner)
    prepare()
    how: Literal["rb", "rb+"] = "rb+" if mode == "rw" else "rb"
    try:
        return _join(how, owner, name) if timeout == 0 else attach_in_time(partial(_join, how, owner, name), timeout)
    except OSError as error:
        explain(error, _KIND, name)
        raise


@overload
def open(name: str, mode: Literal["rb", "r+b", "rb+"] = "rb", *, perm: int = 0o600) -> MemoryFile: ...
@overload
def open(name: str, mode: Literal["xb", "wb"], *, perm: int = 0o600) -> SegmentWriter: ...
def open(
    name: str, mode: Literal["rb", "r+b", "rb+", "xb", "wb"] = "rb", *, perm: int = 0o600
) -> MemoryFile | SegmentWriter:
    """Open a segment as the built-in `open` opens a file, with no size given.

    mode
        ``"rb"`` and ``"r+b"`` attach an existing segment, as `attach` does with ``"r"`` and ``"rw"``.
        ``"xb"`` and ``"wb"`` make a new one.  Its contents appear under the name when the file is closed, whole and
        exactly as long as what was written.  With ``"xb"``, a name in use is a `FileExistsError`, now
        or then.  With ``"wb"``, the new segment takes the name from an existing one, and processes that have that
        one open keep it.
    perm
        The permission bits of a new segment, as for `create`.

    The file for ``"xb"`` and ``"wb"`` is an `io.RawIOBase` that grows.  A write to it is never short.  It can be
    sought and truncated, but not read, and it has a method ``discard()``, which closes it
    without making a segment.  The same happens, and what had the name before stays, if the
    ``with`` block raises an exception, if a write has failed, if the file, or a wrapper of it, is garbage-collected,
    and if the file is still open when the process exits or is killed.  The new segment is persistent: it stays until
    `unlink`.  (A wrapper such as `io.TextIOWrapper` closes the file at the end of a ``with`` block of its own, even
    after an exception, and so makes the segment: call its ``detach()`` instead.)

    If nothing was written, the segment is empty; on macOS, which has no empty segments, closing the file is
    an ``OSError(EINVAL)``.  On Windows, where nothing persists, ``"xb"`` and ``"wb"`` are a `NotImplementedError`.
    Otherwise raises what `attach` and `create` raise, and ``OSError(ENOSPC)`` if a write finds no memory.
    """
    check_name(name)
    perm = check_perm(perm)
    if mode == "rb":
        return attach(name, "r")
    if mode in {"r+b", "rb+"}:
        return attach(name)
    if mode not in {"xb", "wb"}:
        raise ValueError(f"mode must be 'rb', 'r+b', 'xb' or 'wb', not {mode!r}")
    from ipcio._segment_writer import open_writer

    try:
        return open_writer(name, perm, replace=mode == "wb")
    except OSError as error:
        explain(error, _KIND, name)
        raise


def unlink(name: str, *, missing_ok: bool = False) -> None:
    """Remove `name` now; open handles keep their memory, and the name is free for others.

    This is the only way to remove a persistent segment or one that ipcio did not make;
    all others are removed with their last handle.  Raises `FileNotFoundError` if the name does not
    exist, unless `missing_ok`.  On Windows, an existing name is a `NotImplementedError`: the system removes it
    with the last handle and in no other way.  (POSIX: ``shm_unlink(3)``.)
    """
    remove_name(_KIND, name, _backend.unlink, missing_ok=missing_ok)


def _make(
    size: int,
    perm: int,
    persist: bool,
    reserve: bool,
    owner: int | None,
    init: Callable[[MemoryFile], object] | None,
    raised: list[BaseException],
    name: str,
) -> MemoryFile:
    into = partial(_handle, name, "rb+", owner, True)
    if init is None:
        return _backend.create(name, size, perm=perm, persist=persist, reserve=reserve, init=None, into=into)
    create_filled = partial(_backend.create, name, size, perm=perm, persist=persist, reserve=reserve)
    return _with_first_contents(init, create_filled, into, raised)


def _check_init(init: object) -> None:
    if init is not None and not callable(init):
        raise TypeError(f"init must be a function that gets the new handle, not {type(init).__name__!r}")


class _InitRaised(BaseException):
    """`init` has raised something; unlike that, this passes through code that handles errors of the system."""


def _with_first_contents(
    init: Callable[[MemoryFile], object],
    create_filled: Callable[..., MemoryFile],
    open_handle: Into[MemoryFile],
    raised: list[BaseException],
) -> MemoryFile:
    """Create a segment of which `init` writes the first contents; if anything is raised, no handle stays open.

    What `init` raises goes into the list `raised`, and is an `_InitRaised` here.
    """
    opened: list[MemoryFile] = []
    result = None

    def into(memory: Memory | None, fd: int, share: Share | None) -> MemoryFile:
        opened.append(open_handle(memory, fd, share))
        return opened[-1]

    def call_init(handle: MemoryFile) -> None:
        try:
            init(handle)
            handle.seek(0)
        except BaseException as error:  # noqa: BLE001 -- an interrupt as well
            raised.append(error)
            raise _InitRaised from None

    try:
        result = create_filled(init=call_init, into=into)
        return result
    finally:
        for each in opened:
            if each is not result:
                each.close()


def _join(mode: Literal["rb", "rb+"], owner: int | None, name: str) -> MemoryFile:
    return _backend.attach(name, writable=mode == "rb+", owner=owner, into=partial(_handle, name, mode, owner, False))


# All arguments are positional, for a `partial` of it is the fastest way to a handle.
def _handle(
    name: str, mode: str, owner: int | None, created: bool, memory: Memory | None, fd: int, share: Share | None
) -> MemoryFile:
    recipe = _recipe if owner is None else partial(_recipe, owner=owner)
    if memory is None:  # an empty segment
        memory = memoryview(bytearray())
    if isinstance(memory, memoryview):
        return MemoryFile._over(None, memory, name, mode, recipe, fd, 0, share, created)
    return FastFile._over(memory, memory, name, mode, recipe, fd, 0, share, created)


def _recipe(handle: MemoryFile, owner: int | None = None) -> tuple[Callable[..., MemoryFile], tuple[str, ...]]:
    """Return how a pickled copy attaches."""
    how = "r" if handle.mode == "rb" else "rw"
    return attach if owner is None else partial(attach, owner=owner), (handle.name, how)


def __dir__() -> list[str]:
    return __all__
