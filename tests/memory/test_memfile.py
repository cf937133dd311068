"""The file face over shared memory, and what no argument may do to it."""

from __future__ import annotations

import os
import sys

import file_contract
import pytest
from abilities import lacks
from file_contract import IS_BUFFER, outcome, run

from ipcio import MemoryFile, mmap, shm, strfile


def segment(name, content, mode):
    """A handle on a new segment of exactly these bytes."""
    with shm.create(name, len(content)) as made:
        made.write(content)
        return shm.attach(name, mode)


class TestReadWrite(file_contract.ReadWriteContract):
    HAS_DESCRIPTOR = not lacks("descriptors")

    @pytest.fixture
    def make(self, unique):
        return lambda content: segment(unique(), content, "rw")


class TestReadOnly(file_contract.ReadContract):
    MODE = "rb"
    HAS_DESCRIPTOR = not lacks("descriptors")

    @pytest.fixture
    def make(self, unique):
        return lambda content: segment(unique(), content, "r")


# -- between handles


def test_every_handle_sees_a_write_when_it_returns(name):
    """Through another handle, read-only or given-out descriptor, a view and the descriptor itself."""
    with shm.create(name, 100) as h, shm.attach(name, "r") as reader, shm.attach(name) as shared:
        view = reader.getbuffer()
        fd = -1 if lacks("descriptors") else shared.fileno()
        for n in range(1, 100):
            h.seek(n)
            h.write(bytes([n]))
            reader.seek(n)
            shared.seek(n)
            assert view[n] == reader.read(1)[0] == shared.read(1)[0] == n
            if fd < 0:
                shared.seek(n)
                shared.write(b"\xff")
            else:
                assert os.pread(fd, 1, n)[0] == n
                os.pwrite(fd, b"\xff", n)
            h.seek(n)
            assert h.read(1) == b"\xff"


def test_narrowing_is_this_handle_s_alone(name):
    with shm.create(name, 100) as h, shm.attach(name) as other:
        view = h.getbuffer()
        h.truncate(10)
        assert other.size() == view.nbytes == 100
        if not lacks("descriptors"):
            assert os.fstat(other.fileno()).st_size == 100
        with shm.attach(name) as third:
            assert third.size() == 100


@pytest.mark.parametrize("kind", ["shm", "mmap"])
def test_a_narrowed_handle_without_a_map_of_its_own_is_the_same(kind, name, tmp_path, monkeypatch):
    """Only slower, if the system refuses a second map; with loops and methods that were fetched before."""
    content = b"one\ntwo\nthree\nfour\n"
    path = tmp_path / "file"

    def told():
        path.write_bytes(content)
        with segment(name, content, "rw") if kind == "shm" else mmap.open(path, "rw") as h, h.getbuffer() as whole:
            loop, read = iter(h), h.read
            found = [next(loop), h.truncate(16), next(loop), read(1), h.tell(), h.read(3), h.readline(), [*loop]]
            for position, data in (14, b"xyz"), (14, b"ab"), (16, b"x"), (20, b""):
                found += [h.seek(position), outcome(lambda data=data: h.write(data)), h.tell()]
            target, large = bytearray(9), bytearray(100_000)
            found += [h.seek(-9, 2), h.readinto(target), bytes(target), h.seek(1), h.readinto(large), h.tell()]
            found += [h.truncate(7), h.seek(2), h.read(), h.seek(0), [*h], h.seek(-3, 1), h.readlines(), h.seek(0)]
            return [*found, h.read(), h.size(), bytes(whole)]

    usual = told()
    monkeypatch.setattr("ipcio._memory.OpenMemory._map_again", lambda *_: None)
    assert told() == usual
    assert usual[-1] == b"one\ntwo\nthree\nab" + content[16:]


@pytest.mark.skipif("free-threading" in sys.version, reason="there each method is a call under a lock")
@pytest.mark.parametrize("kind", ["shm", "mmap"])
def test_a_narrowed_handle_is_as_fast_as_any(kind, name, tmp_path):
    """Its reading methods are functions of C."""
    if kind == "shm" and lacks("descriptors"):
        pytest.skip(lacks("descriptors"))
    (tmp_path / "file").write_bytes(b"x" * 100)
    with shm.create(name, 100) if kind == "shm" else mmap.open(tmp_path / "file") as h:
        for size in (99, 50, 1):
            h.truncate(size)
            assert {type(h.read), type(h.tell), type(h.read1)} == {type([].append)}
            h.seek(200)
            assert type(h.read) is not type([].append)
            h.seek(0)


@pytest.mark.needs("descriptors")
def test_narrowing_never_shows_another_file(tmp_path):
    """A daemon closes all its descriptors, and other files get their numbers."""
    (tmp_path / "file").write_bytes(b"in the file")
    (tmp_path / "other").write_bytes(b"another file")
    run(
        """
import os, sys
from ipcio import mmap, shm
handles = [mmap.open(sys.argv[1], "rw"), shm.create(None, 11)]
handles[1].getbuffer()[:] = b"in the file"
os.closerange(3, 100)
others = [os.open(sys.argv[2], os.O_RDWR) for _ in range(20)]
for h in handles:
    assert h.truncate(7) == 7
    assert h.read() == b"in the "
    h.seek(0)
    assert h.write(b"changed") == 7
    assert h.getbuffer() == b"changed"
    h.close()
assert os.read(others[0], 20) == b"another file"
""",
        tmp_path / "file",
        tmp_path / "other",
    )


@pytest.mark.needs("posix", "descriptors")
def test_a_user_s_lock_on_the_descriptor_does_not_touch_the_name_s_life(name):
    """Neither taking and dropping a `flock` nor a `lockf` on `fileno` takes the name away or keeps it."""
    import fcntl

    h = shm.create(name, 100)
    fcntl.flock(h, fcntl.LOCK_SH | fcntl.LOCK_NB)
    fcntl.flock(h, fcntl.LOCK_UN)
    with shm.attach(name) as other:
        fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        with shm.attach(name):
            pass
        with pytest.raises(FileExistsError):
            shm.create(name, 1)
        assert other.read(1) == b"\0"
    assert shm.attach(name).size() == 100
    h.close()
    with pytest.raises(FileNotFoundError):
        shm.attach(name)


def test_a_seek_too_far_for_the_descriptor_leaves_the_handle_whole(tmp_path):
    """A position that no file offset can follow: an error or not, but one position."""
    from ipcio import mmap

    path = tmp_path / "f"
    path.write_bytes(b"one\ntwo\n")
    with mmap.open(path) as h:
        far = h.seek(1 << 62)
        assert h.tell() == far == 1 << 62
        kind, value = outcome(h.fileno)
        assert (kind, value) in {("value", value), ("OSError", "EINVAL"), ("OSError", "EOVERFLOW")}
        assert h.tell() == far
        assert h.read() == b""
        assert h.seek(4) == 4
        h.fileno()
        assert h.read() == b"two\n"


# -- nobody can make one that crashes


def test_a_handle_that_was_never_opened_is_harmless():
    """`MemoryFile` is no constructor: what its `__new__` gives may only raise."""
    run("""
import io
from ipcio import MemoryFile, mmap, shm, strfile
kinds = {MemoryFile, *MemoryFile.__subclasses__()}
for kind in kinds:
    h = kind.__new__(kind)
    for what in ("read", "tell", "size", "close", "getbuffer", "__repr__", "fileno"):
        try:
            getattr(h, what)()
        except (ValueError, AttributeError, TypeError):
            pass
    del h
    try:
        kind()
    except TypeError:
        pass
""")


EVIL = """
import gc, io, os, sys, tempfile
from ipcio import mmap, shm, strfile
content = b"one\\ntwo\\n" * 1000
path = os.path.join(tempfile.mkdtemp(), "f")
with open(path, "wb") as f: f.write(content)
def segment(mode):
    with shm.create(None, len(content)) as made:
        made.write(content)
        return shm.attach(made.name, mode)
kinds = [
    lambda: segment("rw"), lambda: segment("r"), lambda: mmap.open(path), lambda: mmap.open(path, "rw"),
    lambda: mmap.open(path, "w"), lambda: strfile.open(content), lambda: strfile.open(bytearray(content)),
]
def fresh(h): pass
def narrowed(h): h.truncate(5000)
def shared(h):
    try: h.fileno()
    except io.UnsupportedOperation: pass
def empty(h): h.truncate(0)
keep = []
def viewed(h): keep.append(h.getbuffer())
states = [fresh, narrowed, shared, viewed]
"""


@pytest.mark.parametrize("deed", ["h.truncate(0)", "h.seek(0, 2)", "h.fileno()", "h.close(); gc.collect()"])
def test_an_index_that_meddles_with_the_handle_never_crashes(deed):
    """`__index__` is the caller's code; it may close, narrow or move the handle in mid-call."""
    run(
        EVIL
        + """
deed = compile(sys.argv[1], "deed", "exec")
class Evil:
    def __init__(self, h, value): self.h, self.value = h, value
    def __index__(self):
        h = self.h
        try: exec(deed)
        except io.UnsupportedOperation: pass
        return self.value
calls = [
    lambda h, v: h.read(Evil(h, v)), lambda h, v: h.read1(Evil(h, v)), lambda h, v: h.readline(Evil(h, v)),
    lambda h, v: h.seek(Evil(h, v)), lambda h, v: h.seek(0, Evil(h, v % 3)), lambda h, v: h.seek(Evil(h, v), 1),
    lambda h, v: h.seek(Evil(h, -v), 2), lambda h, v: h.truncate(Evil(h, v)), lambda h, v: h.readlines(Evil(h, v)),
    lambda h, v: h.seek(Evil(h, v), Evil(h, 1)),
]
for kind in kinds:
    for state in states:
        for call in calls:
            for value in (0, 5, 8000, 10**6):
                h = kind()
                state(h)
                try: call(h, value)
                except (ValueError, OSError, OverflowError, TypeError): pass
                if not h.closed and h.readable():
                    h.seek(0)
                    assert content.startswith(h.read())
                h.close()
                keep.clear()
os.unlink(path); os.rmdir(os.path.dirname(path))
""",
        deed,
    )


if IS_BUFFER:  # buffers written in Python

    @pytest.mark.parametrize("deed", ["h.close()", "h.truncate(0)", "h.fileno()", "h.seek(0, 2)"])
    def test_a_buffer_that_meddles_with_the_handle_never_crashes(deed):
        """`__buffer__` and `__release_buffer__` are the caller's code, too."""
        run(
            EVIL
            + """
deed = compile(sys.argv[1], "deed", "exec")
class Evil:
    def __init__(self, h, size, when): self.h, self.data, self.when = h, bytearray(size), when
    def act(self, now):
        h = self.h
        if now == self.when:
            try: exec(deed)
            except io.UnsupportedOperation: pass
    def __buffer__(self, flags):
        self.act("get")
        return memoryview(self.data)
    def __release_buffer__(self, view):
        view.release()
        self.act("release")
calls = [
    lambda h, b: h.write(b), lambda h, b: h.readinto(b), lambda h, b: h.readinto1(b), lambda h, b: h.writelines([b, b])
]
for kind in kinds:
    for state in states:
        for call in calls:
            for size in (0, 5, 8000, 100_000):
                for when in ("get", "release"):
                    h = kind()
                    state(h)
                    try: call(h, Evil(h, size, when))
                    except (ValueError, OSError, TypeError): pass
                    h.close()
                    keep.clear()
os.unlink(path); os.rmdir(os.path.dirname(path))
""",
            deed,
        )


def test_closing_from_inside_its_own_iteration_and_collection_never_crashes():
    """Iterators and views that outlive the handle, dropped in every order."""
    run(
        EVIL
        + """
for kind in kinds:
    for state in states:
        for order in range(6):
            h = kind()
            state(h)
            held = [iter(h) if h.readable() else None, h.getbuffer(), h]
            if held[0] is not None:
                assert next(held[0]) == b"one\\n"
            first, second, third = [(0,1,2),(0,2,1),(1,0,2),(1,2,0),(2,0,1),(2,1,0)][order]
            del h
            held[first] = None; gc.collect()
            if held[2] is not None: held[2].close()
            if held[0] is not None:
                try: next(held[0])
                except (ValueError, StopIteration): pass
            if held[1] is not None: assert bytes(held[1][:4]) == b"one\\n"
            held[second] = None
            if held[0] is not None:
                try: list(held[0])
                except ValueError: pass
            if held[1] is not None: assert bytes(held[1][:4]) == b"one\\n"
            held[third] = None
            keep.clear()
os.unlink(path); os.rmdir(os.path.dirname(path))
"""
    )


def test_handles_alive_at_the_end_of_the_program_are_silent(tmp_path):
    """Nothing on stderr at exit, whatever is still open, wrapped or iterated; and the names are gone."""
    name = run(
        EVIL.replace("tempfile.mkdtemp()", "sys.argv[1]")  # what is mapped cannot be removed everywhere
        + """
all = []
for kind in kinds:
    for state in states:
        h = kind(); state(h)
        all += [h, h.getbuffer(), kind()]
        if h.readable(): all += [iter(h), io.BufferedReader(kind()), io.TextIOWrapper(kind(), "ascii")]
        h.cycle = h
last = shm.create(None, 10)
print(last.name)
""",
        tmp_path,
    ).strip()
    with pytest.raises(FileNotFoundError):
        shm.attach(name)


def test_the_class_is_public():
    import ipcio

    assert ipcio.MemoryFile is MemoryFile
    assert MemoryFile.__name__ == "MemoryFile"


def test_handles_come_from_functions_alone_and_say_so():
    for arguments in ((), ("prices",), ("prices", 4096)):
        with pytest.raises(TypeError, match=r"use shm\.create\(\)"):
            MemoryFile(*arguments)


def test_every_kind_of_handle_calls_itself_by_its_public_name(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    for h in strfile.open(b"x"), strfile.open(bytearray(1)), mmap.open(tmp_path / "file"):
        with h, pytest.raises(AttributeError, match="'MemoryFile' object has no attribute 'buf'"):
            h.buf  # noqa: B018
