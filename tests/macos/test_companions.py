"""Named objects that are no files (macOS): what keeps them alive, and what is left of them after every kind of end.

The processes here see Linux as `as_macos` shows it, whatever this one sees.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import time
from functools import partial

import peers
import pytest
from campaigns import rounds
from peers import Peer, PeerError

fcntl = pytest.importorskip("fcntl")
pytestmark = [pytest.mark.needs("fork", "witness"), pytest.mark.usefixtures("root")]

AS_MACOS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "as_macos")
KINDS = {
    "shm": ("shm.create({!r}, 5000{})", "shm.attach({!r})", "shm.unlink({!r})"),
    "sem": ("sem.create({!r}, 3{})", "sem.attach({!r})", "sem.unlink({!r})"),
    "undo": ("sem.create({!r}, 3, undo=True{})", "sem.attach({!r})", "sem.unlink({!r})"),
}
ROUNDS = 25


class Kind:
    """How to say to a peer what is to be done, and what there is to see of it from outside."""

    def __init__(self, kind: str, name: str, root) -> None:
        self.kind, self.name = kind, name
        self.create, self.attach, self.unlink = (call.format(name, "{}") for call in KINDS[kind])
        self.object = f"/dev/shm/{name if kind == 'shm' else f'sem.{name}'}"
        self.directory = f"{root}/ipcio-{os.geteuid()}"

    def make(self, options: str = "") -> str:
        return f"h = {self.create.format(options)}"

    def is_there(self) -> bool:
        """Whether the real thing is; a crash-safe semaphore is its companion."""
        return bool(self.companions()) if self.kind == "undo" else os.path.exists(self.object)

    def companions(self) -> list[str]:
        return os.listdir(self.directory) if os.path.isdir(self.directory) else []

    def nothing(self) -> bool:
        return not os.path.exists(self.object) and not self.companions()


@pytest.fixture(scope="session", autouse=True)
def peers_as_macos():
    """Peers of these tests are forks, too: of a process in which ipcio finds only what macOS has."""
    peers.serve(AS_MACOS)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A directory of this test's for companions."""
    monkeypatch.syspath_prepend(AS_MACOS)
    return tmp_path


@pytest.fixture
def peer(root, peer):
    """Peers that find nothing but what macOS has, and the companions there."""
    return partial(peer, f"import ipcio._posix.companion_paths as places\nplaces.ROOT = {str(root)!r}")


def new_kind(kind: str, root):
    found = Kind(kind, new_name(), root)
    yield found
    assert not os.path.exists(found.object)


def new_name() -> str:
    return f"ipcio-{os.getpid()}-{random.getrandbits(48):012x}"


@pytest.fixture(params=KINDS)
def kind(request, root):
    yield from new_kind(request.param, root)


@pytest.fixture(params=["shm", "sem"])
def plain(request, root):
    """One behind which there is a POSIX object, which a crash-safe semaphore has none of."""
    yield from new_kind(request.param, root)


@pytest.fixture
def name():
    """Short enough, and nothing is left under it."""
    made = new_name()
    yield made
    assert not [entry for entry in os.listdir("/dev/shm") if made in entry]


def refusal(peer: Peer, code: str) -> tuple[str, int | None]:
    with pytest.raises(PeerError) as caught:
        peer.run(code)
    return caught.value.kind, caught.value.errno


def test_the_last_handle_takes_all_along(kind, peer):
    a, b = peer(kind.make()), peer()
    b.run(f"h = {kind.attach}")
    a.run("h.close()")
    assert kind.is_there()
    b.run(f"again = {kind.attach}")
    b.run("again.close(); h.close()")
    assert kind.nothing()
    assert refusal(a, kind.attach) == ("FileNotFoundError", errno.ENOENT)


def test_a_name_is_had_once(kind, peer):
    a, b = peer(kind.make()), peer()
    assert refusal(b, kind.make()) == ("FileExistsError", errno.EEXIST)
    b.run(kind.make(", exist_ok=True"))
    assert b.ask("h.created") is False
    a.run("h.close()")
    b.run("h.close()")
    assert kind.nothing()


def test_a_killed_process_holds_nothing(kind, peer):
    a, b = peer(kind.make()), peer()
    a.kill()
    assert kind.is_there()
    assert refusal(b, kind.attach) == ("FileNotFoundError", errno.ENOENT)
    assert kind.nothing()
    b.run(kind.make())
    b.run("h.close()")


def test_gc_finds_orphans_and_nothing_else(kind, peer):
    a, b = peer(kind.make()), peer("from ipcio._inventory import remove_orphans")
    assert b.ask("[each[:3] for each in remove_orphans()]") == []
    a.kill()
    assert b.ask("[each[:3] for each in remove_orphans()]") == [
        ("shm", kind.name, 5000) if kind.kind == "shm" else ("sem", kind.name, None)
    ]
    assert kind.nothing()


def test_a_child_goes_on(kind, peer):
    a = peer(kind.make(), "r, w = os.pipe()", "pid = os.fork()\nif not pid: os.read(r, 1); os._exit(0)")
    b = peer()
    a.run("h.close()")
    b.run(f"h = {kind.attach}")
    b.run("h.close()")
    a.run("os.write(w, b'!'); os.waitpid(pid, 0)")
    assert refusal(b, kind.attach) == ("FileNotFoundError", errno.ENOENT)
    assert kind.nothing()


def test_persistent_ones_stay_until_they_are_unlinked(kind, peer):
    a = peer(kind.make(", persist=True"), "h.close()")
    assert kind.is_there()
    a.kill()
    b = peer("from ipcio._inventory import remove_orphans")
    assert b.ask("[each[:3] for each in remove_orphans()]") == []
    b.run(f"h = {kind.attach}")
    b.run(kind.unlink)
    assert refusal(b, kind.attach) == ("FileNotFoundError", errno.ENOENT)
    assert refusal(b, kind.unlink) == ("FileNotFoundError", errno.ENOENT)
    b.run("h.close()")
    assert kind.nothing()


def test_unlink_frees_the_name_at_once(kind, peer):
    a, b = peer(kind.make()), peer()
    b.run(kind.unlink)
    b.run(kind.make())
    a.run("h.close()")  # takes nothing of the new one along
    assert kind.is_there()
    a.run(f"h = {kind.attach}")
    b.run("h.close()")
    a.run("h.close()")
    assert kind.nothing()


def test_the_owner_of_a_foreign_one(plain, peer):
    """The system says it of memory and not of a semaphore, and then `owner` refuses."""
    b = peer()
    make = (
        f"import _posixshmem; os.ftruncate(fd := _posixshmem.shm_open('/{plain.name}', os.O_CREAT | os.O_RDWR), 7)"
        "; os.close(fd)"
        if plain.kind == "shm"
        else f"import _multiprocessing; _multiprocessing.SemLock(1, 3, 9, '/{plain.name}', False)"
    )
    b.run(make)
    insisting = plain.attach.replace(")", ", owner=os.geteuid())")
    if plain.kind == "shm":
        b.run(insisting)
    else:
        assert refusal(b, insisting) == ("PermissionError", errno.EPERM)
    assert refusal(b, plain.attach.replace(")", ", owner=os.geteuid() + 1)")) == ("PermissionError", errno.EPERM)
    b.run(plain.unlink)
    b.run(plain.make())
    b.run(insisting)


def test_a_foreign_one_has_the_name(plain, peer):
    """Foreign objects are attached and never removed, but by `unlink`."""
    b = peer()
    make = (
        f"import _posixshmem; os.ftruncate(fd := _posixshmem.shm_open('/{plain.name}', os.O_CREAT | os.O_RDWR), 7)"
        "; os.close(fd)"
        if plain.kind == "shm"
        else f"import _multiprocessing; _multiprocessing.SemLock(1, 3, 9, '/{plain.name}', False)"
    )
    b.run(make)
    assert refusal(b, plain.make()) == ("FileExistsError", errno.EEXIST)
    assert plain.companions() == []
    if plain.kind == "sem":
        assert refusal(b, plain.make(", undo=True")) == ("FileExistsError", errno.EEXIST)
    b.run(f"h = {plain.attach}")
    b.run("h.close()")
    assert plain.is_there()
    b.run(plain.unlink)
    assert plain.nothing()


def test_an_unlink_from_outside_leaves_nothing_in_the_way(plain, peer):
    a, b = peer(plain.make()), peer()
    os.unlink(plain.object)
    assert refusal(b, plain.attach) == ("FileNotFoundError", errno.ENOENT)
    b.run(plain.make())
    a.run("h.close()")
    assert plain.is_there()
    b.run("h.close()")
    assert plain.nothing()


def test_who_is_stopped_in_mid_step_is_not_waited_for(kind, peer):
    a = peer("from ipcio._posix import lifetime; lifetime.PATIENCE = 0.2", kind.make())
    gate = os.open(kind.directory, os.O_RDONLY)
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        assert refusal(a, kind.unlink) == ("BlockingIOError", errno.EAGAIN)
    finally:
        os.close(gate)
    a.run(kind.unlink)
    a.run("h.close()")
    assert kind.nothing()


def test_a_persistent_one_that_is_gone_is_not_in_the_way(plain, peer):
    a = peer(plain.make(", persist=True"))
    os.unlink(plain.object)
    assert refusal(a, plain.attach) == ("FileNotFoundError", errno.ENOENT)
    a.run(plain.make())
    a.run("h.close()")
    assert plain.nothing()


def test_what_was_before_the_system_started_is_no_object_of_now(plain, peer):
    """Companions outlast the system, objects do not; what has the name now was made by another program."""
    a, b = peer(plain.make()), peer()
    a.kill()
    (companion,) = plain.companions()
    os.utime(f"{plain.directory}/{companion}", (1, 1))
    assert refusal(b, plain.make()) == ("FileExistsError", errno.EEXIST)
    assert plain.is_there()
    assert plain.companions() == []
    b.run(plain.unlink)


def test_a_kill_at_any_point_leaves_nothing_for_good(kind, peer):
    """SIGKILL at any moment of create, attach, close and unlink; `gc` finds all there is."""
    endless = (
        "while True:\n"
        f"    h = {kind.create.format('')}\n    o = {kind.attach}\n    o.close(); h.close()\n"
        f"    h = {kind.create.format(', persist=True')}\n    {kind.unlink}\n    h.close()\n"
    )
    collector = peer("from ipcio._inventory import remove_orphans", "import contextlib")
    for _ in range(ROUNDS):
        victim = peer()
        victim.send("run", endless)
        time.sleep(random.uniform(0, 0.01))
        victim.kill()
        collector.run("list(remove_orphans())")
        if not kind.nothing():  # killed with a persistent one, or in the middle of its unlink
            collector.run(f"with contextlib.suppress(OSError): {kind.unlink}")
        assert kind.nothing(), (kind.companions(), os.path.exists(kind.object))


def test_create_or_attach_from_all_sides(kind, peer):
    """Two processes at once, again and again: each gets one that is whole, never an error."""
    times = rounds(400)
    loop = (
        f"def go():\n    made = 0\n    for _ in range({times}):\n"
        f"        h = {kind.create.format(', exist_ok=True')}\n"
        "        made += h.created\n        h.close()\n    return made"
    )
    peers = [peer(loop), peer(loop)]
    for each in peers:
        each.send("ask", "go()")
    assert sum(each.answer() for each in peers) >= times // 2
    assert kind.nothing()


@pytest.mark.parametrize("size", [1, 4095, 4096, 5000])
def test_sizes_are_those_that_were_asked_for(name, peer, size):
    a, b = peer(f"h = shm.create({name!r}, {size})"), peer(f"h = shm.attach({name!r})")
    assert b.ask("h.size()") == size
    assert os.stat(f"/dev/shm/{name}").st_size % 4096 == 0
    assert refusal(a, "h.fileno()")[0] == "UnsupportedOperation"
    assert refusal(b, "h.write(bytes(h.size() + 1))") == ("OSError", errno.ENOSPC)


def test_names_that_a_file_system_may_take_for_one(root, name, peer):
    a = peer(f"n = {name!r}; a, b, c = [shm.create(n + end, at + 1) for at, end in enumerate(['Ab', 'aB', '%c3'])]")
    assert a.ask("shm.attach(n + 'Ab').size(), shm.attach(n + 'aB').size()") == (1, 2)
    entries = os.listdir(f"{root}/ipcio-{os.geteuid()}")
    assert len({entry.lower() for entry in entries}) == 3
    a.kill()
    b = peer("from ipcio._inventory import remove_orphans")
    found = [("shm", name + end, size) for end, size in (("%c3", 3), ("Ab", 1), ("aB", 2))]
    assert sorted(b.ask("[each[:3] for each in remove_orphans()]")) == found


def test_the_error_of_a_long_name_says_the_limit_of_macos(peer):
    a = peer()
    for call in ("shm.create(n, 1)", "shm.attach(n)", "shm.unlink(n)", "sem.create(n, undo=True)", "sem.attach(n)"):
        with pytest.raises(PeerError, match="30 bytes here, not 31") as caught:
            a.run(f"n = 'x' * 31; {call}")
        assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize("spoil", ["mode", "link", "file", "directory"])
def test_a_user_who_takes_the_name_of_the_directory_locks_no_other_user_out(root, name, peer, spoil):
    """The user's processes agree on another one, also when the first is free again."""
    path = f"{root}/ipcio-{os.geteuid()}"
    if spoil == "file":
        open(path, "x").close()
    elif spoil == "link":
        os.mkdir(f"{root}/other", 0o700)
        os.symlink(f"{root}/other", path)
    else:
        os.mkdir(path, 0o700)
        if spoil == "directory" and not os.geteuid():
            os.chown(path, 65534, 65534)
        else:
            os.chmod(path, 0o750)
    os.mkdir(f"{path}-1")  # open to others as well
    a, b = peer(f"h = shm.create({name!r}, 1), sem.create({name!r}, 3, undo=True)"), peer()
    assert stat.S_IMODE(os.stat(f"{path}-2").st_mode) == 0o700
    os.rmdir(path) if spoil in {"mode", "directory"} else os.unlink(path)
    assert b.ask(f"shm.attach({name!r}).size(), sem.attach({name!r}).value") == (1, 3)
    b.run(f"try: shm.create({name!r}, 1)\nexcept FileExistsError: pass\nelse: raise AssertionError")
    a.kill()
    b.run(f"shm.create({name!r}, 1).close(); sem.create({name!r}, 1).close()")
    assert os.listdir(f"{path}-2") == []
    assert not os.path.lexists(path)


def test_of_many_that_make_the_directory_at_once_one_does(root, name, peer):
    """While another process keeps the directory above locked."""
    peers = [peer() for _ in range(4)]
    fd = os.open(root, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    for index, each in enumerate(peers):
        each.send("run", f"h = sem.create({name!r} + str({index}), 1)")
    os.close(fd)
    for each in peers:
        each.answer()
    assert [entry for entry in os.listdir(root) if entry.startswith("ipcio-")] == [f"ipcio-{os.geteuid()}"]
    for index in range(4):
        peers[0].run(f"sem.attach({name!r} + str({index})).close()")


def test_the_directory_is_made_again(root, name, peer):
    a = peer("os.umask(0o777)", f"shm.create({name!r}, 1).close()")
    path = f"{root}/ipcio-{os.geteuid()}"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    os.rmdir(path)
    a.run(f"sem.create({name!r}).close()")
    assert os.listdir(path) == []


def test_permits_of_killed_processes_are_released(name, peer):
    a, b = peer(f"h = sem.create({name!r}, 2, undo=True)"), peer(f"h = sem.attach({name!r})")
    b.run("h.dec(); h.dec()")
    assert a.ask("h.dec(0.001)") is False
    a.send("ask", "h.dec(30)")
    b.kill()
    assert a.answer() is True
    assert a.ask("h.value") == 1


def test_no_more_permits_than_the_maximum(name, peer):
    a = peer(f"h = sem.create({name!r}, 32760)")
    assert refusal(a, "h.value")[0] == "NotImplementedError"
    assert refusal(a, "h.inc(8)")[0] == "OverflowError"
    assert refusal(a, "h.inc(40000)")[0] == "OverflowError"
    a.run("h.inc(7)")
    assert a.ask("sum(h.dec(0) for _ in range(40000))") == 32767


@pytest.mark.parametrize("perm", [0o600, 0o400, 0o640])
@pytest.mark.parametrize("module", ["shm", "sem"])
def test_permissions_are_what_is_left_by_the_umask(name, peer, module, perm):
    entry = name if module == "shm" else f"sem.{name}"
    a = peer("os.umask(0o002)", f"h = {module}.create({name!r}, 1, perm={perm})")
    assert stat.S_IMODE(os.stat(f"/dev/shm/{entry}").st_mode) == perm
    a.run("h.close()")


def test_companions_are_listed_in_place_of_objects(name, peer):
    n = name
    a = peer(f"n = {n!r}; h = shm.create(n, 5000, perm=0o640), sem.create(n, 3), sem.create(n + 'u', 4, undo=True)")
    a.run("kept = shm.create(n + 'p', 10, persist=True)")
    b = peer("from ipcio._inventory import list_objects, remove_orphans")

    def look():
        shown = "e.kind, e.name, e.size, e.value, e.undo, e.perm, e.state, e.holders"
        return b.ask(f"[({shown}) for e in list_objects()]")

    told = [
        ("shm", n, 5000, None, False, "0640", "live", []),
        ("shm", n + "p", 10, None, False, "0600", "persistent", []),
        ("sem", n, None, None, False, None, "live", []),
        ("sem", n + "u", None, 4, True, "0600", "live", []),
    ]
    assert look() == told
    os.unlink(f"/dev/shm/{n}p")  # by a foreign program: what stands for it is void
    assert look() == [told[0], *told[2:]]
    a.kill()
    assert look() == [(*entry[:6], "orphan", []) for entry in told if entry[6] == "live"]
    removed = b.ask("[each[:3] for each in remove_orphans()]")
    assert set(removed) == {("sem", n + "u", None), ("sem", n, None), ("shm", n, 5000)}
    assert look() == []
    b.run(f"shm.create({n + 'p'!r}, 1).close()")
