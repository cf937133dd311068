"""Rules of all named objects: what a name, permissions and an owner may be; and create-or-attach without a race."""

from __future__ import annotations

import errno
import os
from _operator import index  # see `ipcio._light`

from ipcio._timeouts import check_timeout, poll
from ipcio._typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    T = TypeVar("T")


def check_name(name: str) -> str:
    """Return `name` if it can name a shared object on every platform.

    A name is one component, without the leading slash that POSIX adds: ``"x"``
    is ``shm_open("/x")``.  Raises `TypeError` for anything but a `str` and
    `ValueError` for a malformed one.  The back end checks the length, because each
    platform has its own limit (``OSError(ENAMETOOLONG)``).
    """
    if not isinstance(name, str):
        raise TypeError(f"a name must be a str, not {type(name).__name__!r}")
    if not name:
        raise ValueError("a name must not be empty")
    if name in {".", ".."}:
        raise ValueError(f"{name!r} cannot be a name: it means a directory")
    if "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"name {name!r} must not contain '/', a backslash or NUL; use a plain word such as 'prices'")
    return name


_REASONS = {
    errno.ENOENT: "no {kind} {name!r}: it was never created, or its last handle was closed (persist=True keeps it)",
    errno.EEXIST: "{kind} {name!r} exists already: attach to it, or pass exist_ok=True",
    errno.EACCES: "{kind} {name!r} may not be opened by this user: perm= of create() sets the permissions",
}


def explain(error: OSError, kind: str, name: str | None) -> None:
    """Have an error of the system say which object was wanted, and the usual reason.

    An error that a back end has explained already keeps its text.
    """
    if name is not None and error.errno in _REASONS and error.strerror == os.strerror(error.errno):
        error.strerror = _REASONS[error.errno].format(kind=kind, name=name)
        error.filename = name
        error.args = error.errno, error.strerror  # what `pickle` keeps


def check_perm(perm: int) -> int:
    """Return `perm` if it consists of permission bits; `ValueError` for any other bit."""
    perm = index(perm)
    if perm & ~0o777:
        raise ValueError(f"perm must be permission bits (0 to 0o777), not {perm:#o}")
    return perm


SEGMENTS = {"mutex": "ipcio.mutex.", "event": "ipcio.event.", "queue": "ipcio.queue."}
"""The kinds of object that are segments of their own, and what stands before the names of their segments."""

CALLED = {"mutex": "a mutex", "event": "an event", "queue": "a queue"}
"""What they are called in messages."""

_LARGEST_UID = 2**32 - 2  # the next is (uid_t)-1, which means no user


def check_owner(owner: int | None) -> int | None:
    """Return `owner` if it can be a user id; None means any user.

    Raises `NotImplementedError` on a system without user ids (Windows).
    """
    if owner is None:
        return None
    if isinstance(owner, bool):
        raise TypeError("owner must be a user id (an int) or None, not a bool")
    owner = index(owner)
    if not 0 <= owner <= _LARGEST_UID:
        raise ValueError(f"owner must be a user id (0 to {_LARGEST_UID}), not {owner}")
    if not hasattr(os, "geteuid"):
        raise NotImplementedError("this system has no user ids: owner= is for POSIX")
    return owner


def owner_of_new(owner: int | None) -> int | None:
    """Return the owner of a new object, which pickled copies of its handle require, if the caller requires an owner."""
    return None if owner is None else int(os.geteuid())  # type: ignore[attr-defined,unused-ignore]


class Named:
    """What a handle says of its name."""

    if not TYPE_CHECKING:  # for a type checker, attributes without slots are errors
        __slots__ = ()

    _name: str
    _created: bool

    @property
    def name(self) -> str:
        """The name by which the handle was opened; kept after `close`."""
        return self._name

    @property
    def created(self) -> bool:
        """Whether the call that returned this handle created the object (``exist_ok=True`` may attach instead)."""
        return self._created


def invent_name() -> str:
    """Return a name that no object has: 64 random bits, short enough for macOS (30 characters)."""
    return f"ipcio-{os.urandom(8).hex()}"


_LONGEST_PAUSE = 0.02  # seconds between two looks for a name


def attach_in_time(attach: Callable[[], T], timeout: float | None) -> T:
    """Return what `attach` returns; wait for the name, up to `timeout` seconds (None or negative: for ever)."""
    if timeout != 0 and (seconds := check_timeout(timeout)) != 0:
        found: list[T] = []
        if poll(lambda: found.append(attach()), (FileNotFoundError,), seconds, _LONGEST_PAUSE):
            return found.pop()
    return attach()


def create_or_attach(name: str | None, create: Callable[[str], T], attach: Callable[[str], T] | None) -> T:
    """Create an object, or attach to it if the name exists; without an `attach`, raise `FileExistsError` then.

    None as the name means an invented one.
    """
    while True:
        wanted = invent_name() if name is None else name
        try:
            return create(wanted)
        except FileExistsError:
            if name is None:
                continue
            if attach is None:
                raise
        try:
            return attach(wanted)
        except FileNotFoundError:  # it was removed in between, so it can be created
            continue


def remove_name(kind: str, name: str, unlink: Callable[[str], None], *, missing_ok: bool) -> None:
    """Check the name and `unlink` it; that it does not exist is an error unless `missing_ok`."""
    check_name(name)
    try:
        unlink(name)
    except OSError as error:
        if missing_ok and isinstance(error, FileNotFoundError):
            return
        explain(error, kind, name)
        raise
