"""The functions of Windows that Python itself does not offer, and `failure`, which makes an `OSError` of their errors.

Functions and constants have their names of the Windows API documentation.  The error of a thread's
last call is kept in `ctypes`, where no other call changes it.
"""

from __future__ import annotations

import ctypes
import errno
from ctypes import wintypes

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_ntdll = ctypes.WinDLL("ntdll")

ERROR_FILE_NOT_FOUND = 2
ERROR_ACCESS_DENIED = 5
ERROR_INVALID_HANDLE = 6
ERROR_NOT_ENOUGH_MEMORY = 8
ERROR_OUTOFMEMORY = 14
ERROR_DISK_FULL = 112
ERROR_ALREADY_EXISTS = 183
ERROR_FILENAME_EXCED_RANGE = 206
ERROR_PIPE_NOT_CONNECTED = 233
ERROR_TOO_MANY_POSTS = 298
ERROR_NO_SYSTEM_RESOURCES = 1450
ERROR_COMMITMENT_LIMIT = 1455

MAX_PATH = 260  # characters of a name, the NUL at its end included

_SIZE = ctypes.c_size_t
_STATUS = ctypes.c_long


def _declare(function: Any, result: Any, *arguments: Any) -> Callable[..., Any]:
    function.restype = result
    function.argtypes = arguments
    made: Callable[..., Any] = function
    return made


CloseHandle = _declare(_kernel32.CloseHandle, wintypes.BOOL, wintypes.HANDLE)

# -- memory ------------------------------------------------------------------

PAGE_READWRITE = 0x04
MEM_COMMIT = 0x1000
SECTION_QUERY = 0x0001
FILE_MAP_WRITE = 0x0002
FILE_MAP_READ = 0x0004
INVALID_HANDLE_VALUE = wintypes.HANDLE(-1).value


class MEMORY_BASIC_INFORMATION(ctypes.Structure):
    """What `VirtualQuery` returns about pages that are alike."""

    _fields_ = (
        ("BaseAddress", ctypes.c_void_p),
        ("AllocationBase", ctypes.c_void_p),
        ("AllocationProtect", wintypes.DWORD),
        ("PartitionId", wintypes.WORD),
        ("RegionSize", _SIZE),
        ("State", wintypes.DWORD),
        ("Protect", wintypes.DWORD),
        ("Type", wintypes.DWORD),
    )


CreateFileMapping = _declare(
    _kernel32.CreateFileMappingW,
    wintypes.HANDLE,
    wintypes.HANDLE,
    ctypes.c_void_p,
    wintypes.DWORD,
    wintypes.DWORD,
    wintypes.DWORD,
    wintypes.LPCWSTR,
)
OpenFileMapping = _declare(_kernel32.OpenFileMappingW, wintypes.HANDLE, wintypes.DWORD, wintypes.BOOL, wintypes.LPCWSTR)
MapViewOfFile = _declare(
    _kernel32.MapViewOfFile,
    ctypes.c_void_p,
    wintypes.HANDLE,
    wintypes.DWORD,
    wintypes.DWORD,
    wintypes.DWORD,
    _SIZE,
)
UnmapViewOfFile = _declare(_kernel32.UnmapViewOfFile, wintypes.BOOL, ctypes.c_void_p)
VirtualQuery = _declare(_kernel32.VirtualQuery, _SIZE, ctypes.c_void_p, ctypes.POINTER(MEMORY_BASIC_INFORMATION), _SIZE)

# -- semaphores --------------------------------------------------------------

SYNCHRONIZE = 0x100000
SEMAPHORE_QUERY_STATE = 0x0001
SEMAPHORE_MODIFY_STATE = 0x0002
SEMAPHORE_ALL_ACCESS = 0x1F0003

CreateSemaphore = _declare(
    _kernel32.CreateSemaphoreW, wintypes.HANDLE, ctypes.c_void_p, wintypes.LONG, wintypes.LONG, wintypes.LPCWSTR
)
OpenSemaphore = _declare(_kernel32.OpenSemaphoreW, wintypes.HANDLE, wintypes.DWORD, wintypes.BOOL, wintypes.LPCWSTR)
ReleaseSemaphore = _declare(
    _kernel32.ReleaseSemaphore, wintypes.BOOL, wintypes.HANDLE, wintypes.LONG, ctypes.POINTER(wintypes.LONG)
)


class SEMAPHORE_BASIC_INFORMATION(ctypes.Structure):
    """What `NtQuerySemaphore` returns."""

    _fields_ = (("CurrentCount", wintypes.ULONG), ("MaximumCount", wintypes.ULONG))


NtQuerySemaphore = _declare(
    _ntdll.NtQuerySemaphore,
    _STATUS,
    wintypes.HANDLE,
    ctypes.c_int,
    ctypes.POINTER(SEMAPHORE_BASIC_INFORMATION),
    wintypes.ULONG,
    ctypes.c_void_p,
)

# -- mutexes and events --------------------------------------------------------

ERROR_NOT_OWNER = 288

CreateMutex = _declare(_kernel32.CreateMutexW, wintypes.HANDLE, ctypes.c_void_p, wintypes.BOOL, wintypes.LPCWSTR)
ReleaseMutex = _declare(_kernel32.ReleaseMutex, wintypes.BOOL, wintypes.HANDLE)
CreateEvent = _declare(
    _kernel32.CreateEventW, wintypes.HANDLE, ctypes.c_void_p, wintypes.BOOL, wintypes.BOOL, wintypes.LPCWSTR
)
SetEvent = _declare(_kernel32.SetEvent, wintypes.BOOL, wintypes.HANDLE)
ResetEvent = _declare(_kernel32.ResetEvent, wintypes.BOOL, wintypes.HANDLE)


class MUTANT_BASIC_INFORMATION(ctypes.Structure):
    """What `NtQueryMutant` returns about a mutex."""

    _fields_ = (
        ("CurrentCount", wintypes.LONG),
        ("OwnedByCaller", wintypes.BOOLEAN),
        ("AbandonedState", wintypes.BOOLEAN),
    )


NtQueryMutant = _declare(
    _ntdll.NtQueryMutant,
    _STATUS,
    wintypes.HANDLE,
    ctypes.c_int,
    ctypes.POINTER(MUTANT_BASIC_INFORMATION),
    wintypes.ULONG,
    ctypes.c_void_p,
)

# -- the directory of names ---------------------------------------------------

OBJ_CASE_INSENSITIVE = 0x40
DIRECTORY_QUERY = 0x0001
STATUS_NO_MORE_ENTRIES = -0x7FFFFFE6


class UNICODE_STRING(ctypes.Structure):
    """A text that need not end with NUL; the lengths are in bytes."""

    _fields_ = (("Length", wintypes.USHORT), ("MaximumLength", wintypes.USHORT), ("Buffer", ctypes.c_void_p))


class OBJECT_ATTRIBUTES(ctypes.Structure):
    """What to open."""

    _fields_ = (
        ("Length", wintypes.ULONG),
        ("RootDirectory", wintypes.HANDLE),
        ("ObjectName", ctypes.POINTER(UNICODE_STRING)),
        ("Attributes", wintypes.ULONG),
        ("SecurityDescriptor", ctypes.c_void_p),
        ("SecurityQualityOfService", ctypes.c_void_p),
    )


class OBJECT_DIRECTORY_INFORMATION(ctypes.Structure):
    """One entry."""

    _fields_ = (("Name", UNICODE_STRING), ("TypeName", UNICODE_STRING))


NtOpenDirectoryObject = _declare(
    _ntdll.NtOpenDirectoryObject,
    _STATUS,
    ctypes.POINTER(wintypes.HANDLE),
    wintypes.DWORD,
    ctypes.POINTER(OBJECT_ATTRIBUTES),
)
NtQueryDirectoryObject = _declare(
    _ntdll.NtQueryDirectoryObject,
    _STATUS,
    wintypes.HANDLE,
    ctypes.c_void_p,
    wintypes.ULONG,
    wintypes.BOOLEAN,
    wintypes.BOOLEAN,
    ctypes.POINTER(wintypes.ULONG),
    ctypes.POINTER(wintypes.ULONG),
)
ProcessIdToSessionId = _declare(
    _kernel32.ProcessIdToSessionId, wintypes.BOOL, wintypes.DWORD, ctypes.POINTER(wintypes.DWORD)
)

# -- files -------------------------------------------------------------------

GENERIC_READ, GENERIC_WRITE = 0x80000000, 0x40000000
FILE_SHARE_READ, FILE_SHARE_WRITE, FILE_SHARE_DELETE = 1, 2, 4
FILE_READ_DATA, FILE_WRITE_DATA = 1, 2
FILE_ACCESS_INFORMATION = 8  # a FILE_INFORMATION_CLASS

ReOpenFile = _declare(
    _kernel32.ReOpenFile, wintypes.HANDLE, wintypes.HANDLE, wintypes.DWORD, wintypes.DWORD, wintypes.DWORD
)
GetFinalPathNameByHandle = _declare(
    _kernel32.GetFinalPathNameByHandleW,
    wintypes.DWORD,
    wintypes.HANDLE,
    wintypes.LPWSTR,
    wintypes.DWORD,
    wintypes.DWORD,
)
NtQueryInformationFile = _declare(
    _ntdll.NtQueryInformationFile,
    _STATUS,
    wintypes.HANDLE,
    ctypes.POINTER(ctypes.c_void_p * 2),
    ctypes.c_void_p,
    wintypes.ULONG,
    ctypes.c_int,
)

ERROR_LOCK_VIOLATION = 33
ERROR_NOT_LOCKED = 158
LOCKFILE_FAIL_IMMEDIATELY, LOCKFILE_EXCLUSIVE_LOCK = 1, 2


class OVERLAPPED(ctypes.Structure):
    """Where in a file something is to be done."""

    _fields_ = (
        ("Internal", ctypes.c_void_p),
        ("InternalHigh", ctypes.c_void_p),
        ("Offset", wintypes.DWORD),
        ("OffsetHigh", wintypes.DWORD),
        ("hEvent", wintypes.HANDLE),
    )


LockFileEx = _declare(
    _kernel32.LockFileEx,
    wintypes.BOOL,
    wintypes.HANDLE,
    wintypes.DWORD,
    wintypes.DWORD,
    wintypes.DWORD,
    wintypes.DWORD,
    ctypes.POINTER(OVERLAPPED),
)
UnlockFileEx = _declare(
    _kernel32.UnlockFileEx,
    wintypes.BOOL,
    wintypes.HANDLE,
    wintypes.DWORD,
    wintypes.DWORD,
    wintypes.DWORD,
    ctypes.POINTER(OVERLAPPED),
)


def access_of(handle: int) -> int:
    """Return the access that a handle of a file has; every access, if Windows does not say."""
    granted, about = ctypes.c_ulong(), (ctypes.c_void_p * 2)()
    status = NtQueryInformationFile(
        handle, ctypes.byref(about), ctypes.byref(granted), ctypes.sizeof(granted), FILE_ACCESS_INFORMATION
    )
    return ~0 if status else granted.value


# -- processes ---------------------------------------------------------------

CREATE_SUSPENDED = 0x00000004
JOB_OBJECT_EXTENDED_LIMIT_INFORMATION = 9  # a JOBOBJECTINFOCLASS
JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK = 0x1000
JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE = 0x2000


class JOBOBJECT_EXTENDED_LIMIT_INFORMATION(ctypes.Structure):
    """What a job does to its processes; the nested structures of the original are written out here."""

    _fields_ = (
        ("PerProcessUserTimeLimit", wintypes.LARGE_INTEGER),
        ("PerJobUserTimeLimit", wintypes.LARGE_INTEGER),
        ("LimitFlags", wintypes.DWORD),
        ("MinimumWorkingSetSize", _SIZE),
        ("MaximumWorkingSetSize", _SIZE),
        ("ActiveProcessLimit", wintypes.DWORD),
        ("Affinity", _SIZE),
        ("PriorityClass", wintypes.DWORD),
        ("SchedulingClass", wintypes.DWORD),
        ("IoInfo", ctypes.c_ulonglong * 6),
        ("ProcessMemoryLimit", _SIZE),
        ("JobMemoryLimit", _SIZE),
        ("PeakProcessMemoryUsed", _SIZE),
        ("PeakJobMemoryUsed", _SIZE),
    )


CreateJobObject = _declare(_kernel32.CreateJobObjectW, wintypes.HANDLE, ctypes.c_void_p, wintypes.LPCWSTR)
SetInformationJobObject = _declare(
    _kernel32.SetInformationJobObject, wintypes.BOOL, wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.DWORD
)
AssignProcessToJobObject = _declare(_kernel32.AssignProcessToJobObject, wintypes.BOOL, wintypes.HANDLE, wintypes.HANDLE)
TerminateJobObject = _declare(_kernel32.TerminateJobObject, wintypes.BOOL, wintypes.HANDLE, wintypes.UINT)
NtResumeProcess = _declare(_ntdll.NtResumeProcess, _STATUS, wintypes.HANDLE)

# -- errors ------------------------------------------------------------------

# Better numbers than those of Python's own table.
_ERRNO = {
    ERROR_INVALID_HANDLE: errno.EINVAL,
    ERROR_NOT_ENOUGH_MEMORY: errno.ENOSPC,
    ERROR_OUTOFMEMORY: errno.ENOSPC,
    ERROR_DISK_FULL: errno.ENOSPC,
    ERROR_FILENAME_EXCED_RANGE: errno.ENAMETOOLONG,
    ERROR_NO_SYSTEM_RESOURCES: errno.ENOSPC,
    ERROR_COMMITMENT_LIMIT: errno.ENOSPC,
}


def failure(filename: object = None) -> OSError:
    """Return the error of the last call of this thread, as the right subclass of `OSError`."""
    number = ctypes.get_last_error()
    text = ctypes.FormatError(number).strip()
    if number in _ERRNO:
        return OSError(_ERRNO[number], text, filename)
    return OSError(None, text, filename, number)
