"""A process that has given up its rights goes on with the handles that it has."""

from __future__ import annotations

import pytest
from file_contract import run

from ipcio import event, mutex, queue, sem, shm

PROGRAM = """
import asyncio, io, os, pickle, sys, traceback
from ipcio import filelock, mmap, proc, sem, shm, strfile

path, name, empty, become = sys.argv[1:]
LINES = b"one\\ntwo\\n" * 1000
with open(path, "wb") as file:
    file.write(LINES)
memory = {
    "shm": shm.create(name, len(LINES)),
    "shm r": shm.attach(name, "r"),
    "mmap": mmap.open(path, "rw"),
    "part": mmap.open(path, "rw", mmap.pagesize),
    "strfile": strfile.open(LINES),
    "strfile over a buffer": strfile.open(bytearray(LINES)),
}
semaphores = {
    "plain": sem.create(name, 3),
    "attached": sem.attach(name),
    "undo": sem.create(name + "u", 3, undo=True, perm=0o666),
}
children = {
    "cat": proc.spawn(["cat"], stdin=True, stdout=True, encoding="utf-8", lines=True),
    "exit": proc.spawn(["true"]),
    "busy": proc.spawn(["cat"], stdin=True),  # until this process ends
    "as busy": proc.spawn(["cat"], stdin=True),
}
one, other = open(path, "rb+"), open(path, "rb+")
if become == "chroot":
    os.chroot(empty)
    os.chdir("/")
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)


class NoImports:
    def find_spec(self, module, path=None, target=None):
        traceback.print_stack()
        print("imported late:", module, file=sys.stderr)


sys.meta_path.insert(0, NoImports())


def numbers():
    return memoryview(bytearray(16)).cast("d")


READING = {
    "addr": lambda h: h.addr(),
    "closed": lambda h: h.closed,
    "created": lambda h: h.created,
    "flush": lambda h: h.flush(),
    "getbuffer": lambda h: h.getbuffer()[:1].tobytes(),
    "isatty": lambda h: h.isatty(),
    "mode": lambda h: h.mode,
    "name": lambda h: h.name,
    "read": lambda h: (h.seek(0), h.read(), h.seek(0), h.read(1)),
    "read1": lambda h: h.read1(1),
    "readable": lambda h: h.readable(),
    "readall": lambda h: (h.seek(0), h.readall(), h.seek(0)),
    "readinto": lambda h: (h.readinto(numbers()), h.readinto(bytearray(3))),
    "readinto1": lambda h: h.readinto1(numbers()),
    "readline": lambda h: (h.readline(), h.readline(3)),
    "readlines": lambda h: h.readlines(20),
    "seek": lambda h: (h.seek(10_000), h.seek(-1, 2), h.seek(0)),
    "seekable": lambda h: h.seekable(),
    "size": lambda h: h.size(),
    "tell": lambda h: h.tell(),
    "writable": lambda h: h.writable(),
}
WRITING = {
    "write": lambda h: (h.write(b"x"), h.write(numbers()), h.write(b"")),
    "writelines": lambda h: h.writelines([b"y"]),
}
AT_LAST = {
    "fileno": lambda h: (h.fileno(), h.seek(3), h.read(2)),
    "truncate": lambda h: h.truncate(50),
    "close": lambda h: h.close(),
}
OPERATORS = {
    "iter": lambda h: (h.seek(0), list(h)),
    "next": lambda h: next(h, None),
    "repr": repr,
    "pickle": pickle.dumps,
    "text": lambda h: (h.seek(0), io.TextIOWrapper(h, "utf-8").detach()),
    "lock": lambda h: (filelock.trylock(h, "r"), filelock.query(h, "r"), filelock.unlock(h)),
}
for kind, h in memory.items():
    public = {each for each in dir(h) if not each.startswith("_")}
    assert public <= {*READING, *WRITING, *AT_LAST}, public - {*READING, *WRITING, *AT_LAST}
    for what, call in {**READING, **WRITING, **OPERATORS, **AT_LAST}.items():
        refused = {"fileno"} if kind.startswith("strfile") or kind == "part" else set()
        refused |= {"lock"} if kind.startswith("strfile") else set()
        refused |= set() if h.mode == "rb+" else {"write", "writelines"}
        try:
            call(h)
            assert what not in refused, (kind, what)
        except io.UnsupportedOperation:
            assert what in refused, (kind, what)
        assert not (what == "close") or h.closed

for kind, s in semaphores.items():
    assert s.value == 3 and s.dec() and s.dec(0) and s.dec(1) and not s.dec(0) and not s.dec(0.01)
    s.inc()
    s.inc(2)
    assert s.acquire(timeout=1) and s.acquire(False)
    s.release()
    s.release(1)
    with s:
        assert s.name and s.closed is False and s.created in (True, False) and s.undo == (kind == "undo") and repr(s)
    pickle.dumps(s)
for s in semaphores.values():
    s.close()

assert filelock.lock(one, "rw", 0, 4)
assert not filelock.trylock(other, "rw", 0, 4)
try:
    filelock.lock(other, "rw", 0, 4, timeout=0.05)
except TimeoutError:
    pass
assert filelock.query(other, "rw", 0, 4)[:3] == (0, 4, "rw")
filelock.unlock(one)
with filelock.locked(other, "rw", timeout=1):
    pass
one.close()
other.close()

cat = children["cat"]
cat.write("hé\\n")
assert next(cat) == ("stdout", "hé\\n")
cat.write(proc.EOF)
assert cat.wait(30) and cat.nowait() and repr(cat) and cat.pending == 0
assert children["exit"].wait(30)


async def wait():
    return await children["busy"].wait_async(0.01)


assert asyncio.run(wait()) is None
for call in children["busy"].kill, children["as busy"].close:
    try:  # the child still has the rights that its parent gave up
        call()
    except PermissionError:
        pass
    else:
        raise AssertionError
# Nor is its collection an error, nor the end of the interpreter.
del call
children.clear()
"""


@pytest.mark.root
@pytest.mark.needs("files", "users", "fork", "proc")
@pytest.mark.parametrize("become", ["user", "chroot"])
def test_handles_go_on_after_the_rights_are_given_up(become, name, tmp_path):
    """Every method, called for the first time, without an import; what the kernel refuses is an error that says so."""
    (tmp_path / "empty").mkdir()
    try:
        run(PROGRAM, tmp_path / "file", name, tmp_path / "empty", become)
    finally:
        for module, left in (shm, name), (sem, name), (sem, f"{name}u"):
            with pytest.raises(FileNotFoundError):  # it could not remove the names, but it no longer holds them
                module.attach(left)


OF_OTHER_KINDS = """
import asyncio, encodings.idna, os, sys
from contextlib import suppress
from ipcio import event, mutex, queue

name, empty, become = sys.argv[1:]
handles = {}
for perm in 0o600, 0o666:
    known = f"{name}{perm}"
    handles[perm] = mutex.create(known, perm=perm), event.create(known, perm=perm), queue.create(known, 100, perm=perm)
if become == "chroot":
    os.chroot(empty)
    os.chdir("/")
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.path.clear()


async def use(m, e, q):
    assert await m.acquire_async(1)
    m.release()
    assert not await e.wait_async(0.01)
    await q.put_async(b"1")
    assert await q.get_async() == b"1"


for m, e, q in handles.values():
    assert not m.locked() and m.owner is None and not m.abandoned and not m.recursive and repr(m)
    with m:
        assert m.locked() and m.owner == os.getpid()
        m.notify_all()
        assert not m.wait(0.01) and m.wait_for(lambda: True)
    assert m.acquire(timeout=1)
    m.release()
    assert not e.is_set() and not e.wait(0.01) and repr(e)
    e.set()
    assert e.wait()
    e.clear()
    q.put(b"1")
    assert q.qsize() == 1 and not q.empty() and not q.full() and repr(q)
    assert q.get() == b"1"
    q.put_nowait(b"2")
    assert q.get_into(bytearray(9)) == 1
    for get in q.get_nowait, lambda: q.get(timeout=0.01):
        with suppress(queue.Empty):
            get()
            raise AssertionError
    with q.writer() as writer, q.reader() as reader:
        writer.write(b"3")
        assert reader.read(9) == b"3"
    asyncio.run(use(m, e, q))
    q.shutdown()
    assert list(q) == []
    for each in m, e, q:
        each.close()
"""


@pytest.mark.root
@pytest.mark.needs("files", "users", "fork", "proc")
@pytest.mark.parametrize("become", ["user", "chroot"])
def test_mutexes_events_and_queues_go_on_too(become, name, tmp_path):
    (tmp_path / "empty").mkdir()
    try:
        run(OF_OTHER_KINDS, name, tmp_path / "empty", become)
    finally:
        for module in event, mutex, queue:
            for perm in 0o600, 0o666:
                with pytest.raises(FileNotFoundError):  # as above
                    module.attach(f"{name}{perm}")
