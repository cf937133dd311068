# fsspec is optional and says nothing about its types.
# pyright: reportMissingImports=false, reportMissingTypeStubs=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Shared memory as a file system of fsspec: ``shm://name`` works wherever a URL of fsspec does.

With ``ipcio[fsspec]`` installed, fsspec finds this class by itself, and so do pandas, pyarrow and
dask: ``pandas.read_csv("shm://prices")``.  The name in the URL is a name of `ipcio.shm`.  There
are no directories.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from datetime import datetime, timezone

from fsspec import AbstractFileSystem
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.core import has_magic

from ipcio import shm
from ipcio._fsspec_files import SharedMemoryReader, SharedMemoryWriter
from ipcio._inventory import list_objects
from ipcio._names import check_name, check_perm
from ipcio._segment_writer import open_writer
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Literal

    from ipcio import MemoryFile

_FLAT = "shared memory has no directories; a name is one word, without '/'"
_WILDCARDS = re.compile(r"\[[^]]*\]|[*?]")


def _user() -> int | None:
    """Return the user's id; None on Windows, which has no user ids."""
    if sys.platform == "win32":
        return None
    return os.geteuid()


class SharedMemoryFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """All shared memory of this machine, by name.

    perm
        The permission bits of new segments.

    A segment that is written is persistent: it stays until `rm`.

    A name with ``*``, ``?`` or ``[`` is a pattern only if there is no segment of that very
    name.  `rm` and `mv` remove what a pattern matches only if it is a persistent segment of
    ipcio that belongs to this user, and refuse a pattern that matches every name.
    """

    protocol = "shm"
    root_marker = ""

    def __init__(self, *args: Any, perm: int = 0o600, **options: Any) -> None:
        super().__init__(*args, **options)
        self._perm = check_perm(perm)

    # -- names -----------------------------------------------------------

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """Return the name in a URL; ``shm:///name``, with the slash of `shm_open`, is the same name."""
        stripped = super()._strip_protocol(path)
        return stripped if isinstance(stripped, list) else stripped.lstrip("/")

    def _name(self, path: str) -> str:
        """Return the name of a segment in a URL; raise an error if the URL can have no segment."""
        name = self._strip_protocol(path)
        if not name:
            raise IsADirectoryError(errno.EISDIR, "a URL of shared memory needs a name: shm://name", path)
        if "/" in name:
            raise NotADirectoryError(errno.ENOTDIR, _FLAT, path)
        return check_name(name)

    # -- what there is ---------------------------------------------------

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return the size of a segment and, where segments are files, its mode, owner and times."""
        if not self._strip_protocol(path):
            return {"name": "", "size": 0, "type": "directory"}
        with self._attach(path, "r") as h:
            known = {"name": h.name, "size": h.size(), "type": "file"}
            try:
                info = os.fstat(h.fileno())
            except OSError:  # memory has no descriptor on this system
                return known
        # By the inode number a new segment can be distinguished from an old one of the same name.
        more = {"mode": info.st_mode & 0o777, "uid": info.st_uid, "gid": info.st_gid, "ino": info.st_ino}
        return {**known, **more, "created": info.st_ctime, "mtime": info.st_mtime}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List the segments that are not orphaned; for those that this user may not open, only the size."""
        found: list[dict[str, Any]] = []
        if self._strip_protocol(path):
            found.append(self.info(path))
        else:
            for entry in list_objects():
                if entry.kind == "shm" and entry.state != "orphan":
                    try:
                        found.append(self.info(entry.name))
                    except PermissionError:
                        found.append({"name": entry.name, "size": entry.size, "type": "file"})
                    except (OSError, ValueError):  # removed meanwhile, or not shared memory
                        pass
        return found if detail else [each["name"] for each in found]

    def created(self, path: str) -> datetime:
        """Return when the segment was created, or its permissions were last changed; only where it is a file."""
        return self._time(path, "created")

    def modified(self, path: str) -> datetime:
        """Return when the segment was created.  Writes to memory do not change the time."""
        return self._time(path, "mtime")

    def _time(self, path: str, key: str) -> datetime:
        info = self.info(path)
        if key not in info:
            raise NotImplementedError("this system does not record when a segment was created")
        return datetime.fromtimestamp(info[key], timezone.utc)

    # -- files -----------------------------------------------------------

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: Any = None,  # noqa: ARG002 -- as fsspec has it
        autocommit: bool = True,
        cache_options: Any = None,  # noqa: ARG002 -- as fsspec has it
        **_: Any,
    ) -> Any:
        kind = mode.replace("b", "").replace("+", "")
        if mode == "rb":
            return SharedMemoryReader(self._attach(path, "r"))
        if kind == "r":
            return self._attach(path, "rw")
        if kind not in {"w", "x", "a"}:
            raise ValueError(f"mode must be one of rb, r+b, wb, xb, ab or with a +, not {mode!r}")
        name = self._name(path)
        segment = open_writer(name, self._perm, replace=kind != "x", readable=True)
        writer = SharedMemoryWriter(segment, autocommit=autocommit)
        if kind == "a":
            with contextlib.suppress(FileNotFoundError), self._attach(name, "r") as old, old.getbuffer() as content:
                writer.write(content)
        return writer

    def _attach(self, path: str, mode: Literal["r", "rw"]) -> MemoryFile:
        name = self._strip_protocol(path)
        if "/" in name:
            raise FileNotFoundError(errno.ENOENT, _FLAT, path)
        return shm.attach(self._name(name), mode)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return the bytes from `start` to `end`; negative numbers count from the end, as in a slice."""
        with self._attach(path, "r") as h, h.getbuffer() as content:
            return bytes(content[start:end])

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **_: Any) -> None:
        """Create a segment of these bytes, replacing one of that name; with `mode` "create", the name must be free."""
        with self._open(path, "xb" if mode == "create" else "wb") as f:
            f.write(value)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """Create an empty segment; an existing one is replaced with `truncate`, and stays as it is without."""
        if truncate:
            self.pipe_file(path, b"")
            return
        with contextlib.suppress(FileExistsError):
            self.pipe_file(path, b"", "create")

    # -- several of them, and patterns ------------------------------------------

    def glob(self, path: Any, maxdepth: int | None = None, **options: Any) -> Any:
        """Return the names that match a pattern.  If a segment has that very name, it is the only match."""
        name = self._strip_protocol(path)
        if has_magic(name) and self._is_there(name):
            return {name: self.info(name)} if options.get("detail") else [name]
        return super().glob(path, maxdepth=maxdepth, **options)

    def _is_there(self, name: str) -> bool:
        """Whether the name is in use, even by something that this user may not open."""
        try:
            self.info(name)
        except (FileNotFoundError, ValueError):
            return False
        except OSError:
            pass
        return True

    def _is_pattern(self, path: Any) -> bool:
        name = self._strip_protocol(path)
        return has_magic(name) and not self._is_there(name)

    def _expand(self, path: Any, recursive: bool, maxdepth: int | None) -> list[str]:
        """Return the names of segments that `path` means, which is a name, a pattern or a list of these."""
        return [name for name in self.expand_path(path, recursive=recursive, maxdepth=maxdepth) if name]

    def copy(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        on_error: str | None = None,
        **_: Any,
    ) -> None:
        """Copy segments; as there are no directories, several of them require a list of new names."""
        both = isinstance(path1, list) and isinstance(path2, list)
        names = path1 if both else self._expand(path1, recursive, maxdepth)
        for old, new in self._pairs(names, path2):
            try:
                self.cp_file(old, new)
            except FileNotFoundError:
                if on_error == "raise" or (on_error is None and not recursive):
                    raise

    def _pairs(self, names: list[str], path2: Any) -> Iterator[tuple[str, str]]:
        """Return the old and the new name of each segment."""
        if isinstance(path2, list):
            return zip(names, path2, strict=True)
        target = self._strip_protocol(path2)
        if target and len(names) > 1:
            raise NotADirectoryError(errno.ENOTDIR, _FLAT, path2)
        return zip(names, [target] if target else names, strict=True)  # all are in the one directory

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a segment and its permission bits; onto itself, do nothing."""
        with self._attach(path1, "r") as old, old.getbuffer() as content:
            name = self._name(path2)
            if name != old.name:
                with open_writer(name, self._perm_of(old), replace=True) as new:
                    new.write(content)

    def _perm_of(self, segment: MemoryFile) -> int:
        try:
            return os.fstat(segment.fileno()).st_mode & 0o777
        except OSError:  # memory has no descriptor on this system
            return self._perm

    def mv(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        **_: Any,
    ) -> None:
        """Copy segments as `copy` does, and remove the old names as `rm` does; onto itself, do nothing."""
        both = isinstance(path1, list) and isinstance(path2, list)
        for old, new in self._pairs(path1 if both else self._removable(path1, recursive, maxdepth), path2):
            self.cp_file(old, new)
            if self._strip_protocol(old) != self._strip_protocol(new):
                self.rm_file(old)

    def get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **options: Any,
    ) -> None:
        """Copy segments to files.

        If `lpath` is a directory, or `rpath` a pattern or a list, each goes to a file of its name in there.
        """
        if not (isinstance(rpath, list) and isinstance(lpath, list)):
            names = self._expand(rpath, recursive, maxdepth)
            if not isinstance(lpath, list):
                target = os.fspath(lpath)
                inside = isinstance(rpath, list) or target.endswith(("/", os.sep)) or os.path.isdir(target)
                if inside or recursive or self._is_pattern(rpath):
                    lpath = [os.path.join(target, name) for name in names]
                else:
                    lpath = [target]
            rpath = names
        super().get(rpath, lpath, callback=callback, **options)

    # -- removal, and directories, of which there is one -----------------------

    def rm_file(self, path: str) -> None:
        """Remove a name now, as `ipcio.shm.unlink` does."""
        name = self._strip_protocol(path)
        if "/" in name:
            raise FileNotFoundError(errno.ENOENT, _FLAT, path)
        shm.unlink(self._name(name))

    _rm = rm_file

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove names.

        A pattern removes only persistent segments of ipcio that belong to this user; all others
        have to be named in full.  Raises `PermissionError` for all names at
        once (``shm://``, ``*``), and `FileNotFoundError` if there is nothing to remove.
        """
        for name in self._removable(path, recursive, maxdepth):
            self.rm_file(name)

    def _removable(self, path: Any, recursive: bool, maxdepth: int | None) -> list[str]:
        """Return the names that are to be removed."""
        names: dict[str, None] = {}
        paths: list[Any] = path if isinstance(path, list) else [path]
        for each in paths:
            pattern = self._is_pattern(each)
            name: str = self._strip_protocol(each)
            if not (_WILDCARDS.sub("", name) if pattern else name):
                raise PermissionError(errno.EPERM, "not all shared memory of this machine at once", "shm://")
            found = self._expand(each, recursive, maxdepth)
            mine = self._mine() if pattern else found
            names.update(dict.fromkeys(one for one in found if one in mine))
        if not names:
            why = "no persistent segment of this user matches; everything else has to be named in full"
            raise FileNotFoundError(errno.ENOENT, why, str(path))
        return list(names)

    def _mine(self) -> set[str]:
        """Return the names of the persistent segments of ipcio that belong to this user."""
        found: set[str] = set()
        for entry in list_objects():
            if entry.kind == "shm" and entry.state == "persistent":
                with contextlib.suppress(OSError):  # it belongs to another user, or was removed meanwhile
                    # Where there is no "uid", the system lists the segments of this user only.
                    if self.info(entry.name).get("uid") in {None, _user()}:
                        found.add(entry.name)
        return found

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:  # noqa: ARG002 -- as fsspec has it
        """Raise an error: the one directory exists, and there are no others."""
        if not self._strip_protocol(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        raise NotADirectoryError(errno.ENOTDIR, _FLAT, path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Fail as `mkdir`, but for the one directory with `exist_ok`."""
        if self._strip_protocol(path) or not exist_ok:
            self.mkdir(path)

    def rmdir(self, path: str) -> None:
        """Raise an error: there is no directory to remove."""
        raise NotADirectoryError(errno.ENOTDIR, _FLAT, path)
