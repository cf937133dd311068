"""Handles that travel: pickled, copied, sent to other processes by every start method."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
import subprocess
import sys

import pytest
from file_contract import in_child, outcome
from leftovers import descriptors

from ipcio import mmap, shm, strfile

CONTENT = b"one\ntwo\nthree\nfour\n"
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def state(h):
    """What must survive the journey."""
    with h.getbuffer() as view:
        return type(h.name), h.mode, h.size(), h.tell(), bytes(view), h.readable(), h.writable()


def opened(kind, name, path):
    """A handle of one of the kinds over CONTENT."""
    where, _, mode = kind.partition(" ")
    if where == "shm":
        with shm.create(name, len(CONTENT)) as made:
            made.write(CONTENT)
            return shm.attach(name, mode)
    if where == "strfile":
        return strfile.open(CONTENT if mode == "bytes" else bytearray(CONTENT))
    offset = mmap.pagesize if where == "part" else 0
    path.write_bytes(bytes(offset) + CONTENT)
    if where == "file":
        with open(path, "rb+") as f:
            return mmap.open(f, mode)
    if where == "descriptor":
        fd = os.open(path, os.O_RDWR)
        try:
            return mmap.open(fd, mode)
        finally:
            os.close(fd)
    return mmap.open(path, mode, offset)


KINDS = [
    "shm rw", "shm r", "mmap r", "mmap w", "mmap rw", "part rw", "file rw", "descriptor r", "strfile bytes",
    "strfile bytearray",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_shows_the_same_in_the_same_place(kind, name, tmp_path):
    """Narrowed or not, wherever it stands, past the end, too; with every protocol."""
    h = opened(kind, name, tmp_path / "file")
    for change in (
        lambda: None, lambda: h.seek(4), lambda: h.seek(1000), lambda: h.truncate(12), lambda: h.seek(5),
        lambda: h.seek(99), lambda: outcome(h.fileno), lambda: h.seek(3), lambda: h.truncate(0),
    ):  # fmt: skip
        change()
        wanted = state(h)
        for make in (copy.copy, copy.deepcopy, *(lambda h, p=p: pickle.loads(pickle.dumps(h, p)) for p in PROTOCOLS)):
            with make(h) as other:
                assert state(other)[1:] == wanted[1:]
                assert other.created is False
                other.seek(1)
            assert state(h) == wanted


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "rw" in kind])
def test_a_copy_is_over_the_same_memory(kind, name, tmp_path):
    """With a position of its own."""
    h = opened(kind, name, tmp_path / "file")
    with pickle.loads(pickle.dumps(h)) as other:
        other.write(b"1\n\n\n")
        assert h.tell() == 0
        assert h.readline() == b"1\n"
        assert other.readline() == b"two\n"


def test_a_segment_stays_in_its_copy(name):
    """A share of its own: the one pickled may close first."""
    h = shm.create(name, 10)
    other = copy.copy(h)
    h.write(b"hello")
    h.close()
    assert other.read(5) == b"hello"
    with shm.attach(name) as third:
        assert third.read(5) == b"hello"
    other.close()
    with pytest.raises(FileNotFoundError):
        shm.attach(name)


def test_a_segment_that_is_gone_cannot_be_unpickled(name):
    h = shm.create(name, 10)
    data = pickle.dumps(h)
    h.close()
    with pytest.raises(FileNotFoundError) as caught:
        pickle.loads(data)
    assert caught.value.filename == name


def test_a_mapped_file_is_found_from_any_directory(tmp_path, monkeypatch):
    """By the absolute path it had when it was opened."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "file").write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path / "here")
    for spelling in ("file", b"file", "../here/./file"):
        with mmap.open(spelling) as h:
            data = pickle.dumps(h)
            monkeypatch.chdir(tmp_path / "there")
            assert pickle.loads(data).read() == CONTENT
            assert copy.copy(h).read() == CONTENT
            later = pickle.dumps(h)
            assert pickle.loads(later).read() == CONTENT
            monkeypatch.chdir(tmp_path / "here")
    with open("file", "rb") as f, mmap.open(f) as h:
        monkeypatch.chdir(tmp_path / "there")
        assert copy.copy(h).read() == CONTENT


def test_a_mapped_file_that_has_shrunk_is_refused_not_a_crash(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT * 1000)
    with mmap.open(path) as h:
        data = pickle.dumps(h)
    path.write_bytes(CONTENT)
    with pytest.raises(ValueError):
        pickle.loads(data)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(data)
    path.write_bytes(CONTENT * 2000)
    with pickle.loads(data) as other:
        assert other.read() == CONTENT * 1000


def test_an_empty_mapped_file_stays_empty(tmp_path):
    """Though the file has grown meanwhile."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    with mmap.open(path, "rw") as h:
        path.write_bytes(CONTENT)
        with copy.copy(h) as other:
            assert (other.size(), other.read(), other.mode) == (0, b"", "rb+")


@pytest.mark.needs("nameless")
def test_what_has_no_path_says_so(tmp_path):
    """A file without a name cannot be found again: TypeError, as pickle raises for what it cannot take."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with open(path, "rb") as f:
        h = mmap.open(f)
        path.unlink()
        with pytest.raises(TypeError, match="path"):
            pickle.dumps(h)
        path.write_bytes(b"another file of that name")
        with pytest.raises(TypeError, match="path"):
            copy.copy(h)
        assert h.read() == CONTENT
        h.close()


def test_closed_and_wrapped_handles_are_not_pickled(name):
    h = shm.create(name, 10)
    with pytest.raises(TypeError):
        pickle.dumps(io.BufferedReader(h))
    h.close()
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(ValueError, match="closed"):
            act(h)


def test_a_failed_journey_leaves_nothing_open(tmp_path):
    """A position or size that no longer fits closes what was opened."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    before = descriptors()
    with mmap.open(path) as h:
        function, arguments = h.__reduce__()[:2]
    assert callable(function)
    for bad in ((*arguments[:-2], 10**6, 0), (*arguments[:-2], 5, -1)):
        with pytest.raises(ValueError):
            function(*bad)
    assert descriptors() == before


@pytest.mark.needs("fork")
def test_a_forked_child_may_unpickle(name, tmp_path):
    h = opened("shm rw", name, tmp_path)
    data = pickle.dumps(h)
    assert in_child(lambda: pickle.loads(data).read()) == CONTENT


PROGRAM = """
import multiprocessing, operator, os, pickle, sys
from concurrent.futures import ProcessPoolExecutor
from ipcio import mmap, shm, strfile

CONTENT = b"one\\ntwo\\nthree\\nfour\\n"


def report(h):
    answer = h.mode, h.size(), h.tell(), h.readline() if h.readable() else None, os.getpid()
    if h.writable():
        h.seek(0)
        h.write(b"ONE")
    return answer


def child(h, queue):
    queue.put(report(h))
    queue.put(h)  # and back
    queue.close()
    queue.join_thread()  # until it is sent


def check(h, pids):
    wanted = h.mode, h.size(), h.tell()
    assert h.readable() is False or pickle.loads(pickle.dumps(h)).readline() == b"two\\n"
    for answer in pids:
        assert answer[:3] == wanted, (answer, wanted)
        assert answer[3] in (None, b"two\\n"), answer
        assert answer[4] != os.getpid()
    if h.writable():
        assert bytes(h.getbuffer()[:4]) == b"ONE\\n"
    h.seek(0)
    if h.writable():
        h.write(b"one")
    h.seek(4)


def main(method, path):
    context = multiprocessing.get_context(method)
    with open(path, "wb") as f:
        f.write(CONTENT)
    os.chdir(os.path.dirname(path))
    segment = shm.create(None, len(CONTENT))
    segment.write(CONTENT)
    handles = [
        segment, shm.attach(segment.name, "r"), mmap.open("file"), mmap.open("file", "w"), mmap.open("file", "rw"),
        strfile.open(CONTENT), strfile.open(bytearray(CONTENT)),
    ]
    os.chdir("/")
    for h in handles:
        h.truncate(12)
        h.seek(4)
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        for h in handles:
            check(h, [executor.submit(report, h).result() for _ in range(2)])
            if h.readable():
                assert executor.submit(operator.methodcaller("read", 3), h).result() == b"two"
        back = list(executor.map(operator.methodcaller("__enter__"), handles))
        for h, other in zip(handles, back):
            assert (other.mode, other.size(), other.tell()) == (h.mode, h.size(), h.tell())
    queue = context.Queue()
    for h in handles:
        process = context.Process(target=child, args=(h, queue))
        process.start()
        answer = queue.get()
        other = queue.get()
        process.join()
        assert process.exitcode == 0
        if method == "fork":  # nothing is pickled on the way there
            answer = (*answer[:2], 4, *answer[3:])
        check(h, [answer])
        assert (other.mode, other.size()) == (h.mode, h.size())
    queue.close()
    queue.join_thread()
    with context.Pool(1) as pool:
        for h in handles:
            check(h, [pool.apply(report, (h,))])
        pool.close()
        pool.join()
    name = segment.name
    for h in [*handles, *back, other]:
        h.close()
    try:
        shm.attach(name)
    except FileNotFoundError:
        print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_every_start_method_of_multiprocessing(method, tmp_path):
    """As an argument, through a queue, through pools and executors: same mode, size, place and memory; no warning."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", program, method, tmp_path / "file"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
