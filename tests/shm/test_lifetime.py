"""How long a shared memory name exists, shown with real processes."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
from contextlib import closing, suppress

import pytest
from children import Event, Forked
from named_contract import FILES, LifetimeContract, is_free

from ipcio import MemoryFile, sem, shm
from ipcio._forklock import RLock, fork_lock

try:
    import fcntl
except ImportError:
    pass


def there(name):
    return os.path.lexists(f"/dev/shm/{name}") if FILES else not is_free(shm, name)


class TestSharedMemory(LifetimeContract):
    module = shm
    spelling = "shm"

    def mark(self, handle):
        handle.getbuffer()[0] = 7

    def is_managed(self, handle):
        return handle.getbuffer()[0] == 7

    def foreign(self, name):
        with open(self.path(name), "xb") as file:
            file.write(bytes(4096))


# -- views -------------------------------------------------------------------


def test_views_alive_at_close_keep_their_memory_and_not_the_name(name):
    h = shm.create(name, 100)
    view = h.getbuffer()
    part = view[10:20].cast("H")
    h.write(b"kept")
    h.close()
    assert not there(name)
    assert bytes(view[:4]) == b"kept"
    view[10] = 5
    assert part[0] == 5
    with shm.create(name, 100) as new:
        assert new.created
        assert new.read(4) == bytes(4)
        assert bytes(view[:4]) == b"kept"


def test_views_alive_when_the_handle_is_dropped_do_not_keep_the_name(name):
    view = shm.create(name, 100).getbuffer()
    gc.collect()
    assert not there(name)
    assert bytes(view) == bytes(100)


def test_a_lost_name_takes_no_view_of_another_process_along(name, peer):
    other = peer(f"h = shm.create({name!r}, 100); view = h.getbuffer(); h.write(b'kept'); h.close()")
    with pytest.raises(FileNotFoundError):
        shm.attach(name)
    assert other.ask("bytes(view[:4])") == b"kept"


@pytest.mark.root
@pytest.mark.needs("files", "fork")
def test_a_last_close_that_may_not_remove_the_name_keeps_no_lock_in_a_view(name):
    """Another user's close leaves the removal to the owner, who must not wait for that user's view."""
    h = shm.create(name, 100, perm=0o666)
    with Event() as attached, Event() as closed, Event() as done:

        def other():
            h.close()
            os.setgid(65534)
            os.setuid(65534)
            mine = shm.attach(name)
            view = mine.getbuffer()
            attached.set()
            closed.wait()
            mine.close()
            done.set()
            signal.pause()
            view.release()

        with Forked(other):
            attached.wait()
            h.close()
            closed.set()
            done.wait()
            assert there(name)
            with shm.create(name, 50) as again:
                assert again.created


# -- a user's own locks ------------------------------------------------------

USES = {
    "shared": lambda fd: fcntl.flock(fd, fcntl.LOCK_SH),
    "unlock": lambda fd: fcntl.flock(fd, fcntl.LOCK_UN),
    "shared, unlock": lambda fd: (fcntl.flock(fd, fcntl.LOCK_SH), fcntl.flock(fd, fcntl.LOCK_UN)),
    "closed dup": lambda fd: os.close(os.dup(fd)),
    "shared on a closed dup": lambda fd: closing_dup(fd, lambda dup: fcntl.flock(dup, fcntl.LOCK_SH)),
    "unlock on a closed dup": lambda fd: closing_dup(fd, lambda dup: fcntl.flock(dup, fcntl.LOCK_UN)),
    "lockf": lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX),
    "lockf, unlock": lambda fd: (fcntl.lockf(fd, fcntl.LOCK_EX), fcntl.lockf(fd, fcntl.LOCK_UN)),
    "reopened": lambda fd: os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR)),
    "reopened, locked": lambda fd: closing_again(fd, lambda again: fcntl.flock(again, fcntl.LOCK_SH)),
}


def closing_dup(fd, use):
    dup = os.dup(fd)
    try:
        use(dup)
    finally:
        os.close(dup)


def closing_again(fd, use):
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        use(again)
    finally:
        os.close(again)


@pytest.mark.needs("descriptors")
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("by", ["creator", "attacher"])
def test_locks_on_the_handles_descriptor_do_not_end_the_name(name, use, by, peer):
    h = shm.create(name, 100)
    if by == "attacher":
        first, h = h, shm.attach(name)
        first.close()
    USES[use](h.fileno())
    shm.attach(name).close()
    with pytest.raises(FileExistsError):
        shm.create(name, 100)
    assert peer().ask(f"shm.attach({name!r}).size()") == 100
    shm.attach(name).close()
    h.close()
    assert not there(name)


@pytest.mark.needs("descriptors")
def test_a_lock_on_the_handles_descriptor_does_not_keep_the_name_for_a_view(name):
    """`close` gives up the share now; the memory of an open view keeps the user's lock, not ours."""
    h = shm.create(name, 100)
    view = h.getbuffer()
    fcntl.flock(h.fileno(), fcntl.LOCK_SH)
    h.close()
    try:
        with pytest.raises(FileNotFoundError):
            shm.attach(name)
    finally:
        view.release()
        gc.collect()
        with pytest.raises(FileNotFoundError):
            shm.attach(name)


# -- fork with threads -------------------------------------------------------


def _shm_descriptors():
    """What is open of the file system of shared memory, under whatever name."""
    device = os.stat("/dev/shm").st_dev
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            if os.fstat(int(entry)).st_dev == device:
                found.add(int(entry))
        except OSError:  # the listing's own
            pass
    return found


@pytest.mark.needs("fork")
@pytest.mark.parametrize(("module", "owner", "maker"), [(shm, shm, "_handle"), (sem, sem.Semaphore, "_over")])
def test_a_fork_waits_until_there_is_a_handle(name, module, owner, maker, monkeypatch):
    """Or a child would have what it opens, and nothing to close it by."""
    make = getattr(owner, maker)
    turns = []

    def watched(*args, **kwargs):
        turns.append(fork_lock._is_owned())
        return make(*args, **kwargs)

    monkeypatch.setattr(owner, maker, watched)
    with closing(module.create(name, 1)), closing(module.attach(name)), closing(module.create(name, 1, exist_ok=True)):
        assert turns == [True] * 3


class Interrupted(BaseException):
    pass


@pytest.mark.needs("fork", "signals")
@pytest.mark.parametrize("lock", [fork_lock, RLock()], ids=["of the process", "of a handle"])
def test_an_interrupt_leaves_no_lock_taken(lock):
    """Or all other threads would wait for it, and with the one of the process every fork, too."""

    def be_interrupted():
        armed = []

        def interrupt(*_):
            if armed:
                armed.clear()
                raise Interrupted

        signal.signal(signal.SIGALRM, interrupt)
        for delay in range(300):
            armed.append(1)
            with suppress(Interrupted):
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + delay * 5e-7)
                while True:
                    with lock:
                        pass
            assert not lock._is_owned(), delay

    Forked(be_interrupted).result()


@pytest.mark.needs("fork")
def test_a_child_forked_by_a_thread_inherits_no_descriptor_without_its_handle(unique):
    """Forked at any moment of others' creates, attaches and closes, the child can give up all it has.

    It holds what handles were open then, and nothing that lies half-way.
    """
    names = [unique() for _ in range(3)]
    before = _shm_descriptors()
    stop = threading.Event()
    wrong = []

    def work(name, seed):
        chance = random.Random(seed)
        try:
            while not stop.is_set():
                with shm.create(name, 100):
                    for _ in range(chance.randrange(3)):
                        shm.attach(name).close()
        except FileExistsError:
            pass  # a child holds it at the moment
        except BaseException as error:
            wrong.append(error)

    def child():
        for h in [thing for thing in gc.get_objects() if isinstance(thing, MemoryFile)]:
            h.close()
        return len(_shm_descriptors() - before)

    for round_number in range(5):
        stop.clear()
        threads = [threading.Thread(target=work, args=(name, round_number)) for name in names]
        for thread in threads:
            thread.start()
        try:
            left = [Forked(child).result() for _ in range(8)]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert left == [0] * 8
        assert not wrong
    for name in names:
        with shm.create(name, 1) as h:
            assert h.created


@pytest.mark.needs("fork")
def test_children_that_sleep_keep_no_name_that_was_closed_before_they_were_forked(unique):
    """While one thread forks, others close: nobody but a holder keeps a name."""
    names = [unique() for _ in range(40)]
    sleepers = []
    before = _shm_descriptors()
    go = Event()
    with go:
        handles = [shm.create(name, 100) for name in names]
        closed = []

        def close_all():
            for h in handles:
                h.close()
                closed.append(h.name)

        def sleep_in_peace(known):
            # What was closed when we were forked must not live on through us, though other
            # children, forked earlier, may still have it.
            wrong = [h.name for h in handles if h.name in known and not h.closed]
            for h in handles:
                h.close()
            go.wait()
            return wrong, len(_shm_descriptors() - before)

        thread = threading.Thread(target=close_all)
        thread.start()
        while thread.is_alive() or not sleepers:
            sleepers.append(Forked(sleep_in_peace, list(closed)))
            if len(sleepers) > 20:
                break
        thread.join()
        for _ in sleepers:
            go.set()
        answers = [sleeper.result() for sleeper in sleepers]
    assert answers == [([], 0)] * len(sleepers)
    for name in names:
        with pytest.raises(FileNotFoundError):
            shm.attach(name)


# -- signals and handles -----------------------------------------------------


@pytest.mark.needs("signals")
def test_a_signal_handler_may_use_the_module(name):
    """It runs between two steps of whatever its thread was doing, and must not wait for itself."""
    count = 0

    def handler(*_):
        nonlocal count
        count += 1
        with shm.create(None, 100) as h, shm.attach(h.name):
            pass
        signal.setitimer(signal.ITIMER_REAL, 0.001)  # one at a time

    before = signal.signal(signal.SIGALRM, handler)
    timer = signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        for _ in range(200):
            with shm.create(name, 100), shm.attach(name):
                pass
        while not count:
            with shm.create(name, 100), shm.attach(name):
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)
    assert not there(name)


def test_a_handle_may_be_closed_by_its_own_child_threads_and_finalizers(name):
    """Collection in the middle of another create: the cycle below is collected at an arbitrary point."""
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(50):
            cycle = [shm.create(name, 10, exist_ok=True)]
            cycle.append(cycle)
            del cycle
            with closing(shm.create(None, 10)):
                pass
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert not there(name)
