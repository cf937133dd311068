"""The two ends of a queue as files, for libraries that know files and no queues, between processes."""

from __future__ import annotations

import csv
import gc
import io
import json
import logging
import pickle
import shutil
import subprocess
import sys
import threading

import pytest

from ipcio import proc, queue

TIMEOUT = 30


@pytest.fixture
def q(name):
    with queue.create(name, 2000) as made:
        yield made


def test_each_write_is_a_message_and_each_read_at_most_one(q):
    with q.writer() as w, q.reader() as r:
        assert isinstance(w, io.RawIOBase)
        assert isinstance(r, io.RawIOBase)
        assert (w.writable(), w.readable(), w.seekable(), w.isatty(), w.mode) == (True, False, False, False, "wb")
        assert (r.readable(), r.writable(), r.seekable(), r.isatty(), r.mode) == (True, False, False, False, "rb")
        assert [w.write(data) for data in (b"abcdef", b"", bytearray(b"gh"), memoryview(b"i"))] == [6, 0, 2, 1]
        assert q.qsize() == 3
        q.put(b"")
        q.put(b"j")
        assert [r.read(4), r.read(4), r.read(1), r.read(100), r.read(0)] == [b"abcd", b"ef", b"g", b"h", b""]
        buffer = bytearray(10)
        assert r.readinto(buffer) == 1
        assert buffer[:1] == b"i"
        assert r.read(5) == b"j"  # the empty one is skipped
        for call in w.read, r.fileno, w.fileno, lambda: w.seek(0), lambda: r.write(b""):
            with pytest.raises(io.UnsupportedOperation):
                call()
        with pytest.raises(TypeError):
            w.write("text")
        for file, name in (w, "Writer"), (r, "Reader"):
            assert repr(file) == f"<ipcio.Queue{name} name={q.name!r}>"
            assert file.name == q.name


def test_what_is_larger_than_a_message_becomes_several(name):
    with queue.create(name, 30) as q, q.writer() as w, io.BufferedReader(q.reader()) as r:
        data = bytes(range(100))
        thread = threading.Thread(target=lambda: (w.write(data), w.write(bytearray(data)), q.shutdown()))
        thread.start()
        assert r.read(150) == data + data[:50]
        assert r.read() == data[50:]
        thread.join()


def test_a_queue_too_small_for_any_byte_says_so(name):
    with queue.create(name, 16) as q, q.writer() as w:
        for data in b"x", bytearray(3):
            with pytest.raises(ValueError, match="does not fit"):
                w.write(data)


def test_the_end_is_the_shutdown(q):
    with q.writer() as w, q.reader() as r:
        w.write(b"last")
        q.shutdown()
        for data in b"x", bytearray(1):
            with pytest.raises(BrokenPipeError) as caught:
                w.write(data)
            assert caught.value.filename == q.name
        assert r.readall() == b"last"
        assert [r.read(1), r.read(), r.readline()] == [b""] * 3


def test_a_file_holds_the_queue_open_by_itself(name):
    q = queue.create(name, 100)
    w, r = q.writer(), q.reader()
    q.close()
    w.write(b"1")
    with queue.attach(name) as other:
        assert other.qsize() == 1
    w.close()
    w.close()
    assert (w.closed, r.closed) == (True, False)
    for call in lambda: w.write(b"x"), lambda: w.writelines([b"x"]):
        with pytest.raises(ValueError, match="closed file"):
            call()
    assert r.read(10) == b"1"
    r.close()
    with pytest.raises(ValueError, match="closed file"):
        r.readinto(bytearray(1))
    with pytest.raises(FileNotFoundError):
        queue.attach(name)
    q = queue.create(name, 100)
    file = q.writer()
    del q
    gc.collect()
    assert not queue.create(name, 10 * 10, exist_ok=True).created
    del file
    gc.collect()
    with pytest.raises(FileNotFoundError):
        queue.attach(name)


def test_a_queue_without_a_name_gives_files_too(name):
    with queue.create(name, 100) as q:
        queue.unlink(name) if sys.platform != "win32" else None
        with q.writer() as w, q.reader() as r:
            w.write(b"x")
            assert r.read(1) == b"x"


def test_threads_that_read_one_file_lose_nothing(q):
    got = []
    with q.reader() as r:

        def read():
            while piece := r.read(3):
                got.append(piece)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(100):
            q.put(bytes([number]) * 10)
        q.shutdown()
        for thread in threads:
            thread.join()
    assert sorted(b"".join(got)) == sorted(b"".join(bytes([number]) * 10 for number in range(100)))


# -- libraries, each with another process at the other end --------------------------


def test_csv(q, peer):
    other = peer(f"import csv, io; q = queue.attach({q.name!r})")
    other.run(
        "file = io.TextIOWrapper(q.writer(), newline='', encoding='utf-8', write_through=True)\n"
        "csv.writer(file).writerows([['a', 1], ['ü\\n,', 2]]); q.shutdown()"
    )
    with io.TextIOWrapper(q.reader(), newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["a", "1"], ["ü\n,", "2"]]
    other.run("file.close(); q.close()")


def test_pickle(q, peer):
    sent = [1, "two", {"three": [3.0] * 500}, None]
    other = peer(f"import pickle, io; q = queue.attach({q.name!r})")
    other.send("run", f"w = q.writer()\nfor each in {sent!r}: pickle.dump(each, w)")
    with io.BufferedReader(q.reader()) as file:
        assert [pickle.load(file) for _ in sent] == sent
    other.answer()
    other.run("w.close(); q.close()")


def test_json_lines_through_a_text_file(q, peer):
    other = peer(f"import json, io; q = queue.attach({q.name!r}); r = io.TextIOWrapper(q.reader(), encoding='utf-8')")
    with io.TextIOWrapper(q.writer(), encoding="utf-8", line_buffering=True) as file:
        for number in range(3):
            print(json.dumps({"number": number}), file=file)
        assert q.qsize() == 3  # a message for each line
        other.send("run", "got = [json.loads(line)['number'] for line in r]")
        q.shutdown()
        other.answer()
    assert other.ask("got") == [0, 1, 2]
    other.run("r.close(); q.close()")


def test_logging(q, peer):
    other = peer(f"import io, logging; q = queue.attach({q.name!r})")
    other.run(
        "file = io.TextIOWrapper(q.writer(), encoding='utf-8', newline='\\n')\n"
        "handler = logging.StreamHandler(file)\n"
        "log = logging.Logger('x'); log.addHandler(handler)\n"
        "log.warning('disk %s', 'full'); log.error('second')"
    )
    assert [q.get(timeout=TIMEOUT) for _ in range(2)] == [b"disk full\n", b"second\n"]
    handler = logging.StreamHandler(io.TextIOWrapper(q.writer(), encoding="utf-8", newline="\n"))
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "here", (), None))
    handler.stream.close()
    assert q.get() == b"here\n"
    other.run("file.close(); q.close()")


def test_copyfileobj(q, peer, tmp_path):
    data = bytes(range(256)) * 50
    (tmp_path / "in").write_bytes(data)
    other = peer(f"import shutil; q = queue.attach({q.name!r})")
    other.send(
        "run",
        f"with open({str(tmp_path / 'in')!r}, 'rb') as source, q.writer() as w:\n"
        "    shutil.copyfileobj(source, w)\nq.shutdown()",
    )
    with open(tmp_path / "out", "wb") as target, q.reader() as r:
        shutil.copyfileobj(r, target)
    other.answer()
    assert (tmp_path / "out").read_bytes() == data
    other.run("q.close()")


def test_buffered_writer_and_reader(q, peer):
    other = peer(f"import io; q = queue.attach({q.name!r}); r = io.BufferedReader(q.reader())")
    with io.BufferedWriter(q.writer(), 100) as w:
        for number in range(40):
            w.write(bytes([number]) * 7)
        w.flush()
        assert q.qsize() < 40
    other.send("run", "got = r.read(280)")
    other.answer()
    assert other.ask("got") == b"".join(bytes([number]) * 7 for number in range(40))
    other.run("r.close(); q.close()")


CAT = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"


def test_a_child_writes_to_a_queue_and_another_one_reads_from_it(q):
    """Through `proc.spawn`, which moves the bytes: a queue has no descriptor."""
    data = bytes(range(256)) * 40
    with q.writer() as w, q.reader() as r:
        got = io.BytesIO()
        with proc.spawn([sys.executable, "-c", CAT], stdin=r, stdout=got) as reader:

            def write():
                with proc.spawn([sys.executable, "-c", CAT], stdin=io.BytesIO(data), stdout=w) as writer:
                    assert writer.wait(TIMEOUT)
                q.shutdown()

            thread = threading.Thread(target=write)
            thread.start()
            assert reader.wait(TIMEOUT)
            thread.join()
        assert got.getvalue() == data


def test_run_of_proc_sends_output_to_a_queue(q, peer):
    other = peer(f"q = queue.attach({q.name!r})")
    with q.writer() as w:
        assert proc.run([sys.executable, "-c", "print('hello')"], stdout=w).status
    assert other.ask("q.get()").split() == [b"hello"]
    other.run("q.close()")
    with pytest.raises(io.UnsupportedOperation), q.writer() as w:
        subprocess.run([sys.executable, "-c", ""], stdout=w, check=True)
