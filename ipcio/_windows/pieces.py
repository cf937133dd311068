"""Which pieces of a file an open file has locked, and how ranges are put together of them.

``LockFileEx`` knows no ranges that are split, joined or changed: exactly the range that was
locked is unlocked, and an exclusive lock conflicts even with another one of its own open file.
So ipcio keeps for every open file a list of *pieces*: each is a lock of Windows, and no two
overlap.  A request is put together of whole pieces, and of pieces that can be cut:

* What is locked already is not locked again; only the gaps are.
* An exclusive piece becomes shared in two steps: lock it once more, shared, which the same open
  file may do; then unlock once, which releases the exclusive lock.  No other process can lock
  it in between.
* A shared piece is cut by locking what is to stay, shared, before the whole is unlocked.
* A shared piece becomes exclusive in two steps: unlock, and lock.  Another process may lock it in
  between.  If the new lock is refused, the piece is locked shared again.
* An exclusive piece cannot be cut: `NotImplementedError`.

If a file is closed without an unlock, its pieces stay in the table, and another open file may
get its handle, its descriptor or both.  Also, a duplicate has other numbers for the same open
file.  So each open file that has pieces has a *token* as well: a shared lock of one byte at a
random place beyond all that a file can have.  Only a handle of that very open file can unlock
it.  The token is locked twice, so that it is there even while `is_of` unlocks one of the two.

A handler of Ctrl-C may raise after a call of Windows and before the piece is listed.  So the
piece is noted as *doubtful* first, and the next call unlocks it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
from contextlib import suppress
from functools import partial

from ipcio._record import in_turn
from ipcio._typing import TYPE_CHECKING
from ipcio._windows import win32

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    Piece: TypeAlias = tuple[int, int]  # the first byte, and the one behind the last

SHARE: int = 0
EXCLUDE: int = 1
END = 2**63  # behind the last byte that a file can have

_TOKENS = 2**64 - 2**47, 2**64 - 2  # other programs that lock "everything" hardly reach so far
_FLAGS = win32.LOCKFILE_FAIL_IMMEDIATELY, win32.LOCKFILE_FAIL_IMMEDIATELY | win32.LOCKFILE_EXCLUSIVE_LOCK


class OpenFile:
    """What one open file has locked; `handle` is the handle of the current call."""

    __slots__ = ("doubtful", "handle", "pieces", "token")

    def __init__(self, handle: int) -> None:
        place = random.SystemRandom().randrange(*_TOKENS)
        self.handle = handle
        self.token = place, place + 1
        self.pieces: dict[Piece, bool] = {}  # with whether they are exclusive
        self.doubtful: Piece | None = None

    # -- the token -----------------------------------------------------------

    def begin(self) -> None:
        """Lock the token; raise `BlockingIOError` if another program has locked even that byte."""
        for _ in range(2):
            if not _lock(self.handle, self.token, SHARE):
                raise _busy()

    def end(self) -> None:
        """Unlock the token."""
        with suppress(OSError):
            while _unlock(self.handle, self.token):
                pass

    def is_of(self, handle: int) -> bool:
        """Whether the handle belongs to this open file; if so, use it and settle a doubtful piece."""
        if not _unlock(handle, self.token):
            return False
        _lock(handle, self.token, SHARE)
        self.handle = handle
        if self.doubtful:
            while _unlock(handle, self.doubtful):
                pass
            self.pieces.pop(self.doubtful, None)
            self.doubtful = None
        return True

    def is_closed(self, handle: int) -> bool:
        """Whether this open file has been closed; `handle` is one of another open file of the same file."""
        return could_lock(handle, self.token, EXCLUDE)

    # -- single pieces -------------------------------------------------------

    def add(self, piece: Piece, kind: int) -> None:
        """Lock it; raise `BlockingIOError` if another lock conflicts."""
        self.doubtful = piece
        if _lock(self.handle, piece, kind):
            self.pieces[piece] = kind == EXCLUDE
            self.doubtful = None
        else:
            self.doubtful = None
            raise _busy()

    def remove(self, piece: Piece) -> None:
        """Unlock it."""
        self.doubtful = piece
        _unlock(self.handle, piece)
        del self.pieces[piece]
        self.doubtful = None

    def downgrade(self, piece: Piece) -> None:
        """Make an exclusive piece shared; at no moment is it unlocked."""
        self.doubtful = piece
        _lock(self.handle, piece, SHARE)
        _unlock(self.handle, piece)
        self.pieces[piece] = False
        self.doubtful = None

    def add_all(self, pieces: Iterable[Piece], kind: int) -> None:
        """Lock all of them, or none."""
        added: list[Piece] = []
        try:
            for piece in pieces:
                self.add(piece, kind)
                added.append(piece)
        except OSError:
            for piece in added:
                self.remove(piece)
            raise

    # -- ranges --------------------------------------------------------------

    def within(self, start: int, stop: int) -> list[Piece]:
        """Return the pieces that reach into a range, in order."""
        return sorted(piece for piece in self.pieces if piece[0] < stop and piece[1] > start)

    def gaps(self, start: int, stop: int, *, exclusive: bool = False) -> list[Piece]:
        """Return the parts of a range without a piece, or without an `exclusive` one."""
        found: list[Piece] = []
        for first, behind in self.within(start, stop):
            if self.pieces[first, behind] or not exclusive:
                if start < first:
                    found.append((start, first))
                start = max(start, behind)
        return [*found, (start, stop)] if start < stop else found

    def check(self, start: int, stop: int) -> None:
        """Raise `NotImplementedError` if an exclusive piece would have to be cut."""
        for first, behind in self.within(start, stop):
            if self.pieces[first, behind] and (first < start or stop < behind):
                span = f"bytes {first} to {behind - 1}" if behind < END else f"all bytes from {first} on"
                raise NotImplementedError(f"Windows cannot unlock a part of an exclusive lock: {span}")

    def unlock(self, start: int, stop: int) -> None:
        """Unlock a range, after `check`."""
        for first, behind in self.within(start, stop):
            for kept in (first, min(start, behind)), (max(first, stop), behind):
                if kept[0] < kept[1] and kept not in self.pieces:
                    self.add(kept, SHARE)
            self.remove((first, behind))

    def share(self, start: int, stop: int) -> None:
        """Lock a range, shared, after `check`."""
        self.add_all(self.gaps(start, stop), SHARE)
        for piece in self.within(start, stop):
            if self.pieces[piece]:
                self.downgrade(piece)

    def exclude(self, start: int, stop: int) -> None:
        """Lock a range, exclusively."""
        new = self.gaps(start, stop)
        self.add_all(new, EXCLUDE)
        shared = [
            (max(start, first), min(stop, behind))
            for first, behind in self.within(start, stop)
            if not self.pieces[first, behind]
        ]
        for part in shared:
            self.unlock(*part)
        try:
            self.add_all(self.gaps(start, stop, exclusive=True), EXCLUDE)
        except OSError:
            for piece in new:
                self.remove(piece)
            for part in shared:
                with suppress(BlockingIOError):
                    self.add(part, SHARE)
            raise


# -- calls of Windows --------------------------------------------------------


def _arguments(piece: Piece) -> tuple[int, int, int, win32.OVERLAPPED]:
    start, length = piece[0], piece[1] - piece[0]
    place = win32.OVERLAPPED(Offset=start & 0xFFFFFFFF, OffsetHigh=start >> 32)
    return 0, length & 0xFFFFFFFF, length >> 32, place


def _lock(handle: int, piece: Piece, kind: int) -> bool:
    """Lock a piece; return False if another lock conflicts."""
    if win32.LockFileEx(handle, _FLAGS[kind], *_arguments(piece)):
        return True
    if ctypes.get_last_error() == win32.ERROR_LOCK_VIOLATION:
        return False
    raise win32.failure()


def _unlock(handle: int, piece: Piece) -> bool:
    """Unlock a piece; return False if the open file of this handle had not locked it."""
    if win32.UnlockFileEx(handle, *_arguments(piece)):
        return True
    if ctypes.get_last_error() in {win32.ERROR_NOT_LOCKED, win32.ERROR_LOCK_VIOLATION}:
        return False
    raise win32.failure()


def could_lock(handle: int, piece: Piece, kind: int) -> bool:
    """Whether a piece that this open file has not locked can be locked.  It is unlocked in the same step."""
    steps = (
        partial(win32.LockFileEx, handle, _FLAGS[kind], *_arguments(piece)),
        partial(ctypes.get_last_error),
        partial(win32.UnlockFileEx, handle, *_arguments(piece)),
    )
    could, number, _ = in_turn(steps)
    if could or number == win32.ERROR_LOCK_VIOLATION:
        return bool(could)
    ctypes.set_last_error(number)
    raise win32.failure()


def _busy() -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
