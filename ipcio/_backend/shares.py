"""What makes a handle one of those that keep a name."""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Share(Protocol):
    """What makes a handle one of those that keep a name; it owns the handle's descriptor."""

    def lend(self, fd: int) -> int:
        """Return a descriptor of the object open as `fd` that the user may have; it may be `fd` itself.

        Nothing that the user does with it removes or keeps the name.
        """
        ...

    def is_open(self, fd: int, /) -> bool:
        """Whether `fd` still is a descriptor of the object.

        A daemon closes all of its descriptors, and later their numbers mean other files.
        """
        ...

    def pass_to(self, child: Any, /) -> Any:
        """Make a child keep the name until it has attached; `child` is the object by which multiprocessing starts it.

        Return what the child needs to find the descriptor that it inherits; None if it inherits none.
        """
        ...

    def pass_to_program(self) -> None:
        """Make the program keep the name that this process becomes by ``exec``."""
        ...

    def release(self, close: Callable[[int], None] = ..., /) -> None:
        """Stop keeping the name and `close` the descriptor, once; the last share to be released removes the name."""
        ...
