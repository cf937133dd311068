"""Whatever layers of `io` a file object has: nothing stale after `lock`, nothing unwritten after `unlock`.

The other party is a descriptor of its own: for buffers that is the same as another process.
"""

from __future__ import annotations

import _pyio
import codecs
import contextlib
import errno
import functools
import io
import os
import random
import sys
import tempfile

import pytest
import troubles
from campaigns import rounds
from children import Forked
from strangers import apart, trylock

from ipcio import _buffering, filelock, mmap

try:
    import resource
except ImportError:  # there are no such limits
    resource = None

CHUNK = 8192  # what the layers of io read at once
LINES = [f"{number:06}\n" for number in range(4000)]  # some chunks
OTHER = str.maketrans("0123456789あ中b", "abcdefghijい文c")  # as many bytes in every encoding here


class Subclass(io.BufferedRandom):
    pass


class RawSubclass(io.FileIO):
    pass


BINARY = {
    "FileIO": lambda path: io.FileIO(path, "r+"),
    "FileIO subclass": lambda path: RawSubclass(path, "r+"),
    "BufferedReader": lambda path: open(path, "rb"),
    "BufferedReader, small": lambda path: open(path, "rb", buffering=7),
    "BufferedReader, large": lambda path: open(path, "rb", buffering=100_000),
    "BufferedReader over r+": lambda path: io.BufferedReader(io.FileIO(path, "r+")),
    "BufferedRandom": lambda path: open(path, "r+b"),
    "BufferedRandom, small": lambda path: open(path, "r+b", buffering=5),
    "BufferedRandom, append": lambda path: open(path, "a+b"),
    "BufferedRandom subclass": lambda path: Subclass(io.FileIO(path, "r+")),
    "_pyio.BufferedReader": lambda path: _pyio.open(path, "rb"),
    "_pyio.BufferedRandom": lambda path: _pyio.open(path, "r+b", buffering=100),
    "MemoryFile": lambda path: mmap.open(path, "rw"),
    "BufferedReader over MemoryFile": lambda path: io.BufferedReader(mmap.open(path, "r")),
    "BufferedRandom over MemoryFile": lambda path: io.BufferedRandom(mmap.open(path, "rw")),
}

TEXT = {
    "r": open,
    "r+": lambda path, **how: open(path, "r+", **how),
    "a+": lambda path, **how: open(path, "a+", **how),
    "small": lambda path, **how: open(path, "r+", buffering=5, **how),
    "write through": lambda path, **how: io.TextIOWrapper(open(path, "r+b"), write_through=True, **how),
    "line buffering": lambda path, **how: io.TextIOWrapper(open(path, "r+b"), line_buffering=True, **how),
    "subclass below": lambda path, **how: io.TextIOWrapper(Subclass(io.FileIO(path, "r+")), **how),
    "over FileIO": lambda path, **how: io.TextIOWrapper(io.FileIO(path, "r+"), **how),
    "over MemoryFile": lambda path, **how: io.TextIOWrapper(mmap.open(path, "rw"), **how),
    "over buffer over MemoryFile": lambda path, **how: io.TextIOWrapper(io.BufferedReader(mmap.open(path, "r")), **how),
    "_pyio": lambda path, **how: _pyio.open(path, "r+", **how),
    "_pyio over io": lambda path, **how: _pyio.TextIOWrapper(open(path, "r+b"), **how),
}

BINARY_STARTS = {
    "nowhere": lambda _: None,
    "at the start again": lambda file: (file.read(3000), file.seek(0)),
    "peeked": lambda file: getattr(file, "peek", file.read)(1),
    "in mid-line": lambda file: file.read(10),
    "after a line": lambda file: file.readline(),
    "before the end of a chunk": lambda file: (file.read(100), file.read(CHUNK - 101)),
    "at the end of a chunk": lambda file: (file.read(100), file.read(CHUNK - 100)),
    "in a later chunk": lambda file: (file.read(CHUNK), file.read(123)),
    "before the end": lambda file: (file.seek(-5, os.SEEK_END), file.read(2)),
    "at the end": lambda file: file.read(),
    "past the end": lambda file: file.seek(100, os.SEEK_END),
    "moved within the buffer": lambda file: (file.read(300), file.seek(-99, os.SEEK_CUR)),
    "read into": lambda file: file.readinto(bytearray(333)),
}

# Each returns what it has read since the start of the file.
TEXT_STARTS = {
    "nowhere": lambda _: "",
    "at the start again": lambda file: (file.read(3000), file.seek(0), "")[2],
    "bytes peeked at": lambda file: (file.buffer.peek(1) if hasattr(file.buffer, "peek") else None, "")[1],
    "one character": lambda file: file.read(1),
    "in mid-line": lambda file: file.read(10),
    "after a line": lambda file: file.readline(),
    "in mid-line after some": lambda file: "".join(file.readline() for _ in range(5)) + file.readline(2),
    "a character before the end of a chunk": lambda file: file.read(CHUNK - 1),
    "at the end of a chunk": lambda file: file.read(CHUNK),
    "after it": lambda file: file.read(CHUNK + 1),
    "in pieces": lambda file: "".join(file.read(size) for size in (CHUNK - 5, 1, 1, 1, 1, 1, 1, 1, 1)),
    "after many lines": lambda file: "".join(file.readline() for _ in range(1500)),
    "after an iteration": "".join,
    "at the end": lambda file: file.read(),
}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "file")


def put(path, data):
    with open(path, "wb") as file:
        file.write(data)


def get(path):
    with open(path, "rb") as file:
        return file.read()


def overwrite(path, data, at=0):
    with io.FileIO(path, "r+") as file:
        file.seek(at)
        assert file.write(data) == len(data)


def is_locked(path, *span):
    """Whether somebody else is kept out."""
    with apart(lambda: open(path, "r+b", buffering=0)) as other:
        return not trylock(other, "rw", *span)


def lock_and_unlock(file):
    filelock.lock(file, "r")
    filelock.unlock(file)


def try_and_unlock(file):
    assert filelock.trylock(file, "r")
    filelock.unlock(file)


def with_locked(file):
    with filelock.locked(file, "r") as same:
        assert same is file


each_way_to_lock = pytest.mark.parametrize("lock_it", [lock_and_unlock, try_and_unlock, with_locked])

# -- nothing stale -----------------------------------------------------------


@each_way_to_lock
@pytest.mark.parametrize("layer", BINARY)
def test_bytes_are_fresh_at_the_same_position(path, layer, lock_it):
    old = "".join(LINES).encode()
    new = old.decode().translate(OTHER).encode()
    for start in BINARY_STARTS.values():
        put(path, old)
        with BINARY[layer](path) as file:
            file.seek(0)
            start(file)
            at = file.tell()
            overwrite(path, new)  # before the position, and after it
            lock_it(file)
            assert file.tell() == at
            assert file.read(7) == new[at : at + 7]
            assert file.read() == new[at + 7 :]
            assert file.seek(3) == 3
            assert file.read(100) == new[3:103]


@pytest.mark.parametrize("layer", TEXT)
@pytest.mark.parametrize("newline", [None, "", "\n", "\r\n", "\r"])
def test_text_is_fresh_at_the_same_position(path, layer, newline):
    # "\r\n" over a chunk's end, too.
    lines = [line.replace("\n", "\r\n") if number % 2 else line for number, line in enumerate(LINES)]
    content = "x" * ((CHUNK - len("".join(lines[:1000])) - 1) % len(lines[1])) + "".join(lines)
    check_text(path, TEXT[layer], content, encoding="utf-8", newline=newline)


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-16", "utf-16-be", "utf-32", "utf-8-sig", "utf-7", "shift_jis", "gb18030", "iso-2022-jp", "hz"],
)
@pytest.mark.parametrize("layer", ["r", "r+", "over FileIO", "_pyio"])
def test_text_is_fresh_in_every_encoding(path, layer, encoding):
    content = "".join(f"{number:03}あ中b\n" for number in range(1500))
    check_text(path, TEXT[layer], content, encoding=encoding, newline="")


def test_text_is_fresh_where_a_carriage_return_ends_a_chunk(path):
    for before in CHUNK - 2, CHUNK - 1, CHUNK, CHUNK + 1:
        content = "0" * before + "\r\n12\r\n" + "3" * CHUNK
        put(path, content.encode())
        for newline in None, "", "\r\n":
            for first in range(before - 2, before + 4):
                with open(path, encoding="utf-8", newline=newline) as file:
                    begun = file.read(first)
                    with_locked(file)
                    whole = content if newline is not None else content.replace("\r\n", "\n")
                    assert begun + file.read() == whole


def check_text(path, opened, content, **how):
    old, new = (text.encode(how["encoding"]) for text in (content, content.translate(OTHER)))
    assert len(old) == len(new)
    assert old != new
    with io.TextIOWrapper(io.BytesIO(new), **how) as fresh:
        expected = fresh.read()
    for name, start in TEXT_STARTS.items():
        put(path, old)
        with opened(path, **how) as file:
            file.seek(0)
            begun = start(file)
            at = file.tell()
            overwrite(path, new)
            with_locked(file)
            assert file.tell() == at, name
            assert file.read(9) == expected[len(begun) : len(begun) + 9], name
            with_locked(file)
            assert file.read() == expected[len(begun) + 9 :], name


@pytest.mark.parametrize("layer", [layer for layer in TEXT if "MemoryFile" not in layer])  # memory does not grow
def test_what_is_appended_is_seen_from_the_end(path, layer):
    put(path, "äöü\n".encode())
    with TEXT[layer](path, encoding="utf-8") as file:
        file.seek(0)
        assert file.read() == "äöü\n"
        assert file.read() == ""
        overwrite(path, "ß€\n".encode(), at=7)
        with filelock.locked(file, "r"):
            assert file.readline() == "ß€\n"


def test_bytes_that_are_gone_are_not_read(path):
    for layer, opened in (BINARY | TEXT).items():
        if "MemoryFile" in layer:
            continue  # what is mapped must not be cut off
        put(path, b"0123456789\n" * 1000)
        with opened(path) as file:
            file.seek(0)
            file.readline()
            file.read(3)
            os.truncate(path, 5)
            with filelock.locked(file, "r"):
                assert file.tell() == 14
                assert not file.read()
            overwrite(path, b"abcdefghijklmnopqrst")
            with filelock.locked(file, "r"):
                assert file.read() == written(file, "opqrst")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "shift_jis"])
@pytest.mark.parametrize("opened", [open, _pyio.open])
def test_a_position_within_the_end_of_a_line_that_is_gone(path, opened, encoding):
    """What `tell` gives there is to be decoded anew, and cannot: no lock, until the file is somewhere else."""
    put(path, "0\r\n1\r\n".encode(encoding))
    with opened(path, encoding=encoding, newline="") as file:
        assert file.read(2) == "0\r"
        os.truncate(path, 0)
        with pytest.raises(OSError, match="position"):
            filelock.lock(file, "r")
        assert not is_locked(path)
        overwrite(path, "ab\r\n".encode(encoding))
        file.seek(0)
        assert filelock.lock(file, "r")
        assert file.read() == "ab\r\n"


# -- wrappers ----------------------------------------------------------------


@pytest.mark.needs("proc")
@pytest.mark.parametrize("make", [tempfile.NamedTemporaryFile, tempfile.TemporaryFile, tempfile.SpooledTemporaryFile])
@pytest.mark.parametrize("mode", ["w+b", "w+"])
def test_temporary_files(make, mode):
    what = str if mode == "w+" else str.encode
    with make(mode=mode) as file:
        file.write(what("0123456789" * 3000))
        with filelock.locked(file):  # a spooled one gets onto the disk here
            path = f"/proc/self/fd/{file.fileno()}"
            file.seek(0)
            assert file.read(3) == what("012")
        overwrite(path, b"abcdefghij" * 3000)
        with filelock.locked(file):
            assert file.tell() == 3
            assert file.read(10) == what("defghijabc")
            file.seek(5)
            file.write(what("!"))
        assert get(path)[:8] == b"abcde!gh"


@pytest.mark.parametrize("module", ["gzip", "bz2"])
@pytest.mark.parametrize("mode", ["rb", "rt"])
def test_compressed_files_are_not_harmed(path, module, mode):
    module = pytest.importorskip(module)
    lines = LINES if mode == "rt" else [line.encode() for line in LINES]
    with module.open(path, "wb") as file:
        for line in LINES:
            file.write(line.encode())
            if line == LINES[1000]:
                with filelock.locked(file):
                    file.write(b"")
    with module.open(path, mode) as file:
        got = []
        for number in range(len(lines)):
            got.append(file.readline())
            if number % 500 == 0:
                with_locked(file)
                got.append(file.readline())
        assert [line for line in got if line] == lines


@pytest.mark.filterwarnings("ignore:codecs.open:DeprecationWarning")  # since Python 3.14
def test_codecs_files_are_not_harmed(path):
    with codecs.open(path, "w", "utf-8") as file:
        filelock.lock(file)
        file.write("".join(LINES))
        filelock.unlock(file)
        assert get(path) == "".join(LINES).encode()
    with codecs.open(path, "r", "utf-8") as file:
        got = []
        for number in range(len(LINES)):
            got.append(file.readline())
            if not number % 7:
                with_locked(file)
        assert got == LINES


@pytest.mark.filterwarnings("ignore:codecs.open:DeprecationWarning")
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_codecs_files_are_fresh_once_they_have_moved(path, mode):
    """They keep characters as well as bytes, and do not know their position before they have moved."""
    old = "".join(LINES)
    for start in (lambda file: file.read(3), lambda file: file.readline(), lambda file: file.read()):
        put(path, old.encode())
        with codecs.open(path, mode, "utf-8") as file:
            start(file)
            overwrite(path, old.translate(OTHER).encode())
            with filelock.locked(file, "r"):
                file.seek(0)
                assert file.read() == old.translate(OTHER)


@pytest.mark.needs("pipe locks")
def test_a_pipe_keeps_what_was_read_from_it():
    for text in False, True:
        reader, writer = os.pipe()
        os.write(writer, b"".join(line.encode() for line in LINES[:9]))
        os.close(writer)
        with open(reader, "r" if text else "rb") as file:
            first = file.read(3)
            with_locked(file)
            rest = first + file.read()
            assert (rest if text else rest.decode()) == "".join(LINES[:9])


def test_files_that_are_not_of_io(path):
    put(path, b"0123456789")

    class Bare:
        def __init__(self, fd):
            self.fileno = lambda: fd

    with open(path, "r+b", buffering=0) as file:
        for bare in file.fileno(), Bare(file.fileno()):
            assert filelock.lock(bare, "rw", 0, 5)
            assert is_locked(path, 0, 5)
            assert filelock.unlock(bare, 0, 5)
            assert not is_locked(path)


# -- nothing unwritten, nothing lost -----------------------------------------

WRITERS = {
    "FileIO": lambda path: io.FileIO(path, "r+"),
    "BufferedWriter": lambda path: io.BufferedWriter(io.FileIO(path, "r+")),
    "BufferedWriter, small": lambda path: io.BufferedWriter(io.FileIO(path, "r+"), 3),
    "BufferedRandom": lambda path: open(path, "r+b"),
    "BufferedRandom subclass": lambda path: Subclass(io.FileIO(path, "r+")),
    "_pyio.BufferedWriter": lambda path: _pyio.BufferedWriter(_pyio.FileIO(path, "r+")),
    "_pyio.BufferedRandom": lambda path: _pyio.open(path, "r+b"),
    "text": lambda path: open(path, "r+"),
    "text, only writing": lambda path: io.TextIOWrapper(io.BufferedWriter(io.FileIO(os.open(path, os.O_WRONLY), "w"))),
    "text over FileIO": lambda path: io.TextIOWrapper(io.FileIO(path, "r+")),
    "_pyio text": lambda path: _pyio.open(path, "r+"),
}


def written(file, what):
    return what if isinstance(file, io.TextIOBase | _pyio.TextIOBase) else what.encode()


@pytest.mark.parametrize("layer", WRITERS)
@pytest.mark.parametrize("ahead", [0, 3])
def test_what_is_written_before_lock_and_before_unlock_lands_where_it_belongs(path, layer, ahead):
    put(path, b"0123456789")
    with WRITERS[layer](path) as file:
        file.seek(0)
        if ahead and file.readable():
            file.read(ahead)
        file.seek(2)
        file.write(written(file, "AB"))
        overwrite(path, b"xy", at=0)  # and nobody's writing brings them back
        filelock.lock(file, "w")
        assert file.tell() == 4
        file.write(written(file, "C"))
        filelock.unlock(file)
        assert get(path) == b"xyABC56789"
        assert file.tell() == 5
    assert get(path) == b"xyABC56789"


def test_a_raw_file_that_keeps_bytes_of_its_own_is_flushed(path):
    class Hoarder(io.FileIO):
        kept = b""

        def write(self, data):
            self.kept += bytes(data)
            return len(data)

        def flush(self):
            while self.kept:
                self.kept = self.kept[super().write(self.kept) :]

    put(path, b"0123456789")
    with Hoarder(path, "r+") as file:
        with filelock.locked(file):
            file.write(b"AB")
        assert get(path) == b"AB23456789"


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("mode", ["a", "a+"])
def test_appended_bytes_go_behind_those_of_others(path, text, mode):
    put(path, b"0")
    with open(path, mode if text else mode + "b") as one, open(path, mode if text else mode + "b") as other:
        for number, file in enumerate([one, other, other, one, one, other]):
            with filelock.locked(file, "w"):
                file.write(written(file, f" {number}"))
            assert get(path) == "".join(["0", *(f" {before}" for before in range(number + 1))]).encode()


@pytest.mark.parametrize("text", [False, True])
def test_what_is_pending_at_lock_is_appended_and_the_position_is_behind_it(path, text):
    put(path, b"0")
    with open(path, "a+" if text else "a+b") as file:
        file.write(written(file, "AB"))
        overwrite(path, b"123", at=1)
        filelock.lock(file)
        assert file.tell() == 6
        filelock.unlock(file)
        assert get(path) == b"0123AB"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "iso-2022-jp", "hz"])
def test_an_encoder_goes_on_as_if_there_had_been_no_lock(path, encoding):
    pieces = ["あ", "中b", "\n", "b", "中あ", "中"]
    with open(path, "w", encoding=encoding) as file:
        file.writelines(pieces)
    expected = get(path)
    with open(path, "w+", encoding=encoding) as file:
        for piece in pieces:
            with filelock.locked(file):
                file.write(piece)
    assert get(path) == expected


class Full(io.FileIO):
    """A disk that is full for a while."""

    full = True

    def write(self, data):
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@pytest.mark.parametrize(
    "layers",
    [
        io.BufferedWriter,
        io.BufferedRandom,
        lambda raw: io.TextIOWrapper(io.BufferedWriter(raw)),
        lambda raw: io.TextIOWrapper(io.BufferedRandom(raw)),
    ],
)
def test_a_range_stays_locked_while_its_bytes_cannot_be_written(path, layers):
    put(path, b"0123456789")
    raw = Full(path, "r+")
    with layers(raw) as file:
        filelock.lock(file, "w", 0, 5)
        file.write(written(file, "AB"))
        for _ in range(2):
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
                filelock.unlock(file, 0, 5)
            assert caught.value.errno == errno.ENOSPC
            assert is_locked(path, 0, 5)
            assert not is_locked(path, 5, 5)
        raw.full = False
        filelock.unlock(file, 0, 5)
        assert not is_locked(path)
        assert get(path) == b"AB23456789"

        raw.full = True
        file.seek(0)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)), filelock.locked(file, "w"):
            file.write(written(file, "CD"))
        assert is_locked(path)
        raw.full = False


@pytest.mark.parametrize("layers", [io.BufferedRandom, lambda raw: io.TextIOWrapper(io.BufferedRandom(raw))])
@pytest.mark.parametrize("take", [filelock.lock, filelock.trylock])
def test_others_may_share_only_once_what_was_written_is_out(path, layers, take):
    """Sharing what was exclusive lets others in, as `unlock` does."""

    def others_may_share():
        with apart(lambda: open(path, "rb", 0)) as other:
            return trylock(other, "r")

    class Watched(Full):
        def write(self, data):
            early.append(others_may_share())
            return super().write(data)

    early = []
    put(path, b"0123456789")
    raw = Watched(path, "r+")
    with layers(raw) as file:
        filelock.lock(file, "rw")
        file.write(written(file, "AB"))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            take(file, "r")
        assert not others_may_share()
        raw.full = False
        assert take(file, "r")
        assert early == [False, False]
        assert others_may_share()
        assert get(path) == b"AB23456789"


@pytest.mark.parametrize("error", [OSError("in its own words"), OSError(errno.EBADF, "in its own words")])
def test_the_error_of_a_file_that_cannot_write_is_raised_as_it_is(path, error):
    class Broken(io.FileIO):
        def write(self, _):
            raise error

    put(path, b"0123456789")
    raw = Broken(path, "r+")
    file = io.BufferedWriter(raw)
    try:
        filelock.lock(file, "w")
        file.write(b"AB")
        with pytest.raises(OSError, match="in its own words") as caught:
            filelock.unlock(file)
        assert type(caught.value) is OSError
        assert is_locked(path)
    finally:
        with pytest.raises(OSError, match="in its own words"):
            file.close()


@pytest.mark.needs("fork")
def test_a_range_stays_locked_beyond_the_size_limit(path):
    """The same with the kernel's own refusal; limits belong to a process, so in one that ends."""

    def child():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        with open(path, "w+b") as file:
            filelock.lock(file)
            file.write(b"x" * 200)
            with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
                filelock.unlock(file)
            still_locked = is_locked(path)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            filelock.unlock(file)
            return still_locked, is_locked(path), get(path)

    with Forked(child) as forked:
        assert forked.result() == (True, False, b"x" * 200)


@pytest.mark.needs("full")
@pytest.mark.parametrize("mode", ["wb", "r+b", "w", "r+"])
def test_a_range_stays_locked_on_a_full_device(mode):
    span = 100 * os.getpid(), 10  # the device is everybody's
    file = open("/dev/full", mode)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)), filelock.locked(file, "w", *span):
            file.write(written(file, "x"))
        assert is_locked("/dev/full", *span)
    finally:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            file.close()
    assert not is_locked("/dev/full", *span)


def test_lock_that_cannot_write_what_is_pending_has_locked_nothing_and_lost_nothing(path):
    put(path, b"0123456789")
    raw = Full(path, "r+")
    with io.BufferedRandom(raw) as file:
        file.write(b"AB")
        for take in filelock.lock, filelock.trylock:
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                take(file)
            assert not is_locked(path)
        raw.full = False
        with filelock.locked(file):
            assert file.tell() == 2
        assert get(path) == b"AB23456789"


# -- where nobody knows the position -----------------------------------------


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("opened", [open, _pyio.open])
def test_in_the_middle_of_an_iteration_lock_raises_and_has_locked_nothing(path, opened, mode):
    put(path, "".join(LINES).encode())
    with opened(path, mode) as file:
        got = []
        for line in file:
            got.append(line)
            if len(got) < 5 or len(got) % 1000 == 0:
                for take in lock_and_unlock, try_and_unlock, with_locked:
                    with pytest.raises(OSError, match="telling position disabled"):
                        take(file)
                    assert not is_locked(path)
        assert got == LINES
        with_locked(file)  # the iteration is over


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("opened", [open, _pyio.open])
def test_unlock_in_the_middle_of_an_iteration_makes_no_position_up(path, opened, mode):
    put(path, "".join(LINES).encode())
    with opened(path, mode) as file:
        with filelock.locked(file, "r"):
            assert next(file) == LINES[0]
        with pytest.raises(OSError, match="telling position disabled"):  # not that of the read-ahead
            filelock.lock(file, "r")
        assert not is_locked(path)
        assert file.readline() == LINES[1]
        file.seek(7)
        with filelock.locked(file, "r"):
            assert file.readline() == LINES[1]


def test_unlock_in_the_middle_of_an_iteration_writes_what_was_written(path):
    put(path, b"0\n1\n2\n")
    with open(path, "r+", newline="\n") as file:
        filelock.lock(file)
        assert next(file) == "0\n"
        file.write("3\n")  # goes behind what was read ahead, as ever
        filelock.unlock(file)
        assert get(path) == b"0\n1\n2\n3\n"


@pytest.mark.parametrize("layer", ["BufferedReader", "BufferedRandom"])
@pytest.mark.parametrize("text", [False, True])
def test_an_interrupt_anywhere_leaves_the_position_and_no_lock(path, layer, text):
    put(path, "".join(LINES).encode())
    file = BINARY[layer](path)
    if text:
        file = io.TextIOWrapper(file, encoding="utf-8")
    with file:
        file.read(500)
        at = file.tell()
        for steps in range(1000):
            left = steps

            def trace(frame, event, _):
                nonlocal left
                if frame.f_code.co_filename != _buffering.__file__:
                    return None
                frame.f_trace_opcodes = True
                if event == "opcode":
                    left -= 1
                    if left < 0:
                        raise KeyboardInterrupt
                return trace

            before = sys.gettrace()
            sys._getframe().f_trace_opcodes = True  # without that, 3.12 has no such events anywhere
            sys.settrace(trace)
            try:
                filelock.lock(file, "r")
            except KeyboardInterrupt:
                sys.settrace(before)
                assert file.tell() == at
                assert not is_locked(path)
            else:
                break
            finally:
                sys.settrace(before)
        assert steps > 10 or (layer == "BufferedRandom" and not text)  # for which there is a single call of C
        assert file.tell() == at
        assert file.read(4) == written(file, "".join(LINES))[500:504]


INTERRUPTED = {
    "FileIO": lambda path: io.FileIO(path, "r+"),
    "BufferedRandom": lambda path: open(path, "r+b"),
    "text": lambda path: open(path, "r+"),
}


interrupted_after = functools.partial(
    troubles.interrupted_after, inside=lambda name: name.startswith(("ipcio._buffering", "ipcio._filelock."))
)


@pytest.mark.parametrize("take", [filelock.lock, filelock.trylock])
@pytest.mark.parametrize("layer", INTERRUPTED)
def test_an_interrupt_after_any_call_of_lock_leaves_no_lock(path, layer, take):
    put(path, b"0123456789")
    for count in range(1000):
        with INTERRUPTED[layer](path) as file:
            file.read(2)
            if not interrupted_after(count, lambda file=file: take(file, "rw", 0, 4)):
                break
            assert not is_locked(path)
            assert file.tell() == 2
    assert count > 1


@pytest.mark.parametrize("layer", INTERRUPTED)
def test_an_interrupt_after_any_call_of_with_leaves_no_lock_and_nothing_unwritten(path, layer):
    for count in range(1000):
        put(path, b"0123456789")
        with INTERRUPTED[layer](path) as file:
            entered = []

            def block(file=file, entered=entered):
                with filelock.locked(file, "rw", 0, 4):
                    entered.append(True)
                    file.write(written(file, "AB"))

            if not interrupted_after(count, block):
                break
            assert not is_locked(path), count
            assert get(path) == (b"AB23456789" if entered else b"0123456789")
    assert entered
    assert count > 3


# -- against a model ---------------------------------------------------------


READERS_AND_WRITERS = {
    "FileIO": lambda path: io.FileIO(path, "r+"),
    "BufferedReader": lambda path: open(path, "rb"),
    "BufferedReader, small": lambda path: open(path, "rb", buffering=7),
    "BufferedWriter": lambda path: io.BufferedWriter(io.FileIO(os.open(path, os.O_WRONLY), "w")),
    "BufferedWriter over r+": lambda path: io.BufferedWriter(io.FileIO(path, "r+"), 50),
    "BufferedRandom": lambda path: open(path, "r+b"),
    "BufferedRandom, small": lambda path: open(path, "r+b", buffering=13),
    "BufferedRandom, append": lambda path: open(path, "a+b"),
    "BufferedRandom subclass": lambda path: Subclass(io.FileIO(path, "r+"), 100),
    "_pyio.BufferedReader": lambda path: _pyio.open(path, "rb", buffering=60),
    "_pyio.BufferedRandom": lambda path: _pyio.open(path, "r+b"),
}


class Model:
    """One file object's position, in the units of `content`, which all of them and the file have in common."""

    def __init__(self, file, content, append):
        self.file = file
        self.content = content
        self.append = append
        self.at = file.tell()

    def read(self, size):
        found = self.content[self.at : None if size < 0 else self.at + size]
        self.at += len(found)
        return found

    def readline(self, end):
        rest = self.content[self.at :]
        return self.read(rest.index(end) + 1 if end in rest else -1)

    def write(self, what):
        if what:
            if self.append:
                self.at = len(self.content)
            self.content.extend([0] * (self.at - len(self.content)))
            self.content[self.at : self.at + len(what)] = what
            self.at += len(what)


def random_step(rng, model, size):
    """One operation on a file of bytes and on the model."""
    file = model.file
    acts = ["seek", "seek", "relative", "end", "tell"]
    acts += ["read", "read", "read", "readline", "peek", "readinto"] * file.readable()
    acts += ["write", "write", "write", "truncate"] * file.writable()
    act, amount = rng.choice(acts), rng.choice([0, 1, 5, 40, 130, rng.randrange(2 * size), CHUNK])
    if act == "seek":
        model.at = file.seek(min(amount, size))
    elif act == "relative":
        target = min(max(0, model.at + rng.choice([-1, 1]) * amount), size + 20)
        assert file.seek(target - model.at, os.SEEK_CUR) == target
        model.at = target
    elif act == "end":
        model.at = file.seek(0, os.SEEK_END)
        assert model.at == len(model.content)
    elif act == "read":
        assert file.read(amount) == model.read(amount)
    elif act == "readline":
        assert file.readline() == model.readline(10)
    elif act == "peek" and hasattr(file, "peek"):
        seen = file.peek(5)
        assert seen == model.content[model.at : model.at + len(seen)]
    elif act == "write":
        data = bytes(rng.choice([10, 65, 66, 67]) for _ in range(min(amount, 200)))
        write(model, data)
    elif isinstance(file, _pyio.BufferedIOBase):
        pass  # its readinto() and its truncate() over read-ahead are wrong without any lock
    elif act == "readinto":
        data = bytearray(amount)
        got = file.readinto(data)
        assert data[:got] == model.read(amount)
    elif act == "truncate" and rng.random() < 0.2:
        file.truncate(amount)
        del model.content[amount:]
        model.content.extend(bytes(amount - len(model.content)))
    return act


def write(model, data):
    if model.append:  # else, before the bytes are out, its tell() does not know that they go to the end
        model.at = model.file.seek(0, os.SEEK_END)
    model.file.write(data)
    model.write(data)


def somebody_writes(rng, path, content):
    at = rng.randrange(len(content) + 1)
    data = bytes(rng.choice([10, 97, 98, 99]) for _ in range(rng.choice([1, 20, 300])))
    overwrite(path, data, at)
    content[at : at + len(data)] = data


def under_a_lock(rng, file, act):
    """Lock in one of the ways, do it, and unlock."""
    mode = "rw" if file.writable() else "r"
    span = rng.choice([(), (0, 10), (rng.randrange(100_000), 0)])
    if rng.random() < 0.5:
        with filelock.locked(file, mode, *span):
            act()
    else:
        assert filelock.trylock(file, mode, *span)
        act()
        filelock.unlock(file, *span)


@pytest.mark.parametrize("layer", READERS_AND_WRITERS)
@pytest.mark.parametrize("seed", range(3))
def test_random_operations_on_bytes(path, layer, seed):
    run_bytes(path, [layer], random.Random(f"{layer} {seed}"), steps=rounds(500))


@pytest.mark.parametrize("seed", range(12))
def test_random_operations_on_bytes_by_several_in_turn(path, seed):
    rng = random.Random(seed)
    run_bytes(path, rng.choices(list(READERS_AND_WRITERS), k=rng.choice([2, 3, 5])), rng, steps=rounds(500))


def run_bytes(path, layers, rng, steps):
    size = rng.choice([200, 3000, 30_000])
    content = bytearray(rng.choice([10, 65, 97]) for _ in range(size))
    put(path, bytes(content))
    with contextlib.ExitStack() as stack:
        models = [
            Model(stack.enter_context(READERS_AND_WRITERS[layer](path)), content, append=layer.endswith("append"))
            for layer in layers
        ]
        for step in range(steps):
            model = rng.choice(models)
            while rng.random() < 0.4:
                somebody_writes(rng, path, content)
            if model.file.writable() and rng.random() < 0.1:  # too early, but not to be lost
                write(model, b"early\n")
                assert model.file.tell() == model.at

            def act(model=model):
                assert model.file.tell() == model.at
                for _ in range(rng.choice([1, 1, 1, 4])):
                    done = random_step(rng, model, size)
                    assert model.file.tell() == model.at, done

            under_a_lock(rng, model.file, act)
            assert model.file.tell() == model.at
            assert get(path) == content, step


# Encodings of one width, so that a model in characters can tell the bytes: name, width, letters (the first ends lines).
WIDTHS = [
    ("latin-1", 1, "\nabcä"),
    ("utf-16-le", 2, "\nabあ中"),
    ("utf-8", 3, "ありが中文"),
    ("shift_jis", 2, "あり中文"),
]


@pytest.mark.parametrize("layer", TEXT)
@pytest.mark.parametrize(("encoding", "width", "letters"), WIDTHS)
def test_random_operations_on_text(path, layer, encoding, width, letters):
    rng = random.Random(f"{layer} {encoding}")
    size = 6000
    content = [rng.choice(letters) for _ in range(size)]
    put(path, "".join(content).encode(encoding))
    how = {"encoding": encoding, "newline": ""}
    with contextlib.ExitStack() as stack:
        others = [] if "MemoryFile" in layer else [rng.choice(["r+", "r"])]
        files = [stack.enter_context(TEXT[kind](path, **how)) for kind in [layer, *others]]
        models = []
        for file in files:
            file.seek(0)
            models.append(Model(file, content, append=layer == "a+" and file is files[0]))
        for step in range(rounds(150)):
            model = rng.choice(models)
            for _ in range(rng.randrange(3)):  # somebody writes
                at, text = rng.randrange(size - 300), [rng.choice(letters) for _ in range(rng.choice([1, 20, 300]))]
                content[at : at + len(text)] = text
                overwrite(path, "".join(text).encode(encoding), at * width)
            under_a_lock(rng, model.file, functools.partial(text_step, rng, model, letters, width))
            assert get(path) == "".join(content).encode(encoding), step
        # What a position that `tell` gives is worth.
        for model in models:
            with filelock.locked(model.file, "r"):
                model.file.seek(model.file.tell())
                assert model.file.read() == "".join(model.read(-1))


def text_step(rng, model, letters, width):
    file = model.file
    act = rng.choice(["read", "read", "readline", "seek", "end"] + ["write", "write"] * file.writable())
    amount = rng.choice([0, 1, 2, 50, 700, 4000])
    if act == "read":
        assert file.read(amount) == "".join(model.read(amount))
    elif act == "readline" and letters[0] == "\n":
        assert file.readline() == "".join(model.readline("\n"))
    elif act == "seek":
        model.at = rng.randrange(len(model.content))
        file.seek(model.at * width)
    elif act == "end":
        file.seek(0, os.SEEK_END)
        model.at = len(model.content)
    elif act == "write":
        text = [rng.choice(letters) for _ in range(min(amount, 50))]
        if isinstance(file.buffer, mmap.MemoryFile):
            text = text[: len(model.content) - model.at]  # it does not grow
        file.write("".join(text))
        model.write(text)


@pytest.mark.parametrize("kind", ["BufferedRandom", "_pyio.BufferedRandom", "r+", "_pyio"])
@pytest.mark.needs("fork")
def test_two_processes_count_together(path, kind):
    rounds = 300
    put(path, b"x" * 20 + b"000000\n" + b"y" * 20)

    def count():
        opened = BINARY.get(kind) or TEXT[kind]
        with opened(path) as file:
            for _ in range(rounds):
                with filelock.locked(file, "rw", 20, 6):
                    file.seek(20)
                    number = int(file.read(6)) + 1
                    file.seek(20)
                    file.write(written(file, f"{number:06}"))

    with Forked(count) as one, Forked(count) as other:
        one.result(), other.result()
    assert get(path) == b"x" * 20 + f"{2 * rounds:06}\n".encode() + b"y" * 20
