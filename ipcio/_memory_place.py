"""Which part of its memory a handle shows, and where it stands.

*Which part.*  A handle shows all of its memory or, after `truncate`, the beginning: ``_size`` bytes, in ``_view``.

*Where.*  The position can be in three places:

* ``_position``: where the methods of `ipcio._memfile` left it.
* The *cursor*: an object written in C that has a position of its own over exactly the bytes that
  the handle shows, an `mmap.mmap` or (over `bytes`) an `io.BytesIO`.  Some handles have none.  If
  a method of the cursor has moved it since, the cursor is right.
* The offset of the descriptor, after `fileno` has given the descriptor to the caller.

`_get_position` and `_set_position` keep the three together, and nothing else moves a handle.
While a handle needs nothing but its cursor, its class is `ipcio._memfile_fast.DirectFile`, and
its methods are those of the cursor.
"""

from __future__ import annotations

import io
import os
from itertools import chain

from ipcio._light import partial
from ipcio._memory import CLOSED, OpenMemory
from ipcio._record import exhaust, in_turn
from ipcio._typing import TYPE_CHECKING
from ipcio._unowned import LARGE, free_later

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from typing_extensions import Buffer


class PlacedMemory(OpenMemory):
    """Open memory, of which a handle shows some bytes, with a position.

    What changes or looks at the position is called under `fork_lock`; `_check_readable` needs no lock.
    """

    __slots__ = (
        "_cursor",
        "_cursor_read",
        "_cursor_readline",
        "_cursor_seek",
        "_cursor_seen",
        "_cursor_tell",
        "_cursor_write",
        "_loops",
        "_move",
        "_next_turn",
        "_position",
        "_quick",
        "_size",
        "_turn",
        "_user_fd",
        "_view",
    )

    _view: memoryview[int] | None  # the bytes that this handle shows
    _size: int  # how many they are
    _position: int  # may lie past the end
    _user_fd: int  # the descriptor that `fileno` has given, or -1
    _cursor: Any  # over exactly these bytes, if not None
    _quick: tuple[Callable[..., Any], ...] | None  # its methods, which are in the next five slots of a DirectFile
    _cursor_tell: Callable[[], int]
    _cursor_seek: Callable[..., Any]
    _cursor_read: Callable[..., bytes]
    _cursor_readline: Callable[[], bytes]
    _cursor_write: Callable[[Buffer], int]
    _cursor_seen: int  # where the cursor was when the position was last looked at
    _loops: Any  # an iterator over the cursor's lines, which all loops of a DirectFile share
    _move: Callable[[int, int], int]  # `lseek` of the descriptor; this and the next two for `ipcio._memfile_offset`
    _turn: int  # which thread may move that
    _next_turn: int

    def _check_readable(self) -> memoryview[int]:
        view = self._view
        if view is None or self._memory is None:
            raise ValueError(CLOSED)
        if self._mode == "wb":
            raise io.UnsupportedOperation("not readable")
        return view

    def _get_position(self) -> int:
        """Return the position.  If the cursor or the descriptor was moved, the handle follows."""
        if self._cursor is not None:
            reached = self._cursor.tell()
            if reached != self._cursor_seen:
                self._cursor_seen = self._position = reached
                if self._user_fd >= 0:
                    os.lseek(self._user_fd, reached, os.SEEK_SET)
        if self._user_fd >= 0:
            self._position = os.lseek(self._user_fd, 0, os.SEEK_CUR)
        return self._position

    def _set_position(self, position: int) -> None:
        """Move the handle, its cursor and the offset of the descriptor that the caller has."""
        if self._user_fd >= 0:
            os.lseek(self._user_fd, position, os.SEEK_SET)
        self._position = position
        if self._cursor is not None:
            is_fast = position <= self._size and self._user_fd < 0
            if not is_fast:
                self._become(False)
                self._end_loops()
            self._cursor_seen = min(position, self._size)
            self._cursor.seek(self._cursor_seen)
            if is_fast:
                self._become(True)

    def _narrow(self, size: int) -> None:
        """Show only the first `size` bytes.  The caller must set the position afterwards."""
        shorter = None
        if self._cursor is not None:
            shorter = self._map_again(size)
            self._become(False)
            self._drop_cursor()
        assert self._view is not None
        self._view, self._size = self._view[:size], size
        if shorter is not None:
            self._use_cursor(shorter)

    def _use_cursor(self, cursor: Any) -> None:
        """Have a cursor from now on, which stands at its beginning."""
        self._cursor = cursor
        self._cursor_seen = 0
        self._loops = None
        read, readline, write = cursor.read, cursor.readline, cursor.write
        if self._mode == "wb":
            read = readline = _not_readable
        elif self._mode == "rb":
            write = not_writable
        self._quick = cursor.tell, cursor.seek, read, readline, write

    def _drop_cursor(self) -> None:
        """Go on without the cursor.  It is left at its end, so methods of it that a caller has kept find nothing."""
        self._cursor.seek(self._size)
        if self._size >= LARGE:
            free_later(self._cursor)
        self._cursor = self._loops = self._quick = None

    def _leave_cursor(self) -> None:
        """Do without the cursor if that is faster, when the caller has the descriptor."""

    def _end_loops(self) -> None:
        """Have the loops that a DirectFile began go on with `readline`; see `DirectFile.__iter__`."""
        loops = self._loops
        if loops is not None:
            # The iterator that they share ends at the end of the cursor, which then stands where it was.  All of
            # this is one step, for other threads and for signal handlers (`ipcio._record`).
            cursor = self._cursor
            at: list[int] = []
            look = map(at.append, in_turn((partial(cursor.tell),)))
            end = in_turn((partial(cursor.seek, self._size), partial(next, loops, None)))
            exhaust(chain(look, end, map(cursor.seek, at)))
            self._loops = None

    def _become(self, fast: bool, /) -> None:
        """Switch between the fast methods and those of this class; a handle without a cursor has only these."""

    def _truncate(self, wanted: int | None) -> int:
        """Do what `truncate` promises."""
        self._check_open()
        position = self._get_position()  # also keeps other threads from moving the handle
        if wanted is None:
            wanted = position
        if not 0 <= wanted <= self._size:
            raise ValueError(f"cannot truncate to {wanted} bytes: memory of {self._size} bytes only narrows")
        if wanted < self._size:
            self._narrow(wanted)
            self._set_position(min(self._get_position(), wanted))
        elif position > wanted:
            self._set_position(wanted)
        return wanted

    def _drop_memory(self, *, is_explicit: bool) -> None:
        # The map is dropped and never closed: the last reference unmaps.  To close it would be an
        # error while there are views, and a crash where something else has it.  Numpy makes the map
        # itself the base of an array (``numpy.ndarray(buffer=)``), and before 3.11 `mmap.read` goes
        # on after the ``__index__`` of its argument has closed the map.
        cursor, view = self._cursor, self._view
        self._memory = self._view = self._cursor = self._loops = None
        self._user_fd = -1
        self._quick = None
        if cursor is not None:
            self._become(False)
            if is_explicit:
                cursor.seek(self._size)  # where methods of it that a caller has kept find nothing
            if self._size >= LARGE:
                free_later(cursor)
        if view is not None:
            view.release()


def _not_readable(*_: object) -> NoReturn:
    raise io.UnsupportedOperation("not readable")


def not_writable(*_: object) -> NoReturn:
    """Raise: the `write` of a read-only handle."""
    raise io.UnsupportedOperation("not writable")


def closed_method(*_: object) -> NoReturn:
    """Raise; what is in the slots of a closed handle."""
    raise ValueError(CLOSED)
