"""What waits for descriptors while other threads add some: `select.epoll`, or the same made of `select.poll`."""

from __future__ import annotations

import os
import select
from math import ceil

from ipcio._light import suppress
from ipcio._posix.pipes import Pipe

_MUCH = 1 << 15  # bytes


class PollSelector:
    """What is needed here of `select.epoll`, for systems without: `poll` returns when another thread registers more."""

    def __init__(self) -> None:
        self._events: dict[int, int] = {}
        self._wake = Pipe(to_child=False)  # to this process itself
        for fd in self._wake.child_end, self._wake.our_end:
            os.set_blocking(fd, False)

    def register(self, fd: int, events: int) -> None:
        """Wait for that, too."""
        if fd in self._events:
            raise FileExistsError
        self._events[fd] = events
        with suppress(BlockingIOError):  # it is full: a `poll` that waits has been woken
            os.write(self._wake.child_end, b"!")

    def unregister(self, fd: int) -> None:
        """Do not wait for that any longer."""
        self._events.pop(fd, None)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait; return what is ready, which may be nothing before the time is up."""
        poll = select.poll()
        poll.register(self._wake.our_end, select.POLLIN)
        for fd, events in list(self._events.items()):
            poll.register(fd, events)
        ready = dict(poll.poll(None if timeout is None else ceil(timeout * 1000)))
        if ready.pop(self._wake.our_end, None):
            with suppress(BlockingIOError):
                os.read(self._wake.our_end, _MUCH)
        return list(ready.items())

    def fileno(self) -> int:
        """Return -1: no descriptor is readable when something is ready."""
        return -1

    def close(self) -> None:
        """Close what it has open."""
        self._wake.close()


Selector: type[PollSelector] = getattr(select, "epoll", PollSelector)
