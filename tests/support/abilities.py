"""What a system may or may not be able to do.  A test says what it needs: ``@pytest.mark.needs("fork")``.

Each probe looks at what the system does, never at its name.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import mmap
import os
import shutil
import signal
import tempfile


def _is_directory(path: str) -> bool:
    """Whether it is one by that very path: where paths begin with a drive, "/proc" may be anything."""
    return os.path.isdir(path) and os.path.realpath(path).startswith("/")


def _has_fcntl() -> bool:
    return importlib.util.find_spec("fcntl") is not None


def _files_without_names() -> bool:
    with tempfile.TemporaryDirectory() as place:
        path = os.path.join(place, "file")
        with open(path, "wb"):
            try:
                os.unlink(path)
            except PermissionError:
                return False
    return True


def _cuts() -> bool:
    with tempfile.TemporaryFile() as file:
        file.write(b"1234")
        file.flush()
        with mmap.mmap(file.fileno(), 4):
            try:
                file.truncate(2)
            except OSError:
                return False
    return True


def _links() -> bool:
    with tempfile.TemporaryDirectory() as place:
        link = os.path.join(place, "link")
        try:
            os.symlink(place, link)
        except OSError:
            return False
        return os.path.islink(link)


def _deadlines() -> bool:
    try:
        from ipcio._posix import timed_call  # noqa: F401
    except (ImportError, OSError, TypeError):
        return False
    return True


def semaphore_file(name: str) -> str:
    """Where the C library of this Python keeps a semaphore, if names are files."""
    prefix = "sem."
    if _has_fcntl():
        from ipcio._posix.namespace import semaphore_prefix

        prefix = semaphore_prefix()
    return f"/dev/shm/{prefix}{name}"


def _names_apart() -> bool:
    return os.name == "posix" and not (_names_are_files() and semaphore_file("") == "/dev/shm/")


def _names_are_files() -> bool:
    """As ipcio sees it."""
    if not _has_fcntl():
        return False
    from ipcio._posix.namespace import NAMES_ARE_FILES

    return NAMES_ARE_FILES and _is_directory("/dev/shm")


def _values() -> bool:
    from ipcio import sem

    s = sem.create(None, 1)
    try:
        return s.value == 1
    except NotImplementedError:
        return False
    finally:
        s.close()


def _open_file_locks() -> bool:
    from ipcio import filelock

    return filelock.semantics == "open file"


def _descriptors_of_memory() -> bool:
    if not _has_fcntl():
        return False
    from ipcio._posix.namespace import NAMES_ARE_FILES

    return NAMES_ARE_FILES and hasattr(os, "fchmod")


def _commands() -> bool:
    from ipcio._filelock import backend

    return bool(backend.describe(os.getpid()))


def _pipe_locks() -> bool:
    from ipcio import filelock

    reader, writer = os.pipe()
    try:
        return filelock.trylock(reader, "r")
    except OSError:
        return False
    finally:
        os.close(reader)
        os.close(writer)


def _has_for_children(name: str) -> bool:
    """As ipcio sees it."""
    if os.name != "posix":
        return False
    from ipcio._posix import spawn

    return hasattr(spawn.os, name)


def _sendfile() -> bool:
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        try:
            return os.sendfile(target.fileno(), source.fileno(), None, 1) == 0
        except (AttributeError, OSError, TypeError):
            return False


def _robust_mutexes() -> bool:
    if os.name != "posix":
        return False
    from ipcio._posix import pthread_mutex

    return pthread_mutex.blank() is not None


ABILITIES = {
    "fork": (lambda: hasattr(os, "fork"), "processes cannot be forked here"),
    "signals": (lambda: hasattr(signal, "setitimer"), "processes cannot be interrupted by signals here"),
    "proc": (lambda: _is_directory("/proc/self/fd"), "there is no /proc to look at processes"),
    "files": (_names_are_files, "named objects are not files here"),
    "persistence": (lambda: hasattr(os, "fork"), "nothing outlives its last handle here"),
    "unlinking": (lambda: hasattr(os, "fork"), "a name cannot be removed while a handle is open"),
    "undo": (lambda: hasattr(os, "fork"), "permits of a process that is killed are lost here"),
    "value": (_values, "the value of a semaphore cannot be read here"),
    "objects for others": (_names_are_files, "what a user makes is kept by that user alone here"),
    "permissions": (lambda: hasattr(os, "geteuid"), "objects have no permission bits here"),
    "namespaces": (_names_apart, "one name is one object here, of whatever kind"),
    "users": (lambda: hasattr(os, "setuid"), "a process cannot become another user here"),
    "descriptors": (_descriptors_of_memory, "shared memory has no descriptor here"),
    "classic locks": (_has_fcntl, "there are no locks of processes here"),
    "holders": (_has_fcntl, "the system does not say which process has locked a file"),
    "cutting": (_has_fcntl, "what was locked exclusively is let go as a whole here"),
    "nameless": (_files_without_names, "a file that is open cannot be removed here"),
    "cuts": (_cuts, "a file that is mapped cannot be cut short here"),
    "links": (_links, "there are no symbolic links here, or not for everybody"),
    "sections": (lambda: hasattr(ctypes, "WinDLL"), "there is no Windows API"),
    "sh": (lambda: shutil.which("sh") is not None, "there is no POSIX shell"),
    "open file locks": (_open_file_locks, "locks belong to the process here, not to the open file"),
    "deadlines": (_deadlines, "no timer can end a wait of the kernel's here"),
    "witness": (lambda: _is_directory("/dev/shm"), "objects cannot be looked at from outside here"),
    "commands": (_commands, "the system does not say what a process runs"),
    "pipe locks": (_pipe_locks, "pipes cannot be locked here"),
    "full": (lambda: os.path.exists("/dev/full") and os.path.realpath("/dev/full") == "/dev/full", "no device is full"),
    "sendfile": (_sendfile, "no system call copies from where one file is to where another one is"),
    "waitid": (lambda: hasattr(os, "waitid"), "a wait for an exit always takes the status here"),
    "pidfd": (lambda: _has_for_children("pidfd_open"), "a child is known by its number alone here"),
    "trees": (lambda: _has_for_children("waitid"), "what is left of a tree after its leader is out of reach here"),
    "robust mutexes": (_robust_mutexes, "Python code acquires and releases locks here"),
    "posix": (lambda: os.name == "posix", "a test of what only POSIX systems have"),
}
"""A probe of each, and what to say where it is missing."""


@functools.cache
def lacks(ability: str) -> str:
    """What to say if the system lacks an ability, nothing if it has it."""
    probe, reason = ABILITIES[ability]
    return "" if probe() else reason
