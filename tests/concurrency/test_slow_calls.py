"""What one thread's slow call holds up: nothing of other threads, no fork, and no signal handler.

A slow call is made to stand still, by an event, at the place where it can take long.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import signal
import threading
import time

import pytest
from children import Event, Forked, fork_quietly

from ipcio import _unowned, mmap, sem, shm, strfile
from ipcio._segment_writer import open_writer

fcntl = pytest.importorskip("fcntl")
pytestmark = [pytest.mark.needs("fork"), pytest.mark.needs("descriptors")]

PIECE = 1 << 20
LARGE = 3 * PIECE
PATIENCE = 20  # seconds; what is held up never ends, and what is not needs milliseconds


class StandingStill:
    """A thread that calls `function` and stands still in its first call of ``where.what``."""

    def __init__(self, monkeypatch, where, what, function) -> None:
        real = getattr(where, what)
        self._reached, self._go = threading.Event(), threading.Event()
        self._error = None

        def slow(*args, **kwargs):
            if threading.current_thread() is self._thread and not self._reached.is_set():
                self._reached.set()
                assert self._go.wait(PATIENCE)
            return real(*args, **kwargs)

        def body():
            try:
                function()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=body, daemon=True)
        monkeypatch.setattr(where, what, slow)

    def __enter__(self):
        self._thread.start()
        assert self._reached.wait(PATIENCE), self._error
        return self

    def go_on(self):
        """Return what is raised, None if nothing is."""
        self._go.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self._error

    def __exit__(self, *_) -> None:
        self.go_on()


def orphaned(module, name, *size):
    """Have the name of an object whose process was killed."""

    def child():
        h = module.create(name, *size)
        ready.set()
        signal.pause()
        h.close()

    with Event() as ready, Forked(child) as forked:
        ready.wait()
        forked.kill()
    return name


@contextlib.contextmanager
def kept_locked(path):
    """As no program does that means well."""
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_a_segment(name):
    open_writer(name, replace=False, size=LARGE).discard()


SLOW = {  # what is to be done before, what is called then, and where it stands still
    "create": (None, lambda name, _: shm.create(name, LARGE).close(), (os, "posix_fallocate")),
    "close": (lambda name: shm.create(name, LARGE), lambda _, h: h.close(), (os, "dup2")),
    "collect": (lambda name: [shm.create(name, LARGE)], lambda _, handles: handles.clear(), (os, "dup2")),
    "close a file": (lambda _: _large_map(), lambda _, h: h.close(), (os, "dup2")),
    "write": (None, lambda name, _: write_a_segment(name), (os, "posix_fallocate")),
    "create over an orphan": (
        lambda name: orphaned(shm, name, LARGE),
        lambda name, _: shm.create(name, 1).close(),
        (os, "dup2"),
    ),
    "attach an orphan": (
        lambda name: orphaned(shm, name, LARGE),
        lambda name, _: not_there(name),
        (os, "dup2"),
    ),
    "map what hangs": (None, lambda _name, _: mmap.open(__file__).close(), (os, "open")),
}


def _large_map():
    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        os.truncate(fd, LARGE)
        return mmap.open(fd, "rw")
    finally:
        os.close(fd)


def not_there(name):
    with pytest.raises(FileNotFoundError):
        shm.attach(name)


LOCKED = {
    "attach": (shm, shm.attach),
    "create": (shm, lambda name: shm.create(name, 1)),
    "unlink": (shm, shm.unlink),
    "sem.attach": (sem, sem.attach),
    "sem.create": (sem, sem.create),
    "sem.unlink": (sem, sem.unlink),
}


@pytest.mark.parametrize("what", SLOW)
def test_a_slow_call_holds_up_nothing_of_other_threads(what, monkeypatch, unique):
    """Nor does a child that is forked meanwhile have anything that lies half-way."""
    prepare, call, where = SLOW[what]
    name = unique()
    before = _descriptors()
    prepared = prepare and prepare(name)
    with StandingStill(monkeypatch, *where, lambda: call(name, prepared)) as still:
        with Forked(_descriptors) as forked:
            assert forked.result() == before
        assert all_goes_on(unique())
        assert still.go_on() is None


@pytest.mark.parametrize("what", LOCKED)
def test_waiting_for_what_another_program_keeps_locked_holds_up_nothing(what, monkeypatch, unique):
    module, call = LOCKED[what]
    name = orphaned(module, unique(), 1)
    before = _descriptors()
    path = f"/dev/shm/{name}" if module is shm else f"/dev/shm/sem.{name}"
    monkeypatch.setattr("ipcio._posix.lifetime.PATIENCE", 0.01)
    with kept_locked(path), StandingStill(monkeypatch, time, "sleep", lambda: call(name)) as still:
        with Forked(_descriptors) as forked:
            assert forked.result() == before + 1  # our own
        assert all_goes_on(unique())
        assert isinstance(still.go_on(), BlockingIOError)
    module.create(name, 1).close()


def all_goes_on(name):
    """Whether what handles do in another thread comes to its end."""

    def body():
        with shm.create(name, 100) as h, shm.attach(name) as other, strfile.open(bytearray(b"text")) as text:
            assert len(h.getbuffer()) == 100
            h.fileno()
            assert h.write(b"hello") == 5
            assert other.read(5) == b"hello"
            assert text.read() == b"text"
            pickle.loads(pickle.dumps(other)).close()
        with contextlib.closing(sem.create(name)) as s, s:
            with Forked(lambda: True) as forked:
                assert forked.result()
        done.append(True)

    done = []
    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return bool(done)


def _descriptors():
    """How many there are of what lies in memory."""
    count = 0
    device = os.stat("/dev/shm").st_dev
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.fstat(int(entry)).st_dev == device
    return count


def test_a_child_forked_while_a_segment_is_made_does_not_keep_its_name(monkeypatch, unique):
    """The handle that comes of it is the parent's alone."""
    name = unique()
    with Event() as begun, Event() as over:

        def child():
            begun.set()
            over.wait()

        with (
            StandingStill(monkeypatch, os, "posix_fallocate", lambda: shm.create(name, LARGE).close()) as still,
            Forked(child),
        ):
            begun.wait()
            assert still.go_on() is None
            with pytest.raises(FileNotFoundError):
                shm.attach(name)
            over.set()


def test_a_signal_handler_forks_in_the_middle_of_its_own_create(monkeypatch, unique):
    """Then both processes go on with the call, each with descriptors of its own, and one at least makes the segment."""
    name = unique()
    before = _descriptors()
    real = os.posix_fallocate
    children = []

    def fallocate(*args):
        if not children:
            children.append(fork_quietly())
        return real(*args)

    def create():
        with contextlib.suppress(FileExistsError), shm.create(name, LARGE) as h:
            return h.write(b"hello")

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    status = 2
    try:
        written = create()
        status = 0 if written else 1
    finally:
        if children == [0]:
            os._exit(status if _descriptors() == before else 3)
    status_of_child = os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])
    assert (status, status_of_child) in {(0, 0), (0, 1), (1, 0)}
    assert _descriptors() == before
    with pytest.raises(FileNotFoundError):
        shm.attach(name)


# -- interrupts


def _until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.0005)


class InterruptedHereError(Exception):
    pass


@contextlib.contextmanager
def handled(handler):
    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interrupt(*_):
    raise InterruptedHereError


def test_setting_memory_aside_ends_with_the_piece_in_which_a_signal_comes(monkeypatch, name):
    calls = []
    real = os.posix_fallocate

    def fallocate(fd, start, length):
        calls.append((start, length))
        real(fd, start, length)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGALRM)

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    before = _descriptors()
    with handled(interrupt), pytest.raises(InterruptedHereError):
        shm.create(name, 5 * PIECE // 2)
    assert calls == [(0, PIECE), (PIECE, PIECE)]
    assert not os.path.lexists(f"/dev/shm/{name}")
    _until(lambda: _descriptors() == before)
    with shm.create(name, 5 * PIECE // 2) as h:
        assert calls[2:] == [(0, PIECE), (PIECE, PIECE), (2 * PIECE, PIECE // 2)]
        assert os.fstat(h.fileno()).st_blocks * 512 >= h.size() == 5 * PIECE // 2


def test_an_interrupt_does_not_wait_until_what_was_set_aside_is_freed(monkeypatch, name):
    """Another thread frees it, and a child that is forked meanwhile has nothing of it."""
    before = _descriptors()
    real = os.posix_fallocate, os.dup2
    reached, free = threading.Event(), threading.Event()

    def fallocate(fd, start, length):
        real[0](fd, start, length)
        signal.raise_signal(signal.SIGALRM)

    def dup2(*args, **kwargs):
        reached.set()
        assert free.wait(PATIENCE)
        return real[1](*args, **kwargs)

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    monkeypatch.setattr(os, "dup2", dup2)
    with handled(interrupt), pytest.raises(InterruptedHereError):
        shm.create(name, LARGE)
    assert reached.wait(PATIENCE)
    with Forked(_descriptors) as forked:
        assert forked.result() == before
    free.set()
    _until(lambda: not _unowned.closed_by and _descriptors() == before)


def test_a_profiler_does_not_keep_memory_from_being_set_aside(name):
    """Whose timer expires more often than all of it takes."""
    ticks = []
    with handled(lambda *_: ticks.append(1)):
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        with shm.create(name, 64 * PIECE) as h:
            assert h.size() == 64 * PIECE


def test_what_does_not_fit_is_refused_before_the_place_is_full(monkeypatch, name):
    """Or every other program would find it full meanwhile."""

    def fallocate(*_):
        raise AssertionError("it was tried")

    place = os.statvfs("/dev/shm")
    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    with pytest.raises(OSError, match=r"GiB asked for, /dev/shm has .* free of .*--shm-size") as caught:
        shm.create(name, place.f_bavail * place.f_frsize + (1 << 30))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, name)


def test_a_place_without_a_limit_is_as_large_as_free_memory(monkeypatch, name):
    place = list(os.statvfs("/dev/shm"))
    place[2] = place[3] = place[4] = 0  # blocks, free and available ones
    monkeypatch.setattr(os, "fstatvfs", lambda _: os.statvfs_result(place))
    with pytest.raises(OSError, match="GiB asked for") as caught:
        shm.create(name, 1 << 50)
    assert caught.value.errno == errno.ENOSPC
    shm.create(name, LARGE).close()


def test_giving_many_permits_can_be_interrupted(name):
    """What is given then is whole steps of 4096."""
    with contextlib.closing(sem.create(name, 0)) as s, handled(interrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        start = time.monotonic()
        with pytest.raises(InterruptedHereError):
            s.inc(10**9)
        assert time.monotonic() - start < PATIENCE
        assert s.value % 4096 == 0
        given = s.value
        s.inc(3 * 4096 + 5)
        assert s.value == given + 3 * 4096 + 5
        with pytest.raises(OverflowError):
            s.inc(2**31 - 1 - given)
        assert s.value == given + 3 * 4096 + 5


# -- what is put away


def test_what_an_interrupt_left_to_be_closed_is_closed_by_the_next_call(monkeypatch, name):
    before = _descriptors()

    def dup2(*_, **__):
        raise InterruptedHereError

    with monkeypatch.context() as patch:
        patch.setattr(os, "dup2", dup2)
        with pytest.raises(InterruptedHereError):
            shm.create(name, LARGE).close()
    assert _descriptors() == before
    assert not _unowned.closed_by
    assert not _unowned._descriptors


def test_without_a_descriptor_left_a_large_segment_is_closed_all_the_same(monkeypatch, name):
    before = _descriptors()
    h = shm.create(name, LARGE)
    with monkeypatch.context() as patch:
        patch.setattr(_unowned, "_ANY_FILE", ("/nowhere", 0))
        h.close()
    assert _descriptors() == before


def test_a_handle_that_is_collected_meanwhile_may_close_what_is_to_be_closed(monkeypatch):
    """The garbage collector may run between the look at the list of descriptors and the step that takes one."""
    record = _unowned.record

    def interrupted(*arguments):
        monkeypatch.undo()
        _unowned.close_listed()  # as the handle of a large segment does in its finalizer
        record(*arguments)

    fd = os.open(os.devnull, os.O_RDONLY)
    with _unowned.fork_lock:
        _unowned.close_later(fd)
    monkeypatch.setattr(_unowned, "record", interrupted)
    _unowned.close_listed()
    with pytest.raises(OSError):
        os.fstat(fd)
