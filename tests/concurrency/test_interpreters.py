"""Handles in subinterpreters: interpreters of one process that share its kernel objects and nothing of Python."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing

import pytest
from named_contract import is_free

from ipcio import filelock, mmap, sem, shm

if sys.version_info >= (3, 13):
    import _interpreters as interpreters
elif sys.version_info >= (3, 12):
    import _xxsubinterpreters as interpreters

# Before 3.12 all interpreters have one GIL.
pytestmark = pytest.mark.able(probe=lambda: sys.version_info >= (3, 12))

# 3.12 cannot import ctypes in one with a GIL of its own.
with_ctypes = pytest.mark.able(probe=lambda: sys.version_info >= (3, 13))


class Interpreter:
    """A new one, with a GIL of its own; what its code raises, `run` raises as `RuntimeError`."""

    def __enter__(self):
        self._number = interpreters.create()
        self.run(f"import sys; sys.path[:] = {sys.path!r}")
        return self

    def __exit__(self, *_):
        interpreters.destroy(self._number)

    def run(self, code):
        if sys.version_info >= (3, 13):
            failure = interpreters.exec(self._number, code)
            if failure is not None:
                raise RuntimeError(failure.formatted)
        else:
            interpreters.run_string(self._number, code)


@pytest.fixture
def inside():
    with Interpreter() as interpreter:
        yield interpreter


def test_memory_is_one(name, inside):
    with shm.create(name, 4096) as h:
        h.write(b"from outside")
        inside.run(f"from ipcio import shm; h = shm.attach({name!r}); assert h.read(12) == b'from outside'")
        inside.run("h.seek(0); h.write(b'from inside '); h.close()")
        assert h.getbuffer()[:12] == b"from inside "


def test_an_interpreter_holds_names(name, inside):
    inside.run(f"from ipcio import shm; h = shm.create({name!r}, 4096)")
    with shm.attach(name):
        pass
    with pytest.raises(FileExistsError):
        shm.create(name, 1)
    inside.run("h.close()")
    assert is_free(shm, name)


def test_the_end_of_an_interpreter_is_the_end_of_its_handles(name):
    with Interpreter() as interpreter:
        interpreter.run(f"from ipcio import shm; import builtins; builtins.kept = [shm.create({name!r}, 4096)]")
        interpreter.run("kept.append(kept)")
        assert not is_free(shm, name)
    assert is_free(shm, name)


def test_permits_go_from_one_to_the_other(name, inside):
    with closing(sem.create(name, 2)) as s:
        inside.run(f"from ipcio import sem; s = sem.attach({name!r}); assert s.dec(0)")
        with s:
            inside.run("assert not s.dec(0) and not s.dec(0.001); s.inc(2)")
        assert [s.dec(0) for _ in range(4)] == [True] * 3 + [False]


@with_ctypes
def test_an_interpreter_makes_semaphores(name, inside):
    inside.run(f"from ipcio import sem; s = sem.create({name!r}, 1)")
    with closing(sem.attach(name)) as s:
        assert s.dec(0)
        inside.run("assert not s.dec(0); s.close()")


def test_locks_exclude_other_interpreters(tmp_path, inside):
    if filelock.semantics != "open file":
        pytest.skip("locks belong to the process here")
    path = str(tmp_path / "file")
    with open(path, "w+b") as file, filelock.locked(file, "rw", 0, 5):
        inside.run(f"from ipcio import filelock; f = open({path!r}, 'r+b'); assert not filelock.trylock(f)")
        inside.run("assert filelock.trylock(f, 'rw', 5, 5)")
        with open(path, "r+b") as other:
            assert not filelock.trylock(other, "r", 5, 1)
        inside.run("f.close()")


def test_maps_and_children(tmp_path, inside):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    inside.run("from ipcio import mmap, proc, strfile")
    inside.run(f"h = mmap.open({str(path)!r}, 'rw'); h.write(b'inside'); h.close()")
    with mmap.open(str(path)) as h:
        assert h.read() == b"inside"
    inside.run(f"p = proc.spawn([{sys.executable!r}, '-c', 'print(input())'], stdin=True, stdout=True)")
    inside.run("p.write(b'a line\\n'); assert 'a line' in str(list(p)); assert p.wait().ok; p.close()")
    inside.run("assert strfile.open(b'text').read() == b'text'")


@pytest.mark.needs("undo")
def test_crash_safe_semaphores_are_refused(name, unique, inside):
    """The kernel counts their permits per process, and two interpreters would keep two counts."""
    refused = """
try:
    {}
except NotImplementedError as error:
    assert "main interpreter" in str(error) and "undo=False" in str(error), error
else:
    raise AssertionError("not refused")
"""
    other = unique()
    with closing(sem.create(name, 3, undo=True)) as s:
        s.dec()
        inside.run("from ipcio import sem")
        inside.run(refused.format(f"sem.attach({name!r})"))
        inside.run(refused.format(f"sem.create({other!r}, undo=True)"))
        assert is_free(sem, other)
        assert s.value == 2
    assert is_free(sem, name)


POOL = """
import sys, tempfile, os
from concurrent.futures import InterpreterPoolExecutor
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from pool_of_interpreters import add
from ipcio import sem, shm

if __name__ == "__main__":
    with shm.create(None, 8) as h, InterpreterPoolExecutor(3) as pool:
        gate = sem.create(None, 1)
        assert sum(pool.map(add, [h] * 9, [gate] * 9, [100] * 9)) == 900
        assert int.from_bytes(h.getbuffer(), "little") == 900
        gate.close()
"""

ADD = """
def add(h, gate, n):
    for _ in range(n):
        with gate:
            number = int.from_bytes(h.getbuffer(), "little")
            h.getbuffer()[:] = (number + 1).to_bytes(8, "little")
    h.close()
    gate.close()
    return n
"""


@pytest.mark.able(probe=lambda: sys.version_info >= (3, 14))  # which has InterpreterPoolExecutor
def test_a_pool_of_interpreters_is_given_handles(tmp_path):
    """And their counter, guarded by a semaphore, ends exact."""
    (tmp_path / "pool_of_interpreters.py").write_text(ADD)
    program = tmp_path / "program.py"
    program.write_text(POOL)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program), str(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
