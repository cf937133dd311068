"""What `writer` of a back end owes: segments whose size is known only when they are complete."""

from __future__ import annotations

from ipcio._typing import Protocol


class UncommittedSegment(Protocol):
    """A persistent segment that is being written as a file, before other processes can attach it."""

    name: str
    fd: int

    def commit(self) -> None:
        """Give the segment its name, with the size that the file has now.

        `FileExistsError` if the name is in use and is not to be replaced, ``OSError(EINVAL)`` if
        nothing was written and no segment can be empty here.  A process that attaches a segment
        that is being replaced gets the old one or the new one, complete.
        """
        ...

    def check_room(self, size: int) -> None:
        """Raise ``OSError(ENOSPC)`` if the file cannot have so many bytes, as far as that is known."""
        ...

    def discard(self) -> None:
        """Close the file.  Without a `commit` before, there will be no segment."""
        ...


class WriterBackend(Protocol):
    """Persistent segments, if the size is known only when they are complete."""

    def open_writer(self, name: str, perm: int, size: int, /, *, replace: bool) -> UncommittedSegment:
        """Begin one, with `size` bytes set aside if that is not 0.

        `FileExistsError` if the name is in use, unless `replace`.
        """
        ...
