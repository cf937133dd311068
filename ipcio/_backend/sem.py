"""What `sem` of a back end owes."""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from ipcio._backend.shares import Share

Handle = TypeVar("Handle")


class RawSemaphore(Protocol):
    """A semaphore with the methods of `_multiprocessing.SemLock`."""

    share: Share | None
    """The share in the name, until the handle is closed.

    It is here because a ``with`` statement may keep nothing but a bound method of this object.
    """

    def __enter__(self) -> bool:
        """Acquire a permit, waiting without limit; return True."""
        ...

    def __exit__(self, *_: object) -> None:
        """Release a permit."""
        ...

    def acquire(self, block: bool = True, timeout: float | None = None, /) -> bool:
        """Acquire a permit, at once or, if `block`, within `timeout` seconds (None: no limit); return whether."""
        ...

    def release(self) -> None:
        """Release a permit; past the maximum, raise `OverflowError`, `ValueError` or an `OSError`."""
        ...


if TYPE_CHECKING:
    Into: TypeAlias = Callable[[RawSemaphore, Callable[[int], None], Callable[[], int], bool, int | None], Handle]


class SemBackend(Protocol):
    """Named semaphores.

    `into` is as in `ipcio._backend.shm.ShmBackend`.  It is called with

    * the semaphore;
    * a function that releases several permits; `OverflowError`, and no permit released, if that would exceed the
      maximum;
    * a function that returns the value; `NotImplementedError` where the platform does not say it;
    * whether it is crash-safe;
    * what the value may be at most, if the back end itself refuses to exceed that (`ValueError`).
    """

    def create(
        self,
        name: str,
        value: int,
        *,
        perm: int,
        persist: bool,
        crash_safe: bool,
        bound: int | None,
        into: Into[Handle],
    ) -> Handle:
        """Make one exclusively; it gets its name complete or not at all.

        An orphaned one that has the name is removed first.  Raises `OverflowError` for a value or a `bound`
        past the maximum and `NotImplementedError` where nothing can be `crash_safe`.  A crash-safe one keeps
        its `bound` for all of its handles.  With that of another one the handle compares the value, so
        it is a `NotImplementedError` where the system does not say the value.
        """
        ...

    def attach(self, name: str, *, owner: int | None = None, into: Into[Handle]) -> Handle:
        """Open the semaphore that has the name, of either kind; `owner` as for shared memory."""
        ...

    def unlink(self, name: str) -> None:
        """Remove the name now."""
        ...
