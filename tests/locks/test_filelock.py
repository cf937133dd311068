"""Locks on ranges of a file's bytes: what each call promises, seen from within one process and from a few others."""

from __future__ import annotations

import decimal
import errno
import fractions
import io
import itertools
import math
import os
import pickle
import random
import socket
import tempfile
import threading
import time
import weakref
from contextlib import ExitStack, contextmanager

import pytest
from abilities import lacks
from campaigns import rounds
from children import Event, Forked
from strangers import apart, lock, query, trylock, unlock
from waiting import blocked, until_it_waits

from ipcio import filelock, mmap, shm, strfile
from ipcio.filelock import Holder, locked

try:
    import fcntl
except ImportError:  # there are no classic locks, then
    fcntl = None

LAST = 2**63 - 1  # byte that a file can have
ME = os.getpid()


@pytest.fixture
def path(tmp_path):
    """A file of a few bytes."""
    where = tmp_path / "file"
    where.write_bytes(b"0123456789")
    return str(where)


@pytest.fixture
def one(path):
    with open(path, "r+b", 0) as file:
        yield file


@pytest.fixture
def opened(path):
    """Open that file once more, closed at the end."""
    with ExitStack() as files:

        def once_more(mode="r+b", buffering=0):
            return files.enter_context(apart(lambda: open(path, mode, buffering)))

        yield once_more


@pytest.fixture
def other(opened):
    """Another open file, which may be in the way of the first."""
    return opened()


@pytest.fixture
def locker(peer, path):
    """Another process that has the file open as `f`."""
    found = peer("from ipcio import filelock", f"f = open({path!r}, 'r+b', 0)", *["import fcntl"] * (fcntl is not None))
    return weakref.proxy(found)  # pytest keeps what it is given longer than the process


def seen(probe, *, size=8, start=0):
    """How `size` bytes from `start`, and the very last byte, are locked by others: "r", "w" or "-" for each."""

    def letter(at):
        free = {mode: trylock(probe, mode, at, 1) and unlock(probe, at, 1) for mode in ("r", "rw")}
        return {(True, True): "-", (True, False): "r", (False, False): "w"}[free["r"], free["rw"]]

    return "".join(map(letter, range(start, start + size))) + " " + letter(LAST)


def in_the_way(holder, file, mode="rw", offset=0, nbytes=0):
    """`query` tells of that one; where the system tells of none, of the range that it was asked about."""
    if lacks("holders"):
        holder = offset, nbytes if offset + nbytes <= LAST else 0, holder[2], None
    assert query(file, mode, offset, nbytes) == holder
    return True


def whose(file):
    """The process whose locks those of the file are."""
    return getattr(file, "pid", ME)


def command(pid):
    """What is known of a process, except its number."""
    if lacks("commands"):
        return ""
    with open(f"/proc/{pid}/comm") as file:
        return f" ({file.read().strip()})"


# -- arguments and answers ---------------------------------------------------


def test_every_form_of_the_arguments(one, other):
    assert lock(one) is True
    assert seen(other) == "wwwwwwww w"
    assert unlock(one) is True
    assert lock(one, "r", 1, 2) is True
    assert lock(one, mode="rw", offset=4, nbytes=1, timeout=0) is True
    assert trylock(one, "r", 6, 1) is True
    assert trylock(file=one, mode="w", offset=7, nbytes=1) is True
    assert seen(other) == "-rr-w-rw -"
    assert trylock(other, "rw", 2, 1) is False
    assert in_the_way((1, 2, "r", ME), other, "rw", 2, 1)
    assert query(file=other, mode="r", offset=2, nbytes=1) is None
    assert unlock(one, 1, 2) is True
    assert unlock(file=one, offset=4, nbytes=1) is True
    assert seen(other) == "------rw -"
    with locked(one, "rw", 0, 2, timeout=1) as file:
        assert file is one
        assert seen(other) == "ww----rw -"
    with locked(file=one, mode="r", offset=0, nbytes=2):
        assert seen(other) == "rr----rw -"
    assert seen(other) == "------rw -"
    with locked(one):
        assert seen(other) == "wwwwwwww w"
    assert seen(other) == "-------- -"


def test_the_timeout_is_named(one):
    with pytest.raises(TypeError):
        lock(one, "rw", 0, 0, 1)
    with pytest.raises(TypeError):
        locked(one, "rw", 0, 0, 1)


def test_semantics_is_what_the_locks_do(one, other, path):
    assert filelock.semantics in {"open file", "process"}
    lock(one)
    assert not trylock(other)
    with open(path, "r+b", 0) as second:
        assert filelock.semantics == ("process" if trylock(second) else "open file")


def test_the_default_is_exclusive_and_all(one, other):
    trylock(one)
    assert seen(other) == "wwwwwwww w"
    for asked in (), ("r",), ("r", LAST, 1):
        assert in_the_way((0, 0, "rw", ME), other, *asked)


@pytest.mark.parametrize("number", [int, bool, "uint8", "int64", "uint64"])
def test_any_integer_will_do(one, other, number):
    if isinstance(number, str):
        number = getattr(pytest.importorskip("numpy"), number)
    assert trylock(one, "rw", number(1), number(1))
    assert seen(other) == "-w------ -"
    assert in_the_way((1, 1, "rw", ME), other, "r", number(1), number(1))
    assert unlock(one, number(1), number(1))
    assert seen(other) == "-------- -"
    assert lock(one, "rw", number(1), number(1), timeout=0)
    assert seen(other) == "-w------ -"


# Of a lock that excludes, a part may be let go or shared.
cutting = pytest.mark.needs("cutting")
each_kind = pytest.mark.parametrize("mode", ["r", pytest.param("rw", marks=cutting)])


def lock_in_parts(file, *parts):
    """Exclude from neighbouring ranges: by one lock, where parts of it may be let go."""
    if not lacks("cutting"):
        (start, _), (last, length) = parts[0], parts[-1]
        parts = [(start, length and last + length - start)]
    for start, length in parts:
        lock(file, "rw", start, length)


# -- kinds of locks ----------------------------------------------------------


@pytest.mark.parametrize("mode", ["w", "rw"])
def test_an_exclusive_lock_excludes_all_others(one, other, mode):
    lock(one, mode, 0, 4)
    for theirs in "r", "w", "rw":
        assert not trylock(other, theirs, 3, 1)
        assert in_the_way((0, 4, "rw", ME), other, theirs, 3, 1)
        with pytest.raises(TimeoutError):
            lock(other, theirs, 3, 1, timeout=0)
    assert trylock(other, mode, 4, 1)


def test_shared_locks_do_not_exclude_each_other(one, other, opened):
    third = opened()
    assert trylock(one, "r", 0, 4)
    assert trylock(other, "r", 2, 4)
    assert query(third, "r") is None
    assert in_the_way((0, 4, "r", ME), third, "w", 0, 2)
    assert in_the_way((2, 4, "r", whose(other)), third, "rw", 4, 2)
    assert not trylock(third, "w", 0, 1)
    unlock(one)
    assert trylock(third, "w", 0, 2)
    assert not trylock(third, "w", 0, 3)
    if lacks("cutting"):
        unlock(third)
    assert seen(third) == "--rrrr-- -"


def test_a_lock_of_ones_own_is_never_in_the_way(one):
    for mode, offset, nbytes in itertools.product(("r", "w", "rw"), (0, 3), (0, 2)):
        assert trylock(one, mode, offset, nbytes)
        assert query(one, mode, offset, nbytes) is None
        assert lock(one, mode, offset, nbytes)


def test_upgrade_and_downgrade(one, other):
    lock(one, "r", 0, 4)
    assert seen(other) == "rrrr---- -"
    assert lock(one, "rw", 0, 4)
    assert seen(other) == "wwww---- -"
    assert trylock(one, "r", 0, 6)
    assert seen(other) == "rrrrrr-- -"
    assert trylock(one, "rw", 1, 2)
    assert seen(other) == "rwwrrr-- -"
    assert trylock(one, "r", 1, 2)
    assert seen(other) == "rrrrrr-- -"
    unlock(one, 0, 6)
    assert seen(other) == "-------- -"


@cutting
def test_downgrade_of_a_part(one, other):
    lock(one, "rw", 0, 4)
    assert trylock(one, "r", 1, 2)
    assert seen(other) == "wrrw---- -"
    unlock(one, 0, 4)
    assert seen(other) == "-------- -"


def test_a_refused_upgrade_keeps_what_is_shared(one, other, opened):
    third = opened()
    lock(one, "r", 0, 4)
    lock(other, "r", 3, 1)
    assert not trylock(one, "rw", 0, 4)
    with pytest.raises(TimeoutError, match="cannot be known" if lacks("holders") else r"shared by .*, bytes 3 to 3"):
        lock(one, "rw", 0, 4, timeout=0.01)
    with pytest.raises(TimeoutError), locked(one, "rw", 0, 4, timeout=0):
        pass
    unlock(other)
    assert seen(third) == "rrrr---- -"
    assert trylock(one, "rw", 0, 4)


# -- ranges ------------------------------------------------------------------


def test_neighbours_do_not_meet(one, other, opened):
    assert trylock(one, "rw", 2, 2)
    assert trylock(other, "rw", 0, 2)
    assert trylock(other, "rw", 4, 0)
    assert not trylock(other, "rw", 1, 2)
    assert not trylock(other, "rw", 3, 2)
    assert seen(opened()) == "wwwwwwww w"
    if lacks("cutting"):
        unlock(one)
    assert seen(one) == "ww--wwww w"


def test_ranges_beyond_the_end_and_of_an_empty_file(one, other):
    assert trylock(one, "rw", 10**6, 5)
    assert not trylock(other, "r", 0, 0)
    assert in_the_way((10**6, 5, "rw", ME), other, "r")
    os.truncate(one.name, 0)
    assert in_the_way((10**6, 5, "rw", ME), other, "r")
    assert os.path.getsize(one.name) == 0


def test_the_very_last_byte(one, other):
    assert trylock(one, "rw", LAST, 1)
    assert in_the_way((LAST, 0, "rw", ME), other, "rw", LAST, 1)  # from there, there is nothing but infinity
    assert in_the_way((LAST, 0, "rw", ME), other, "rw", LAST, 0)
    assert in_the_way((LAST, 0, "rw", ME), other)
    assert trylock(other, "rw", 0, LAST)  # all but that
    assert not trylock(other, "rw", 1, LAST)
    assert in_the_way((0, LAST, "rw", whose(other)), one, "rw")
    assert unlock(one, LAST, 1)
    assert trylock(other, "rw", 1, LAST)
    assert in_the_way((0, 0, "rw", whose(other)), one, "rw")


@each_kind
def test_no_bytes_are_all_bytes_to_infinity(one, other, mode):
    lock(one, mode, 4)
    letter = mode[-1]
    assert seen(other) == f"----{4 * letter} {letter}"
    assert in_the_way((4, 0, mode, ME), other, "w", 2**62, 1)
    unlock(one, 6)
    assert seen(other) == f"----{2 * letter}-- -"
    assert in_the_way((4, 2, mode, ME), other, "w")


def test_split_and_join_what_is_shared(one, other):
    lock(one, "r", 0, 8)
    unlock(one, 3, 2)
    assert seen(other) == "rrr--rrr -"
    assert in_the_way((0, 3, "r", ME), other, "w", 0, 4)
    assert in_the_way((5, 3, "r", ME), other, "w", 4, 4)
    assert query(other, "w", 3, 2) is None
    lock(one, "rw", 2, 4)
    assert seen(other) == "rrwwwwrr -"
    unlock(one, 2, 4)
    assert seen(other) == "rr----rr -"
    lock(one, "r", 2, 4)
    assert in_the_way((0, 8, "r", ME), other, "w", 7, 1)
    unlock(one, 1, 6)
    assert seen(other) == "r------r -"
    unlock(one, 7)
    assert seen(other) == "r------- -"


@cutting
def test_split_and_join(one, other):
    lock(one, "rw", 0, 8)
    unlock(one, 3, 2)
    assert seen(other) == "www--www -"
    assert in_the_way((0, 3, "rw", ME), other, "r", 0, 4)
    assert in_the_way((5, 3, "rw", ME), other, "r", 4, 4)
    assert query(other, "r", 3, 2) is None
    lock(one, "rw", 3, 2)
    assert in_the_way((0, 8, "rw", ME), other, "r", 7, 1)
    lock(one, "r", 2, 1)
    assert seen(other) == "wwrwwwww -"
    assert in_the_way((2, 1, "r", ME), other, "rw", 2, 1)
    lock(one, "r", 0, 2)
    assert in_the_way((0, 3, "r", ME), other, "rw", 0, 1)


@each_kind
def test_a_lock_is_one_however_often_it_was_had(one, other, mode):
    for _ in range(3):
        lock(one, mode, 0, 8)
    lock(one, mode, 2, 3)
    unlock(one, 2, 3)
    assert seen(other) == "ww---www -".replace("w", mode[-1])
    unlock(one, 0, 8)
    assert seen(other) == "-------- -"


def test_unlocking_what_is_not_locked(one, other):
    lock(other, "rw", 0, 4)
    for offset, nbytes in (0, 0), (2, 4), (6, 1), (LAST, 1), (0, LAST):
        assert unlock(one, offset, nbytes) is True
    assert seen(one) == "wwww---- -"  # nobody unlocks what is another's


def test_unlock_takes_whatever_is_there(one, other):
    lock(one, "r", 1, 1)
    lock(one, "rw", 3, 1)
    lock(one, "rw", 5, 1)
    assert unlock(one, 0, 4) is True
    assert seen(other) == "-----w-- -"


# -- any file ----------------------------------------------------------------


class Duck:
    """Something with a descriptor, and nothing else."""

    def __init__(self, number):
        self.number = number

    def fileno(self):
        return self.number


@contextmanager
def descriptor(path):
    fd = os.open(path, os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def duck(path):
    with descriptor(path) as fd:
        yield Duck(fd)


BOTH = {
    "FileIO": lambda path: open(path, "r+b", 0),
    "BufferedRandom": lambda path: open(path, "r+b"),
    "TextIOWrapper": lambda path: open(path, "r+"),
    "mmap": lambda path: mmap.open(path, "rw"),
    "BufferedRandom of mmap": lambda path: io.BufferedRandom(mmap.open(path, "rw")),
    "TextIOWrapper of mmap": lambda path: io.TextIOWrapper(mmap.open(path, "rw")),
    "descriptor": descriptor,
    "duck": duck,
}
READERS = {
    "FileIO": lambda path: open(path, "rb", 0),
    "BufferedReader": lambda path: open(path, "rb"),
    "TextIOWrapper": open,
    "mmap": mmap.open,
    "BufferedReader of mmap": lambda path: io.BufferedReader(mmap.open(path)),
}
WRITERS = {
    "FileIO": lambda path: open(path, "ab", 0),
    "BufferedWriter": lambda path: open(path, "ab"),
    "TextIOWrapper": lambda path: open(path, "a"),
    # A map for writing only has nothing but the file's own descriptor, which is open for both.
}


@pytest.mark.parametrize("kind", BOTH)
def test_files_open_for_both(path, other, kind):
    with BOTH[kind](path) as file:
        assert lock(file, "r", 0, 2) is True
        assert trylock(file, "rw", 4, 2) is True
        assert seen(other) == "rr--ww-- -"
        with locked(file, "w", 0, 2) as same:
            assert same is file
            assert seen(other) == "ww--ww-- -"
            assert in_the_way((0, 2, "rw", ME), other, "r", 0, 2)
        assert unlock(file) is True
        assert seen(other) == "-------- -"
        lock(other, "r", 3, 1)
        assert in_the_way((3, 1, "r", whose(other)), file, "rw")
        assert trylock(file, "rw") is False
        with pytest.raises(TimeoutError):
            lock(file, timeout=0.001)
        lock(file, "r")
    assert seen(other) == "-------- -"


@pytest.mark.parametrize("kind", READERS)
def test_files_open_for_reading(path, opened, other, kind):
    probe = opened()
    with READERS[kind](path) as file:
        assert trylock(file, "r", 0, 2)
        assert seen(probe) == "rr------ -"
        lock(other, "rw", 2, 2)
        assert not trylock(file, "r")
        assert in_the_way((2, 2, "rw", whose(other)), file, "rw")  # asking takes no permission
        for mode in "w", "rw":
            for refused in (trylock, lock, lambda *args: lock(*args, timeout=0)):
                with pytest.raises(io.UnsupportedOperation, match="'rw' one for writing") as caught:
                    refused(file, mode, 0, 2)
                assert caught.value.errno == errno.EBADF
                assert caught.value.filename == file.name
            with pytest.raises(io.UnsupportedOperation), locked(file, mode):
                raise AssertionError("the block must not run")
        assert seen(probe) == "rrww---- -"
        assert unlock(file)
        assert seen(probe) == "--ww---- -"


@pytest.mark.parametrize("kind", WRITERS)
def test_files_open_for_writing(path, other, kind):
    with WRITERS[kind](path) as file:
        assert trylock(file, "w", 0, 2)
        assert trylock(file, "rw", 2, 2)
        lock(other, "r", 5, 1)
        assert query(file, "r", 0, 8) is None
        for refused in (trylock, lock, lambda *args: lock(*args, timeout=0)):
            with pytest.raises(io.UnsupportedOperation, match="mode 'r' takes a file open for reading") as caught:
                refused(file, "r", 0, 2)
            assert caught.value.errno == errno.EBADF
            assert caught.value.filename == path
        assert seen(other) == "wwww---- -"
        assert unlock(file)
        assert seen(other) == "-------- -"


@pytest.mark.needs("descriptors")
def test_shared_memory(name):
    with shm.create(name, 100) as handle, shm.attach(name) as attached, pickle.loads(pickle.dumps(attached)) as third:
        lock(handle, "rw", 10, 10)
        assert query(attached, "r") == query(third, "r") == (10, 10, "rw", ME)
        assert not trylock(attached, "r", 15, 1)
        assert trylock(attached, "rw", 20, 10)
        with pytest.raises(TimeoutError) as caught:
            lock(third, "r", 20, 1, timeout=0)
        assert caught.value.filename == name
        unlock(handle)
        assert trylock(third, "rw", 0, 20)
    with shm.create(name, 10) as handle, shm.attach(name, "r") as attached:  # the locks did not hold the name
        with pytest.raises(io.UnsupportedOperation):
            trylock(attached)
        assert trylock(attached, "r")
        assert not trylock(handle, "rw")


def once_more(file):
    """Another open file of what a temporary one is made of."""
    if isinstance(file.name, str) and os.path.exists(file.name):
        # What is removed when it is closed can be opened by a caller that says so.
        flag = getattr(os, "O_TEMPORARY", 0)
        return open(file.name, "r+b", 0, opener=lambda path, flags: os.open(path, flags | flag))
    return open(f"/proc/self/fd/{file.fileno()}", "r+b", 0)


@pytest.mark.parametrize(
    "make",
    [
        tempfile.TemporaryFile,
        tempfile.NamedTemporaryFile,
        tempfile.SpooledTemporaryFile,
        lambda: tempfile.TemporaryFile("w+"),
        lambda: tempfile.NamedTemporaryFile("w+"),
        lambda: tempfile.SpooledTemporaryFile(mode="w+"),
        lambda: tempfile.NamedTemporaryFile(buffering=0),
    ],
)
def test_temporary_files(make):
    with make() as file:
        lock_in_parts(file, (0, 2), (2, 2))
        with apart(lambda: once_more(file)) as again:
            assert seen(again) == "wwww---- -"
            with locked(file, "r", 0, 2) as same:
                assert same is file
                assert seen(again) == "rrww---- -"
            assert trylock(again, "rw", 0, 2)
            assert in_the_way((0, 2, "rw", whose(again)), file)
            unlock(again)
            unlock(file)
            assert seen(again) == "-------- -"


@pytest.mark.parametrize("file", [io.BytesIO(), io.StringIO(), strfile.open(bytearray(10))], ids=type)
def test_files_without_a_descriptor(file):
    for call in lock, trylock, unlock, query:
        with pytest.raises(io.UnsupportedOperation):
            call(file)
    with pytest.raises(io.UnsupportedOperation), locked(file):
        raise AssertionError("the block must not run")


@pytest.mark.needs("pipe locks")
def test_pipes_sockets_and_directories(tmp_path):
    reader, writer = os.pipe()
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with socket.socket() as plug:
            assert trylock(plug)
            assert unlock(plug)
        assert trylock(reader, "r", 0, 1)
        if not lacks("open file locks"):
            assert not trylock(writer, "w")  # one and the same pipe
            assert in_the_way((0, 1, "r", ME), writer)
        assert trylock(folder, "r")
        for fd, mode in (reader, "w"), (writer, "r"), (folder, "rw"):
            with pytest.raises(io.UnsupportedOperation) as caught:
                trylock(fd, mode)
            assert caught.value.filename == fd
    finally:
        os.close(reader)
        os.close(writer)
        os.close(folder)


@pytest.mark.needs("pipe locks")
@pytest.mark.parametrize("text", [False, True])
def test_ends_of_pipes_with_buffers(text):
    """What has been read ahead of a pipe is nowhere else: it must not be lost."""
    reader, writer = os.pipe()
    with open(reader, "r" if text else "rb") as ours, open(writer, "w" if text else "wb") as theirs:
        theirs.write("one\ntwo\n" if text else b"one\ntwo\n")
        theirs.flush()
        first = ours.readline()
        lock(ours, "r", 0, 4)
        if not lacks("open file locks"):
            assert not trylock(theirs, "w")
            assert in_the_way((0, 4, "r", ME), theirs, "w")
        unlock(ours)
        with locked(theirs, "w"):
            pass
        assert [first.strip(), ours.readline().strip()] == (["one", "two"] if text else [b"one", b"two"])


def test_a_wrapper_that_contains_itself(one, other):
    """Looking for the file inside, as in those of `tempfile`, comes to an end."""

    class Itself(Duck):
        looks = 0

        @property
        def file(self):
            self.looks += 1
            assert self.looks < 100, "it looks for ever"
            return self

    assert trylock(Itself(one.fileno()), "rw", 0, 4)
    assert seen(other) == "wwww---- -"


# -- what is refused changes nothing -----------------------------------------


@pytest.fixture
def closable(path, tmp_path):
    """A file to be closed: the same one, unless that would lose the locks on it."""
    if not lacks("open file locks"):
        return path
    (tmp_path / "another").write_bytes(b"")
    return str(tmp_path / "another")


@pytest.fixture
def unchanged(one, other):
    """A file with locks, which are to be as they were when the test is over."""
    lock(one, "r", 0, 2)
    lock(one, "rw", 4, 2)
    yield one
    assert seen(other) == "rr--ww-- -"


def locking(*, timeout=0):
    """The calls that take a mode and a range, as functions of those."""

    def with_block(file, *args):
        with locked(file, *args, timeout=timeout):
            raise AssertionError("the block must not run")

    return [lock, lambda *args: lock(*args, timeout=timeout), trylock, query, with_block]


@pytest.mark.parametrize("mode", ["", "x", "R", "wr", "r+", "rb", b"r", None, 1, True, math.nan, ("r",)])
def test_unknown_modes(unchanged, mode):
    for call in locking():
        with pytest.raises(ValueError, match="mode must be 'r'"):
            call(unchanged, mode)


@pytest.mark.parametrize("mode", [[], {}, {"r"}, bytearray(b"r")])
def test_modes_that_nothing_can_be_found_by(unchanged, mode):
    for call in locking():
        with pytest.raises((TypeError, ValueError)):
            call(unchanged, mode)


@pytest.mark.parametrize(
    ("offset", "nbytes"),
    [
        (-1, 0),
        (0, -1),
        (-1, 2),
        (-LAST - 1, 0),
        (5, -5),
        (-(10**100), 0),
        (0, -(10**100)),
        (LAST + 1, 0),
        (LAST + 1, 1),
        (LAST, 2),
        (LAST, LAST),
        (2, LAST),
        (0, LAST + 1),
        (2**64, 0),
        (0, 2**64),
        (10**100, 0),
        (0, 10**100),
        (10**100, -1),
    ],
)
def test_ranges_that_no_file_has(unchanged, offset, nbytes):
    calls = [lambda file, _, *span: unlock(file, *span), *locking()]
    for call, mode in itertools.product(calls, ("r", "rw")):
        with pytest.raises(ValueError, match="negative" if min(offset, nbytes) < 0 else str(LAST)):
            call(unchanged, mode, offset, nbytes)


@pytest.mark.parametrize("number", [1.0, 1.5, math.nan, math.inf, "1", b"1", None, [], 1j, fractions.Fraction(1)])
def test_ranges_that_are_no_integers(unchanged, number):
    calls = [lambda file, _, *span: unlock(file, *span), *locking()]
    for call, span in itertools.product(calls, ((number, 0), (0, number), (number, number))):
        with pytest.raises(TypeError):
            call(unchanged, "rw", *span)


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_timeouts_that_are_none(unchanged, opened, mode):
    third = opened()
    for file in unchanged, third:  # also where there would be nothing to wait for
        with pytest.raises(ValueError, match="NaN"):
            lock(file, mode, 0, 2, timeout=math.nan)
        with pytest.raises(ValueError, match="NaN"), locked(file, mode, timeout=decimal.Decimal("nan")):
            raise AssertionError("the block must not run")
        for timeout in "1", b"1", [], {}, 1j, object():
            with pytest.raises(TypeError):
                lock(file, mode, 0, 2, timeout=timeout)
            with pytest.raises(TypeError), locked(file, mode, timeout=timeout):
                raise AssertionError("the block must not run")


@pytest.mark.parametrize(
    "what", [None, True, False, "file", b"file", 1.0, object(), [], Duck(None), Duck("1"), Duck(1.0)]
)
def test_what_is_no_file(unchanged, what):
    assert unchanged
    for call in (unlock, *locking()):
        if isinstance(what, (str, bytes)) and call.__name__ == "with_block":  # which takes paths
            continue
        with pytest.raises(TypeError):
            call(what)


def test_things_without_a_descriptor_are_told_what_is_wanted():
    for what in None, True, "file":
        with pytest.raises(TypeError, match=r"fileno\(\) or be a descriptor"):
            lock(what)


@pytest.mark.parametrize("wrap", [int, Duck])
def test_numbers_that_no_descriptor_has(unchanged, wrap):
    assert unchanged
    for call in (unlock, *locking()):
        with pytest.raises(ValueError):
            call(wrap(-1))
        with pytest.raises((ValueError, OSError, OverflowError)):
            call(wrap(2**40))


@pytest.mark.parametrize("wrap", [int, Duck])
def test_a_descriptor_that_is_closed(unchanged, closable, wrap):
    assert unchanged
    fd = os.open(closable, os.O_RDWR)
    os.close(fd)
    for call in (unlock, *locking()):
        with pytest.raises(OSError) as caught:
            call(wrap(fd))
        assert caught.value.errno == errno.EBADF
        assert not isinstance(caught.value, io.UnsupportedOperation)
        assert caught.value.filename == fd


@pytest.mark.parametrize("kind", [kind for kind in BOTH if kind not in {"descriptor", "duck"}])
def test_a_file_that_is_closed(unchanged, closable, kind):
    assert unchanged
    file = BOTH[kind](closable)
    file.close()
    for call in (unlock, *locking()):
        with pytest.raises(ValueError, match="closed"):
            call(file)


def test_the_file_is_blamed_after_the_arguments(path):
    with open(path) as file:
        pass
    for call in locking():
        with pytest.raises(ValueError, match="mode must be"):
            call(file, "x")


class Unwritable(io.RawIOBase):
    """A file whose writes have errors of their own."""

    def __init__(self, fd, error):
        self.fd = fd
        self.error = error

    def fileno(self):
        return self.fd

    def writable(self):
        return True

    def write(self, _):
        raise self.error


class OurOwnError(OSError):
    """Not made of what other errors of the system are made of."""

    def __init__(self):
        super().__init__(errno.ENOSPC, "it is full")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "it is full"),
        OSError(errno.EBADF, "it is full"),
        FileNotFoundError(errno.ENOENT, "it is full", "another file"),
        io.UnsupportedOperation("it is full"),
        OSError("it is full"),
        OurOwnError(),
        ValueError("it is full"),
    ],
    ids=repr,
)
def test_what_a_file_says_when_it_cannot_be_written_is_heard(one, other, error):
    raw = Unwritable(one.fileno(), error)
    file = io.BufferedWriter(raw)
    lock(file, "rw", 0, 4)
    file.write(b"data")
    with pytest.raises(type(error), match="it is full") as caught:
        unlock(file)
    assert type(caught.value) is type(error)
    if isinstance(error, FileNotFoundError):
        assert caught.value.filename == "another file"
    assert seen(other) == "wwww---- -"
    raw.write = len  # so that the buffer gets rid of it
    unlock(file)
    assert seen(other) == "-------- -"


# -- whose a lock is ---------------------------------------------------------


@pytest.mark.needs("open file locks")
def test_two_open_files_of_one_process_exclude_each_other(one, other):
    lock(one)
    assert not trylock(other)
    with pytest.raises(TimeoutError):
        lock(other, timeout=0.01)
    unlock(one)
    assert trylock(other)
    assert not trylock(one)


@pytest.mark.needs("open file locks")
def test_threads_exclude_each_other(path, opened):
    times = rounds(200)
    total = [0]
    inside = []

    def work():
        with open(path, "r+b", 0) as file:
            for _ in range(times):
                with locked(file, "rw", 3, 1):
                    inside.append(1)
                    assert len(inside) == 1
                    before = total[0]
                    time.sleep(0)  # an invitation to whoever is not excluded
                    total[0] = before + 1
                    inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total == [4 * times]
    assert seen(opened()) == "-------- -"


def test_a_thread_that_waits_lets_others_run_and_is_served(one, other):
    lock_in_parts(one, (0, 2), (2, 0))
    got = []
    thread = threading.Thread(target=lambda: got.append(lock(other, "rw", 2, 1)))
    thread.start()
    until_it_waits(ME, thread.native_id)
    assert not got
    unlock(one, 0, 2)
    until_it_waits(ME, thread.native_id)
    assert not got
    unlock(one, 2)
    thread.join()
    assert got == [True]
    assert in_the_way((2, 1, "rw", whose(other)), one)


@pytest.mark.needs("open file locks")
def test_the_close_of_another_descriptor_loses_nothing(path, one, other):
    lock(one, "rw", 0, 4)
    with open(path, "rb") as third:
        third.read()
    os.close(os.open(path, os.O_RDWR))
    with mmap.open(path, "rw"):
        pass
    os.close(os.dup(one.fileno()))
    assert seen(other) == "wwww---- -"


@pytest.mark.needs("open file locks")
def test_locks_go_with_the_last_close(path, other):
    file = open(path, "r+b")
    lock(file, "rw", 0, 2)
    copy = os.dup(file.fileno())
    lock(copy, "r", 4, 2)  # the same open file
    assert query(file) is None
    whole = lacks("cutting")
    assert trylock(copy, "r", 0, 2 if whole else 1)
    file.close()
    assert seen(other) == ("rr--rr-- -" if whole else "rw--rr-- -")
    os.close(copy)
    assert seen(other) == "-------- -"


def test_duplicates_share(one, other):
    copy = os.dup(one.fileno())
    try:
        lock_in_parts(one, (0, 1), (1, 2), (3, 1))
        assert query(copy) is None
        assert unlock(copy, 1, 2)
        assert seen(other) == "w--w---- -"
        assert trylock(copy, "r", 3, 2)
        assert seen(other) == "w--rr--- -"
    finally:
        os.close(copy)


@pytest.mark.needs("fork")
@pytest.mark.needs("open file locks")
def test_a_forked_child_shares(one, other):
    lock(one, "rw", 0, 4)

    def child():
        answers = query(one), trylock(one, "r", 3, 1), unlock(one, 0, 2), trylock(one, "rw", 6, 1)
        one.close()  # not the last descriptor
        return answers, trylock(other, "rw", 2, 1)

    assert Forked(child).result() == ((None, True, True, True), False)
    assert seen(other) == "--wr--w- -"


@pytest.mark.needs("fork")
@pytest.mark.needs("open file locks")
def test_a_child_that_runs_keeps_the_locks(path, other):
    file = open(path, "r+b", 0)
    lock(file, "rw", 0, 4)
    with Event() as end:
        child = Forked(end.wait)
        with child:
            file.close()
            assert seen(other) == "wwww---- -"
            assert in_the_way((0, 4, "rw", child.pid), other)
            end.set()
            child.wait()
    assert seen(other) == "-------- -"


def test_locks_go_with_the_process(locker, other):
    locker.run("filelock.lock(f, 'rw', 0, 4)")
    assert seen(other) == "wwww---- -"
    locker.kill()
    assert seen(other) == "-------- -"


def test_processes_exclude_each_other(locker, one):
    lock(one, "r", 0, 4)
    assert locker.ask("filelock.trylock(f, 'r', 0, 2)") is True
    assert locker.ask("filelock.trylock(f, 'rw', 2, 2)") is False
    assert trylock(one, "rw", 0, 4) is False
    assert trylock(one, "rw", 2, 2) is True
    assert locker.ask("filelock.trylock(f, 'r')") is False


@pytest.mark.needs("fork")
def test_a_process_that_waits_is_served(one, opened, path):
    lock(one)

    def wait():
        with open(path, "r+b") as file:
            return lock(file, "rw", 2, 2)

    with blocked(wait) as waiter:
        unlock(one)
        assert waiter.result() is True
    assert seen(opened()) == "-------- -"


def classic(fd, kind, start, length):
    """What fcntl.lockf says, False if somebody is in the way."""
    try:
        fcntl.lockf(fd, kind if kind == fcntl.LOCK_UN else kind | fcntl.LOCK_NB, length, start)
    except BlockingIOError:
        return False
    return True


@pytest.mark.needs("classic locks")
@pytest.mark.parametrize("mode", ["r", "w", "rw"])
@pytest.mark.needs("open file locks")
def test_classic_locks_are_excluded(one, other, locker, mode):
    lock(one, mode, 2, 2)
    assert not classic(other, fcntl.LOCK_EX, 0, 0)
    assert not classic(one, fcntl.LOCK_EX, 3, 1)  # another owner even by the same descriptor
    assert classic(other, fcntl.LOCK_SH, 3, 1) is (mode == "r")
    with pytest.raises(Exception, match="BlockingIOError"):
        locker.run("fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 3)")
    assert classic(other, fcntl.LOCK_EX, 4, 0)
    unlock(one)
    assert classic(other, fcntl.LOCK_EX, 0, 0)


@pytest.mark.needs("classic locks")
@pytest.mark.needs("open file locks")
def test_classic_locks_exclude(one, other, locker):
    locker.run("fcntl.lockf(f, fcntl.LOCK_EX, 2, 2)")
    locker.run("fcntl.lockf(f, fcntl.LOCK_SH, 2, 6)")
    fcntl.lockf(other, fcntl.LOCK_SH, 1, 0)  # our own process, but not our open file
    assert seen(one) == "r-ww--rr -"
    assert trylock(one, "r", 0, 1)
    assert not trylock(one, "rw", 0, 1)
    assert not trylock(one, "r")
    assert in_the_way((0, 1, "r", ME), one, "rw", 0, 1)
    assert in_the_way((2, 2, "rw", locker.pid), one, "rw", 1)
    assert in_the_way((2, 2, "rw", locker.pid), one, "r")
    assert in_the_way((6, 2, "r", locker.pid), one, "rw", 4)
    locker.run("fcntl.lockf(f, fcntl.LOCK_UN)")
    assert seen(one) == "r------- -"


@pytest.mark.needs("classic locks")
def test_locks_of_whole_files_are_another_thing(path, one, other, locker):
    lock(one)
    with open(path, "r+b", 0) as whole:
        fcntl.flock(whole, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert query(one) is None
        assert not trylock(other)
        fcntl.flock(whole, fcntl.LOCK_UN)
        locker.run("fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)")
        unlock(one)
        assert trylock(other)


def test_hard_links_are_one_file_and_copies_two(path, tmp_path, one):
    os.link(path, tmp_path / "link")
    (tmp_path / "copy").write_bytes(b"")
    lock(one)
    link, copy = (apart(lambda name=name: open(tmp_path / name, "r+b")) for name in ("link", "copy"))
    with link, copy:
        assert not trylock(link)
        assert trylock(copy)


# -- timeouts ----------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, -1, -0.001, -math.inf, 0, 0.0, -0.0, 1, math.inf, 10**400, True, 2**-1074])
def test_no_timeout_keeps_from_what_is_free(one, other, timeout):
    assert lock(one, "rw", 0, 4, timeout=timeout) is True
    unlock(one)
    with locked(one, "rw", 0, 4, timeout=timeout):
        assert seen(other) == "wwww---- -"


@pytest.mark.parametrize(
    "timeout", [0, 0.0, -0.0, 2**-1074, 0.001, 0.03, fractions.Fraction(1, 50), decimal.Decimal("0.02")]
)
def test_a_timeout_is_never_early(one, other, timeout):
    if fcntl is None or whose(other) != ME:
        lock(other, "rw", 2, 2)
    else:
        classic(other, fcntl.LOCK_EX, 2, 2)  # its owner is known at once: no search takes the time that is to pass
    lock(one, "r", 0, 1)
    begin = time.perf_counter()
    with pytest.raises(TimeoutError) as caught:
        lock(one, "rw", 0, 8, timeout=timeout)
    assert time.perf_counter() - begin >= timeout
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.ETIMEDOUT
    assert caught.value.filename == one.name
    if fcntl is None or whose(other) != ME:
        unlock(other)
    else:
        classic(other, fcntl.LOCK_UN, 0, 0)
    assert seen(other) == "r------- -"  # nothing of it was locked


@pytest.mark.parametrize(
    "timeout", [None, -1, -math.inf, math.inf, 1e300, 10**400, 1e8 + 1, 60, fractions.Fraction(99, 2)]
)
def test_a_wait_ends_when_the_lock_is_free(one, other, timeout):
    lock(one)
    got = []
    thread = threading.Thread(target=lambda: got.append(lock(other, "rw", 2, 2, timeout=timeout)))
    thread.start()
    until_it_waits(ME, thread.native_id)
    assert not got
    unlock(one)
    thread.join()
    assert got == [True]
    assert in_the_way((2, 2, "rw", whose(other)), one)


@pytest.mark.needs("open file locks")
def test_many_wait_for_one_with_and_without_timeout(one, opened):
    lock(one)
    files = [opened() for _ in range(8)]
    times = rounds(20)
    got = []

    def work(file, timeout):
        for _ in range(times):
            with locked(file, "rw", 1, 1, timeout=timeout):
                got.append(seen(one)[1])

    threads = [threading.Thread(target=work, args=(file, (None, 60)[i % 2])) for i, file in enumerate(files)]
    for thread in threads:
        thread.start()
    unlock(one)
    for thread in threads:
        thread.join()
    assert got == ["w"] * 8 * times


# -- who is in the way -------------------------------------------------------


def told(file, mode="rw", offset=0, nbytes=0):
    """What the error of a lock that cannot be had says."""
    for _ in range(20):  # the search for the holder has little time
        with pytest.raises(TimeoutError) as caught:
            lock(file, mode, offset, nbytes, timeout=0)
        if "another process" not in caught.value.strerror:
            break
    assert caught.value.errno == errno.ETIMEDOUT
    assert caught.value.filename == (file if isinstance(file, int) else file.name)
    return caught.value.strerror


HOLDERS = {
    "open file": ("filelock.lock(f, {}, {}, {})", "'r'", "'rw'"),
    "classic": ("fcntl.lockf(f, {0}, {2}, {1})", "fcntl.LOCK_SH", "fcntl.LOCK_EX"),
}


@pytest.mark.needs("holders")
@pytest.mark.parametrize("kind", HOLDERS)
@pytest.mark.parametrize(("mode", "does"), [("r", "shared"), ("rw", "locked")])
@pytest.mark.parametrize(("start", "length", "span"), [(2, 3, "bytes 2 to 4"), (5, 0, "all bytes from 5 on")])
def test_another_process_is_named(locker, one, kind, mode, does, start, length, span):
    call, *modes = HOLDERS[kind]
    locker.run(call.format(modes[mode == "rw"], start, length))
    holder = query(one)
    assert holder == Holder(start, length, mode, locker.pid)
    assert (holder.start, holder.length, holder.mode, holder.pid) == holder
    assert query(one, "rw", start + 1, 1) == holder
    assert query(one, "r") == (None if mode == "r" else holder)
    assert query(one, "rw", 0, start) is None
    who = f"process {locker.pid}{command(locker.pid)}"
    assert told(one) == f"{does} by {who}, {span}"
    assert told(one.fileno()) == told(one)
    locker.kill()
    assert query(one) is None


@pytest.mark.needs("holders")
@pytest.mark.parametrize(
    "take", [lambda file: lock(file, "r", 2, 3), lambda file: fcntl.lockf(file, fcntl.LOCK_SH, 3, 2)]
)
@pytest.mark.needs("open file locks")
def test_ones_own_process_is_named(one, other, take):
    take(other)
    assert in_the_way((2, 3, "r", ME), one)
    assert told(one) == f"shared by process {ME}{command(ME)}, bytes 2 to 4"


def test_each_holder_is_named_for_what_it_has(peer, path, one):
    rivals = [peer("from ipcio import filelock", f"f = open({path!r}, 'r+b', 0)") for _ in range(2)]
    for at, rival in enumerate(rivals):
        rival.run(f"filelock.lock(f, 'r', {4 * at}, 2)")
        rival.run(f"filelock.lock(f, 'rw', {4 * at + 2}, 2)")
    for at, rival in enumerate(rivals):
        assert in_the_way((4 * at, 2, "r", rival.pid), one, "rw", 4 * at, 2)
        assert in_the_way((4 * at + 2, 2, "rw", rival.pid), one, "r", 4 * at, 4)


def test_who_shares_with_us_is_named_and_not_we(locker, one):
    lock(one, "r", 2, 3)
    locker.run("filelock.lock(f, 'r', 2, 3)")
    if not lacks("holders"):  # else it cannot be found out without letting go
        assert query(one) == (2, 3, "r", locker.pid)
    assert query(one, "r") is None
    assert not trylock(one)
    unlock(one)
    assert locker.ask("filelock.trylock(f, 'rw')")


@pytest.mark.needs("fork")
def test_our_own_child_is_not_named_for_what_another_has(peer, path, one):
    """It has our open file, whose lock is not in our way, though it looks like the one that is."""
    lock(one, "r", 2, 3)
    with Event() as end, Forked(end.wait) as child:
        rival = peer("from ipcio import filelock", f"f = open({path!r}, 'rb', 0)", "filelock.lock(f, 'r', 2, 3)")
        holder = query(one)
        end.set()
        child.wait()
    assert holder in {(2, 3, "r", rival.pid), (2, 3, "r", None)}


@pytest.mark.needs("holders", "commands")
def test_a_command_of_any_name(peer, path, one):
    text = "a (b) c\\u00e9"
    holder = peer("from ipcio import filelock", f"f = open({path!r}, 'r+b', 0)")
    holder.run(f"open('/proc/self/comm', 'w', encoding='utf-8').write('{text}')")
    holder.run("filelock.lock(f)")
    assert told(one).startswith(f"locked by process {holder.pid} (a (b) c\u00e9), all")
    holder.run(r"open('/proc/self/comm', 'wb', 0).write(b'\xff\xfe')")
    assert f"process {holder.pid} (" in told(one)


@pytest.mark.needs("users")
@pytest.mark.root
@pytest.mark.needs("open file locks")
def test_who_may_not_look_does_not_guess():
    """The other process is hidden from this user, and the same lock of one's own is in nobody's way."""

    def child(fd):
        with open(f"/proc/self/fd/{fd}", "r+b", 0) as file:
            lock(file, "r", 2, 3)
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.close(fd)
            return query(file)

    fd = os.memfd_create("ipcio-test")
    try:
        lock(fd, "r", 2, 3)
        assert Forked(child, fd).result() == Holder(2, 3, "r", None)
    finally:
        os.close(fd)


def test_a_query_changes_nothing(one, other):
    lock(one, "r", 0, 2)
    for mode, file in itertools.product(("r", "w", "rw"), (one, other)):
        query(file, mode)
    assert seen(other) == "rr------ -"
    assert seen(one) == "-------- -"


# -- with --------------------------------------------------------------------


def test_an_exception_in_the_block_passes_and_unlocks(one, other):
    class Oops(BaseException):
        pass

    oops = Oops()
    with pytest.raises(Oops) as caught, locked(one, "rw", 0, 4):
        raise oops
    assert caught.value is oops
    assert caught.value.__context__ is None
    assert seen(other) == "-------- -"


@each_kind
def test_a_block_unlocks_its_own_range_only(one, other, mode):
    letter = mode[-1]
    lock(one, "rw", 6, 2)
    with locked(one, mode, 0, 3):
        with locked(one, "r", 2, 2):
            assert seen(other) == f"{letter}{letter}rr--ww -"
        assert seen(other) == f"{letter}{letter}----ww -"
    assert seen(other) == "------ww -"


def test_locked_can_be_used_again(one, other):
    record = locked(one, "rw", 0, 4)
    assert seen(other) == "-------- -"  # not before the block
    for _ in range(2):
        with record as file:
            assert file is one
            assert seen(other) == "wwww---- -"
        assert seen(other) == "-------- -"


def test_locked_leaves_the_block_by_any_way(one, other):
    def leave():
        with locked(one):
            return seen(other)

    assert leave() == "wwwwwwww w"
    for _ in range(2):
        with locked(one):
            continue
    assert seen(other) == "-------- -"


# -- thousands of operations -------------------------------------------------


class Model:
    """Range locks of several owners over a few bytes, of which the last stands for all the rest."""

    def __init__(self, owners, size):
        self.cells = {owner: [""] * size for owner in owners}
        self.size = size

    def span(self, start, length):
        return range(start, start + length if length else self.size)

    def in_the_way(self, owner, mode, start, length):
        """The locks of others, each as (first cell, number of cells, mode), that do not go with that one."""
        found = set()
        for theirs, cells in self.cells.items():
            at = 0
            for kind, run in itertools.groupby(cells):
                count = len(list(run))
                meets = set(range(at, at + count)) & set(self.span(start, length))
                if theirs != owner and kind and meets and "rw" in {kind, mode}:
                    found.add((at, count, kind))
                at += count
        return found

    def put(self, owner, mode, start, length):
        for at in self.span(start, length):
            self.cells[owner][at] = mode


@pytest.mark.needs("classic locks", "cutting", "holders")
@pytest.mark.parametrize("base", [0, 2**31 - 6, 2**32 - 6, LAST - 12], ids=["zero", "31 bits", "32 bits", "last byte"])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.needs("open file locks")
def test_random_operations_against_a_model(opened, base, seed):
    size = 13  # the last one is all from there to infinity
    choose = random.Random(f"{base} {seed}")
    makers = [lambda: opened("r+b", 0), lambda: opened("r+b", -1), lambda: opened("r+", -1)]
    files = [make() for make in makers]
    copy = os.dup(files[0].fileno())
    process = opened()  # locked by the classic way: its owner is this process
    probe = opened()
    model = Model([0, 1, 2, "process"], size)
    history = []

    def real(start, length):
        """That range in the file: to infinity if it has the last cell, unless that is the last byte."""
        if start + length == size and base + size <= LAST:
            length = 0
        return base + start, length

    try:
        for step in range(1000):
            owner = choose.choice([0, 0, 1, 1, 2, 2, "process"])
            mode = choose.choice(["r", "rw"])
            start = choose.randrange(size)
            length = choose.randrange(size - start + 1)  # 0 is to infinity
            action = choose.choices(["lock", "unlock", "query", "close"], [6, 3, 1, 0.05])[0]
            history = [*history[-20:], (action, owner, mode, start, length)]
            span = real(start, length)
            ways = model.in_the_way(owner, mode, start, length)
            file = None if owner == "process" else files[owner]
            if owner == 0 and choose.random() < 0.3:
                file = copy  # the same open file
            if owner == "process" and action in {"lock", "unlock"}:
                kind = {"r": fcntl.LOCK_SH, "rw": fcntl.LOCK_EX}[mode] if action == "lock" else fcntl.LOCK_UN
                fine = classic(process, kind, *span)
                assert fine is (action == "unlock" or not ways), history
                if fine:
                    model.put(owner, mode if action == "lock" else "", start, length)
            elif action == "lock":
                mode = choose.choice(["w", "rw"]) if mode == "rw" else mode
                if choose.random() < 0.5:
                    fine = trylock(file, mode, *span)
                else:
                    try:
                        fine = lock(file, mode, *span, timeout=0 if ways else None)
                    except TimeoutError:
                        fine = False
                assert fine is (not ways), history
                if fine:
                    model.put(owner, "r" if mode == "r" else "rw", start, length)
            elif action == "unlock":
                assert unlock(file, *span) is True
                model.put(owner, "", start, length)
            elif action == "query" and file is not None:
                answer = query(file, mode, *span)
                if answer is None:
                    assert not ways, history
                else:
                    first = answer.start - base
                    count = answer.length or size - first
                    assert (first, count, answer.mode) in ways, (answer, history)
                    assert answer.pid == ME, history
            elif action == "close" and owner in {1, 2}:
                files[owner].close()
                files[owner] = makers[owner]()
                model.put(owner, "", 0, 0)
                model.put("process", "", 0, 0)  # the curse of classic locks: any close loses them
            if step % 4 == 0:
                letters = "".join(max(cells[at] for cells in model.cells.values())[-1:] or "-" for at in range(size))
                assert seen(probe, size=size, start=base) == f"{letters} {letters[-1]}", history
    finally:
        os.close(copy)
