"""Inter-process communication in which every piece of memory is a file.

The public modules mirror LuaIPC's, one by one:

``ipcio.shm``
    named shared memory, alive exactly as long as somebody holds it
``ipcio.sem``
    named semaphores, crash-safe ones too
``ipcio.filelock``
    locks on ranges of a file's bytes
``ipcio.mmap``
    memory-mapped files
``ipcio.strfile``
    a read-only file over a ``str`` or any buffer

Memory comes as :class:`MemoryFile`, an :class:`io.RawIOBase` over a run of bytes,
a semaphore as :class:`Semaphore`.  Importing ``ipcio`` itself costs next to nothing: a module is loaded
when it is first asked for (:pep:`562`).

How the package is layered, imports running downwards only::

    _cli                    the command ``ipcio``
    shm  sem  mmap  filelock  strfile     what calls mean: arguments, modes, who may do what
    _direct  _memfile           the one file face that memory gets
    _semaphore                  the handle of a semaphore
    _buffers                    what Python's file objects keep to themselves
    _posix/                     system calls; one module per public module
    _names  _timeouts  _forklock    small shared rules
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own would cost most of the import; checkers know the name
if TYPE_CHECKING:
    from ipcio import filelock, mmap, sem, shm, strfile
    from ipcio._memfile import MemoryFile
    from ipcio._semaphore import Semaphore

__all__ = ["MemoryFile", "Semaphore", "__version__", "filelock", "mmap", "sem", "shm", "strfile"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "MemoryFile":
        return import_module("ipcio._memfile").MemoryFile
    if name == "Semaphore":
        return import_module("ipcio._semaphore").Semaphore
    if name in __all__:
        return import_module(f"ipcio.{name}")  # which binds itself here, once and for all
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
