"""The handle of memory: what every handle of shm, mmap and strfile promises.

:class:`MemoryFile` is the whole contract.  Each of its methods is right for every handle in
every state.

Which part of the memory a handle shows, and where it stands, is in `ipcio._memory_place`.  While a handle
needs nothing but its cursor, its class is `ipcio._memfile_fast.DirectFile`, and its methods are
those of the cursor.  (On a Python without the GIL, see `ipcio._memfile_locked`.)
What a handle has open, and how it ends, is in `ipcio._memory`.
"""

from __future__ import annotations

import errno
import io
import os
import sys

from ipcio._buffering import add_memory
from ipcio._bytes import LINE_GUESS, exporter, line_at, raw_bytes, writable_bytes
from ipcio._forklock import FREE_THREADED, fork_lock
from ipcio._handover import hand_over
from ipcio._light import index
from ipcio._memory import CLOSED
from ipcio._memory_place import PlacedMemory
from ipcio._typing import TYPE_CHECKING
from ipcio._unowned import close_listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from typing_extensions import Buffer, Self

    from ipcio._backend.shares import Share
    from ipcio._memory import Memory, Reduce

_new: Callable[..., Any] = io.RawIOBase.__new__


class MemoryFile(PlacedMemory):
    """A fixed-size run of bytes with a position: memory as a raw binary file.

    Handles come from `ipcio.shm`, `ipcio.mmap` and `ipcio.strfile`, not from
    this class.  A handle has every method of `io.RawIOBase`; what memory adds or
    changes is this:

    * Its size is fixed.  `write` writes everything or raises.  `truncate` shortens what this
      handle shows of the memory, and nothing else.
    * It is coherent: there is no cache.  When `write` returns, every process
      that maps the bytes sees them.
    * `size`, `addr` (from LuaIPC) and `getbuffer` (from `io.BytesIO`) reach the
      memory itself.  From Python 3.12 the handle is a buffer, too.

    A closed handle raises `ValueError` from every method but `close`; a mode
    that forbids the call raises `io.UnsupportedOperation`.  Closing is optional:
    a handle that is garbage-collected closes itself without a warning.  Handles
    may be shared between threads; calls that read or write are atomic for
    others of the same kind.  They work on both sides of a ``fork``, and pickle by
    attaching again (same mode, size and position).
    """

    __slots__ = ()

    def __init__(self, *_: object, **__: object) -> None:
        """Raise `TypeError`: functions of `ipcio.shm`, `ipcio.mmap` and `ipcio.strfile` make handles."""
        raise TypeError(
            "MemoryFile is not called directly: use shm.create(), shm.attach(), mmap.open() or strfile.open()"
        )

    # In one function, and all arguments positional, for speed.
    @classmethod
    def _over(
        cls,
        cursor: Any,
        memory: Memory,
        name: str | Any,
        mode: str,
        reduce: Reduce,
        fd: int = -1,
        file_offset: int = 0,
        share: Share | None = None,
        created: bool = False,
        opened: os.stat_result | None = None,
        /,
    ) -> Self:
        """Return a handle of what a call has opened.  It stands at position 0, as the cursor does, if there is one."""
        self: Self = _new(cls)
        self._view = self._cursor = None
        self._fd = fd
        self._lent = self._user_fd = -1
        self._share = share
        self._opened = opened
        self._memory = memory  # from here on `__del__` gives all of it back, whatever is raised
        self._name = name
        self._mode = mode
        self._reduce = reduce
        self._file_offset = file_offset
        self._created = created
        self._position = 0
        self._size = len(memory)
        self._view = memoryview(memory)
        if opened is None and share is None and fd >= 0:
            self._opened = os.fstat(fd)
        if cursor is not None:
            self._use_cursor(cursor)
            self._become(True)
        return self

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
        """Return how many bytes the handle shows (`truncate` narrows it)."""
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
            # This function is deprecated because C code may use the pointer after the buffer is
            # released.  It stays in the stable ABI, and no other call accepts read-only memory
            # without a struct that we would have to declare.
            if not hasattr(ctypes, "pythonapi"):  # PyPy, which brings cffi
                from importlib import import_module

                ffi = import_module("cffi").FFI()
                return int(ffi.cast("uintptr_t", ffi.from_buffer(whole)))
            ctypes.pythonapi.PyObject_AsReadBuffer(ctypes.py_object(whole), ctypes.byref(address), ctypes.byref(length))
        return address.value or 0

    def fileno(self) -> int:
        """Return the descriptor behind the memory; the handle owns and closes it.

        After the first call, the position of the handle is the offset of the
        descriptor.  So ``os.sendfile``, ``subprocess`` or ``numpy.fromfile`` begin at
        the position of the handle, and the handle continues where they stopped.  Each
        operation then costs one or two system calls more.

        Raises `io.UnsupportedOperation` if there is no descriptor (strfile; shared
        memory on macOS and Windows), or if the handle shows only a part of the file: a
        map at an offset, or shorter than its file is now, or a handle after `truncate`.
        The descriptor would show other bytes than the handle.  Libraries then use `seek`
        and `read`.  `getbuffer` returns the memory without a copy, and `ipcio.filelock`
        accepts such a handle, too.  If `fileno` was called before `truncate`, the
        descriptor still has the position of the handle.

        Operations on the descriptor do not affect a shared name.  The caller may use
        ``lockf`` on it.  ``flock`` on it can be shared but not exclusive, because each
        open handle holds a shared ``flock`` on the object.
        """
        with fork_lock:
            lent = self._lend()
            if self._file_offset or self._size < os.fstat(lent).st_size:
                raise io.UnsupportedOperation(
                    f"fileno: the handle shows {self._size} bytes from offset {self._file_offset}, and its descriptor "
                    "would show all of the file; use read(), or getbuffer() for the memory without a copy"
                )
            if self._user_fd < 0:
                position = self._get_position()
                os.lseek(lent, position, os.SEEK_SET)
                self._user_fd = lent
                self._set_position(position)
                self._leave_cursor()
            return lent

    # -- position --------------------------------------------------------

    def tell(self) -> int:
        """Return the position in bytes."""
        with fork_lock:
            self._check_open()
            return self._get_position()

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
                target = self._get_position() + offset
            elif whence == os.SEEK_END:
                target = self._size + offset
            else:
                raise InvalidSeekError(errno.EINVAL, f"invalid whence ({whence!r}, should be 0, 1 or 2)", self._name)
            if target < 0:
                raise InvalidSeekError(errno.EINVAL, f"negative seek position {target}", self._name)
            if target > sys.maxsize:
                raise OverflowError(f"seek position {target} is too large")
            self._set_position(target)
            return target

    def truncate(self, size: int | None = None, /) -> int:
        """Narrow this handle to its first `size` bytes (default: up to the position); return `size`.

        A position beyond the new end is moved to the end.  The memory itself and every
        other handle stay as they are.  To see all of the memory again, open another handle.
        More than `size()` or less than 0 is a `ValueError`.
        """
        wanted = None if size is None else index(size)
        try:
            with fork_lock:
                return self._truncate(wanted)
        finally:
            close_listed()  # what `_narrow` has listed

    # -- reading ---------------------------------------------------------

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes (all that is left if negative or None); ``b""`` at the end.

        Never short while bytes are left, unlike other raw files.
        """
        count = -1 if size is None else index(size)
        with fork_lock:
            view = self._check_readable()
            start = self._get_position()
            stop = self._size if count < 0 else min(start + count, self._size)
            if start >= stop:
                return b""
            data = view[start:stop].tobytes()
            self._set_position(stop)
            return data

    def read1(self, size: int | None = -1, /) -> bytes:
        """Same as `read`; with this method, `io.TextIOWrapper` needs no buffer in between."""
        return self.read(size)

    def readall(self) -> bytes:
        """Read from the position to the end."""
        return self.read()

    def readinto(self, buffer: Buffer, /) -> int:
        """Read into a writable contiguous `buffer`; return how many bytes, 0 at the end."""
        with writable_bytes(buffer) as target, fork_lock:
            view = self._check_readable()
            start = self._get_position()
            count = min(len(target), self._size - start)
            if count <= 0:
                return 0
            target[:count] = view[start : start + count]
            self._set_position(start + count)
            return count

    def readinto1(self, buffer: Buffer, /) -> int:
        """Same as `readinto`."""
        return self.readinto(buffer)

    def readline(self, size: int | None = -1, /) -> bytes:
        r"""Read up to and including the next ``b"\n"``, at most `size` bytes if not negative."""
        limit = -1 if size is None else index(size)
        with fork_lock:
            view = self._check_readable()
            start = self._get_position()
            stop = self._size if limit < 0 else min(start + limit, self._size)
            if start >= stop:
                return b""
            line = line_at(view, start, stop)
            self._set_position(start + len(line))
            return line

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the lines from the position on, which moves along."""
        self._check_readable()
        return self._lines()

    def _lines(self) -> Iterator[bytes]:
        # What `readline` does, in fewer steps, for memory that has neither descriptor nor cursor.
        # It looks at the memory anew for each line, and so is coherent.  It needs no lock: with the
        # GIL, the interpreter switches threads at calls and backward jumps, so nothing comes
        # between the last look at the position and the move.
        while True:
            view, start = self._view, self._position
            if view is None:
                raise ValueError(CLOSED)
            line = view[start : start + LINE_GUESS].tobytes()
            cut = line.find(b"\n") + 1
            if cut:
                line = line[:cut]
            elif len(line) == LINE_GUESS:
                line = line_at(view, start, self._size)
            end = start + len(line)
            if self._position == start and self._view is view:
                self._position = end
                if not line:
                    return
                yield line

    if FREE_THREADED and not TYPE_CHECKING:

        def __iter__(self) -> Iterator[bytes]:
            # As for a file of `io`, each step is a `readline`.  Threads cannot share a generator.
            self._check_readable()
            return self

    def _rest(self) -> Iterator[bytes]:
        """The lines from here on, by `readline`, whatever class the handle has at each."""
        while line := self.readline():
            yield line

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
            start, count = self._get_position(), source.nbytes
            if not count:
                return 0
            if start + count > self._size:
                raise OSError(
                    errno.ENOSPC,
                    f"{os.strerror(errno.ENOSPC)}: {count} bytes do not fit at {start} of {self._size}",
                    self._name,
                )
            # A map accepts any contiguous buffer, a memoryview only one of its own format.
            plain = not isinstance(memory, memoryview) or (
                source.format == "B" and source.ndim == 1 and source.contiguous
            )
            memory[start : start + count] = source if plain else raw_bytes(source)
            self._set_position(start + count)
            return count

    def flush(self) -> None:
        """Write the changes through to the file (``msync``); for shared memory and strings there is nothing to do.

        This matters only if the machine crashes: other processes see each change at once, and
        the system writes it to the file some time later.  Raises `OSError` when the storage fails.
        """
        memory = self._check_open()
        if self._mode != "rb" and not isinstance(memory, memoryview):
            with memoryview(memory):  # so that a close() elsewhere cannot unmap meanwhile
                memory.flush()

    # -- the memory itself -----------------------------------------------

    def getbuffer(self) -> memoryview[int]:
        """Return a `memoryview` of the bytes that the handle shows, without a copy; read-only where the handle is.

        Views may outlive `close`: the memory stays mapped until the last is gone.
        """
        with fork_lock:
            whole = memoryview(exporter(self._check_open()))[: self._size]
            return whole.toreadonly() if self._mode == "rb" else whole

    def __buffer__(self, _flags: int, /) -> memoryview[int]:
        return self.getbuffer()

    # -- the end ---------------------------------------------------------

    def close(self) -> None:
        """Close the handle, its descriptor and its share of the name.  A second call does nothing.

        Views from `getbuffer` stay valid and keep the memory mapped.
        """
        self._close(is_explicit=True)

    def __del__(self) -> None:
        # No warning.  The cursor stays usable: ``shm.attach("x").read()`` fetches a method of the
        # cursor, and the handle is gone before that is called.
        try:
            if self._memory is not None:
                self._close(is_explicit=False)
        except Exception:  # noqa: BLE001, S110 -- an error here would reach no caller
            pass

    def __reduce__(self) -> tuple[Any, ...]:
        size, position = self._where()
        how = self._reduce(self)  # which may ask for the file's path
        with fork_lock:
            self._check_open()  # all that time
            return hand_over(self, self._share, (_reopen, (*how, size, position)))

    def _where(self) -> tuple[int, int]:
        with fork_lock:
            return self._size, self.tell()


add_memory(MemoryFile)


class InvalidSeekError(OSError, ValueError):
    """A seek before 0: what `io.FileIO` raises and what `io.BytesIO` raises, at once."""


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
