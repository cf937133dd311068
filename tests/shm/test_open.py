"""`shm.open`: a file of unknown size, whose contents appear whole."""

from __future__ import annotations

import errno
import gc
import io
import os
import signal
import subprocess
import sys
import zipfile

import pytest
from abilities import lacks
from children import Forked, leave_orphan

from ipcio import MemoryFile, mmap, shm

pytestmark = pytest.mark.needs("persistence")

CONTENT = b"x" * 5000 + b"end"
NEW = pytest.mark.parametrize("mode", ["xb", "wb"])


@pytest.fixture(autouse=True)
def removed(name):
    yield
    shm.unlink(name, missing_ok=True)


def content(name: str) -> bytes | None:
    try:
        with shm.open(name) as h:
            return h.read()
    except FileNotFoundError:
        return None


def put(name: str, data: bytes, mode="wb") -> None:
    with shm.open(name, mode) as f:
        f.write(data)


@NEW
def test_contents_appear_whole_when_the_file_is_closed(name, peer, mode):
    """And the segment is as long as they are."""
    other = peer()
    look = "shm.open(n).read()"
    other.run(f"n = {name!r}")
    f = shm.open(name, mode)
    assert isinstance(f, io.RawIOBase)
    assert (f.name, f.mode, f.readable(), f.writable(), f.seekable()) == (name, mode, False, True, True)
    assert f.write(CONTENT[:10]) == 10
    assert f.write(memoryview(CONTENT)[10:]) == len(CONTENT) - 10
    other.run(f"try: {look}\nexcept FileNotFoundError: found = False\nelse: found = True")
    assert not other.ask("found")
    f.close()
    f.close()
    assert other.ask(look) == CONTENT
    with pytest.raises(ValueError, match="closed"):
        f.write(b"x")
    with shm.attach(name) as h:
        assert h.size() == len(CONTENT)


def test_reading_modes_attach(name):
    put(name, CONTENT)
    with shm.open(name) as h:
        assert isinstance(h, MemoryFile)
        assert h.mode == "rb"
    for mode in "r+b", "rb+":
        with shm.open(name, mode) as h:
            h.write(b"y")
    assert content(name) == b"y" + CONTENT[1:]
    shm.unlink(name)
    with pytest.raises(FileNotFoundError, match="no shared memory"):
        shm.open(name)


def test_wb_replaces_and_readers_of_the_old_one_keep_it(name):
    put(name, b"old")
    with shm.open(name) as old:
        with shm.open(name, "wb") as f:
            f.write(CONTENT)
            assert content(name) == b"old"
        assert old.read() == b"old"
    assert content(name) == CONTENT


def test_xb_refuses_a_name_in_use_now_or_at_the_end(name):
    f = shm.open(name, "xb")
    f.write(CONTENT)
    put(name, b"other")
    with pytest.raises(FileExistsError, match="mode 'wb' replaces it"):
        f.close()
    assert f.closed
    with pytest.raises(FileExistsError, match="mode 'wb' replaces it") as raised:
        shm.open(name, "xb")
    assert raised.value.filename == name
    assert content(name) == b"other"


def raise_in_block(name, mode):
    def write():
        with shm.open(name, mode) as f:
            f.write(CONTENT)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()


def discard(name, mode):
    f = shm.open(name, mode)
    f.write(CONTENT)
    f.discard()
    f.close()
    f.discard()
    assert f.closed


def drop(name, mode):
    shm.open(name, mode).write(CONTENT)
    gc.collect()


def drop_in_a_cycle(name, mode):
    cycle = [shm.open(name, mode)]
    cycle[0].write(CONTENT)
    cycle.append(cycle)
    del cycle
    gc.collect()


def drop_wrapped(name, mode):
    for wrap in io.BufferedWriter, io.TextIOWrapper:
        wrapper = wrap(shm.open(name, mode))
        wrapper.write("x" if wrap is io.TextIOWrapper else b"x")
        del wrapper
        gc.collect()


def fail_to_write(name, mode):
    """What a file of Python's buffers and cannot write is lost, so the rest must not appear."""
    import resource

    def writes():
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        f = shm.open(name, mode)
        try:
            f.write(CONTENT)
        except OSError as error:
            assert error.errno == errno.EFBIG and error.filename == name  # noqa: PT017, PT018
        f.close()
        return f.closed

    assert Forked(writes).result()


def exit_with_it_open(name, mode):
    code = f"from ipcio import shm; f = shm.open({name!r}, {mode!r}); f.write(b'x')"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env={**os.environ})


def exit_with_it_wrapped(name, mode):
    code = f"import io; from ipcio import shm; f = io.TextIOWrapper(shm.open({name!r}, {mode!r})); f.write('x')"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)
    assert done.stderr == b""


def die(name, mode):
    def write():
        f = shm.open(name, mode)
        f.write(CONTENT)
        return f

    leave_orphan(write)


ENDS = [
    raise_in_block,
    discard,
    drop,
    drop_in_a_cycle,
    drop_wrapped,
    pytest.param(fail_to_write, marks=pytest.mark.needs("files", "fork")),
    exit_with_it_open,
    exit_with_it_wrapped,
    pytest.param(die, marks=pytest.mark.needs("fork")),
]


@pytest.mark.parametrize("end", ENDS)
def test_a_writer_that_is_not_closed_leaves_what_was_there(name, end):
    end(name, "xb")
    assert content(name) is None
    put(name, b"old")
    end(name, "wb")
    assert content(name) == b"old"


@pytest.mark.needs("files")
def test_a_write_of_more_than_there_is_room_for_is_refused_before_it_begins(name, tmp_path):
    sparse = tmp_path / "sparse"
    sparse.touch()
    os.truncate(sparse, 1 << 42)
    with shm.open(name, "wb") as f, mmap.open(sparse) as many:
        with pytest.raises(OSError, match="asked for") as raised:
            f.write(many.getbuffer())
        assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, name)
        assert os.fstat(f.fileno()).st_size == 0
    assert content(name) is None


@pytest.mark.needs("files")
def test_signal_handlers_run_while_much_is_written(name):
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(os.fstat(f.fileno()).st_size))
    size = 1 << 26
    try:
        with shm.open(name, "wb") as f:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            assert f.write(bytes(size)) == size
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert any(0 < each < size for each in seen)


def test_the_repr_tells_the_name_and_whether_it_is_open(name):
    f = shm.open(name, "xb")
    assert repr(f) == f"<ipcio.SegmentWriter name={name!r} mode='xb'>"
    f.discard()
    assert repr(f) == f"<ipcio.SegmentWriter name={name!r} mode='xb' closed>"


@pytest.mark.needs("fork")
def test_the_copy_in_a_forked_process_makes_no_segment(name):
    f = shm.open(name, "wb")
    f.write(CONTENT)
    Forked(f.close).result()
    assert content(name) is None
    f.close()
    assert content(name) == CONTENT


@pytest.mark.needs("files")
def test_nothing_written_is_an_empty_segment(name):
    put(name, b"old")
    put(name, b"")
    assert content(name) == b""


@pytest.mark.able(probe=lambda: lacks("files"))
def test_nothing_written_is_an_error_where_no_segment_is_empty(name):
    put(name, b"old")
    with pytest.raises(OSError, match="nothing was written") as raised:
        shm.open(name, "wb").close()
    assert raised.value.errno == errno.EINVAL
    assert content(name) == b"old"


@pytest.mark.needs("files")
def test_perm_is_that_of_the_new_segment(name):
    with shm.open(name, "wb", perm=0o640) as f:
        f.write(b"x")
    assert os.stat(f"/dev/shm/{name}").st_mode & 0o777 == 0o640


def test_archives_end_where_the_segment_ends(name):
    """`zipfile` and xz search for the end of an archive at the end of the file."""
    lzma = pytest.importorskip("lzma")
    big = os.urandom(100_000)
    with shm.open(name, "wb") as f, zipfile.ZipFile(f, "w") as archive:
        archive.writestr("inside", big)
    with shm.open(name) as f, zipfile.ZipFile(f) as archive:
        assert archive.read("inside") == big
    with shm.open(name, "wb") as f, lzma.open(f, "wb") as packed:
        packed.write(big)
    with shm.open(name) as f, lzma.open(f) as packed:
        assert packed.read() == big


@pytest.mark.parametrize("mode", ["r", "w", "a", "ab", "w+b", "", "zb"])
def test_other_modes_are_refused(name, mode):
    with pytest.raises(ValueError, match="mode must be 'rb', 'r\\+b', 'xb' or 'wb'"):
        shm.open(name, mode)
    assert content(name) is None


@pytest.mark.needs("files")
def test_contents_stay_where_memory_cannot_be_set_aside_in_one_call(name, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    with shm.open(name, "wb") as f:
        f.write(CONTENT)
        f.truncate(len(CONTENT) + 5000)
    assert content(name) == CONTENT + bytes(5000)
