"""`shm.create(init=)`: no process sees a segment before its first contents are there."""

from __future__ import annotations

import os
import signal

import pytest
from abilities import lacks
from children import leave_orphan

from ipcio import shm

KINDS = pytest.mark.parametrize("persist", [False, pytest.param(True, marks=pytest.mark.needs("persistence"))])


def gone(name: str) -> bool:
    try:
        shm.attach(name).close()
    except FileNotFoundError:
        return True
    return False


@KINDS
def test_the_name_appears_with_the_first_contents(name, peer, persist):
    """The position is 0, and the handle is as usual."""
    other = peer()
    missing = []

    def init(h):
        h.write(b"first")
        other.run(f"try: shm.attach({name!r})\nexcept FileNotFoundError: found = False\nelse: found = True")
        missing.append(not other.ask("found"))

    with shm.create(name, 10, persist=persist, init=init) as h:
        assert missing == [True]
        assert h.created
        assert h.tell() == 0
        assert other.ask(f"shm.attach({name!r}).read()") == b"first" + bytes(5)
        assert h.read() == b"first" + bytes(5)
        h.seek(0)
        h.write(b"later")
        assert other.ask(f"shm.attach({name!r}).read(5)") == b"later"
    assert gone(name) is not persist
    if persist:
        shm.unlink(name)


@pytest.mark.parametrize("error", [FileExistsError("mine"), FileNotFoundError(2, "text", "file"), KeyboardInterrupt()])
@pytest.mark.parametrize("exist_ok", [False, True])
@KINDS
def test_what_init_raises_is_raised_and_nothing_was_made(name, error, exist_ok, persist):
    """Its text stays as it was: it is no error about the segment."""
    kept = []

    def init(h):
        kept.append(h)
        raise error

    before = str(error)
    with pytest.raises(type(error)) as raised:
        shm.create(name, 10, exist_ok=exist_ok, persist=persist, init=init)
    assert raised.value is error
    assert str(error) == before
    assert [h.closed for h in kept] == [True]
    assert gone(name)
    error.__traceback__ = None  # pytest keeps the error, and the frames would keep the memory open


def test_init_runs_only_where_the_segment_is_made(name):
    calls = []
    with shm.create(name, 10, exist_ok=True, init=calls.append), shm.create(name, 10, exist_ok=True, init=calls.append):
        with pytest.raises(FileExistsError):
            shm.create(name, 10, init=calls.append)
        assert len(calls) == 1


@KINDS
def test_of_two_that_create_at_once_one_creates(name, persist):
    """The init of the other one has run in vain, and what it wrote is nowhere."""
    winners = []

    def init(h):
        h.write(b"loser")
        winners.append(shm.create(name, 10, persist=persist))

    with shm.create(name, 10, exist_ok=True, persist=persist, init=init) as h:
        assert not h.created
        assert winners[0].created
        assert h.read() == bytes(10)
        with pytest.raises(FileExistsError):
            shm.create(name, 10, init=lambda _: None)
    winners[0].close()
    assert gone(name) is not persist
    if persist:
        shm.unlink(name)


def test_a_handle_that_init_closes_is_an_error(name):
    with pytest.raises(ValueError, match="closed"):
        shm.create(name, 10, init=lambda h: h.close())
    with pytest.raises(TypeError, match="init must be a function"):
        shm.create(name, 10, init=b"first")
    assert gone(name)


@pytest.mark.able(probe=lambda: lacks("files"))
def test_where_a_segment_cannot_be_without_a_name_init_gets_private_memory(name):
    """Its bytes are copied, and its handle is closed."""
    kept = []
    with shm.create(name, 10, init=lambda h: kept.append((h, h.write(b"first")))) as h:
        assert kept[0][0] is not h
        assert kept[0][0].closed
        assert h.read(5) == b"first"


@pytest.mark.needs("files", "fork")
@KINDS
def test_a_kill_within_init_leaves_nothing(name, persist):
    before = os.listdir("/dev/shm")
    leave_orphan(
        lambda: shm.create(name, 10, persist=persist, init=lambda _: os.kill(os.getpid(), signal.SIGKILL)),
    )
    assert not [each for each in os.listdir("/dev/shm") if each not in before and name in each]
    assert gone(name)


def test_first_contents_that_find_no_room_are_an_error(name):
    with pytest.raises(OSError, match=name):
        shm.create(name, 1 << 60, init=lambda h: h.write(b"x"))
    assert gone(name)
