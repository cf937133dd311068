"""Strings and buffers as read-only files."""

from __future__ import annotations

import array
import copy
import ctypes
import gc
import io
import tracemalloc

import file_contract
import pytest
from file_contract import COPIED, FRESH, IS_BUFFER, NARROWED, RETURNED, big_endian, structured

from ipcio import shm, strfile


class StringContract(file_contract.ReadContract):
    MODE = "rb"
    HAS_DESCRIPTOR = False

    @pytest.fixture(params=[FRESH, NARROWED, RETURNED, COPIED])
    def state(self, request):
        return request.param


class TestBytes(StringContract):
    @pytest.fixture
    def make(self):
        return strfile.open


class TestBytearray(StringContract):
    @pytest.fixture
    def make(self):
        return lambda content: strfile.open(bytearray(content))


class TestHandle(StringContract):
    @pytest.fixture(params=[FRESH, NARROWED])
    def state(self, request):
        return request.param

    @pytest.fixture
    def make(self):
        return lambda content: strfile.open(strfile.open(bytearray(content)))


# -- what it opens


def test_str_is_read_as_utf_8():
    for text in ("", "one\ntwo", "één €\U0001f600\n", "\0\n\0", "\r\n"):
        with strfile.open(text) as h:
            assert h.read() == text.encode()
            assert h.size() == len(text.encode())
            h.seek(0)
            assert h.readlines() == io.BytesIO(text.encode()).readlines()

    class Text(str):
        __slots__ = ()

    assert strfile.open(Text("é")).read() == b"\xc3\xa9"


def test_any_contiguous_buffer_is_read_as_its_bytes():
    """Whatever the items and the shape, in the order of the memory."""
    big, records = big_endian(3), structured(2)
    big[:] = [1, 2, 1 << 30]
    records[1].b = 2.5

    class Bytes(bytes):
        __slots__ = ()

    for data in (
        b"", b"bytes", bytearray(), bytearray(b"x"), Bytes(b"sub"), memoryview(b"0123456789")[2:5],
        array.array("d", [1.5, 2]), array.array("i"), big, records, ctypes.c_int(5),
        ctypes.create_string_buffer(b"c", 10),
        memoryview(bytes(range(24))).cast("B", [2, 3, 4]), memoryview(bytes(8)).cast("H", [2, 2]),
        memoryview(bytes(range(24))).cast("b"), memoryview(b"abc").cast("c"), memoryview(b"abcd").cast("?"),
        memoryview(b""), memoryview(bytes(8)).cast("d", ()),
    ):  # fmt: skip
        raw = memoryview(data).tobytes()
        with strfile.open(data) as h:
            assert h.size() == len(raw)
            assert h.read() == raw
            assert h.mode == "rb"
            with h.getbuffer() as view:
                assert (view.readonly, view.format, view.ndim) == (True, "B", 1)
                assert view == raw
            h.seek(0)
            assert list(h) == list(io.BytesIO(raw))


def test_what_is_no_buffer_is_refused():
    for bad in (None, 5, 1.5, [1], {}, object(), io.BytesIO(b"x"), open, (b"x",)):
        with pytest.raises(TypeError):
            strfile.open(bad)
    with pytest.raises(TypeError):
        strfile.open()
    with pytest.raises(ValueError):
        strfile.open("\ud800")
    released = memoryview(b"x")
    released.release()
    with pytest.raises(ValueError):
        strfile.open(released)


def test_what_is_not_contiguous_is_refused():
    for bad in (memoryview(b"0123456789")[::2], memoryview(b"0123456789")[::-1]):
        with pytest.raises((BufferError, ValueError, TypeError)):
            strfile.open(bad)


def test_a_refused_buffer_is_let_go_of():
    data = bytearray(10)
    try:
        strfile.open(memoryview(data)[::2])
    except (BufferError, ValueError, TypeError):
        pass
    gc.collect()
    data.append(1)


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_another_handle_is_a_buffer(name, mode):
    """Of what it shows now; it may be closed afterwards."""
    with shm.create(name, 20) as h:
        h.write(b"one\ntwo\nthree")
        with shm.attach(name, mode) as other:
            other.seek(4)
            other.truncate(8)
            copied = strfile.open(other)
            assert other.tell() == 4
        assert (copied.tell(), copied.size()) == (0, 8)
        assert copied.readlines() == [b"one\n", b"two\n"]
        h.seek(0)
        h.write(b"1\n")
        copied.seek(0)
        assert copied.readlines() == [b"1\n", b"e\n", b"two\n"]
        copied.close()
        with pytest.raises(ValueError, match="closed"):
            strfile.open(other)


# -- without a copy


def test_what_the_owner_changes_the_reader_sees():
    for wrap in (
        lambda data: data,
        memoryview,
        lambda data: memoryview(data).cast("b"),
        lambda data: memoryview(data).toreadonly(),
    ):
        data = bytearray(b"one\ntwo\nthree\n")
        h = strfile.open(wrap(data))
        assert h.readline() == b"one\n"
        data[4:7] = b"2\n2"
        assert h.readline() == b"2\n"
        h.seek(0)
        data[:] = b"x" * 13 + b"\n"
        assert h.read() == b"x" * 13 + b"\n"


@pytest.mark.parametrize("narrow", [False, True])
def test_what_the_owner_changes_in_the_middle_of_a_loop_is_seen(narrow):
    """Each line is looked for when it is asked for."""
    data = bytearray(b"one\ntwo\nthree\nfour\n" + b"z" * 400 + b"\n")
    h = strfile.open(data)
    if narrow:
        h.truncate(420)
    told = []
    for line in h:
        told.append(line)
        if len(told) == 1:
            data[4:7] = b"\n\n\n"
        if len(told) == 6:
            data[19:21] = b"!\n"
    assert told[:6] == [b"one\n", b"\n", b"\n", b"\n", b"\n", b"three\n"]
    assert told[6:8] == [b"four\n", b"!\n"]
    assert told[8] == b"z" * 398 + b"\n"


def test_opening_64_mib_copies_nothing():
    """Neither for `bytes` nor for any buffer; nor do views and small reads."""
    huge = bytes(1 << 26)
    for data in (
        huge,
        bytearray(huge),
        memoryview(huge),
        memoryview(huge).cast("d"),
        memoryview(huge).cast("B", [1 << 13, 1 << 13]),
    ):
        tracemalloc.start()
        try:
            h = strfile.open(data)
            h.seek(1 << 20)
            h.read(10)
            h.readline(100)
            h.getbuffer().release()
            h.truncate(1 << 25)
            h.seek(-5, 2)
            h.readinto(bytearray(10))
            with strfile.open(h) as again:
                again.read(10)
            h.close()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20, type(data)


def test_the_buffer_is_the_owner_s_again_after_close():
    """Resizable at once, though the closed handle is still about; and the memory is not kept."""
    for deed in ("close", "narrow", "collect", "iterate"):
        data = bytearray(b"one\ntwo\n")
        h = strfile.open(data)
        with pytest.raises(BufferError):
            data.append(1)
        if deed == "narrow":
            h.truncate(4)
        if deed == "iterate":
            assert list(h) == [b"one\n", b"two\n"]
        if deed == "collect":
            del h
        else:
            h.close()
        data.append(1)
        assert len(data) == 9


def test_it_is_read_only_for_everyone():
    """Not even over a writable buffer is there a way to write."""
    data = bytearray(b"one\n")
    with strfile.open(data) as h:
        assert h.writable() is False
        with pytest.raises(io.UnsupportedOperation):
            h.write(b"x")
        view = h.getbuffer()
        with pytest.raises(TypeError):
            view[0] = 0
        if IS_BUFFER:
            with pytest.raises((TypeError, BufferError)):
                ctypes.c_char.from_buffer(h)
        view.release()
    assert data == b"one\n"


def test_a_copy_is_by_value():
    """`copy` and `pickle` take the bytes as they are then."""
    data = bytearray(b"one\ntwo\n")
    with strfile.open(data) as h:
        h.seek(4)
        other = copy.copy(h)
        deep = copy.deepcopy(h)
        data[4:7] = b"TWO"
        assert h.read() == b"TWO\n"
        assert other.read() == deep.read() == b"two\n"
        assert (other.mode, other.size()) == ("rb", 8)


def test_names_tell_what_it_is():
    with strfile.open("x") as h:
        assert "strfile" in h.name
        assert "strfile" in repr(h)
