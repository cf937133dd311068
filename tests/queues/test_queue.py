"""What a queue promises in one process: messages in order, whole, in the room that there is."""

from __future__ import annotations

import array
import pickle
import queue as standard
import random
import sys
import threading
from types import SimpleNamespace

import pytest
from campaigns import rounds

from ipcio import Queue, _ring, queue

LARGE = 100_000


@pytest.fixture(params=["narrow", pytest.param("wide", marks=pytest.mark.needs("fork"))])
def make(request, name):
    """Create the queue under `name`: for this user alone, or of the kind that others may write to."""
    made = []

    def create(size, **options):
        made.append(queue.create(name, size, perm=0o600 if request.param == "narrow" else 0o666, **options))
        return made[-1]

    yield create
    for q in made:
        q.close()


def drain(q):
    found = []
    while True:
        try:
            found.append(q.get_nowait())
        except queue.Empty:
            return found


def test_messages_come_out_whole_and_in_order(make):
    q = make(1000)
    sent = [b"", b"x", b"\0" * 10, bytes(range(256)), b""]
    for message in sent:
        q.put(message)
    assert (q.qsize(), q.empty(), q.full()) == (5, False, False)
    assert [q.get() for _ in sent] == sent
    assert (q.qsize(), q.empty(), q.full()) == (0, True, False)


def test_a_message_is_any_contiguous_buffer_as_it_is_at_the_call(make):
    q = make(1000)
    numbers = array.array("i", [1, 2, 3])
    changing = bytearray(b"before")
    for data in numbers, changing, memoryview(b"abcdef")[2:4], memoryview(bytes(range(6))).cast("B", (2, 3)):
        q.put(data)
    changing[:] = b"after!!"  # and it is not kept: its size can change
    assert drain(q) == [numbers.tobytes(), b"before", b"cd", bytes(range(6))]
    for wrong in "text", 5, None:
        with pytest.raises(TypeError):
            q.put(wrong)
    with pytest.raises(BufferError):
        q.put(memoryview(b"abcdef")[::2])
    assert q.empty()


@pytest.mark.parametrize("length", [0, 1, 5, 16, 84])
def test_the_size_counts_messages_and_16_bytes_for_each(make, length):
    q = make(1000)
    fit = 1000 // (length + 16)
    for turn in range(30):  # at every place of the ring
        for number in range(fit):
            q.put_nowait(bytes([number]) * length)
        with pytest.raises(queue.Full):
            q.put_nowait(bytes(length))
        assert q.full() == (1000 - fit * (length + 16) < 16)
        assert q.qsize() == fit
        assert drain(q) == [bytes([number]) * length for number in range(fit)]
        q.put(bytes(turn))
        q.get()


def test_one_message_may_have_all_of_the_size_but_16_bytes(make):
    q = make(100)
    for turn in range(50):
        q.put_nowait(bytes([turn]) * 84)
        assert q.full()
        with pytest.raises(queue.Full):
            q.put_nowait(b"")
        assert q.get_nowait() == bytes([turn]) * 84
        q.put(bytes(turn))
        q.get()
    for data in bytes(85), bytearray(1000):
        with pytest.raises(ValueError, match=r"message of \d+ bytes does not fit.* create the queue with size="):
            q.put(data)
    assert q.empty()


def test_a_queue_of_the_least_size_passes_on_empty_messages(make):
    q = make(16)
    for _ in range(5):
        q.put(b"")
        assert q.full()
        assert q.get() == b""
    with pytest.raises(ValueError, match="does not fit"):
        q.put(b"x")


def test_any_lengths_come_out_as_they_went_in(make):
    """Compared with a list, at all positions, with all ends of the ring."""
    chance = random.Random(1)
    q = make(257)
    model, used = [], 0
    buffer = bytearray(257)
    for _ in range(rounds(3000)):
        if chance.random() < 0.55:
            data = chance.randbytes(chance.choice([0, 1, 7, 8, 30, 100, 241]))
            try:
                q.put_nowait(data)
            except queue.Full:
                assert used + len(data) + 16 > 257
            else:
                model.append(data)
                used += len(data) + 16
                assert used <= 257
        elif model:
            if chance.random() < 0.5:
                got = q.get_nowait()
            else:
                got = bytes(buffer[: q.get_into(buffer)])
            assert got == model.pop(0)
            used -= len(got) + 16
        assert q.qsize() == len(model)
    assert drain(q) == model


def test_large_messages(make):
    q = make(3 * LARGE)
    sent = [random.Random(number).randbytes(LARGE - number) for number in range(7)]
    for data in sent:
        q.put(data)
        buffer = bytearray(LARGE)
        q.put(data)
        assert q.get() == data
        assert q.get_into(buffer) == len(data)
        assert buffer[: len(data)] == data


def test_a_buffer_that_is_too_small_leaves_the_message(make):
    q = make(100)
    q.put(b"12345")
    for wrong, error in (
        (bytearray(4), ValueError),
        (b"12345", TypeError),
        (memoryview(bytearray(20))[::2], BufferError),
    ):
        with pytest.raises(error):
            q.get_into(wrong)
    buffer = array.array("H", [0] * 3)
    assert q.get_into(buffer) == 5
    assert buffer.tobytes() == b"12345\0"
    small = bytearray(2)
    with pytest.raises(queue.Empty):
        q.get_into(small, timeout=0)
    small.append(1)  # it is not kept


def test_the_exceptions_are_those_of_the_standard_library():
    assert queue.Full is standard.Full
    assert queue.Empty is standard.Empty
    if sys.version_info >= (3, 13):
        assert queue.ShutDown is standard.ShutDown
    else:
        assert issubclass(queue.ShutDown, Exception)
        assert pickle.loads(pickle.dumps(queue.ShutDown())).args == ()


def test_timeouts(make):
    q = make(16)
    for timeout in 0, 0.001, 0.02:
        with pytest.raises(queue.Empty):
            q.get(timeout=timeout)
    with pytest.raises(queue.Empty):
        q.get(False, -1)  # as there
    q.put(b"")
    for timeout in 0, 0.001, 0.02:
        with pytest.raises(queue.Full):
            q.put(b"", timeout=timeout)
    for call in q.get, lambda **options: q.put(b"", **options), lambda **options: q.get_into(bytearray(1), **options):
        for wrong, error in (-1, ValueError), (float("nan"), ValueError), ("1", TypeError):
            with pytest.raises(error):
                call(timeout=wrong)
    assert q.get(timeout=float("inf")) == b""


def test_shutdown_lets_readers_drain_the_queue(make):
    q = make(100)
    q.put(b"1")
    q.put(b"2")
    q.shutdown()
    for data in b"x", bytearray(1):
        with pytest.raises(queue.ShutDown):
            q.put(data)
    with pytest.raises(queue.ShutDown):
        q.put_nowait(b"")
    assert q.qsize() == 2
    assert list(q) == [b"1", b"2"]
    for _ in range(2):
        q.shutdown()
        for call in q.get, q.get_nowait, lambda: q.get_into(bytearray(1)), lambda: q.get(timeout=1):
            with pytest.raises(queue.ShutDown):
                call()
    assert list(q) == []
    assert (q.qsize(), q.empty()) == (0, True)


def test_an_immediate_shutdown_discards_what_is_there(make):
    q = make(100)
    q.put(b"1" * 50)
    q.get()
    q.put(b"2" * 50)
    q.shutdown(immediate=True)
    assert q.qsize() == 0
    with pytest.raises(queue.ShutDown):
        q.get()


@pytest.mark.needs("persistence")
def test_a_persistent_queue_keeps_its_messages_and_its_shutdown(name, make):
    make(100, persist=True).put(b"kept")
    try:
        with queue.attach(name) as q:
            assert q.get() == b"kept"
            q.put(b"again")
            q.shutdown()
        with queue.create(name, 50, exist_ok=True) as q:
            assert not q.created
            assert list(q) == [b"again"]
            with pytest.raises(queue.ShutDown):
                q.put(b"")
    finally:
        queue.unlink(name)


def test_messages_go_with_the_last_handle(name):
    with queue.create(name, 100) as q, queue.attach(name) as other:
        q.put(b"x")
        q.close()
        assert other.get() == b"x"
        other.put(b"y")
    with queue.create(name, 100) as q:
        assert q.empty()


@pytest.mark.parametrize("size", [0, 1, 15, -1, 1 << 33, 1 << 70])
def test_a_size_that_no_queue_can_have(name, size):
    with pytest.raises(ValueError, match="size must be 16 to"):
        queue.create(name, size)
    with pytest.raises(FileNotFoundError):
        queue.attach(name)


def test_an_existing_queue_may_be_larger_but_not_smaller(name):
    for wrong in "100", 100.0, None:
        with pytest.raises(TypeError):
            queue.create(name, wrong)
    with queue.create(name, 100) as q:
        assert q.created
        with queue.create(name, 99, exist_ok=True) as larger:
            assert not larger.created
            larger.put(bytes(84))
        with pytest.raises(ValueError, match=r"exists with 100 bytes, fewer than 101"):
            queue.create(name, 101, exist_ok=True)
        assert q.get() == bytes(84)


def test_after_close_every_method_raises(make):
    q = make(100)
    with q as same:
        assert same is q
        assert repr(q) == f"<ipcio.Queue name={q.name!r}>"
    assert q.closed
    q.close()
    assert repr(q) == f"<ipcio.Queue name={q.name!r} closed>"
    calls = [
        lambda: q.put(b""),
        lambda: q.put(bytearray(1), timeout=1),
        lambda: q.put_nowait(b""),
        q.get,
        q.get_nowait,
        lambda: q.get(timeout=1),
        lambda: q.get_into(bytearray(1)),
        q.qsize,
        q.empty,
        q.full,
        q.shutdown,
        q.writer,
        q.reader,
        q.__enter__,
        lambda: next(q),
        lambda: pickle.dumps(q),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^I/O operation on closed file"):
            call()
    with pytest.raises(TypeError, match=r"queue\.create"):
        Queue()


def test_a_close_by_another_thread_ends_the_wait(make):
    q = make(16)
    outcomes = []

    def wait(call):
        with pytest.raises(ValueError, match="closed"):
            call()
        outcomes.append(call)

    threads = [threading.Thread(target=wait, args=(call,)) for call in (q.get, lambda: q.put(b"too large"))]
    threads[0].start()
    q.close()
    threads[0].join()
    assert outcomes == [q.get]


def test_threads_share_a_handle(make):
    q = make(300)
    found = []

    def read():
        found.extend(q)

    def write(me):
        for number in range(100):
            q.put(bytes([me, number]))

    readers = [threading.Thread(target=read) for _ in range(3)]
    writers = [threading.Thread(target=write, args=(me,)) for me in range(3)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    q.shutdown()
    for thread in readers:
        thread.join()
    assert sorted(found) == [bytes([me, number]) for me in range(3) for number in range(100)]


class Counted:
    """The cells of a queue, and how often one was looked at."""

    def __init__(self, cells) -> None:
        self.cells = cells
        self.looks = 0

    def __getitem__(self, number):
        self.looks += 1
        return self.cells[number]

    def __setitem__(self, number, value):
        self.cells[number] = value


@pytest.mark.needs("robust mutexes")
def test_a_queue_that_stays_empty_is_looked_at_less_and_less_before_a_sleep(name):
    times = 200
    with queue.create(name, 100) as q:
        q._cells = cells = Counted(q._cells)
        for _ in range(times):
            with pytest.raises(queue.Empty):
                q.get(timeout=1e-9)
        assert _ring.LOOKS < cells.looks < times * _ring.LOOKS / 4
        q._cells = cells.cells


@pytest.mark.needs("robust mutexes")
def test_a_message_that_comes_while_a_process_looks_is_taken_without_a_sleep(name, monkeypatch):
    with queue.create(name, 100) as q:

        class Late(Counted):
            """A message comes with the tenth look."""

            def __getitem__(self, number):
                if self.looks == 10:
                    self.looks += 1
                    q.put(b"late")
                return super().__getitem__(number)

        def wait(*_):
            raise AssertionError("it sleeps")

        q._cells = Late(q._cells)
        monkeypatch.setattr(q, "_readers_bell", SimpleNamespace(wait=wait, look=wait))
        assert q.get(timeout=5) == b"late"
        q._cells = q._cells.cells
