"""Third-party consumers of file objects, given handles; see `test_consumers`."""

from __future__ import annotations

import contextlib
import io
import sys

import pytest

pytest_plugins = ["handles"]

ROOM = 400_000  # more than any of the writers here needs


def written(h):
    """What was written from the start to the position, as a file cut there would hold it."""
    h.truncate()
    h.seek(0)
    return h.read()


@pytest.fixture(scope="session")
def np():
    return pytest.importorskip("numpy")


@pytest.fixture(scope="session")
def pd():
    return pytest.importorskip("pandas")


@pytest.fixture(scope="session")
def pa():
    """Also start what pyarrow starts once and keeps: its threads, the pipe that its signal handler writes to."""
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.csv").read_csv(io.BytesIO(b"a\n1\n"))
    return pa


# -- numpy ---------------------------------------------------------------


def test_numpy_fromfile(np, source_fd):
    """Through the descriptor: from the position on, which moves along."""
    numbers = np.arange(1000, dtype="<f8")
    h = source_fd(numbers.tobytes())
    h.seek(80)
    assert (np.fromfile(h, "<f8", 10) == numbers[10:20]).all()
    assert h.tell() == 160
    assert (np.fromfile(h, "<f8", 10, offset=8) == numbers[21:31]).all()
    assert h.tell() == 248
    assert (np.fromfile(h, "<f8") == numbers[31:]).all()
    assert h.read() == b""


def test_numpy_tofile(np, target_fd):
    numbers = np.arange(1000, dtype="<i4")
    h = target_fd(ROOM)
    h.write(b"head")
    numbers.tofile(h)
    assert h.tell() == 4004
    h.write(b"tail")
    assert written(h) == b"head" + numbers.tobytes() + b"tail"


def test_numpy_arrays_over_memory(np, target):
    h = target(800)
    numbers = np.frombuffer(h.getbuffer(), dtype="<f8")
    assert numbers.__array_interface__["data"] == (h.addr(), False)
    numbers[:] = range(100)
    h.seek(792)
    assert h.read() == np.float64(99).tobytes()
    h.seek(0)
    h.write(np.float64(-1))
    assert numbers[0] == -1
    table = np.ndarray((10, 10), "<f8", h.getbuffer())
    assert table[0, 1] == 1
    h.close()
    assert table[9, 9] == 99  # the memory stays until the last view is gone


def test_numpy_arrays_over_read_only_memory(np, source):
    numbers = np.frombuffer(source(bytes(range(8))).getbuffer(), dtype="<u2")
    assert numbers.tolist() == [0x100, 0x302, 0x504, 0x706]


if sys.version_info >= (3, 12):

    def test_numpy_frombuffer_takes_the_handle(np, target):
        h = target(800)
        numbers = np.frombuffer(h, dtype="<f8")
        assert numbers.__array_interface__["data"] == (h.addr(), False)
        assert numbers.flags.writeable

    def test_numpy_frombuffer_of_a_reader(np, source):
        h = source(bytes(range(8)))
        assert np.frombuffer(h, dtype="u1").tolist() == list(range(8))
        assert np.frombuffer(h, dtype="u1").flags.writeable == h.writable()


@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_writes_any_contiguous_array(order, np, target):
    table = np.arange(12, dtype=">i4").reshape(3, 4, order=order)
    if order == "C":
        h = target(48)
        assert h.write(table) == 48
        h.seek(0)
        again = np.empty_like(table)
        assert h.readinto(again) == 48
        assert (again == table).all()
    records = np.array([(1, 2.5), (3, 4.5)], dtype=[("a", ">i2"), ("b", "<f8")])
    h = target(20)
    assert h.write(records) == 20
    h.seek(0)
    again = np.empty_like(records)
    assert h.readinto(again) == 20
    assert (again == records).all()


def test_numpy_save_and_load(np, target):
    table = np.arange(60, dtype=">c8").reshape(3, 20)
    real, h = io.BytesIO(), target(ROOM)
    for file in real, h:
        np.save(file, table)
        np.save(file, table[:, ::2])
    assert written(h) == real.getvalue()
    h.seek(0)
    assert (np.load(h) == table).all()
    assert (np.load(h) == table[:, ::2]).all()


def test_numpy_load(np, source):
    table = np.arange(60).reshape(3, 20)
    real = io.BytesIO()
    np.save(real, table)
    assert (np.load(source(real.getvalue())) == table).all()


def test_numpy_savez(np, source, target):
    real, h = io.BytesIO(), target(ROOM)
    for file in real, h:
        np.savez_compressed(file, a=np.arange(5), b=np.eye(3))
    real.seek(0)
    with np.load(source(written(h))) as found, np.load(real) as expected:
        assert sorted(found) == sorted(expected) == ["a", "b"]
        assert (found["b"] == expected["b"]).all()


def test_numpy_text(np, source, target):
    table = np.arange(6.0).reshape(2, 3)
    real, h = io.BytesIO(), target(ROOM)
    for file in real, h:
        np.savetxt(file, table)
    data = written(h)
    assert data == real.getvalue()
    assert (np.loadtxt(source(data)) == table).all()
    assert (np.genfromtxt(source(data)) == table).all()


# -- pandas --------------------------------------------------------------


def test_pandas_csv(pd, source, target):
    frame = pd.DataFrame({"a": [1, 2, 3], "b": ["x", "ü", "z,"]})
    real, h = io.BytesIO(), target(ROOM)
    for file in real, h:
        frame.to_csv(file, index=False)
    data = written(h)
    assert data == real.getvalue()
    for engine in "c", "python":
        pd.testing.assert_frame_equal(pd.read_csv(source(data), engine=engine), frame)
    parts = pd.read_csv(source(data), chunksize=2)
    pd.testing.assert_frame_equal(pd.concat(parts), frame)


def test_pandas_compressed_csv(pd, source, target):
    frame = pd.DataFrame({"a": range(100)})
    h = target(ROOM)
    frame.to_csv(h, index=False, compression="gzip")
    pd.testing.assert_frame_equal(pd.read_csv(source(written(h)), compression="gzip"), frame)


def test_pandas_pickle_and_json(pd, source, target):
    frame = pd.DataFrame({"a": [1.5, 2.5], "b": [1, 2]})
    h = target(ROOM)
    frame.to_pickle(h)
    pd.testing.assert_frame_equal(pd.read_pickle(source(written(h))), frame)
    h = target(ROOM)
    frame.to_json(h)
    pd.testing.assert_frame_equal(pd.read_json(source(written(h))), frame)


@pytest.mark.usefixtures("pa")
def test_pandas_parquet(pd, source, target):
    frame = pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]})
    h = target(ROOM)
    frame.to_parquet(h)
    data = written(h)
    pd.testing.assert_frame_equal(pd.read_parquet(source(data)), frame)
    pd.testing.assert_frame_equal(pd.read_parquet(source(data), columns=["b"]), frame[["b"]])


# -- pyarrow -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_pyarrow_ipc(kind, pa, source, target):
    table = pa.table({"a": list(range(1000)), "b": ["x"] * 1000})
    new, reopen = {
        "file": (pa.ipc.new_file, pa.ipc.open_file),
        "stream": (pa.ipc.new_stream, pa.ipc.open_stream),
    }[kind]
    real, h = io.BytesIO(), target(ROOM)
    for file in real, h:
        with new(file, table.schema) as writer:
            writer.write_table(table)
    data = written(h)
    assert data == real.getvalue()
    with contextlib.closing(pa.PythonFile(source(data), "r")) as file:
        assert reopen(file).read_all() == table
    assert reopen(source(data)).read_all() == table


def test_pyarrow_tables_without_a_copy(pa, target):
    """An Arrow file in shared memory is used where it lies."""
    table = pa.table({"a": list(range(1000))})
    h = target(ROOM)
    with pa.ipc.new_file(h, table.schema) as writer:
        writer.write_table(table)
    h.truncate()
    buffer = pa.py_buffer(h.getbuffer())
    assert (buffer.address, buffer.size) == (h.addr(), h.size())
    again = pa.ipc.open_file(buffer).read_all()
    values = again["a"].chunk(0).buffers()[1]
    assert h.addr() <= values.address < h.addr() + h.size()
    assert again == table


if sys.version_info >= (3, 12):

    def test_pyarrow_takes_the_handle_as_a_buffer(pa, source):
        h = source(b"content")
        buffer = pa.py_buffer(h)
        assert buffer.address == h.addr()
        assert buffer.to_pybytes() == b"content"
        assert buffer.is_mutable == h.writable()


def test_pyarrow_parquet(pa, source, target):
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"a": list(range(1000)), "b": ["x"] * 1000})
    real, h = io.BytesIO(), target(ROOM)
    for file in real, h:
        pq.write_table(table, file)
    data = written(h)
    assert data == real.getvalue()
    assert pq.read_table(source(data)) == table
    assert pq.ParquetFile(source(data)).metadata.num_rows == 1000


@pytest.mark.usefixtures("pa")
def test_pyarrow_csv(source):
    csv = pytest.importorskip("pyarrow.csv")
    assert csv.read_csv(source(b"a,b\n1,x\n2,y\n")).to_pydict() == {"a": [1, 2], "b": ["x", "y"]}


# -- Pillow --------------------------------------------------------------

FORMATS = {
    "PNG": {},
    "BMP": {},
    "PPM": {},
    "TIFF": {},
    "GIF": {},
    "JPEG": {},
    "JPEG-progressive": {"progressive": True, "quality": 95},
    "TGA": {},
    "WEBP": {"lossless": True},
    "PCX": {},
    "ICO": {"sizes": [(16, 16)]},
}
# Left out of the writers: PDF and TIFF of several pages first look at what the file
# holds already, and libtiff begins at the end of the file.  A real file of the
# size given is no different; save those into `io.BytesIO` and `write` its buffer.
READ_ONLY_FORMATS = {"TIFF-lzw": {"compression": "tiff_lzw"}}


@pytest.fixture(scope="session")
def image():
    return pytest.importorskip("PIL.Image")


@pytest.fixture
def picture(image):
    pixels = [(x * 4, y * 5, x * y % 256) for y in range(48) for x in range(64)]
    return image.frombytes("RGB", (64, 48), b"".join(map(bytes, pixels)))


@pytest.mark.parametrize("form", FORMATS)
def test_pillow_saves(form, picture, target, tmp_path):
    """Several encoders write through the descriptor, some in turns with `write`."""
    h = target(ROOM)
    with open(tmp_path / "real", "wb+") as real:
        for file in real, h:
            picture.save(file, form.partition("-")[0], **FORMATS[form])
        end = real.tell()
        real.seek(0)
        expected = real.read()
    assert h.tell() == end
    h.seek(0)
    assert h.read(len(expected)) == expected
    assert not h.read().strip(b"\0")


@pytest.mark.parametrize("form", [*FORMATS, *READ_ONLY_FORMATS])
def test_pillow_opens(form, image, picture, source):
    real = io.BytesIO()
    picture.save(real, form.partition("-")[0], **{**FORMATS, **READ_ONLY_FORMATS}[form])
    with image.open(real) as expected, image.open(source(real.getvalue())) as found:
        assert found.format == expected.format
        assert found.tobytes() == expected.tobytes()


def test_pillow_animated_gif(image, picture, source, target, tmp_path):
    frames = [picture.rotate(angle).quantize(32) for angle in (0, 90, 180)]
    h = target(ROOM)
    with open(tmp_path / "real", "wb+") as real:
        for file in real, h:
            frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=50, loop=0)
        real.seek(0)
        expected = real.read()
    data = written(h)
    assert data == expected
    with image.open(source(data)) as found:
        assert found.n_frames == 3
        found.seek(2)
        found.seek(0)
        found.seek(1)
        assert found.convert("RGB").tobytes()


def test_pillow_multi_page_tiff(image, picture, source, target):
    real, h = io.BytesIO(), target(ROOM)
    picture.save(real, "TIFF", save_all=True, append_images=[picture.rotate(90)])
    h.write(real.getbuffer())
    for data in real.getvalue(), written(h):
        with image.open(source(data)) as found:
            found.seek(1)
            assert found.tobytes() == picture.rotate(90).tobytes()


def test_pillow_images_share_memory(image, picture, target):
    h = target(64 * 48 * 3)
    h.write(picture.tobytes())
    shared = image.frombuffer("RGB", (64, 48), h.getbuffer(), "raw", "RGB", 0, 1)
    assert shared.tobytes() == picture.tobytes()
