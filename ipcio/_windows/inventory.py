"""Which named objects exist in the user's session: the kernel lists their names.

To ask for more, such as the size or the permissions, would need a handle on each object.  That
handle would keep the name for a moment, and a process that creates the name in that moment would
find it in use.  So only kind and name are known.

Windows counts the handles of all programs alike and removes an object with its last handle.  So
every object is in use, and there are no orphans.
"""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import wintypes
from itertools import chain, repeat

from ipcio._names import SEGMENTS
from ipcio._object_info import ObjectInfo
from ipcio._typing import TYPE_CHECKING
from ipcio._windows import objects, win32

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from typing import Literal, TypeAlias

    Kind: TypeAlias = Literal["shm", "sem", "mutex", "event", "queue"]

_KINDS: dict[str, Kind] = {"Section": "shm", "Semaphore": "sem"}
_SEGMENTS: tuple[Literal["mutex", "event", "queue"], ...] = ("mutex", "event", "queue")
_SLACK = "\x01"  # at the end of a name that only ipcio knows, see `ipcio._windows.shm`
_ROOM = 4096  # bytes; more than the longest name needs


def list_objects() -> list[ObjectInfo]:
    with objects.Handles() as mine:
        found = {
            _kind_and_name(_KINDS[kind], name)
            for name, kind in _names(mine)
            if kind in _KINDS and not name.endswith(_SLACK)
        }
        mine.release()
    return [
        ObjectInfo(
            kind, name, size=None, value=None, undo=False, perm=None, owner=None, age=None, state="live", holders=[]
        )
        for kind, name in found
    ]


def _kind_and_name(kind: Kind, name: str) -> tuple[Kind, str]:
    """Return which object a section or a semaphore of this name is."""
    for each in _SEGMENTS:
        prefix = SEGMENTS[each]
        if kind == "shm" and name.startswith(prefix) and name != prefix:
            return each, name[len(prefix) :]
    return kind, name


def exists(name: str, kinds: Collection[str]) -> bool:
    return any(each.name == name and each.kind in kinds for each in list_objects())


def free_memory() -> tuple[str, int] | None:
    return None


def remove_orphans(
    skipped: Callable[[str, str], object],  # noqa: ARG001 -- see above
    /,
    *,
    dry_run: bool,  # noqa: ARG001
) -> Iterator[ObjectInfo]:
    return iter(())


def _names(mine: objects.Handles) -> Iterator[tuple[str, str]]:
    """Yield every name in the directory where ours are, with the type of the object."""
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
