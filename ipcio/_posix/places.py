"""Where the files are that stand for named objects which are no files themselves: in a directory of the user's own.

It is ``/var/tmp/ipcio-UID``.  Unlike ``/tmp``, nobody tidies up there behind one's back.  It
is looked at whenever it is needed, for other users may write beside it: it must be a
directory, the user's, and closed to everybody else.
"""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["directory", "name_of", "path_of", "semaphore_path"]

ROOT = "/var/tmp"

_PLAIN = b"abcdefghijklmnopqrstuvwxyz0123456789-_."


def directory() -> str:
    """Return the path of the directory; it is there.  `PermissionError` if others have a part in it."""
    user = os.geteuid()
    path = _directory_of(user)
    while True:
        try:
            info = os.lstat(path)
            break
        except FileNotFoundError:
            pass
        try:
            os.mkdir(path, 0o700)
            os.chmod(path, 0o700)  # the umask may have taken more
        except FileExistsError:  # another process was faster; or another user
            pass
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != user or info.st_mode & 0o077:
        text = f"{path} must be a directory that belongs to this user and gives no rights to others (mode 0700)"
        raise PermissionError(errno.EACCES, text, path)
    return path


def _directory_of(user: int) -> str:
    return f"{ROOT}/ipcio-{user}"


def path_of(kind: str, name: str, place: str | None = None) -> str:
    """Where the file is that stands for an object, in `place` or the `directory`; `kind` is "shm" or "sem".

    A file system may take "A" and "a" for the same, or two spellings of "ä"; names do not.
    """
    plain = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in os.fsencode(name))
    return f"{directory() if place is None else place}/{kind}.{plain}"


def name_of(entry: str) -> tuple[str, str] | None:
    """What kind and which name an entry of the directory stands for; None for something else."""
    kind, _, plain = entry.partition(".")
    if kind not in {"shm", "sem"}:
        return None
    first, *rest = plain.encode().split(b"%")
    try:
        return kind, os.fsdecode(first + b"".join(bytes.fromhex(part[:2].decode()) + part[2:] for part in rest))
    except ValueError:  # not one of ours
        return None


def semaphore_path(name: str, place: str | None = None) -> str:
    """Where the file is that stands for a semaphore."""
    return path_of("sem", name, place)
