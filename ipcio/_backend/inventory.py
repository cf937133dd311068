"""What `inventory` of a back end owes."""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from ipcio._object_info import ObjectInfo


class InventoryBackend(Protocol):
    """Which named objects exist."""

    def list_objects(self) -> list[ObjectInfo]:
        """Look at all of them, and change nothing: neither an object nor what another process does with it."""
        ...

    def exists(self, name: str, kinds: Collection[str]) -> bool:
        """Whether an object of one of these kinds has the name and is not orphaned; change nothing, as above."""
        ...

    def free_memory(self) -> tuple[str, int] | None:
        """Return where shared memory is and how many bytes are free there; None if it has no place of its own."""
        ...

    def remove_orphans(self, skipped: Callable[[str, str], object], /, *, dry_run: bool) -> Iterator[ObjectInfo]:
        """Remove every orphaned object that this user may remove; yield each as it was.

        With `dry_run`, change nothing: yield what would be removed.

        What is in use, persists or was not made by ipcio stays.  An object that cannot be removed is
        tried once, and is never an error: `skipped` is called with the name of its file and the reason.
        """
        ...
