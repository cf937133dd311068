"""Files that are mapped, as files."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import itertools
import mmap as stdlib_mmap
import os
import pathlib
import pickle
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile

import file_contract
import pytest
from abilities import lacks
from file_contract import COPIED, FRESH, IS_BUFFER, NARROWED, SHARED, Index, in_child, outcome
from leftovers import descriptors

from ipcio import MemoryFile, mmap, shm, strfile

PAGE = mmap.pagesize


@pytest.fixture
def file(tmp_path):
    """Return a function from bytes to the path of a new file with them: what is mapped cannot be cut everywhere."""
    numbers = itertools.count()

    def make(content):
        path = tmp_path / f"file-{next(numbers)}"
        path.write_bytes(content)
        return path

    return make


class TestReadOnlyByPath(file_contract.ReadContract):
    MODE = "rb"

    @pytest.fixture
    def make(self, file):
        return lambda content: mmap.open(file(content))


class TestReadWriteByFile(file_contract.ReadWriteContract):
    @pytest.fixture(params=[FRESH, COPIED])
    def state(self, request):
        return request.param

    @pytest.fixture
    def make(self, file):
        def make(content):
            with open(file(content), "rb+") as f:
                f.seek(3)
                return mmap.open(f, "rw")

        return make


class TestReadWritePart(file_contract.ReadWriteContract):
    """A part in the middle of the file: the rest of the file must not show."""

    HAS_DESCRIPTOR = False  # for the rest would show there

    @pytest.fixture(params=[FRESH, NARROWED, COPIED])
    def state(self, request):
        return request.param

    @pytest.fixture
    def make(self, file):
        def make(content):
            before = b"before\n" * PAGE
            return mmap.open(file(before[:PAGE] + content + b"\nafter" * 1000), "rw", PAGE, len(content))

        return make


class TestWriteOnlyByDescriptor(file_contract.WriteContract):
    MODE = "wb"

    @pytest.fixture(params=[FRESH, NARROWED, SHARED, COPIED])
    def state(self, request):
        return request.param

    @pytest.fixture
    def make(self, file):
        def make(content):
            fd = os.open(file(content), os.O_RDWR)
            try:
                return mmap.open(fd, "w")
            finally:
                os.close(fd)

        return make


# -- which part of which file


def test_pagesize_is_the_system_s():
    assert mmap.pagesize == stdlib_mmap.ALLOCATIONGRANULARITY
    assert type(mmap.pagesize) is int


def test_part_of_a_file(file):
    """`size` bytes from `offset`; 0 means to the end; the position counts from the part's start."""
    content = os.urandom(3 * PAGE + 100)
    path = file(content)
    for offset, size in [
        (0, 0), (0, 1), (0, PAGE), (0, len(content)), (PAGE, 0), (PAGE, 7), (2 * PAGE, PAGE + 100), (3 * PAGE, 0),
        (3 * PAGE, 100), (Index(PAGE), Index(5)), (True - 1, True),
    ]:  # fmt: skip
        for mode in ("r", "rw"):
            with mmap.open(path, mode, offset, size) as h:
                start, length = int(offset.__index__()), int(size.__index__())
                wanted = content[start:][: length or None]
                assert (h.tell(), h.size()) == (0, len(wanted))
                assert h.read() == wanted
    with mmap.open(path=path, mode="r", offset=PAGE, size=3) as h:
        assert h.read() == content[PAGE : PAGE + 3]
    with mmap.open(path, offset=3 * PAGE) as h:
        assert h.seek(0, 2) == 100


def test_a_part_that_begins_where_the_file_ends_is_empty(file):
    """Nothing is past the end yet; one byte more is."""
    path = file(bytes(PAGE))
    for mode in ("r", "w", "rw"):
        with mmap.open(path, mode, PAGE) as h:
            assert h.size() == 0
            with pytest.raises(io.UnsupportedOperation):
                h.fileno()
            h.flush()
        with pytest.raises(ValueError):
            mmap.open(path, mode, PAGE, 1)


def test_an_empty_file_is_an_empty_handle(file):
    """With everything a handle has."""
    path = file(b"")
    for mode, spelt in (("r", "rb"), ("w", "wb"), ("rw", "rb+")):
        with mmap.open(path, mode) as h:
            assert isinstance(h, MemoryFile)
            assert (h.size(), h.tell(), h.mode, h.name) == (0, 0, spelt, path)
            assert h.getbuffer().nbytes == 0
            assert type(h.addr()) is int
            h.flush()
            assert h.truncate() == 0
            assert os.fstat(h.fileno()).st_size == 0
            assert h.seek(5) == h.tell() == os.lseek(h.fileno(), 0, 1) == 5
            if mode != "w":
                assert h.read() == h.readall() == h.readline() == h.read(1) == b""
                assert list(h) == h.readlines() == []
                assert h.readinto(bytearray(2)) == 0
            if mode != "r":
                assert h.write(b"") == 0
                with pytest.raises(OSError, match="space") as caught:
                    h.write(b"x")
                assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, path)
        assert h.closed
        with pytest.raises(ValueError, match="closed"):
            h.seek(0)
        for bad in ((0, 1), (PAGE, 0), (PAGE, 1)):
            with pytest.raises(ValueError):
                mmap.open(path, mode, *bad)
    assert path.read_bytes() == b""


def test_any_spelling_of_a_path_and_what_it_is_called(file):
    """`str`, `bytes`, path-like of both; a file object or descriptor: the name is a file's."""
    path = file(b"content")

    class Like:
        def __init__(self, answer):
            self.answer = answer

        def __fspath__(self):
            return self.answer

    for spelling in (path, str(path), bytes(path), Like(str(path)), Like(bytes(path)), pathlib.PurePath(path)):
        with mmap.open(spelling) as h:
            assert h.read() == b"content"
            assert os.fspath(h.name) == os.fspath(spelling)
    if not lacks("links"):
        link = path.with_name("link")
        link.symlink_to(path)
        assert mmap.open(link).read() == b"content"
    strange = path.with_name("na\nme \xff" if os.name == "posix" else "na me \xff")
    os.rename(path, strange)
    assert mmap.open(strange).read() == b"content"


def test_files_and_descriptors(file):
    """Any open binary file; it may be closed afterwards; its position stays; its buffer is not lost."""
    path = file(b"one\ntwo\n")
    openers = [
        lambda: open(path, "rb+"),
        lambda: open(path, "rb+", buffering=0),
        lambda: open(path, "ab+"),
        lambda: mmap.open(path, "rw"),
    ]
    for opener in openers:
        for mode in ("r", "w", "rw"):
            f = opener()
            f.seek(5)
            with mmap.open(f, mode) as h:
                assert h.name == f.name
                assert f.tell() == 5
                assert h.tell() == 0
                f.close()
                assert bytes(h.getbuffer()) == b"one\ntwo\n"
                assert h.seek(0, 2) == 8
    with open(path, "rb") as f, mmap.open(f) as h:
        f.seek(3)
        assert h.read(3) == b"one"
        assert h.fileno() != f.fileno()
        assert f.tell() == 3
        h.seek(0)
        assert f.tell() == os.lseek(f.fileno(), 0, 1) == 3
    with open(path, "rb+") as f:
        f.write(b"1")
        with mmap.open(f) as h:
            assert h.read(3) == b"1ne"
    fd = os.open(path, os.O_RDWR)
    os.lseek(fd, 2, 0)
    with mmap.open(fd, "rw") as h:
        assert h.name == fd
        h.seek(0)
        h.write(b"o")
        assert os.lseek(fd, 0, 1) == 2
    os.close(fd)
    assert path.read_bytes() == b"one\ntwo\n"
    with tempfile.TemporaryFile() as f:
        f.write(b"gone by name")
        assert mmap.open(f, "rw").read() == b"gone by name"
    with tempfile.NamedTemporaryFile() as f:
        f.write(b"named")
        with mmap.open(f) as h:
            assert h.read() == b"named"


@pytest.mark.needs("descriptors")
def test_other_memory_is_a_file_to_map(name):
    with shm.create(name, 100) as made, mmap.open(made, "rw") as h:
        h.write(b"hello")
        assert made.read(5) == b"hello"
        assert h.size() == 100


# -- what the file sees


@pytest.mark.parametrize("mode", ["w", "rw"])
def test_writes_are_in_the_file_and_its_size_never_changes(file, mode):
    """At once for whoever reads it; `flush` says when the storage has them."""
    path = file(bytes(1000))
    with mmap.open(path, mode) as h, open(path, "rb", buffering=0) as f:
        h.seek(500)
        h.write(b"middle")
        f.seek(500)
        assert f.read(6) == b"middle"
        assert h.flush() is None
        for deed in (
            lambda: h.truncate(100), lambda: (h.seek(0, 2), h.write(b"x")), lambda: (h.seek(10_000), h.write(b"x")),
            lambda: h.truncate(5000), lambda: h.write(bytes(2000)), lambda: io.BufferedWriter(h).truncate(50),
        ):  # fmt: skip
            try:
                deed()
            except (OSError, ValueError):
                pass
            assert os.stat(path).st_size == 1000
    assert path.read_bytes() == bytes(500) + b"middle" + bytes(494)


def test_flush_reaches_the_file(file):
    """By `msync` of everything; a failure of the storage is an OSError."""
    path = file(bytes(3 * PAGE))
    with mmap.open(path, "rw", PAGE, PAGE + 1) as h:
        h.write(b"x" * (PAGE + 1))
        h.flush()
        with open(path, "rb") as f:
            assert f.read() == bytes(PAGE) + b"x" * (PAGE + 1) + bytes(PAGE - 1)
    with mmap.open(path) as h:
        h.flush()


def test_a_read_only_handle_cannot_change_the_file(file):
    path = file(b"content")
    with mmap.open(path) as h:
        assert h.writable() is False
        with pytest.raises(io.UnsupportedOperation):
            h.write(b"x")
        with pytest.raises(TypeError):
            h.getbuffer()[0] = 0
        if IS_BUFFER:
            with pytest.raises(TypeError):
                memoryview(h)[0] = 0
        with pytest.raises(OSError):
            os.write(h.fileno(), b"x")
    assert path.read_bytes() == b"content"


def test_what_others_write_is_seen(file):
    path = file(b"one\ntwo\n")
    with mmap.open(path) as h, open(path, "rb+", buffering=0) as f:
        assert h.readline() == b"one\n"
        f.seek(4)
        f.write(b"2\n")
        assert h.readline() == b"2\n"
        f.seek(0)
        f.write(b"1\n")
        h.seek(0)
        assert h.read() == b"1\ne\n2\no\n"


# -- how long it is mapped


def mapped(path):
    with open("/proc/self/maps") as listing:
        return str(path) in listing.read()


def descriptors_of(path):
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{fd}") == str(path)]


@pytest.mark.needs("proc")
@pytest.mark.parametrize("what", ["nothing", "narrowed", "fileno", "iterator", "copy"])
def test_a_closed_handle_keeps_neither_map_nor_descriptor(file, what):
    """Though the object itself is still about, and what was done with it before."""
    path = file(b"one\ntwo\n" * 1000)
    h = mmap.open(path, "rw")
    assert mapped(path)
    if what == "narrowed":
        h.truncate(10)
    if what == "fileno":
        h.fileno()
    if what == "iterator":
        assert len([*h]) == 2000
    if what == "copy":
        pickle.loads(pickle.dumps(h)).close()
    h.close()
    assert not mapped(path)
    assert not descriptors_of(path)
    assert h.closed


@pytest.mark.needs("proc")
def test_a_handle_narrowed_again_and_again_keeps_two_maps(file):
    path = file(bytes(3 << 20))
    with mmap.open(path, "rw") as h:
        for size in range(h.size() - 1, 1 << 20, -(1 << 18)):
            h.truncate(size)
            with open("/proc/self/maps") as listing:
                assert listing.read().count(str(path)) == 2
    assert not mapped(path)


@pytest.mark.needs("proc")
def test_the_last_view_unmaps(file):
    """After `close` the memory stays exactly as long as a view of it."""
    path = file(b"one\ntwo\n" * 1000)
    h = mmap.open(path, "rw")
    view = h.getbuffer()
    part = view[4:7]
    h.close()
    view.release()
    assert mapped(path)
    assert bytes(part) == b"two"
    part.release()
    del view, part
    assert not mapped(path)
    assert not descriptors_of(path)
    assert h.closed


# -- the descriptor


def test_the_descriptor_stands_where_the_handle_does(file):
    """`os` and `subprocess` take over from there and give it back."""
    path = file(b"one\ntwo\nthree\n")
    with mmap.open(path, "rw") as h:
        h.readline()
        fd = h.fileno()
        assert os.lseek(fd, 0, os.SEEK_CUR) == 4
        assert os.read(fd, 4) == b"two\n"
        assert h.tell() == 8
        assert h.readline() == b"three\n"
        h.seek(4)
        done = subprocess.run(
            [sys.executable, "-c", "import os; os.write(1, os.read(0, 4))"],
            stdin=h,
            stdout=subprocess.PIPE,
            check=True,
        )
        assert done.stdout == b"two\n"
        assert h.tell() == 8
        h.seek(4)
        subprocess.run([sys.executable, "-c", "import os; os.write(1, b'TWO')"], stdout=h, check=True)
        assert h.tell() == 7
        assert h.read(1) == b"\n"
        h.seek(0)
        assert h.read() == b"one\nTWO\nthree\n"
        os.lseek(fd, 0, os.SEEK_SET)
        assert h.read(3) == b"one"


@pytest.mark.needs("sendfile")
def test_sendfile_takes_the_handle(file):
    """From the position on, and with an explicit place without moving it."""
    path = file(b"one\ntwo\nthree\n")
    here, there = socket.socketpair()
    with here, there, mmap.open(path) as h:
        h.seek(4)
        assert os.sendfile(here.fileno(), h.fileno(), None, 4) == 4
        assert there.recv(100) == b"two\n"
        assert h.tell() == 8
        assert os.sendfile(here.fileno(), h.fileno(), 0, 3) == 3
        assert there.recv(100) == b"one"
        assert h.read() == b"three\n"
        h.seek(0)
        assert here.sendfile(h, 0, 8) == 8
        assert there.recv(100) == b"one\ntwo\n"


PARTS = {
    "at an offset": lambda path: mmap.open(path, "rw", PAGE),
    "shorter than its file": lambda path: mmap.open(path, "rw", 0, PAGE),
    "in the middle": lambda path: mmap.open(path, "r", PAGE, 10),
}


@pytest.mark.parametrize("keeps", [False, True], ids=["nothing kept", "read kept"])
@pytest.mark.parametrize("mode", ["r", "w", "rw"])
def test_with_a_descriptor_each_call_begins_where_the_last_one_ended(file, mode, keeps):
    lines = [b"%03d\n" % number for number in range(1000)]
    path = file(b"".join(lines))
    with mmap.open(path, mode) as h:
        kept = h.read if keeps else None
        fd = h.fileno()
        for first in 0, 500, 990:
            assert h.seek(4 * first) == 4 * first
            if mode != "w":
                assert h.read(4) + h.readline() == lines[first] + lines[first + 1]
                assert os.read(fd, 4) == lines[first + 2]
                assert h.readline() == lines[first + 3]
                if kept is not None:
                    assert kept(4) == lines[first + 4]
                    assert h.tell() == 4 * (first + 5)
            if mode != "r":
                os.lseek(fd, 4 * first, os.SEEK_SET)
                assert h.write(lines[first]) == 4
            assert h.tell() == os.lseek(fd, 0, os.SEEK_CUR)
        for size in 11, 4001:
            os.lseek(fd, 3990, os.SEEK_SET)  # which the handle does not expect
            with pytest.raises(OSError, match=r"not writable|space left"):
                h.write(bytes(size))
            assert h.tell() == os.lseek(fd, 0, os.SEEK_CUR) == 3990
        if mode != "w":
            assert h.read(11) == b"7\n998\n999\n"
            assert h.read(11) == h.readline() == b""
    for call in h.read, h.readline, h.seek, h.write:
        with pytest.raises(ValueError, match="closed"):
            call(*{h.seek: (0,), h.write: (b"x",)}.get(call, ()))
    with open(path, "rb") as unchanged:
        assert unchanged.readlines() == lines


@pytest.mark.parametrize("part", PARTS)
def test_a_part_gives_no_descriptor(file, part):
    """It would show other bytes, as they would to who sends, measures or wraps it."""
    path = file(b"#" * PAGE + b"one\ntwo\nthree\n")
    with PARTS[part](path) as h:
        wanted = h.read()
        h.seek(0)
        with pytest.raises(io.UnsupportedOperation, match=r"getbuffer\(\)"):
            h.fileno()
        with pytest.raises(io.UnsupportedOperation):
            subprocess.run(["true"], stdin=h, check=True)
        with pytest.raises(io.UnsupportedOperation):
            tarfile.TarFile(fileobj=io.BytesIO(), mode="w").gettarinfo(arcname="x", fileobj=h)
        here, there = socket.socketpair()
        with here, there:
            assert here.sendfile(h) == len(wanted)
            here.shutdown(socket.SHUT_WR)
            assert there.makefile("rb").read() == wanted


def test_a_file_that_grew_gives_no_descriptor(file):
    """For its map does not show what was added; one that was cut does, for all to see."""
    path = file(b"one\ntwo\n")
    with mmap.open(path) as h:
        fd = h.fileno()
        with open(path, "ab") as other:
            other.write(b"more")
        with pytest.raises(io.UnsupportedOperation):
            h.fileno()
        h.seek(4)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 4
        if not lacks("cuts"):
            os.truncate(path, 8)
            assert h.fileno() == fd


@pytest.mark.needs("open file locks")
@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_locked_by_the_ranges_of_its_file(file, part):
    """Byte 0 is the file's first, through layers of `io`, too; though there is no descriptor."""
    from ipcio import filelock

    path = file(b"#" * PAGE + b"one\ntwo\nthree\n")
    with PARTS[part](path) as h, open(path, "rb+") as other, io.BufferedReader(h) as layer:
        for file_of in h, layer:
            assert filelock.trylock(file_of, "r", 0, 10)
            assert not filelock.trylock(other, "rw", 9, 1)
            assert filelock.trylock(other, "rw", 10, 1)
            assert filelock.lock(file_of, "r", 3, 4, timeout=0)
            assert filelock.query(file_of, "rw", 10, 1)[:3] == (10, 1, "rw")
            assert filelock.unlock(file_of, 0, 10)
            assert filelock.unlock(other)
            with filelock.locked(file_of, "r"):
                assert not filelock.trylock(other)


@pytest.mark.needs("posix")
def test_fstat_and_locks_take_the_handle(file):
    import fcntl

    path = file(bytes(100))
    with mmap.open(path, "rw") as h:
        assert os.path.samestat(os.fstat(h.fileno()), os.stat(path))
        assert os.path.sameopenfile(h.fileno(), h.fileno())
        fcntl.lockf(h, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(h, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(h, fcntl.LOCK_UN)
        assert os.get_inheritable(h.fileno()) is False
        os.fsync(h)


# -- bad input: the right error, and nothing made or changed


@pytest.fixture
def unchanged(tmp_path):
    """Fail if anything under the directory was made, removed or changed."""
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_bytes(bytes(PAGE + 10))
    if not lacks("links"):
        (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
    if os.name == "posix":
        with socket.socket(socket.AF_UNIX) as bound:
            here = os.open(".", os.O_RDONLY)  # the whole path may be too long for a socket
            try:
                os.chdir(tmp_path)
                bound.bind("socket")
            finally:
                os.fchdir(here)
                os.close(here)

    def look():
        return {
            p.name: (stat.S_IFMT(p.lstat().st_mode), p.lstat().st_size, p.lstat().st_mtime_ns)
            for p in tmp_path.iterdir()
        }

    before = look()
    yield tmp_path
    assert look() == before


@pytest.mark.parametrize("mode", ["r", "w", "rw"])
def test_what_the_system_refuses(unchanged, mode):
    """The matching OSError with errno and the path as it was given; a FIFO does not block."""
    entries = [
        ("missing", errno.ENOENT), ("missing/below", errno.ENOENT), ("directory", errno.EISDIR),
        ("directory/..", errno.EISDIR),
    ]  # fmt: skip
    if os.name == "posix":
        entries += [
            ("file/below", errno.ENOTDIR), ("dangling", errno.ENOENT), ("loop", errno.ELOOP), ("fifo", errno.ENODEV),
            ("x" * 256, errno.ENAMETOOLONG), ("x/" * 3000, errno.ENAMETOOLONG), ("socket", errno.ENXIO),
        ]  # fmt: skip
    for entry, number in entries:
        for spelling in (str(unchanged / entry), os.fsencode(unchanged / entry), unchanged / entry):
            with pytest.raises(OSError) as caught:
                mmap.open(spelling, mode)
            assert caught.value.errno == number, entry
            assert type(caught.value) is type(OSError(number, ""))
            assert os.fspath(caught.value.filename) == os.fspath(spelling)
    for device in (os.devnull, *(["/dev/zero"] if os.name == "posix" else [])):
        with pytest.raises(OSError) as caught:
            mmap.open(device, mode)
        assert (caught.value.errno, caught.value.filename) == (errno.ENODEV, device)
    with pytest.raises(FileNotFoundError) as caught:
        mmap.open("", mode)
    assert caught.value.filename == ""


def test_malformed_arguments(unchanged):
    """ValueError or TypeError, whichever a file would raise, before anything is opened."""
    path = unchanged / "file"
    for bad in ("", "x", "r+", "rb", "wr", "R", "rwx", "a", None, 1, b"r", "rw "):
        with pytest.raises((ValueError, TypeError)):
            mmap.open(path, bad)
    for offset, size in [
        (-1, 0), (-PAGE, 0), (0, -1), (1, 0), (PAGE - 1, 0), (PAGE // 2, 1), (PAGE + 1, 1), (0, PAGE + 11), (PAGE, 11),
        (2 * PAGE, 0), (2 * PAGE, 1), (0, 1 << 62), (0, 1 << 63), (0, 1 << 100), (PAGE << 60, 0), (-(PAGE << 60), 1),
        (PAGE, 1 << 63),
    ]:  # fmt: skip
        for mode in ("r", "rw"):
            with pytest.raises(ValueError):
                mmap.open(path, mode, offset, size)
    with pytest.raises(ValueError, match=str(PAGE)):
        mmap.open(path, "r", 1)
    for bad in (1.0, "0", None, b"0", [0]):
        with pytest.raises(TypeError):
            mmap.open(path, "r", bad)
        with pytest.raises(TypeError):
            mmap.open(path, "r", 0, bad)
    for bad in (None, 1.5, [], object(), (path,), {}):
        with pytest.raises(TypeError):
            mmap.open(bad)
    for bad in ("a\0b", b"a\0b", f"{path}\0"):
        with pytest.raises(ValueError):
            mmap.open(bad)
    with pytest.raises(TypeError):
        mmap.open()


def test_an_unhashable_mode_is_a_type_error_too(unchanged):
    for bad in ([], {}, ["r"]):
        with pytest.raises((TypeError, ValueError)):
            mmap.open(unchanged / "file", bad)


def test_malformed_files_and_descriptors(unchanged):
    """Closed, negative, unopened, of text, without a descriptor, in the wrong mode."""
    path = unchanged / "file"
    for bad in (-1, -5):
        with pytest.raises((ValueError, OSError)):
            mmap.open(bad)
    unopened = os.open(path, os.O_RDONLY)
    os.close(unopened)
    for mode in ("r", "rw"):
        with pytest.raises(OSError) as caught:
            mmap.open(unopened, mode)
        assert (caught.value.errno, caught.value.filename) == (errno.EBADF, unopened)
    assert outcome(lambda: mmap.open(1 << 40))[0] in {"OSError", "ValueError", "OverflowError"}
    with open(path, "rb") as f:
        pass
    with pytest.raises(ValueError, match="closed"):
        mmap.open(f)
    with open(path, encoding="ascii") as f, pytest.raises(TypeError):
        mmap.open(f)
    for bad in (io.BytesIO(b"x"), strfile.open(b"x")):
        with pytest.raises(io.UnsupportedOperation):
            mmap.open(bad)
    with pytest.raises(TypeError):
        mmap.open(io.StringIO("x"))
    closed = mmap.open(path)
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        mmap.open(closed)
    with open(path, "rb") as f:
        for mode in ("w", "rw"):
            for given in (f, f.fileno()):
                with pytest.raises(PermissionError) as caught:
                    mmap.open(given, mode)
                assert caught.value.errno == errno.EACCES
                assert caught.value.filename is not None
    reading, writing = os.pipe()
    here, there = socket.socketpair()
    others = [reading]
    if os.name == "posix":  # elsewhere neither has a descriptor
        others += here.fileno(), os.open(unchanged, os.O_RDONLY)
    with here, there:
        for fd in others:
            with pytest.raises(OSError) as caught:
                mmap.open(fd)
            assert caught.value.errno in {errno.ENODEV, errno.ENXIO, errno.EISDIR}
            assert caught.value.filename == fd
        with pytest.raises((OSError, TypeError, ValueError)):
            mmap.open(here)
    for fd in (reading, writing, *others[2:]):
        os.close(fd)


def test_a_file_s_own_lies_are_its_own():
    """What has a `fileno` that raises or gives nonsense raises that, or TypeError."""

    class Raises:
        closed = False

        def fileno(self):
            raise KeyError

        def writable(self):
            return False

    class Nonsense(Raises):
        def fileno(self):
            return "three"

    class Minimal:
        def __init__(self, fd):
            self.fd = fd

        def fileno(self):
            return self.fd

    with pytest.raises(KeyError):
        mmap.open(Raises())
    with pytest.raises((TypeError, ValueError)):
        mmap.open(Nonsense())
    with tempfile.TemporaryFile() as f:
        f.write(b"x")
        f.flush()
        assert mmap.open(Minimal(f.fileno())).read() == b"x"


def compressed(path, module="gzip"):
    module = pytest.importorskip(module)  # not every Python has all
    with module.open(path, "wb") as f:
        f.write(b"content")
    return module.open(path)


def member(path):
    with zipfile.ZipFile(path, "w") as f:
        f.writestr("member", b"content")
    return zipfile.ZipFile(path).open("member")


class Upper(io.FileIO):
    def read(self, size=-1):
        return super().read(size).upper()


NOT_THEIR_DESCRIPTORS = {
    "gzip": compressed,
    "bz2": lambda path: compressed(path, "bz2"),
    "lzma": lambda path: compressed(path, "lzma"),
    "member of a zip": member,
    "buffered": lambda path: io.BufferedReader(compressed(path)),
    "decoding": lambda path: codecs.getreader("utf-8")(open(path, "rb")),
    "spooled": lambda _: tempfile.SpooledTemporaryFile(),
    "of a class of FileIO": Upper,
    "buffered of a class of FileIO": lambda path: io.BufferedReader(Upper(path)),
}


@pytest.mark.parametrize("kind", NOT_THEIR_DESCRIPTORS)
def test_an_object_that_reads_other_bytes_than_its_descriptor_is_refused(file, kind):
    """TypeError that says what to do; the descriptor itself is mapped as it is."""
    path = file(b"content")
    with contextlib.closing(NOT_THEIR_DESCRIPTORS[kind](path)) as f:
        with pytest.raises(TypeError, match=r"strfile\.open"):
            mmap.open(f)
        if kind == "gzip":
            with mmap.open(f.fileno()) as h:
                assert h.read(2) == b"\x1f\x8b"


def test_an_object_that_passes_on_the_read_of_a_file_is_that_file(file):
    class Passing:
        def __init__(self, file):
            self._inside = file

        read = property(lambda self: self._inside.read)
        fileno = property(lambda self: self._inside.fileno)

    path = file(b"content")
    with open(path, "rb") as f, mmap.open(Passing(f)) as h, io.BufferedReader(h) as layer, mmap.open(layer) as again:
        assert again.read() == h.read() == b"content"


@pytest.mark.needs("proc", "files")
def test_a_file_whose_size_hides_what_it_has_is_refused():
    """It is not empty, and the error says what is the matter; as it does where a file system maps nothing."""
    with pytest.raises(OSError, match="its size is 0, but it has bytes") as caught:
        mmap.open("/proc/self/status")
    assert (caught.value.errno, caught.value.filename) == (errno.ENODEV, "/proc/self/status")
    if os.path.exists("/sys/kernel/mm/transparent_hugepage/enabled"):
        with pytest.raises(OSError, match="does not map files") as caught:
            mmap.open("/sys/kernel/mm/transparent_hugepage/enabled")
        assert caught.value.errno == errno.ENODEV


@pytest.mark.needs("files")
def test_reserved_blocks_are_there(file):
    """Of the part, and only if asked for; a disk without that many is ENOSPC, and is not filled first."""
    path = file(b"")
    os.truncate(path, 8 * PAGE)
    held = os.stat(path).st_blocks
    mmap.open(path, "rw", PAGE, 2 * PAGE).close()
    assert os.stat(path).st_blocks == held
    with mmap.open(path, "w", PAGE, 2 * PAGE, reserve=True) as h:
        assert os.stat(path).st_blocks * 512 >= 2 * PAGE
        assert os.stat(path).st_size == 8 * PAGE
        h.write(b"x" * 2 * PAGE)
    with pytest.raises(ValueError, match="mode"):
        mmap.open(path, reserve=True)
    place = os.statvfs(path)
    held = os.stat(path).st_blocks
    os.truncate(path, 2 * place.f_bavail * place.f_frsize + (1 << 30))
    before = set(descriptors())
    with pytest.raises(OSError) as caught:
        mmap.open(path, "rw", reserve=True)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, path)
    assert set(descriptors()) == before
    assert os.stat(path).st_blocks == held


@pytest.mark.needs("users")
def test_no_permission_is_permission_error():
    """For the mode that the file's permissions forbid, of whoever is no super-user."""
    place = tempfile.mkdtemp()
    path = os.path.join(place, "file")
    with open(path, "wb") as f:
        f.write(b"content")
    os.chmod(place, 0o755)

    def attempt():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        told = {}
        for mode in ("r", "w", "rw"):
            try:
                with mmap.open(path, mode) as h:
                    told[mode] = bytes(h.getbuffer())
            except PermissionError as error:
                told[mode] = error.errno, error.filename
        return told

    refused = errno.EACCES, path
    try:
        os.chmod(path, 0o444)
        assert in_child(attempt) == {"r": b"content", "w": refused, "rw": refused}
        os.chmod(path, 0o000)
        assert in_child(attempt) == dict.fromkeys(("r", "w", "rw"), refused)
    finally:
        os.unlink(path)
        os.rmdir(place)


def test_a_failed_open_leaves_no_descriptor(unchanged):
    before = set(descriptors())
    for bad in [
        ("missing",),
        ("directory",),
        *([("fifo",)] if os.name == "posix" else []),
        ("file", "r", PAGE * 2),
        ("file", "r", 0, PAGE + 11),
        ("file", "r", 1),
    ]:
        with pytest.raises((OSError, ValueError)):
            mmap.open(unchanged / bad[0], *bad[1:])
        assert set(descriptors()) == before


@pytest.mark.needs("posix")
# Before, mmap.mmap has a descriptor of its own and closes its number.
@pytest.mark.able(probe=lambda: sys.version_info >= (3, 13))
def test_a_number_that_means_another_file_by_now_is_left_alone(tmp_path, peer):
    """A daemon closes all descriptors, and other files get their numbers."""
    (tmp_path / "file").write_bytes(b"content")
    other = peer(
        f"h = mmap.open({str(tmp_path / 'file')!r}, 'rw'); g = mmap.open({str(tmp_path / 'file')!r}); g.fileno()"
    )
    other.run("import tempfile; os.closerange(3, 1000); files = [tempfile.TemporaryFile() for _ in range(9)]")
    other.run("h.close(); g = None; gc.collect()")
    assert other.ask("[os.fstat(file.fileno()).st_size for file in files]") == [0] * 9


# -- interrupts ------------------------------------------------------------------------


@pytest.mark.needs("signals")
@pytest.mark.parametrize("by", ["path", "descriptor"])
def test_an_interrupt_while_a_file_is_opened_leaves_no_descriptor(tmp_path, by):
    """Before each instruction of the back end, up to the moment when the handle is made."""
    back_end = pytest.importorskip("ipcio._posix.mmap")
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    with open(path, "rb") as file:
        what = path if by == "path" else file.fileno()
        before = descriptors()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for that here
        for number in range(1000):
            moments = iter(range(number))

            def trace(frame, event, _, moments=moments):
                if frame.f_code.co_filename != back_end.__file__:
                    return None
                frame.f_trace_opcodes = True
                if event == "opcode" and "mapping" not in frame.f_locals and next(moments, None) is None:
                    raise KeyboardInterrupt
                return trace

            h = None
            sys.settrace(trace)
            with contextlib.suppress(KeyboardInterrupt):
                h = mmap.open(what, "r")
            sys.settrace(None)
            if h is not None:
                h.close()
                break
            assert descriptors() == before, number
    assert h is not None
    assert number > 20
