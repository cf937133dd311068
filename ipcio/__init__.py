"""Inter-process communication in which every piece of memory is a file.

The public modules mirror LuaIPC's, one by one:

``ipcio.shm``
    named shared memory, alive exactly as long as somebody holds it
``ipcio.sem``
    named semaphores, crash-safe ones too
``ipcio.filelock``
    locks on ranges of a file's bytes
``ipcio.proc``
    child processes whose output arrives, all of it
``ipcio.mmap``
    memory-mapped files
``ipcio.strfile``
    a read-only file over a ``str`` or any buffer

Memory comes as :class:`MemoryFile`, an :class:`io.RawIOBase` over a run of bytes,
a semaphore as :class:`Semaphore`, a child as :class:`Process` and its end as
:class:`ExitStatus`.  Importing ``ipcio`` itself costs next to nothing: a module is loaded
when it is first asked for (:pep:`562`).

How the package is layered, imports running downwards only::

    _cli                    the command ``ipcio``
    _fsspec                 shared memory under URLs, for libraries that use fsspec
    _segment_writer                segments whose size nobody knows before their end
    _inventory              what named objects there are, and who has them
    shm  sem  mmap  filelock  proc  strfile     what calls mean: arguments, modes, who may do what
    _stdio                   what the streams of a child may be
    _memfile_fast  _memfile           the one file face that memory gets
    _semaphore                  the handle of a semaphore
    _process                    the handle of a child process
    _run                        a child process from its start to its end in one call
    _streams                    what flows between a process and its child
    _buffering                    what Python's file objects keep to themselves
    _posix/  _windows/          system calls; one module per public module in each
    _handover                   handles among the arguments of a child that multiprocessing starts
    _names  _timeouts  _forklock    small shared rules
    _typing                         what annotations need at run time, without `typing`
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own would cost most of the import; checkers know the name
if TYPE_CHECKING:
    from ipcio import filelock, mmap, proc, sem, shm, strfile
    from ipcio._memfile import MemoryFile
    from ipcio._process import ExitStatus, Process
    from ipcio._semaphore import Semaphore

__all__ = [
    "ExitStatus",
    "MemoryFile",
    "Process",
    "Semaphore",
    "__version__",
    "filelock",
    "mmap",
    "proc",
    "sem",
    "shm",
    "strfile",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "MemoryFile":
        return import_module("ipcio._memfile").MemoryFile
    if name == "Semaphore":
        return import_module("ipcio._semaphore").Semaphore
    if name in {"ExitStatus", "Process"}:
        return getattr(import_module("ipcio._process"), name)
    if name in __all__:
        return import_module(f"ipcio.{name}")  # which binds itself here, once and for all
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
