"""What names semaphores can have and how long they live: the rules of all named objects, for both kinds."""

from __future__ import annotations

import ctypes
import os
from contextlib import closing

import pytest
import turns
from abilities import semaphore_file
from named_contract import FILES, OPENED, LifetimeContract, NameContract
from permits import permits_of

from ipcio import sem


class Semaphores:
    module = sem
    spelling = "sem"
    measure = 3
    prefix = os.path.basename(semaphore_file(""))
    longest = 255 - len(prefix) if FILES else 30 if OPENED else 259

    def mark(self, handle):
        handle.inc(2)

    def is_managed(self, handle):
        return permits_of(handle) == self.measure + 2

    def foreign(self, name):
        """As C makes one, but without C: what its semaphores are is for test_sem_interop to compare."""
        if OPENED:
            import _multiprocessing

            _multiprocessing.SemLock(1, self.measure, 30000, f"/{name}", False)
            return
        memory = ctypes.create_string_buffer(32)
        assert not ctypes.CDLL(None).sem_init(memory, 1, self.measure)
        with open(self.path(name), "xb") as file:
            file.write(memory.raw)


class CrashSafe(Semaphores):
    def make(self, name, **options):
        return sem.create(name, self.measure, undo=True, **options)

    def make_code(self, name, **options):
        return f"sem.create({name!r}, {self.measure}, undo=True, **{options!r})"

    def perm_of(self, name):
        """Those of the set; nobody but the owner can write what stands for it."""
        from ipcio._inventory import list_objects

        assert not os.stat(self.path(name)).st_mode & 0o022
        (found,) = [entry for entry in list_objects() if entry.name == name]
        return int(found.perm, 8)

    def sweep(self):
        from ipcio._inventory import remove_orphans

        with turns.alone():
            list(remove_orphans())


class TestNames(Semaphores, NameContract):
    pass


class TestLifetime(Semaphores, LifetimeContract):
    pass


@pytest.mark.needs("undo")
class TestNamesOfCrashSafeOnes(CrashSafe, NameContract):
    pass


@pytest.mark.needs("undo")
class TestLifetimeOfCrashSafeOnes(CrashSafe, LifetimeContract):
    pass


@pytest.mark.needs("files")
def test_nothing_is_hidden_in_a_plain_semaphore(name):
    """And a handle made for one ``with`` statement stays open as long."""
    with sem.create(name, 1):
        assert os.path.getsize(semaphore_file(name)) == 32


# -- looked at, locked, and then opened by name ----------------------------------


@pytest.mark.needs("files")
@pytest.mark.parametrize("persist", [False, True])
def test_a_name_that_changes_hands_before_it_is_opened_gives_no_handle_on_another_semaphore(name, monkeypatch, persist):
    """A handle that were one on the new semaphore, with a share in the old one, would lose it at the next close."""
    others = []
    old = sem.create(name, 3, persist=persist)
    change_hands_once(monkeypatch, lambda: (sem.unlink(name), others.append(sem.create(name, 7))))
    with closing(sem.attach(name)) as s:
        assert s.value == 7
        others.pop().close()
        sem.attach(name).close()
        old.close()
        sem.attach(name).close()


@pytest.mark.needs("files")
@pytest.mark.parametrize("persist", [False, True])
def test_a_new_name_that_changes_hands_before_it_is_opened_is_another_creators(name, monkeypatch, persist):
    others = []
    change_hands_once(monkeypatch, lambda: (sem.unlink(name), others.append(sem.create(name, 7))))
    with pytest.raises(FileExistsError):
        sem.create(name, 3, persist=persist)
    with closing(others.pop()) as s:
        assert s.value == 7
        sem.attach(name).close()


def change_hands_once(monkeypatch, change):
    """Do it between the look at a semaphore's file and the `sem_open` that follows."""
    from ipcio._posix.semlock import PosixSemaphore

    rebuild = PosixSemaphore._rebuild

    def late(*arguments):
        monkeypatch.undo()
        change()
        return rebuild(*arguments)

    monkeypatch.setattr(PosixSemaphore, "_rebuild", staticmethod(late))
