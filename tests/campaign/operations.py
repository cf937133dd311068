"""What is done to ipcio while it is killed or its calls fail: each operation, what is there before, what must be after.

An operation is run in a traced child (`tracing`).  This process is the survivor: it may hold the
name meanwhile, and in the end it is the next user, who must succeed.
"""

from __future__ import annotations

import contextlib
import os
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from children import fork_quietly, leave_orphan
from leftovers_linux import SHM, semaphore_name

from campaign.parts import new_name
from ipcio import event, filelock, mmap, mutex, proc, queue, sem, shm
from ipcio._inventory import remove_orphans
from ipcio._names import SEGMENTS
from ipcio._posix import inventory, libc

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE, VALUE = 100, 3
HELD = b"held by a survivor"
OLD, NEW = b"old content", b"new content"


class Scene:
    """A name and a file, and what this process holds of them while the child works."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self.held: Any = None
        self.keys: set[int] = set()
        self.leash, self.leashed = os.pipe()
        with open(path, "wb") as file:
            file.write(OLD)

    def look(self, calls=()) -> None:
        """Note the System V sets that there are, or were to be, for the name."""
        hidden = (entry for entry in entries(self.name) if entry.startswith(".ipcio-undo-"))
        self.keys.update(int(entry.rpartition("-")[2], 16) for entry in hidden)
        made = (call.arguments for call in calls if call.name == "semget")
        self.keys.update(key for key, _, flags, *_ in made if flags & libc.IPC_CREAT)

    def wait_for_descendants(self) -> None:
        """Wait until no process has the other end open, whatever program runs there."""
        os.close(self.leashed)
        self.leashed = -1
        assert os.read(self.leash, 1) == b""

    def end(self) -> None:
        if self.held is not None:
            self.held.close()
            self.held = None
        for fd in (self.leash, self.leashed):
            if fd >= 0:
                os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def entries(name: str) -> list[str]:
    """What there is in /dev/shm for a name, public and hidden."""
    known = {name, f"sem.{name}", *(prefix + name for prefix in SEGMENTS.values())}
    return [entry for entry in os.listdir(SHM) if semaphore_name(entry) in known]


def gc_of(name: str, found: list[str] | None = None) -> None:
    """``ipcio gc`` that sees no other names than this: others, who run beside, have their own orphans.

    `found` is what `entries` said before, for a process with counted calls.
    """
    stand_in = types.ModuleType("os")
    stand_in.__getattr__ = lambda attribute: getattr(os, attribute)
    stand_in.listdir = lambda _: entries(name) if found is None else found
    inventory.os = stand_in
    try:
        for _ in remove_orphans():
            pass
    finally:
        inventory.os = os


# -- operations --------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """`act(thing, scene)` is what is traced; `ready(scene)` makes the thing before, in the child."""

    name: str
    kind: str
    act: Callable[[Any, Scene], Any]
    before: Callable[[Scene], Any] = lambda _: None
    """In the survivor; what it returns stays held."""
    ready: Callable[[Scene], Any] = lambda _: None
    makes: bool = False
    """A handle, or nothing: if it raises, nothing at all may be left."""
    unlinks: bool = False
    persists: bool = False
    changes: tuple[int, ...] = (0,)
    """By how much a value may differ after a kill."""
    says: tuple[type[BaseException], ...] = ()
    """What it raises without any fault."""


def _hold(scene):
    handle = shm.create(scene.name, SIZE)
    handle.write(HELD)
    return handle


def _orphan(scene):
    leave_orphan(lambda: shm.create(scene.name, 2 * SIZE))


def _persistent(scene):
    shm.create(scene.name, SIZE, persist=True).close()


def _close(thing, _):
    thing.close()


def _fork(_, __):
    pid = fork_quietly()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


def _inherited(_, scene):
    scene.held.close()


def _shm():
    def create(**options):
        return lambda _, scene: shm.create(scene.name, SIZE, **options)

    def attach(mode="rw"):
        return lambda _, scene: shm.attach(scene.name, mode)

    def make(scene):
        return shm.create(scene.name, SIZE)

    def join(scene):
        return shm.attach(scene.name)

    def unlink(_, scene):
        shm.unlink(scene.name)

    def gc(found, scene):
        gc_of(scene.name, found)

    yield "create", create(), {"makes": True}
    yield "create sparse", create(reserve=False), {"makes": True}
    yield "create over an orphan", create(), {"before": _orphan, "makes": True}
    yield "create persistent", create(persist=True), {"persists": True, "makes": True}
    yield "create or attach, new", create(exist_ok=True), {"makes": True}
    yield "create or attach, held", create(exist_ok=True), {"before": _hold, "makes": True}
    yield "create, refused", create(), {"before": _hold, "makes": True, "says": (FileExistsError,)}
    yield "attach", attach(), {"before": _hold, "makes": True}
    yield "attach to read", attach("r"), {"before": _hold, "makes": True}
    yield "attach an orphan", attach(), {"before": _orphan, "makes": True, "says": (FileNotFoundError,)}
    yield "close, the only one", _close, {"ready": make}
    yield "close, one of two", _close, {"before": _hold, "ready": join}
    yield "close, inherited", _inherited, {"before": _hold}
    yield "unlink", unlink, {"before": _hold, "unlinks": True}
    yield "unlink persistent", unlink, {"before": _persistent, "unlinks": True, "persists": True}
    yield "unlink an orphan", unlink, {"before": _orphan, "unlinks": True, "says": (FileNotFoundError,)}
    yield "fork", _fork, {"ready": make}
    yield "fork with another holder", _fork, {"before": _hold, "ready": join}
    yield "gc", gc, {"before": _orphan, "ready": lambda scene: entries(scene.name)}


def _sem(undo):
    def make(scene, **options):
        return sem.create(scene.name, VALUE, undo=undo, **options)

    def create(**options):
        return lambda _, scene: make(scene, **options)

    def orphan(scene):
        leave_orphan(lambda: make(scene))

    def persistent(scene):
        make(scene, persist=True).close()

    def join(scene):
        return sem.attach(scene.name)

    def having(scene):
        semaphore = join(scene)
        assert semaphore.acquire(timeout=0)
        return semaphore

    def unlink(_, scene):
        sem.unlink(scene.name)

    def within(thing, _):
        with thing:
            os.getppid()

    def gc(found, scene):
        gc_of(scene.name, found)

    held = {"before": make}
    yield "create", create(), {"makes": True}
    yield "create over an orphan", create(), {"before": orphan, "makes": True}
    yield "create persistent", create(persist=True), {"persists": True, "makes": True}
    yield "create or attach, held", create(exist_ok=True), {**held, "makes": True}
    yield "create, refused", create(), {**held, "makes": True, "says": (FileExistsError,)}
    yield "attach", lambda _, scene: join(scene), {**held, "makes": True}
    yield (
        "attach an orphan",
        lambda _, scene: join(scene),
        {
            "before": orphan,
            "makes": True,
            "says": (FileNotFoundError,),
        },
    )
    yield "close, the only one", _close, {"ready": make}
    yield "close, one of two", _close, {**held, "ready": join}
    yield "close, inherited", _inherited, held
    yield "unlink", unlink, {**held, "unlinks": True}
    yield "unlink persistent", unlink, {"before": persistent, "unlinks": True, "persists": True}
    yield "unlink an orphan", unlink, {"before": orphan, "unlinks": True, "says": (FileNotFoundError,)}
    yield "inc", lambda thing, _: thing.inc(), {**held, "ready": join, "changes": (0, 1)}
    yield "dec", lambda thing, _: thing.dec(), {**held, "ready": join, "changes": (0,) if undo else (0, -1)}
    yield (
        "dec within a time",
        lambda thing, _: thing.dec(1),
        {
            **held,
            "ready": join,
            "changes": (0,) if undo else (0, -1),
        },
    )
    yield (
        "inc of what is held",
        lambda thing, _: thing.inc(),
        {
            **held,
            "ready": having,
            "changes": (0,) if undo else (0, -1),
        },
    )
    yield "with", within, {**held, "ready": join, "changes": (0,) if undo else (0, -1)}
    yield "fork", _fork, {**held, "ready": having, "changes": (0,) if undo else (-1,)}
    yield "gc", gc, {"before": orphan, "ready": lambda scene: entries(scene.name)}


def _named(module, *arguments):
    """What is true of mutexes, events and queues alike; `arguments` are those of `create` after the name."""

    def make(scene, **options):
        return module.create(scene.name, *arguments, **options)

    def create(**options):
        return lambda _, scene: make(scene, **options)

    def orphan(scene):
        leave_orphan(lambda: make(scene))

    def persistent(scene):
        make(scene, persist=True).close()

    def join(_, scene):
        return module.attach(scene.name)

    def unlink(_, scene):
        module.unlink(scene.name)

    def gc(found, scene):
        gc_of(scene.name, found)

    held = {"before": make}
    absent = {"before": orphan, "says": (FileNotFoundError,)}
    yield "create", create(), {"makes": True}
    yield "create over an orphan", create(perm=0o666), {"before": orphan, "makes": True}
    yield "create persistent", create(persist=True), {"persists": True, "makes": True}
    yield "create or attach, held", create(exist_ok=True), {**held, "makes": True}
    yield "attach", join, {**held, "makes": True}
    yield "attach an orphan", join, {**absent, "makes": True}
    yield "close, the only one", _close, {"ready": make}
    yield "close, one of two", _close, {**held, "ready": lambda scene: join(None, scene)}
    yield "unlink", unlink, {**held, "unlinks": True}
    yield "unlink persistent", unlink, {"before": persistent, "unlinks": True, "persists": True}
    yield "gc", gc, {"before": orphan, "ready": lambda scene: entries(scene.name)}


def _events():
    yield from _named(event)
    # With other permissions there is no call but futex(2), which is not traced, because Python makes it as well.
    used = {
        "before": lambda scene: event.create(scene.name, perm=0o666),
        "ready": lambda scene: event.attach(scene.name),
    }
    yield "set and clear", lambda e, _: (e.set(), e.clear())[0], used
    yield "wait", lambda e, _: bool(e.wait(0.001)), used


def _mutexes():
    def within(m, _):
        with m:
            os.getppid()

    def acquired(scene):
        m = mutex.attach(scene.name)
        m.acquire()
        return m

    yield from _named(mutex)
    used = {
        "before": lambda scene: mutex.create(scene.name, perm=0o666),
        "ready": lambda scene: mutex.attach(scene.name),
    }
    yield "with", within, used
    yield "acquire within a time", lambda m, _: (m.acquire(timeout=1), m.release())[0], used
    yield "release", lambda m, _: m.release(), {**used, "ready": acquired}


def _queues():
    def filled(scene):
        q = queue.create(scene.name, SIZE, perm=0o666)
        q.put(HELD)
        return q

    used = {"before": filled, "ready": lambda scene: queue.attach(scene.name)}
    yield from _named(queue, SIZE)
    yield "put", lambda q, _: q.put(NEW), {**used, "changes": (0, 1)}
    yield "get", lambda q, _: q.get(timeout=0), {**used, "changes": (0, -1)}


def _locks():
    def opened(scene):
        return open(scene.path, "r+b")

    def had(scene):
        file = opened(scene)
        filelock.lock(file)
        file.write(NEW)  # in the buffer
        return file

    def within(file, _):
        with filelock.locked(file, "rw", 2, 5):
            pass

    yield "lock", lambda file, _: filelock.lock(file), {"ready": opened}
    yield "lock within a time", lambda file, _: filelock.lock(file, timeout=1), {"ready": opened}
    yield (
        "lock, too late",
        lambda file, _: filelock.lock(file, timeout=0.002),
        {
            "before": had,
            "ready": opened,
            "says": (TimeoutError,),
        },
    )
    yield "unlock", lambda file, _: filelock.unlock(file), {"ready": had}
    yield "locked", within, {"ready": opened}


def _files():
    def into(path, mode):
        return mmap.open(path, mode)

    def change(handle, _):
        handle.write(NEW)
        handle.flush()

    yield "open", lambda _, scene: into(scene.path, "rw"), {"makes": True}
    yield "open to read", lambda _, scene: into(scene.path, "r"), {"makes": True}
    yield "write and flush", change, {"ready": lambda scene: into(scene.path, "rw")}
    yield "close", _close, {"ready": lambda scene: into(scene.path, "rw")}


def _children():
    def talk(_, scene):
        heard = []
        with proc.spawn(
            ["cat"], stdin=True, stdout=True, stderr=scene.leashed, callback=lambda _, data: heard.append(data)
        ) as child:
            child.write(NEW)
            child.write(proc.EOF)
            child.wait()
        return b"".join(heard)

    def leave(child, _):
        child.close()

    def cat(scene):
        return proc.spawn(["cat"], stdin=True, stderr=scene.leashed)

    yield "spawn, write, wait", talk, {}
    yield "close", leave, {"ready": cat}


def _all():
    undo = ("undo", lambda: _sem(undo=True))
    for kind, every in [("shm", _shm), ("sem", lambda: _sem(undo=False)), undo, ("lock", _locks)]:
        for name, act, options in every():
            yield Operation(f"{kind}: {name}", kind, act, **options)
    for kind, every in [
        ("mutex", _mutexes),
        ("event", _events),
        ("queue", _queues),
        ("mmap", _files),
        ("proc", _children),
    ]:
        for name, act, options in every():
            yield Operation(f"{kind}: {name}", kind, act, **options)


OPERATIONS = {operation.name: operation for operation in _all()}


def choose(rng, warm: set, path: str) -> Operation:
    """One of all; `warm` has the names of those that need no `warm_up` any more."""
    operation = OPERATIONS[rng.choice(sorted(OPERATIONS))]
    if operation.name not in warm:
        warm_up(operation, new_name(), path)
        warm.add(operation.name)
    return operation


def warm_up(operation: Operation, name: str, path: str) -> None:
    """Do it once in this process, so that no import is among its calls later."""
    scene = Scene(name, path)
    try:
        scene.held = operation.before(scene)
        scene.look()
        thing = operation.ready(scene)
        scene.look()
        made = None
        with contextlib.suppress(*operation.says):
            made = operation.act(thing, scene)
        for each in (made, thing):
            if hasattr(each, "close"):
                each.close()
    finally:
        scene.end()
        gc_of(name)  # which is to be warm, too
    for module in (shm, sem, mutex, event, queue):
        unlink = module.unlink
        with contextlib.suppress(FileNotFoundError):
            unlink(name)


# -- what must be after --------------------------------------------------------


def check(operation: Operation, scene: Scene, *, gc_first: bool) -> None:
    """Every invariant, when the child is gone: what is held is as it was, and the next user succeeds."""
    if operation.kind == "shm":
        _check_shm(operation, scene, gc_first=gc_first)
    elif operation.kind in {"sem", "undo"}:
        _check_sem(operation, scene, gc_first=gc_first)
    elif operation.kind in SEGMENTS:
        _check_named(operation, scene, gc_first=gc_first)
    elif operation.kind == "lock":
        _check_lock(scene)
    with open(scene.path, "rb") as file:
        assert file.read() in {OLD, NEW}, "a file has what nobody wrote"
    if operation.kind == "proc":
        scene.wait_for_descendants()


def _check_shm(operation, scene, *, gc_first):
    name = scene.name
    if gc_first:
        gc_of(name)
    if scene.held is not None:
        scene.held.seek(0)
        assert scene.held.read(len(HELD)) == HELD, "a survivor's memory has changed"
        try:
            with shm.attach(name) as again:
                assert again.read(len(HELD)) == HELD, "the name means other memory than the survivor's"
        except FileNotFoundError:
            assert operation.unlinks, "a survivor's name is gone"
        else:
            assert _raises(FileExistsError, shm.create, name, SIZE), "a survivor's name was given to another"
        scene.held.close()
        scene.held = None
    _next_user(operation, scene, shm.attach, shm.unlink, lambda: shm.create(name, SIZE), gc_first=gc_first)


def _check_sem(operation, scene, *, gc_first):
    name = scene.name
    if gc_first:
        gc_of(name)
    if scene.held is not None:
        assert scene.held.value - VALUE in operation.changes, f"{scene.held.value} permits where {VALUE} were"
        try:
            sem.attach(name).close()
        except FileNotFoundError:
            assert operation.unlinks, "a survivor's name is gone"
        else:
            assert _raises(FileExistsError, sem.create, name, 1), "a survivor's name was given to another"
        assert scene.held.dec(0), "a permit that is there cannot be taken"
        scene.held.inc()
        scene.held.close()
        scene.held = None
    undo = operation.kind == "undo"
    _next_user(operation, scene, sem.attach, sem.unlink, lambda: sem.create(name, 1, undo=undo), gc_first=gc_first)


def _check_named(operation, scene, *, gc_first):
    name, held = scene.name, scene.held
    module, arguments, use = NAMED[operation.kind]
    if gc_first:
        gc_of(name)
    if held is not None:
        use(held, operation)
        try:
            module.attach(name).close()
        except FileNotFoundError:
            assert operation.unlinks, "a survivor's name is gone"
        else:
            assert _raises(FileExistsError, module.create, name, *arguments), "a survivor's name was given to another"
        held.close()
        scene.held = None
    _next_user(
        operation, scene, module.attach, module.unlink, lambda: module.create(name, *arguments), gc_first=gc_first
    )


def _use_mutex(m, _):
    assert m.acquire(timeout=5), "a mutex stays with a process that was killed"
    m.release()
    with m:
        assert not m.abandoned


def _use_event(e, _):
    for _ in range(2):
        e.set()
        assert e.wait(0)
        e.clear()
        assert not e.wait(0)


def _use_queue(q, operation):
    count = q.qsize()
    assert operation.changes == (0,) or count - 1 in operation.changes, f"{count} messages where 1 was"
    q.put(OLD, timeout=5)
    messages = [q.get(timeout=5) for _ in range(count + 1)]
    assert messages[-1] == OLD
    assert set(messages[:-1]) <= {HELD, NEW}, messages
    assert not q.qsize()


NAMED = {
    "mutex": (mutex, (), _use_mutex),
    "event": (event, (), _use_event),
    "queue": (queue, (SIZE,), _use_queue),
}
"""The module, what `create` requires after the name, and how a survivor sees that all is well."""


def _next_user(operation, scene, attach, unlink, create, *, gc_first):
    """No process holds the name."""
    name = scene.name
    if operation.persists:
        with contextlib.suppress(FileNotFoundError):
            unlink(name)
    assert not gc_first or operation.persists or not entries(name), f"gc has left {entries(name)}"
    assert _raises(FileNotFoundError, attach, name), "a killed process holds a name"
    made = create()
    if operation.kind == "shm":
        assert made.read() == bytes(SIZE), "new memory has old bytes"
    scene.look()
    made.close()
    gc_of(name)
    assert not entries(name), f"gc has left {entries(name)}"
    left = [key for key in scene.keys if libc.semget(key, 0, 0) >= 0]
    assert not left, f"System V sets that nothing stands for: {left}"


def _check_lock(scene):
    with open(scene.path, "r+b") as other:
        if scene.held is not None:
            assert not filelock.trylock(other), "a survivor's lock is gone"
            scene.held.close()
            scene.held = None
        assert filelock.trylock(other), "a killed process has a lock"
        filelock.unlock(other)


def _raises(kind, function, *arguments):
    try:
        function(*arguments).close()
    except kind:
        return True
    return False
