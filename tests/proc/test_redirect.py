"""What a child's standard streams may be: descriptors, files at a position, objects without one, and wrong ones."""

from __future__ import annotations

import array
import asyncio
import errno
import gc
import gzip
import io
import os
import subprocess
import sys
import tempfile
import weakref
from contextlib import contextmanager

import pytest
from programs import HAVE_SHELL, python, shell

from ipcio import mmap, proc, shm, strfile

BOTH = "printf out; printf err >&2"
DATA = b"0123456789abcdefghij"


@pytest.fixture
def path(tmp_path):
    where = tmp_path / "file"
    where.write_bytes(DATA)
    return str(where)


def content(path):
    with open(path, "rb") as file:
        return file.read()


def printf(data):
    """The command that says that."""
    return ["printf", data] if HAVE_SHELL else python(f"os.write(1, {data!r})")


def run(command, **streams):
    """Have it run to its end; return what came through the pipes."""
    came = {"stdout": b"", "stderr": b""}

    def take(name, data):
        came[name] += data if isinstance(data, bytes) else data.encode()

    piped = any(each is True or each == subprocess.PIPE for each in streams.values() if isinstance(each, int))
    h = proc.spawn(shell(command) if isinstance(command, str) else command, callback=take if piped else None, **streams)
    status = h.wait()
    h.close()
    assert status, status
    return came["stdout"], came["stderr"]


@contextmanager
def as_standard(number, path):
    """Have this process's own stream of that number go to a new file."""
    saved = os.dup(number)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.dup2(fd, number)
    os.close(fd)
    try:
        yield
    finally:
        os.dup2(saved, number)
        os.close(saved)


class Reader:
    """Nothing but `read`."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)

    def read(self, _size):
        return self.pieces.pop(0) if self.pieces else b""


class Writer:
    """Nothing but `write`."""

    def __init__(self):
        self.pieces = []

    def write(self, data):
        self.pieces.append(data)
        return len(data)


class Slow(io.RawIOBase):
    """Takes and gives three bytes at a time."""

    def __init__(self, data=b""):
        self.data = bytearray(data)

    def readable(self):
        return True

    def writable(self):
        return True

    def readinto(self, into):
        some = bytes(self.data[: min(3, len(into))])
        into[: len(some)] = some
        del self.data[: len(some)]
        return len(some)

    def write(self, data):
        some = bytes(data[:3])
        self.data += some
        return len(some)


# -- pipes, descriptors, nothing --------------------------------------------------


def test_true_is_a_pipe_and_so_is_subprocess_pipe():
    assert run(BOTH, stdout=True, stderr=True) == (b"out", b"err")
    assert run(BOTH, stdout=subprocess.PIPE, stderr=subprocess.PIPE) == (b"out", b"err")


@pytest.mark.parametrize("nothing", [None, False])
def test_none_and_false_are_the_streams_that_this_program_has(nothing, tmp_path):
    with as_standard(1, tmp_path / "1"), as_standard(2, tmp_path / "2"):
        assert run(BOTH, stdout=nothing, stderr=nothing) == (b"", b"")
    assert (content(tmp_path / "1"), content(tmp_path / "2")) == (b"out", b"err")
    with open(tmp_path / "0", "wb") as file:
        file.write(b"in")
    with as_standard(0, tmp_path / "0"):
        assert run("cat", stdin=nothing, stdout=True) == (b"in", b"")


def test_numbers_are_descriptors_and_not_booleans(tmp_path):
    with open(tmp_path / "0", "wb") as file:
        file.write(b"in")
    with as_standard(0, tmp_path / "0"):
        assert run("cat", stdin=0, stdout=True) == (b"in", b"")
    with as_standard(1, tmp_path / "1"), as_standard(2, tmp_path / "2"):
        run(BOTH, stdout=2, stderr=1)
    assert (content(tmp_path / "1"), content(tmp_path / "2")) == (b"err", b"out")
    with as_standard(1, tmp_path / "3"):
        run(BOTH, stdout=1, stderr=1)
    assert content(tmp_path / "3") == b"outerr"


def test_a_descriptor_is_used_and_stays_open(path, tmp_path):
    fd = os.open(path, os.O_RDONLY)
    out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    try:
        os.lseek(fd, 10, os.SEEK_SET)
        run("cat", stdin=fd, stdout=out)
        os.write(out, b"!")
        assert os.read(fd, 1) == b""
    finally:
        os.close(fd)
        os.close(out)
    assert content(tmp_path / "out") == DATA[10:] + b"!"


def test_devnull_takes_and_gives_nothing():
    assert run(f"cat; {BOTH}", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=True) == (b"", b"err")
    assert run(BOTH, stdout=True, stderr=subprocess.DEVNULL) == (b"out", b"")


def test_stderr_goes_where_stdout_goes(path, tmp_path):
    assert run(BOTH, stdout=True, stderr=subprocess.STDOUT) == (b"outerr", b"")
    for sink in io.BytesIO(), io.StringIO():
        run(BOTH, stdout=sink, stderr=subprocess.STDOUT)
        assert sink.getvalue() in {b"outerr", "outerr"}
    with open(path, "wb") as file:
        run(BOTH, stdout=file, stderr=subprocess.STDOUT)
    assert content(path) == b"outerr"
    run(BOTH, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    with as_standard(1, tmp_path / "1"):
        run(BOTH, stderr=subprocess.STDOUT)
    assert content(tmp_path / "1") == b"outerr"


def test_both_outputs_to_one_object_of_each_kind(path):
    sink = io.BytesIO()
    run(BOTH, stdout=sink, stderr=sink)
    assert sorted([sink.getvalue()[:3], sink.getvalue()[3:]]) == [b"err", b"out"]
    with open(path, "wb") as file:
        run(BOTH, stdout=file, stderr=file)
    assert content(path) == b"outerr"


def test_one_output_to_the_callback_and_the_other_to_a_file():
    sink = io.BytesIO()
    assert run(BOTH, stdout=sink, stderr=True) == (b"", b"err")
    assert sink.getvalue() == b"out"


# -- file objects with a descriptor ------------------------------------------------


READERS = {
    "raw": lambda path: open(path, "rb", 0),
    "BufferedReader": lambda path: open(path, "rb"),
    "BufferedRandom": lambda path: open(path, "r+b"),
    "text": open,
    "text for both": lambda path: open(path, "r+"),
    "mmap": mmap.open,
    "BufferedReader over mmap": lambda path: io.BufferedReader(mmap.open(path)),
    "text over mmap": lambda path: io.TextIOWrapper(io.BufferedReader(mmap.open(path))),
}


@pytest.mark.parametrize("layer", READERS)
@pytest.mark.parametrize("at", [0, 1, 7, 20])
def test_the_child_reads_from_where_the_next_read_would(layer, at, path):
    with READERS[layer](path) as file:
        assert len(file.read(at)) == at
        assert run("cat", stdin=file, stdout=True) == (DATA[at:], b"")
        assert file.tell() == 20 or not layer.startswith("mmap")
        assert not file.closed


@pytest.mark.parametrize("layer", ["raw", "BufferedReader", "BufferedRandom", "text", "text for both"])
def test_what_the_child_has_read_is_not_read_again(layer, path):
    with READERS[layer](path) as file:
        file.read(2)
        run("head -c 3 >/dev/null", stdin=file)
        assert len(file.read()) in {0, 15}  # head may read ahead, and need not take that back


def test_a_line_of_text_was_read_and_the_child_goes_on_with_the_next(tmp_path):
    (tmp_path / "lines").write_bytes("é1\né2\né3\n".encode())
    with open(tmp_path / "lines", encoding="utf-8") as file:
        assert file.readline() == "é1\n"
        assert run("cat", stdin=file, stdout=True)[0] == "é2\né3\n".encode()


def test_in_the_middle_of_a_loop_over_text_the_position_is_unknown(path):
    with open(path) as file:
        for _ in file:
            with pytest.raises(OSError, match="telling position"):
                proc.spawn(shell("cat"), stdin=file)


WRITERS = {
    "raw": lambda path: open(path, "r+b", 0),
    "BufferedWriter": lambda path: io.BufferedWriter(io.FileIO(path, "r+")),
    "BufferedRandom": lambda path: open(path, "r+b"),
    "text": lambda path: io.TextIOWrapper(io.BufferedWriter(io.FileIO(path, "r+"))),
    "text for both": lambda path: open(path, "r+"),
}


def _as(file, data):
    return data.decode() if isinstance(file, io.TextIOBase) else data


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("layer", WRITERS)
def test_what_the_child_writes_comes_behind_what_was_written_before(layer, stream, path):
    with WRITERS[layer](path) as file:
        file.write(_as(file, b"before"))
        run("printf child" + " >&2" * (stream == "stderr"), **{stream: file})
        file.write(_as(file, b"X"))
    assert content(path) == b"beforechildX" + DATA[12:]


@pytest.mark.parametrize("layer", ["raw", "BufferedRandom", "text for both"])
def test_what_the_child_writes_comes_where_the_next_write_would(layer, path):
    with WRITERS[layer](path) as file:
        assert file.read(2) == _as(file, DATA[:2])
        run("printf child", stdout=file)
    assert content(path) == DATA[:2] + b"child" + DATA[7:]


def test_temporary_files_of_all_kinds():
    with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryFile("w+") as text:
        file.write(b"a")
        run("printf b", stdout=file)
        file.seek(0)
        assert run("cat", stdin=file, stdout=True)[0] == b"ab"
        text.write("c")
        run("printf d", stdout=text)
        text.seek(0)
        assert run("cat", stdin=text, stdout=True)[0] == b"cd"
    for mode in "w+b", "w+":
        with tempfile.SpooledTemporaryFile(mode=mode) as file:  # gets a descriptor when it is asked for one
            file.write("a" if mode == "w+" else b"a")
            run("printf b", stdout=file)
            file.seek(0)
            assert run("cat", stdin=file, stdout=True)[0] == b"ab"


def test_the_pipe_of_another_child():
    first = subprocess.Popen(printf(b"abc"), stdout=subprocess.PIPE)
    with first:
        assert run("cat", stdin=first.stdout, stdout=True)[0] == b"abc"


# -- objects without a descriptor ----------------------------------------------------


def test_bytes_and_text_in_memory_are_read_from_their_position():
    source = io.BytesIO(DATA)
    source.read(3)
    assert run("cat", stdin=source, stdout=True)[0] == DATA[3:]
    assert source.tell() == 20
    text = io.StringIO("日本語")
    text.read(1)
    assert run("cat", stdin=text, stdout=True)[0] == "本語".encode()
    text.seek(0)
    assert run("cat", stdin=text, stdout=True, encoding="utf-16")[0] == "日本語".encode()  # `run` encodes anew


def test_bytes_and_text_in_memory_are_written_at_their_position():
    sink = io.BytesIO(b"0123456789")
    sink.seek(2)
    run("printf abc", stdout=sink)
    assert sink.getvalue() == b"01abc56789"
    text = io.StringIO()
    text.write("x")
    run("printf '日本'", stdout=text)
    assert text.getvalue() == "x日本"
    text = io.StringIO()
    run(printf("日本".encode("shift_jis")), stdout=text, encoding="shift_jis")
    assert text.getvalue() == "日本"


def test_an_encoding_makes_no_text_for_who_takes_bytes():
    sink = io.BytesIO()
    run("printf '日\n本'", stdout=sink, encoding="utf-8", lines=True)
    assert sink.getvalue() == "日\n本".encode()


def test_what_is_no_text_is_raised_once_and_the_rest_arrives():
    text = io.StringIO()
    with proc.spawn(shell(r"printf 'a\377b'"), stdout=text) as h:
        with pytest.raises(UnicodeDecodeError):
            h.wait()
        assert h.wait()
    assert text.getvalue() == "ab"
    text = io.StringIO()
    run(r"printf 'a\377b'", stdout=text, errors="replace")
    assert text.getvalue() == "a\ufffdb"


def test_strfile_is_read_from_its_position():
    with strfile.open("日本") as source:
        source.read(3)
        assert run("cat", stdin=source, stdout=True)[0] == "本".encode()


def test_objects_with_nothing_but_read_and_write():
    assert run("cat", stdin=Reader(b"a", bytearray(b"b"), memoryview(b"c")), stdout=True)[0] == b"abc"
    assert run("cat", stdin=Reader("é", "b"), stdout=True)[0] == "éb".encode()
    sink = Writer()
    run(BOTH, stdout=sink, stderr=subprocess.STDOUT)
    assert b"".join(sink.pieces) == b"outerr"


@pytest.mark.parametrize(
    "pieces",
    [
        [array.array("I", range(50000)), array.array("d", range(1000))],
        [memoryview(array.array("H", range(1000))), memoryview(b"abcdef")[::2], memoryview(b"")],
        [memoryview(bytes(range(12))).cast("B", (3, 4)), memoryview(bytes(12)).cast("I", (1, 3))],
        ["é", bytearray(b"b"), array.array("B", b"c"), memoryview(b"d").cast("c")],
    ],
    ids=["array", "memoryview", "shape", "bytes"],
)
def test_a_source_may_give_items_of_any_size(pieces):
    expected = b"".join(each.encode() if isinstance(each, str) else memoryview(each).tobytes() for each in pieces)
    assert run("cat", stdin=Reader(*pieces), stdout=True)[0] == expected


def test_a_source_that_gives_something_else_is_a_type_error():
    with proc.spawn(shell("cat"), stdin=Reader(5), stdout=io.BytesIO()) as h:
        for _ in range(2):
            with pytest.raises(TypeError):
                h.wait()
        h.kill()
        h.close()


class Blocking(io.RawIOBase):
    """Says at every second call that it would block."""

    def __init__(self, data=b""):
        self.data = bytearray(data)
        self.calls = 0

    def readable(self):
        return True

    def writable(self):
        return True

    def readinto(self, into):
        self.calls += 1
        if self.calls % 2:
            return None
        some = bytes(self.data[: min(100, len(into))])
        into[: len(some)] = some
        del self.data[: len(some)]
        return len(some)

    def write(self, data):
        self.calls += 1
        if self.calls % 2:
            return None
        self.data += data[:100]
        return min(100, len(data))


def test_an_object_that_would_block_is_an_error_and_a_further_wait_goes_on():
    data = os.urandom(1000)
    for streams in {"stdin": Blocking(data), "stdout": io.BytesIO()}, {"stdin": io.BytesIO(data), "stdout": Blocking()}:
        errors = 0
        with proc.spawn(shell("cat"), **streams) as h:
            while True:
                try:
                    assert h.wait()
                    break
                except BlockingIOError:
                    errors += 1
        assert errors > 5
        sink = streams["stdout"]
        assert (sink.data if isinstance(sink, Blocking) else sink.getvalue()) == data


class Text:
    """Nothing but `write`, which requires text."""

    def __init__(self):
        self.text = ""

    def write(self, data):
        self.text += data


class Annotated:
    def __init__(self):
        self.pieces = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return len(text)

    @property
    def text(self):
        return "".join(self.pieces)


class Splitting(Text):
    def write(self, data):
        self.text += "\n".join(data.encode().decode().split("\n"))


class Asserting(Text):
    def write(self, data):
        assert isinstance(data, str)
        self.text += data


class Print(Annotated):
    """What is no text does not trouble it."""

    def write(self, text):
        self.pieces.append(text)


@pytest.mark.parametrize("kind", [Text, Annotated, Splitting, Asserting, Print])
@pytest.mark.parametrize("by", ["wait", "wait_async"])
def test_an_object_that_requires_text_gets_text(kind, by, monkeypatch):
    words = "é日本\U0001f600" * 30000
    for encoding in None, "utf-16":
        sink = kind()
        if kind is Print:
            monkeypatch.setattr(sys, "stdout", sink)
        source = io.BytesIO(words.encode(encoding or "utf-8"))
        with proc.spawn(shell("cat"), stdin=source, stdout=sink, encoding=encoding) as h:
            assert asyncio.run(h.wait_async()) if by == "wait_async" else h.wait()
        assert sink.text == words


@pytest.mark.parametrize("mode", ["b", "t"])
def test_a_compressed_file_is_compressed_and_decompressed(mode, path):
    with gzip.open(path, "w" + mode) as file:
        run(printf(DATA), stdout=file)
    with gzip.open(path) as file:
        assert file.read() == DATA
    with gzip.open(path, "r" + mode) as file:
        assert run("cat", stdin=file, stdout=True)[0] == DATA


class Silent(io.TextIOBase):
    """Does not say that it is writable, and so inherits that it is not."""

    text = ""

    def write(self, text):
        self.text += text
        return len(text)


def test_an_object_that_does_not_say_what_it_can_is_asked_for_its_methods():
    sink = Silent()
    run("echo a", stdout=sink)
    assert sink.text == "a\n"
    for stream, nothing in ("stdin", Silent()), ("stdout", io.TextIOBase()), ("stdout", io.RawIOBase()):
        with pytest.raises(io.UnsupportedOperation):
            proc.spawn(shell("cat"), **{stream: nothing})


def test_an_object_that_refuses_bytes_later_on_is_an_error():
    class Moody(Writer):
        def write(self, data):
            if self.pieces:
                raise TypeError("no more")
            super().write(data)

    sink = Moody()
    with proc.spawn(shell("echo a; sleep 0.1; echo b"), stdout=sink) as h:
        with pytest.raises(TypeError, match="no more"):
            h.wait()
        assert h.wait()
    assert sink.pieces == [b"a\n"]


def test_raw_objects_that_take_a_part_are_given_the_rest():
    sink = Slow()
    run(printf(DATA), stdout=sink)
    assert sink.data == DATA
    assert run("cat", stdin=Slow(DATA), stdout=True)[0] == DATA


def test_an_endless_source_ends_with_the_child():
    class Endless:
        def read(self, size):
            return b"x" * size

    count = "left = 1000000\nwhile left: left -= len(os.read(0, min(left, 1 << 16))) or sys.exit()\nprint(1000000)"
    count = "head -c 1000000 | wc -c" if HAVE_SHELL else python(count)
    assert run(count, stdin=Endless(), stdout=True)[0].strip() == b"1000000"


def test_a_source_that_raises_is_heard_of():
    class Broken:
        def read(self, _size):
            raise ZeroDivisionError

    h = proc.spawn(shell("cat"), stdin=Broken(), stdout=io.BytesIO())
    with pytest.raises(ZeroDivisionError):
        h.wait()
    h.close()
    assert not h.wait()


def test_both_ways_through_objects_of_this_program():
    data = os.urandom(3_000_000)
    sink = io.BytesIO()
    run("cat", stdin=io.BytesIO(data), stdout=sink)
    assert sink.getvalue() == data


# -- memory files ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["shm", "mmap", "mmap at an offset"])
def test_a_memory_file_is_read_from_its_position_to_its_narrowed_end(kind, name, tmp_path):
    start = mmap.pagesize if "offset" in kind else 0
    (tmp_path / "map").write_bytes(bytes(start) + DATA)
    with shm.create(name, 20) if kind == "shm" else mmap.open(tmp_path / "map", "rw", start) as file:
        file.write(DATA)
        for end in 20, 12:
            file.seek(0)
            file.truncate(end)
            file.seek(5)
            assert run("cat", stdin=file, stdout=True)[0] == DATA[5:end]
            assert file.tell() == end
            assert run("cat", stdin=file, stdout=True)[0] == b""


@pytest.mark.parametrize("kind", ["shm", "mmap"])
def test_a_memory_file_is_written_at_its_position(kind, name, path):
    with shm.create(name, 20) if kind == "shm" else mmap.open(path, "rw") as file:
        file.seek(4)
        run(BOTH, stdout=file, stderr=subprocess.STDOUT)
        assert file.tell() == 10
        file.seek(4)
        assert file.read(6) == b"outerr"
        assert file.size() == 20


@pytest.mark.parametrize("narrowed", [False, True])
def test_what_does_not_fit_is_an_error_and_changes_nothing(narrowed, name):
    with shm.create(name, 4 if not narrowed else 100) as file:
        file.truncate(4)
        file.seek(1)
        with proc.spawn(shell("printf abcd"), stdout=file) as h:
            with pytest.raises(OSError) as raised:
                h.wait()
            assert raised.value.errno == errno.ENOSPC
            assert h.wait()
        assert file.tell() == 1
        assert bytes(file.getbuffer()) == bytes(4)
    assert not os.path.exists(f"/dev/shm/{name}")


# -- wrong ones: an error at once, and nothing is started -----------------------------------


WRONG = {
    "closed bytes": (lambda: _closed(io.BytesIO()), ValueError),
    "closed text": (lambda: _closed(io.StringIO()), ValueError),
    "closed strfile": (lambda: _closed(strfile.open(b"x")), ValueError),
    "closed file": (lambda: _closed(open(os.devnull, "r+b", 0)), ValueError),
    "closed text file": (lambda: _closed(open(os.devnull)), ValueError),
    "str": (lambda: "file", TypeError),
    "bytes": (lambda: b"file", TypeError),
    "float": (lambda: 1.0, TypeError),
    "object": (object, TypeError),
    "list": (list, TypeError),
    "negative": (lambda: -4, ValueError),
    "very negative": (lambda: -(10**30), ValueError),
    "no descriptor": (lambda: 2**31 - 1, OSError),
    "too large": (lambda: 2**31, (ValueError, OverflowError, OSError)),
}


def _closed(file):
    file.close()
    return file


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_stream_is_refused(stream, wrong):
    make, expected = WRONG[wrong]
    others = {each: True for each in ("stdin", "stdout", "stderr") if each != stream}
    with pytest.raises(expected):
        proc.spawn(shell("true"), **{stream: make()}, **others)


def test_a_closed_file_is_told_as_io_does():
    for stream in "stdin", "stdout", "stderr":
        with pytest.raises(ValueError, match="closed file"):
            proc.spawn(shell("true"), **{stream: _closed(io.BytesIO())})


def test_subprocess_stdout_is_for_stderr_alone():
    for stream in "stdin", "stdout":
        with pytest.raises(ValueError):
            proc.spawn(shell("true"), **{stream: subprocess.STDOUT})


def test_files_that_are_open_for_something_else(path, name):
    def refuse(stream, file):
        with file, pytest.raises(io.UnsupportedOperation):
            proc.spawn(shell("true"), **{stream: file})

    for mode in "wb", "w", "ab":
        for buffering in (0, -1) if "b" in mode else (-1,):
            with open(path, mode, buffering) as file:
                refuse("stdin", file)
    for mode, buffering in ("rb", 0), ("rb", -1), ("r", -1):
        for stream in "stdout", "stderr":
            refuse(stream, open(path, mode, buffering))
    refuse("stdout", strfile.open(b"x"))
    with open(path, "wb") as file:
        file.write(DATA)
    refuse("stdin", mmap.open(path, "w"))
    refuse("stderr", mmap.open(path, "r"))
    with shm.create(name, 4):
        refuse("stdout", shm.attach(name, "r"))


def test_a_reader_cannot_be_written_and_a_writer_not_read():
    with pytest.raises((TypeError, io.UnsupportedOperation)):
        proc.spawn(shell("true"), stdout=Reader())
    with pytest.raises((TypeError, io.UnsupportedOperation)):
        proc.spawn(shell("true"), stdin=Writer())


@pytest.mark.needs("full")
def test_unwritten_bytes_that_cannot_be_written_are_an_error():
    file = io.BufferedWriter(io.FileIO("/dev/full", "w"))
    file.write(b"x")
    with pytest.raises(OSError) as raised:
        proc.spawn(shell("true"), stdout=file)
    assert raised.value.errno == errno.ENOSPC
    with pytest.raises(OSError):
        file.close()


def test_the_standard_streams_of_python_as_objects(tmp_path):
    with as_standard(1, tmp_path / "1"), open(1, "w", closefd=False) as stdout:
        stdout.write("first ")
        run(BOTH, stdout=stdout, stderr=subprocess.STDOUT)
    assert content(tmp_path / "1") == b"first outerr"


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_closed_handle_keeps_no_file(stream):
    class File(io.BytesIO):
        pass

    with proc.spawn(python("pass"), **{stream: (file := File())}) as process:
        pass
    watched = weakref.ref(file)
    del file
    gc.collect()
    assert watched() is None
    assert process.wait().ok
