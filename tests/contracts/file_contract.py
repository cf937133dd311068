"""What every handle promises, whatever memory lies under it.

A test module makes a class of one of the three kinds at the end, with a fixture
`make` that turns bytes into a fresh handle.  Every test then runs over that handle
in several states, because an implementation may well take another way in each:
fresh, narrowed by `truncate`, with its descriptor given out, copied by pickle.

The witness is a real file, opened unbuffered, wherever a file can be asked.
"""

from __future__ import annotations

import array
import contextlib
import copy
import ctypes
import errno
import gc
import io
import os
import pickle
import shutil
import subprocess
import sys
import traceback
import weakref

import pytest
from abilities import lacks
from children import fork_quietly

from ipcio import MemoryFile

CLOSED = r"^I/O operation on closed file\.?$"
IS_BUFFER = sys.version_info >= (3, 12)

LINES = b"one\ntwo\n\nthree " + b"x" * 200 + b"\nfour " + b"y" * 3000 + b"\n\nlast, and without an end"
TAIL = b"beyond\nthe end\n"  # what a narrowed handle must neither show nor change

FRESH, NARROWED, SHARED, RETURNED, COPIED = (
    "fresh",
    "narrowed",
    "descriptor given out",
    "past the end and back",
    "copied",
)
STATES = [FRESH, NARROWED, SHARED, RETURNED, COPIED]


class Index:
    """An integer only by `__index__`."""

    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def big_endian(count):
    """A writable buffer whose items `memoryview.cast` does not understand."""
    return (ctypes.c_uint32.__ctype_be__ * count)()


def structured(count):
    """A writable buffer of records."""

    class Record(ctypes.Structure):
        _fields_ = [("a", ctypes.c_uint8), ("b", ctypes.c_double)]

    return (Record * count)()


def outcome(call):
    """What a call gives: its value, or what kind of failure it is and its number."""
    try:
        return "value", call()
    except OSError as error:  # UnsupportedOperation is one, too
        return (
            "OSError",
            "unsupported" if isinstance(error, io.UnsupportedOperation) else errno.errorcode.get(error.errno),
        )
    except (ValueError, TypeError, OverflowError, BufferError, StopIteration) as error:
        return type(error).__name__, None


def run(code, *arguments, status=0):
    """Run a program in a Python of its own; it must end with `status` and say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "faulthandler", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert (done.returncode, done.stderr) == (status, ""), done.stdout + done.stderr
    return done.stdout


def in_child(function):
    """Run `function` in a forked child and return its result, or raise AssertionError with its traceback."""
    reading, writing = os.pipe()
    pid = fork_quietly()
    if not pid:
        try:
            result = True, function()
        except BaseException:
            result = False, traceback.format_exc()
        try:
            os.write(writing, pickle.dumps(result))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as stream:
        answer = stream.read()
    _, status = os.waitpid(pid, 0)
    assert answer, f"the child exited (status {status})"
    good, result = pickle.loads(answer)
    assert good, result
    return result


def at(f, position):
    f.seek(position)
    return f


class FileContract:
    """What holds in every mode: position, size, address, buffer, closing."""

    MODE = "rb+"
    HAS_DESCRIPTOR = True

    @pytest.fixture
    def make(self):
        """Return a function from bytes to a fresh handle; to be overridden."""
        raise NotImplementedError

    @pytest.fixture(params=STATES)
    def state(self, request):
        return request.param

    @pytest.fixture
    def has_descriptor(self, state):
        """Whether handles in this state give theirs: one that shows only part of it does not."""
        return self.HAS_DESCRIPTOR and state not in {NARROWED, COPIED}

    @pytest.fixture
    def open_file(self, make, state):
        """Return a function from bytes to a handle at position 0 in one of the states; all are closed at the end."""
        with contextlib.ExitStack() as stack:
            if state == SHARED and not self.HAS_DESCRIPTOR:
                pytest.skip(lacks("descriptors"))

            def open_one(content):
                narrow = state in {NARROWED, COPIED}
                h = stack.enter_context(contextlib.closing(make(content + TAIL if narrow else content)))
                if state == SHARED or (state == COPIED and self.HAS_DESCRIPTOR):
                    h.fileno()
                if narrow:
                    h.truncate(len(content))
                if state == RETURNED:
                    h.seek(len(content) + 100)
                    h.seek(0)
                if state == COPIED:
                    h = stack.enter_context(contextlib.closing(copy.copy(h)))
                return h

            yield open_one

    @pytest.fixture
    def real(self, tmp_path):
        """Return a function from bytes to an unbuffered real file of the same mode."""
        with contextlib.ExitStack() as stack:

            def open_one(content, mode=self.MODE):
                path = tmp_path / "witness"
                path.write_bytes(content)
                f = stack.enter_context(io.FileIO(os.open(path, os.O_RDWR), "rb+" if mode == "rb+" else mode))
                f.path = path
                return f

            yield open_one

    # -- what it is

    def test_it_is_a_raw_file(self, open_file):
        h = open_file(LINES)
        assert isinstance(h, MemoryFile)
        assert isinstance(h, io.RawIOBase)
        assert issubclass(MemoryFile, io.RawIOBase)
        assert not isinstance(h, (io.BufferedIOBase, io.TextIOBase))
        assert isinstance(h, io.IOBase)
        assert h.isatty() is False
        assert h.closed is False
        assert h.seekable() is True
        assert h.readable() is (self.MODE != "wb")
        assert h.writable() is (self.MODE != "rb")
        assert len({h, h}) == 1
        assert weakref.ref(h)() is h

    def test_name_and_mode_tell_and_cannot_be_set(self, open_file):
        h = open_file(LINES)
        assert h.mode == self.MODE
        assert h.name is not None
        assert self.MODE in repr(h)
        assert repr(h.name) in repr(h)
        with pytest.raises(AttributeError):
            h.mode = "x"

    def test_size_and_position_of_a_new_handle(self, open_file):
        h = open_file(LINES)
        assert h.size() == len(LINES)
        assert h.tell() == 0
        assert type(h.size()) is type(h.tell()) is int

    # -- position

    def test_seek_goes_where_a_file_goes(self, open_file):
        """Every whence, from every place, also with integers that only have `__index__`."""
        h, model = open_file(LINES), io.BytesIO(LINES)
        end = len(LINES)
        for offset, whence in [
            (5, 0), (0, 0), (end, 0), (end + 1, 0), (3, 0), (4, 1), (-2, 1), (0, 1), (0, 2), (-1, 2), (-end, 2),
            (10, 1), (10, 2), (-20, 1), (True, 0), (1 << 40, 0), (-(1 << 40), 1), (7, 0), (1 << 40, 2), (0, 1),
        ]:  # fmt: skip
            wanted = model.seek(offset, whence)
            got = h.seek(offset, whence)
            assert (got, h.tell()) == (wanted, wanted), (offset, whence)
            assert type(got) is int
        assert h.seek(0) == 0

    def test_seek_takes_and_gives_integers_of_any_kind(self, open_file):
        """An object with `__index__` is an integer; the answer is always an `int`."""
        h = open_file(LINES)
        for offset, whence, wanted in [
            (Index(3), 0, 3), (Index(2), 1, 5), (Index(-1), 2, len(LINES) - 1), (Index(7), 2, len(LINES) + 7),
            (Index(3), 0, 3),
        ]:  # fmt: skip
            got = h.seek(offset, whence)
            assert type(got) is int
            assert got == h.tell() == wanted
        got = h.seek(Index(len(LINES) + 5))
        assert type(got) is int
        assert got == h.tell() == len(LINES) + 5

    def test_seek_takes_a_whence_of_any_kind(self, open_file):
        """As a file does."""
        h = open_file(LINES)
        assert h.seek(4, Index(0)) == 4
        assert h.seek(4, Index(1)) == 8
        assert h.seek(-4, Index(2)) == len(LINES) - 4

    def test_seek_before_the_start_is_both_errors_and_does_not_move(self, open_file):
        """As from BytesIO and as from FileIO, with errno and the name."""
        h = open_file(LINES)
        end = len(LINES)
        for start in (0, 5, end, end + 5):
            for offset, whence in [(-1, 0), (-start - 1, 1), (-end - 1, 2), (-sys.maxsize, 0), (-sys.maxsize, 1)]:
                h.seek(start)
                with pytest.raises(ValueError) as caught:
                    h.seek(offset, whence)
                assert isinstance(caught.value, OSError)
                assert caught.value.errno == errno.EINVAL
                assert caught.value.filename == h.name
                assert h.tell() == start

    def test_seek_refuses_what_is_no_position(self, open_file):
        """The error is a file's, and the handle does not move."""
        h = at(open_file(LINES), 5)
        for bad in [(None,), (1.0,), ("1",), (b"1",), (), (1, 0, 0), ([],)]:
            with pytest.raises(TypeError):
                h.seek(*bad)
            assert h.tell() == 5, bad
        for whence in (-1, 7, 1000, "0", None, [], 0.5):
            with pytest.raises((ValueError, OSError, TypeError)):
                h.seek(0, whence)
            assert h.tell() == 5
        for huge in (1 << 63, 1 << 100):
            with pytest.raises(OverflowError):
                h.seek(huge)
            assert h.tell() == 5

    def test_tell_takes_no_argument(self, open_file):
        with pytest.raises(TypeError):
            open_file(LINES).tell(1)

    # -- size

    def test_truncate_narrows_this_handle(self, open_file):
        """It returns the new size, moves only a position that lies beyond, and takes every shape of integer."""
        h = at(open_file(LINES), 30)
        address = h.addr()
        for argument, size, position in [((100,), 100, 30), ((Index(50),), 50, 30), ((20,), 20, 20), ((), 20, 20)]:
            got = h.truncate(*argument)
            assert type(got) is int
            assert (got, h.size(), h.tell()) == (size, size, position)
        h.seek(10)
        assert h.truncate(None) == h.size() == h.tell() == 10
        assert h.seek(0, 2) == 10
        assert h.getbuffer().nbytes == 10
        assert bytes(h.getbuffer()) == LINES[:10]
        assert h.truncate(0) == h.size() == h.tell() == 0
        assert bytes(h.getbuffer()) == b""
        assert h.truncate(True - 1) == h.truncate() == 0
        assert h.addr() == address

    def test_truncate_refuses_to_grow(self, open_file):
        """More than the size, less than nothing: ValueError, and nothing changes."""
        h = at(open_file(LINES), 5)
        for bad in (len(LINES) + 1, -1, 1 << 64, -(1 << 64), Index(len(LINES) + 1)):
            with pytest.raises(ValueError):
                h.truncate(bad)
            assert (h.size(), h.tell()) == (len(LINES), 5)
        for bad in ("1", 1.0, b"", []):
            with pytest.raises(TypeError):
                h.truncate(bad)
            assert (h.size(), h.tell()) == (len(LINES), 5)
        h.seek(len(LINES) + 1)
        with pytest.raises(ValueError):
            h.truncate()
        assert (h.size(), h.tell()) == (len(LINES), len(LINES) + 1)
        assert h.truncate(len(LINES)) == len(LINES)
        assert h.tell() == len(LINES)
        h.truncate(20)
        with pytest.raises(ValueError):
            h.truncate(21)
        assert h.size() == 20

    # -- the memory itself

    def test_addr_is_the_start_of_the_bytes_for_as_long_as_it_is_open(self, open_file):
        h = open_file(LINES)
        address = h.addr()
        assert type(address) is int
        assert address > 0
        h.seek(100)
        h.truncate(50)
        h.getbuffer().release()
        assert h.addr() == address
        assert ctypes.string_at(address, h.size()) == LINES[:50]

    def test_getbuffer_is_the_face_itself(self, open_file):
        """No copy, bytes in one dimension, read-only exactly where the handle is."""
        h = at(open_file(LINES), 7)
        view = h.getbuffer()
        assert type(view) is memoryview
        assert (view.format, view.ndim, view.itemsize, view.contiguous) == ("B", 1, 1, True)
        assert view.readonly is (self.MODE == "rb")
        assert bytes(view) == LINES
        assert h.tell() == 7
        if self.MODE == "rb":
            with pytest.raises(TypeError):
                view[0] = 1
        else:
            assert ctypes.addressof(ctypes.c_char.from_buffer(view)) == h.addr()
            view[3] = 0x21
            assert ctypes.string_at(h.addr(), 4) == LINES[:3] + b"!"

    def test_a_view_keeps_its_size_when_the_handle_is_narrowed(self, open_file):
        h = open_file(LINES)
        with h.getbuffer() as before:
            h.truncate(10)
            with h.getbuffer() as after:
                assert (before.nbytes, after.nbytes) == (len(LINES), 10)

    def test_the_handle_is_a_buffer_where_python_can_ask(self, open_file):
        """From 3.12; before that, an honest TypeError."""
        h = open_file(LINES)
        h.truncate(50)
        if not IS_BUFFER:
            with pytest.raises(TypeError):
                memoryview(h)
            return
        with memoryview(h) as view:
            assert view.readonly is (self.MODE == "rb")
            assert view.nbytes == 50
        assert bytes(h) == bytearray(h) == LINES[:50]
        assert b"".join([h, h]) == LINES[:50] * 2
        array.array("B").frombytes(h)
        if self.MODE == "rb":
            with pytest.raises((BufferError, TypeError)):
                io.BytesIO(b"x" * 50).readinto(h)
        else:
            assert io.BytesIO(b"z" * 50).readinto(h) == 50
            assert bytes(h.getbuffer()) == b"z" * 50

    # -- descriptor

    def test_fileno_is_real_or_refused(self, open_file, has_descriptor):
        """A descriptor of its own that is closed on exec, or UnsupportedOperation that says what to use instead."""
        h = open_file(LINES)
        if not has_descriptor:
            for _ in range(2):
                with pytest.raises(io.UnsupportedOperation, match=r"getbuffer\(\)"):
                    h.fileno()
            assert h.tell() == 0
            return
        fd = h.fileno()
        assert type(fd) is int
        assert h.fileno() == fd
        assert os.get_inheritable(fd) is False
        assert os.fstat(fd).st_size == h.size()
        h.close()
        with pytest.raises(OSError, match=r"Bad file|[Ii]nvalid handle|handle is invalid"):
            os.fstat(fd)

    def test_position_and_offset_of_the_descriptor_are_one(self, open_file, has_descriptor):
        """In both directions, from the first `fileno` on, past the end, too; and after a narrowing."""
        h = open_file(LINES)
        if not has_descriptor:
            return
        h.seek(12)
        fd = h.fileno()
        assert os.lseek(fd, 0, os.SEEK_CUR) == 12
        for position in (0, 5, len(LINES), len(LINES) + 9, 3):
            h.seek(position)
            assert os.lseek(fd, 0, os.SEEK_CUR) == position
            os.lseek(fd, position + 1, os.SEEK_SET)
            assert h.tell() == position + 1
            assert h.seek(1, 1) == position + 2
            assert os.lseek(fd, 0, os.SEEK_CUR) == position + 2
        h.seek(9)
        assert h.truncate(4) == 4
        with pytest.raises(io.UnsupportedOperation, match=r"shows 4 bytes.*getbuffer\(\)"):
            h.fileno()
        assert os.lseek(fd, 0, os.SEEK_CUR) == 4
        assert os.lseek(fd, 2, os.SEEK_SET) == h.tell() == 2
        os.lseek(fd, 0, os.SEEK_SET)
        assert os.read(fd, 4) == LINES[:4]

    # -- refused by the mode

    def test_what_the_mode_forbids_is_unsupported(self, open_file):
        """And moves nothing."""
        h = at(open_file(LINES), 3)
        if self.MODE == "wb":
            for call in (
                h.read, lambda: h.read(1), lambda: h.read(0), h.readall, h.read1, lambda: h.readinto(bytearray(1)),
                lambda: h.readinto1(bytearray(1)), lambda: h.readinto(bytearray(100_000)), h.readline,
                lambda: h.readline(1), h.readlines, lambda: list(h), lambda: next(iter(h)), lambda: next(h),
                lambda: h.readlines(3),
            ):  # fmt: skip
                with pytest.raises(io.UnsupportedOperation):
                    call()
                assert h.tell() == 3
            with pytest.raises((io.UnsupportedOperation, OSError)):
                io.BufferedReader(h)
        if self.MODE == "rb":
            for call in (lambda: h.write(b"x"), lambda: h.write(b""), lambda: h.writelines([b"x"])):
                with pytest.raises(io.UnsupportedOperation):
                    call()
                assert h.tell() == 3
            with pytest.raises((io.UnsupportedOperation, OSError)):
                io.BufferedWriter(h)
            assert bytes(h.getbuffer()) == LINES

    # -- the end

    def calls(self, h):
        """Every method, by name, with arguments that an open handle would take."""
        return {
            "read": h.read, "read(n)": lambda: h.read(1), "read(0)": lambda: h.read(0), "read1": h.read1,
            "readall": h.readall, "readinto": lambda: h.readinto(bytearray(3)),
            "readinto1": lambda: h.readinto1(bytearray(3)), "readinto(0)": lambda: h.readinto(bytearray()),
            "readinto(large)": lambda: h.readinto(bytearray(1 << 17)), "readline": h.readline,
            "readline(n)": lambda: h.readline(3), "readlines": h.readlines, "readlines(n)": lambda: h.readlines(3),
            "write": lambda: h.write(b"x"), "write(0)": lambda: h.write(b""),
            "writelines": lambda: h.writelines([b"x"]), "writelines(0)": lambda: h.writelines([]),
            "seek": lambda: h.seek(0), "seek(1)": lambda: h.seek(0, 1),
            "seek(2)": lambda: h.seek(0, 2), "seek(-1)": lambda: h.seek(-1), "tell": h.tell, "truncate": h.truncate,
            "truncate(n)": lambda: h.truncate(0), "flush": h.flush, "readable": h.readable, "writable": h.writable,
            "seekable": h.seekable, "isatty": h.isatty, "fileno": h.fileno, "iter": lambda: iter(h),
            "list": lambda: list(h), "next": lambda: next(h), "with": h.__enter__, "size": h.size, "addr": h.addr,
            "getbuffer": h.getbuffer, "copy": lambda: copy.copy(h), "pickle": lambda: pickle.dumps(h),
            "TextIOWrapper": lambda: io.TextIOWrapper(h, "utf-8"), "BufferedReader": lambda: io.BufferedReader(h),
            "BufferedWriter": lambda: io.BufferedWriter(h), **({"buffer": lambda: memoryview(h)} if IS_BUFFER else {}),
        }  # fmt: skip

    def test_closed_every_method_says_so(self, open_file):
        """ValueError in the words of the io module; only close and what the handle is called still work."""
        h = open_file(LINES)
        name = h.name
        h.close()
        for what, call in self.calls(h).items():
            with pytest.raises(ValueError, match=CLOSED) as caught:
                call()
            assert not isinstance(caught.value, OSError), what
        assert h.closed is True
        assert h.name == name
        assert h.mode == self.MODE
        assert "closed" in repr(h)
        assert repr(name) in repr(h)
        assert h.close() is None
        h.__exit__(None, None, None)
        assert h.closed is True

    def test_closed_past_the_end_and_methods_fetched_before(self, open_file):
        """The same from any position; a method that was fetched before the close gives no byte of the memory away."""
        h = at(open_file(LINES), len(LINES) + 5)
        h.close()
        for call in self.calls(h).values():
            with pytest.raises(ValueError, match=CLOSED):
                call()
        for view in (False, True):
            h = at(open_file(LINES), 2)
            alive = h.getbuffer() if view else None
            methods = [getattr(h, name) for name in ("read", "readall", "readline", "read1") if self.MODE != "wb"]
            methods.append(lambda write=h.write: write(b"x"))
            h.close()
            for method in methods:
                kind, value = outcome(method)
                assert kind == "ValueError" or not value, (method, value)
            assert alive is None or bytes(alive) == LINES

    def test_a_context_manager_that_closes(self, open_file):
        """It gives itself, closes on the way out with an error or without, and lets the error through."""
        h = open_file(LINES)
        with h as same:
            assert same is h
            h.close()
        h = open_file(LINES)
        with pytest.raises(KeyError), h:
            raise KeyError
        assert h.closed
        with pytest.raises(ValueError, match=CLOSED), h:
            pass

    def test_views_outlive_close(self, open_file, has_descriptor):
        """No error; the bytes stay, the handle and its descriptor are gone."""
        h = open_file(LINES)
        view = h.getbuffer()
        part = view[4:7]
        view.release()
        fd = h.fileno() if has_descriptor else None
        h.close()
        assert h.closed
        for call in self.calls(h).values():
            with pytest.raises(ValueError, match=CLOSED):
                call()
        if fd is not None:
            with pytest.raises(OSError, match=r"Bad file|[Ii]nvalid handle|handle is invalid"):
                os.fstat(fd)
        del h
        gc.collect()
        assert bytes(part) == b"two"
        if self.MODE != "rb":
            part[:] = b"TWO"
            assert bytes(part) == b"TWO"

    def test_the_collector_closes_without_a_word(self, make):
        """Also in a cycle, with an iterator and a view about; warnings are errors here."""
        h = make(LINES)
        fd = h.fileno() if self.HAS_DESCRIPTOR else None
        view = h.getbuffer()
        h.itself = h
        gone = weakref.ref(h)
        del h
        gc.collect()
        assert gone() is None
        assert bytes(view[:3]) == LINES[:3]
        if fd is not None:
            with pytest.raises(OSError, match=r"Bad file|[Ii]nvalid handle|handle is invalid"):
                os.fstat(fd)

    def test_flush_returns_none_and_moves_nothing(self, open_file):
        h = at(open_file(LINES), 7)
        assert h.flush() is None
        with h.getbuffer():
            h.flush()
        assert h.tell() == 7
        assert bytes(h.getbuffer()) == LINES

    def test_an_empty_face(self, open_file):
        """Nothing to read, no room to write, everything else as ever."""
        h = open_file(LINES)
        h.truncate(0)
        assert (h.size(), h.tell(), h.seek(0, 2)) == (0, 0, 0)
        assert h.getbuffer().nbytes == 0
        h.flush()
        if self.MODE != "wb":
            assert h.read() == h.readall() == h.readline() == h.read(5) == b""
            assert h.readlines() == list(h) == []
            assert h.readinto(bytearray(3)) == 0
        if self.MODE != "rb":
            assert h.write(b"") == 0
            with pytest.raises(OSError, match="space") as caught:
                h.write(b"x")
            assert caught.value.errno == errno.ENOSPC


class ReadContract(FileContract):
    """What a handle that reads promises."""

    SIZES = ((), (None,), (-1,), (-7,), (0,), (1,), (5,), (len(LINES),), (sys.maxsize,), (True,))

    @pytest.mark.parametrize("method", ["read", "read1", "readline"])
    def test_reading_takes_every_shape_of_size(self, open_file, method):
        """At the start, in the middle, at and past the end; compared with BytesIO."""
        h, model = open_file(LINES), io.BytesIO(LINES)
        for start in (0, 2, 3, 4, 8, 9, 300, len(LINES) - 1, len(LINES), len(LINES) + 3):
            for size in self.SIZES:
                got, wanted = getattr(at(h, start), method)(*size), getattr(at(model, start), method)(*size)
                assert type(got) is bytes
                assert (got, h.tell()) == (wanted, model.tell()), (start, size)
        assert getattr(at(h, 0), method)(Index(3)) == LINES[:3]
        assert getattr(at(h, 4), method)(Index(-1)) == getattr(at(model, 4), method)()

    @pytest.mark.parametrize("method", ["read", "read1", "readline", "readlines"])
    def test_reading_refuses_what_is_no_size(self, open_file, method):
        h = at(open_file(LINES), 2)
        for bad in [("1",), (1.5,), (b"",), ([],), (1, 1)]:
            with pytest.raises(TypeError):
                getattr(h, method)(*bad)
            assert h.tell() == 2, bad
        for huge in (1 << 64, -(1 << 64)):  # a file raises, a slice would not: either, but no other
            got = outcome(lambda: getattr(at(h, 2), method)(huge))  # noqa: B023
            assert got[0] in {"OverflowError", "value"}
            if got[0] == "OverflowError":
                assert h.tell() == 2

    def test_readall_reads_the_rest(self, open_file):
        h = open_file(LINES)
        assert at(h, 5).readall() == LINES[5:]
        assert h.readall() == h.read() == b""
        assert at(h, len(LINES) + 5).readall() == b""
        assert h.tell() == len(LINES) + 5

    def test_readinto_fills_any_writable_buffer(self, open_file):
        """Of any item format and shape; it gives the number of bytes and is short only at the end."""
        h = open_file(LINES)
        for method in (h.readinto, h.readinto1):
            for make in (
                lambda: bytearray(8), lambda: memoryview(bytearray(20))[4:12], lambda: array.array("I", [0, 0]),
                lambda: array.array("d", [0]), lambda: memoryview(bytearray(8)).cast("B", [2, 4]),
                lambda: memoryview(bytearray(8)).cast("H", [2, 2]), lambda: big_endian(2), ctypes.c_uint64,
                lambda: memoryview(bytearray(8)).cast("c"), lambda: bytearray(1), bytearray, lambda: structured(1),
            ):  # fmt: skip
                for start in (0, 3, len(LINES) - 3, len(LINES), len(LINES) + 3):
                    target = make()
                    size = memoryview(target).nbytes
                    wanted = LINES[start : start + size]
                    h.seek(start)
                    got = method(target)
                    assert type(got) is int
                    assert got == len(wanted)
                    assert h.tell() == start + len(wanted)
                    assert memoryview(target).tobytes() == wanted + bytes(size - len(wanted)), (make, start)

    def test_readinto_a_large_buffer(self, open_file):
        content = os.urandom(1 << 18)
        h = at(open_file(content), 3)
        target = bytearray(200_000)
        assert h.readinto(target) == 200_000
        assert target == content[3:200_003]
        assert h.readinto(target) == len(content) - 200_003
        assert target[: len(content) - 200_003] == content[200_003:]
        assert h.readinto(target) == 0
        assert h.tell() == len(content)

    def test_readinto_refuses_what_it_cannot_fill(self, open_file):
        """Read-only: TypeError; not contiguous: BufferError; and the position stays."""
        h = at(open_file(LINES), 2)
        strided = bytearray(range(20))
        for bad in (b"1234", memoryview(bytearray(4)).toreadonly(), "1234", None, 4, [0, 0], memoryview(b"1234")):
            with pytest.raises(TypeError):
                h.readinto(bad)
            assert h.tell() == 2
        for bad in (memoryview(strided)[::2], memoryview(strided)[::-1]):
            with pytest.raises((BufferError, ValueError)):
                h.readinto(bad)
            assert h.tell() == 2
        assert strided == bytearray(range(20))

    def test_a_buffer_is_let_go_of(self, open_file):
        """After `readinto`, failed or not, a bytearray can be resized again."""
        h = open_file(LINES)
        for size in (3, 100_000):
            target = bytearray(size)
            h.readinto(target)
            target.append(0)
        with pytest.raises(TypeError):
            h.readinto(bytes(target))
        target.append(0)

    def test_lines_are_those_of_a_file(self, open_file, real):
        """All ways to get lines, from several places, compared with a real file."""
        h, f = open_file(LINES), real(LINES)
        for start in (0, 3, 4, 8, 500, len(LINES), len(LINES) + 3):
            for how in (
                list, lambda f: f.readlines(), lambda f: f.readlines(None), lambda f: f.readlines(0),
                lambda f: f.readlines(-1), lambda f: f.readlines(1), lambda f: f.readlines(5),
                lambda f: f.readlines(10_000), lambda f: [f.readline(), f.readline(2), f.readline()],
                lambda f: [next(f, None), f.readline(), next(f, None)], lambda f: [next(iter(f), 0), next(iter(f), 0)],
            ):  # fmt: skip
                assert how(at(h, start)) == how(at(f, start)), start
                assert h.tell() == f.tell()

    @pytest.mark.parametrize("length", [1, 126, 127, 128, 129, 1023, 1024, 1025, 70_000])
    def test_lines_of_any_length(self, open_file, length):
        """Around every size at which an implementation may look further."""
        lines = [b"a" * (length - 1) + b"\n"] * 5 + [b"b" * (length - 1)]
        h = open_file(b"".join(lines))
        lines = [line for line in lines if line]
        assert list(h) == lines
        assert at(h, 0).readlines() == lines
        h.seek(0)
        assert [h.readline() for _ in lines] == lines
        assert h.readline() == b""
        h.seek(0)
        assert b"".join(h.readline(max(length - 1, 1)) for _ in range(20)) == b"".join(lines)

    @pytest.mark.parametrize(
        "step",
        [
            lambda f: f.tell(),
            lambda f: f.readline(),
            lambda f: f.read(3),
            lambda f: f.readline(2),
            lambda f: f.readinto(bytearray(7)),
            lambda f: f.readinto(bytearray(100_000)),
            lambda f: f.seek(2, 1),
            lambda f: f.seek(-1, 1),
            lambda f: f.seek(1, 0) and None if f.tell() == 4 else None,
            lambda f: f.seek(0, 2),
            lambda f: f.seek(100, 2) and None,
            lambda f: next(f, b""),
            lambda f: next(iter(f), b""),
            lambda f: [f.flush(), f.readable(), f.seek(0, 1), f.closed],
            lambda f: f.seek(f.tell()),
            lambda f: outcome(lambda: f.seek(-1)),
            lambda f: outcome(lambda: f.read("")),
        ],
        ids=range(17),
    )
    def test_lines_with_other_calls_between(self, open_file, real, step):
        """A `for` loop goes on where the handle stands, whatever its body did."""
        h, f = open_file(LINES), real(LINES)

        def loop(file):
            told = []
            for line in file:
                told += [line, step(file), file.tell()]
                if len(told) > 60:
                    break
            return told, file.tell(), file.read(4)

        assert loop(h) == loop(f)

    def test_lines_when_the_descriptor_is_asked_for_in_mid_loop(self, open_file, has_descriptor):
        """The loop goes on, its position in step with the descriptor's."""
        if not has_descriptor:
            return
        h = open_file(LINES)
        told = []
        for line in h:
            told.append(line)
            assert os.lseek(h.fileno(), 0, os.SEEK_CUR) == h.tell() == sum(map(len, told))
        assert told == LINES.splitlines(keepends=True)
        assert os.lseek(h.fileno(), 0, os.SEEK_CUR) == len(LINES)

    def test_lines_follow_the_descriptor_in_mid_loop(self, open_file, has_descriptor):
        """What is read through the descriptor is not iterated again; what is iterated moves the descriptor."""
        if not has_descriptor:
            return
        h = open_file(b"one\ntwo\nthree\nfour\n")
        lines = iter(h)
        assert next(lines) == b"one\n"
        fd = h.fileno()
        assert os.read(fd, 4) == b"two\n"
        assert next(lines) == b"three\n"
        assert os.read(fd, 5) == b"four\n"

    def test_every_loop_under_way_follows_the_descriptor(self, open_file, has_descriptor):
        """Not only the one that was begun last; and they all take lines from the one position."""
        if not has_descriptor:
            return
        h = open_file(b"one\ntwo\nthree\nfour\nfive\nsix\nseven\n")
        first, second, third = iter(h), iter(h), iter(h)
        assert [next(first), next(third)] == [b"one\n", b"two\n"]
        fd = h.fileno()
        assert os.read(fd, 6) == b"three\n"
        assert next(first) == b"four\n"
        assert os.read(fd, 5) == b"five\n"
        assert next(second) == b"six\n"
        assert os.read(fd, 6) == b"seven\n"
        assert list(third) == list(first) == []

    def test_every_loop_under_way_ends_where_the_handle_was_narrowed(self, open_file):
        """Loops within loops, begun before and after; and there again after going back."""
        h = open_file(b"one\ntwo\nthree\nfour\nfive\nsix\n")
        first, second = iter(h), iter(h)
        assert [next(first), next(second)] == [b"one\n", b"two\n"]
        h.truncate(20)
        third = iter(h)
        assert [next(first), next(third), next(second)] == [b"three\n", b"four\n", b"f"]
        assert list(first) == list(second) == list(third) == []
        h.seek(14)
        assert list(h) == [b"four\n", b"f"]

    def test_lines_when_narrowed_in_mid_loop(self, open_file):
        """The loop ends at the new end, not before and not after."""
        h = open_file(b"one\ntwo\nthree\nfour\nfive\n")
        told = []
        for line in h:
            told.append(line)
            if len(told) == 2:
                h.truncate(16)
        assert told == [b"one\n", b"two\n", b"three\n", b"fo"]
        assert h.tell() == 16

    def test_lines_after_close_in_mid_loop(self, open_file):
        """The loop does not go on with memory of a closed handle: ValueError, as from a file."""
        h = open_file(LINES)
        lines = iter(h)
        assert next(lines) == b"one\n"
        h.close()
        with pytest.raises(ValueError):
            next(lines)

    def test_a_loop_may_be_left_and_begun_again(self, open_file):
        h = open_file(LINES)
        told = []
        for _ in range(2):
            for line in h:
                told.append(line)
                break
        assert told == [b"one\n", b"two\n"]
        assert b"".join(h) == LINES[8:]
        assert list(h) == []
        h.seek(0)
        assert b"".join(h) == LINES

    def test_a_handle_without_a_variable_reads(self, make):
        """`opener().read()` and `for line in opener():` do not lose the memory under way."""
        assert make(LINES).read() == LINES
        assert make(LINES).readall() == LINES
        assert make(LINES).readline() == b"one\n"
        assert make(LINES).read(3) == b"one"
        assert make(LINES).readlines() == LINES.splitlines(keepends=True)
        assert list(make(LINES)) == LINES.splitlines(keepends=True)
        told = []
        for line in make(LINES):
            gc.collect()
            told.append(line)
        assert b"".join(told) == LINES
        assert bytes(make(LINES).getbuffer()) == LINES
        target = bytearray(len(LINES))
        assert make(LINES).readinto(target) == len(LINES)
        assert io.BufferedReader(make(LINES)).read() == LINES
        assert io.TextIOWrapper(make(LINES), "ascii").read() == LINES.decode()
        lines = iter(make(LINES))
        gc.collect()
        assert next(lines) == b"one\n"
        assert b"".join(lines) == LINES[4:]

    @pytest.mark.parametrize("size", [1, 7, 100, 8192])
    def test_a_buffered_reader_over_it_is_one_over_a_file(self, open_file, real, size):
        def use(raw):
            f = io.BufferedReader(raw, size)
            told = [f.peek(1)[:1], f.read(2), f.tell(), f.readline(), f.read1(4), f.readline(2), f.seek(-3, 1)]
            target = bytearray(9)
            told += [f.readinto(target), bytes(target), f.tell(), f.seek(5), f.read(300), f.seek(0, 2), f.read()]
            told += [f.seek(4), f.readlines(), f.seek(10_000), f.read(1), f.seek(3), f.raw is raw]
            told += [f.read(2), f.detach() is raw]
            return told

        assert use(open_file(LINES)) == use(real(LINES))

    @pytest.mark.parametrize("buffered", [False, True])
    @pytest.mark.parametrize("newline", [None, "", "\r\n"])
    def test_text_over_it_is_text_over_a_file(self, open_file, real, newline, buffered):
        """TextIOWrapper directly over the handle, and over a buffer between."""
        content = "één\r\ntwee\nd\rie\n".encode() * 1500 + b"end"

        def use(raw, buffered):
            f = io.TextIOWrapper(io.BufferedReader(raw) if buffered else raw, "utf-8", newline=newline)
            told = [f.readline(), f.tell() > 0, f.read(3), f.readline(4)]
            mark = f.tell()
            told += [f.read(20), f.seek(mark) == mark, f.read(20), f.read()]
            told += [f.seek(0), list(f), f.read(), f.seek(0, 2) > 0, f.read(1), f.seek(0), f.readlines(50)]
            f.close()
            return [*told, raw.closed]

        assert use(open_file(content), buffered) == use(real(content), buffered=True)

    def test_two_handles_have_two_positions(self, open_file):
        h = open_file(LINES)
        with copy.copy(h) as other:
            h.seek(4)
            assert other.read(3) == b"one"
            assert h.read(3) == b"two"


class WriteContract(FileContract):
    """What a handle that writes promises."""

    @staticmethod
    def content(h):
        with h.getbuffer() as view:
            return bytes(view)

    def test_write_takes_any_contiguous_buffer(self, open_file):
        """Of any item format and shape; it writes all of it and gives its size in bytes."""
        big, record = big_endian(2), structured(1)
        big[:] = [1, 0x01020304]
        record[0].b = 1.5
        for data in (
            b"bytes", b"", bytearray(b"bytearray"), memoryview(b"0123456789")[3:7], array.array("I", [1, 2, 3]),
            array.array("d", [0.5]), memoryview(b"12345678").cast("B", [2, 4]),
            memoryview(b"12345678").cast("H", [2, 2]), memoryview(b"1234").cast("b"), memoryview(b"1234").cast("c"),
            big, record, ctypes.c_uint64(1 << 40),
            memoryview(b"12345678").cast("B", [2, 2, 2]),
        ):  # fmt: skip
            raw = memoryview(data).tobytes()
            for start in (0, 3, 64 - len(raw)):
                h = at(open_file(bytes(64)), start)
                got = h.write(data)
                assert type(got) is int
                assert got == len(raw)
                assert h.tell() == start + len(raw)
                assert self.content(h) == bytes(start) + raw + bytes(64 - start - len(raw))

    def test_write_that_does_not_fit_changes_nothing(self, open_file):
        """OSError(ENOSPC) with the name, all or nothing, at, before and past the end."""
        h = open_file(LINES)
        end = len(LINES)
        for start, size in [
            (end, 1),
            (end - 1, 2),
            (end + 1, 1),
            (0, end + 1),
            (end + 1000, 5),
            (5, 1 << 17),
            (1 << 40, 1),
        ]:
            h.seek(start)
            with pytest.raises(OSError, match="space") as caught:
                h.write(b"#" * size)
            assert caught.value.errno == errno.ENOSPC
            assert caught.value.filename == h.name
            assert not isinstance(caught.value, ValueError)
            assert h.tell() == start
            assert h.write(b"") == h.write(bytearray()) == 0
            assert h.tell() == start
        assert self.content(h) == LINES
        assert at(h, end - 2).write(b"ab") == 2
        assert self.content(h) == LINES[:-2] + b"ab"

    def test_write_stops_at_a_narrowed_end(self, make):
        """What lies beyond is another handle's."""
        h = make(LINES + TAIL)
        whole = h.getbuffer()
        h.truncate(len(LINES))
        for position, data in [(len(LINES), b"x"), (len(LINES) - 1, b"xy"), (len(LINES) + 3, b"x"), (0, LINES + b"x")]:
            with pytest.raises(OSError, match="space"):
                at(h, position).write(data)
        at(h, len(LINES) - 1).write(b"!")
        assert bytes(whole) == LINES[:-1] + b"!" + TAIL

    def test_write_refuses_what_is_no_buffer(self, open_file):
        """TypeError for text and the like, BufferError for what is not contiguous; nothing changes."""
        h = at(open_file(LINES), 2)
        for bad in ("str", "", None, 5, [1], io.BytesIO(b"x"), 1.5, ("a",)):
            with pytest.raises(TypeError):
                h.write(bad)
            assert h.tell() == 2
        for bad in (memoryview(b"0123456789")[::2], memoryview(b"0123456789")[::-1]):
            with pytest.raises((BufferError, ValueError, TypeError)) as caught:
                h.write(bad)
            assert not isinstance(caught.value, OSError)
            assert h.tell() == 2
        for bad in ((), (b"", b"")):
            with pytest.raises(TypeError):
                h.write(*bad)
        assert self.content(h) == LINES

    def test_a_source_is_let_go_of(self, open_file):
        """After `write`, also while its error is handled, a bytearray can be resized."""
        h = open_file(bytes(10))
        source = bytearray(b"12345")
        h.write(source)
        source.append(0)
        try:
            h.write(source)
        except OSError:
            source.append(0)
        else:
            raise AssertionError

    def test_writelines_writes_each(self, open_file):
        h = at(open_file(bytes(12)), 1)
        assert h.writelines([b"one\n", bytearray(b"two\n"), memoryview(b"x")]) is None
        assert h.writelines(iter([])) is None
        assert h.tell() == 10
        assert self.content(h) == b"\0one\ntwo\nx\0\0"
        with pytest.raises(TypeError):
            h.writelines(["text"])
        with pytest.raises(OSError, match="space"):
            h.writelines([b"ab", b"c"])
        assert self.content(h) == b"\0one\ntwo\nxab"

    def test_written_bytes_are_in_the_memory_at_once(self, open_file):
        """A view sees each write; the handle sees what is stored through a view."""
        h = open_file(bytes(100))
        view = h.getbuffer()
        for n in range(1, 100):
            h.write(bytes([n]))
            assert view[n - 1] == n
        h.seek(50)
        h.write(b"z" * 50)
        assert bytes(view[50:]) == b"z" * 50
        assert ctypes.string_at(h.addr(), 100) == bytes(view)

    @pytest.mark.parametrize("size", [16, 4096, 1 << 20])
    @pytest.mark.parametrize("shift", [-64, -9, -1, 1, 9, 64])
    def test_writing_its_own_memory(self, make, size, shift):
        """Where source and destination overlap, the source as it was is what gets written."""
        content = os.urandom(size + 128)
        h = make(content)
        view = h.getbuffer()
        h.seek(64 + shift)
        assert h.write(view[64 : 64 + size]) == size
        wanted = bytearray(content)
        wanted[64 + shift : 64 + shift + size] = content[64 : 64 + size]
        assert bytes(view) == wanted

    def test_copyfileobj_never_loses_data_silently(self, open_file):
        h = open_file(bytes(100))
        shutil.copyfileobj(io.BytesIO(LINES[:100]), h, 7)
        assert self.content(h) == LINES[:100]
        h.seek(1)
        with pytest.raises(OSError, match="space"):
            shutil.copyfileobj(io.BytesIO(LINES[:100]), h)

    @pytest.mark.parametrize("size", [1, 7, 8192])
    def test_a_buffered_writer_over_it_is_one_over_a_file(self, open_file, real, size):
        def use(raw):
            f = io.BufferedWriter(raw, size)
            told = [f.write(b"hello"), f.tell(), f.seek(3), f.write(b"p, world"), f.flush(), raw.tell()]
            told += [f.write(b"x" * 20), f.seek(-2, 1), f.write(b"yz"), f.seek(-5, 2), f.write(b"last!"), f.flush()]
            return [*told, f.detach().tell()]

        h, f = open_file(bytes(1000)), real(bytes(1000))
        assert use(h) == use(f)
        assert self.content(h) == f.path.read_bytes()

    def test_a_buffered_writer_reports_what_does_not_fit(self, open_file):
        """At the latest when flushed; what fitted before is there."""
        h = open_file(bytes(10))
        f = io.BufferedWriter(h, 4)
        f.write(b"12345")
        f.flush()
        f.write(b"6789")
        f.flush()
        f.write(b"0#")
        with pytest.raises(OSError, match="space"):
            f.flush()
        assert self.content(h) == b"123456789\0"
        with pytest.raises(OSError, match="space"):
            f.close()
        assert h.closed

    @pytest.mark.parametrize("newline", [None, "\r\n"])
    def test_text_written_over_it_is_text_written_over_a_file(self, open_file, real, newline):
        def use(raw, buffer):
            f = io.TextIOWrapper(buffer(raw), "utf-8", newline=newline)
            told = [f.write("één\n"), f.flush(), f.tell(), f.write("twee\n" * 2000), f.seek(2), f.write("é"), f.flush()]
            print("printed", file=f)
            f.flush()
            told += [f.tell(), f.line_buffering]
            f.close()
            return told

        h, f = open_file(bytes(20_000)), real(bytes(20_000))
        view = h.getbuffer()
        assert use(h, lambda raw: raw) == use(f, io.BufferedWriter)
        assert bytes(view) == f.path.read_bytes()


class ReadWriteContract(ReadContract, WriteContract):
    """What a handle that does both promises besides."""

    def test_reads_see_writes_and_share_their_position(self, open_file):
        h = open_file(bytes(20))
        h.write(b"hello\nworld\n")
        assert h.read(1) == b"\0"
        assert at(h, 3).readline() == b"lo\n"
        h.write(b"W")
        assert at(h, 0).read() == b"hello\nWorld\n" + bytes(8)
        lines = []
        for line in at(h, 0):
            lines.append(line)
            if len(lines) == 1:
                h.write(b"x\n")  # at the position, in front of the loop
        assert lines == [b"hello\n", b"rld\n", bytes(8)]
        assert self.content(h) == b"hello\nx\nrld\n" + bytes(8)

    def test_lines_are_looked_up_when_they_are_asked_for(self, open_file):
        """A loop sees what was stored after it began."""
        h = open_file(b"one\ntwo\nthree\n")
        view = h.getbuffer()
        lines = iter(h)
        assert next(lines) == b"one\n"
        view[4:7] = b"2\n\n"
        assert [*lines] == [b"2\n", b"\n", b"\n", b"three\n"]

    @pytest.mark.parametrize("size", [1, 7, 8192])
    def test_a_buffered_random_over_it_is_one_over_a_file(self, open_file, real, size):
        def use(raw):
            f = io.BufferedRandom(raw, size)
            told = [f.read(3), f.write(b"ABC"), f.tell(), f.read(2), f.seek(-4, 1), f.readline(), f.write(b"--")]
            told += [f.flush(), raw.tell(), f.seek(0), f.read(30), f.seek(-9, 2), f.write(b"the end"), f.read()]
            told += [
                f.seek(20),
                f.write(b"\n"),
                f.readline(),
                f.peek(1)[:1],
                f.seek(5),
                f.write(b"z"),
                f.seek(0),
                f.read(),
            ]
            told += [f.seek(10), f.truncate(), f.seek(0, 2), f.seek(0), f.read(), f.detach() is raw]
            return told

        assert use(open_file(LINES)) == use(real(LINES))

    def test_text_read_and_written_over_it(self, open_file, real):
        def use(raw, buffer):
            f = io.TextIOWrapper(buffer(raw), "utf-8", newline="\n")
            told = [
                f.readline(),
                f.seek(f.tell()),
                f.write("2\n\n\n"),
                f.flush(),
                f.readline()[:1],
                f.seek(0),
                f.read(),
            ]
            f.close()
            return told

        assert use(open_file(LINES), lambda raw: raw) == use(real(LINES), io.BufferedRandom)

    def test_pairs_of_buffers(self, open_file):
        h = open_file(LINES)
        with copy.copy(h) as other:
            f = io.BufferedRWPair(h, other)
            assert f.read(3) == b"one"
            f.write(b"ONE")
            f.flush()
            assert at(h, 0).read(3) == b"ONE"
            f.close()
            assert h.closed
