"""``ipcio gc``: what it removes, what it reports, what it leaves."""

from __future__ import annotations

from contextlib import closing

import pytest
from children import leave_orphan
from named_contract import NOBODY, SOMEBODY
from namespaces import can_go_apart
from semaphores import crash_safe, unlinked, works

pytest.importorskip("fcntl", reason="the system removes what is orphaned")

pytestmark = pytest.mark.needs("files")


@pytest.mark.able(probe=can_go_apart)
def test_gc_removes_orphans_and_nothing_else(apart):
    """It prints their names.  Only this test uses this /dev/shm, so every line of it is known."""
    other = apart()
    other.run("""
from ipcio._posix import objects

def unlinked(name, **options):
    s = sem.create(name, undo=True, **options)
    sem.unlink(name)
    return s

def in_the_making(make):
    objects._has_tmpfile = lambda: False
    real = os.link
    os.link = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    make()

for make in (
    lambda: shm.create("orphan segment", 10),
    lambda: sem.create("orphan", 1),
    lambda: sem.create("orphan undo", 1, undo=True),
    lambda: unlinked("orphan unlinked"),
    lambda: unlinked("orphan unlinked persistent", persist=True),
    lambda: in_the_making(lambda: shm.create("never", 10)),
    lambda: in_the_making(lambda: sem.create("never", 1)),
    lambda: in_the_making(lambda: sem.create("never undo", 1, undo=True)),
):
    leave_orphan(make)
alive = [
    shm.create("segment", 10), sem.create("plain", 1), sem.create("undo", 1, undo=True), unlinked("unlinked"),
    shm.create("kept segment", 10, persist=True), sem.create("kept", 1, persist=True),
    sem.create("kept undo", 1, undo=True, persist=True),
]
for kept in alive[-3:]:
    kept.close()
del kept, alive[-3:]
with open("/dev/shm/foreign segment", "wb") as file:
    file.write(b"x")
with open("/dev/shm/sem.foreign", "wb") as file:
    file.write(libc.new_semaphore(32, 1))
open("/dev/shm/.hidden", "x").close()
os.mkdir("/dev/shm/directory", 0o1777)
os.chmod("/dev/shm/directory", 0o1777)
os.mkfifo("/dev/shm/fifo")
os.chmod("/dev/shm/fifo", 0o1666)
os.symlink("nothing", "/dev/shm/link")
before = entries()
""")
    status, output, errors = other.ask("command('gc')")
    assert (status, errors) == (0, "")
    lines = sorted(line for line in output.splitlines() if ".ipcio-" not in line)
    assert lines == [
        "sem never undo",
        "sem orphan",
        "sem orphan undo",
        "sem orphan unlinked",
        "sem orphan unlinked persistent",
        "shm orphan segment 10 bytes",
    ]
    assert len(output.splitlines()) == len(lines) + 2  # what was in the making has no name yet
    after = other.ask("entries()")
    hidden = [entry for entry in after if entry.startswith(".ipcio")]
    assert len(hidden) == other.ask("sets()") == 3
    assert [entry for entry in after if entry not in hidden] == [
        ".hidden",
        "directory",
        "fifo",
        "foreign segment",
        "kept segment",
        "link",
        "segment",
        "sem.foreign",
        "sem.kept",
        "sem.kept undo",
        "sem.plain",
        "sem.undo",
    ]
    assert other.ask("command('gc')") == (0, "", "")
    assert other.ask("entries()") == after
    other.run("for s in alive[1:]: assert s.dec(0) and s.inc()")
    other.run("for s in alive: s.close()")
    other.run("for name in ('kept', 'kept undo'): sem.unlink(name)")
    other.run("shm.unlink('kept segment')")
    assert other.ask("sets()") == 0


@pytest.mark.root
@pytest.mark.needs("users", "objects for others")
@pytest.mark.able(probe=can_go_apart)
def test_gc_of_a_user_leaves_the_orphans_of_others(apart):
    """The super-user's takes them all."""
    other = apart()
    other.run(f"""
from ipcio._inventory import remove_orphans

def as_user(user, function):
    def child():
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        return function()
    return Forked(child).result()

def make():
    sem.create(f"plain {{os.getuid()}}", 1)
    for perm in (0o600, 0o666, 0):
        leave_orphan(lambda: sem.create(f"undo {{perm:o}} {{os.getuid()}}", 1, undo=True, perm=perm))
        leave_orphan(lambda: sem.create(f"plain {{perm:o}} {{os.getuid()}}", 1, perm=perm))

for user in {NOBODY}, {SOMEBODY}:
    as_user(user, make)
""")
    names = [f"{kind} {perm}" for kind in ("plain", "undo") for perm in ("0", "600", "666")]
    for user, sets in ((NOBODY, 3), (SOMEBODY, 0)):
        wanted = other.ask(f"sorted(as_user({user}, lambda: [each[:3] for each in remove_orphans(dry_run=True)]))")
        found = other.ask(f"sorted(as_user({user}, lambda: [each[:3] for each in remove_orphans()]))")
        assert found == wanted == [("sem", f"{name} {user}", None) for name in names]
        assert other.ask("sets()") == sets
        assert other.ask(f"as_user({user}, lambda: [each[:3] for each in remove_orphans()])") == []
    assert other.ask("entries()") == []
    other.run(f"as_user({NOBODY}, make)")
    assert other.ask("sorted(each[:3] for each in remove_orphans())") == [
        ("sem", f"{name} {NOBODY}", None) for name in names
    ]
    assert other.ask("entries(), sets()") == ([], 0)


def test_gc_finds_unlinked_orphans_and_leaves_what_is_in_use(left):
    """This is so in the /dev/shm of the system, too."""
    name = left.tag
    leave_orphan(lambda: unlinked(name))
    with closing(unlinked(name)) as s, closing(crash_safe(name)) as new:
        assert left.collect() in ([("sem", name, None)], [])  # another run's `gc` may have been faster
        assert left.collect() == []
        assert len(left.sets()) == 2
        assert works(s)
        assert works(new)
    assert left.all() == ([], [])
