"""Shared memory on Windows: named sections backed by the page file.

A section is a whole number of pages.  How many bytes of the last one are not in use, the
*slack*, is told by a semaphore beside the section, under a name of its own; so whoever
attaches sees the size that was asked for, without a header in the memory.  The semaphore
is there before the section and goes after it:

* There is none: the section is not ipcio's.
* Its value is 0: the section is being made.
* Otherwise its value is 1 more than the slack.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import weakref
from pickle import PickleBuffer
from typing import TYPE_CHECKING

from ipcio._forklock import turn
from ipcio._windows import objects, win32

assert sys.platform == "win32" or not TYPE_CHECKING

if TYPE_CHECKING:
    from ipcio._contract import Mapping

__all__ = ["attach", "create", "unlink"]

_KIND = "shared memory"
_LONGEST = win32.MAX_PATH - 2  # characters of a name: the slack's has one more, and there is a NUL
_LARGEST = sys.maxsize  # bytes
_MOST_SLACK = 1 << 20  # more than a page of any size


def create(name: str, size: int, *, perm: int, persist: bool, reserve: bool) -> Mapping:  # noqa: ARG001
    """See `ipcio._contract.ShmBackend`.

    The memory is always reserved.  Who may open it is what the user's token says by
    default: the user, and the system.
    """
    objects.check_length(name, _LONGEST)
    if persist:
        raise NotImplementedError("on Windows nothing outlives its last handle: persist=True is for POSIX")
    if size > _LARGEST:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    with turn, objects.Handles() as share:
        slack = _claim(name)
        try:
            section = share.keep(
                objects.create(
                    win32.CreateFileMapping,
                    win32.INVALID_HANDLE_VALUE,
                    None,
                    win32.PAGE_READWRITE,
                    size >> 32,
                    size & 0xFFFFFFFF,
                    name,
                )
            )
        finally:
            share.keep(slack)  # behind it, in the order in which they are closed
        memory = _map(section, name, writable=True)
        win32.ReleaseSemaphore(slack, len(memory) - size + 1, None)
        return memory[:size], -1, share


def attach(name: str, *, writable: bool) -> Mapping:
    """See `ipcio._contract.ShmBackend`."""
    objects.check_length(name, _LONGEST)
    access = win32.SECTION_QUERY | win32.FILE_MAP_READ | (win32.FILE_MAP_WRITE if writable else 0)
    with turn:
        for _ in objects.attempts(name):
            with objects.Handles() as share:
                section = share.keep(objects.open(win32.OpenFileMapping, access, name, _KIND))
                slack = objects.find(win32.OpenSemaphore, win32.SEMAPHORE_ALL_ACCESS, _slack_of(name))
                unused = 0
                if slack is not None:
                    unused = objects.value_of(share.keep(slack)) - 1
                    if unused < 0:  # in the making
                        share.give_up()
                        continue
                memory = _map(section, name, writable=writable)
                return memory[: max(len(memory) - unused, 1)], -1, share
    raise AssertionError("unreachable")


def unlink(name: str) -> None:
    """See `ipcio._contract.ShmBackend`."""
    objects.check_length(name, _LONGEST)
    objects.refuse_to_unlink(win32.OpenFileMapping, win32.FILE_MAP_READ, name, _KIND)


def _slack_of(name: str) -> str:
    return f"{name}\x01"


def _claim(name: str) -> int:
    """Make the semaphore for the slack, which only one can; `FileExistsError` if such a segment lives."""
    for _ in objects.attempts(name):
        try:
            return objects.create(win32.CreateSemaphore, None, 0, _MOST_SLACK, _slack_of(name))
        except FileExistsError:
            section = objects.find(win32.OpenFileMapping, win32.FILE_MAP_READ, name)
            if section is not None:
                win32.CloseHandle(section)
                raise objects.exists(name) from None
            # Somebody is just making it or letting go of it.
    raise AssertionError("unreachable")


def _map(section: int, name: str, *, writable: bool) -> memoryview[int]:
    """Map all of a section.  It is unmapped when the last view of the memory is gone.

    Not by Python's `mmap`: that has a handle on the section of its own, and keeps it, and
    with it the name, as long as there are views.
    """
    access = win32.FILE_MAP_READ | (win32.FILE_MAP_WRITE if writable else 0)
    address = win32.MapViewOfFile(section, access, 0, 0, 0)
    if not address:
        raise win32.failure(name)
    try:
        about = win32.MEMORY_BASIC_INFORMATION()
        if not win32.VirtualQuery(address, ctypes.byref(about), ctypes.sizeof(about)):
            raise win32.failure(name)
        if about.State != win32.MEM_COMMIT:  # touching it would be the end of the process
            raise OSError(errno.EINVAL, f"not {_KIND} that can be used: its pages are only reserved", name)
        whole = (ctypes.c_ubyte * about.RegionSize).from_address(address)
        weakref.finalize(whole, win32.UnmapViewOfFile, address).atexit = False  # the end of the process unmaps
    except BaseException:
        win32.UnmapViewOfFile(address)
        raise
    memory = PickleBuffer(whole).raw()
    return memory if writable else memory.toreadonly()
