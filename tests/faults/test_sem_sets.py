"""The System V set of a crash-safe semaphore: permissions in its way, sets that are gone, records that lie."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from contextlib import closing

import pytest
from abilities import semaphore_file
from children import leave_orphan
from named_contract import NOBODY, SOMEBODY
from namespaces import SHM, can_part
from peers import PeerError
from semaphores import crash_safe, plain, there, works
from waiting import blocked

from ipcio import sem

pytest.importorskip("fcntl", reason="there are no System V semaphores here")

from ipcio._posix import libc, sysv, undo_record

pytestmark = pytest.mark.needs("files")


# -- permissions that are in the way -----------------------------------------------


@pytest.mark.parametrize("perm", [0, 0o200, 0o400, 0o066])
@pytest.mark.parametrize("persist", [False, True])
def test_an_owner_without_access_to_an_object_leaves_nothing(name, peer, perm, persist):
    """Whatever the permissions, a crash-safe one ends with its last handle or with `unlink`, set and all."""
    other = peer(user=None if os.geteuid() else NOBODY)
    other.run(f"s = sem.create({name!r}, 3, undo=True, persist={persist}, perm={perm})")
    with os.scandir(SHM) as entries:
        inodes = {entry.name: entry.inode() for entry in entries}
    hidden = [entry for entry, inode in inodes.items() if inode == inodes[f"sem.{name}"]]
    (key,) = (int(entry.rpartition("-")[2], 16) for entry in hidden if entry[0] == ".")
    assert libc.semget(key, 0, 0) >= 0
    if persist:
        other.run(f"sem.unlink({name!r})")
    other.run("s.close(); s = None")
    # As `Remains.collect` does, but over there.
    other.run(f"""
import types
from ipcio._inventory import remove_orphans
from ipcio._posix import inventory
there = [entry for entry in {hidden!r} if os.path.exists(f"/dev/shm/{{entry}}")]
inventory.os = types.SimpleNamespace(**{{**vars(os), "listdir": lambda _: there}})
list(remove_orphans())
""")
    number = libc.semget(key, 0, 0)
    if number >= 0:
        sysv.remove(number)
    rest = [entry for entry in hidden if os.path.exists(f"{SHM}/{entry}")]
    for entry in rest:
        os.unlink(f"{SHM}/{entry}")
    assert (number, rest) == (-1, [])


@pytest.mark.root
@pytest.mark.needs("users", "objects for others")
@pytest.mark.parametrize("undo", [False, True])
def test_a_stranger_may_not_unlink_a_persistent_one(left, peer, undo):
    """Nor change what it is; and the error has the name."""
    name = left.tag
    owner = peer(f"sem.create({name!r}, 3, undo={undo}, persist=True, perm=0o666).close()", user=NOBODY)
    stranger = peer(user=SOMEBODY)
    with pytest.raises(PeerError) as caught:
        stranger.run(f"sem.unlink({name!r})")
    assert caught.value.kind == "PermissionError"
    assert repr(name) in str(caught.value)
    stranger.run(f"s = sem.attach({name!r}); s.dec(); s.close()")
    assert owner.ask(f"sem.attach({name!r}).value") == (3 if undo else 2) - undo
    owner.run(f"sem.unlink({name!r})")


# -- the set goes, or is elsewhere -------------------------------------------------


def key_of(name):
    with open(semaphore_file(name), "rb") as file:
        return struct.unpack_from("=i", file.read(), 80)[0]


def is_gone(caught, name):
    return (caught.value.errno, caught.value.filename) == (errno.EIDRM, name)


@pytest.mark.parametrize("timeout", [None, 60])
def test_removal_of_the_set_ends_a_wait_with_an_error(left, timeout):
    """As `ipcrm` does.  No wait hangs, and the name is free once it is closed."""
    name = left.tag
    with closing(sem.create(name, 0, undo=True)) as s:

        def wait():
            try:
                return s.dec(timeout)
            except OSError as error:
                return error.errno, error.filename

        with blocked(wait) as waiting:
            sysv.remove(libc.semget(key_of(name), 0, 0))
            assert waiting.result() == (errno.EIDRM, name)
        for call in (s.dec, lambda: s.dec(0), lambda: s.dec(1), s.inc, lambda: s.inc(2), lambda: s.value):
            with pytest.raises(OSError) as caught:
                call()
            assert is_gone(caught, name)
        with pytest.raises(OSError) as caught, s:
            pass
        assert is_gone(caught, name)
        with pytest.raises(OSError) as caught:
            sem.attach(name)
        assert is_gone(caught, name)
        with pytest.raises(FileExistsError):
            crash_safe(name)
    assert left.all() == ([], [])
    with closing(crash_safe(name)) as again:
        assert works(again)


def test_a_permit_that_was_held_while_the_set_was_removed_is_no_trouble_later(left):
    """Neither for the handle that held it nor for a later semaphore."""
    name = left.tag
    with closing(crash_safe(name)) as s:
        with pytest.raises(OSError) as caught, s:
            sysv.remove(libc.semget(key_of(name), 0, 0))
        assert is_gone(caught, name)
    with closing(crash_safe(name)) as again:
        assert works(again)
        again.inc()
        assert again.value == 4


def test_a_set_of_another_program_under_the_same_key_is_left_alone(left):
    """After `ipcrm`, any process may make one of that key."""
    name = left.tag
    with closing(crash_safe(name)) as s:
        key = key_of(name)
        sysv.remove(libc.semget(key, 0, 0))
        number = sysv.make(key, 0o600)
        sysv.set_value(number, 7)
        try:
            with pytest.raises(OSError) as caught:
                s.dec(0)
            assert is_gone(caught, name)
            with pytest.raises(OSError) as caught:
                sem.attach(name)
            assert is_gone(caught, name)
            s.close()
            assert libc.semctl(number, 0, libc.GETVAL) == 7
        finally:
            sysv.remove(number)
    assert left.all() == ([], [])


@pytest.mark.able(probe=can_part)
def test_a_crash_safe_one_is_not_found_from_another_ipc_namespace_and_not_harmed(left, peer):
    """Its name is there, its set is not."""
    name = left.tag
    other = peer("from namespaces import *", "go_apart('')")
    with closing(crash_safe(name)) as s:
        with pytest.raises(PeerError) as caught:
            other.run(f"sem.attach({name!r})")
        assert caught.value.errno == errno.EIDRM
        assert "namespace" in str(caught.value)
        assert repr(name) in str(caught.value)
        with pytest.raises(PeerError) as caught:
            other.run(f"sem.create({name!r}, 1, undo=True)")
        assert caught.value.kind == "FileExistsError"
        assert works(s)
        other.run(f"sem.unlink({name!r})")
        assert works(s)
    assert left.all() == ([], [])


@pytest.mark.xfail(strict=True, reason="a record does not say in which IPC namespace its set is")
@pytest.mark.able(probe=can_part)
def test_orphans_of_another_ipc_namespace_leave_no_set_behind(left, peer):
    """A process that cannot see the set does not remove the record that names it."""
    name = left.tag
    other = peer("from namespaces import *", "go_apart('')")
    leave_orphan(lambda: crash_safe(name))
    with contextlib.suppress(PeerError):
        other.run(f"sem.attach({name!r})")
    left.collect()
    assert left.all() == ([], [])


# -- records that lie --------------------------------------------------------------


@pytest.fixture
def victim():
    """A System V set of ours that has nothing to do with ipcio: its key and its id."""
    key = int.from_bytes(os.urandom(3), "little") + 1
    number = sysv.make(key, 0o666)
    sysv.set_value(number, 7)
    yield key, number
    value = libc.semctl(number, 0, libc.GETVAL)
    sysv.remove(number)
    assert value == 7, "another process operated on it or removed it"


def lie(name, key, number, told=None):
    """Code that makes an orphaned record of `name` which claims a set: with a hidden name, and sealed."""
    told = os.fsencode(name if told is None else told)
    record = struct.pack("=64s16sii256s", libc.new_semaphore(32, 0), undo_record._MAGIC, key, 0, told)
    anchor = f"{SHM}/.ipcio-undo-{key & 0xFFFFFFFF:08x}"
    return (
        f"fd = os.open({semaphore_file(name)!r}, os.O_CREAT | os.O_EXCL | os.O_WRONLY); os.write(fd, {record!r})\n"
        f"os.utime(fd, ns=(0, {undo_record._SEAL + 1 + number}))\n"
        f"os.fchmod(fd, 0o1644); os.close(fd); os.link({semaphore_file(name)!r}, {anchor!r})"
    )


CALLS = {
    "gc": lambda left: left.collect(),
    "create": lambda left: plain(left.tag).close(),
    "create undo": lambda left: crash_safe(left.tag).close(),
    "create or attach": lambda left: crash_safe(left.tag, exist_ok=True).close(),
    "attach": lambda left: sem.attach(left.tag),
    "unlink": lambda left: sem.unlink(left.tag),
}


@pytest.mark.root
@pytest.mark.needs("users", "objects for others")
@pytest.mark.parametrize("knows", ["the number", "the key", "an own key"])
def test_another_users_record_cannot_have_our_sets_removed(left, victim, peer, knows):
    """Orphaned, right about the set or not: the claim is that user's own, and the set is not."""
    key, number = victim
    liar = peer(user=NOBODY)
    own = key + (1 << 24) if knows == "an own key" else key
    for call, act in CALLS.items():
        liar.run(lie(left.tag, own, -1 if knows == "the key" else number))
        if call in {"attach", "unlink"}:
            with pytest.raises(FileNotFoundError):
                act(left)
        else:
            act(left)
        left.collect()
        assert left.entries() == []


@pytest.mark.root
@pytest.mark.needs("users", "objects for others")
@pytest.mark.parametrize("knows", ["the number", "the key", "an own key"])
def test_another_users_record_in_use_cannot_have_us_operate_on_our_sets(left, victim, peer, knows):
    key, number = victim
    liar = peer("import fcntl", user=NOBODY)
    own = key + (1 << 24) if knows == "an own key" else key
    liar.run(lie(left.tag, own, -1 if knows == "the key" else number))
    liar.run(f"fd = os.open({semaphore_file(left.tag)!r}, os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_SH)")
    with pytest.raises(OSError) as caught:
        sem.attach(left.tag)
    assert is_gone(caught, left.tag)
    with pytest.raises(FileExistsError):
        crash_safe(left.tag)
    sem.unlink(left.tag)
    liar.run("os.close(fd)")
    left.collect()
    assert left.entries() == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("told", ["a\0b", "../x", "\n", "", "x" * 256, "\udcff"], ids=repr)
def test_a_record_with_an_odd_name_is_an_ordinary_orphan(left, call, told):
    """No call fails because of it, and nothing is removed in its name but itself."""
    key = int.from_bytes(os.urandom(3), "little") + 1
    exec(lie(left.tag, key, -1, told), {"os": os})
    anchor = f"{SHM}/.ipcio-undo-{key:08x}"
    try:
        error = None
        try:
            CALLS[call](left)
        except OSError as caught:
            error = caught
        if error:
            assert call in {"attach", "unlink"}
            assert (error.errno in {errno.ENOENT, errno.EINVAL}, error.filename) == (True, left.tag)
        left.collect()
        assert not there(left.tag)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(anchor)


@pytest.mark.parametrize("key", [0, -1, -(2**31)])
def test_a_record_with_a_key_that_no_set_can_have_is_no_record(left, key):
    exec(lie(left.tag, key, -1), {"os": os})
    anchor = f"{SHM}/.ipcio-undo-{key & 0xFFFFFFFF:08x}"
    try:
        with pytest.raises(OSError):
            sem.attach(left.tag)
        left.collect()
        assert left.all() == ([], [])
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(anchor)
