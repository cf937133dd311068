"""Namespaces of a process's own: a small ``/dev/shm``, System V semaphores, limits on them.

The process is a peer or a forked child; nothing that it mounts or limits concerns any other process.
"""

from __future__ import annotations

import ctypes
import functools
import os

NEWNS, NEWIPC, NEWUSER, NEWPID = 0x00020000, 0x08000000, 0x10000000, 0x20000000
READ_ONLY, REMOUNT, PRIVATE = 0x1, 0x20, 0x40000 | 0x4000  # MS_RDONLY, MS_REMOUNT, MS_PRIVATE | MS_REC
SHM = "/dev/shm"


@functools.cache
def _libc():
    return ctypes.CDLL(None, use_errno=True)


def c_call(function, *arguments):
    """Call a function of the C library; a failure is an `OSError`."""
    if getattr(_libc(), function)(*arguments):
        raise OSError(ctypes.get_errno(), f"{function}{arguments}: {os.strerror(ctypes.get_errno())}")


def mount(target, options="", flags=0):
    """Mount a tmpfs."""
    c_call("mount", b"tmpfs", target.encode(), b"tmpfs", flags, options.encode() or None)


def keep_mounts_private():
    """What this process mounts or unmounts from now on is seen in its own namespace alone."""
    c_call("mount", None, b"/", None, PRIVATE, None)


def go_apart(options="size=1m,mode=1777", limit=""):
    """Take namespaces of our own, with a ``/dev/shm`` unless `options` is empty; `limit` is for kernel.sem."""
    user, group = os.geteuid(), os.getegid()
    c_call("unshare", NEWIPC | (NEWNS if options else 0) | (NEWUSER if user else 0))
    if user:
        for file, line in [("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")]:
            with open(f"/proc/self/{file}", "w") as out:
                out.write(line)
    if options:
        keep_mounts_private()
        mount(SHM, options)
    if limit:
        with open("/proc/sys/kernel/sem", "w") as out:
            out.write(limit)


def _can(*arguments):
    from abilities import lacks  # not above: peers import this module
    from children import Forked

    if lacks("fork") or lacks("files") or lacks("proc"):
        return False
    return Forked(_succeeds, *arguments).result()


def _succeeds(*arguments):
    try:
        go_apart(*arguments)
    except OSError:
        return False
    return True


@functools.cache
def can_go_apart():
    """Whether a process may have mounts and an IPC namespace of its own: many containers forbid it."""
    return _can()


@functools.cache
def can_limit():
    """Whether it may also limit the System V semaphores in it."""
    return _can("size=1m", "32000 1024000000 500 1")


@functools.cache
def can_part():
    """Whether it may at least have an IPC namespace of its own."""
    return _can("")


# -- what a peer finds there ---------------------------------------------------------


def entries():
    return sorted(os.listdir(SHM))


def free():
    return os.statvfs(SHM).f_bavail * os.statvfs(SHM).f_frsize


def sets():
    """How many System V sets there are."""
    with open("/proc/sysvipc/sem") as table:
        return len(table.readlines()) - 1


def refused(call):
    """What the call's error reports."""
    try:
        call()
    except OSError as error:
        return error.errno, error.filename, error.strerror
