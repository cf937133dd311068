"""What a start passes to the kernel, and what its errors mean: users, groups, programs, variables."""

from __future__ import annotations

import errno
import os
import subprocess
from grp import getgrnam
from pwd import getpwnam

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


def numbers_of(posix: Mapping[str, Any]) -> dict[str, Any]:
    """Find users and groups by their names.  `subprocess` does this with a file open, which Python 3.10 leaves open."""
    numbers = dict(posix)
    if "user" in posix:
        numbers["user"] = _number("user", posix["user"], lambda name: getpwnam(name).pw_uid)
    if "group" in posix:
        numbers["group"] = _group(posix["group"])
    if "extra_groups" in posix:
        numbers["extra_groups"] = list(map(_group, posix["extra_groups"]))
    return numbers


def _group(group: str | int) -> int:
    return _number("group", group, lambda name: getgrnam(name).gr_gid)


def _number(kind: str, given: str | int, find: Callable[[str], int]) -> int:
    if isinstance(given, str):
        return find(given)
    if not isinstance(given, int):
        raise TypeError(f"a {kind} must be a name or a number, not {given!r}")
    if given < 0:
        raise ValueError(f"the number of a {kind} must not be negative, but it is {given}")
    return given


def explain(error: OSError, command: str | Sequence[Any], posix: Mapping[str, Any]) -> None:
    """Say what was wrong if the child could not change itself, which it reports in the same way as a wrong `cwd`.

    `chdir` and `fork` fail with other numbers than these.
    """
    changes = ", ".join(f"{name}={posix[name]!r}" for name in ("user", "group", "extra_groups") if name in posix)
    if error.errno in {errno.EPERM, errno.EINVAL} and changes:
        error.strerror = f"the system refuses {changes}: this requires root (CAP_SETUID and CAP_SETGID on Linux)"
    elif error.errno in {errno.EPERM, errno.EINVAL, errno.ESRCH} and "process_group" in posix:
        error.strerror = (
            f"process_group={posix['process_group']!r} is not a process group of this session: pass 0 for a new one"
        )
    else:
        return
    error.filename = command if isinstance(command, str) else command[0]


def candidates_for(program: bytes, env: Mapping[Any, Any] | None) -> tuple[bytes, ...]:
    """The paths that are tried in turn for a program."""
    if b"/" in program:
        return (program,)
    return tuple(os.path.join(os.fsencode(directory), program) for directory in os.get_exec_path(env))


def variables_in(env: Mapping[Any, Any]) -> list[bytes]:
    """The environment, as the kernel requires it.  Raises `ValueError` for a name with an equals sign."""
    pairs = [(os.fsencode(name), os.fsencode(value)) for name, value in env.items()]
    for name, _ in pairs:
        if b"=" in name:
            raise ValueError(f"the name of an environment variable must not contain '=', as {name!r} does")
    return [name + b"=" + value for name, value in pairs]


def start_error(report: bytes, program: Any, cwd: Any) -> Exception:
    """The error that a child has reported by ``type:number:step``, with the number in hexadecimal digits."""
    try:
        _, number, step = report.split(b":", 2)
        code = int(number, 16)
    except ValueError:
        return subprocess.SubprocessError(f"the child has ended before exec, and reported {report!r}")
    return OSError(code, os.strerror(code), cwd if step.startswith(b"noexec") else program)
