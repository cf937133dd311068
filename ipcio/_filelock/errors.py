"""What to raise when a request for a lock has failed.

Arguments are checked here, after the failure: a malformed one makes some call fail.  So the
checks cost nothing as long as calls succeed.
"""

from __future__ import annotations

import errno
import io
import os
import struct

from ipcio._buffering import MEMORY, lent
from ipcio._filelock import KINDS
from ipcio._light import index
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

REFUSALS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    AttributeError,
    struct.error,
    NotImplementedError,
)
"""What the file, an argument or the system can raise."""

_LAST_BYTE = 2**63 - 1  # that a file can have


def is_foreign(error: BaseException) -> bool:
    """Whether an error came from a signal handler, and not from the file, the arguments or the system.

    A handler that raises, such as that of Ctrl-C, may run before anything shows that a call has
    returned (`ipcio._record`).  So the range may be locked, or may not be unlocked yet.
    """
    if isinstance(error, OSError):
        return error.errno is None
    return not isinstance(error, REFUSALS)


def explain(error: BaseException, file: Any, mode: str, offset: int, nbytes: int) -> BaseException:
    """Return what to raise after a call with these arguments has failed with `error`."""
    if mode not in KINDS:
        return ValueError(f"mode must be 'r' (shared), 'w' or 'rw' (exclusive), not {mode!r}")
    offset, nbytes = index(offset), index(nbytes)
    if offset < 0 or nbytes < 0:
        return ValueError("offset and nbytes must not be negative")
    if offset + (nbytes or 1) - 1 > _LAST_BYTE or nbytes > _LAST_BYTE:
        return ValueError(f"the range reaches beyond the last byte that a file can have, {_LAST_BYTE}")
    fd = descriptor(file)
    if not isinstance(error, OSError):
        return error
    if error.errno == errno.EBADF:
        try:
            os.fstat(fd)
        except OSError:  # there is no such descriptor at all
            pass
        else:
            what = "the file is not open for that: mode 'r' takes a file open for reading, 'w' and 'rw' one for writing"
            return io.UnsupportedOperation(errno.EBADF, what, _name(file, fd))
    if error.errno and error.filename is None:
        error.filename = _name(file, fd)
    return error


def descriptor(file: Any) -> int:
    """Return the descriptor of a file; raise `TypeError` for an object that is no file."""
    if type(file) is int:
        return file
    try:
        return file._lend() if type(file) in MEMORY else index(file.fileno())
    except io.UnsupportedOperation:
        return lent(file)
    except AttributeError:  # of the object, or of one that it wraps
        kind = type(file).__name__
        hint = "; pass a path to locked()" if isinstance(file, (str, bytes, os.PathLike)) else ""
        raise TypeError(f"a file must have a fileno() or be a descriptor; {kind!r} is neither{hint}") from None


def _name(file: Any, fd: int) -> Any:
    name = getattr(file, "name", None)
    return fd if name is None else name
