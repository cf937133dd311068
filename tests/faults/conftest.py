"""What tests of failing calls share: both ways to make an object, and a look at what is left of it."""

from __future__ import annotations

import gc
import mmap
import os
import struct
import types

import pytest
from troubles import Plan

SHM = "/dev/shm"


class Remains:
    """What may be left of objects with `tag` in their names: entries in /dev/shm, System V sets.

    The keys of the sets are written down as the sets are asked for, so that each one can be looked for in
    the end, whichever process made it.
    """

    def __init__(self, tag, semget):
        self.tag = tag
        self._semget = semget
        self._keys = mmap.mmap(-1, 1 << 18)  # memory that children share: a number, then so many keys

    def semget(self, key, number, flags):
        from ipcio._posix import libc

        if flags & libc.IPC_CREAT:
            count = 1 + struct.unpack_from("i", self._keys)[0]
            struct.pack_into("i", self._keys, 4 * count, key)
            struct.pack_into("i", self._keys, 0, count)
        return self._semget(key, number, flags)

    def sets(self):
        """The keys of those that are there."""
        count = struct.unpack_from("i", self._keys)[0]
        return [key for key in struct.unpack_from(f"{count}i", self._keys, 4) if self._semget(key, 0, 0) >= 0]

    def entries(self):
        from leftovers_linux import semaphore_name

        return [entry for entry in os.listdir(SHM) if self.tag in semaphore_name(entry)]

    def all(self):
        return self.entries(), self.sets()

    def unnamed(self):
        """Entries of objects that were never given their name."""
        return [entry for entry in os.listdir(SHM) if entry.startswith(f".{self.tag}-")]

    def clear_unnamed(self):
        for entry in self.unnamed():
            os.unlink(f"{SHM}/{entry}")

    def collect(self):
        """Do what `ipcio gc` does, but leave the orphans of other tests alone, which may be about them."""
        from ipcio._inventory import remove_orphans
        from ipcio._posix import inventory

        ours = types.SimpleNamespace(**{**vars(os), "listdir": lambda _: self.entries()})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inventory, "os", ours)
            return [each[:3] for each in remove_orphans()]

    def clear(self):
        """Leave the machine clean even if the test failed, and fail it if it has not."""
        from ipcio._posix import sysv

        entries, sets = self.all()
        sets += [int(entry[-8:], 16) for entry in entries if entry.startswith(".ipcio-undo-")]  # made by peers
        for key in sets:
            number = self._semget(key, 0, 0)
            if number >= 0:
                sysv.remove(number)
        for entry in entries:
            os.unlink(f"{SHM}/{entry}")
        assert (entries, sets) == ([], [])


@pytest.fixture
def left(unique, monkeypatch):
    from ipcio._posix import libc

    found = Remains(unique(), libc.semget)
    monkeypatch.setattr(libc, "semget", found.semget)
    yield found
    gc.collect()
    found.clear()


@pytest.fixture(params=["O_TMPFILE", "temporary name"])
def way(request, monkeypatch, left):
    """Both ways to make an object without showing it half-made; temporary names begin with the test's tag."""
    from ipcio._posix import objects

    if request.param == "temporary name":
        monkeypatch.setattr(objects, "_has_tmpfile", lambda: False)
    elif not objects._has_tmpfile():
        pytest.skip("no O_TMPFILE in /dev/shm")
    monkeypatch.setattr(objects, "invent_name", lambda: f"{left.tag}-{os.urandom(4).hex()}")
    return request.param


@pytest.fixture
def plan(left, monkeypatch):
    assert left  # which looks at the calls, too, and first
    return Plan(monkeypatch)
