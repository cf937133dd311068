"""What named objects there are in the user's session: the kernel lists their names.

To ask for more, say the size or a permission, would take a handle on each.  That would
keep its name for that moment, and who creates it anew just then would be told that it is
taken.  So what there is to know is the kind and the name.

Windows counts the handles of all programs alike, so it matters to nobody who made an
object: all of them live, and none is left behind.
"""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import wintypes
from itertools import chain, repeat

from ipcio._typing import TYPE_CHECKING
from ipcio._windows import objects, win32

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from ipcio._backend import Entry

__all__ = ["survey"]

_KINDS: dict[str, Literal["shm", "sem"]] = {"Section": "shm", "Semaphore": "sem"}
_SLACK = "\x01"  # at the end of a name that only ipcio knows, see `ipcio._windows.shm`
_ROOM = 4096  # bytes; more than the longest name takes


def survey() -> list[Entry]:
    """See `ipcio._backend.InventoryBackend`."""
    with objects.Handles() as mine:
        found: set[tuple[Literal["shm", "sem"], str]] = {
            (_KINDS[kind], name) for name, kind in _names(mine) if kind in _KINDS and not name.endswith(_SLACK)
        }
        mine.release()
    entries = [_entry(kind, name) for kind, name in found]
    entries.sort(key=lambda entry: (entry["kind"] != "shm", entry["name"]))
    return entries


def _entry(kind: Literal["shm", "sem"], name: str) -> Entry:
    return {
        "kind": kind,
        "name": name,
        "size": None,
        "value": None,
        "undo": False,
        "perm": None,
        "owner": None,
        "age": None,
        "state": "live",
        "holders": [],
    }


def _names(mine: objects.Handles) -> Iterator[tuple[str, str]]:
    """Every name in the directory where ours are, with the type of what it names."""
    directory = mine.call(_open)
    place, length = ctypes.c_ulong(), ctypes.c_ulong()
    memory = ctypes.create_string_buffer(_ROOM)
    found = win32.OBJECT_DIRECTORY_INFORMATION.from_buffer(memory)
    for restart in chain((True,), repeat(False)):
        status = win32.NtQueryDirectoryObject(
            directory,
            memory,
            _ROOM,
            True,
            restart,
            ctypes.byref(place),
            ctypes.byref(length),
        )
        if status == win32.STATUS_NO_MORE_ENTRIES:
            return
        _check(status)
        yield _text(found.Name), _text(found.TypeName)


def _open() -> int | None:
    """Return a handle on the directory of the session's names."""
    session = wintypes.DWORD()
    if not win32.ProcessIdToSessionId(os.getpid(), ctypes.byref(session)):
        raise win32.failure()
    # The first one, of services, has its names where those of the whole system are.
    path = f"\\Sessions\\{session.value}\\BaseNamedObjects" if session.value else "\\BaseNamedObjects"
    text = ctypes.create_unicode_buffer(path)
    size = ctypes.sizeof(text)
    name = win32.UNICODE_STRING(size - ctypes.sizeof(ctypes.c_wchar), size, ctypes.addressof(text))
    about = win32.OBJECT_ATTRIBUTES(
        ctypes.sizeof(win32.OBJECT_ATTRIBUTES), None, ctypes.pointer(name), win32.OBJ_CASE_INSENSITIVE, None, None
    )
    handle = wintypes.HANDLE()
    _check(win32.NtOpenDirectoryObject(ctypes.byref(handle), win32.DIRECTORY_QUERY, ctypes.byref(about)))
    return handle.value


def _check(status: int) -> None:
    if status:
        raise OSError(errno.EACCES, f"Windows does not list its objects (status {status & 0xFFFFFFFF:#x})")


def _text(text: win32.UNICODE_STRING) -> str:
    return ctypes.string_at(text.Buffer, text.Length).decode("utf-16-le", "surrogatepass")
