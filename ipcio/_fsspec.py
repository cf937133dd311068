# fsspec is optional and says nothing about its types.
# pyright: reportMissingImports=false, reportMissingTypeStubs=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""Shared memory as a file system of fsspec: what takes a URL takes ``shm://name``.

With ``ipcio[fsspec]`` installed, fsspec finds this class by itself, and so pandas, pyarrow and
dask do: ``pandas.read_csv("shm://prices")``.  The name in the URL is the name that `ipcio.shm`
takes.  Names are flat, so there are no directories, and no segment is empty.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from datetime import datetime, timezone

from fsspec import AbstractFileSystem

from ipcio import shm
from ipcio._growing import grow
from ipcio._inventory import survey
from ipcio._names import check_name, check_perm
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Literal

    from ipcio import MemoryFile

__all__ = ["SharedMemoryFileSystem", "SharedMemoryReader"]

_FLAT = "shared memory has no directories; a name is one word, without '/'"


class SharedMemoryReader(io.BufferedReader):
    """A segment open for reading; `raw` is the `ipcio.MemoryFile`.

    Buffered, because small reads are many in parsers; large ones go past the buffer.
    """

    def __init__(self, raw: MemoryFile) -> None:
        super().__init__(raw)
        self._memory = raw
        self.size = raw.size()
        """In bytes; a number, as fsspec's own files have it."""

    def getbuffer(self) -> memoryview[int]:
        """Return the memory itself, read-only, without a copy."""
        return self._memory.getbuffer()


class SharedMemoryFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """All shared memory of this machine, by name.

    perm
        The permission bits of new segments.

    A segment that is written is persistent: it stays until `rm`.
    """

    protocol = "shm"
    root_marker = ""

    def __init__(self, *args: Any, perm: int = 0o600, **options: Any) -> None:
        super().__init__(*args, **options)
        self._perm = check_perm(perm)

    # -- names -----------------------------------------------------------

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """Return the name in a URL, also in one that spells it as C does: ``shm:///name``."""
        stripped = super()._strip_protocol(path)
        return stripped if isinstance(stripped, list) else stripped.lstrip("/")

    def _name(self, path: str) -> str:
        """Return the name for which somebody wants to make a segment."""
        name = self._strip_protocol(path)
        if not name:
            raise IsADirectoryError(errno.EISDIR, "a URL of shared memory needs a name: shm://name", path)
        if "/" in name:
            raise NotADirectoryError(errno.ENOTDIR, _FLAT, path)
        return check_name(name)

    # -- what there is ---------------------------------------------------

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Tell the size, and where there is a file behind it, its mode, owner and times."""
        if not self._strip_protocol(path):
            return {"name": "", "size": 0, "type": "directory"}
        with self._attach(path, "r") as h:
            known = {"name": h.name, "size": h.size(), "type": "file"}
            try:
                info = os.fstat(h.fileno())
            except OSError:  # no descriptors here
                return known
        # The number tells a new segment from an old one of the name.
        more = {"mode": info.st_mode & 0o777, "uid": info.st_uid, "gid": info.st_gid, "ino": info.st_ino}
        return {**known, **more, "created": info.st_ctime, "mtime": info.st_mtime}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: FBT001, FBT002 -- as fsspec has it
        """List the segments that live, whoever made them; those of others with their size alone."""
        found: list[dict[str, Any]] = []
        if self._strip_protocol(path):
            found.append(self.info(path))
        else:
            for entry in survey():
                if entry["kind"] == "shm" and entry["state"] != "orphan":
                    try:
                        found.append(self.info(entry["name"]))
                    except PermissionError:
                        found.append({"name": entry["name"], "size": entry["size"], "type": "file"})
                    except (OSError, ValueError):  # gone, or not shared memory
                        pass
        return found if detail else [each["name"] for each in found]

    def created(self, path: str) -> datetime:
        """Return when it was made, or its permissions changed last; as `modified`, where it is a file."""
        return self._time(path, "created")

    def modified(self, path: str) -> datetime:
        """Return when it was made.  What is written to memory leaves no trace in time."""
        return self._time(path, "mtime")

    def _time(self, path: str, key: str) -> datetime:
        info = self.info(path)
        if key not in info:
            raise NotImplementedError("nobody tells here when a segment was made")
        return datetime.fromtimestamp(info[key], timezone.utc)

    # -- files -----------------------------------------------------------

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: Any = None,  # noqa: ARG002
        autocommit: bool = True,  # noqa: FBT001, FBT002
        cache_options: Any = None,  # noqa: ARG002
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
        writer = grow(name, self._perm, replace=kind != "x", autocommit=autocommit)
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
        """Return the bytes from `start` to `end`, which may count from the end, as in a slice."""
        with self._attach(path, "r") as h, h.getbuffer() as content:
            return bytes(content[start:end])

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **_: Any) -> None:
        """Make a segment of these bytes; with `mode` "create", only if there is none."""
        with self._open(path, "xb" if mode == "create" else "wb") as f:
            f.write(value)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a segment."""
        with self._attach(path1, "r") as old, old.getbuffer() as content:
            self.pipe_file(path2, content)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:  # noqa: FBT001, FBT002 -- as fsspec has it
        """Always fail: no segment is empty, and no time tells of a change."""
        del truncate
        raise OSError(errno.EINVAL, "shared memory has at least one byte", path)

    # -- removal, and directories, of which there is one -----------------------

    def rm_file(self, path: str) -> None:
        """Remove a name now, as `ipcio.shm.unlink` does."""
        name = self._strip_protocol(path)
        if "/" in name:
            raise FileNotFoundError(errno.ENOENT, _FLAT, path)
        shm.unlink(self._name(name))

    _rm = rm_file

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:  # noqa: FBT001, FBT002 -- as fsspec has it
        """Remove names; never all that there are, for most of them are other people's."""
        paths: list[Any] = path if isinstance(path, list) else [path]
        if not all(self._strip_protocol(each) for each in paths):
            raise PermissionError(errno.EPERM, "not all shared memory of this machine at once", "shm://")
        super().rm(path, recursive=recursive, maxdepth=maxdepth)

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:  # noqa: ARG002, FBT001, FBT002 -- as fsspec has it
        """Always fail: the one directory is there."""
        if not self._strip_protocol(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        raise NotADirectoryError(errno.ENOTDIR, _FLAT, path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:  # noqa: FBT001, FBT002 -- as fsspec has it
        """Fail as `mkdir`, unless that the one directory is there is all right."""
        if self._strip_protocol(path) or not exist_ok:
            self.mkdir(path)

    def rmdir(self, path: str) -> None:
        """Always fail."""
        raise NotADirectoryError(errno.ENOTDIR, _FLAT, path)
