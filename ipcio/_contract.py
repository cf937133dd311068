"""What a platform owes the portable modules: protocols that each back-end module is checked against.

The portable module owns the meaning (arguments, modes, the handle); the back end
owns the system calls and every difference between platforms.  A back end raises
`OSError` with ``errno`` and with ``filename`` set to what the user passed, and
leaves nothing behind when it raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import mmap

__all__ = ["Mapping", "MmapBackend", "Share", "ShmBackend"]


class Share(Protocol):
    """A part in keeping a name alive; owns the handle's descriptor."""

    def open_again(self, fd: int) -> int:
        """Return another descriptor of the object open as `fd`, for the user.

        Nothing that is done through it touches the life of the name.  It may be `fd`.
        """
        ...

    def give_up(self) -> None:
        """Let go of the name and close the descriptor, once; the last one to do so removes the name."""
        ...


Mapping: TypeAlias = "tuple[mmap.mmap | None, int, Share | None]"
"""What a back end opened, for the handle to give back at its end.

The memory (None where there is nothing to map: an empty file); a descriptor of the
object with an offset of its own, or -1 where the platform has none; the share in
the name, or None for what ipcio does not keep alive.
"""


class ShmBackend(Protocol):
    """Named shared memory."""

    def create(self, name: str, size: int, *, perm: int, persist: bool, reserve: bool) -> Mapping:
        """Make a zero-filled object exclusively; it appears under its name whole or not at all.

        A dead object under the name is removed first.  With `reserve`, memory that
        cannot be had is ``ENOSPC`` here and now.
        """
        ...

    def attach(self, name: str, *, writable: bool) -> Mapping:
        """Map what lives under the name, and take a share in it if it is one of ours."""
        ...

    def unlink(self, name: str) -> None:
        """Remove the name now."""
        ...


class MmapBackend(Protocol):
    """Files mapped into memory."""

    def open(self, file: Any, *, writable: bool, offset: int, size: int) -> Mapping:
        """Map `size` bytes (0: all) of `file`, a path or a descriptor, from `offset`."""
        ...

    def path_of(self, fd: int) -> str:
        """The path by which another process finds the file behind `fd`; `TypeError` if there is none."""
        ...
