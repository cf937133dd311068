"""The file face of memory: what every handle of shm, mmap and strfile is.

:class:`MemoryFile` here is written over a plain `memoryview` and is complete:
strfile uses it as it stands.  Handles over an `mmap.mmap` are the subclass in
`ipcio._memfile_fast`, which lets the map's own C methods do the work while nothing
special has been asked of the handle, and falls back on these methods when
something has: a narrowed face, a position past the end, a descriptor whose
offset the position must follow.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from functools import cache
from operator import index

from ipcio._buffering import add_memory
from ipcio._forklock import FREE_THREADED, fork_lock
from ipcio._handover import hand_over
from ipcio._typing import TYPE_CHECKING
from ipcio._unowned import LARGE, close_later, close_listed, free_later

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

    from typing_extensions import Buffer, Self

    from ipcio._backend import Share

    # A `typing.BinaryIO` for checkers, as they see `io.FileIO`: so a handle may be passed
    # wherever a binary file is documented.
    class _RawBinaryFile(io.RawIOBase, BinaryIO):
        pass

    Memory = mmap.mmap | memoryview[int]
    Recipe = Callable[[Any], tuple[Callable[..., "MemoryFile"], tuple[Any, ...]]]
else:
    _RawBinaryFile = io.RawIOBase

__all__ = ["CLOSED", "InvalidSeekError", "MemoryFile", "prepare", "raw_bytes", "writable_bytes"]

CLOSED = "I/O operation on closed file."  # the io module's words

_LINE_GUESS = 128  # bytes looked at first when a line is sought; eight times more each round


class MemoryFile(_RawBinaryFile):
    """A fixed-size run of bytes with a position: memory as a raw binary file.

    Handles come from `ipcio.shm`, `ipcio.mmap` and `ipcio.strfile`, not from
    this class.  A handle has every method of `io.RawIOBase`; what memory adds or
    changes is this:

    * It never grows.  `write` is all or nothing, `truncate` narrows this
      handle's view of the memory and nothing else.
    * It is coherent: there is no cache.  When `write` returns, every process
      that maps the bytes sees them.
    * `size`, `addr` (from LuaIPC) and `getbuffer` (from `io.BytesIO`) reach the
      memory itself.  From Python 3.12 the handle is a buffer, too.

    A closed handle raises `ValueError` from every method but `close`; a mode
    that forbids the call raises `io.UnsupportedOperation`.  Closing is optional:
    a handle that is garbage-collected closes itself without a warning.  Handles
    may be shared between threads; each reading and writing call is one step for
    others of its kind.  They work on both sides of a ``fork``, and pickle by
    attaching again (same mode, size and position).
    """

    __slots__ = (
        "_at",
        "_base",
        "_created",
        "_face",
        "_fd",
        "_given",
        "_lent",
        "_memory",
        "_mode",
        "_name",
        "_opened",
        "_recipe",
        "_share",
        "_size",
    )

    _memory: Memory | None  # None: closed
    _face: memoryview[int] | None  # the bytes that this handle shows, narrowed or not
    _size: int  # of the face
    _at: int  # the position; may lie past the end
    _fd: int  # the descriptor behind the memory, -1 if there is none
    _lent: int  # the descriptor that users get and `ipcio.filelock` locks; -1 until one is needed
    _given: int  # the same from the first fileno() on: its offset is the position then; -1 before
    _base: int  # where in the descriptor's file the memory begins; such a handle never gives the descriptor
    _recipe: Recipe  # says how to open this memory again, for pickle; must not keep it alive
    _share: Share | None  # in keeping the name alive
    _opened: os.stat_result | None  # what the descriptor has open, if no share owns it

    def __init__(self, *_: object, **__: object) -> None:
        """Raise `TypeError`: functions of `ipcio.shm`, `ipcio.mmap` and `ipcio.strfile` make handles."""
        raise TypeError(
            "MemoryFile is not called directly: use shm.create(), shm.attach(), mmap.open() or strfile.open()"
        )

    @classmethod
    def _over(cls, *arguments: Any) -> Self:
        """Return a handle; the arguments are those of `_begin`."""
        handle: Self = cls.__new__(cls)
        handle._begin(*arguments)
        return handle

    # Positional, all of them: keywords would double the price of the call.
    def _begin(
        self,
        memory: Memory,
        name: str | Any,
        mode: str,
        recipe: Recipe,
        fd: int = -1,
        base: int = 0,
        share: Share | None = None,
        created: bool = False,
    ) -> None:
        self._face = None
        self._fd = fd
        self._lent = self._given = -1
        self._share = share
        self._opened = None
        self._memory = memory  # from here on, whatever is raised, __del__ gives it all back
        self._name = name
        self._mode = mode
        self._recipe = recipe
        self._base = base
        self._created = created
        self._at = 0
        self._size = len(memory)
        self._face = memoryview(memory)
        if share is None and fd >= 0:
            self._opened = os.fstat(fd)

    # -- what it is ------------------------------------------------------

    @property
    def name(self) -> str | Any:
        """The name or path that the handle was opened by; kept after `close`."""
        return self._name

    @property
    def mode(self) -> str:
        """``"rb"``, ``"wb"`` or ``"rb+"``, as `io.FileIO` spells it."""
        return self._mode

    @property
    def created(self) -> bool:
        """Whether this very call made the memory (``exist_ok=True`` may attach instead)."""
        return self._created

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._memory is None

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"size={self._size}"
        return f"<ipcio.MemoryFile name={self._name!r} mode={self._mode!r} {state}>"

    def readable(self) -> bool:
        """Return whether the mode allows reading."""
        self._check_open()
        return "w" not in self._mode

    def writable(self) -> bool:
        """Return whether the mode allows writing."""
        self._check_open()
        return self._mode != "rb"

    def seekable(self) -> bool:
        """Return True: memory always is."""
        self._check_open()
        return True

    def size(self) -> int:
        """Return the size of the file face in bytes (`truncate` narrows it)."""
        self._check_open()
        return self._size

    def addr(self) -> int:
        """Return the address of the first byte in this process.

        It stays the same until `close`, also across `truncate`, and differs from
        process to process.
        """
        import ctypes  # see `prepare`

        address, length = ctypes.c_void_p(), ctypes.c_ssize_t()
        with fork_lock, memoryview(self._check_open()) as whole:
            # Deprecated for C code that would keep the pointer past the buffer's
            # life; kept for ever in the stable ABI; the one call that takes
            # read-only memory without a struct of ours.
            if not hasattr(ctypes, "pythonapi"):  # PyPy, which brings cffi
                from importlib import import_module

                ffi = import_module("cffi").FFI()
                return int(ffi.cast("uintptr_t", ffi.from_buffer(whole)))
            ctypes.pythonapi.PyObject_AsReadBuffer(ctypes.py_object(whole), ctypes.byref(address), ctypes.byref(length))
        return address.value or 0

    def fileno(self) -> int:
        """Return the descriptor behind the memory; the handle owns and closes it.

        From the first call on, the position of the handle and the offset of the
        descriptor are one, so that ``os.sendfile``, ``subprocess`` or
        ``numpy.fromfile`` begin where the handle stands and the handle goes on where
        they stopped.  That costs a system call or two per operation; a handle never
        asked does not pay.

        Raises `io.UnsupportedOperation` where there is no descriptor (strfile; shared
        memory on macOS and Windows), and for a handle that shows only part of what
        the descriptor has: a map at an offset or shorter than its file is now, a
        handle that `truncate` has narrowed.  The descriptor would show other bytes
        than the handle.  Libraries then use `seek` and `read`; `getbuffer` gives the
        memory without a copy, and `ipcio.filelock` takes such a handle as any other.
        A descriptor given before the narrowing keeps its offset in step.

        Nothing done through it touches the life of a shared name.  ``lockf`` on it is
        the caller's to use; ``flock`` can share but not exclude, because each handle's
        part in the name is a shared ``flock`` of its own.
        """
        with fork_lock:
            lent = self._lend()
            if self._base or self._size < os.fstat(lent).st_size:
                raise io.UnsupportedOperation(
                    f"fileno: the handle shows {self._size} bytes from offset {self._base}, and its descriptor "
                    "would show all of the file; use read(), or getbuffer() for the memory without a copy"
                )
            if self._given < 0:
                position = self._where()
                os.lseek(lent, position, os.SEEK_SET)
                self._given = lent
                self._go(position)
            return lent

    def _lend(self) -> int:
        """The descriptor for users and for locks, of all that lies behind the memory; made when first needed."""
        lent = self._lent
        if lent < 0:
            with fork_lock:
                self._check_open()
                if self._fd < 0:
                    raise io.UnsupportedOperation("fileno: this memory has no descriptor; getbuffer() gives its bytes")
                if self._lent < 0:
                    # Not the one that a share's lock is on: what is locked, unlocked or dropped
                    # through the user's must not matter to the name, nor last as long as a map.
                    self._lent = self._fd if self._share is None else self._share.open_again(self._fd)
                lent = self._lent
        return lent

    # -- position --------------------------------------------------------

    def tell(self) -> int:
        """Return the position in bytes."""
        with fork_lock:
            self._check_open()
            return self._where()

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to `offset` bytes from the start, the position or the end; return the new position.

        Past the end is allowed: `read` gives ``b""`` there, and a `write` that is
        not empty fails.  Before 0 is an error that is both a `ValueError` (as from
        `io.BytesIO`) and an ``OSError(EINVAL)`` (as from `io.FileIO`), and the
        handle does not move.
        """
        offset, whence = index(offset), index(whence)
        with fork_lock:
            self._check_open()
            if whence == os.SEEK_SET:
                target = offset
            elif whence == os.SEEK_CUR:
                target = self._where() + offset
            elif whence == os.SEEK_END:
                target = self._size + offset
            else:
                raise InvalidSeekError(errno.EINVAL, f"invalid whence ({whence!r}, should be 0, 1 or 2)", self._name)
            if target < 0:
                raise InvalidSeekError(errno.EINVAL, f"negative seek position {target}", self._name)
            if target > sys.maxsize:
                raise OverflowError(f"seek position {target} is too large")
            self._go(target)
            return target

    def truncate(self, size: int | None = None, /) -> int:
        """Narrow this handle's face to `size` bytes (default: the position); return `size`.

        A position beyond the new end is moved to it.  The memory itself and every
        other handle stay as they are; there is no way back but another handle.
        More than `size()` or less than 0 is a `ValueError`.
        """
        wanted = None if size is None else index(size)
        with fork_lock:
            self._check_open()
            position = self._where()
            if wanted is None:
                wanted = position
            if not 0 <= wanted <= self._size:
                raise ValueError(f"cannot truncate to {wanted} bytes: memory of {self._size} bytes only narrows")
            if wanted < self._size:
                self._narrow(wanted)
            if position > wanted:
                self._go(wanted)
            return wanted

    # -- reading ---------------------------------------------------------

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes (all that is left if negative or None); ``b""`` at the end.

        Never short while bytes are left, unlike other raw files.
        """
        count = -1 if size is None else index(size)
        with fork_lock:
            face = self._check_readable()
            start = self._where()
            stop = self._size if count < 0 else min(start + count, self._size)
            if start >= stop:
                return b""
            data = face[start:stop].tobytes()
            self._go(stop)
            return data

    def read1(self, size: int | None = -1, /) -> bytes:
        """Same as `read`; there so that `io.TextIOWrapper` needs no buffer between."""
        return self.read(size)

    def readall(self) -> bytes:
        """Read from the position to the end."""
        return self.read()

    def readinto(self, buffer: Buffer, /) -> int:
        """Read into a writable contiguous `buffer`; return how many bytes, 0 at the end."""
        with writable_bytes(buffer) as target, fork_lock:
            face = self._check_readable()
            start = self._where()
            count = min(len(target), self._size - start)
            if count <= 0:
                return 0
            target[:count] = face[start : start + count]
            self._go(start + count)
            return count

    def readinto1(self, buffer: Buffer, /) -> int:
        """Same as `readinto`."""
        return self.readinto(buffer)

    def readline(self, size: int | None = -1, /) -> bytes:
        r"""Read up to and including the next ``b"\n"``, at most `size` bytes if not negative."""
        limit = -1 if size is None else index(size)
        with fork_lock:
            face = self._check_readable()
            start = self._where()
            stop = self._size if limit < 0 else min(start + limit, self._size)
            if start >= stop:
                return b""
            line = _line(face, start, stop)
            self._go(start + len(line))
            return line

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the lines from the position on, which moves along."""
        self._check_readable()
        return self._lines()

    def _lines(self) -> Iterator[bytes]:
        # What `readline` does, for memory that has neither descriptor nor cursor, in as
        # few steps as can be: looking again each time is what makes it coherent.  No
        # lock: with the GIL the interpreter switches threads at calls and backward jumps, so
        # nothing comes between the last look at the position and its move.
        while True:
            face, start = self._face, self._at
            if face is None:
                raise ValueError(CLOSED)
            line = face[start : start + _LINE_GUESS].tobytes()
            cut = line.find(b"\n") + 1
            if cut:
                line = line[:cut]
            elif len(line) == _LINE_GUESS:
                line = _line(face, start, self._size)
            end = start + len(line)
            if self._at == start:
                self._at = end
                if not line:
                    return
                yield line

    if FREE_THREADED and not TYPE_CHECKING:

        def __iter__(self) -> Iterator[bytes]:
            # As a file of `io`: each step is a `readline`.  A generator is nothing that threads can share.
            self._check_readable()
            return self

    # -- writing ---------------------------------------------------------

    def write(self, data: Buffer, /) -> int:
        """Write all of `data`, any contiguous bytes-like object, and return its size in bytes.

        All or nothing: what does not fit before the end raises ``OSError(ENOSPC)``
        and changes neither the bytes nor the position.
        """
        with memoryview(data) as source, fork_lock:
            memory = self._check_open()
            if self._mode == "rb":
                raise io.UnsupportedOperation("not writable")
            start, count = self._where(), source.nbytes
            if not count:
                return 0
            if start + count > self._size:
                raise OSError(
                    errno.ENOSPC,
                    f"{os.strerror(errno.ENOSPC)}: {count} bytes do not fit at {start} of {self._size}",
                    self._name,
                )
            # A map takes any contiguous buffer; a memoryview insists on its own format.
            plain = not isinstance(memory, memoryview) or (
                source.format == "B" and source.ndim == 1 and source.contiguous
            )
            memory[start : start + count] = source if plain else raw_bytes(source)
            self._go(start + count)
            return count

    def flush(self) -> None:
        """Do nothing, for there is no cache.  Handles of `ipcio.mmap` write through to the file (``msync``)."""
        self._check_open()

    # -- the memory itself -----------------------------------------------

    def getbuffer(self) -> memoryview[int]:
        """Return a `memoryview` of the face, without a copy; read-only where the handle is.

        Views may outlive `close`: the memory stays mapped until the last is gone.
        """
        with fork_lock:
            whole = memoryview(_exporter(self._check_open()))[: self._size]
            return whole.toreadonly() if self._mode == "rb" else whole

    def __buffer__(self, _flags: int, /) -> memoryview[int]:
        return self.getbuffer()

    # -- the end ---------------------------------------------------------

    def close(self) -> None:
        """Close the handle, its descriptor and its share of the name.  A second call does nothing.

        Views from `getbuffer` stay valid and keep the memory mapped.
        """
        self._finish(self._unmap)

    def __del__(self) -> None:
        # Quietly, and only letting go of the memory: in ``shm.attach("x").read()`` the
        # handle is gone before the call that it was asked for, and in ``for line in
        # mmap.open(path)`` before the first line.
        try:
            if self._memory is not None:
                self._finish(self._let_go)
        except Exception:  # noqa: BLE001, S110 -- nobody could catch it
            pass

    def _finish(self, part: Callable[[], None]) -> None:
        close: Callable[..., None] = os.close
        try:
            with fork_lock:
                if self._memory is None:
                    return
                fd, lent, share = self._fd, self._lent, self._share
                if len(self._memory) >= LARGE:
                    close = close_later
                    free_later(self._memory)
                try:
                    part()
                finally:
                    self._memory = self._face = self._share = None
                    self._fd = self._lent = self._given = -1
                    try:
                        if lent not in {-1, fd}:
                            close(lent)
                    finally:
                        if share is not None:  # which owns the descriptor
                            share.release(close)
                        elif fd >= 0:
                            is_ours = True
                            try:
                                is_ours = self._opened is None or _is_open(fd, self._opened)
                            finally:
                                if is_ours:
                                    close(fd)
        finally:
            if close is close_later:
                close_listed()

    def __reduce__(self) -> tuple[Any, ...]:
        with fork_lock:
            memory, size, position = self._check_open(), self._size, self.tell()
        how = self._recipe(memory)  # which may ask for the file's path
        with fork_lock:
            self._check_open()  # all that time
            return hand_over(self, self._share, (_reopen, (*how, size, position)))

    # -- for the subclass ------------------------------------------------

    def _check_open(self) -> Memory:
        memory = self._memory
        if memory is None:
            raise ValueError(CLOSED)
        return memory

    def _check_readable(self) -> memoryview[int]:
        face = self._face
        if face is None:
            raise ValueError(CLOSED)
        if self._mode == "wb":
            raise io.UnsupportedOperation("not readable")
        return face

    def _where(self) -> int:
        """The position; once a descriptor was given, its offset is the truth."""
        if self._given >= 0:
            self._at = os.lseek(self._given, 0, os.SEEK_CUR)
        return self._at

    def _go(self, position: int) -> None:
        if self._given >= 0:
            os.lseek(self._given, position, os.SEEK_SET)
        self._at = position

    def _narrow(self, size: int) -> None:
        assert self._face is not None
        self._face = self._face[:size]
        self._size = size

    def _let_go(self) -> None:
        """Drop the memory; it goes when nobody else has it."""
        if self._face is not None:
            self._face.release()
        self._memory = self._face = None

    def _unmap(self) -> None:
        """Drop the memory, now where that can be."""
        self._let_go()


add_memory(MemoryFile)


class InvalidSeekError(OSError, ValueError):
    """A seek before 0: what `io.FileIO` raises and what `io.BytesIO` raises, at once."""


def writable_bytes(buffer: Buffer) -> memoryview[int]:
    """View `buffer`, writable and contiguous but of any format, as bytes.

    Release the view: while one exists, in the traceback of an error say, the owner
    of the buffer cannot resize it.
    """
    with memoryview(buffer) as view:
        if view.readonly:
            raise TypeError(f"readinto() argument must be read-write bytes-like object, not {type(buffer).__name__!r}")
        if not view.c_contiguous:
            raise BufferError("readinto() argument must be C-contiguous")
        if view.format == "B" and view.ndim == 1:
            return view[:]
    return raw_bytes(buffer)


def raw_bytes(buffer: Buffer) -> memoryview[int]:
    """View any contiguous buffer as bytes; `memoryview.cast` refuses big-endian and structured items."""
    if TYPE_CHECKING:
        from pickle import PickleBuffer
    else:
        from _pickle import PickleBuffer  # see `prepare`; without the rest of `pickle`

    return PickleBuffer(buffer).raw()


def _exporter(memory: Memory) -> Any:
    """What to view `memory` through, so that the new view can be released by any thread."""
    return memory


if FREE_THREADED and not TYPE_CHECKING:

    def _exporter(memory: Memory) -> Any:
        # All views of a view count themselves in one place, and without the GIL two threads that
        # release theirs miscount.  This one is counted by its references alone.
        from _pickle import PickleBuffer

        return PickleBuffer(memory) if isinstance(memory, memoryview) else memory


@cache
def prepare() -> None:
    """Import what methods of handles need, before the first handle is made.

    A process that has given up its rights (``setuid``, ``chroot``) may find no modules later, or
    another user's.  Not under a lock of ours: another thread may hold the lock of an import and
    wait for ours, in a garbage collection.
    """
    for module in "ctypes", "_pickle":
        with suppress(ImportError):  # it is not there, or not for this sub-interpreter: the method will say so
            __import__(module)


def _line(face: memoryview[int], start: int, stop: int) -> bytes:
    """The line at `start`, its newline included, or what there is before `stop`.

    Looks at a little first and at eight times more each round, so that what is
    copied stays in proportion to the line.
    """
    span = _LINE_GUESS
    while True:
        end = min(start + span, stop)
        piece = face[start:end].tobytes()
        cut = piece.find(b"\n") + 1
        if cut:
            return piece[:cut]
        if end == stop:
            return piece
        span *= 8


def _is_open(fd: int, opened: os.stat_result) -> bool:
    """Whether the descriptor still means this: a daemon closes all, and then others get the numbers."""
    try:
        return os.path.samestat(os.fstat(fd), opened)
    except OSError as error:
        return error.errno != errno.EBADF


def _reopen(opener: Callable[..., MemoryFile], arguments: tuple[Any, ...], size: int, position: int) -> MemoryFile:
    """Unpickle: attach again and stand where the pickled handle stood."""
    handle = opener(*arguments)
    try:
        handle.truncate(size)
        handle.seek(position)
    except BaseException:
        handle.close()
        raise
    return handle
