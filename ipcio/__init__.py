"""Inter-process communication in which every piece of memory is a file.

Six public modules mirror LuaIPC's, one by one:

``ipcio.shm``
    named shared memory, removed when the last process has closed it
``ipcio.sem``
    named semaphores, crash-safe ones too
``ipcio.filelock``
    locks on ranges of a file's bytes
``ipcio.proc``
    child processes; all of their output is delivered
``ipcio.mmap``
    memory-mapped files
``ipcio.strfile``
    a read-only file over a ``str`` or any buffer

And what programs of several processes need besides:

``ipcio.mutex``
    named mutexes: the next owner can detect that the last one was killed
``ipcio.event``
    named events: a flag that processes wait for
``ipcio.queue``
    named message queues

Memory comes as :class:`MemoryFile`, an :class:`io.RawIOBase` over a run of bytes,
a semaphore as :class:`Semaphore`, a mutex as :class:`Mutex`, an event as :class:`Event`, a queue as
:class:`Queue`, a child as :class:`Process` and its end as :class:`ExitStatus`.  :func:`list_objects` lists
the named objects of this machine, each as an :class:`ObjectInfo`, and :func:`remove_orphans` removes what killed
processes left.

Importing ``ipcio`` itself costs next to nothing: a module is loaded when it is first used
(:pep:`562`).

The package has layers, and imports run downwards only: the command, the public modules, the
handles, a back end for each kind of system, and a few shared rules.  :doc:`/design`
lists the layers, with a line for each module.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own would cost most of the import; checkers know the name
if TYPE_CHECKING:
    from ipcio import event, filelock, mmap, mutex, proc, queue, sem, shm, strfile
    from ipcio._event import Event
    from ipcio._inventory import list_objects, remove_orphans
    from ipcio._memfile import MemoryFile
    from ipcio._mutex import Mutex
    from ipcio._object_info import ObjectInfo
    from ipcio._process import Process
    from ipcio._process_base import ExitStatus
    from ipcio._queue import Queue
    from ipcio._semaphore import Semaphore

__all__ = [
    "Event",
    "ExitStatus",
    "MemoryFile",
    "Mutex",
    "ObjectInfo",
    "Process",
    "Queue",
    "Semaphore",
    "__version__",
    "event",
    "filelock",
    "list_objects",
    "mmap",
    "mutex",
    "proc",
    "queue",
    "remove_orphans",
    "sem",
    "shm",
    "strfile",
]

__version__ = "0.1.0"


_HOMES = {  # of the names that are no modules
    "Event": "_event",
    "ExitStatus": "_process_base",
    "MemoryFile": "_memfile",
    "Mutex": "_mutex",
    "ObjectInfo": "_object_info",
    "Process": "_process",
    "Queue": "_queue",
    "Semaphore": "_semaphore",
    "list_objects": "_inventory",
    "remove_orphans": "_inventory",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(__import__(f"ipcio.{_HOMES[name]}", fromlist=[name]), name)
    if name in __all__:
        # It binds itself here, so this runs once for each.  (`importlib` would cost a sixth of such an import.)
        return __import__(f"ipcio.{name}", fromlist=[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
