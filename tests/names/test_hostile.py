"""Other users of the machine: what they put under names in ``/dev/shm``, and what they do to what they may use."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from contextlib import closing

import pytest
from children import leave_orphan
from named_contract import NOBODY, SOMEBODY
from namespaces import can_go_apart
from peers import PeerError

from ipcio import sem, shm
from ipcio._inventory import list_objects, remove_each_orphan, remove_orphans

pytest.importorskip("fcntl", reason="named objects are not files here")

import fcntl

from ipcio._posix import inventory, lifetime, namespace, procfs, sysv, undo_record

pytestmark = pytest.mark.needs("files")

SHM = "/dev/shm"


def found(name: str) -> list:
    return [entry for entry in list_objects() if name in entry.name]


def states(name: str) -> list[str]:
    return [entry.state for entry in found(name)]


@contextlib.contextmanager
def another_set():
    """A System V set of ours that no name stands for: its key."""
    key = int.from_bytes(os.urandom(3), "little") + 1
    number = sysv.make(key, 0o600)
    try:
        yield key, number
        assert sysv.find(key, os.geteuid()) == number
    finally:
        sysv.remove(number)


def planted(path: str, key: int, told: str, seal: int = undo_record._SEAL) -> str:
    """Code that puts an orphaned record of its own user there, with all that makes one."""
    content = undo_record._RECORD.pack(bytes(64), undo_record._MAGIC, key, 0, os.fsencode(told))
    return (
        f"fd = os.open({path!r}, os.O_CREAT | os.O_RDWR); os.ftruncate(fd, 0); os.write(fd, {content!r})\n"
        f"os.utime(fd, ns=({seal}, {seal})); os.fchmod(fd, 0o1644); os.close(fd)\n"
        f"os.link({path!r}, '{SHM}/{undo_record.ANCHOR}{key:08x}')"
    )


ACTS = {
    "gc": lambda _: list(remove_orphans()),
    "create": lambda name: sem.create(name, 1).close(),
    "attach": sem.attach,
    "unlink": sem.unlink,
}


@pytest.mark.gc
@pytest.mark.root
@pytest.mark.needs("users", "objects for others", "undo")
@pytest.mark.parametrize("act", ACTS)
def test_a_name_in_a_record_leads_nowhere_but_into_the_directory(unique, peer, act):
    """Another user says it; root, who meets the record, removes the record and nothing else."""
    name, inner = unique(), unique()
    key = int.from_bytes(os.urandom(3), "little") + 1
    path = f"{SHM}/sem.{name}"
    other = peer(planted(path, key, f"{inner}/victim"), user=NOBODY)
    other.run(f"os.mkdir('{SHM}/sem.{inner}'); os.link({path!r}, '{SHM}/sem.{inner}/victim')")
    with contextlib.suppress(OSError):
        ACTS[act](name)
    list(remove_orphans())
    assert os.listdir(f"{SHM}/sem.{inner}") == ["victim"]
    assert not os.path.lexists(path)
    os.unlink(f"{SHM}/sem.{inner}/victim")
    os.rmdir(f"{SHM}/sem.{inner}")


@pytest.mark.gc
@pytest.mark.root
@pytest.mark.needs("users", "objects for others", "undo")
@pytest.mark.parametrize("later", [None, 0o1644])
def test_a_user_with_permission_to_write_to_a_segment_cannot_have_its_owner_remove_a_set(name, peer, later):
    """The segment then looks like a record, in all that its writer can do, also if it is closed to others later."""
    path = f"{SHM}/{name}"
    with another_set() as (key, _):
        h = shm.create(name, undo_record.SIZE, perm=0o666)
        content = undo_record._RECORD.pack(bytes(64), undo_record._MAGIC, key, 0, os.fsencode(name))
        anchor = f"{SHM}/{undo_record.ANCHOR}{key:08x}"
        other = peer(f"h = shm.attach({name!r}); h.getbuffer()[:] = {content!r}; h.close()", user=SOMEBODY)
        other.run(f"os.link({path!r}, {anchor!r})")
        with pytest.raises(PeerError):  # the owner's to say
            other.run(f"os.utime({path!r}, ns=(1, {undo_record._SEAL}))")
        if later is not None:
            os.chmod(path, later)
        h.close()
        assert not os.path.lexists(path)
        list(remove_orphans())
        assert not os.path.lexists(anchor)


@pytest.mark.needs("undo")
def test_a_set_of_several_semaphores_is_no_crash_safe_one(name):
    """Whatever a record of its owner's says."""
    from ipcio._posix import libc

    key = int.from_bytes(os.urandom(3), "little") + 1
    number = libc.semget(key, 2, libc.IPC_CREAT | libc.IPC_EXCL | 0o600)
    try:
        exec(planted(f"{SHM}/sem.{name}", key, name), {"os": os})
        with closing(sem.create(name, 1)):
            assert libc.semctl(number, 1, libc.GETVAL) == 0
    finally:
        assert not libc.semctl(number, 0, libc.IPC_RMID)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{SHM}/{undo_record.ANCHOR}{key:08x}")


@pytest.mark.root
@pytest.mark.needs("users", "objects for others", "undo")
def test_who_may_use_a_crash_safe_semaphore_cannot_write_its_record(name, peer):
    with closing(sem.create(name, 2, undo=True, perm=0o666)) as s:
        other = peer(f"s = sem.attach({name!r}); taken = s.dec()", user=NOBODY)
        assert (s.value, other.ask("s.value")) == (1, 1)
        anchors = (f"{SHM}/{entry}" for entry in os.listdir(SHM) if undo_record.ANCHOR in entry)
        for path in (f"{SHM}/sem.{name}", *anchors):
            for call in (f"os.open({path!r}, os.O_RDWR)", f"os.truncate({path!r}, 0)", f"os.utime({path!r})"):
                with pytest.raises(PeerError) as caught:
                    other.run(call)
                assert caught.value.kind == "PermissionError"
        assert [(entry.perm, entry.value) for entry in found(name)] == [("0666", 1)]
        other.kill()
        assert s.value == 2
    other = peer(user=NOBODY)
    with closing(sem.create(name, 2, undo=True, perm=0o644)), pytest.raises(PeerError) as caught:
        other.run(f"s = sem.attach({name!r})")
    assert caught.value.kind == "PermissionError"


@pytest.mark.needs("undo")
def test_a_record_under_another_name_is_no_semaphore(unique):
    """It may be a link that another user made."""
    name, other = unique(), unique()
    with closing(sem.create(name, 2, undo=True)):
        os.link(f"{SHM}/sem.{name}", f"{SHM}/sem.{other}")
        try:
            assert [(entry.kind, entry.undo) for entry in found(other)] == [("shm", False)]
            assert [(entry.kind, entry.undo) for entry in found(name)] == [("sem", True)]
            with pytest.raises(OSError) as caught:
                sem.attach(other)
            assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, other)
        finally:
            os.unlink(f"{SHM}/sem.{other}")


# -- lists and collections ------------------------------------------------------


@pytest.mark.usefixtures("turn")  # it expects its orphans to be there
@pytest.mark.parametrize("number", [errno.ELOOP, errno.ENOTDIR, errno.EACCES, errno.EAGAIN, errno.ENXIO, errno.EIO])
def test_what_is_exchanged_while_it_is_looked_at_ends_no_list_and_no_collection(unique, monkeypatch, number):
    """By its owner, for a link, a socket, a file with a lease; what else there is, is seen and removed."""
    bad, good = sorted([unique(), unique()])
    orphans = [f"{SHM}/{bad}", f"{SHM}/sem.{bad}", f"{SHM}/{good}"]
    for path in orphans:
        with open(path, "xb") as file:
            file.write(bytes(10))
            os.utime(file.fileno(), ns=(0, undo_record._SEAL))
        os.chmod(path, 0o1600)
    os.truncate(orphans[1], undo_record.SIZE)
    os.utime(orphans[1], ns=(0, undo_record._SEAL))
    real = os.open

    def refuse(path, *arguments, **options):
        if isinstance(path, str) and bad in path:
            raise OSError(number, os.strerror(number), path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(inventory.os, "listdir", lambda _: [os.path.basename(path) for path in orphans])
    monkeypatch.setattr(os, "open", refuse)
    skipped = []
    try:
        assert good in [entry.name for entry in list_objects()]
        assert [each[:3] for each in remove_each_orphan(lambda *what: skipped.append(what))] == [("shm", good, 10)]
    finally:
        monkeypatch.undo()
        for path in orphans[:2]:
            os.unlink(path)
    if number not in {errno.ELOOP, errno.ENXIO, errno.EACCES}:
        assert skipped == [(bad, os.strerror(number)), (f"sem.{bad}", os.strerror(number))]


@pytest.mark.usefixtures("turn")  # as above
def test_gc_does_not_wait_for_an_object_that_another_process_keeps_locked(unique, monkeypatch, capfd):
    """It says which ones it left, and removes the others."""
    from ipcio import _cli

    names = sorted(unique() for _ in range(20))
    descriptors = []
    for name in names:
        descriptors.append(os.open(f"{SHM}/{name}", os.O_CREAT | os.O_RDWR, 0o600))
        os.write(descriptors[-1], b"12345")
        os.fchmod(descriptors[-1], 0o1600)
    for fd in descriptors[:-1]:
        fcntl.flock(fd, fcntl.LOCK_EX)

    def fail(_):
        raise AssertionError("it waits")

    with monkeypatch.context() as patch:
        patch.setattr(inventory.os, "listdir", lambda _: names)
        patch.setattr(lifetime.time, "sleep", fail)
        assert _cli.main(["gc"]) == 0
    output, errors = capfd.readouterr()
    assert output == f"shm {names[-1]} 5 bytes\n"
    assert [line.split()[2] for line in errors.splitlines()] == [f"{name}:" for name in names[:-1]]
    assert all("exclusive lock" in line for line in errors.splitlines())
    for name, fd in zip(names, descriptors, strict=True):
        os.close(fd)
        shm.create(name, 1).close()


@pytest.mark.usefixtures("turn")  # as above
def test_gc_says_nothing_of_a_lock_that_passes(name, monkeypatch):
    """A process that removes an orphan has an exclusive lock on it for a moment."""
    leave_orphan(lambda: shm.create(name, 5))
    refusals = [False, False]
    lock = lifetime.try_lock
    key = procfs.file_key(os.stat(f"{SHM}/{name}"))
    monkeypatch.setattr(inventory.os, "listdir", lambda _: [name])
    monkeypatch.setattr(lifetime, "try_lock", lambda fd, kind: refusals.pop() if refusals else lock(fd, kind))
    monkeypatch.setattr(procfs, "flocks", lambda: {key: True})
    skipped = []
    assert [each.name for each in remove_each_orphan(lambda *what: skipped.append(what))] == [name]
    assert (skipped, refusals) == ([], [])


@pytest.mark.usefixtures("turn")
def test_gc_names_a_locked_object_that_the_first_look_at_the_list_of_locks_misses(name, monkeypatch):
    """The kernel gives that list in pieces."""
    leave_orphan(lambda: shm.create(name, 5))
    looks = [{procfs.file_key(os.stat(f"{SHM}/{name}")): True}, {}]
    monkeypatch.setattr(inventory.os, "listdir", lambda _: [name])
    monkeypatch.setattr(procfs, "flocks", lambda: looks.pop() if looks else {})
    skipped = []
    with open(f"{SHM}/{name}", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert list(remove_each_orphan(lambda *what: skipped.append(what))) == []
    assert [entry for entry, _ in skipped] == [name]
    monkeypatch.undo()
    shm.create(name, 1).close()


@pytest.mark.root
@pytest.mark.needs("users", "objects for others")
def test_gc_names_what_only_others_may_remove(unique, peer):
    """Nothing that is in use, and nothing that persists."""
    orphan, kept, live = unique(), unique(), unique()
    peer(f"h = shm.create({orphan!r}, 1), sem.create({orphan!r}, 1, undo=True)", user=NOBODY).kill()
    owner = peer(f"shm.create({kept!r}, 1, persist=True); h = shm.create({live!r}, 1)", user=NOBODY)
    owner.run(f"sem.create({kept!r}, 1, persist=True, undo=True).close(); s = sem.create({live!r}, 1, undo=True)")
    other = peer("from ipcio._inventory import remove_each_orphan", user=SOMEBODY)
    for dry_run in True, False:
        other.run("skipped = []")
        other.run(f"list(remove_each_orphan(lambda *what: skipped.append(what), dry_run={dry_run}))")
        told = [name for name, _ in other.ask("skipped") if orphan in name or kept in name or live in name]
        assert sorted(told) == [orphan, f"sem.{orphan}"]
    owner.run(f"shm.unlink({kept!r}); sem.unlink({kept!r})")
    owner.stop()
    shm.create(orphan, 1).close()
    sem.create(orphan, 1).close()


# -- marks ----------------------------------------------------------------------


def keeps_flags() -> bool:
    """Whether the kernel keeps flags of files in memory, as Linux does since 6.0."""
    fd = os.open(SHM, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        fcntl.ioctl(fd, namespace._SET_FLAGS, struct.pack("=Q", namespace._NO_DUMP))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


@pytest.mark.gc
@pytest.mark.root
@pytest.mark.needs("users", "objects for others")
@pytest.mark.able(probe=keeps_flags)
def test_a_persistent_object_stays_one_when_another_user_writes_to_it(name, peer):
    """Or changes its permissions."""
    shm.create(name, 10, perm=0o666, persist=True).close()
    sem.create(name, 3, perm=0o666, persist=True).close()
    try:
        other = peer(user=NOBODY)
        other.run(f"with open('{SHM}/{name}', 'r+b') as file: file.write(b'x')")
        other.run(f"with open('{SHM}/sem.{name}', 'r+b') as file: file.write(file.read())")
        assert not os.stat(f"{SHM}/{name}").st_mode & stat.S_ISGID
        assert states(name) == ["persistent"] * 2
        os.chmod(f"{SHM}/{name}", 0o640)
        assert states(name) == ["persistent"] * 2
        list(remove_orphans())
        assert shm.attach(name).read(1) == b"x"
    finally:
        shm.unlink(name)
        sem.unlink(name)


@pytest.mark.root
@pytest.mark.needs("users", "objects for others", "undo")
@pytest.mark.able(probe=can_go_apart)
def test_the_group_of_the_directory_may_use_what_is_given_to_the_group(apart):
    """A crash-safe semaphore as well as memory, also if its maker is not in the group."""
    other = apart(shm="size=1m,mode=3777,gid=4242")
    other.run(f"""
def as_user(user, groups, function):
    def child():
        os.setgroups(groups)
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        return function()
    return Forked(child).result()

def make():
    sem.create("x", 2, undo=True, perm=0o660, persist=True)
    shm.create("x", 2, perm=0o660, persist=True)

def use():
    shm.attach("x").write(b"!")
    return sem.attach("x").dec(0)

def try_to_use():
    try:
        sem.attach("x")
    except PermissionError:
        return "refused"

as_user({NOBODY}, [], make)
""")
    assert other.ask(f"as_user({SOMEBODY}, [4242], use)") is True
    assert other.ask(f"as_user({SOMEBODY}, [], try_to_use)") == "refused"
    other.run("sem.unlink('x'); shm.unlink('x')")
    assert other.ask("entries(), sets()") == ([], 0)


def test_a_segment_that_is_cut_while_it_is_attached_is_an_error(name, monkeypatch):
    from ipcio._posix import store_files as back_end

    real = back_end.map_descriptor

    def cut_and_map(fd, size, **options):
        os.truncate(f"{SHM}/{name}", 1)
        return real(fd, size, **options)

    with shm.create(name, 5000):
        monkeypatch.setattr(back_end, "map_descriptor", cut_and_map)
        with pytest.raises(OSError) as caught:
            shm.attach(name)
        assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, name)


@pytest.mark.root
@pytest.mark.needs("users", "objects for others", "undo")
@pytest.mark.able(probe=can_go_apart)
def test_a_directory_that_gives_files_its_group_loses_no_mark_and_leaves_no_set(apart):
    """As Kubernetes makes it with ``fsGroup``, for a user who is not in the group."""
    other = apart(shm="size=1m,mode=3777,gid=4242")
    other.run(
        f"os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY})"
    )
    other.run("from ipcio._inventory import list_objects, remove_orphans; from ipcio._posix import lifetime, objects")
    other.run("look = lambda: [(e.kind, e.name, e.state) for e in list_objects()]")
    other.run("shm.create('kept', 5, persist=True, perm=0o666).close()")
    other.run("sem.create('kept', 5, persist=True, undo=True, perm=0o666).close(); h = shm.create('live', 1)")
    kept = "persistent" if keeps_flags() else "foreign"
    assert other.ask("look()") == [("shm", "kept", kept), ("shm", "live", "live"), ("sem", "kept", "persistent")]
    assert other.ask("list(remove_orphans()), sets()") == ([], 1)
    other.run("s = sem.attach('kept'); sem.unlink('kept'); assert s.dec(0); s.close(); h.close()")
    assert other.ask("look(), sets()") == ([("shm", "kept", kept)], 0)
    # What is left of a writer that is killed while it replaces a segment.
    other.run(
        "with objects.NewObject('x', '/dev/shm/.ipcio-' + 16 * '0') as new: new.create_unnamed(0o600); new.publish()"
    )
    other.run("new.mark_persistent(0o600); new.share.unlock_and_disown()")
    assert other.ask("[each.kind for each in remove_orphans()]") == ["shm"]
    other.run("shm.unlink('kept')")
    assert other.ask("entries()") == []
