"""Calls that no page of the documentation shows, for mypy and pyright to check; not run.

`test_typing.py` takes the others from the pages.
"""

from __future__ import annotations

import array
import csv
import gzip
import io
import json
import pickle
import shutil
import signal
import subprocess
import tarfile
import wave
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Literal

from typing_extensions import assert_type

from ipcio import (
    Event,
    ExitStatus,
    MemoryFile,
    Mutex,
    ObjectInfo,
    Process,
    Queue,
    Semaphore,
    __version__,
    event,
    filelock,
    list_objects,
    mmap,
    mutex,
    proc,
    queue,
    remove_orphans,
    sem,
    shm,
    strfile,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

version: str = __version__


def segments() -> None:
    h = shm.create("x", 100, perm=0o640, persist=True, exist_ok=True, reserve=False)
    assert_type(h, MemoryFile)
    assert_type(shm.create(None, 1).created, bool)
    assert_type(shm.attach("x"), MemoryFile)
    assert_type(shm.attach("x", owner=0), MemoryFile)
    assert_type(shm.create("x", 100, exist_ok=True, owner=None), MemoryFile)
    shm.attach("x", "r").close()
    assert_type(shm.open("x"), MemoryFile)
    assert_type(shm.open("x", "r+b"), MemoryFile)
    with shm.open("x", "wb", perm=0o640) as f, zipfile.ZipFile(f, "w") as archive:
        archive.writestr("a", b"1")
    writer: BinaryIO = shm.open("x", "xb")
    writer.close()
    shm.open("x", "xb").discard()
    shm.open("x", "w")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    shm.create("x", 100, init=lambda h: h.write(b"first")).close()
    shm.create("x", 100, init=b"first")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    shm.unlink("x")
    shm.create(b"x", 100)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    shm.create("x", 100, 0o600)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    shm.attach("x", "w")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    shm.attach(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def semaphores() -> None:
    s = sem.create("x", 2, perm=0o640, persist=True, exist_ok=True, undo=True)
    assert_type(s, Semaphore)
    assert_type(sem.create("x").created, bool)
    assert_type(sem.create("x", 2, max=2), Semaphore)
    sem.create("x", 2, max=2.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(sem.create(None).name, str)
    assert_type(sem.attach("x"), Semaphore)
    assert_type(sem.attach("x", owner=0), Semaphore)
    assert_type(sem.create("x", 1, exist_ok=True, owner=0), Semaphore)
    assert_type(sem.open("x"), Semaphore)
    assert_type(sem.open("x", 5, perm=0o600, persist=False), Semaphore)
    sem.unlink("x")
    sem.create(b"x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sem.create("x", 1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sem.create("x", 1, 0o600)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    sem.attach(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def mutexes() -> int:
    m = mutex.create("x", perm=0o640, persist=True, exist_ok=True, recursive=True, owner=0)
    assert_type(m, Mutex)
    assert_type(mutex.create(None).name, str)
    assert_type(mutex.attach("x", timeout=None, owner=0), Mutex)
    assert_type(mutex.unlink("x", missing_ok=True), None)
    assert_type(m.acquire(), bool)
    assert_type(m.acquire(False), bool)
    assert_type(m.acquire(timeout=0.5), bool)
    assert_type(m.release(), None)
    assert_type(m.wait(), bool)
    assert_type(m.wait(timeout=0.5), bool)
    assert_type(m.wait_for(lambda: [m.name], timeout=2), list[str])
    assert_type(m.notify_all(), None)
    assert_type((m.locked(), m.abandoned, m.recursive, m.created, m.closed), tuple[bool, bool, bool, bool, bool])
    assert_type(m.owner, int | None)
    m.close()
    mutex.create(b"x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    mutex.create("x", 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    m.acquire(timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with m as same:
        assert_type(same, Mutex)
        return 1


async def acquires_mutexes(m: Mutex) -> None:
    assert_type(await m.acquire_async(), bool)
    assert_type(await m.acquire_async(timeout=1), bool)


def events() -> None:
    e = event.create("x", perm=0o640, persist=True, exist_ok=True, is_set=True, owner=0)
    assert_type(e, Event)
    assert_type(event.create(None).name, str)
    assert_type(event.attach("x", timeout=None, owner=0), Event)
    assert_type(event.unlink("x", missing_ok=True), None)
    assert_type(e.set(), None)
    assert_type(e.clear(), None)
    assert_type(e.is_set(), bool)
    assert_type(e.wait(), bool)
    assert_type(e.wait(timeout=0.5), bool)
    assert_type((e.created, e.closed), tuple[bool, bool])
    e.close()
    event.create(b"x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    event.create("x", 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    e.wait("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def waits_for_events(e: Event) -> None:
    assert_type(await e.wait_async(), bool)
    assert_type(await e.wait_async(timeout=1), bool)


def queues() -> None:
    q = queue.create("x", 1000, perm=0o640, persist=True, exist_ok=True, owner=0)
    assert_type(q, Queue)
    assert_type(queue.create(None, 16).name, str)
    assert_type(queue.attach("x", timeout=None, owner=0), Queue)
    assert_type(queue.unlink("x", missing_ok=True), None)
    assert_type(q.put(b"x"), None)
    assert_type(q.put(bytearray(1), block=False, timeout=1), None)
    assert_type(q.put_nowait(memoryview(b"x")), None)
    assert_type(q.get(), bytes)
    assert_type(q.get(True, 0.5), bytes)
    assert_type(q.get_nowait(), bytes)
    assert_type(q.get_into(bytearray(1), timeout=2), int)
    assert_type((q.qsize(), q.empty(), q.full()), tuple[int, bool, bool])
    assert_type(q.shutdown(immediate=True), None)
    assert_type((q.created, q.closed), tuple[bool, bool])
    with q as same:
        assert_type(same, Queue)
        assert_type(list(same), list[bytes])
    pickle.dump(1, q.writer())
    pickle.load(io.BufferedReader(q.reader()))
    csv.writer(io.TextIOWrapper(q.writer(), newline=""))
    shutil.copyfileobj(q.reader(), q.writer())
    subprocess.run("true", check=False, stdout=q.writer())
    proc.spawn(["true"], stdin=q.reader(), stdout=q.writer())
    queue.create(b"x", 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    queue.create("x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    q.put("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    q.get_into(b"x", timeout="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def uses_queues(q: Queue) -> None:
    assert_type(await q.put_async(b"x", timeout=1), None)
    assert_type(await q.get_async(), bytes)
    async for message in q:
        assert_type(message, bytes)


def objects() -> None:
    assert_type(list_objects(), list[ObjectInfo])
    assert_type(remove_orphans(), list[ObjectInfo])
    for each in remove_orphans(dry_run=True):
        assert_type(each.kind, Literal["shm", "sem", "mutex", "event", "queue"])
        assert_type(each.size, int | None)
        assert_type([holder.pid for holder in each.holders], list[int])
    remove_orphans(True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def permits(s: Semaphore) -> int:
    with s as got:
        assert_type(got, bool)
    with sem.attach("x"), s:
        pass
    if s.dec() and s.dec(0) and s.dec(1.5) and s.dec(timeout=None):
        assert_type(s.inc(), bool)
        s.inc(3)
    if s.acquire() and s.acquire(False) and s.acquire(blocking=False) and s.acquire(timeout=0.5):
        s.release()
        s.release(n=2)
    assert_type(s.dec(5), bool)
    assert_type(s.acquire(True, 1.5), bool)
    assert_type(s.value, int)
    assert_type(s.closed or s.created or s.undo, bool)
    s.close()
    s.dec("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    s.inc(1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    s.value = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    s.name = "y"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    with s:
        return s.value


def locks(descriptor: int) -> None:
    with open("file", "r+b") as binary, open("file", "r+", encoding="utf-8") as text, shm.attach("x") as memory:
        assert_type(filelock.lock(binary), Literal[True])
        assert_type(filelock.lock(text, "rw", 64, 64, timeout=1.5), Literal[True])
        filelock.lock(memory, mode="r", offset=64, nbytes=64, timeout=None)
        assert_type(filelock.trylock(descriptor, "w", 64), bool)
        assert_type(filelock.unlock(binary, 64, 64), Literal[True])
        with filelock.locked(text, "r", 64, 64, timeout=1) as same:
            assert_type(same.readline(), str)
        with filelock.locked(memory) as same_memory:
            assert_type(same_memory, MemoryFile)
        with filelock.locked("job.lock", timeout=1) as lock_file:
            assert_type(lock_file, BinaryIO)
        with filelock.locked(descriptor) as same_descriptor:
            assert_type(same_descriptor, int)
        holder = filelock.query(binary, "rw", 0, 0)
        if holder is not None:
            assert_type(holder, filelock.Holder)
            assert_type(holder.start + holder.length, int)
            assert_type(holder.mode, Literal["r", "rw"])
            assert_type(holder.pid, "int | None")
        filelock.lock(binary, "rw", 0, 0, 1.5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        filelock.lock(binary, 0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        filelock.trylock(binary, timeout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(filelock.semantics, Literal["open file", "process"])


def children(memory: MemoryFile, binary: BinaryIO, descriptor: int) -> None:
    h = proc.spawn(["cat", b"x", Path("x")], stdin=True, stdout=True, stderr=subprocess.STDOUT)
    assert_type(h, Process[bytes])
    assert_type(h.write(b"x", bytearray(1), memory.getbuffer(), "text", proc.EOF), Literal[True])
    for stream, data in h:
        assert_type(stream, str)
        assert_type(data, bytes)
    status: ExitStatus | None = h.wait(1.5)
    assert_type(status, "ExitStatus | None")
    assert_type(h.wait(), ExitStatus)
    assert_type(h.wait(None), ExitStatus)
    assert_type(proc.spawn("exit").wait().ok, bool)
    assert_type(h.closed, bool)
    assert_type(h.nowait(), "ExitStatus | None")
    if status is not None:
        assert_type(status.ok, bool)
        assert_type(status.kind, Literal["exit", "signal"])
        assert_type(status.code, int)
    assert_type(h.kill(), Literal[True])
    h.kill("kill", tree=True)
    h.kill(signal.SIGINT)
    assert_type(h.pid + h.pending, int)
    with h as same:
        assert_type(same, Process[bytes])
    h.close()

    def heard(stream: str, data: bytes) -> None:
        print(stream, h.write(data))

    def read(stream: str, data: str) -> None:
        print(stream + data)

    proc.spawn("exit", stdin=None, stdout=False, stderr=subprocess.DEVNULL, cwd=Path(), env={"A": "b"})
    proc.spawn("exit", stdin=memory, stdout=binary, stderr=descriptor, cwd=b".", env={b"A": b"b"})
    proc.spawn("exit", stdin=io.StringIO(), stdout=io.BytesIO(), start_new_session=True)
    proc.spawn("exit", process_group=0, user="nobody", group=7, extra_groups=["games", 8], umask=0o22, pass_fds={3})
    proc.spawn("exit", pass_fds=[memory])  # type: ignore[list-item]  # pyright: ignore[reportCallIssue, reportArgumentType]
    proc.spawn(("echo", "x"), stdout=True, callback=heard)
    lines = proc.spawn("echo x", stdout=True, callback=read, encoding="utf-8", errors="replace", lines=True)
    assert_type(lines, Process[str])
    assert_type(next(lines), "tuple[str, str]")
    proc.spawn("echo x", stdout=True, callback=read)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    proc.spawn(3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    h.wait("1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    h.write(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    h.pid = 1  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


async def permits_in_a_loop(s: Semaphore) -> None:
    assert_type(await s.acquire_async(), bool)
    assert_type(await s.acquire_async(timeout=1.5), bool)


async def locks_in_a_loop(binary: BinaryIO) -> None:
    assert_type(await filelock.lock_async(binary, "r", 64, 64, timeout=1.5), Literal[True])
    async with filelock.locked(binary, timeout=1) as same:
        assert_type(same, BinaryIO)
    async with filelock.locked(b"job.lock") as lock_file:
        assert_type(lock_file, BinaryIO)


def runs() -> None:
    done = proc.run(["cat"], input=b"x", timeout=5, check=True)
    assert_type(done, proc.Completed[bytes])
    assert_type(done.status, ExitStatus)
    assert_type(done.stdout, bytes)
    status, output, errors = proc.run("cat", input="x", encoding="utf-8", stderr=subprocess.STDOUT)
    assert_type(status, ExitStatus)
    assert_type(output, str)
    assert_type(errors, str)
    assert_type(proc.run("id", user=1, group="games", extra_groups=(), umask=0, pass_fds=(3,)), proc.Completed[bytes])
    assert_type(proc.run("id", encoding="utf-8", process_group=0, umask=0o77), proc.Completed[str])
    proc.run("cat", input="x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def children_in_a_loop(h: Process[str]) -> None:
    async for stream, text in h:
        assert_type(stream, str)
        assert_type(text, str)
    assert_type(await h.wait_async(timeout=1), "ExitStatus | None")
    assert_type((await h.wait_async()).code, int)
    async with h as same:
        assert_type(same, Process[str])

    async def heard(stream: str, data: bytes) -> None:
        print(stream, data)

    proc.spawn("echo x", stdout=True, callback=heard)


def maps() -> None:
    assert_type(mmap.pagesize, int)
    assert_type(mmap.open("file"), MemoryFile)
    mmap.open(b"file", "w")
    mmap.open(Path("file"), mode="rw", offset=mmap.pagesize, size=10)
    mmap.open(3)
    with open("file", "rb") as f:
        mmap.open(f)
    with open("file", "rb", buffering=0) as f:
        mmap.open(f)
    mmap.open(3.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def strings() -> None:
    h = strfile.open("text")
    assert_type(h, MemoryFile)
    strfile.open(b"bytes")
    strfile.open(bytearray(1))
    strfile.open(memoryview(b"x"))
    strfile.open(array.array("d"))
    strfile.open(h)
    strfile.open(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def handles(h: MemoryFile) -> None:
    with h as same:
        assert_type(same, MemoryFile)
    assert_type(h.read(), bytes)
    assert_type(h.read(5), bytes)
    assert_type(h.read(None), bytes)
    assert_type(h.read1(5), bytes)
    assert_type(h.readall(), bytes)
    assert_type(h.readinto(bytearray(5)), int)
    assert_type(h.readinto1(array.array("i")), int)
    assert_type(h.readline(), bytes)
    assert_type(h.readlines(), "list[bytes]")
    assert_type(h.write(b"x"), int)
    assert_type(h.write(memoryview(b"x")), int)
    h.writelines([b"x", bytearray(b"y")])
    assert_type(h.seek(0), int)
    assert_type(h.seek(0, io.SEEK_END), int)
    assert_type(h.tell(), int)
    assert_type(h.truncate(), int)
    assert_type(h.truncate(5), int)
    assert_type(h.size(), int)
    assert_type(h.addr(), int)
    assert_type(h.getbuffer(), "memoryview[int]")
    assert_type(h.fileno(), int)
    assert_type(h.mode, str)
    assert_type(h.created, bool)
    assert_type(h.closed, bool)
    assert_type(h.readable() and h.writable() and h.seekable() and h.isatty(), bool)
    lines: Iterable[bytes] = h
    for line in lines:
        assert_type(line, bytes)
    memoryview(h)
    h.write("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    h.mode = "rb"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def takes_files(raw: io.RawIOBase, binary: BinaryIO | None, io_bytes: IO[bytes] | None) -> None:
    pass


def consumers(h: MemoryFile) -> None:
    takes_files(h, h, h)
    io.TextIOWrapper(h, encoding="utf-8").readline()
    io.BufferedReader(h).peek()
    io.BufferedRandom(h).read()
    shutil.copyfileobj(h, h)
    zipfile.ZipFile(io.BufferedReader(h))
    subprocess.run(["true"], stdin=h.fileno(), stdout=h.fileno(), check=True)
    subprocess.run(["true"], stdin=h, stdout=h, stderr=h, check=True)
    wave.open(h, "rb").getnframes()
    tarfile.open(fileobj=h).getnames()
    gzip.open(h).read()
    pickle.dump(1, h)
    json.load(h)
    csv.reader(io.TextIOWrapper(h))
    mmap.open(h)
    with h as same:
        takes_files(same, same, same)
    text = io.TextIOWrapper(h, encoding="utf-8")
    print("x", file=text)
