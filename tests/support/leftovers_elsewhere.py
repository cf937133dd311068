"""See `leftovers`: what can be found out on any POSIX system."""

from __future__ import annotations

import os
import subprocess

from ipcio import event, mutex, queue, sem, shm


def descriptors() -> dict[int, str]:
    """The open descriptors of this process, as far as they are small numbers."""
    found = {}
    for fd in range(256):
        try:
            found[fd] = str(os.fstat(fd))
        except OSError:
            pass
    return found


def children() -> set[int]:
    """The children of this process, zombies included."""
    with subprocess.Popen(["ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE, text=True) as ps:
        pairs = [line.split() for line in ps.stdout]
    return {int(pid) for pid, parent in pairs if int(parent) == os.getpid()} - {ps.pid}


def named(made: list[str]) -> set[str]:
    """What is left under these names; it is removed."""
    left = set()
    for name in made:
        for module in (shm, sem, mutex, event, queue):
            try:
                module.unlink(name)
            except FileNotFoundError:
                continue
            left.add(name)
    return left


def survey() -> None:
    """Names cannot be listed."""


def left_since(_: None) -> str:
    """So there is nothing to compare."""
    return ""
