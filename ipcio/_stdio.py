"""What the streams of a child may be: arguments of `spawn`, in terms of `subprocess`, `Input` and `Output`."""

from __future__ import annotations

import errno
import io
import subprocess
import sys

from ipcio._buffering import flush, innermost, refresh
from ipcio._child_input import Input
from ipcio._child_output import Output
from ipcio._light import index
from ipcio._output_format import OutputFormat
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_NO_DESCRIPTOR = -1  # what some objects give instead of an error


def redirect_input(file: Any, encoding: str | None, errors: str) -> tuple[int | None, Input | None]:
    """Return the argument for `subprocess`, and what is to be sent if that is a pipe."""
    if file is None:
        return None, None
    kind = _kind_of(file)
    if kind == subprocess.PIPE:
        return kind, Input(encoding, errors)
    if kind == subprocess.STDOUT:
        raise ValueError("subprocess.STDOUT is for stderr")
    if not _is_object(file):
        return kind, None
    _check(file, "readable")
    fd = _descriptor(file)
    if fd is None and not hasattr(file, "read"):
        raise _no_stream(file)
    if fd is not None:
        refresh(file)  # the child continues where the next read would
        return fd, None
    waits = _may_wait(file)
    read = file.without_waiting().read if waits else file.read
    return subprocess.PIPE, Input(encoding or "utf-8", errors, read, read_again=waits)


def redirect_output(
    name: str, file: Any, form: OutputFormat, encoding: str | None, errors: str
) -> tuple[int | None, Output | None, Callable[[Any], object] | None]:
    """Return the argument for `subprocess`; what is to be read if that is a pipe; and what to call with it, or None."""
    if file is None or file is False:
        return None, None, None
    if file is True:
        return subprocess.PIPE, Output(name, form), None
    if not isinstance(file, int):
        return _redirect_to_object(name, file, encoding, errors)
    kind = _kind_of(file)
    if kind == subprocess.STDOUT and name != "stderr":
        raise ValueError("subprocess.STDOUT is for stderr")
    return kind, Output(name, form) if kind == subprocess.PIPE else None, None


def _redirect_to_object(
    name: str, file: Any, encoding: str | None, errors: str
) -> tuple[int | None, Output | None, Callable[[Any], object] | None]:
    _check(file, "writable")
    fd = _descriptor(file)
    if fd is not None:
        flush(file)  # the child's output comes after what was written to the file
        if _is_able(file, "readable"):
            refresh(file)  # and where the next write would be
        return fd, None, None
    if not hasattr(file, "write"):
        raise _no_stream(file)
    offer = _may_wait(file)
    if offer:
        file = file.without_waiting()
    # The method itself where possible: an interrupt in a function of Python around it would lose the piece.
    sink = _all_of(file) if isinstance(file, io.RawIOBase) and not (offer or _is_memory(file)) else file.write
    text = OutputFormat(encoding or "utf-8", errors)
    if isinstance(file, io.RawIOBase | io.BufferedIOBase):
        return subprocess.PIPE, Output(name, OutputFormat(), offer=offer), sink
    if _takes_text(file):
        return subprocess.PIPE, Output(name, text), sink
    return subprocess.PIPE, Output(name, OutputFormat(), text), sink


def _may_wait(file: Any) -> bool:
    """Whether a call of the file may wait for another process, and it has a face of which no call waits."""
    return isinstance(file, io.RawIOBase) and hasattr(file, "without_waiting")


def _takes_text(file: Any) -> bool:
    """Whether an object is known to require text: by its type or attributes, or because `print` writes to it."""
    if isinstance(file, io.TextIOBase) or getattr(file, "encoding", None) is not None:
        return True
    if any(file is each for each in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)):
        return True
    annotations = dict(getattr(file.write, "__annotations__", None) or {})
    annotations.pop("return", None)
    return next(iter(annotations.values()), None) in {str, "str"}


def _is_object(file: Any) -> bool:
    return file is not None and not isinstance(file, int)


def _kind_of(file: Any) -> int | None:
    if file is None or file is False:
        return None
    if file is True:
        return subprocess.PIPE
    if isinstance(file, int) and file < subprocess.DEVNULL:
        raise ValueError(f"a descriptor must not be negative, as {file} is")
    return file if isinstance(file, int) else None


def _check(file: Any, ability: str) -> None:
    """Refuse an object that is closed, or not open for that."""
    if getattr(file, "closed", False):
        raise ValueError("I/O operation on closed file")
    if not _is_able(file, ability):
        raise io.UnsupportedOperation(f"{file!r} is not {ability}")
    if not hasattr(file, "read" if ability == "readable" else "write") and not hasattr(file, "fileno"):
        raise _no_stream(file)


def _no_stream(file: Any) -> TypeError:
    return TypeError(f"a stream is True, None, a descriptor or a file object, not {type(file).__name__!r}")


def _is_able(file: Any, ability: str) -> bool:
    able = getattr(file, ability, None)
    if able is None:
        return True
    kind: Any = type(file)  # pyright: ignore[reportUnknownVariableType]
    if getattr(kind, ability, None) is not getattr(io.IOBase, ability):
        return bool(able())
    # A class without such a method inherits the answer "no" (rich's stdout does): look at which methods it has.
    bases = io.RawIOBase, io.BufferedIOBase, io.TextIOBase
    methods = ("write",) if ability == "writable" else ("read", "readinto")
    return any(getattr(kind, method, None) not in [getattr(base, method, None) for base in bases] for method in methods)


def _descriptor(file: Any) -> int | None:
    """The descriptor that the child can inherit, if there is one."""
    if _is_memory(file):  # it may be narrowed, and the child must not extend it
        return None
    if isinstance(innermost(file), io.BufferedIOBase):  # gzip decompresses: its file has other bytes
        return None
    try:
        given = file.fileno()
    except (AttributeError, NotImplementedError, io.UnsupportedOperation):
        return None
    if given is None or given == _NO_DESCRIPTOR:
        return None
    return index(given)


def _is_memory(file: Any) -> bool:
    from ipcio._memfile import MemoryFile  # not above, for few callers need it

    return isinstance(file, MemoryFile)


def _all_of(file: io.RawIOBase) -> Callable[[bytes], object]:
    """Write everything, where one `write` may write less."""

    def write(data: bytes) -> None:
        left = memoryview(data)
        while left:
            count = file.write(left)
            if count is None:
                what = f"{file!r} can be written no more now, and cannot be waited for"
                raise BlockingIOError(errno.EAGAIN, what, len(data) - len(left))
            left = left[count:]

    return write
