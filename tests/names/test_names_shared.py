"""Where memory and semaphores share their names, as with musl: one name is one object, of a kind that is known."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest
from abilities import lacks, semaphore_file
from permits import permits_of

from ipcio import _inventory, sem, shm
from ipcio._segment_writer import open_writer

if lacks("files"):
    pytest.skip("named objects are not files here", allow_module_level=True)

import _multiprocessing

from ipcio._posix import namespace, semlock, store_files

SHM = "/dev/shm"
KINDS = pytest.mark.parametrize("undo", [False, True], ids=["plain", "undo"])


class AsMusl(semlock.PosixSemaphore):
    """Opens a semaphore where musl has it."""

    __slots__ = ()

    @classmethod
    def _rebuild(cls, handle, kind, maxvalue, name):
        os.close(os.open(f"{SHM}{name}", os.O_RDWR | os.O_NOFOLLOW))  # or the error of that
        again = f"ipcio-t-{os.urandom(8).hex()}"
        os.link(f"{SHM}{name}", f"{SHM}/sem.{again}")
        try:
            return super()._rebuild(handle, kind, maxvalue, f"/{again}")
        finally:
            os.unlink(f"{SHM}/sem.{again}")


@pytest.fixture(autouse=True)
def shared_names(monkeypatch):
    """Of a C library that has them apart, only the way to open a semaphore changes."""

    def forget():
        namespace.semaphore_prefix.cache_clear()
        store_files.new_semaphore.cache_clear()

    if semaphore_file("") != f"{SHM}/":
        monkeypatch.setattr(_multiprocessing, "SemLock", AsMusl)
        monkeypatch.setattr(semlock, "PosixSemaphore", AsMusl)
    forget()
    yield
    monkeypatch.undo()
    forget()


def listed(name):
    return [(entry.kind, entry.undo, entry.state) for entry in _inventory.list_objects() if entry.name == name]


def refuses(number, call, *arguments, **options):
    with pytest.raises(OSError) as caught:
        call(*arguments, **options)
    assert caught.value.errno == number
    assert "share their names" in str(caught.value) or "one has" in str(caught.value)


def test_the_path_is_found_without_making_anything(name):
    before = set(os.listdir(SHM))
    assert namespace.semaphore_prefix() == ""
    assert not [entry for entry in set(os.listdir(SHM)) - before if "---" in entry]
    with contextlib.closing(sem.create(name, 2)) as s, contextlib.closing(sem.attach(name)) as other:
        assert os.path.getsize(f"{SHM}/{name}") == namespace.SEMAPHORE
        assert other.dec(0)
        assert permits_of(s) == 1
    assert not os.path.lexists(f"{SHM}/{name}")


@KINDS
def test_memory_of_the_name_of_a_semaphore_is_refused(name, undo):
    with contextlib.closing(sem.create(name, 2, undo=undo)) as s:
        refuses(errno.EEXIST, shm.create, name, 10)
        refuses(errno.EINVAL, shm.create, name, 10, exist_ok=True)
        refuses(errno.EINVAL, shm.attach, name)
        refuses(errno.EINVAL, shm.unlink, name)
        writer = open_writer(name, replace=True)
        writer.write(b"x")
        refuses(errno.EINVAL, writer.close)
        assert listed(name) == [("sem", undo, "live")]
        assert permits_of(s) == 2
        with contextlib.closing(sem.attach(name)) as other:
            assert other.undo is undo
        sem.unlink(name)
    assert listed(name) == []


@KINDS
@pytest.mark.parametrize("size", [1, namespace.SEMAPHORE, namespace.RECORD, 4096])
def test_a_semaphore_of_the_name_of_memory_is_refused(name, undo, size):
    with shm.create(name, size) as h:
        h.write(b"\1")
        refuses(errno.EEXIST, sem.create, name, undo=undo)
        refuses(errno.EINVAL, sem.create, name, undo=undo, exist_ok=True)
        refuses(errno.EINVAL, sem.attach, name)
        refuses(errno.EINVAL, sem.unlink, name)
        assert listed(name) == [("shm", False, "live")]
        h.seek(0)
        assert h.read(1) == b"\1"
        shm.unlink(name)


@KINDS
def test_an_orphan_of_the_other_kind_frees_the_name(name, undo, peer):
    """And nothing of it stays behind, no set either."""
    path = f"{SHM}/{name}"
    other = peer()
    other.run(f"s = sem.create({name!r}, undo={undo})")
    if not os.path.lexists(path):
        os.rename(f"{SHM}/sem.{name}", path)  # the other process uses this C library as it is
    other.kill()
    with shm.create(name, 10):
        assert listed(name) == [("shm", False, "live")]


@pytest.mark.gc
@pytest.mark.needs("undo")
def test_what_persists_under_the_path_of_another_c_library_stays(name):
    """Containers with glibc and with musl may share the directory: gc in one knows the names of the other."""
    sem.create(name, 3, undo=True, persist=True).close()
    os.rename(f"{SHM}/{name}", f"{SHM}/sem.{name}")
    try:
        gone = [found.name for found in _inventory.remove_orphans()]
        assert name not in gone
        assert os.path.lexists(f"{SHM}/sem.{name}")
    finally:
        os.rename(f"{SHM}/sem.{name}", f"{SHM}/{name}")
        with contextlib.closing(sem.attach(name)) as s:
            assert permits_of(s) == 3
        sem.unlink(name)
