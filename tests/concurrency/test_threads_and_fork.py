"""Handles shared by threads, and by parent and child."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import pickle
import subprocess
import sys
import threading

import pytest
from abilities import lacks
from at_once import together
from children import fork_quietly
from file_contract import in_child, outcome, run

from ipcio import MemoryFile, mmap, shm, strfile

RECORDS = [b"%07d\n" % n for n in range(2000)]
CONTENT = b"".join(RECORDS)
RECORD = 8


@pytest.fixture(autouse=True)
def eager():
    """Let threads change places as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# -- one position among many readers


STATES = {
    "fresh": MemoryFile.tell,
    "narrowed": lambda h: h.truncate(len(CONTENT) - 8 * 100),
    "descriptor given out": lambda h: h.fileno(),
}
with_descriptor = pytest.mark.needs("descriptors")
states_of_memory = pytest.mark.parametrize(
    "state", ["fresh", "narrowed", pytest.param("descriptor given out", marks=with_descriptor)]
)


@pytest.fixture(params=["shm", "mmap", "strfile bytes", "strfile bytearray"])
def source(request, name, tmp_path):
    """A handle over the records."""
    if request.param == "shm":
        h = shm.create(name, len(CONTENT))
        h.write(CONTENT)
        h.seek(0)
    elif request.param == "mmap":
        (tmp_path / "file").write_bytes(CONTENT)
        h = mmap.open(tmp_path / "file", "rw")
    else:
        h = strfile.open(CONTENT if request.param == "strfile bytes" else bytearray(CONTENT))
    with h:
        yield h


@pytest.fixture(params=STATES)
def shared(request, source):
    """The same, in each of the states that a handle may be in."""
    with contextlib.suppress(io.UnsupportedOperation):
        STATES[request.param](source)
    return source


def until_empty(read):
    told = []
    while data := read():
        told.append(data)
    return told


def _into(h, size):
    def read():
        target = bytearray(size)
        return bytes(target[: h.readinto(target)])

    return read


READERS = {
    "read": lambda h: lambda: until_empty(lambda: h.read(RECORD)),
    "read1": lambda h: lambda: until_empty(lambda: h.read1(3 * RECORD)),
    "readline": lambda h: lambda: until_empty(h.readline),
    "readline(n)": lambda h: lambda: until_empty(lambda: h.readline(100)),
    "readinto": lambda h: lambda: until_empty(_into(h, RECORD)),
    "for": lambda h: lambda: [*h],
    "next": lambda h: lambda: until_empty(lambda: next(h, b"")),
    "readlines": lambda h: lambda: until_empty(lambda: b"".join(h.readlines(1))),
    "several": lambda h: lambda: until_empty(lambda: h.read(RECORD) + h.readline() + _into(h, 16)()),
}


@pytest.mark.parametrize("how", READERS)
def test_each_record_is_read_exactly_once(shared, how):
    """However many threads read through one handle, and however they do it."""
    shared.seek(0)
    told = together(*[READERS[how](shared)] * 3)
    wanted = RECORDS[: shared.size() // RECORD]
    if how == "several":
        told = [[part[n : n + RECORD] for part in parts for n in range(0, len(part), RECORD)] for parts in told]
    pieces = [piece for thread in told for piece in thread]
    assert sorted(b"".join(sorted(pieces)).splitlines(keepends=True)) == wanted
    assert all(len(piece) % RECORD == 0 for piece in pieces)


def test_readers_of_every_kind_share_one_position(shared):
    """Each byte goes to one of them (loops over memory without a map of `mmap` want a thread to themselves)."""
    shared.seek(0)
    has_map = type(shared) is not MemoryFile and shared.name != "<strfile>"
    kinds = ["read", "readline", "readinto"] + ["for"] * has_map
    told = together(*(READERS[how](shared) for how in kinds))
    pieces = [piece for thread in told for piece in thread]
    assert sorted(b"".join(sorted(pieces)).splitlines(keepends=True)) == RECORDS[: shared.size() // RECORD]


HARMLESS = {
    "seek(0, 1)": lambda h: h.seek(0, 1),
    "tell": lambda h: (h.tell(), h.closed),
    "size and views": lambda h: (h.size(), h.getbuffer(), h.addr(), h.flush(), repr(h), h.readable()),
    "truncate to its size": lambda h: h.truncate(h.size()),
    "pickle": lambda h: h.__reduce__(),
    "readinto nothing": lambda h: h.readinto(bytearray()),
    "read nothing": lambda h: (h.read(0), h.readline(0)),
    "write too much": lambda h: outcome(lambda: h.write(bytes(len(CONTENT) + 1))),
    "seek refused": lambda h: (outcome(lambda: h.seek(-len(CONTENT) - 1, 2)), outcome(lambda: h.seek(-1))),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_what_does_not_move_the_handle_disturbs_no_reader(shared, what):
    """Each call is one step: a position that is only looked at is not set back."""
    shared.seek(0)
    done = threading.Event()

    def disturb():
        while not done.is_set():
            HARMLESS[what](shared)

    def read(how):
        try:
            return READERS[how](shared)()
        finally:
            done.set()

    told = together(disturb, lambda: read("read"), lambda: read("readline"))
    pieces = [piece for thread in told[1:] for piece in thread]
    assert sorted(pieces) == RECORDS[: shared.size() // RECORD]


CHANGES = {"narrowed": lambda h: h.truncate(h.size() - RECORD), "descriptor given out": lambda h: h.fileno()}


@pytest.mark.parametrize("change", CHANGES)
def test_a_handle_that_changes_its_state_under_readers_gives_each_record_once(source, change):
    """No reader is set back, and none misses a record."""
    for _ in range(4):
        source.seek(0)
        begun = threading.Event()

        def read(how, begun=begun):
            first = source.read(RECORD)
            begun.set()
            return [first, *READERS[how](source)()]

        def alter(begun=begun):
            begun.wait()
            with contextlib.suppress(io.UnsupportedOperation):
                CHANGES[change](source)

        told = together(lambda: read("read"), lambda: read("readline(n)"), lambda: read("readinto"), alter)
        data = b"".join(sorted(piece for thread in told[:3] for piece in thread))
        found = data.splitlines(keepends=True)
        assert found[: source.size() // RECORD] == RECORDS[: source.size() // RECORD]
        assert len(set(found)) == len(found)


def test_large_and_small_reads_share_one_position(name):
    """Reads large enough to be done another way are steps like the others."""
    count, large = 200_000, 70_000
    content = b"".join(b"%07d\n" % n for n in range(count))
    with shm.create(name, len(content)) as h:
        h.write(content)
        h.seek(0)
        told = together(
            lambda: until_empty(_into(h, large)),
            lambda: until_empty(lambda: h.read(RECORD)),
            lambda: until_empty(_into(h, large)),
        )
    pieces = sorted(piece for thread in told for piece in thread)
    assert sum(map(len, pieces)) == len(content)
    assert b"".join(pieces) == content


@states_of_memory
def test_each_record_is_written_exactly_once(name, state):
    """Records from several threads lie side by side, none torn, none lost; a thread without room gets an error."""
    with shm.create(name, len(CONTENT)) as h:
        STATES[state](h)
        room = h.size() // RECORD

        def write(mark):
            for n in range(room):
                try:
                    assert h.write(b"%c%06d\n" % (mark, n)) == RECORD
                except OSError:
                    return n
            return room

        counts = together(*(lambda mark=mark: write(mark) for mark in b"abc"))
        assert sum(counts) == room
        lines = bytes(h.getbuffer()).splitlines(keepends=True)
        assert sorted(lines) == sorted(
            b"%c%06d\n" % (mark, n) for mark, k in zip(b"abc", counts, strict=True) for n in range(k)
        )


@pytest.mark.needs("descriptors")
def test_a_descriptor_and_its_handle_in_different_threads(name):
    """`os.read` in one, `read` in another: each record to one of them."""
    with shm.create(name, len(CONTENT)) as h:
        h.write(CONTENT)
        fd = h.fileno()
        h.seek(0)
        told = together(lambda: until_empty(lambda: h.read(RECORD)), lambda: h.tell() >= 0)
        assert sorted(told[0]) == RECORDS
        assert os.read(fd, 1) == b""


@pytest.mark.needs("descriptors")
def test_a_close_during_calls_moves_no_other_file(tmp_path):
    """The number of the descriptor is given to another file at once; a call that began before does not reach that."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    calls = [
        lambda h: h.seek(RECORD), lambda h: h.read(RECORD), lambda h: h.readline(), lambda h: h.tell(),
        lambda h: h.write(RECORDS[0]), lambda h: h.readinto(bytearray(RECORD)),
    ]  # fmt: skip

    def use(h, me, begun):
        with contextlib.suppress(ValueError):
            for n in itertools.count(me):
                calls[n % len(calls)](h)
                begun.set()

    for _ in range(10):
        h = mmap.open(path, "rw")
        fd, begun, others = h.fileno(), threading.Event(), []

        def close(h=h, begun=begun, others=others):
            begun.wait()
            h.close()
            others += (os.open(path, os.O_RDWR) for _ in range(3))

        together(*(lambda h=h, me=me, begun=begun: use(h, me, begun) for me in range(3)), close)
        assert fd in others
        for other in others:
            assert os.lseek(other, 0, os.SEEK_CUR) == 0
            os.close(other)


@pytest.mark.needs("descriptors")
def test_a_finalizer_in_the_middle_of_a_call_may_use_the_handle(name):
    """So may a signal handler.  A thread that waits for the end of that call does not keep them from it."""
    with shm.create(name, len(CONTENT)) as h:
        h.write(CONTENT)
        h.fileno()
        h.seek(0)
        waiting = []

        def within(frame, event, function):  # noqa: ARG001
            if event == "c_return" and function.__name__ == "seek":
                waiting.append(threading.Thread(target=h.tell))
                waiting[-1].start()
                assert h.seek(0, os.SEEK_CUR) == h.tell()
                h.truncate(h.size())
                h.__reduce__()

        sys.setprofile(within)
        try:
            read = [h.read(RECORD), h.readline(), h.read(RECORD)]
        finally:
            sys.setprofile(None)
        for thread in waiting:
            thread.join()
        assert read == RECORDS[:3]


def test_close_under_readers_and_writers_is_a_value_error():
    """Whatever the others are doing, they get ValueError, or what they asked for; the process goes on."""
    run("""
import gc, io, os, sys, tempfile, threading
from ipcio import mmap, shm, strfile
sys.setswitchinterval(1e-6)
content = b"line of text\\n" * 5000
directory = tempfile.mkdtemp()
path = os.path.join(directory, "f")
with open(path, "wb") as f:
    f.write(content)
def segment():
    h = shm.create(None, len(content))
    h.write(content); h.seek(0)
    return h
kinds = [
    segment, lambda: mmap.open(path, "rw"), lambda: strfile.open(content), lambda: strfile.open(bytearray(content)),
]
states = [lambda h: None, lambda h: h.truncate(60000), lambda h: h.fileno()]
calls = [
    lambda h: h.read(100), lambda h: h.readline(), lambda h: h.readline(50), lambda h: h.readinto(bytearray(1000)),
    lambda h: h.readinto(bytearray(100_000)), lambda h: h.seek(10), lambda h: h.seek(0, 2), lambda h: h.tell(),
    lambda h: [line for line in h], lambda h: h.getbuffer()[:10].tobytes(), lambda h: h.addr(), lambda h: h.flush(),
    lambda h: h.write(b"line of text\\n"), lambda h: h.truncate(50000), lambda h: h.read(), lambda h: repr(h),
    lambda h: h.__reduce__(), lambda h: h.size(), lambda h: h.fileno(), lambda h: h.readable(), lambda h: next(h, None),
    lambda h: h.close(),
]
wrong = []
def work(h, call, started):
    try:
        while True:
            try:
                call(h)
            except io.UnsupportedOperation:
                if h.closed: return
            except OSError:
                try: h.seek(0)
                except ValueError: pass
            started.set()
            if h.closed: return
    except ValueError:
        pass
    except BaseException as error:
        wrong.append(repr(error))
    finally:
        started.set()
for kind in kinds:
    for state in states:
        # Without the GIL busy threads keep new ones from starting: a fourth of the pairs.
        for n in range(0, len(calls) - 1, 4 if 'free-threading' in sys.version else 1):
            h = kind()
            try: state(h)
            except io.UnsupportedOperation: continue
            threads = []
            for call in (calls[n], calls[(n * 7 + 3) % (len(calls) - 1)]):
                started = threading.Event()
                threads.append(threading.Thread(target=work, args=(h, call, started)))
                threads[-1].start()
                started.wait()
            h.close()
            for thread in threads: thread.join()
del h, threads, call
os.unlink(path); os.rmdir(directory)
assert not wrong, set(wrong)
""")


def test_threads_that_open_and_close_never_meet_half_a_handle(name):
    """Opening, copying and closing in several threads, each with handles of its own."""
    with shm.create(name, 100) as h:
        h.write(b"hello")

        def work():
            for _ in range(100):
                with shm.attach(name) as mine, strfile.open(mine) as text:
                    assert mine.read(5) == text.read(5) == b"hello"
            return True

        assert together(work, work, work) == [True] * 3


# -- fork


@pytest.mark.needs("fork")
@pytest.mark.parametrize("state", STATES)
def test_handles_work_in_parent_and_child(source, state):
    """Both go on with the handle they have; the child's close is the child's."""
    with contextlib.suppress(io.UnsupportedOperation):
        STATES[state](source)
    source.seek(RECORD)

    def child():
        assert source.readline() == RECORDS[1]
        source.seek(16)
        told = source.read(8), source.tell(), source.size()
        if source.writable():
            source.seek(0)
            source.write(b"from the child!\n")
        source.close()
        assert source.closed
        return told

    assert in_child(child) == (RECORDS[2], 24, source.size())
    source.seek(0)
    assert source.readline() == (b"from the child!\n" if source.writable() else RECORDS[0])
    assert not source.closed


@pytest.mark.needs("fork")
@pytest.mark.parametrize("kind", [pytest.param("shm", marks=with_descriptor), "mmap"])
def test_positions_after_fork_are_as_of_descriptors(kind, name, tmp_path):
    """Each process has its own until the descriptor was given out; from then on they share one."""
    (tmp_path / "file").write_bytes(CONTENT)
    with shm.create(name, 100) if kind == "shm" else mmap.open(tmp_path / "file") as h:
        h.seek(10)
        assert in_child(lambda: (h.tell(), h.seek(50))) == (10, 50)
        assert h.tell() == 10
        fd = h.fileno()
        assert in_child(lambda: (h.tell(), len(h.read(5)), os.lseek(fd, 0, 1), h.seek(70))) == (10, 5, 15, 70)
        assert h.tell() == os.lseek(fd, 0, 1) == 70


@pytest.mark.needs("fork")
@pytest.mark.parametrize("kind", [pytest.param("shm", marks=with_descriptor), "mmap"])
def test_a_child_asks_for_the_descriptor_first(kind, name, tmp_path):
    """That is no concern of the parent's, which was never asked."""
    (tmp_path / "file").write_bytes(CONTENT)
    with shm.create(name, 100) if kind == "shm" else mmap.open(tmp_path / "file") as h:
        h.seek(10)
        assert in_child(lambda: (os.lseek(h.fileno(), 0, 1), h.seek(40), os.lseek(h.fileno(), 0, 1))) == (10, 40, 40)
        assert h.tell() == 10
        assert os.lseek(h.fileno(), 0, 1) == 10


@pytest.mark.needs("fork")
def test_a_child_keeps_the_memory_of_a_closed_parent(name):
    h = shm.create(name, 100)
    reading, writing = os.pipe()
    pid = fork_quietly()
    if not pid:
        try:
            os.close(writing)
            os.read(reading, 1)  # until the parent has closed
            h.write(b"child")
            with shm.attach(name) as other:
                good = other.read(5) == b"child"
            h.close()
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    os.close(reading)
    h.close()
    if not lacks("witness"):
        assert name in os.listdir("/dev/shm")
    os.close(writing)
    assert os.waitpid(pid, 0)[1] == 0
    with pytest.raises(FileNotFoundError):
        shm.attach(name)


@pytest.mark.needs("fork")
@states_of_memory
def test_fork_while_other_threads_are_in_mid_call(name, state):
    """The child is never born with a handle that waits for a thread it does not have."""
    with shm.create(name, len(CONTENT)) as h, strfile.open(bytearray(CONTENT)) as text:
        h.write(CONTENT)
        STATES[state](h)
        done = threading.Event()

        def busy(act):
            while not done.is_set():
                act()

        def open_and_close():
            with shm.attach(name) as mine:
                mine.readline(3)

        def fork_often():
            try:
                for n in range(15):
                    wanted = RECORDS[n]
                    assert in_child(lambda wanted=wanted, n=n: _look(h, text, name, n) == (wanted, wanted, wanted))
            finally:
                done.set()

        together(
            fork_often,
            lambda: busy(lambda: h.seek(0) or h.readline(5)),
            lambda: busy(lambda: (text.seek(0), text.readline(), h.tell(), h.getbuffer())),
            lambda: busy(open_and_close),
        )


def _look(h, text, name, n):
    """Read the same record through handles from before the fork and after it."""
    with shm.attach(name) as other, pickle.loads(pickle.dumps(h)) as copied:
        for handle in (text, other, copied):
            handle.seek(n * RECORD)
        h.seek(0)  # its descriptor's offset may be one that the parent's threads move
        assert len(h.read(RECORD)) == RECORD
        return copied.read(RECORD), text.readline(), other.readline(RECORD)


# -- exec


@pytest.mark.needs("proc")
def test_every_descriptor_is_closed_on_exec(name, tmp_path):
    """Those of the memory, of the share in the name and of the map: none is seen by another program."""
    import fcntl

    (tmp_path / "file").write_bytes(CONTENT)
    before = set(os.listdir("/proc/self/fd"))
    with contextlib.ExitStack() as stack:
        for opener in (
            lambda: shm.create(name, 100), lambda: shm.attach(name), lambda: shm.attach(name, "r"),
            lambda: mmap.open(tmp_path / "file"), lambda: mmap.open(tmp_path / "file", "rw"),
            lambda: mmap.open(stack.enter_context(open(tmp_path / "file", "rb")).fileno()),
        ):  # fmt: skip
            h = stack.enter_context(opener())
            stack.enter_context(h.__reduce__()[0](*h.__reduce__()[1]))
            if isinstance(h.name, os.PathLike | int) or not lacks("descriptors"):
                assert os.get_inheritable(h.fileno()) is False
        ours = []
        for fd in set(os.listdir("/proc/self/fd")) - before:
            with contextlib.suppress(OSError):  # the one of listdir itself
                assert fcntl.fcntl(int(fd), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
                ours.append(os.readlink(f"/proc/self/fd/{fd}"))
        assert len(ours) >= 12
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import os, glob; print(*map(os.path.realpath, glob.glob('/proc/self/fd/*')), sep='\\n')",
            ],
            close_fds=False,
            check=True,
            capture_output=True,
            text=True,
        )
        assert not set(done.stdout.splitlines()) & set(ours)
        assert name not in done.stdout


@pytest.mark.needs("descriptors")
def test_a_descriptor_can_be_handed_on(name):
    """By `pass_fds`, as the standard streams, or made inheritable: then another program has it."""
    with shm.create(name, 100) as h:
        h.write(b"hello")
        h.seek(0)
        done = subprocess.run(
            [sys.executable, "-c", "import os, sys; print(os.read(int(sys.argv[1]), 5).decode())", str(h.fileno())],
            pass_fds=[h.fileno()],
            capture_output=True,
            check=True,
        )
        assert done.stdout == b"hello\n"
        assert h.tell() == 5
        subprocess.run([sys.executable, "-c", "print('printed')"], stdout=h, check=True)
        assert h.tell() == 13
        h.seek(0)
        assert h.read(13) == b"helloprinted\n"
