"""Anything may lie under a name in ``/dev/shm``: what others put there, and what they made of what ipcio had there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import types

from ipcio import event, sem, shm
from ipcio._inventory import list_objects, remove_orphans
from ipcio._posix import inventory, lifetime, sysv, undo_record

SHM = "/dev/shm"
TERABYTE = 1 << 40
SEM_T = 32
PERMS = [0o600, 0o600, 0o600, 0o644, 0o666, 0o400, 0o200, 0o000, 0o777]
MARKS = [0, 0, 0o1000, 0o1000, 0o2000, 0o4000, 0o3000, 0o7000, 0o1100]
SIZES = [0, 1, 16, *(size + more for size in (SEM_T, undo_record.SIZE) for more in (-1, 0, 1)), SEM_T, 4096, 4097]

# What a call may say.  All else, and a signal above all, is a loss.
REFUSALS = (OSError, ValueError, OverflowError)


class Scene:
    """What lies under one name, who watches it, and how all of it is taken away again."""

    def __init__(self, rng, place, name):
        self.rng = rng
        self.place = place
        self.name = name
        self.paths = [f"{SHM}/{name}", f"{SHM}/sem.{name}", f"{SHM}/ipcio.event.{name}"]  # as in KINDS_OF_CALLS
        self.exit = contextlib.ExitStack()
        self.told = []  # what was put there, for who reads of a loss
        self.keys = set()  # of System V sets
        self.safe = {}  # paths that no call may remove or change, and what they were
        self.loose = set()  # of those, what `unlink` may take

    def guard(self, path, *, loose=False):
        self.safe[path] = identity(path)
        if loose:
            self.loose.add(path)

    def check(self):
        for path, known in self.safe.items():
            now = identity(path)
            assert now == known, f"{path} was {known} and is {now}: {self.told}"

    def away(self):
        """Remove it all, also what a loss has left."""
        self.exit.close()
        for path in [
            *self.paths,
            *(f"{path}-2" for path in self.paths),
            *(f"{SHM}/{undo_record.ANCHOR}{key:08x}" for key in self.keys),
        ]:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    for entry in os.listdir(path):
                        os.unlink(f"{path}/{entry}")
                    os.rmdir(path)
                else:
                    os.unlink(path)
        for key in self.keys:
            number = sysv.find(key, os.geteuid())
            if number is not None:
                sysv.remove(number)


def identity(path):
    """What a file is, in all that ipcio could change about it."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return None
    return info.st_ino, info.st_mode, info.st_uid, info.st_size, info.st_nlink


# -- what may lie there ------------------------------------------------------


def content(rng, size):
    """Bytes that are likely to be taken for something."""
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(size)
    if kind == 1:
        return rng.randbytes(size)
    if kind == 2:  # numbers as a semaphore has them
        words = [rng.choice([0, 1, 2, 127, 128, 129, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]) for _ in range(size // 4 + 1)]
        return b"".join(word.to_bytes(4, "little") for word in words)[:size]
    return forged(rng, rng.randrange(1 << 31), rng.choice([-1, 0, rng.randrange(1 << 20)]), b"x")[:size].ljust(size)


def forged(rng, key, persists, name):
    """A record of a crash-safe semaphore, of which anybody may write one."""
    tail = rng.choice([name, b"", b"../../../etc/passwd", b"\xff" * 256, rng.randbytes(256), b"."])
    return undo_record._RECORD.pack(bytes(64), undo_record._MAGIC, key, persists, tail[:256])


def sealed(rng, path, number=-1):
    """Have it look as if nobody but its owner had written it, as a rule."""
    if rng.random() < 0.7:
        time = undo_record._SEAL + 1 + number
        os.utime(path, ns=(time, time), follow_symlinks=False)


def plain_file(scene, path):
    rng = scene.rng
    size = rng.choice([*SIZES, rng.randrange(200)])
    with open(path, "xb") as file:
        file.write(content(rng, size))
    if rng.random() < 0.1:
        os.truncate(path, rng.choice([TERABYTE, 1 << 62]))
        size = TERABYTE
    mode = rng.choice(PERMS) | rng.choice(MARKS)
    os.chmod(path, mode)
    sealed(rng, path)
    marked = mode & stat.S_ISVTX
    lock = rng.choice([0, 0, fcntl.LOCK_SH, fcntl.LOCK_EX]) if marked or rng.random() < 0.2 else 0
    if lock:
        fd = open_anyhow(path, mode)
        scene.exit.callback(os.close, fd)
        fcntl.flock(fd, lock)
    if not marked:
        scene.guard(path, loose=True)
    return f"{size} bytes, mode {mode:#o}, lock {lock}"


def open_anyhow(path, mode):
    os.chmod(path, 0o600)
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.chmod(path, mode)


def fifo(scene, path):
    os.mkfifo(path, 0o600 | scene.rng.choice(MARKS))
    scene.guard(path, loose=True)


def unix_socket(scene, path):
    listener = scene.exit.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(path)
    os.chmod(path, 0o600 | scene.rng.choice(MARKS))
    scene.guard(path, loose=True)


def directory(scene, path):
    os.mkdir(path)
    os.chmod(path, scene.rng.choice([0o700, 0o1777, 0o3700]))
    if scene.rng.random() < 0.5:
        with open(f"{path}/inner", "xb"):
            pass
        scene.guard(f"{path}/inner")
    scene.guard(path)


def device(scene, path):
    if os.geteuid():
        return fifo(scene, path)
    major, minor = scene.rng.choice([(1, 3), (1, 5), (1, 7), (1, 8), (5, 0), (5, 2), (250, 250)])
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(major, minor))
    os.chmod(path, 0o600 | scene.rng.choice(MARKS))
    scene.guard(path, loose=True)
    return f"{major}:{minor}"


def link(scene, path):
    target = f"{scene.place}/{os.path.basename(path)}"
    with open(target, "wb") as file:
        file.write(b"t" * scene.rng.choice([SEM_T, 4096]))
    os.chmod(target, scene.rng.choice([0o600, 0o1600]))
    targets = [target, f"{target}-of-nothing", os.path.basename(path), "/etc/passwd", SHM, scene.paths[0], "/dev/zero"]
    to = scene.rng.choice(targets)
    os.symlink(to, path)
    scene.exit.callback(os.unlink, target)
    for each in target, f"{target}-of-nothing", "/etc/passwd":
        scene.guard(each)
    scene.guard(path, loose=True)
    return to


def hard_link(scene, path):
    """A second name for a foreign file, or for a segment in use."""
    other = f"{path}-2"
    if scene.rng.random() < 0.5:
        h = shm.create(os.path.basename(other), 100)
        scene.exit.callback(h.close)
        os.link(other, path)
        return "of a segment"
    with open(other, "xb") as file:
        file.write(bytes(SEM_T))
    os.link(other, path)
    return "of a file"


def damaged(scene, path):
    """What ipcio made, in use or orphaned, with some bits of its file turned or with other marks."""
    rng = scene.rng
    if path == scene.paths[0]:
        handle = shm.create(scene.name, rng.choice(SIZES) or 1, persist=rng.random() < 0.3)
    elif path == scene.paths[2]:
        handle = event.create(scene.name, perm=rng.choice([0o600, 0o666]), persist=rng.random() < 0.3)
    else:
        crash_safe = rng.random() < 0.8
        handle = sem.create(scene.name, 3, undo=crash_safe, persist=rng.random() < 0.3)
    scene.exit.callback(close_anyhow, handle)
    told = []
    with open(path, "r+b", buffering=0) as file:
        data = file.read()
        if len(data) == undo_record.SIZE and path == scene.paths[1]:
            scene.keys.add(undo_record.read(file.fileno(), os.fstat(file.fileno())).key)
        times = os.fstat(file.fileno())
        for _ in range(rng.randrange(3)):
            at = rng.randrange(min(len(data), 100) * 8)
            byte = data[at // 8] ^ 1 << at % 8
            os.pwrite(file.fileno(), bytes([byte]), at // 8)
            told.append(f"bit {at}")
        if rng.random() < 0.7:
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    if rng.random() < 0.3:
        mode = rng.choice(PERMS) | rng.choice(MARKS)
        os.chmod(path, mode)
        told.append(f"mode {mode:#o}")
    if isinstance(handle, sem.Semaphore) and not handle.undo:  # it is mapped, and would be touched no more
        return f"{handle!r}: {told}"
    if rng.random() < 0.2:
        os.truncate(path, rng.choice(SIZES))
        told.append(f"{os.path.getsize(path)} bytes")
    if rng.random() < 0.3:
        handle.close()
        told.append("closed")
    return f"{type(handle).__name__}: {told}"  # to show its state would touch what was truncated


def close_anyhow(handle):
    with contextlib.suppress(*REFUSALS):
        handle.close()


def forgery(scene, path):
    """A record that names the set of another semaphore, in use; or of none."""
    victim = scene.victim
    with open(f"{SHM}/sem.{victim.name}", "rb") as file:
        record = undo_record.read(file.fileno(), os.fstat(file.fileno()))
    key = scene.rng.choice([record.key, record.key ^ 1, 0, 1])
    number = scene.rng.choice([record.number, -1, record.number + 1])
    name = os.fsencode(scene.rng.choice([victim.name, scene.name]))
    with open(path, "xb") as file:
        file.write(forged(scene.rng, key, scene.rng.choice([0, 1]), name))
    sealed(scene.rng, path, number)
    os.chmod(path, 0o600 | scene.rng.choice(MARKS))
    return f"key {key}, number {number}"


KINDS_OF_CALLS = "shm", "sem", "event"
KINDS = plain_file, plain_file, plain_file, fifo, unix_socket, directory, device, link, link, hard_link
KINDS += damaged, damaged, damaged, forgery


# -- what is done with it ----------------------------------------------------


def touch_memory(h):
    h.read(1)
    h.seek(-1, os.SEEK_END)
    h.read(1)


def touch_semaphore(s):
    with contextlib.suppress(OSError, OverflowError):  # EIDRM, or more permits than can be
        if s.value >= 0 and s.dec(0):
            s.inc()


def touch_event(e):
    e.set()
    e.wait(0)
    e.clear()
    e.wait(0.0001)
    repr(e)


def collect(scene):
    """What ``ipcio gc`` does, with these names alone, for others are at work on this machine."""

    def listdir(path):
        anchors = {f"{undo_record.ANCHOR}{key:08x}" for key in scene.keys}
        return [entry for entry in os.listdir(path) if scene.name in entry or entry in anchors]

    real, inventory.os = inventory.os, types.SimpleNamespace(**{**vars(os), "listdir": listdir})
    try:
        for each in remove_orphans():
            assert each.kind in KINDS_OF_CALLS
            assert isinstance(each.name, str)
            assert each.size is None or each.size >= 0
    finally:
        inventory.os = real


def look(_):
    for entry in list_objects():
        assert entry.kind in {*KINDS_OF_CALLS, "mutex", "queue"}
        assert entry.state in {"live", "orphan", "persistent", "foreign"}
        assert isinstance(entry.name, str)


def opened(touch, call):
    def do(scene):
        handle = call(scene.name)
        try:
            touch(handle)
        finally:
            handle.close()

    return do


CALLS = {
    "shm.attach": opened(touch_memory, shm.attach),
    "shm.attach r": opened(touch_memory, lambda name: shm.attach(name, "r")),
    "shm.create": opened(touch_memory, lambda name: shm.create(name, 100)),
    "shm.create or attach": opened(touch_memory, lambda name: shm.create(name, 100, exist_ok=True)),
    "shm.unlink": lambda scene: shm.unlink(scene.name),
    "sem.attach": opened(touch_semaphore, sem.attach),
    "sem.create": opened(touch_semaphore, lambda name: sem.create(name, 2)),
    "sem.create undo": opened(touch_semaphore, lambda name: sem.create(name, 2, undo=True)),
    "sem.create or attach": opened(touch_semaphore, lambda name: sem.create(name, 2, exist_ok=True)),
    "sem.unlink": lambda scene: sem.unlink(scene.name),
    "event.attach": opened(touch_event, event.attach),
    "event.create": opened(touch_event, event.create),
    "event.create or attach": opened(touch_event, lambda name: event.create(name, exist_ok=True)),
    "event.unlink": lambda scene: event.unlink(scene.name),
    "gc": collect,
    "ls": look,
}


def attack_names(rng, place, name):
    """Put something there, use the name in every way in some order, and see that nobody else came to harm."""
    lifetime.PATIENCE = 0.02
    scene = Scene(rng, place, name)
    counts = {"faults": 1, "calls": 0}
    with contextlib.ExitStack() as last:
        last.callback(scene.away)
        scene.victim = sem.create(None, 5, undo=True)
        last.callback(scene.victim.close)
        scene.victim.dec()
        for path in rng.choice([*([path] for path in scene.paths), scene.paths]):
            kind = rng.choice(KINDS)
            scene.told.append((kind.__name__, path, kind(scene, path)))
        for call in rng.sample(list(CALLS), len(CALLS)):
            use(scene, call)
            counts["calls"] += 1
        assert scene.victim.value == 4, scene.told
        sem.attach(scene.victim.name).close()
    return counts


def use(scene, call):
    scene.told.append(call)
    try:
        CALLS[call](scene)
    except REFUSALS as error:
        told = not isinstance(error, OSError) or (error.errno is not None and error.filename == scene.name)
        if not told:
            raise AssertionError(f"{error!r} of {error.filename!r}: {scene.told}") from error
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {error}: {scene.told}") from error
    if call.endswith("unlink"):
        path = scene.paths[KINDS_OF_CALLS.index(call.partition(".")[0])]
        if path in scene.loose and not os.path.lexists(path):
            del scene.safe[path]
            scene.loose.discard(path)
    scene.check()
