"""See `leftovers`: on Windows, a handle that is left is what keeps a name, so handles are what is looked at."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from ctypes import wintypes

from ipcio._names import SEGMENTS

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_ntdll = ctypes.WinDLL("ntdll")


class _String(ctypes.Structure):
    """UNICODE_STRING"""

    _fields_ = (("Length", wintypes.USHORT), ("MaximumLength", wintypes.USHORT), ("Buffer", wintypes.LPWSTR))


class _Process(ctypes.Structure):
    """PROCESSENTRY32W"""

    _fields_ = (
        ("dwSize", wintypes.DWORD),
        ("cntUsage", wintypes.DWORD),
        ("th32ProcessID", wintypes.DWORD),
        ("th32DefaultHeapID", ctypes.c_size_t),
        ("th32ModuleID", wintypes.DWORD),
        ("cntThreads", wintypes.DWORD),
        ("th32ParentProcessID", wintypes.DWORD),
        ("pcPriClassBase", wintypes.LONG),
        ("dwFlags", wintypes.DWORD),
        ("szExeFile", wintypes.WCHAR * 260),
    )


SYSTEM_EXTENDED_HANDLE_INFORMATION = 64
STATUS_INFO_LENGTH_MISMATCH = 0xC0000004
OBJECT_NAME, OBJECT_TYPE = 1, 2
TH32CS_SNAPPROCESS = 2
SYNCHRONIZE = 0x100000
FILE_TYPE_DISK = 1

_close = _kernel32.CloseHandle
_close.argtypes = (wintypes.HANDLE,)
_file_type = _kernel32.GetFileType
_file_type.argtypes = (wintypes.HANDLE,)
_snapshot = _kernel32.CreateToolhelp32Snapshot
_snapshot.restype = wintypes.HANDLE
_first = _kernel32.Process32FirstW
_next = _kernel32.Process32NextW
_first.argtypes = _next.argtypes = (wintypes.HANDLE, ctypes.POINTER(_Process))
_open_section = _kernel32.OpenFileMappingW
_open_semaphore = _kernel32.OpenSemaphoreW
_open_section.restype = _open_semaphore.restype = wintypes.HANDLE
_open_section.argtypes = _open_semaphore.argtypes = (wintypes.DWORD, wintypes.BOOL, wintypes.LPCWSTR)
_query_system = _ntdll.NtQuerySystemInformation
_query_object = _ntdll.NtQueryObject
_query_object.argtypes = (wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.ULONG, ctypes.c_void_p)

_table = ctypes.create_string_buffer(1 << 16)


def _handles() -> list[tuple[int, int]]:
    """Every handle of this process, with the number of its type."""
    global _table  # noqa: PLW0603 -- grown to what is needed, and kept
    while True:
        status = _query_system(SYSTEM_EXTENDED_HANDLE_INFORMATION, _table, len(_table), None) & 0xFFFFFFFF
        if status != STATUS_INFO_LENGTH_MISMATCH:
            break
        _table = ctypes.create_string_buffer(4 * len(_table))
    assert not status, f"Windows lists no handles (status {status:#x})"
    # SYSTEM_HANDLE_INFORMATION_EX is two words, the first of them the number of entries; an entry is of five:
    # object, process, handle, (access, _, number of the type), _.  As words, for there are thousands.
    words = memoryview(_table).cast("B").cast("Q")
    words = words[2 : 2 + 5 * words[0]]
    me = os.getpid()
    ours = [at for at, process in enumerate(words[1::5].tolist()) if process == me]
    return [(words[5 * at + 2], words[5 * at + 3] >> 48) for at in ours]


def _text(handle: int, what: int) -> str:
    answer = ctypes.create_string_buffer(4096)
    if _query_object(handle, what, answer, len(answer), None):
        return ""
    return _String.from_buffer(answer).Buffer or ""


_kinds: dict[int, str] = {}
"""What the numbers of types mean."""

_locks: set[tuple[int, int]] = set()
"""Handles on semaphores, events and mutexes that had no name when last looked at: Python has one for each of its locks.

To ask for the names of some hundred, twice for each test, took most of the run.  If one of these values is
that of a named semaphore by now, `named` still finds the name.
"""


def _close_mutexes() -> None:
    """Wait a moment for threads that end and own a mutex: ipcio keeps it until then, and closes it when it looks."""
    mutexes = sys.modules.get("ipcio._windows.mutexes")
    end = time.monotonic() + 1
    while mutexes and mutexes._still_owned and time.monotonic() < end:
        mutexes.close_unowned()
        time.sleep(0.001)


def descriptors() -> dict[tuple[str, int], str]:
    """The handles on what ipcio makes and uses: sections, files, pipes, processes, jobs, and what has a name of
    semaphores, events and mutexes.

    By what they are and a number, without their values: Pytest takes another value for the same file whenever
    it puts standard output aside.  Not those that Python and Windows make when they need them, and keep.
    """
    _close_mutexes()
    found: dict[tuple[str, int], str] = {}
    handles = _handles()
    _locks.intersection_update(handles)
    for handle, number in set(handles) - _locks:
        kind = _kinds.get(number)
        if not kind:
            kind = _kinds[number] = _text(handle, OBJECT_TYPE)
        if kind == "File":
            is_file = _file_type(handle) == FILE_TYPE_DISK  # to ask for the name of a pipe may block
            what = f"file {_text(handle, OBJECT_NAME)}" if is_file else "pipe or device"
        elif kind in {"Section", "Semaphore", "Event", "Mutant"}:
            name = _text(handle, OBJECT_NAME)
            if not name and kind != "Section":
                _locks.add((handle, number))
                continue
            what = f"{kind} {name}"
        elif kind in {"Process", "Job"}:
            what = kind
        else:
            continue
        found[what, sum(what == other for other, _ in found)] = what
    return found


def children() -> set[int]:
    """The running children of this process."""
    found = set()
    snapshot = _snapshot(TH32CS_SNAPPROCESS, 0)
    try:
        process = _Process(dwSize=ctypes.sizeof(_Process))
        more = _first(snapshot, process)
        while more:
            if process.th32ParentProcessID == os.getpid():
                found.add(process.th32ProcessID)
            more = _next(snapshot, process)
    finally:
        _close(snapshot)
    return found


def named(made: list[str]) -> set[str]:
    """Those of the names under which there is something.  Only its holder can remove it."""
    left = set()
    for name in made:
        for entry in [f"{prefix}{name}{end}" for prefix in ("", *SEGMENTS.values()) for end in ("", "\x01")]:
            for handle in (_open_section(0x0004, False, entry), _open_semaphore(SYNCHRONIZE, False, entry)):
                if handle:
                    _close(handle)
                    left.add(entry)
    return left


def survey() -> None:
    """Nothing outlives the last process that has it open."""


def left_since(_: None) -> str:
    """Nothing can be."""
    return ""
