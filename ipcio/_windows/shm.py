"""Shared memory on Windows: named sections backed by the page file.

A section is a whole number of pages.  The *slack* is how many bytes of the last page are not in
use.  A semaphore beside the section, under a name of its own, holds it; so `attach`
gives the size that was asked for, without a header in the memory.  The semaphore's value is 1
more than the slack, or 0 as long as the slack is not known.

A process of ipcio has a handle on a section only while it has one on the semaphore, which it
opens before and closes after.  So as long as a section of ipcio's exists, its semaphore does, too:

* `create` makes the semaphore, which only one process can, then the section, then sets the slack.
* If `attach` finds no semaphore, it makes one.  If there is a section nevertheless, another
  program made it, and all of it is in use.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import errno
import os
import time

from ipcio._first_contents import in_private_memory
from ipcio._names import CALLED, SEGMENTS
from ipcio._typing import TYPE_CHECKING
from ipcio._windows import objects, win32

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from ipcio._backend.shares import Share
    from ipcio._backend.shm import Into

    Handle = TypeVar("Handle")

_LONGEST = win32.MAX_PATH - 2  # characters of a name: the slack's has one more, and there is a NUL
_LARGEST = 1 << 47  # bytes: no process has more addresses
_MOST_SLACK = 1 << 20  # more than a page of any size


def create(
    name: str,
    size: int,
    *,
    perm: int,  # noqa: ARG001 -- see below
    persist: bool,
    reserve: bool,  # noqa: ARG001 -- Windows always reserves
    init: Callable[[Handle], object] | None,
    into: Into[Handle],
    kind: str = "shm",
) -> Handle:
    """Make a segment; its memory is always reserved.

    The default of the user's token decides which users may open it: this user and the system.
    """
    _check_length(name, kind)
    if persist:
        raise NotImplementedError("on Windows nothing outlives its last handle: persist=True is for POSIX")
    if size > _LARGEST:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    path = _path(name, kind)
    content = None if init is None else _first_contents(name, path, size, init, into)
    with objects.errors_name(name), objects.Handles() as share:
        slack = _claim(share, path)
        section = share.create(
            win32.CreateFileMapping,
            win32.INVALID_HANDLE_VALUE,
            None,
            win32.PAGE_READWRITE,
            size >> 32,
            size & 0xFFFFFFFF,
            path,
        )
        memory = _map(section, path, writable=True)
        if content is not None:
            memory[:size] = content
        win32.ReleaseSemaphore(slack, len(memory) - size + 1, None)
        return into(memory[:size], -1, share)


def attach(
    name: str,
    *,
    writable: bool,
    owner: int | None = None,  # noqa: ARG001 -- there are no user ids
    into: Into[Handle],
    kind: str = "shm",
) -> Handle:
    """Map what has the name.  No `fork_lock` is needed: Windows has no fork."""
    _check_length(name, kind)
    with objects.errors_name(name):
        return _attach(_path(name, kind), CALLED.get(kind, "shared memory"), writable=writable, into=into)


def _attach(name: str, called: str, *, writable: bool, into: Into[Handle]) -> Handle:
    access = win32.SECTION_QUERY | win32.FILE_MAP_READ | (win32.FILE_MAP_WRITE if writable else 0)
    start = time.monotonic()
    while True:
        with objects.Handles() as share:
            slack = share.find(win32.OpenSemaphore, win32.SEMAPHORE_QUERY_STATE, _slack_of(name), name)
            try:
                mine = None if slack else _make_slack(share, name)
            except FileExistsError:  # another process was faster
                objects.wait_a_moment(start, name)
                continue
            section = share.open(win32.OpenFileMapping, access, name, called)
            if mine:  # then all that could be taken for slack is in use
                win32.ReleaseSemaphore(mine, 1, None)
            unused = objects.value_of(slack or mine or 0) - 1
            if unused < 0:  # in the making
                share.release()
                objects.wait_a_moment(start, name)
                continue
            memory = _map(section, name, writable=writable)
            return into(memory[: max(len(memory) - unused, 1)], -1, share)


def unlink(name: str, *, kind: str = "shm") -> None:
    """Raise the error of a name that exists, or that of one that does not."""
    attach(name, writable=False, into=_close, kind=kind)
    raise objects.unlink_error(name)


def _close(_memory: object, _fd: int, share: Share | None) -> None:
    if share is not None:
        share.release()


def _path(name: str, kind: str) -> str:
    """Return the name of the section."""
    return SEGMENTS.get(kind, "") + name


def _check_length(name: str, kind: str) -> None:
    objects.check_length(name, _LONGEST - len(_path("", kind)))


def _first_contents(
    name: str, path: str, size: int, init: Callable[[Handle], object], into: Into[Handle]
) -> memoryview[int]:
    with objects.Handles() as found:
        if found.find(win32.OpenFileMapping, win32.SECTION_QUERY, path, name):
            raise objects.already_exists(name)
    return in_private_memory(name, size, init, into)


def _slack_of(name: str) -> str:
    return f"{name}\x01"


def _make_slack(share: objects.Handles, name: str) -> int:
    """Make the semaphore for the slack, not known yet; `FileExistsError` if there is one."""
    return share.create(win32.CreateSemaphore, None, 0, _MOST_SLACK, _slack_of(name), called=name)


def _claim(share: objects.Handles, name: str) -> int:
    """Make it, also if one is just being closed; `FileExistsError` if such a segment exists."""
    start = time.monotonic()
    while True:
        try:
            return _make_slack(share, name)
        except FileExistsError:
            if share.find(win32.OpenSemaphore, win32.SEMAPHORE_QUERY_STATE, _slack_of(name), name):
                if share.find(win32.OpenFileMapping, win32.SECTION_QUERY, name, name):
                    raise
                share.drop()
        objects.wait_a_moment(start, name)  # another process makes it, closes it or looks for it


class _Hidden(dt.tzinfo):
    """Keeps a view, out of sight of the garbage collector: that does not see what a `datetime.time` refers to.

    The collector calls `__del__` of all objects of a reference cycle that it sees.  So it would unmap the view
    while a finalizer of the caller may still read the memory.
    """

    __slots__ = ("view",)

    view: objects.Handles


def _map(section: int, name: str, *, writable: bool) -> memoryview[int]:
    """Map all of a section.  It is unmapped when the last view of the memory is gone.

    Not by Python's `mmap`: that has a handle on the section of its own, and keeps it, and
    with it the name, as long as there are views.
    """
    from pickle import PickleBuffer  # which importing this module need not wait for

    access = win32.FILE_MAP_READ | (win32.FILE_MAP_WRITE if writable else 0)
    with objects.Handles(win32.UnmapViewOfFile) as view:
        address = view.call(win32.MapViewOfFile, section, access, 0, 0, 0)
        if not address:
            raise win32.failure(name)
        about = win32.MEMORY_BASIC_INFORMATION()
        if not win32.VirtualQuery(address, ctypes.byref(about), ctypes.sizeof(about)):
            raise win32.failure(name)
        if about.State != win32.MEM_COMMIT:  # touching it would be the end of the process
            raise OSError(errno.EINVAL, "not shared memory that can be used: its pages are only reserved", name)
        whole: Any = (ctypes.c_ubyte * about.RegionSize).from_address(address)
        make: Any = _Hidden  # which has none of the methods of a time zone
        hidden: _Hidden = make()
        hidden.view = view
        whole.view = dt.time(tzinfo=hidden)  # which goes with it
        memory = PickleBuffer(whole).raw()
        return memory if writable else memory.toreadonly()
