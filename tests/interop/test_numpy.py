"""Arrays in shared memory: what docs/howto/share-an-array.md says."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from ipcio import mmap, shm

np = pytest.importorskip("numpy")

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
QUOTE = np.dtype([("metal", "S8"), ("price", "<f8"), ("volume", "<i4")], align=True)
# Their threads are of no use here, and forking would warn of them.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry),
    "OPENBLAS_NUM_THREADS": "1",
}


def array(h, dtype="<f8"):
    return np.frombuffer(h.getbuffer(), dtype)


def output(*command):
    return subprocess.run(
        [sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, check=True
    ).stdout


def attached(name, mode="r"):
    """The array whose header lies before it, by nothing but its name."""
    with shm.attach(name, mode) as h:
        assert np.lib.format.read_magic(h) == (1, 0)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(h)
        flat = np.frombuffer(h.getbuffer(), dtype, math.prod(shape), h.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


# -- arrays over a handle ------------------------------------------------------


def test_an_array_is_the_memory(name):
    """Whatever makes it of the view; in both directions."""
    with shm.create(name, 48) as h, shm.attach(name) as other:
        first, second = array(h), np.asarray(other.getbuffer()).view("<f8")
        third = np.ndarray((2, 3), "<f8", other.getbuffer())
        first[:] = range(6)
        assert (second == first).all()
        third[1, 2] = 50
        assert first[5] == second[5] == 50
        assert other.read() == first.tobytes()


MAKE = {
    "frombuffer": lambda h: np.frombuffer(h.getbuffer()),
    "asarray": lambda h: np.asarray(h.getbuffer()).view("f8"),
    "ndarray": lambda h: np.ndarray(h.size() // 8, "f8", h.getbuffer()),  # its base is no view, but what a view is of
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_whatever_makes_an_array_it_outlives_its_handle(name, make):
    """Touched after the end of the handle, memory that was unmapped would kill the process."""
    h = shm.create(name, 8_000_000)
    kept = make(h)
    h.close()
    kept[:] = 2
    assert kept.sum() == 2_000_000
    with pytest.raises(FileNotFoundError):
        shm.attach(name)


if sys.version_info >= (3, 12):

    def test_a_handle_is_a_buffer(name):
        with shm.create(name, 80) as h, shm.attach(name, "r") as reader:
            np.frombuffer(h)[:] = 2
            assert np.frombuffer(reader).sum() == 20
            assert not np.frombuffer(reader).flags.writeable


def test_a_reader_cannot_write(name):
    """Nor can its array be made writable."""
    with shm.create(name, 80), shm.attach(name, "r") as reader:
        numbers = array(reader)
        with pytest.raises(ValueError, match="read-only"):
            numbers[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            numbers.flags.writeable = True


def test_a_narrowed_handle_gives_a_shorter_array(name):
    with shm.create(name, 80) as h:
        h.truncate(24)
        assert array(h).shape == (3,)


# -- lifetime ------------------------------------------------------------------


def test_an_array_outlives_its_handle(name):
    """The memory stays with it; the name does not."""
    h = shm.create(name, 80)
    numbers = array(h)
    reshaped = numbers.reshape(2, 5)[1]
    h.close()
    with pytest.raises(FileNotFoundError):
        shm.attach(name)
    del numbers
    reshaped[:] = 3
    assert reshaped.sum() == 15


def test_the_memory_goes_with_the_last_array(name):
    """As its creator sees it: an array held no share in the name, and no descriptor is left (see conftest)."""
    h = shm.create(name, 80)
    numbers = array(h)
    h.close()
    with shm.create(name, 80) as again:
        numbers[:] = 1
        assert not array(again).any()
    del numbers
    gc.collect()


# -- a header ------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        np.arange(24.0).reshape(2, 3, 4),
        np.asfortranarray(np.arange(6, dtype="<i2").reshape(2, 3)),
        np.array([(b"gold", 2650, 3), (b"silver", 31, 500)], QUOTE),
        np.array(5.0),
        np.zeros((0, 3)),
    ],
    ids=["3-dimensional", "Fortran", "records", "scalar", "empty"],
)
def test_save_makes_an_array_that_its_name_is_enough_for(table, name):
    """Type, shape and order are in the header; load reads a copy, and the memory can be used where it lies."""
    with shm.create(name, table.nbytes + 1024) as h:
        np.save(h, table)
        h.seek(0)
        loaded, there = np.load(h), attached(name)
        for copy in (loaded, there) if table.size else (loaded,):
            assert (copy.dtype, copy.shape, copy.flags.f_contiguous) == (
                table.dtype,
                table.shape,
                table.flags.f_contiguous,
            )
            assert (copy == table).all()
        assert loaded.flags.writeable
        assert not there.flags.writeable


def test_a_header_can_come_before_the_content(name):
    with shm.create(name, 1024) as h:
        np.lib.format.write_array_header_1_0(h, {"descr": "<f8", "fortran_order": False, "shape": (2, 2)})
        attached(name, "rw")[:] = 7
        h.seek(0)
        assert np.load(h).tolist() == [[7, 7], [7, 7]]


def test_an_array_starts_at_a_multiple_of_64(name):
    """numpy pads the header, so that an array over the memory is aligned."""
    with shm.create(name, 1024) as h:
        np.save(h, np.arange(3.0))
        assert attached(name).ctypes.data % 64 == 0
        assert attached(name).flags.aligned


def test_what_does_not_fit_is_an_error(name):
    with shm.create(name, 200) as h, pytest.raises(OSError, match="do not fit"):
        np.save(h, np.zeros(100))


def test_objects_are_refused(name):
    with shm.create(name, 1024) as h, pytest.raises(ValueError, match="allow_pickle"):
        np.save(h, np.array([{}]), allow_pickle=False)


def test_records_are_fields_of_memory(name):
    """Laid out as a C compiler does, and as `struct` says."""
    assert QUOTE.itemsize == 24
    with shm.create(name, 10 * QUOTE.itemsize) as h, shm.attach(name, "r") as reader:
        quotes = array(h, QUOTE)
        quotes[3] = b"gold", 2650, 3
        quotes["volume"] += 1
        seen = array(reader, QUOTE)
        assert seen["volume"].tolist() == [1, 1, 1, 4, 1, 1, 1, 1, 1, 1]
        assert seen[3].tolist() == (b"gold", 2650.0, 4)
        assert seen.view(np.recarray)[3].metal == b"gold"


# -- mapped files --------------------------------------------------------------


def test_a_mapped_file_and_memmap_are_one_memory(tmp_path):
    """What the handle adds: it travels as a path, where a memmap travels as a copy."""
    path = tmp_path / "numbers"
    np.arange(1000.0).tofile(path)
    with mmap.open(path, "rw") as h:
        numbers, witness = array(h), np.memmap(path, "<f8", "r+")
        numbers[0] = 5
        witness[1] = 6
        assert (numbers == witness).all()
        assert len(pickle.dumps(h)) < 1000
        assert len(pickle.dumps(witness)) > numbers.nbytes
        with pickle.loads(pickle.dumps(h)) as other:
            array(other)[2] = 7
        assert witness[2] == 7
        del witness
    with pytest.raises(ValueError, match="ends at 8000"):
        mmap.open(path, size=8008)


# -- other processes -----------------------------------------------------------

METHODS = """
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from ipcio import shm


def double(h):
    np.frombuffer(h.getbuffer())[:] *= 2


def total(h):
    numbers = np.frombuffer(h.getbuffer())
    return float(numbers.sum()), numbers.flags.writeable


if __name__ == "__main__":
    with shm.create(sys.argv[1], 800) as h, shm.attach(h.name, "r") as reader:
        numbers = np.frombuffer(h.getbuffer())
        for method in multiprocessing.get_all_start_methods():
            numbers[:] = 1
            context = multiprocessing.get_context(method)
            process = context.Process(target=double, args=(h,))
            process.start()
            process.join()
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                print(numbers.sum(), pool.submit(total, h).result(), pool.submit(total, reader).result())
"""


def test_a_handle_is_an_argument_in_every_start_method(name, tmp_path):
    """Of `multiprocessing` and of `concurrent.futures`; a reader stays one."""
    program = tmp_path / "methods.py"
    program.write_text(METHODS)
    lines = output(program, name).splitlines()
    assert lines == ["200.0 (200.0, True) (200.0, False)"] * len(multiprocessing.get_all_start_methods())


def test_eight_workers_read_one_array():
    assert output(EXAMPLES / "array_workers.py") == "500000.0\n"


def test_a_handle_travels_inside_a_function(name):
    """This is how joblib and dask send: a function with what it refers to."""
    cloudpickle = pytest.importorskip("cloudpickle")
    with shm.create(name, 80) as h, shm.attach(name, "r") as reader:
        array(h)[:] = 3
        data = cloudpickle.dumps(lambda: (np.frombuffer(reader.getbuffer()).sum(), reader.mode))
        assert pickle.loads(data)() == (30, "rb")
        gc.collect()
