"""What mutexes, events and queues have in common: the layout of the object, how it is opened, the handle's end.

Each is a segment of shared memory under a name that has a prefix for its kind
(`ipcio._names.SEGMENTS`).  So its lifetime, permissions and removal are those of shared memory.

The layout, in bytes (`ipcio._layout`); `ipcio._backend.parts.PartsBackend` says what a lock and a word are::

    0     the header: a magic with kind and version, flags, the PID namespace, the layout of a lock
    64    the slot of the first lock
    128   the slot of the second lock
    192   the words of the kind, which its own module lists
    4096  the data of a queue

The header is only compared with what it should be.  No size and no offset is read from an object.

**Narrow and wide.**  An object is *narrow* if this user owns it and the permissions let no other
user write to it.  Its locks may then be of a kind with which a process that can write to the
object could do harm to the others.  All other objects are *wide*.  The creator decides from the
file which kind of lock the object has, and every process that attaches looks at the file again.  A
narrow object that another user could write to in the meantime is refused.
"""

from __future__ import annotations

import errno
import os
import sys

from ipcio._forklock import fork_lock
from ipcio._handover import hand_over
from ipcio._layout import DATA, HEADER, LOCKS, WIDE
from ipcio._light import partial, suppress
from ipcio._names import (
    CALLED,
    Named,
    attach_in_time,
    check_name,
    check_owner,
    check_perm,
    create_or_attach,
    explain,
    owner_of_new,
    remove_name,
)
from ipcio._tuples import OpenObject
from ipcio._typing import TYPE_CHECKING, TypeVar
from ipcio._unowned import LARGE, close_later, close_listed, free_later

if sys.platform == "win32":
    from ipcio._windows import parts as _chosen_parts
    from ipcio._windows import shm as _chosen
else:
    from ipcio._posix import parts as _chosen_parts
    from ipcio._posix import shm as _chosen

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from typing import Any, ClassVar, NoReturn

    from typing_extensions import Self

    from ipcio._backend.parts import PartsBackend
    from ipcio._backend.shares import Share
    from ipcio._backend.shm import ShmBackend

segments: ShmBackend = _chosen
parts: PartsBackend = _chosen_parts

KIND_FLAG = 0x100
"""The first flag of those that each kind gives a meaning of its own."""

_WIDEN = "create it with a wider perm=, such as perm=0o666"


class NamedHandle(Named):
    """The handle of a mutex, an event or a queue: what it has open, and its end.

    A subclass says its kind, and what `_set_up` makes of the open object.
    """

    __slots__ = ("__weakref__", "_again", "_created", "_fd", "_info", "_memory", "_name", "_opened", "_share")

    KIND: ClassVar[str]
    HAS_LOCKS: ClassVar[bool]

    _memory: mmap.mmap | memoryview[int] | None
    _fd: int
    _info: os.stat_result | None  # of the descriptor, if no share owns it
    _share: Share | None
    _opened: OpenObject | None  # None: closed, or not set up yet
    _again: Callable[[str], Any]  # attaches a pickled copy

    def __init__(self, *_: object, **__: object) -> None:
        """Raise `TypeError`: functions of the module make handles."""
        text = f"{type(self).__name__} is not called directly: use {self.KIND}.create() or {self.KIND}.attach()"
        raise TypeError(text)

    @classmethod
    def _over(
        cls,
        name: str,
        again: Callable[[str], Any],
        created: bool,
        memory: mmap.mmap | memoryview[int] | None,
        fd: int,
        share: Share | None,
    ) -> Self:
        self = cls.__new__(cls)
        self._opened = self._info = None
        self._memory, self._fd, self._share = memory, fd, share  # from here on `__del__` gives them back
        self._name = name
        self._again = again
        self._created = created
        if self._share is None and self._fd >= 0:
            self._info = os.fstat(self._fd)
        return self

    # -- its parts, each overridden by a kind that has more ----------------

    def _first_contents(self, memory: mmap.mmap | memoryview[int], flags: int) -> None:
        """Write what a new object of the kind has behind its locks; all of it is zero."""

    def _set_up(self, opened: OpenObject, flags: int) -> None:
        """Find the parts of the object, which was checked; `flags` are those of the kind."""
        raise NotImplementedError

    def _write_first(self, flags: int) -> None:
        """Write the header, free locks and the first contents, while no other process knows the object."""
        memory = self._memory
        assert memory is not None
        wide = not parts.is_trusted(self._fd)
        layout = parts.lock_layout() if self.HAS_LOCKS else b""
        space = parts.process_namespace() if self.HAS_LOCKS else 0
        memory[: HEADER.size] = HEADER.pack(_magic(self.KIND), flags | wide * WIDE, 0, space, layout)
        if self.HAS_LOCKS:
            for at in LOCKS:
                lock = parts.new_lock(wide=wide)
                memory[at : at + len(lock)] = lock
        self._first_contents(memory, flags)

    def _check(self) -> None:
        """Check the object that was opened, and set the handle up."""
        memory = self._memory
        header = b"" if memory is None else parts.read(self._fd, memory, HEADER.size)
        if memory is None or len(header) < HEADER.size or len(memory) < DATA:
            self._refuse(f"not {CALLED[self.KIND]}: it has been cut short")
        magic, flags, _, space, layout = HEADER.unpack(header)
        if magic != _magic(self.KIND):
            if magic.startswith(_magic(self.KIND, None)):
                self._refuse("another version of ipcio made it, and this one does not know its layout")
            self._refuse(f"not {CALLED[self.KIND]}, or damaged: its header is another one")
        trusted, wide = parts.is_trusted(self._fd), bool(flags & WIDE)
        if self.HAS_LOCKS and not wide:
            if not trusted:
                text = f"another user owns it or may write to it, but it was created for one user alone: {_WIDEN}"
                self._refuse(text, errno.EPERM)
            if layout != parts.lock_layout().ljust(len(layout), b"\0"):
                self._refuse(f"a program with another C library or word size made it: {_WIDEN}")
            if 0 != space != parts.process_namespace() != 0:
                self._refuse(f"a process in another PID namespace (container) made it: {_WIDEN}")
        self._prepare(OpenObject(self.KIND, self._name, memory, self._fd, trusted, wide), flags)

    def _prepare(self, opened: OpenObject, flags: int) -> None:
        self._set_up(opened, flags & -KIND_FLAG)
        self._opened = opened

    def _refuse(self, text: str, number: int = errno.EINVAL) -> NoReturn:
        raise OSError(number, f"{self.KIND} {self._name!r}: {text}", self._name)

    # -- what every handle has ---------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._opened is None

    def close(self) -> None:
        """Close the handle; when the last handle of all processes is closed, the name is removed, unless it persists.

        May be called again.
        """
        close: Callable[[int], None] = os.close
        try:
            with fork_lock:
                fd, share, memory = self._fd, self._share, self._memory
                self._fd, self._share, self._memory, self._opened = -1, None, None, None
                if memory is not None and len(memory) >= LARGE:
                    close = close_later
                    free_later(memory)
                memory = None
                self._drop()
                if share is not None:  # which owns the descriptor
                    share.release(close)
                elif fd >= 0 and _is_open(fd, self._info):
                    close(fd)
        finally:
            if close is close_later:
                close_listed()

    def _drop(self) -> None:
        """Forget the parts; under `fork_lock`."""

    def __del__(self) -> None:
        # Python would print what is raised: by a handle that was not made, and when a program ends and this module has
        # no more variables (`suppress` would be one).
        try:
            self._end_by_collector()
            self.close()
        except Exception:  # noqa: BLE001, S110
            pass

    def _end_by_collector(self) -> None:
        """Prepare `close` if the program has not called it."""

    def _check_open(self) -> OpenObject:
        opened = self._opened
        if opened is None:
            raise ValueError(f"I/O operation on closed file: {self.KIND} {self._name!r}")  # the io module's words
        return opened

    def _details(self) -> str:
        """Return what `repr` says of an open object besides its name."""
        return ""

    def __repr__(self) -> str:
        state = " closed" if self.closed else self._details()
        return f"<ipcio.{type(self).__name__} name={self._name!r}{state}>"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        with fork_lock:
            self._check_open()
            return hand_over(self, self._share, (self._again, (self._name,)))


Handle = TypeVar("Handle", bound=NamedHandle)


def create(
    handle: type[Handle],
    attach: Callable[..., Handle],
    name: str | None,
    size: int,
    *,
    flags: int = 0,
    perm: int,
    persist: bool,
    exist_ok: bool,
    owner: int | None,
) -> Handle:
    """Create an object of `size` bytes of data, or attach to an existing one with `exist_ok`; return its handle.

    `attach` is the function of the public module, by which pickled copies attach.  Each public module has functions
    with signatures and documentation of their own, so that `help` shows all of it; a test compares what they say.
    """
    if name is not None:
        check_name(name)
    perm = check_perm(perm)
    owner = check_owner(owner)
    kind = handle.KIND

    def make(wanted: str) -> Handle:
        again = _again(attach, owner_of_new(owner))
        opened: list[Handle] = []
        made = None

        def into(memory: mmap.mmap | memoryview[int] | None, fd: int, share: Share | None) -> Handle:
            opened.append(handle._over(wanted, again, True, memory, fd, share))
            return opened[-1]

        try:
            made = segments.create(
                wanted,
                DATA + size,
                perm=perm,
                persist=bool(persist),
                reserve=True,
                init=lambda new: new._write_first(flags),
                into=into,
                kind=kind,
            )
            _check(made)
        except BaseException:  # an interrupt as well
            for each in opened:
                each.close()
            if persist and made is not None:
                with suppress(OSError):
                    segments.unlink(wanted, kind=kind)
            raise
        return made

    def join(wanted: str) -> Handle:
        return _join(handle, attach, wanted, owner)

    try:
        return create_or_attach(name, make, join if exist_ok else None)
    except OSError as error:
        explain(error, kind, name)
        raise


def attach(
    handle: type[Handle], attach: Callable[..., Handle], name: str, *, timeout: float | None, owner: int | None
) -> Handle:
    """Return a handle on an existing object."""
    check_name(name)
    owner = check_owner(owner)
    try:
        return attach_in_time(lambda: _join(handle, attach, name, owner), timeout)
    except OSError as error:
        explain(error, handle.KIND, name)
        raise


def unlink(kind: str, name: str, *, missing_ok: bool) -> None:
    """Remove the name."""

    def remove(known: str) -> None:
        segments.unlink(known, kind=kind)

    remove_name(kind, name, remove, missing_ok=missing_ok)


def _join(handle: type[Handle], attach: Callable[..., Handle], name: str, owner: int | None) -> Handle:
    again = _again(attach, owner)
    found = segments.attach(
        name,
        writable=True,
        owner=owner,
        into=partial(handle._over, name, again, False),
        kind=handle.KIND,
    )
    _check(found)
    return found


def _check(handle: NamedHandle) -> None:
    """Check what was opened; close it, and say which object it was, if that fails."""
    try:
        handle._check()
    except BaseException as error:  # an interrupt as well
        handle.close()
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = handle.name
        raise


def _again(attach: Callable[..., Handle], owner: int | None) -> Callable[[str], Handle]:
    """Return what attaches a pickled copy."""
    return attach if owner is None else partial(attach, owner=owner)


def _magic(kind: str, version: int | None = 1) -> bytes:
    """Return the first 16 bytes of an object; without a version, what all versions begin with."""
    text = f"ipcio {kind} ".encode()
    return text if version is None else (text + str(version).encode()).ljust(16, b"\0")


def _is_open(fd: int, opened: os.stat_result | None) -> bool:
    """Whether `fd` still is what was opened: a daemon closes all descriptors, and the numbers then mean other files."""
    try:
        return opened is None or os.path.samestat(os.fstat(fd), opened)
    except OSError as error:
        return error.errno != errno.EBADF
