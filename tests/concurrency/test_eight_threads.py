"""Eight threads use one handle of each kind: every call is one step, with the GIL and without it.

Short where the GIL lets one thread run at a time, forty times as long on a free-threaded Python.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import itertools
import os
import pickle
import sys
import threading
import time
from functools import partial

import pytest
from abilities import lacks
from at_once import together
from campaigns import FREE_THREADED, of_threads, turns_of_threads
from file_contract import in_child
from permits import permits_of

from ipcio import filelock, mmap, proc, sem, shm, strfile
from ipcio._memfile import InvalidSeekError

pytestmark = of_threads

THREADS = range(8)
RECORD = b"one of records \n"
SIZE = 16 * 500 + 8  # no whole number of records, nor of pages: what lies beyond is zeros


@pytest.fixture(autouse=True)
def eager():
    """Let threads change places as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def _shm(content, _):
    h = shm.create(None, len(content))
    h.write(content)
    h.seek(0)
    return h


def _mmap(content, path):
    path.write_bytes(content)
    return mmap.open(path, "rw")


KINDS = {
    "shm": _shm,
    "mmap": _mmap,
    "strfile bytes": lambda content, _: strfile.open(content),
    "strfile bytearray": lambda content, _: strfile.open(bytearray(content)),
}
STATES = {
    "fresh": lambda h: h.size(),
    "narrowed": lambda h: h.truncate(h.size() - 1),
    "descriptor": lambda h: h.fileno(),
}

every_kind = pytest.mark.parametrize("kind", KINDS)
every_state = pytest.mark.parametrize("state", STATES)


def opened(kind, state, content, tmp_path):
    h = KINDS[kind](content, tmp_path / "file")
    with contextlib.suppress(io.UnsupportedOperation):
        STATES[state](h)
    return h


# -- memory


@pytest.mark.parametrize("kind", ["shm", "mmap"])
@every_state
def test_each_record_is_written_whole_once_and_within_the_memory(kind, state, tmp_path):
    def write(h, me):
        n = 0
        try:
            while True:
                record = b"%d %012d \n" % (me, n)
                assert (h.write(record) if n % 3 else h.writelines([record]) or 16) == 16
                n += 1
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        assert h.tell() == SIZE - 8
        return n

    for _ in range(turns_of_threads(1)):
        with opened(kind, state, bytes(SIZE + 1), tmp_path) as h:
            counts = together(*(lambda me=me: write(h, me) for me in THREADS))
            assert (h.tell(), h.seek(0)) == (SIZE - 8, 0)
            written = [h.read(16) for _ in range(500)]
            assert sorted(written) == sorted(
                b"%d %012d \n" % (me, n) for me, count in enumerate(counts) for n in range(count)
            )
            assert h.read() == bytes(h.size() - SIZE + 8)


def _into(h, size):
    target = bytearray(size)
    return bytes(target[: h.readinto(target)])


READS = [
    lambda h: h.read(16),
    lambda h: h.readline(),
    lambda h: _into(h, 16),
    lambda h: next(h, b""),
    lambda h: h.readline(100),
    lambda h: h.read1(32),
    lambda h: b"".join(h.readlines(1)),
    lambda h: b"".join(itertools.islice(h, 2)),
]
# With the GIL these are one step only for others of their kind: see "Without the GIL" in docs/design.md.
LIMITED = READS[4:5]
LOOPS = READS[-2:]


@every_kind
@every_state
def test_each_record_is_read_whole_and_once(kind, state, tmp_path):
    """By eight threads, each in another way."""
    if FREE_THREADED:
        alone = []
    elif kind == "shm" and lacks("descriptors"):
        alone = LIMITED + LOOPS
    else:
        alone = LOOPS if kind == "strfile bytearray" else []
    hows = [how for how in READS if how not in alone]
    records = [b"%014d \n" % n for n in range(500)]

    def read(h, how):
        pieces = b""
        while piece := how(h):
            pieces += piece
        return pieces

    for _ in range(turns_of_threads(1)):
        with opened(kind, state, b"".join(records) + b"x", tmp_path) as h:
            found = together(*(lambda how=how: read(h, how) for how in hows))
            pieces = [piece for part in found for piece in part.splitlines(keepends=True)]
            assert sorted(pieces) == records + [b"x"] * (h.size() - 8000)
            assert h.tell() == h.size()


@every_kind
def test_large_reads_are_one_step_too(kind, tmp_path):
    """Reads that copy through a view, beside small ones."""
    content = b"".join(b"%014d \n" % n for n in range(60_000))
    large = 16 * 5000

    def read(h, size):
        pieces = []
        while piece := _into(h, size):
            pieces.append(piece)
        return pieces

    with KINDS[kind](content, tmp_path / "file") as h:
        found = together(*(lambda me=me: read(h, large if me % 2 else 160) for me in THREADS))
        assert b"".join(sorted(itertools.chain.from_iterable(found))) == content


CALLS = {
    "read": lambda h, _: h.read(16),
    "read1": lambda h, _: h.read1(32),
    "read all": lambda h, _: h.read(),
    "readall": lambda h, _: h.readall(),
    "readline": lambda h, _: h.readline(),
    "readline of": lambda h, _: h.readline(160),
    "readlines": lambda h, _: b"".join(h.readlines(64)),
    "readinto": lambda h, _: _into(h, 160),
    "readinto much": lambda h, _: _into(h, 16 * 5000),
    "readinto1": lambda h, _: bytes(16)[: h.readinto1(bytearray())],
    "for": lambda h, _: b"".join(itertools.islice(h, 3)),
    "next": lambda h, _: next(h, b""),
    "seek": lambda h, n: check_position(h.seek(16 * (n % 300))),
    "seek on": lambda h, _: check_position(h.seek(16, os.SEEK_CUR)),
    "seek to the end": lambda h, _: check_position(h.seek(-32, os.SEEK_END)),
    "seek past the end": lambda h, _: check_position(h.seek(16 * 600)),
    "tell": lambda h, _: check_position(h.tell()),
    "write": lambda h, _: writes(h, RECORD),
    "write much": lambda h, _: writes(h, RECORD * 200),
    "write too much": lambda h, _: writes(h, RECORD * 501),
    "writelines": lambda h, _: writes(h, RECORD) or (h.writelines([]) if h.writable() else None),
    "view": lambda h, _: h.getbuffer()[:16].tobytes(),
    "buffer": lambda h, _: memoryview(h)[:16].tobytes() if sys.version_info >= (3, 12) else b"",
    "facts": lambda h, _: [h.size(), h.addr(), repr(h), h.name, h.mode, h.closed, h.readable(), h.seekable()] and b"",
    "flush": lambda h, _: h.flush(),
    "pickle": lambda h, _: h.__reduce__() and b"",
    "truncate to its size": lambda h, _: h.truncate(16 * 300) and b"",
    "fileno": lambda h, _: os.fstat(h.fileno()) and b"",
}
NARROWING = ["truncate to its size", "fileno"]  # the last, or nothing would be tried in the fast state


def check_position(position):
    assert position % 16 == 0
    assert 0 <= position <= 16 * (600 + len(THREADS))  # past the end, and on by all before one of them seeks again
    return b""


def writes(h, data):
    if h.writable():
        with contextlib.suppress(OSError):
            assert h.write(data) == len(data)
    return b""


def use(h, names, n):
    """Make some calls; what they give is whole records, and no error but that of the call's own kind."""
    for name in names:
        try:
            data = CALLS[name](h, n) or b""
        except io.UnsupportedOperation:
            continue
        except InvalidSeekError:  # before the start
            continue
        except ValueError:
            if name not in NARROWING:  # which a narrowed handle refuses
                # A thread that closes the handle ends its methods first; `closed` is true an instant later.
                end = time.monotonic() + 10
                while not h.closed and time.monotonic() < end:
                    time.sleep(0)
                assert h.closed, name
            if h.closed:
                raise
            continue
        if data:
            assert data == RECORD * (len(data) // 16), (name, data)
            h.seek(16 * (n % 250))


@every_kind
def test_any_calls_at_once_with_forks_collection_and_a_close_in_their_midst(kind, tmp_path):
    """Nothing but whole records is ever seen, each error is of its call, and the close ends them all."""
    calm = [name for name in CALLS if name not in NARROWING]

    def work(h, me, closing):
        names = calm[3 * me :] + calm[: 3 * me]
        with contextlib.suppress(ValueError) if closing else contextlib.nullcontext():
            for n in range(turns_of_threads(16)) if not closing else itertools.count():
                use(h, names, me + n)
                if me == 0 and n == turns_of_threads(16) // 2:
                    use(h, ["fileno"], n)
                if me == 1 and n == turns_of_threads(16) * 3 // 4:
                    use(h, ["truncate to its size"], n)
            return
        assert h.closed

    def look(h):
        for _ in range(3):
            h.seek(0)
            data = h.read(16)  # the threads of the parent may move the offset of a descriptor
            assert data in {b"", RECORD}
            assert h.getbuffer()[:16] == RECORD
            assert h.tell() % 16 == 0
        h.close()
        assert h.closed

    def disturb(h, closing):
        for _ in range(turns_of_threads(2)):
            if not lacks("fork"):
                in_child(lambda: look(h))
            gc.collect()
        if closing:
            h.close()

    for closing in False, True:
        h = KINDS[kind](RECORD * 500, tmp_path / "file")
        users = [partial(work, h, me, closing) for me in THREADS]
        together(*users, partial(disturb, h, closing))
        h.close()


@every_kind
def test_views_taken_and_dropped_by_all_threads_keep_the_memory_as_long_as_there_are_any(kind, tmp_path):
    owner = bytearray(RECORD * 500)
    h = strfile.open(owner) if kind == "strfile bytearray" else KINDS[kind](bytes(owner), tmp_path / "file")
    shared = []

    def take(me):
        for n in range(turns_of_threads(50)):
            shared.append(h.getbuffer())
            with contextlib.suppress(IndexError):
                view = shared.pop(0 if n % 2 else -1)
                assert view[16 * me : 16 * me + 16] == RECORD

    together(*(lambda me=me: take(me) for me in THREADS))
    if kind == "strfile bytearray":
        with pytest.raises(BufferError):
            owner.append(0)
    last = h.getbuffer()
    shared.clear()
    h.close()
    gc.collect()
    assert last == RECORD * 500
    del last
    gc.collect()
    owner.append(0)


def test_handles_are_made_copied_dropped_and_collected_by_all_threads(name):
    """The last one takes the name with it, and no descriptor is left (which every test checks)."""
    with shm.create(name, 64) as first, contextlib.closing(sem.create(f"{name}-s", 8)):
        first.write(RECORD)

        def work(me):
            for n in range(turns_of_threads(12)):
                copies = [shm.attach(name), pickle.loads(pickle.dumps(first)), strfile.open(first)]
                for copy in copies:
                    copy.seek(0)
                    assert copy.read(16) == RECORD
                copies.append(copies)  # garbage, which only a collection finds
                sem.attach(f"{name}-s").dec()
                with contextlib.suppress(FileExistsError):
                    shm.create(f"{name}-{n}", 10)
                if me == 0:
                    gc.collect()
                elif n % 2:
                    copies[me % 3].close()
                del copies, copy
                sem.attach(f"{name}-s").inc()

        together(*(lambda me=me: work(me) for me in THREADS))
    gc.collect()
    with pytest.raises(FileNotFoundError):
        shm.attach(name)
    with pytest.raises(FileNotFoundError):
        sem.attach(f"{name}-s")


# -- semaphores

WAYS = [
    lambda s: s.__enter__() is not None and s.__exit__(),
    lambda s: s.dec() and s.inc(),
    lambda s: s.dec(0) and s.inc(),
    lambda s: s.dec(30) and s.inc(),
    lambda s: s.acquire() and s.release(),
    lambda s: s.acquire(False) and s.release(),
    lambda s: s.dec() and s.inc(1 + s.dec(0)),
    lambda s: s.acquire(timeout=0.0001) and s.release(),
]


@pytest.mark.parametrize("undo", [False, pytest.param(True, marks=pytest.mark.needs("undo"))])
def test_permits_taken_and_given_by_all_threads_are_neither_lost_nor_doubled(undo, name):
    """No more threads are inside than there are permits, and at the end all of them are there."""
    with contextlib.closing(sem.create(name, 3, undo=undo)) as s:
        inside = []

        def work(me):
            for n in range(turns_of_threads(20)):
                WAYS[(me + n) % len(WAYS)](s)
                with s:
                    inside.append(me)
                    assert len(inside) <= 3
                    inside.remove(me)
                if me == 0 and n % 10 == 0:
                    gc.collect()
                    sem.attach(name).close()
                assert name in repr(s)

        def all_threads():
            together(*(lambda me=me: work(me) for me in THREADS))

        def forks():
            for _ in range(turns_of_threads(2)):
                in_child(lambda: s.dec() and s.inc())

        together(*(lambda me=me: work(me) for me in THREADS), *([] if lacks("fork") else [forks]))
        assert permits_of(s) == 3
        if not lacks("fork"):
            in_child(all_threads)  # which ends holding nothing, by the kernel's count as well
            assert permits_of(s) == 3


@pytest.mark.parametrize("undo", [False, pytest.param(True, marks=pytest.mark.needs("undo"))])
def test_a_semaphore_closed_under_eight_threads_is_a_value_error_for_each(undo, name):
    with contextlib.closing(sem.create(name, 100, undo=undo)):
        for _ in range(turns_of_threads(5)):
            s = sem.attach(name)

            def work(me, s=s):
                ways = itertools.cycle(WAYS[me:] + WAYS[:me])
                with pytest.raises(ValueError, match="closed"):
                    any(way(s) and False for way in ways)

            together(*(lambda me=me: work(me) for me in THREADS), s.close)


# -- locks


@pytest.mark.needs("posix", "open file locks")
def test_locks_of_eight_threads_exclude_each_other(tmp_path):
    """Each with an open file of its own: a handle of memory, a buffered and a raw file in turn, or the path."""
    path = tmp_path / "file"
    path.write_bytes(bytes(8))
    openers = [
        lambda: mmap.open(path, "rw"),
        lambda: open(path, "r+b"),
        lambda: open(path, "r+b", buffering=0),
    ]
    by_path = filelock.locked(path)  # one object for all threads

    def count(file):
        file.seek(0)
        number = int.from_bytes(file.read(8), "big") + 1
        file.seek(0)
        file.write(number.to_bytes(8, "big"))

    def work(me):
        with openers[me % 3]() as file:
            for n in range(turns_of_threads(20)):
                with by_path if (me + n) % 4 == 0 else filelock.locked(file) as entered:
                    count(entered)

    together(*(lambda me=me: work(me) for me in THREADS))
    assert int.from_bytes(path.read_bytes(), "big") == len(THREADS) * turns_of_threads(20)


@pytest.mark.needs("posix", "open file locks")
@pytest.mark.parametrize("kind", ["mmap", pytest.param("shm", marks=pytest.mark.needs("descriptors"))])
def test_eight_threads_lock_ranges_of_one_handle(kind, tmp_path):
    """Each a range of its own; at the end none is locked."""
    with KINDS[kind](RECORD * 8, tmp_path / "file") as h:

        def work(me):
            for _ in range(turns_of_threads(10)):
                assert filelock.lock(h, "rw", 16 * me, 16, timeout=30)
                assert filelock.query(h, "rw", 16 * me, 16) is None  # its own is not in the way
                assert filelock.trylock(h, "r", 16 * me, 16)
                assert filelock.unlock(h, 16 * me, 16)

        together(*(lambda me=me: work(me) for me in THREADS))
        other = pickle.loads(pickle.dumps(h))
        with other:
            assert filelock.query(other) is None


# -- processes

ECHO = [sys.executable, "-c", "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"]


@pytest.mark.parametrize("way", ["iterating", "waiting"])
def test_each_line_through_a_child_comes_once_to_one_of_eight_threads(way):
    count = turns_of_threads(100)
    seen = []
    callback = (lambda _, line: seen.append(line)) if way == "waiting" else None
    with proc.spawn(ECHO, stdin=True, stdout=True, lines=True, callback=callback) as p:
        written = threading.Barrier(4)

        def write(me):
            for n in range(count):
                p.write(b"%d %d\n" % (me, n))
                assert p.pending >= 0
                assert str(p.pid) in repr(p)
            if written.wait() == 0:
                p.write(proc.EOF)

        def read(me):
            if way == "waiting":
                while p.wait(0.01 * me if me else None) is None:
                    pass
            elif me % 2:
                seen.extend(line for _, line in p)
            else:
                while event := next(p, None):
                    seen.append(event[1])

        together(*(lambda me=me: write(me) for me in range(4)), *(lambda me=me: read(me) for me in range(4)))
        assert p.wait().ok
    assert sorted(seen) == sorted(b"%d %d\n" % (me, n) for me in range(4) for n in range(count))


def test_a_child_closed_under_eight_threads_ends_them_all():
    """Whatever they do with it; the child is reaped, and no pipe is left."""
    code = "import sys\nwhile True: sys.stdout.write('a line of endless output\\n')"
    for _ in range(turns_of_threads(1)):
        p = proc.spawn([sys.executable, "-c", code], stdin=True, stdout=True)
        begun = threading.Semaphore(0)

        def work(me, p=p, begun=begun):
            with contextlib.suppress(ValueError):
                for n in itertools.count():
                    if me < 4:
                        assert next(p, (None, b"x"))[1]
                    elif me < 6:
                        p.write(b"something")
                    else:
                        p.nowait() if p.closed else p.kill("term" if n > 200 else 0)
                    begun.release()
                    if p.closed:
                        return

        def close(p=p, begun=begun):
            for _ in range(50):
                begun.acquire()
            gc.collect()
            p.close()

        together(*(lambda me=me: work(me) for me in THREADS), close)
        assert p.closed
        assert not p.wait().ok
