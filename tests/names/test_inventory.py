"""What a survey says of named objects, and that it changes nothing about them."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from contextlib import closing

import pytest
from abilities import lacks, semaphore_file
from children import Forked, leave_orphan
from named_contract import ordinary

import ipcio
from ipcio import event, mutex, queue, sem, shm
from ipcio._inventory import list_objects, remove_orphans

if sys.platform != "win32":
    from ipcio._posix import inventory, object_files

HERE = os.getpid()


def found(name: str) -> list:
    """What is known of the objects under a name."""
    return [entry for entry in list_objects() if entry.name == name]


def states(name: str) -> list[str]:
    return [entry.state for entry in found(name)]


def listed_of_a_killed_process(name: str, make) -> list:
    """What two surveys say of what a killed process left; again, if the `gc` of another test came between."""
    for _ in range(5):
        leave_orphan(make)
        told = [*found(name), *found(name)]
        if len(told) == 2:
            break
    return told


def pids(entry) -> list[int]:
    return [holder.pid for holder in entry.holders]


def write(name: str, content: bytes) -> None:
    with open(f"/dev/shm/{name}", "xb") as file:
        file.write(content)


@pytest.mark.needs("files")
def test_everything_that_is_known_of_shared_memory(name):
    started = time.time()
    with shm.create(name, 5000, perm=0o640):
        (entry,) = found(name)
    told = entry._asdict()
    age, holders, owner = told.pop("age"), told.pop("holders"), told.pop("owner")
    assert told == {
        "kind": "shm",
        "name": name,
        "size": 5000,
        "value": None,
        "undo": False,
        "perm": "0640",
        "state": "live",
    }
    assert 0 <= age <= time.time() - started + 1
    assert [holder.pid for holder in holders] == [HERE]
    assert holders[0].command
    import pwd

    try:
        assert owner == pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        assert owner == str(os.geteuid())
    assert found(name) == []


@pytest.mark.needs("files", "value")
@pytest.mark.parametrize("undo", [False, True])
@pytest.mark.parametrize("persist", [False, True])
def test_a_semaphore_and_its_value(name, undo, persist):
    with closing(sem.create(name, 7, undo=undo, persist=persist)) as s:
        s.dec()
        (entry,) = found(name)
        try:
            assert (entry.kind, entry.undo, entry.size) == ("sem", undo, None)
            assert (entry.value, entry.perm) == (6, "0600")
            assert entry.state == ("persistent" if persist else "live")
            assert pids(entry) == [HERE]
            assert s.value == 6
        finally:
            if persist:
                sem.unlink(name)
    assert found(name) == []


@pytest.mark.needs("files", "namespaces")
def test_both_kinds_may_have_a_name(name):
    with shm.create(name, 1), closing(sem.create(name)):
        assert [(entry.kind, entry.state) for entry in found(name)] == [("shm", "live"), ("sem", "live")]


@pytest.mark.needs("files", "fork", "proc")
@pytest.mark.parametrize("perm", [0o600, 0o666])
def test_a_mutex_and_the_process_of_its_owner(name, perm, peer):
    """Not of one that was killed, and not of one that only has a handle."""
    other = peer(f"from ipcio import mutex; m = mutex.create({name!r}, perm={perm})")
    with closing(mutex.attach(name)) as m:
        for _ in range(2):
            assert [(entry.kind, entry.size, entry.value) for entry in found(name)] == [("mutex", None, 0)]
            with m:
                assert found(name)[0].value == HERE
            other.run("m.acquire()")
            assert found(name)[0].value == other.pid
            other.run("m.release()")
        other.run("m.acquire()")
        other.kill()
        assert found(name)[0].value == 0


@pytest.mark.needs("files")
def test_a_queue_and_how_many_messages_it_has(name):
    with queue.create(name, 1000) as q:
        for number in range(3):
            assert [(entry.kind, entry.size, entry.value) for entry in found(name)] == [("queue", 1000, number)]
            q.put(b"12345")
        q.get()
        assert found(name)[0].value == 2


@pytest.mark.needs("files")
def test_a_truncated_object_is_listed_without_what_cannot_be_read(name):
    for module, arguments in (mutex, ()), (event, ()), (queue, (100,)):
        handle = module.create(name, *arguments, perm=0o666)
        kind = module.__name__.rpartition(".")[2]
        os.truncate(f"/dev/shm/ipcio.{kind}.{name}", 0)
        assert [(entry.kind, entry.value, entry.size or 0) for entry in found(name)] == [(kind, None, 0)]
        handle.close()


@pytest.mark.able(probe=lambda: not lacks("sections"))
def test_names_in_the_session(name):
    """No more than the kind: asking would take a handle, and that would keep the name."""
    with shm.create(name, 5000), closing(sem.create(f"{name}-größe", 3)):
        (memory,), (semaphore,) = found(name), found(f"{name}-größe")
        assert (memory.kind, memory.state, memory.size) == ("shm", "live", None)
        assert (semaphore.kind, semaphore.state, semaphore.value) == ("sem", "live", None)
        assert not [entry for entry in list_objects() if entry.name.endswith("\x01")]
        assert list(ipcio.remove_orphans()) == list(ipcio.remove_orphans(dry_run=True)) == []
    assert found(name) == found(f"{name}-größe") == []


@pytest.mark.needs("files", "fork")
@pytest.mark.parametrize("create", [lambda n: shm.create(n, 9), sem.create, lambda n: sem.create(n, undo=True)])
def test_orphans_are_listed_and_left_alone(name, create):
    told = listed_of_a_killed_process(name, lambda: create(name))
    assert len(told) == 2
    for entry in told:
        assert (entry.state, entry.holders) == ("orphan", [])
        assert entry.value == (1 if entry.kind == "sem" else None)
    create(name).close()
    assert found(name) == []


@pytest.mark.needs("files", "fork")
def test_remove_orphans_removes_what_killed_processes_left_and_nothing_else(name):
    """And with `dry_run` it removes nothing, and names the same objects."""

    def ours(objects) -> list:
        return sorted(each[:5] for each in objects if name in each.name)

    with shm.create(f"{name}-live", 10), shm.create(f"{name}-kept", 10, persist=True):
        write(f"{name}-foreign", b"12345")
        try:
            for _ in range(5):  # again, if the `gc` of another test came between
                leave_orphan(
                    lambda: (shm.create(name, 3000), sem.create(f"{name}-sem"), sem.create(f"{name}-undo", undo=True))
                )
                would_go = ours(ipcio.remove_orphans(dry_run=True))
                gone = ours(ipcio.remove_orphans())
                if len(gone) == 3:
                    break
            assert would_go == gone
            assert [each[:3] for each in gone] == [
                ("sem", f"{name}-sem", None),
                ("sem", f"{name}-undo", None),
                ("shm", name, 3000),
            ]
            assert ours(ipcio.remove_orphans()) == []
            left = {each.name: each.state for each in ipcio.list_objects() if name in each.name}
            assert left == {f"{name}-live": "live", f"{name}-kept": "persistent", f"{name}-foreign": "foreign"}
        finally:
            shm.unlink(f"{name}-foreign")
            shm.unlink(f"{name}-kept")


@pytest.mark.needs("files", "fork")
def test_persistent_ones_have_holders_or_none(name):
    with shm.create(name, 10, persist=True):
        assert [(entry.state, pids(entry)) for entry in found(name)] == [("persistent", [HERE])]
    assert [(entry.state, pids(entry)) for entry in found(name)] == [("persistent", [])]
    shm.unlink(name)
    assert found(name) == []


@pytest.mark.needs("files", "fork")
def test_a_child_that_goes_on_is_the_holder(name):
    """It has the share of its parent, which had it from the parent's call."""
    h = shm.create(name, 10)
    ready, go = os.pipe(), os.pipe()
    with Forked(lambda: (os.write(ready[1], b"!"), os.read(go[0], 1))) as child:
        os.read(ready[0], 1)
        assert [pids(entry) for entry in found(name)] == [sorted([HERE, child.pid])]
        h.close()
        assert [(entry.state, pids(entry)) for entry in found(name)] == [("live", [child.pid])]
    assert states(name) in (["orphan"], [])  # another test's `gc` may have been here
    shm.create(name, 10).close()
    for end in (*ready, *go):
        os.close(end)


@pytest.mark.needs("files")
def test_what_a_foreign_program_has_mapped(name):
    """It may have closed the descriptor; and holds no share in an object of ipcio's."""
    import mmap

    write(name, bytes(100))
    try:
        with open(f"/dev/shm/{name}", "rb") as file:
            memory = mmap.mmap(file.fileno(), 100, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        with memory:  # Python's has a descriptor of its own
            assert [(entry.state, pids(entry)) for entry in found(name)] == [("foreign", [HERE])]
        os.chmod(f"/dev/shm/{name}", 0o1640)
        with open(f"/dev/shm/{name}", "rb"):
            assert [(entry.state, pids(entry)) for entry in found(name)] == [("orphan", [HERE])]
    finally:
        os.unlink(f"/dev/shm/{name}")


@pytest.mark.needs("files", "value")
def test_a_process_that_has_only_mapped_it_is_a_holder(name):
    """As ``sem_open`` does."""
    sem.create(name, 2, persist=True).close()
    try:
        assert [pids(entry) for entry in found(name)] == [[]]
        s = sem.attach(name)
        assert [pids(entry) for entry in found(name)] == [[HERE]]
        s.close()
    finally:
        sem.unlink(name)


@pytest.mark.needs("files", "namespaces")
def test_what_is_in_the_directory_and_no_semaphore(name):
    """The name of one does not make it one; nor does the size alone."""
    made = {f"sem.{name}a": bytes(33), f"{name}b": bytes(32), f"sem.{name}c": b"", f"sem.{name}d": bytes(344)}
    try:
        for each, content in made.items():
            write(each, content)
        os.symlink("/dev/null", f"/dev/shm/{name}e")
        os.mkfifo(f"/dev/shm/{name}f")
        os.mkdir(f"/dev/shm/{name}g")
        told = {entry.name: entry for entry in list_objects() if name in entry.name}
        assert {each: (entry.kind, entry.size, entry.state) for each, entry in told.items()} == {
            each: ("shm", len(content), "foreign") for each, content in made.items()
        }
    finally:
        for each in (*made, f"{name}e", f"{name}f"):
            os.unlink(f"/dev/shm/{each}")
        os.rmdir(f"/dev/shm/{name}g")


@pytest.mark.needs("files", "value", "namespaces")
def test_a_copy_of_a_crash_safe_semaphore_is_none(name):
    with closing(sem.create(name, 2, undo=True)):
        with open(f"/dev/shm/sem.{name}", "rb") as file:
            write(f"sem.{name}-copy", file.read())
        try:
            (entry,) = found(f"sem.{name}-copy")
            assert (entry.kind, entry.undo, entry.state) == ("shm", False, "foreign")
        finally:
            os.unlink(f"/dev/shm/sem.{name}-copy")


@pytest.mark.gc
@pytest.mark.needs("files", "fork", "value")
def test_a_set_is_shown_once_by_its_name_and_without_it_only_when_orphaned(name):
    def hidden():
        ours = {os.path.basename(each.path) for each in inventory._find_all() if each.name == name}
        return [each for each in list_objects() if each.name in ours and each.name != name]

    with closing(sem.create(name, 2, undo=True)) as s:
        assert len(found(name)) == 1
        assert hidden() == []
        sem.unlink(name)
        assert found(name) == []
        assert hidden() == []
        assert s.value == 2

    for _ in range(5):  # another test's `gc` may come between
        leave_orphan(lambda: (sem.create(name, 2, undo=True), sem.unlink(name))[0])
        left = hidden()
        if left:
            break
    (entry,) = left
    assert (entry.kind, entry.undo, entry.value, entry.state) == ("sem", True, 2, "orphan")

    list(remove_orphans())
    assert hidden() == []


@pytest.mark.root
@pytest.mark.needs("files", "namespaces", "users", "fork")
def test_another_user_is_told_what_anybody_may_know(name, peer):
    other = peer("from ipcio._inventory import list_objects", user=ordinary())
    look = f"[(e.state, e.size, e.value, e.undo, e.holders) for e in list_objects() if e.name == {name!r}]"
    undo = sem.create(f"{name}-u", 3, undo=True)
    with shm.create(name, 100), closing(sem.create(name, 3)), closing(undo):
        memory, semaphore = other.ask(look)
        assert memory == ("live", 100, None, False, [])
        assert semaphore == ("live", None, None, False, [])
        (crash_safe,) = other.ask(look.replace(name, f"{name}-u"))
        assert crash_safe == ("live", None, None, True, [])
    other.run(f"kept = shm.create({name!r}, 7)")
    (entry,) = found(name)
    assert (entry.state, pids(entry)) == ("live", [other.pid])
    assert entry.owner == object_files._user(ordinary())
    other.kill()
    assert states(name) in (["orphan"], [])  # another test's `gc` may have been here
    shm.create(name, 1).close()


@pytest.mark.needs("files", "fork")
def test_a_lock_that_is_not_listed_is_seen_on_the_descriptor(name, monkeypatch):
    """As in a container, whose list has no locks that were taken outside, or by who has ended."""
    monkeypatch.setattr(inventory.procfs, "flocks", dict)
    with shm.create(name, 10):
        assert states(name) == ["live"]
        with open(f"/dev/shm/{name}", "rb") as file:
            assert not inventory.procfs.has_flock(HERE, str(file.fileno()))
    assert [each.state for each in listed_of_a_killed_process(name, lambda: shm.create(name, 10))] == ["orphan"] * 2
    shm.create(name, 10).close()


@pytest.mark.needs("files", "fork")
def test_where_locks_are_not_listed_they_are_tried(name, monkeypatch):
    def no_list():
        raise FileNotFoundError

    monkeypatch.setattr(inventory.procfs, "flocks", no_list)
    monkeypatch.setattr(inventory.procfs, "processes", list)
    look = inventory._find_all  # the objects of other tests are not for us to try
    monkeypatch.setattr(inventory, "_find_all", lambda: [each for each in look() if each.name == name])
    with shm.create(name, 10):
        assert states(name) == ["live"]
        assert states(name) == ["live"]
    assert [each.state for each in listed_of_a_killed_process(name, lambda: shm.create(name, 10))] == ["orphan"] * 2
    shm.create(name, 10).close()


@pytest.mark.needs("files", "namespaces")
@pytest.mark.parametrize("step", ["identify", "_locked", "_find_holders", "value_of"])
def test_what_goes_meanwhile_is_no_error_and_no_orphan(name, monkeypatch, step):
    """Before each step the objects go."""
    handles = [shm.create(name, 1), sem.create(name), sem.create(f"{name}-u", undo=True)]
    module = inventory if hasattr(inventory, step) else object_files
    original = getattr(module, step)

    def after_the_end(*arguments):
        for handle in handles:
            handle.close()
        return original(*arguments)

    monkeypatch.setattr(module, step, after_the_end)
    assert {entry.state for entry in list_objects() if entry.name.startswith(name)} <= {"live"}
    assert [handle.closed for handle in handles] == [True] * 3


@pytest.mark.needs("files")
def test_what_comes_to_persist_meanwhile_is_no_orphan(name, monkeypatch):
    """Its mode says so only when its lock is gone already."""
    original = inventory._locked
    shm.create(name, 1, persist=True).close()
    path = f"/dev/shm/{name}"
    os.chmod(path, 0o1600)

    def settled_then_looked(wanted):
        os.chmod(path, 0o2600)
        return original(wanted)

    monkeypatch.setattr(inventory, "_locked", settled_then_looked)
    assert states(name) == ["persistent"]
    shm.unlink(name)


@pytest.mark.needs("files")
def test_surveys_disturb_no_process(name):
    """Others create, attach and close as if no process looked; a look sees no orphans."""
    wrong, done = [], threading.Event()

    def look():
        while not done.is_set():
            wrong.extend(entry for entry in list_objects() if entry.name == name and entry.state == "orphan")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(200):
            with shm.create(name, 1) as h, shm.attach(name), closing(sem.create(f"{name}s", undo=True)):
                h.close()
            assert not os.path.exists(f"/dev/shm/{name}")
            assert not os.path.exists(semaphore_file(f"{name}s"))
    finally:
        done.set()
        thread.join()
    assert wrong == []


@pytest.mark.needs("files")
def test_a_survey_leaves_all_times_and_modes(name):
    with shm.create(name, 5) as h, closing(sem.create(f"{name}s", 1)):
        h.write(b"12345")
        paths = [f"/dev/shm/{name}", semaphore_file(f"{name}s")]
        before = [os.stat(path) for path in paths]
        list_objects()
        after = [os.stat(path) for path in paths]
        for old, new in zip(before, after, strict=True):
            assert (old.st_mode, old.st_mtime_ns, old.st_ctime_ns) == (new.st_mode, new.st_mtime_ns, new.st_ctime_ns)
            assert stat.S_IMODE(new.st_mode) == 0o1600
