"""One rule for the names of shared objects."""

from __future__ import annotations

import os

__all__ = ["check_name", "invent_name"]


def check_name(name: str) -> str:
    """Return `name` if it can name a shared object on every platform.

    A name is one component, without the leading slash that POSIX adds: ``"x"``
    is ``shm_open("/x")``.  Raises `TypeError` for anything but a `str` and
    `ValueError` for a malformed one.  Whether it is too long is for the
    platform to say (``OSError(ENAMETOOLONG)``).
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


def invent_name() -> str:
    """Return a name that nobody uses: 64 random bits, short enough for macOS (30 characters)."""
    return f"ipcio-{os.urandom(8).hex()}"
