"""Anything may lie under a name: a few rounds of what ``campaign.under_names`` does for hours, and what it found."""

from __future__ import annotations

import errno
import os
import random
import stat

import pytest
from abilities import semaphore_file
from children import Forked

from ipcio import sem, shm

pytestmark = pytest.mark.needs("files", "fork", "undo")

CALLS = {
    "shm.attach": (shm.attach, errno.ENODEV),
    "shm.create": (lambda name: shm.create(name, 10), errno.EEXIST),
    "shm.create or attach": (lambda name: shm.create(name, 10, exist_ok=True), errno.ENODEV),
}


@pytest.mark.parametrize("seed", range(12))
def test_whatever_file_is_under_a_name_no_call_comes_to_harm(name, tmp_path, seed):
    from campaign.input import guarded
    from campaign.under_names import attack_names

    guarded(attack_names, random.Random(seed), str(tmp_path), name)


def devices_can_be_opened() -> bool:
    """Not where /dev/shm is mounted with ``nodev``."""
    return hasattr(os, "statvfs") and not os.statvfs("/dev/shm").f_flag & os.ST_NODEV


@pytest.mark.root
@pytest.mark.able(probe=devices_can_be_opened)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_device_that_says_it_does_not_exist_is_an_error_and_not_an_endless_loop(name, call):
    path = f"/dev/shm/{name}"
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(5, 2))  # a ptmx outside of its file system
    try:
        with pytest.raises(OSError) as caught:
            call[0](name)
        assert caught.value.errno == call[1]
        assert caught.value.filename == name
        shm.unlink(name)
        assert not os.path.lexists(path)
    finally:
        if os.path.lexists(path):
            os.unlink(path)


def test_a_held_file_with_the_mark_that_is_no_semaphore_is_an_error_and_not_an_abort(name):
    """Glibc ends the process over a kind of futex that it does not know."""
    import fcntl

    path = semaphore_file(name)
    with open(path, "xb") as file:
        file.write(b"\xff" * 32)
        file.flush()
        os.chmod(path, 0o1600)
        fcntl.flock(file, fcntl.LOCK_SH)

        def attach():
            with pytest.raises(OSError) as caught:
                sem.attach(name)
            assert caught.value.errno == errno.EINVAL

            with pytest.raises(OSError):
                sem.create(name, 1, exist_ok=True)

        try:
            with Forked(attach) as child:
                child.result()
        finally:
            os.unlink(path)
