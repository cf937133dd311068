"""Limits: worlds in which something is short, missing or somebody else's.

A world is entered by a forked process, in namespaces of its own, so nobody else notices.  There every operation
is done: it succeeds, or it is an `OSError` of a number that the world allows, names its object and leaves
nothing.  When the world is right again, every operation succeeds.
"""

from __future__ import annotations

import contextlib
import ctypes
import encodings.ascii
import errno
import gc
import io
import os
import pickle
import platform
import signal
import struct
import sys
import tempfile

from children import Event, Forked, leave_orphan
from namespaces import NEWNS, NEWPID, READ_ONLY, REMOUNT, SHM, c_call, can_go_apart, go_apart, mount

from campaign.parts import Unable, part
from ipcio import filelock, mmap, proc, sem, shm, strfile

NAME = "it"  # a short one will do where nobody else is


# -- every operation ---------------------------------------------------------------------------


def segment():
    with shm.create(NAME, 100) as h:
        h.write(b"here")
        with shm.attach(NAME, "r") as reader, pickle.loads(pickle.dumps(h)) as again:
            assert reader.read(4) == b"here"
            assert again.seek(0) == 0
            assert again.read(4) == b"here"
        assert os.fstat(h.fileno()).st_size == 100


def joined_segment():
    with shm.create(NAME, 5000, exist_ok=True) as h, shm.create(NAME, 5000, exist_ok=True) as again:
        assert (h.created, again.created) == (True, False)


def sparse_segment():
    shm.create(NAME, 1 << 30, reserve=False).close()


def persistent_segment():
    shm.create(NAME, 10, persist=True).close()
    _remove(shm)


def forked_segment():
    with shm.create(NAME, 100) as h:
        child = os.fork()
        if not child:
            os._exit(not h.write(b"from the child"))
        assert os.waitpid(child, 0)[1] == 0
        assert h.read(14) == b"from the child"


def _semaphore(**options):
    s = sem.create(NAME, 1, **options)
    try:
        other = sem.attach(NAME)
        try:
            assert s.dec(0)
            assert not other.dec(0)
            assert s.inc()
            assert other.value == 1
        finally:
            other.close()
    finally:
        s.close()
        if options.get("persist"):
            _remove(sem)


def _remove(module):
    """What persists is there until its removal is not refused."""
    try:
        module.unlink(NAME)
    except OSError:
        with spare():
            module.unlink(NAME)
        raise


def semaphore():
    _semaphore()


def persistent_semaphore():
    _semaphore(persist=True)


def safe_semaphore():
    _semaphore(undo=True)


def persistent_safe_semaphore():
    _semaphore(undo=True, persist=True)


def lock():
    with open(PATH, "r+b") as one, open(PATH, "r+b") as two:
        with filelock.locked(one, "rw", 10, 10, timeout=5):
            assert filelock.query(two, "r", 0, 0)[:3] == (10, 10, "rw")
            assert not filelock.trylock(two, "r", 15, 1)
        assert filelock.trylock(two, "r", 15, 1)


def mapped():
    with mmap.open(PATH, "rw") as h:
        h.write(b"data")
        h.flush()
        assert h.seek(0) == 0
        assert h.read(4) == b"data"


def string():
    assert strfile.open("text").read() == b"text"


def child():
    got = []
    with proc.spawn(["cat"], stdin=True, stdout=True, callback=lambda _, data: got.append(data)) as p:
        p.write(b"through", proc.EOF)
        assert p.wait()
    assert got == [b"through"]


def _command(*words):
    from ipcio import _cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = _cli.main(list(words))
    if status:
        raise OSError(_errno_in(err.getvalue()), err.getvalue(), words[0])


def _errno_in(text):
    return next((number for number in errno.errorcode if os.strerror(number) in text), 0)


def command_ls():
    _command("ls")


def command_gc():
    _command("gc")


OPERATIONS = [
    segment,
    joined_segment,
    sparse_segment,
    persistent_segment,
    forked_segment,
    semaphore,
    persistent_semaphore,
    safe_semaphore,
    persistent_safe_semaphore,
    lock,
    mapped,
    string,
    child,
    command_ls,
    command_gc,
]
NAMED = OPERATIONS[:9]
PATH = ""  # of a file with some bytes


def attempt(operation, *, leaves=()):
    """The number of the error, 0 for success; it must name its object and leave nothing, or a name if it may."""
    gc.collect()
    before = _here()
    try:
        operation()
        number = 0
    except OSError as error:
        number = error.errno
        assert number is not None, f"{operation.__name__}: {error!r} has no number"  # noqa: PT017 - no pytest here
        if error.filename is None and operation not in {lock, child}:
            raise AssertionError(f"{operation.__name__}: {error!r} names nothing") from error
    gc.collect()
    if operation in leaves:
        with spare():
            assert _number(shm.attach, NAME) == errno.ENOENT, "what is left is in use"  # and is removed
    after = _here()
    assert after == before, f"{operation.__name__} ({errno.errorcode.get(number, 'fine')}) made {before} {after}"
    return number


def _here():
    """What there is: names, and descriptors, which can be listed without /proc and without opening one."""
    try:
        with spare():
            names = sorted(os.listdir(SHM))
    except OSError as error:  # no such directory
        names = error.errno
    return names, sorted(_open_descriptors())


SPARE = []  # descriptors that are kept for looking around


@contextlib.contextmanager
def spare():
    """Have some descriptors free, if they are short."""
    for fd in SPARE:
        os.close(fd)
    yield
    for _ in SPARE:
        assert os.open("/dev/null", os.O_RDONLY) in SPARE


def _open_descriptors():
    for fd in range(256):
        with contextlib.suppress(OSError):
            os.fstat(fd)
            yield fd


# -- the worlds ----------------------------------------------------------------------------------

WORLDS = {}  # what a forked process is to do in each; it returns what it did
ROOT = set()  # those that only root can enter


def world(allowed, *, leaves=()):
    """A world that is right again when the generator goes on.

    `allowed` are the numbers that may be met until then: in all operations, or by operation.  What
    `leaves` something may leave an orphan.
    """

    def register(enter):
        def visit(rng):
            with file_of_bytes():
                found = {}
                with contextlib.contextmanager(enter)(rng):
                    for operation in OPERATIONS:
                        number = attempt(operation, leaves=leaves)
                        fine = allowed.get(operation, {0}) if isinstance(allowed, dict) else allowed
                        told = errno.errorcode.get(number, number)
                        assert number in fine, f"{enter.__name__}: {operation.__name__} gave {told}"
                        found[operation.__name__] = number
                for operation in OPERATIONS:
                    number = attempt(operation)
                    assert number == 0, f"after {enter.__name__}: {operation.__name__} gave {number}"
                assert os.listdir(SHM) == [], f"after {enter.__name__}: {os.listdir(SHM)}"
                return {"operations": len(found), "faults": sum(map(bool, found.values()))}

        WORLDS[enter.__name__] = visit
        return visit

    return register


@contextlib.contextmanager
def file_of_bytes():
    global PATH  # noqa: PLW0603 - of the forked process
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(100))
        file.flush()
        PATH = file.name
        yield


def _number(function, *arguments, **options):
    """The number of the error, 0 for success; what was opened is closed."""
    try:
        handle = function(*arguments, **options)
    except OSError as error:
        assert error.filename == arguments[0], repr(error)  # noqa: PT017
        return error.errno
    if handle is not None:
        handle.close()
    return 0


@world({0, errno.ENOSPC})
def a_full_dev_shm(rng):
    go_apart()
    with open(f"{SHM}/filler", "wb") as file:
        file.write(bytes((1 << 20) - 4096 * rng.randrange(6)))
    yield
    os.unlink(f"{SHM}/filler")


@world({0, errno.ENOSPC})
def no_inode_free(rng):
    go_apart(f"nr_inodes={rng.randrange(1, 5)},mode=1777")
    yield
    mount(SHM, "nr_inodes=1000", REMOUNT)


# A fork that finds no descriptor for the shares shares them; so no process knows that it is the last.
@world({0, errno.EMFILE}, leaves=[forked_segment])
def open_files_short(rng):
    import resource

    go_apart()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    SPARE.extend(os.open("/dev/null", os.O_RDONLY) for _ in range(8))
    kept = []
    with contextlib.suppress(OSError):
        while True:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    for _ in range(rng.randrange(12)):
        os.close(kept.pop())
    yield
    for fd in kept + SPARE:
        os.close(fd)
    SPARE.clear()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _forget_what_was_found_out():
    from ipcio._posix import objects

    objects._has_tmpfile.cache_clear()


@world({0})
def no_proc(_):
    go_apart()
    mount("/proc", "size=4k")
    _forget_what_was_found_out()  # as a process that starts here, or calls for the first time
    yield
    _forget_what_was_found_out()


@world({operation: {errno.EROFS} for operation in NAMED})
def a_read_only_dev_shm(_):
    go_apart()
    mount(SHM, "", REMOUNT | READ_ONLY)
    yield
    mount(SHM, "", REMOUNT)


@world({operation: {errno.ENOENT} for operation in [*NAMED, command_ls, command_gc]})
def no_dev_shm(_):
    go_apart()
    mount("/dev")
    with open("/dev/null", "wb"):
        pass
    yield
    c_call("umount", b"/dev")


@world({safe_semaphore: {errno.ENOSPC, errno.EINVAL}, persistent_safe_semaphore: {errno.ENOSPC, errno.EINVAL}})
def no_system_v_set_free(_):
    go_apart()
    with open("/proc/sys/kernel/sem") as file:
        before = file.read()
    with open("/proc/sys/kernel/sem", "w") as out:
        out.write("32000 0 500 0")
    yield
    with open("/proc/sys/kernel/sem", "w") as out:
        out.write(before)


def a_world_of_its_own(*, root=False):
    """A world that is described in one piece."""

    def register(visit):
        WORLDS[visit.__name__] = visit
        if root:
            ROOT.add(visit.__name__)
        return visit

    return register


@a_world_of_its_own(root=True)  # an ordinary user, root in the namespace, does not own /var/tmp/ipcio-0
def a_python_started_without_dev_shm(_):
    """It goes the ways of systems where names are no files, and finds the C library without a place for them."""
    go_apart()
    mount("/dev")
    with open("/dev/null", "wb"):
        pass
    paths = [os.path.dirname(os.path.dirname(__file__)), *filter(None, sys.path)]
    code = "from campaign import limits; print(*map(limits.attempt, limits.NAMED))"
    with proc.spawn([sys.executable, "-c", code], stdout=True, env={**os.environ, "PYTHONPATH": ":".join(paths)}) as p:
        told = b"".join(data for _, data in p).split()
        assert p.wait()
    # The crash-safe ones need none.
    assert [int(number) for number in told] == [errno.ENOENT] * 7 + [0] * 2, told
    return {"operations": len(told), "faults": 7}


def refuse(call, number):
    """Have the kernel refuse a system call to this process from now on, as sandboxes do."""
    code = struct.Struct("HBBI")
    program = code.pack(0x20, 0, 0, 0)  # load the number of the call
    program += code.pack(0x15, 0, 1, call)
    program += code.pack(0x06, 0, 0, 0x00050000 | number)  # SECCOMP_RET_ERRNO
    program += code.pack(0x06, 0, 0, 0x7FFF0000)  # SECCOMP_RET_ALLOW
    buffer = ctypes.create_string_buffer(program)
    filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer)))
    c_call("prctl", 38, 1, 0, 0, 0)
    c_call("prctl", 22, 2, filters, 0, 0)


SEMGET = {"x86_64": 64, "aarch64": 190}.get(platform.machine(), 190)


@a_world_of_its_own()
def a_sandbox_without_system_v(rng):
    go_apart()
    number = rng.choice([errno.EPERM, errno.ENOSYS, errno.EACCES])
    refuse(SEMGET, number)
    with file_of_bytes():
        found = {operation: attempt(operation) for operation in OPERATIONS}
    refused = {operation for operation, told in found.items() if told}
    assert refused == {safe_semaphore, persistent_safe_semaphore}, found
    assert {found[operation] for operation in refused} == {number}, found
    assert os.listdir(SHM) == []
    return {"operations": len(found), "faults": len(refused)}


@a_world_of_its_own()
def a_pid_namespace_for_each_holder(rng):
    """Each holder is process 1 of its own: nothing may depend on numbers of processes."""
    go_apart()
    with file_of_bytes(), shm.create(NAME, 100) as h, contextlib.ExitStack() as stack:
        s = sem.create(NAME, 3, undo=True)
        stack.callback(s.close)
        file = stack.enter_context(open(PATH, "r+b"))
        own_proc = rng.random() < 0.5
        holders = []
        for place in range(2):
            ready, die = stack.enter_context(Event()), stack.enter_context(Event())
            holders.append((stack.enter_context(Forked(_hold_apart, place, own_proc, ready, die)), die))
            ready.wait()
            assert s.value == 2 - place
        for place in range(2):
            assert not filelock.trylock(file, "rw", place, 1)
            assert filelock.query(file, "r", place, 1)[:3] == (place, 1, "rw")
        order = rng.sample(range(2), 2)
        h.close()  # the others hold the name
        for left, place in zip((1, 0), order, strict=True):
            shm.attach(NAME).close()
            holder, die = holders[place]
            die.set()
            holder.result()
            assert s.value == 3 - left
            assert filelock.trylock(file, "rw", place, 1)
        assert _number(shm.attach, NAME) == errno.ENOENT
    assert os.listdir(SHM) == []
    return {"kills": 2, "operations": 8}


def _hold_apart(place, own_proc, ready, die):
    c_call("unshare", NEWPID | NEWNS)
    with Event() as holding:

        def hold():
            assert os.getpid() == 1
            if own_proc:
                c_call("mount", b"proc", b"/proc", b"proc", 0, None)
            kept = shm.attach(NAME), sem.attach(NAME), open(PATH, "r+b")
            assert kept[1].dec(5)
            filelock.lock(kept[2], "rw", place, 1, timeout=5)
            if place:
                assert not filelock.trylock(kept[2], "rw", 0, 1)
                assert filelock.query(kept[2], "rw", 0, 1)[:3] == (0, 1, "rw")
            command_ls()
            command_gc()
            holding.set()
            signal.pause()

        with Forked(hold) as holder:
            holding.wait()
            ready.set()
            die.wait()
            assert holder.kill() == -signal.SIGKILL


def many_names(count, rng):
    """So many names: some persistent, some orphaned; then all are listed, and all can be removed."""
    go_apart("size=50%,mode=1777")
    kinds = [rng.randrange(3) for _ in range(count)]
    persistent = [f"p{number}" for number, kind in enumerate(kinds) if kind == 0]
    dying = [(shm if kind == 1 else sem, f"d{number}") for number, kind in enumerate(kinds) if kind]
    for name in persistent:
        shm.create(name, 1, persist=True).close()
    batches = [dying[first : first + 300] for first in range(0, len(dying), 300)]
    for batch in batches:  # as many as one process may have open
        leave_orphan(lambda batch=batch: _Several([module.create(name, 1) for module, name in batch]))
    assert len(os.listdir(SHM)) == count
    out = io.StringIO()
    from ipcio import _cli

    with contextlib.redirect_stdout(out):
        assert _cli.main(["ls", "--json"]) == 0
    assert len(out.getvalue().splitlines()) >= count
    module, name = dying[0]
    module.create(name, 1).close()  # one of them is used again
    command_gc()
    assert sorted(os.listdir(SHM)) == sorted(persistent)
    for name in persistent:
        shm.unlink(name)
    assert os.listdir(SHM) == []
    return {"names": count, "kills": len(batches)}


class _Several:
    def __init__(self, handles):
        self._handles = handles

    def close(self):
        for handle in self._handles:
            handle.close()


@a_world_of_its_own()
def thousands_of_names(rng):
    return many_names(rng.choice([100, 1000, 10_000]), rng)


OWNER, GUEST = 65533, 65534


def _become(user):
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


@a_world_of_its_own(root=True)
def objects_of_another_user(rng):
    """A user without permission gets an error and harms nothing; a user with permission shares."""
    go_apart()
    module, options = rng.choice([(shm, {}), (sem, {}), (sem, {"undo": True})])
    perm = rng.choice([0o600, 0o644, 0o666])
    killed, persist = rng.choice([(False, False), (False, True), (True, False)])
    refused = {errno.EACCES, errno.EPERM}
    case = f"{module.__name__} {options} {perm:o} {killed=} {persist=}"

    command_ls()  # what it imports may not be readable afterwards
    command_gc()
    encodings.ascii.getregentry()

    def visit():
        _become(GUEST)
        attach = _number(module.attach, NAME)
        reader = _number(shm.attach, NAME, "r") if module is shm else attach
        if killed:
            assert attach in {errno.ENOENT, *(refused if perm != 0o666 else ())}, (case, attach)
        else:
            assert attach in ({0} if perm == 0o666 else refused), (case, attach)
            assert reader in ({0} if perm == 0o666 or (perm == 0o644 and module is shm) else refused), (case, reader)
        create = _number(module.create, NAME, 1, **options)
        assert create in (refused if killed else {errno.EEXIST}), (case, create)
        join = _number(module.create, NAME, 1, exist_ok=True, **options)
        assert join in ({0} if perm == 0o666 and not killed else refused), (case, join)
        unlink = _number(module.unlink, NAME)
        assert unlink in ({errno.ENOENT, *refused} if killed else refused), (case, unlink)
        command_ls()
        command_gc()
        return sum(map(bool, (attach, reader, create, join, unlink)))

    with Event() as ready, Event() as done:

        def own():
            _become(OWNER)
            handle = module.create(NAME, 1, perm=perm, persist=persist, **options)
            ready.set()
            done.wait()
            if killed:
                os.kill(os.getpid(), signal.SIGKILL)
            module.attach(NAME).close()  # it is there and whole, whatever others tried
            if persist:
                module.unlink(NAME)
            handle.close()

        with Forked(own) as owner:
            ready.wait()
            if killed:
                assert owner.kill() == -signal.SIGKILL
            faults = Forked(visit).result()
            if not killed:
                done.set()
                owner.result()
    command_gc()
    assert os.listdir(SHM) == [], (case, os.listdir(SHM))
    return {"operations": 7, "faults": faults, "kills": int(killed)}


@part("limits")
def setup(_place):
    if not can_go_apart():
        raise Unable("a process may not have namespaces of its own here")
    names = [name for name in WORLDS if name not in ROOT or os.geteuid() == 0]

    def one_round(rng):
        return Forked(WORLDS[rng.choice(names)], rng).result()

    yield one_round
