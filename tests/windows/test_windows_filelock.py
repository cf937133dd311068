"""Locks where the system's own know no parts of ranges: what is made of them, and that their table never lies."""

from __future__ import annotations

import _thread
import ctypes
import errno
import os
import random
import threading
from contextlib import ExitStack

import pytest
from abilities import lacks
from campaigns import FACTOR, rounds
from troubles import interrupted_after

from ipcio.filelock import Holder, lock, locked, query, trylock, unlock

if hasattr(ctypes, "WinDLL"):
    from ipcio._windows import filelock as backend
else:
    backend = None

windows = pytest.mark.able(probe=lambda: backend is not None)
END = 2**63


@pytest.fixture
def path(tmp_path):
    where = tmp_path / "file"
    where.write_bytes(b"0123456789")
    return str(where)


@pytest.fixture
def opened(path):
    with ExitStack() as files:
        yield lambda mode="r+b": files.enter_context(open(path, mode, 0))


@pytest.fixture
def one(opened):
    return opened()


@pytest.fixture
def other(opened):
    return opened()


@pytest.fixture(autouse=True)
def nothing_is_remembered():
    """Of open files that are closed, when another one of the same file is used."""
    yield
    if backend is not None:
        backend._sweep()
        assert not backend._open_files


def letters(probe, size=12):
    """How each byte is locked by others: "r", "w" or "-"."""

    def letter(at):
        free = [trylock(probe, mode, at, 1) and unlock(probe, at, 1) for mode in ("r", "rw")]
        return {(True, True): "-", (True, False): "r", (False, False): "w"}[tuple(free)]

    return "".join(map(letter, range(size)))


# -- parts of what is locked -------------------------------------------------


@windows
@pytest.mark.parametrize("span", [(0, 4), (6, 4), (4, 2), (0, 9), (5, 0), (9, 1)])
def test_of_an_exclusive_lock_no_part_can_be_let_go_or_shared(one, other, span):
    lock(one, "rw", 2, 8)
    lock(one, "r", 0, 1)
    for refused in (
        unlock,
        lambda *args: lock(args[0], "r", *args[1:]),
        lambda *args: trylock(args[0], "r", *args[1:]),
    ):
        with pytest.raises(NotImplementedError, match="bytes 2 to 9"):
            refused(one, *span)
        assert letters(other) == "r-wwwwwwww--"
    with pytest.raises(NotImplementedError), locked(one, "r", *span):
        raise AssertionError("the block must not run")
    lock(one, "rw", *span)  # but what is to be exclusive may have any range
    unlock(one)
    assert letters(other) == "-" * 12


@windows
def test_exclusive_locks_that_were_had_apart_are_let_go_apart_or_together(one, other):
    for start in 0, 2, 4, 6:
        lock(one, "rw", start, 2)
    unlock(one, 2, 2)
    assert letters(other) == "ww--wwww----"
    lock(one, "r", 4, 4)
    assert letters(other) == "ww--rrrr----"
    unlock(one, 0, 7)
    assert letters(other) == "-------r----"


@windows
def test_no_lock_is_granted_while_exclusive_becomes_shared(path, one):
    """Another process tries without a pause to lock the bytes."""
    got = []
    records = [0]  # those that are locked
    stop = threading.Event()

    def rival():
        with open(path, "r+b", 0) as file:
            while not stop.is_set():
                got.append(trylock(file, "rw", 4 * records[-1], 4))

    lock(one, "rw", 0, 4)
    thread = threading.Thread(target=rival)
    thread.start()
    try:
        for number in range(1, 50):
            lock(one, "rw", 4 * number, 4)
            records.append(number)
            lock(one, "r", 4 * number, 4)
    finally:
        stop.set()
        thread.join()
    assert got
    assert not any(got)


@windows
def test_an_upgrade_that_fails_gets_the_share_back(one, other, opened):
    third = opened()
    lock(one, "r", 0, 6)
    lock(other, "r", 4, 2)
    assert not trylock(one, "rw", 2, 6)
    assert letters(third) == "rrrrrr------"
    unlock(other)
    assert trylock(one, "rw", 2, 6)
    assert letters(third) == "rrwwwwww----"


@windows
def test_what_cannot_be_had_as_a_whole_is_not_had_in_part(one, other, opened):
    third = opened()
    lock(one, "rw", 4, 1)
    lock(other, "rw", 8, 1)
    for mode in "r", "rw":
        if mode == "rw":
            assert not trylock(one, mode, 0, 12)
        else:
            assert not trylock(one, mode, 0, 10)
        assert letters(third) == "----w---w---"


# -- the answers -------------------------------------------------------------


@windows
@pytest.mark.parametrize("mode", ["r", "rw"])
def test_query_reports_the_range_that_was_asked_for(one, other, mode):
    lock(other, mode, 3, 2)
    assert query(one, "rw", 0, 8) == Holder(0, 8, mode, None)
    assert query(one, "rw", 4, 0) == Holder(4, 0, mode, None)
    assert query(one, "rw", 4, END - 4) is not None
    assert query(one, "r", 0, 8) == (None if mode == "r" else Holder(0, 8, "rw", None))
    assert query(one, "rw", 5, 8) is None
    with pytest.raises(TimeoutError, match="by another process, bytes 0 to 7") as caught:
        lock(one, "rw", 0, 8, timeout=0.01)
    assert caught.value.errno == errno.ETIMEDOUT
    assert letters(one) == "---rr-------".replace("r", mode[-1])


@windows
def test_what_cannot_be_locked_at_all():
    reader, writer = os.pipe()
    try:
        for call in lock, trylock, query:
            with pytest.raises(OSError) as caught:
                call(reader, "r")
            assert caught.value.errno == errno.EINVAL
            assert caught.value.filename == reader
        assert unlock(reader)
    finally:
        os.close(reader)
        os.close(writer)


@windows
@pytest.mark.parametrize("timeout", [None, 30])
def test_ctrl_c_ends_a_wait(one, other, timeout):
    lock(other, "rw", 4, 4)
    lock(one, "rw", 0, 2)
    timer = threading.Timer(0.2, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        lock(one, "rw", 2, 4, timeout=timeout)
    timer.join()
    unlock(other)
    assert letters(other) == "ww----------"


# -- whose the pieces are ----------------------------------------------------


@windows
def test_a_file_that_was_closed_without_unlocking_is_not_taken_for_the_next(path, other):
    """Which has its number, and most often its handle."""
    for _ in range(20):
        fd = os.open(path, os.O_RDWR | os.O_BINARY)
        assert lock(fd, "rw", 0, 4)
        os.close(fd)
        again = os.open(path, os.O_RDWR | os.O_BINARY)
        try:
            assert again == fd
            lock(other, "rw", 2, 1)
            assert not trylock(again, "rw", 0, 4)  # it has nothing
            assert unlock(again)
            assert letters(again, 4) == "--w-"
            unlock(other)
            assert trylock(again, "rw", 0, 4)
            assert letters(other, 4) == "wwww"
        finally:
            os.close(again)
    assert letters(other, 4) == "----"


@windows
def test_a_duplicate_keeps_what_its_original_locked_when_that_ones_number_is_anothers(path, other):
    first = os.open(path, os.O_RDWR | os.O_BINARY)
    lock(first, "rw", 0, 4)
    copy = os.dup(first)
    os.close(first)
    again = os.open(path, os.O_RDWR | os.O_BINARY)
    try:
        assert again == first
        assert not trylock(again, "r", 0, 1)
        assert trylock(again, "rw", 4, 4)
        assert trylock(copy, "rw", 0, 4)  # it has that
        assert not trylock(copy, "rw", 4, 1)
        assert letters(other) == "wwwwwwww----"
        unlock(copy)
        assert letters(other) == "----wwww----"
    finally:
        os.close(copy)
        os.close(again)


@windows
def test_files_that_are_closed_without_unlocking_do_not_pile_up(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "_next_sweep", 10)
    monkeypatch.setattr(backend, "_FIRST_SWEEP", 10)
    for number in range(40):
        with open(tmp_path / str(number), "wb") as file:
            lock(file)
    assert len(backend._open_files) <= 10


@windows
def test_an_interrupt_after_any_call_leaves_no_lock_and_no_false_memory(path, other):
    def inside(name):
        return name in {"ipcio._windows.filelock", "ipcio._windows.pieces"} or name.startswith("ipcio._filelock.")

    def pair(file):
        lock(file, "r", 0, 6)
        lock(file, "rw", 2, 2)

    for count in range(0, 500, 1 if FACTOR >= 1 else 3):
        with open(path, "r+b", 0) as file:
            lock(file, "r", 8, 2)
            if not interrupted_after(count, lambda file=file: pair(file), inside):
                break
            assert letters(other)[:8] in {"-" * 8, "rrrrrr--", "rr--rr--"}, count
            assert letters(other)[8:] == "rr--"
            assert lock(file, "rw", 0, 6)
            assert letters(other)[:6] == "w" * 6, count
            unlock(file)
            assert letters(other) == "-" * 12, count
    assert count > 20


# -- thousands of operations -------------------------------------------------


@pytest.mark.needs("open file locks")
@pytest.mark.parametrize("seed", range(2))
def test_random_sequences_of_three_open_files_against_a_model(opened, seed):
    """On every system; what Windows may refuse, it must refuse exactly where a part of an exclusive lock is meant."""
    choose = random.Random(seed)
    size = 12
    files = [opened() for _ in range(3)]
    probe = opened()
    cells = [[""] * size for _ in files]
    pieces = [{} for _ in files]  # which lock each exclusive byte came with
    for step in range(rounds(150)):
        me = choose.randrange(3)
        start = choose.randrange(size)
        stop = choose.randrange(start, size) + 1
        mode = choose.choice(["r", "rw", ""])
        span = range(start, stop)
        owned = pieces[me]
        cut = (
            lacks("cutting")
            and mode != "rw"
            and any(
                at in owned and any(owned.get(out) == owned[at] for out in range(size) if out not in span)
                for at in span
            )
        )
        met = {cells[theirs][at] for theirs in range(3) if theirs != me for at in span} - {""}
        fine = not mode or not met or (mode == "r" and met == {"r"})
        try:
            if mode:
                got = trylock(files[me], mode, start, stop - start)
                assert not cut, step
                assert got is fine, step
            else:
                assert unlock(files[me], start, stop - start)
                assert not cut, step
        except NotImplementedError:
            assert cut, step
            continue
        if fine:
            gap = None
            for at in span:
                if mode != "rw":
                    owned.pop(at, None)
                elif at not in owned:
                    # What was free and what was shared is locked by runs, each a lock of its own.
                    if gap is None or gap[0] != at - 1 or gap[1] != cells[me][at]:
                        gap = [at, cells[me][at], (step, at)]
                    gap[0] = at
                    owned[at] = gap[2]
            for at in span:
                cells[me][at] = mode
        expected = "".join(max(each[at] for each in cells)[-1:] or "-" for at in range(size))
        assert letters(probe, size) == expected, step
