"""A persistent segment of a size that nobody knows before its end: there is none on Windows."""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["Growing"]


class Growing:
    """See `ipcio._backend.Growing`."""

    name: str
    fd: int

    def __init__(self, name: str, perm: int, size: int, *, replace: bool) -> None:
        raise NotImplementedError("on Windows nothing outlives its last handle, so there are no persistent segments")

    def show(self) -> NoReturn:
        """There is nothing to show."""
        raise NotImplementedError

    def drop(self) -> None:
        """There is nothing to drop."""
