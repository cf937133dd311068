"""A queue between processes: each message to one reader, shutdown for all, and users that may write to it."""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import sys
import threading
import time

import pytest
from abilities import lacks
from children import Forked, leave_orphan
from named_contract import FILES, NOBODY, SOMEBODY
from waiting import blocked

import ipcio
from ipcio import queue

DEADLINE = 30
needs_fork = pytest.mark.needs("fork")


def entries(name):
    return [each for each in ipcio.list_objects() if each.name == name]


@pytest.mark.parametrize("perm", [0o600, pytest.param(0o666, marks=needs_fork)])
def test_each_message_goes_to_one_reader_in_the_order_of_its_writer(name, perm, peer):
    with queue.create(name, 500, perm=perm) as q:
        others = [peer(f"q = queue.attach({name!r})") for _ in range(4)]
        for reader in others[:2]:
            reader.send("run", "got = list(q)")
        for me, writer in enumerate(others[2:]):
            writer.send("run", f"for number in range(250): q.put(bytes([{me}, number]))")
        for writer in others[2:]:
            writer.answer()
        q.shutdown()
        got = []
        for reader in others[:2]:
            reader.answer()
            got.append(reader.ask("got"))
        assert sorted(itertools.chain(*got)) == [bytes([me, number]) for me in range(2) for number in range(250)]
        for messages in got:
            for me in range(2):
                mine = [message[1] for message in messages if message[0] == me]
                assert mine == sorted(mine)


@needs_fork
@pytest.mark.parametrize("perm", [0o600, 0o666])
def test_a_sleeping_process_is_woken_by_a_message_by_room_and_by_the_shutdown(name, perm):
    with queue.create(name, 50, perm=perm) as q:
        with blocked(q.get) as reader:
            start = time.monotonic()
            q.put(b"x")
            assert reader.result() == b"x"
        q.put(bytes(34))
        with blocked(q.put, bytes(34)) as writer:
            assert q.get() == bytes(34)
            writer.result()
        assert q.get() == bytes(34)

        def ends():
            try:
                q.get()
            except queue.ShutDown:
                return True

        with blocked(ends) as one, blocked(ends) as two:
            q.shutdown()
            assert one.result()
            assert two.result()
        assert time.monotonic() - start < 5


@needs_fork
def test_a_shutdown_ends_the_wait_for_room(name):
    with queue.create(name, 50) as q:
        q.put(bytes(34))

        def ends():
            try:
                q.put(b"")
            except queue.ShutDown:
                return True

        with blocked(ends) as writer:
            q.shutdown()
            assert writer.result()


@needs_fork
def test_a_wait_costs_no_processor_time(name):
    if lacks("proc"):
        pytest.skip(lacks("proc"))
    with queue.create(name, 50) as q:
        before = time.process_time()
        with pytest.raises(queue.Empty):
            q.get(timeout=0.5)
        assert time.process_time() - before < 0.05


def test_a_wake_up_is_never_lost(name, peer):
    """Two hundred times both processes wait for each other in turn; a lost wake-up costs 0.1 s each time."""
    with queue.create(name, 100) as there, queue.create(f"{name}-back", 100) as back:
        other = peer(f"there, back = queue.attach({name!r}), queue.attach({name + '-back'!r})")
        other.send("run", "for message in there: back.put(message)")
        times = []
        for number in range(200):
            start = time.monotonic()
            there.put(bytes([number]))
            assert back.get(timeout=DEADLINE) == bytes([number])
            times.append(time.monotonic() - start)
        there.shutdown()
        other.answer()
        other.run("there.close(); back.close()")
        if not lacks("proc"):
            assert sum(each > 0.09 for each in times) < 5, "wake-ups were lost"


@needs_fork
def test_a_handle_works_on_both_sides_of_a_fork(name):
    with queue.create(name, 100) as q:
        with Forked(lambda: (q.put(b"child"), q.get())) as child:
            assert child.result()[1] == b"child"
        q.put(b"parent")
        assert q.get() == b"parent"


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_handle_is_attached_again(name, protocol):
    with queue.create(name, 100) as q, pickle.loads(pickle.dumps(q, protocol)) as other:
        assert not other.created
        q.put(b"x")
        assert other.get() == b"x"
    with queue.create(name, 100) as q:
        pickled = pickle.dumps(q)
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickled)


@pytest.mark.root
@pytest.mark.needs("users", "objects for others")
def test_users_that_may_write_to_it_share_a_queue(name, peer):
    one = peer(f"q = queue.create({name!r}, 500, perm=0o666)", user=NOBODY)
    two = peer(f"q = queue.attach({name!r})", user=SOMEBODY)
    two.send("run", "got = list(q)")
    one.run("for number in range(100): q.put(bytes([number]) * 10)\nq.shutdown()")
    two.answer()
    assert two.ask("got") == [bytes([number]) * 10 for number in range(100)]


@pytest.mark.root
@pytest.mark.needs("users", "objects for others")
def test_a_user_who_may_write_to_it_can_do_no_more_than_disturb(name, peer):
    """One rewrites every byte, again and again, and cuts the file short; the others get errors, messages or waits."""
    hostile = peer(user=SOMEBODY)
    victims = [peer(f"q = queue.create({name!r}, 3000, perm=0o666, exist_ok=True)", user=NOBODY) for _ in range(2)]
    hostile.run(f"fd = os.open('/dev/shm/ipcio.queue.{name}', os.O_RDWR)")
    hostile.send(
        "run",
        "end, turn = time.monotonic() + 1.2, 0\n"
        "while time.monotonic() < end:\n"
        "    turn += 1\n"
        "    os.pwrite(fd, os.urandom(7096 - 64), 64)\n"
        "    if turn % 2: os.pwrite(fd, (4096 + turn % 3000).to_bytes(8, 'little') * 2, 192)\n"
        "    if not os.urandom(1)[0]: os.ftruncate(fd, os.urandom(1)[0] * 16); os.ftruncate(fd, 7096)",
    )
    for victim in victims:
        victim.send(
            "run",
            "end, seen = time.monotonic() + 0.9, set()\n"
            "calls = (lambda: q.put(bytes(50), timeout=0.01), lambda: q.get(timeout=0.01), q.qsize, q.full, q.empty,\n"
            "    lambda: q.get_into(bytearray(5000), timeout=0), q.get_nowait, lambda: q.put_nowait(b''))\n"
            "while time.monotonic() < end:\n"
            "    for call in calls:\n"
            "        try: call()\n"
            "        except (OSError, queue.Full, queue.Empty, queue.ShutDown) as error: seen.add(type(error))\n",
        )
    for each in (*victims, hostile):
        each.answer()
    for victim in victims:
        assert "OSError" in victim.ask("[each.__name__ for each in seen]")
        victim.run("q.close()")
    hostile.run("os.close(fd)")
    with queue.create(name, 100) as q:
        assert q.created


@pytest.mark.needs("fork", "cuts", "posix")
def test_a_file_that_is_cut_short_is_an_error_and_no_sigbus(name):
    """For a queue that other users may write to: its memory is not touched."""
    from ipcio._posix.namespace import segment_path

    def use():
        found = []
        with queue.create(name, 100, perm=0o666) as q:
            q.put(b"x")
            waiting = threading.Thread(target=lambda: found.append(errors(lambda: q.put(bytes(80)))))
            waiting.start()
            time.sleep(0.1)
            os.truncate(segment_path(name, "queue"), 0)
            waiting.join()
            calls = q.get, q.get_nowait, q.qsize, q.full, q.shutdown, lambda: q.put(b"")
            found += map(errors, (*calls, lambda: q.get_into(bytearray(9))))
        return found

    assert Forked(use).result() == [errno.EFAULT] * 8


def errors(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return None


@pytest.mark.parametrize("perm", [0o600, pytest.param(0o666, marks=needs_fork)])
def test_a_damaged_queue_is_an_error_each_time(name, perm):
    """Positions outside the ring, counts that do not fit, a length or a stamp that is not that of the message."""
    from ipcio import _ring_state as state

    with queue.create(name, 200, perm=perm) as q:
        for number in range(12):
            q.put(bytes([number]) * 40)
            q.put(b"second")
            if number < 11:
                q.get()
                q.get()
        sound = q._cells[state.TAIL], q._cells[state.HEAD]
        at = sound[1] & state.POSITION
        assert at + 80 < 4296
        gets = [q.get_nowait, lambda: q.get_into(bytearray(200), False), lambda: q.get(timeout=1), q.qsize]
        puts = [lambda: q.put_nowait(b""), lambda: q.put(bytearray(1), timeout=1)]
        bad = [0, 1, 4095, 4296, 1 << 40]
        cases = [((value, sound[1]), [q.qsize, *puts]) for value in bad]
        cases += [((sound[0], value), gets) for value in bad]
        cases += [((value, value), gets + puts) for value in bad]
        cases += [((sound[0] + state.MESSAGE * 20, sound[1]), [q.qsize]), ((sound[0], sound[1] + 1), gets[:3])]
        for cells, calls in cases:
            q._cells[state.TAIL], q._cells[state.HEAD] = cells
            for call in calls:
                with pytest.raises(OSError, match="damaged"):
                    call()
        q._cells[state.TAIL], q._cells[state.HEAD] = sound
        for place, values in (at, [200, 1 << 20, (1 << 64) - 1]), (at + 8, [0, sound[1] + 1, (1 << 64) - 1]):
            before = q._bytes[place : place + 8]
            for value in values:
                q._bytes[place : place + 8] = value.to_bytes(8, sys.byteorder)
                for call in gets[:3]:
                    with pytest.raises(OSError, match="damaged"):
                        call()
            q._bytes[place : place + 8] = before
        assert [q.get(), q.get()] == [bytes([11]) * 40, b"second"]


def test_counts_and_positions_go_round_for_ever(name):
    """The count of messages wraps after 2**29, which no test puts; so it begins right before that."""
    from ipcio import _ring_state as state

    with queue.create(name, 100) as q:
        q._cells[state.TAIL] = q._cells[state.HEAD] = 4096 + ((1 << 29) - 5) * state.MESSAGE
        for number in range(40):
            q.put(bytes([number]) * 20)
            q.put(bytes([number]))
            assert q.qsize() == 2
            assert (q.get(), q.get()) == (bytes([number]) * 20, bytes([number]))
            assert q.empty()
        assert q._cells[state.TAIL] < 1 << 60


def test_it_is_listed_with_its_size_and_its_holders(name):
    with queue.create(name, 1000) as q:
        (entry,) = entries(name)
        assert entry.kind == "queue"
        if FILES:
            assert (entry.perm, entry.state) == ("0600", "live")
            assert [holder.pid for holder in entry.holders] == [os.getpid()]
        q.put(b"x")
    assert not entries(name)


@pytest.mark.gc
@needs_fork
def test_what_a_killed_process_left_is_an_orphan_that_gc_removes(name):
    leave_orphan(lambda: queue.create(name, 100))
    (entry,) = entries(name)
    assert (entry.kind, entry.state) == ("queue", "orphan")
    assert [each.kind for each in ipcio.remove_orphans() if each.name == name] == ["queue"]
    assert not entries(name)
