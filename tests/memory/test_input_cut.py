"""Memory that somebody else cuts short: what is an error, what is not even that, and what nobody can prevent."""

from __future__ import annotations

import errno
import faulthandler
import os
import pickle
import signal

import pytest
from children import Forked

from ipcio import filelock, mmap, shm, strfile

pytestmark = pytest.mark.needs("fork")

SIZE = 3 * mmap.pagesize + 200_000  # more than `readinto` copies twice


@pytest.fixture
def cut(tmp_path):
    """A handle whose file has been cut down to nothing."""
    path = tmp_path / "file"
    path.write_bytes(b"a line\n" * (SIZE // 7))
    with mmap.open(path, "rw") as h:
        os.truncate(path, 0)
        yield h


def test_nothing_that_leaves_the_bytes_alone_notices(cut):
    size = cut.size()

    def use():
        assert cut.seek(5) == cut.tell() == 5
        assert cut.seek(0, 2) == size
        assert cut.read() == cut.readline() == b""
        assert list(cut) == []
        assert cut.readinto(bytearray(10)) == 0
        with pytest.raises(OSError, match="do not fit"):
            cut.write(b"x")
        cut.seek(0)
        assert cut.addr()
        cut.flush()
        assert f"size={size}" in repr(cut)
        with cut.getbuffer() as view:
            assert len(view) == size
        saved = pickle.dumps(cut)
        with pytest.raises(ValueError, match="cannot map"):
            pickle.loads(saved)
        assert os.fstat(cut.fileno()).st_size == 0
        assert cut.truncate(10) == 10
        cut.close()

    with Forked(use) as child:
        child.result()


def test_system_calls_that_are_given_the_memory_fail(cut):
    def use():
        _reader, writer = os.pipe()
        with cut.getbuffer() as view, open(__file__, "rb", buffering=0) as other:
            for call in (lambda: os.write(writer, view), lambda: other.readinto(view)):
                with pytest.raises(OSError) as caught:
                    call()
                assert caught.value.errno == errno.EFAULT

    with Forked(use) as child:
        child.result()


def test_the_descriptor_tells_where_the_file_ends_now(cut):
    os.truncate(cut.name, 10)
    os.pwrite(cut.fileno(), b"0123456789", 0)
    assert os.pread(cut.fileno(), 100, 4) == b"456789"
    assert os.pread(cut.fileno(), 100, 10) == b""


TOUCHES = {
    "read": lambda h: h.read(1),
    "readline": lambda h: h.readline(),
    "lines": lambda h: next(iter(h)),
    "readinto": lambda h: h.readinto(bytearray(1)),
    "readinto much": lambda h: h.readinto(bytearray(SIZE)),
    "write": lambda h: h.write(b"x"),
    "view": lambda h: h.getbuffer()[0],
    "narrowed": lambda h: (h.truncate(9), h.read()),
    "strfile": lambda h: strfile.open(h).read(),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
def test_touching_lost_bytes_ends_the_process_as_is_documented(cut, touch):
    """The limit of what is promised.  If a call finds a way past it: `ipcio.mmap` says that there is none."""

    def use():
        faulthandler.disable()
        without_core()
        touch(cut)

    with Forked(use) as child:
        assert child.wait() == -signal.SIGBUS


def without_core():
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def test_the_last_page_of_what_is_left_goes_on_with_zeros(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * SIZE)
    with mmap.open(path) as h:
        os.truncate(path, 3)
        assert h.read(6) == b"xxx\0\0\0"


def test_what_grows_back_is_there_again(cut):
    with open(cut.name, "wb") as file:  # cut once more, and written
        file.write(b"y" * SIZE)
    assert cut.read(3) == b"yyy"


def test_replacing_the_file_leaves_the_map_alone(tmp_path):
    path, new = tmp_path / "file", tmp_path / "new"
    path.write_bytes(b"old\n")
    new.write_bytes(b"")
    with mmap.open(path) as h:
        os.replace(new, path)
        assert h.read() == b"old\n"


def test_a_lock_keeps_a_file_whole_among_those_who_ask_for_it(tmp_path):
    """The recipe of the guide: who reads a map shares the lock, who cuts the file has it alone."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * SIZE)

    def cut_it():
        with open(path, "rb+") as file, filelock.locked(file):
            file.truncate(0)

    with mmap.open(path) as h:
        filelock.lock(h, "r")
        with Forked(cut_it) as cutter:
            assert os.fstat(h.fileno()).st_size == h.size()
            assert len(h.read()) == SIZE
            filelock.unlock(h)
            cutter.result()
        with filelock.locked(h, "r"):
            assert os.fstat(h.fileno()).st_size < h.size()


@pytest.mark.needs("files")
def test_a_segment_cannot_be_truncated_with_permission_to_read_only(name):
    with shm.create(name, SIZE, perm=0o644) as h, shm.attach(name, "r") as reader:
        with pytest.raises(OSError) as caught:
            os.ftruncate(reader.fileno(), 0)
        assert caught.value.errno == errno.EINVAL
        assert h.read() == bytes(SIZE)


@pytest.mark.needs("files", "users")
@pytest.mark.root
def test_a_segment_cannot_be_cut_by_another_user(name):
    def cut_it():
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(PermissionError):
            os.truncate(f"/dev/shm/{name}", 0)

    with shm.create(name, SIZE, perm=0o644), Forked(cut_it) as child:
        child.result()
