"""What `parts` of a back end owes: the locks and words of mutexes, events and queues."""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator, Sequence
    from typing import Any

    from ipcio._tuples import OpenObject


class Lock(Protocol):
    """A lock of an object: its owner is a thread of a process, and the kernel releases it when that ends."""

    def acquire(self, seconds: float | None, /) -> int:
        """Acquire it within `seconds` (None: no limit; 0: at once).

        Return 0 if it could not be acquired in time, 1 if it was acquired, and 2 if it was acquired and its last
        owner ended without having released it.  `RuntimeError` if this thread owns it.  What a signal handler
        raises ends the wait within 0.2 s, and nothing was acquired then.
        """
        ...

    def release(self) -> None:
        """Release it; `RuntimeError` if this thread does not own it."""
        ...

    def give_back(self) -> None:
        """Release what this thread has acquired and does not want: the next owner is told what this one was told."""
        ...

    def is_mine(self) -> bool:
        """Whether this thread owns it."""
        ...

    def is_abandoned(self) -> bool:
        """Whether this thread owns it, and its last owner ended without having released it."""
        ...

    def is_held(self) -> bool:
        """Whether a thread of any process owns it."""
        ...

    def owner(self) -> int | None:
        """Return the process that owns it; None if no process does, or that is unknown."""
        ...

    # -- with fewer steps ------------------------------------------------
    #
    # `acquire` and `release` by one call of C each, where that is possible; otherwise the steps
    # return 1, and the notes are (1,).

    @property
    def trying(self) -> Iterator[int]:
        """Each step tries to acquire it.  If it returns 0 and `notes` are 0, it was acquired, and that is all.

        Otherwise `acquire_after` must follow, and `undo` if that raises.
        """
        ...

    @property
    def releasing(self) -> Iterator[int]:
        """Each step releases it and returns 0, or another number if this thread does not own it.

        If `notes` are a tuple, each step does nothing and returns a number other than 0: call `release`.
        """
        ...

    @property
    def notes(self) -> Sequence[int]:
        """Whether there is more to do than a step of `trying` does."""
        ...

    def acquire_after(self, code: int, seconds: float | None, /) -> int:
        """Do the rest of `acquire` after a step of `trying` has returned `code`."""
        ...

    def undo(self, code: int, /) -> None:
        """Do as `give_back` if `code` means that it was acquired, and this thread still owns it."""
        ...

    # -- programs that own it -------------------------------------------

    def lend(self) -> None:
        """Stay locked, from an ``exec`` that follows until the program has exited that this process becomes.

        Only for a process that does nothing else (``ipcio mutex run``).  `NotImplementedError` without ``exec``.
        """
        ...

    def take_back(self) -> None:
        """Release it after `lend`, because ``exec`` has failed."""
        ...


class Words(Protocol):
    """The 32-bit words of an object, which any process may wait for; `at` is the offset of one in bytes, aligned.

    Each method raises `OSError` if the object was cut short, and `ValueError` if it was closed.  A change in one step
    with the wake-up is a single call of the kernel, where it has such a call: no kill comes in between.
    """

    def load(self, at: int, /) -> int:
        """Return the word."""
        ...

    def store(self, at: int, value: int, /) -> None:
        """Change the word, and wake no process."""
        ...

    def set_and_wake(self, at: int, value: int, /) -> None:
        """In one step: change the word to `value`, 0 to 2047, and wake all that wait for it."""
        ...

    def add_and_wake(self, at: int, number: int, /) -> None:
        """In one step: add 0 to 2047 to the word, modulo 2**32, and wake all that wait for it.

        Where the kernel has no such call, two processes that add at the same time may add once: they hold a lock.
        """
        ...

    def clear_bits(self, at: int, bits: int, /) -> None:
        """Clear these bits of the word, 0 to 2047, in one step where the kernel has a call for it; wake no process."""
        ...

    def ringing(self, at: int, /) -> Iterator[object] | None:
        """Return an iterator of which each step adds 1 to the word and wakes all that wait for it.

        C code alone makes a step, which never raises an error.  None where the system has no call to wait for a word.
        """
        ...

    def wait(self, at: int, expected: int, seconds: float | None, /) -> bool:
        """Wait until the word is not `expected` or has been woken, for so long (None: no limit); return whether.

        What a signal handler raises ends the wait within 0.2 s.  The wait costs no processor time where the kernel
        has a call for it.  True is the answer only if the word had another value or one of the methods
        that wake was called for it.
        """
        ...


class PartsBackend(Protocol):
    """What mutexes, events and queues are made of; offsets are in `ipcio._layout`."""

    def read(self, fd: int, memory: mmap.mmap | memoryview[int], size: int, /) -> bytes:
        """Return the first bytes of an object that is not known yet, without touching its memory where that can fail.

        Fewer than `size` if there are no more.
        """
        ...

    def is_trusted(self, fd: int, /) -> bool:
        """Whether the object belongs to this user, and the permissions let no other user write to it."""
        ...

    def process_namespace(self) -> int:
        """Return a number for the PID namespace of this process, 0 if it is unknown or there are none."""
        ...

    def lock_layout(self) -> bytes:
        """Return at most 32 bytes that are the same in all processes which can share a lock that is not `wide`."""
        ...

    def new_lock(self, *, wide: bool) -> bytes:
        """Return the first contents of the slot of a lock, at most 64 bytes."""
        ...

    def by_calls(self, opened: OpenObject, /) -> tuple[Any, Any] | None:
        """Return the numbers of 8 bytes that the object consists of, and its bytes: see `ipcio._ring_state`.

        Calls of the system read and write them, which fail if another process has cut the object short.  None where
        there are no such calls.
        """
        ...

    def lock(self, opened: OpenObject, at: int, /) -> Lock:
        """Return the lock whose slot has this offset."""
        ...

    def words(self, opened: OpenObject, /) -> Words:
        """Return the words of the object."""
        ...
