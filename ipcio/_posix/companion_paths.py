"""The files beside named objects that are no files themselves: their directory, of the user's own, and their names.

On macOS the directory is ``ipcio`` in the one that the system keeps for each user
(``getconf DARWIN_USER_DIR``), where no other user can make anything.

Elsewhere it is in ``/var/tmp``, which the system does not empty at a start as it does ``/tmp``.
Other users may make files and directories there, too, and one of them could take the name first
and so shut this user out.  Therefore the rule is: of ``ipcio-UID``, ``ipcio-UID-1``,
``ipcio-UID-2`` ..., the first that exists, is a directory, belongs to the user and is closed to all
others.  If none of them is, the first of these names that is free is made.  So it does not matter
what other users put under the earlier names, or remove there: no process of the user makes a
second directory while the first exists.  The rule is applied each time the directory is needed.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import time
from itertools import count

from ipcio._light import contextmanager, suppress
from ipcio._names import SEGMENTS
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT = "/var/tmp"

_PATIENCE, _PAUSE = 0.2, 0.001  # seconds; to make a directory takes microseconds

_PLAIN = b"abcdefghijklmnopqrstuvwxyz0123456789-_."
_DARWIN_USER_DIR = 65536  # for `confstr`, in <unistd.h> of macOS; unlike its directory for temporary files, it is kept


def directory() -> str:
    """Return the path of the directory, which exists."""
    user = os.geteuid()
    first = _first(user)
    return first if _is_ours(first, user) else _find(first, user) or _make(first, user)


def _first(user: int) -> str:
    if sys.platform == "darwin":
        with suppress(OSError, ValueError):
            own = (os.confstr(_DARWIN_USER_DIR) or "").rstrip("/")
            info = os.lstat(own)
            if stat.S_ISDIR(info.st_mode) and info.st_uid == user and not info.st_mode & 0o022:
                return f"{own}/ipcio"
    return f"{ROOT}/ipcio-{user}"


def _is_ours(path: str, user: int) -> bool:
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == user and not info.st_mode & 0o077


def _find(first: str, user: int) -> str | None:
    """Return the first that is ours, also after others; None if it does not exist."""
    root, name = os.path.split(first)
    numbers = (entry[len(name) + 1 :] for entry in os.listdir(root) if entry.startswith(f"{name}-"))
    there = sorted(int(number) for number in numbers if number.isdecimal())
    candidates = [first, *(f"{first}-{number}" for number in there)]
    return next((path for path in candidates if _is_ours(path, user)), None)


def _make(first: str, user: int) -> str:
    """Make the first that is free, unless another process of the user has made one by now."""
    with _alone(os.path.dirname(first)):
        found = _find(first, user)
        if found is not None:
            return found
        for number in count():
            path = f"{first}-{number}" if number else first
            try:
                os.mkdir(path, 0o700)
                os.chmod(path, 0o700)  # the umask may have removed more
            except FileExistsError:
                continue
            return path
    raise AssertionError("unreachable")


@contextmanager
def _alone(root: str) -> Generator[None, None, None]:
    """Keep the user's other processes from making one, too.  If another user keeps the lock, run without."""
    fd = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
    try:
        give_up = time.monotonic() + _PATIENCE
        while time.monotonic() < give_up:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(_PAUSE)
        yield
    finally:
        os.close(fd)


def path_of(kind: str, name: str, place: str | None = None) -> str:
    """Return the path of the file beside an object, in `place` or the `directory`.

    `kind` is "shm", "sem" or that of an object which is the file itself.
    To a file system "A" and "a", or two spellings of "ä", may be the same; as names they differ.
    """
    plain = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in os.fsencode(name))
    return f"{place or directory()}/{kind}.{plain}"


def name_of(entry: str) -> tuple[str, str] | None:
    """Return the kind and the name of the object that an entry of the directory is beside; None for other files."""
    kind, _, plain = entry.partition(".")
    if kind not in {"shm", "sem", *SEGMENTS}:
        return None
    first, *rest = plain.encode().split(b"%")
    try:
        return kind, os.fsdecode(first + b"".join(bytes.fromhex(part[:2].decode()) + part[2:] for part in rest))
    except ValueError:  # of another program
        return None
