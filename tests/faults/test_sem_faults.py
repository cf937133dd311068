"""As test_faults, for semaphores: every call fails, is interrupted, is the last one before a SIGKILL in turn.

To the calls of `os` and `fcntl` come those of the C library: System V semaphores and
``sem_open``.  The System V sets that a test makes are written down as they are asked
for, so that each one can be looked for in the end, whoever made it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import gc
import mmap
import os
import signal
import struct
import subprocess
import sys
import types
from contextlib import closing

import children
import pytest
from abilities import semaphore_file
from campaigns import places
from children import Forked, leave_dead, watch_calls
from named_contract import NOBODY, SOMEBODY
from peers import PeerError
from troubles import interrupt_after, interrupt_before, locked_by_others
from waiting import blocked

from ipcio import sem

pytest.importorskip("fcntl", reason="system calls can be failed in forked children only")

from leftovers_linux import semaphore_name

import ipcio._posix.objects
from ipcio._posix import libc, litter, sysv, undo
from ipcio._posix.sem import PosixSemaphore

pytestmark = pytest.mark.needs("files")  # for the others, see test_companions

SHM = "/dev/shm"
SYSTEM_V = ("semget", "semctl", "semop", "semtimedop")


# -- calls in other hands --------------------------------------------------------


class Plan:
    """What is to happen at which call of those made in its ``with`` block."""

    def __init__(self, patch):
        self.at = -1
        self.calls = []
        self.trouble = None
        self._on = False
        more = (*children.CALLS[os], "access", "chmod", "pread", "pwrite", "write")
        patch.setitem(children.CALLS, os, more)
        watch_calls(self._call, patch.setattr)
        for name in SYSTEM_V:
            patch.setattr(libc, name, self._watched(name, getattr(libc, name)))
        patch.setattr(PosixSemaphore, "_rebuild", staticmethod(self._watched("_rebuild", PosixSemaphore._rebuild)))

    def trouble_at(self, at, trouble):
        self.at = at
        self.trouble = trouble
        self.calls = []
        return self

    def __enter__(self):
        self._on = True

    def __exit__(self, *_):
        self._on = False

    @property
    def reached(self):
        return len(self.calls) > self.at

    @property
    def hit(self):
        """The call that was in trouble."""
        return self.calls[self.at] if self.reached else None

    def _watched(self, name, real):
        return lambda *args: self._call(name, args, lambda: real(*args))

    def _call(self, name, args, call):
        if not self._on or name in {"monotonic", "sleep"}:
            return call()
        self.calls.append(name)
        if len(self.calls) - 1 == self.at:
            return self.trouble(name, args, call)
        return call()


@pytest.fixture
def plan(left, monkeypatch):
    assert left  # which looks at the calls, too, and first
    return Plan(monkeypatch)


def fails_with(number):
    def trouble(name, args, call):
        if name in SYSTEM_V:  # EACCES is how a set of somebody else is met, which is no trouble
            ctypes.set_errno(errno.EPERM if number == errno.EACCES else number)
            return -1
        if name == "access":
            return False
        if name == "close":  # Linux closes, whatever it says
            call()
        raise OSError(number, os.strerror(number), *args[: name in {"link", "open", "stat", "unlink"}])

    return trouble


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


TROUBLES = {
    "EIO": fails_with(errno.EIO),
    "EACCES": fails_with(errno.EACCES),
    "locked": locked_by_others,
    "interrupt before": interrupt_before,
    "interrupt after": interrupt_after,
}


# -- what a test leaves ----------------------------------------------------------


class Litter:
    """What may be left of the semaphores whose names contain `tag`: entries in /dev/shm, System V sets."""

    def __init__(self, tag, real):
        self.tag = tag
        self._semget = real
        self._keys = mmap.mmap(-1, 1 << 18)  # memory that children share: a number, then so many keys

    def semget(self, key, number, flags):
        if flags & libc.IPC_CREAT:
            count = 1 + struct.unpack_from("i", self._keys)[0]
            struct.pack_into("i", self._keys, 4 * count, key)
            struct.pack_into("i", self._keys, 0, count)
        return self._semget(key, number, flags)

    def sets(self):
        """The keys of those that are there."""
        count = struct.unpack_from("i", self._keys)[0]
        return [key for key in struct.unpack_from(f"{count}i", self._keys, 4) if self._semget(key, 0, 0) >= 0]

    def entries(self):
        return [entry for entry in os.listdir(SHM) if self.tag in semaphore_name(entry)]

    def all(self):
        return self.entries(), self.sets()

    def collect(self):
        """Do what `ipcio gc` does, but leave those of other tests alone, which may be about the dead."""
        ours = types.SimpleNamespace(**{**vars(os), "listdir": lambda _: self.entries()})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(litter, "os", ours)
            return list(litter.collect())

    def clear(self):
        """Leave the machine clean even if the test failed, and fail it if it has not."""
        entries, sets = self.all()
        sets += [int(entry[-8:], 16) for entry in entries if entry.startswith(".ipcio-undo-")]  # made by peers
        for key in sets:
            number = self._semget(key, 0, 0)
            if number >= 0:
                sysv.remove(number)
        for entry in entries:
            os.unlink(f"{SHM}/{entry}")
        assert (entries, sets) == ([], [])


@pytest.fixture
def left(unique, monkeypatch):
    found = Litter(unique(), libc.semget)
    monkeypatch.setattr(libc, "semget", found.semget)
    yield found
    gc.collect()
    found.clear()


@pytest.fixture(params=["O_TMPFILE", "temporary name"])
def way(request, monkeypatch, left):
    """Both ways to make an object without showing it half-made."""
    if request.param == "temporary name":
        monkeypatch.setattr(ipcio._posix.objects, "_has_tmpfile", lambda: False)
    elif not ipcio._posix.objects._has_tmpfile():
        pytest.skip("no O_TMPFILE in /dev/shm")
    monkeypatch.setattr(ipcio._posix.objects, "invent_name", lambda: f"{left.tag}-{os.urandom(4).hex()}")
    return request.param


def path_of(name):
    return semaphore_file(name)


def there(name):
    return os.path.lexists(path_of(name))


def lives(name):
    try:
        sem.attach(name).close()
    except FileNotFoundError:
        return False
    return True


def works(s, value=3):
    return s.value == value and s.dec(0) and s.value == value - 1 and s.inc() and s.value == value


def descriptors():
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


# -- what is there, and what is done -----------------------------------------------


def plain(name, **options):
    return sem.create(name, 3, **options)


def crash_safe(name, **options):
    return sem.create(name, 3, undo=True, **options)


def foreign(name):
    with open(path_of(name), "xb") as file:
        file.write(libc.new_semaphore(32, 3))


def unlinked(name):
    s = crash_safe(name)
    sem.unlink(name)
    return s


def prepare(state, name):
    """Bring the name into a state; return the holder that keeps it so, if any."""
    kind, _, what = state.partition(" ")
    make = {"plain": plain, "undo": crash_safe, "foreign": foreign}.get(kind)
    if what == "dead":
        leave_dead(lambda: make(name))
    elif what == "persistent":
        make(name, persist=True).close()
    elif what == "persistent, held":
        return make(name, persist=True)
    elif make is not None:
        return make(name)
    return None


def either(name):
    return plain(name, exist_ok=True)


# what is there before, and what is done
OPENING = {
    "create plain": ("", plain),
    "create plain persistent": ("", lambda name: plain(name, persist=True)),
    "create plain for nobody": ("", lambda name: plain(name, perm=0)),
    "create undo": ("", crash_safe),
    "create undo persistent": ("", lambda name: crash_safe(name, persist=True)),
    "create plain over a dead plain one": ("plain dead", plain),
    "create plain over a dead undo one": ("undo dead", plain),
    "create undo over a dead plain one": ("plain dead", crash_safe),
    "create undo over a dead undo one": ("undo dead", crash_safe),
    "create undo refused": ("undo", crash_safe),
    "create or attach plain": ("plain", either),
    "create or attach undo": ("undo", either),
    "create or attach over a dead undo one": ("undo dead", either),
    "attach plain": ("plain", sem.attach),
    "attach undo": ("undo", sem.attach),
    "attach plain persistent": ("plain persistent", sem.attach),
    "attach undo persistent": ("undo persistent", sem.attach),
    "attach foreign": ("foreign", sem.attach),
    "attach dead plain": ("plain dead", sem.attach),
    "attach dead undo": ("undo dead", sem.attach),
    "unlink plain": ("plain", sem.unlink),
    "unlink undo": ("undo", sem.unlink),
    "unlink plain persistent": ("plain persistent", sem.unlink),
    "unlink undo persistent": ("undo persistent", sem.unlink),
    "unlink undo persistent, held": ("undo persistent, held", sem.unlink),
    "unlink dead plain": ("plain dead", sem.unlink),
    "unlink dead undo": ("undo dead", sem.unlink),
    "unlink foreign": ("foreign", sem.unlink),
}


def scenarios(of):
    """Every scenario, and every one that is about making something in both ways."""
    both = [(scenario, "O_TMPFILE") for scenario in of]
    both += [(scenario, "temporary name") for scenario in of if "create" in scenario and not OPENING[scenario][0]]
    return pytest.mark.parametrize(("scenario", "way"), both, indirect=["way"])


# -- a call fails or is interrupted ------------------------------------------------


@pytest.mark.parametrize("trouble", TROUBLES)
@scenarios(OPENING)
@pytest.mark.usefixtures("way")
def test_a_call_that_fails_or_is_interrupted_leaves_nothing(left, plan, scenario, trouble):
    """Not a name, not a set, not a descriptor, not a lock; and the error tells the errno and the name."""
    name = left.tag
    state, act = OPENING[scenario]
    stays = state == "foreign" or "persistent" in state
    for at in places():
        before = descriptors()
        holder = prepare(state, name)
        outcome = error = None
        try:
            with plan.trouble_at(at, TROUBLES[trouble]):
                outcome = act(name)
        except (OSError, KeyboardInterrupt) as caught:
            error = caught.with_traceback(None)
        told = f"{trouble} at call {at} of {plan.calls}: {error!r}"
        if isinstance(error, OSError):
            assert error.errno is not None, told
            assert error.filename == name, told
        elif error is not None:
            assert "interrupt" in trouble, told
        if error and "create" in scenario and plan.hit not in {"unlink", "semctl"}:
            gc.collect()
            if not state:
                assert left.all() == ([], []), told
            elif state.endswith("dead"):
                assert not lives(name), told
        if (state in {"plain", "undo"} or stays) and "unlink" not in scenario:
            assert lives(name), told
        if outcome is not None:
            assert works(outcome), told
            outcome.close()
        if holder is not None:
            assert works(holder), told
            holder.close()
        outcome = holder = None
        gc.collect()
        assert descriptors() == before, told
        if (stays or "persistent" in scenario) and lives(name):
            sem.unlink(name)
        assert not lives(name), told
        with closing(crash_safe(name)) as again:
            assert again.created, told
            assert works(again), told
        left.collect()
        assert left.all() == ([], []), told
        if not plan.reached:
            break
    assert at, "no call was seen"


CLOSING = {
    "the last": (lambda name, make: make(name), 0),
    "one of two": (lambda name, make: make(name), 1),
    "an unlinked one": (lambda name, make: [make(name), sem.unlink(name)][0], 0),
}
KINDS = {"plain": plain, "undo": crash_safe}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("scenario", CLOSING)
@pytest.mark.parametrize("kind", KINDS)
def test_a_close_that_fails_or_is_interrupted_has_closed(left, plan, kind, scenario, trouble):
    """The handle is closed, its descriptors are gone, it holds the name no more, and others still do."""
    name = left.tag
    prepared, others = CLOSING[scenario]
    for at in places():
        before = descriptors()
        s = prepared(name, KINDS[kind])
        rest = [sem.attach(name) for _ in range(others)]
        error = None
        try:
            with plan.trouble_at(at, TROUBLES[trouble]):
                s.close()
        except (OSError, KeyboardInterrupt) as caught:
            error = caught.with_traceback(None)
        told = f"{trouble} at call {at} of {plan.calls}: {error!r}"
        if isinstance(error, OSError):
            assert error.errno is not None, told
        assert s.closed, told
        s.close()
        assert lives(name) == bool(rest), told
        for other in rest:
            assert works(other), told
            other.close()
        s = rest = other = None
        gc.collect()
        assert descriptors() == before, told
        assert not lives(name), told
        left.collect()
        assert left.all() == ([], []), told
        if not plan.reached:
            break
    assert at, "no call was seen"


# -- killed in the middle ----------------------------------------------------------


def run_killed(plan, act, at):
    """In a child: do `act`, and be killed before call `at`.  Return whether it came to that.

    Killed after a call is killed before the next one, and after the last call is killed
    while holding.
    """

    def child():
        with plan.trouble_at(at, kill):
            return [act()]  # alive until we are gone

    with Forked(lambda: len(child())) as forked:
        return forked.wait() == -signal.SIGKILL


def look(way, name):
    """Do one of the calls that find out about a name whose holders are dead."""
    if way in {"attach", "unlink"}:
        with pytest.raises(FileNotFoundError):
            getattr(sem, way)(name)
    elif way != "gc":
        with closing(KINDS[way](name)) as s:
            assert s.created
            assert works(s)


LOOKS = ("attach", "plain", "unlink", "undo", "gc")


@scenarios([scenario for scenario, (state, _) in OPENING.items() if state in {"", "plain dead", "undo dead"}])
def test_a_call_that_is_killed_leaves_a_free_name(left, plan, way, scenario):
    """The next call, whichever it is, finds nobody there, and `gc` what else there is."""
    name = left.tag
    state, act = OPENING[scenario]

    def call():
        with contextlib.suppress(FileNotFoundError):
            return act(name)

    for at in places():
        prepare(state, name)
        killed = run_killed(plan, call, at)
        told = f"killed before call {at}"
        if "persistent" in scenario and lives(name):
            sem.unlink(name)
        else:
            then = LOOKS[(at + len(scenario)) % len(LOOKS)]
            look(then, name)
            assert not there(name) or then == "gc", told
            if way == "O_TMPFILE" and not {then, *scenario.split()} & {"undo", "gc"}:
                assert left.all() == ([], []), told
        left.collect()
        assert left.all() == ([], []), told
        assert not lives(name), told
        if not killed:
            break
    assert at


GUESTS = {
    "attach": sem.attach,
    "create refused": crash_safe,
    "create or attach": either,
    "close": lambda name: sem.attach(name).close(),
}


@pytest.mark.parametrize("scenario", GUESTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_guest_that_is_killed_does_not_disturb(left, plan, kind, scenario):
    """It neither keeps the name nor takes it along, and not the set either."""
    name = left.tag

    def guest():
        with contextlib.suppress(FileExistsError):
            return GUESTS[scenario](name)

    for at in places():
        with closing(KINDS[kind](name)) as s:
            killed = run_killed(plan, guest, at)
            assert works(s)
            with closing(sem.attach(name)) as other:
                assert works(other)
            with pytest.raises(FileExistsError):
                plain(name)
            left.collect()
            assert works(s)
        assert left.all() == ([], [])
        if not killed:
            break
    assert at


@pytest.mark.parametrize("state", ["plain", "undo", "plain persistent, held", "undo persistent, held"])
def test_an_unlink_that_is_killed_is_done_or_not(left, plan, state):
    """Handles go on with their semaphore in either case, and the last one is the end of it."""
    name = left.tag
    for at in places():
        with closing(prepare(state, name)) as s:
            killed = run_killed(plan, lambda: sem.unlink(name), at)
            if there(name):
                with closing(sem.attach(name)) as other:
                    assert works(other)
            else:
                with closing(crash_safe(name)) as new:
                    assert works(new)
            assert works(s)
        if "persistent" in state and lives(name):
            sem.unlink(name)
        s = None
        if "persistent" in state:
            left.collect()
        assert left.all() == ([], [])
        if not killed:
            break
    assert at


def test_an_unlink_of_a_persistent_one_that_nobody_holds_and_that_is_killed_is_done_or_not(left, plan):
    name = left.tag
    for at in places():
        prepare("undo persistent", name)
        killed = run_killed(plan, lambda: sem.unlink(name), at)
        if lives(name):
            sem.unlink(name)
        left.collect()
        assert left.all() == ([], [])
        if not killed:
            break
    assert at


@pytest.mark.parametrize("scenario", [scenario for scenario, (_, others) in CLOSING.items() if not others])
@pytest.mark.parametrize("kind", KINDS)
def test_a_last_close_that_is_killed_is_the_end_of_the_name(left, plan, kind, scenario):
    name = left.tag
    for at in places():
        killed = run_killed(plan, lambda: CLOSING[scenario][0](name, KINDS[kind]).close(), at)
        look(LOOKS[at % len(LOOKS)], name)
        left.collect()
        assert left.all() == ([], [])
        if not killed:
            break
    assert at


@pytest.mark.parametrize("state", ["undo dead", "undo dead, unlinked"])
def test_what_a_killed_gc_has_not_done_the_next_one_does(left, plan, state):
    name = left.tag
    for at in places():
        if state == "undo dead":
            prepare(state, name)
        else:
            leave_dead(lambda: unlinked(name))
        killed = run_killed(plan, left.collect, at)
        left.collect()
        assert left.all() == ([], [])
        if not killed:
            break
    assert at


# -- resources at their limit ------------------------------------------------------

_APART = """
import resource
from children import Forked, leave_dead
from command import run as command
from ipcio._posix import libc

def apart(*, shm="", limit="", ipc=0x08000000):  # CLONE_NEWIPC
    c = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if c.unshare(ipc | (0x00020000 if shm else 0) | (0x10000000 if user else 0)):  # CLONE_NEWNS, CLONE_NEWUSER
        raise OSError(ctypes.get_errno(), "unshare")
    if user:
        for file, line in [("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")]:
            with open(f"/proc/self/{file}", "w") as out:
                out.write(line)
    if shm:
        if c.mount(None, b"/", None, 0x40000 | 0x4000, None):  # MS_PRIVATE, MS_REC
            raise OSError(ctypes.get_errno(), "mount")
        if c.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, shm.encode()):
            raise OSError(ctypes.get_errno(), "mount")
    if limit:
        with open("/proc/sys/kernel/sem", "w") as out:
            out.write(limit)

def entries():
    return sorted(os.listdir("/dev/shm"))

def sets():
    with open("/proc/sysvipc/sem") as table:
        return len(table.readlines()) - 1

def refused(call):
    try:
        call()
    except OSError as error:
        return error.errno, error.filename, error.strerror
"""


def _can(options):
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    code = f"import ctypes, os\n{_APART}\napart({options})"
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    return not done.returncode


@functools.cache
def can_mount():
    """Whether a process may have mounts and an IPC namespace of its own here; many a container says no."""
    return _can("shm='size=1m'")


@functools.cache
def can_limit():
    """Whether it may also say how many System V semaphores there are to be in it."""
    return _can("shm='size=1m', limit='32000 1024000000 500 1'")


@functools.cache
def can_part():
    """Whether it may at least have an IPC namespace of its own."""
    return _can("")


@pytest.fixture
def apart(peer):
    """Make a peer with a ``/dev/shm`` and with System V semaphores of its own, which go when it ends."""

    def make(limit="", shm="size=1m"):
        other = peer(_APART)
        other.run(f"apart(shm={shm!r}, limit={limit!r})")
        assert other.ask("entries(), sets()") == ([], 0)
        return other

    return make


@pytest.mark.able(probe=can_limit)
@pytest.mark.parametrize("limit", ["32000 1024000000 500 1", "32000 1 500 128"], ids=["sets", "semaphores"])
def test_no_system_v_semaphore_left_is_an_error_that_names_the_limit(apart, limit):
    """And that leaves nothing; plain ones have no such limit, and what is closed makes room."""
    other = apart(limit)
    other.run("first = sem.create('first', 1, undo=True)")
    before = other.ask("entries(), sets()")
    for options in ("", ", persist=True", ", exist_ok=True"):
        number, filename, text = other.ask(f"refused(lambda: sem.create('second', 1, undo=True{options}))")
        assert (number, filename) == (errno.ENOSPC, "second")
        assert "kernel.sem" in text
        assert other.ask("entries(), sets()") == before
    assert other.ask("sem.create('first', exist_ok=True, undo=True).undo")
    other.run("s = sem.create('second', 1); s.close()")
    other.run("first.close(); s = sem.create('second', 1, undo=True); s.dec(); s.close()")
    assert other.ask("entries(), sets()") == ([], 0)


@pytest.mark.able(probe=can_limit)
def test_a_dead_crash_safe_one_makes_room_for_its_successor(apart):
    """Under its own name at once, under another one once `gc` has been."""
    other = apart("32000 1024000000 500 1")
    for options in ("", ", exist_ok=True"):
        other.run("leave_dead(lambda: sem.create('same', 1, undo=True))")
        assert other.ask("sets()") == 1
        other.run(f"s = sem.create('same', 2, undo=True{options}); assert s.created; s.close()")
        assert other.ask("entries(), sets()") == ([], 0)
    other.run("leave_dead(lambda: sem.create('same', 1, undo=True))")
    assert other.ask("refused(lambda: sem.create('other', 1, undo=True))[0]") == errno.ENOSPC
    assert other.ask("command('gc')") == (0, "sem same\n", "")
    other.run("s = sem.create('other', 1, undo=True); s.close()")
    assert other.ask("entries(), sets()") == ([], 0)


@pytest.mark.able(probe=can_mount)
@pytest.mark.parametrize("undo", [False, True])
def test_a_full_dev_shm_is_enospc_and_leaves_nothing(apart, undo):
    """What the dead left under the name makes room first."""
    other = apart()
    other.run("""
def fill():
    with open("/dev/shm/filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
""")
    other.run("fill()")
    for options in ("", ", persist=True", ", exist_ok=True"):
        number, filename, _ = other.ask(f"refused(lambda: sem.create('x', 1, undo={undo}{options}))")
        assert (number, filename) == (errno.ENOSPC, "x")
        assert other.ask("entries(), sets()") == (["filler"], 0)
    for dead in (False, True):
        other.run("os.unlink('/dev/shm/filler')")
        other.run(f"leave_dead(lambda: sem.create('x', 1, undo={dead})); fill()")
        assert other.ask("refused(lambda: sem.create('y', 1))[0]") == errno.ENOSPC
        other.run(f"s = sem.create('x', 2, undo={undo}); assert s.created and s.value == 2")
        other.run("t = sem.attach('x'); t.dec(); t.inc(); sem.unlink('x'); s.close(); t.close()")
        assert other.ask("entries(), sets()") == (["filler"], 0)


@pytest.mark.able(probe=can_mount)
@pytest.mark.parametrize("undo", [False, True])
def test_no_inode_left_is_enospc_and_leaves_nothing(apart, undo):
    """Names count as such, too."""
    other = apart()
    other.run(
        """
def attempt(inodes):
    ctypes.CDLL(None).mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, f"nr_inodes={inodes}".encode())
    try:
        return refused(lambda: sem.create("x", 1, undo=UNDO).close())
    finally:
        assert (entries(), sets()) == ([], 0)
""".replace("UNDO", str(undo))
    )
    outcomes = [other.ask(f"attempt({inodes})") for inodes in range(1, 8)]
    assert outcomes[0][:2] == (errno.ENOSPC, "x")
    assert outcomes[-1] is None
    assert all(outcome is None or outcome[:2] == (errno.ENOSPC, "x") for outcome in outcomes)


@pytest.mark.parametrize("undo", [False, True])
def test_out_of_descriptors_is_an_error_that_leaves_nothing_and_passes(left, peer, undo):
    """With fewer and fewer free, every call either works or is EMFILE; with enough again, all is as before."""
    name = left.tag
    other = peer(
        "import resource",
        f"sem.create({name!r}, undo={undo}).close()",  # whatever is loaded once
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)",
        "used = max(map(int, os.listdir('/proc/self/fd')))",
        f"""def attempt(extra):
            before = len(os.listdir('/proc/self/fd'))
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + extra, hard))
            try:
                s = sem.create({name!r}, undo={undo})
                try:
                    sem.attach({name!r}).close()
                finally:
                    s.close()
                return 'fine'
            except OSError as error:
                return [error.errno, error.filename]
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                s = None
                gc.collect()
                assert len(os.listdir('/proc/self/fd')) == before
        """,
    )
    outcomes = []
    for extra in range(10):
        outcomes.append(other.ask(f"attempt({extra})"))
        assert not lives(name)
        assert left.entries() == []
    assert outcomes[0] == [errno.EMFILE, name]
    assert outcomes[-1] == "fine"
    assert all(outcome in ("fine", [errno.EMFILE, name]) for outcome in outcomes)
    assert outcomes == sorted(outcomes, key=str)


@pytest.mark.parametrize("persist", [False, True])
@pytest.mark.parametrize("undo", [False, True])
def test_an_unlink_without_a_free_descriptor_is_done_or_refused(left, peer, undo, persist):
    """It never strands a set."""
    name = left.tag
    s = sem.create(name, 3, undo=undo, persist=persist)
    other = peer(
        "import resource",
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))",
    )
    refused = None
    try:
        other.run(f"sem.unlink({name!r})")
    except PeerError as error:
        refused = error
    if refused:
        assert refused.errno == errno.EMFILE
        assert repr(name) in str(refused)
        assert works(s)
        sem.unlink(name)
    assert not there(name)
    s.close()
    s = None
    left.collect()
    assert left.all() == ([], [])


def test_a_close_without_a_free_descriptor_gives_up_the_name_and_the_set(left, peer):
    name = left.tag
    other = peer(
        f"s = sem.create({name!r}, undo=True)",
        "import resource",
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))",
    )
    sem.attach(name).close()
    other.run("s.close()")
    assert left.entries() == []
    other.run("resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))")


# -- permissions that are in the way -----------------------------------------------


@pytest.mark.parametrize("perm", [0, 0o200, 0o400, 0o066])
@pytest.mark.parametrize("persist", [False, True])
def test_an_owner_who_gave_himself_no_access_leaves_nothing(name, peer, perm, persist):
    """Whatever the permissions, a crash-safe one ends with its last handle or with `unlink`, set and all."""
    other = peer(user=None if os.geteuid() else NOBODY)
    other.run(f"s = sem.create({name!r}, 3, undo=True, persist={persist}, perm={perm})")
    with os.scandir(SHM) as entries:
        inodes = {entry.name: entry.inode() for entry in entries}
    hidden = [entry for entry, inode in inodes.items() if inode == inodes[f"sem.{name}"]]
    (key,) = (int(entry.rpartition("-")[2], 16) for entry in hidden if entry[0] == ".")
    assert libc.semget(key, 0, 0) >= 0
    if persist:
        other.run(f"sem.unlink({name!r})")
    other.run("s.close(); s = None")
    # As `Litter.collect` does, but over there.
    other.run(f"""
import types
from ipcio._posix import litter
there = [entry for entry in {hidden!r} if os.path.exists(f"/dev/shm/{{entry}}")]
litter.os = types.SimpleNamespace(**{{**vars(os), "listdir": lambda _: there}})
list(litter.collect())
""")
    number = libc.semget(key, 0, 0)
    if number >= 0:
        sysv.remove(number)
    rest = [entry for entry in hidden if os.path.exists(f"{SHM}/{entry}")]
    for entry in rest:
        os.unlink(f"{SHM}/{entry}")
    assert (number, rest) == (-1, [])


@pytest.mark.root
@pytest.mark.needs("users", "guests")
@pytest.mark.parametrize("undo", [False, True])
def test_a_stranger_may_not_unlink_a_persistent_one(left, peer, undo):
    """Nor change what it is; and the error tells the name."""
    name = left.tag
    owner = peer(f"sem.create({name!r}, 3, undo={undo}, persist=True, perm=0o666).close()", user=NOBODY)
    stranger = peer(user=SOMEBODY)
    with pytest.raises(PeerError) as caught:
        stranger.run(f"sem.unlink({name!r})")
    assert caught.value.kind == "PermissionError"
    assert repr(name) in str(caught.value)
    stranger.run(f"s = sem.attach({name!r}); s.dec(); s.close()")
    assert owner.ask(f"sem.attach({name!r}).value") == (3 if undo else 2) - undo
    owner.run(f"sem.unlink({name!r})")


# -- the set goes, or is elsewhere -------------------------------------------------


def key_of(name):
    with open(path_of(name), "rb") as file:
        return struct.unpack_from("=i", file.read(), 80)[0]


def is_gone(caught, name):
    return (caught.value.errno, caught.value.filename) == (errno.EIDRM, name)


@pytest.mark.parametrize("timeout", [None, 60])
def test_who_waits_while_the_set_is_removed_is_told(left, timeout):
    """As `ipcrm` does.  Nobody hangs, and the name is free once it is closed."""
    name = left.tag
    with closing(sem.create(name, 0, undo=True)) as s:

        def wait():
            try:
                return s.dec(timeout)
            except OSError as error:
                return error.errno, error.filename

        with blocked(wait) as waiting:
            sysv.remove(libc.semget(key_of(name), 0, 0))
            assert waiting.result() == (errno.EIDRM, name)
        for call in (s.dec, lambda: s.dec(0), lambda: s.dec(1), s.inc, lambda: s.inc(2), lambda: s.value):
            with pytest.raises(OSError) as caught:
                call()
            assert is_gone(caught, name)
        with pytest.raises(OSError) as caught, s:
            pass
        assert is_gone(caught, name)
        with pytest.raises(OSError) as caught:
            sem.attach(name)
        assert is_gone(caught, name)
        with pytest.raises(FileExistsError):
            crash_safe(name)
    assert left.all() == ([], [])
    with closing(crash_safe(name)) as again:
        assert works(again)


def test_a_permit_that_was_held_while_the_set_was_removed_is_no_trouble_later(left):
    """Neither for the handle that held it nor for a later semaphore."""
    name = left.tag
    with closing(crash_safe(name)) as s:
        with pytest.raises(OSError) as caught, s:
            sysv.remove(libc.semget(key_of(name), 0, 0))
        assert is_gone(caught, name)
    with closing(crash_safe(name)) as again:
        assert works(again)
        again.inc()
        assert again.value == 4


def test_a_set_of_somebody_else_under_the_same_key_is_left_alone(left):
    """After `ipcrm` anybody may have it."""
    name = left.tag
    with closing(crash_safe(name)) as s:
        key = key_of(name)
        sysv.remove(libc.semget(key, 0, 0))
        number = sysv.make(key, 0o600)
        sysv.begin(number, 7)
        try:
            with pytest.raises(OSError) as caught:
                s.dec(0)
            assert is_gone(caught, name)
            with pytest.raises(OSError) as caught:
                sem.attach(name)
            assert is_gone(caught, name)
            s.close()
            assert libc.semctl(number, 0, libc.GETVAL) == 7
        finally:
            sysv.remove(number)
    assert left.all() == ([], [])


@pytest.mark.able(probe=can_part)
def test_a_crash_safe_one_is_not_found_from_another_ipc_namespace_and_not_harmed(left, peer):
    """Its name is there, its set is not."""
    name = left.tag
    other = peer(_APART, "apart()")
    with closing(crash_safe(name)) as s:
        with pytest.raises(PeerError) as caught:
            other.run(f"sem.attach({name!r})")
        assert caught.value.errno == errno.EIDRM
        assert "namespace" in str(caught.value)
        assert repr(name) in str(caught.value)
        with pytest.raises(PeerError) as caught:
            other.run(f"sem.create({name!r}, 1, undo=True)")
        assert caught.value.kind == "FileExistsError"
        assert works(s)
        other.run(f"sem.unlink({name!r})")
        assert works(s)
    assert left.all() == ([], [])


@pytest.mark.xfail(strict=True, reason="a record does not say in which IPC namespace its set is")
@pytest.mark.able(probe=can_part)
def test_the_dead_of_another_ipc_namespace_leave_no_set_behind(left, peer):
    """Who cannot see the set does not take away what tells of it."""
    name = left.tag
    other = peer(_APART, "apart()")
    leave_dead(lambda: crash_safe(name))
    with contextlib.suppress(PeerError):
        other.run(f"sem.attach({name!r})")
    left.collect()
    assert left.all() == ([], [])


# -- gc ----------------------------------------------------------------------------


@pytest.mark.able(probe=can_mount)
def test_gc_removes_the_dead_and_nothing_else(apart):
    """And says what they were called.  Nobody else is on this /dev/shm, so all that it says is known."""
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
    lambda: shm.create("dead segment", 10),
    lambda: sem.create("dead", 1),
    lambda: sem.create("dead undo", 1, undo=True),
    lambda: unlinked("dead unlinked"),
    lambda: unlinked("dead unlinked persistent", persist=True),
    lambda: in_the_making(lambda: shm.create("never", 10)),
    lambda: in_the_making(lambda: sem.create("never", 1)),
    lambda: in_the_making(lambda: sem.create("never undo", 1, undo=True)),
):
    leave_dead(make)
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
        "sem dead",
        "sem dead undo",
        "sem dead unlinked",
        "sem dead unlinked persistent",
        "sem never undo",
        "shm dead segment 10 bytes",
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
@pytest.mark.needs("users", "guests")
@pytest.mark.able(probe=can_mount)
def test_gc_of_a_user_leaves_the_dead_of_others(apart):
    """The super-user's takes them all."""
    other = apart()
    other.run(f"""
from ipcio._posix import litter

def as_user(user, function):
    def child():
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        return function()
    return Forked(child).result()

def make():
    sem.create(f"plain {{os.getuid()}}", 1)
    for perm in (0o600, 0o666, 0):
        leave_dead(lambda: sem.create(f"undo {{perm:o}} {{os.getuid()}}", 1, undo=True, perm=perm))
        leave_dead(lambda: sem.create(f"plain {{perm:o}} {{os.getuid()}}", 1, perm=perm))

for user in {NOBODY}, {SOMEBODY}:
    as_user(user, make)
""")
    names = [f"{kind} {perm}" for kind in ("plain", "undo") for perm in ("0", "600", "666")]
    for user, sets in ((NOBODY, 3), (SOMEBODY, 0)):
        found = other.ask(f"sorted(as_user({user}, lambda: list(litter.collect())))")
        assert found == [("sem", f"{name} {user}", None) for name in names]
        assert other.ask("sets()") == sets
        assert other.ask(f"as_user({user}, lambda: list(litter.collect()))") == []
    assert other.ask("entries()") == []
    other.run(f"as_user({NOBODY}, make)")
    assert other.ask("sorted(litter.collect())") == [("sem", f"{name} {NOBODY}", None) for name in names]
    assert other.ask("entries(), sets()") == ([], 0)


def test_gc_finds_what_is_unlinked_and_dead_and_leaves_what_lives(left):
    """Where no /dev/shm of our own is to be had, too."""
    name = left.tag
    leave_dead(lambda: unlinked(name))
    with closing(unlinked(name)) as s, closing(crash_safe(name)) as new:
        assert left.collect() in ([("sem", name, None)], [])  # another run's `gc` may have been faster
        assert left.collect() == []
        assert len(left.sets()) == 2
        assert works(s)
        assert works(new)
    assert left.all() == ([], [])


# -- records that lie --------------------------------------------------------------


@pytest.fixture
def victim():
    """A System V set of ours that has nothing to do with ipcio: its key and its id."""
    key = int.from_bytes(os.urandom(3), "little") + 1
    number = sysv.make(key, 0o666)
    sysv.begin(number, 7)
    yield key, number
    value = libc.semctl(number, 0, libc.GETVAL)
    sysv.remove(number)
    assert value == 7, "somebody operated on it or removed it"


def lie(name, key, number, told=None):
    """Code that makes a dead record of `name` which claims a set, with a hidden name, sealed and all."""
    told = os.fsencode(name if told is None else told)
    record = struct.pack("=64s16sii256s", libc.new_semaphore(32, 0), undo._MAGIC, key, 0, told)
    anchor = f"{SHM}/.ipcio-undo-{key & 0xFFFFFFFF:08x}"
    return (
        f"fd = os.open({path_of(name)!r}, os.O_CREAT | os.O_EXCL | os.O_WRONLY); os.write(fd, {record!r})\n"
        f"os.utime(fd, ns=(0, {undo._SEAL + 1 + number}))\n"
        f"os.fchmod(fd, 0o1644); os.close(fd); os.link({path_of(name)!r}, {anchor!r})"
    )


CALLS = {
    "gc": lambda left: left.collect(),
    "create": lambda left: plain(left.tag).close(),
    "create undo": lambda left: crash_safe(left.tag).close(),
    "create or attach": lambda left: crash_safe(left.tag, exist_ok=True).close(),
    "attach": lambda left: sem.attach(left.tag),
    "unlink": lambda left: sem.unlink(left.tag),
}


@pytest.mark.root
@pytest.mark.needs("users", "guests")
@pytest.mark.parametrize("knows", ["the number", "the key", "an own key"])
def test_another_users_record_cannot_have_our_sets_removed(left, victim, peer, knows):
    """Dead, right about the set or not: it is his own claim, and the set is not his."""
    key, number = victim
    liar = peer(user=NOBODY)
    own = key + (1 << 24) if knows == "an own key" else key
    for call, act in CALLS.items():
        liar.run(lie(left.tag, own, -1 if knows == "the key" else number))
        if call in {"attach", "unlink"}:
            with pytest.raises(FileNotFoundError):
                act(left)
        else:
            act(left)
        left.collect()
        assert left.entries() == []


@pytest.mark.root
@pytest.mark.needs("users", "guests")
@pytest.mark.parametrize("knows", ["the number", "the key", "an own key"])
def test_another_users_living_record_cannot_have_us_operate_on_our_sets(left, victim, peer, knows):
    key, number = victim
    liar = peer("import fcntl", user=NOBODY)
    own = key + (1 << 24) if knows == "an own key" else key
    liar.run(lie(left.tag, own, -1 if knows == "the key" else number))
    liar.run(f"fd = os.open({path_of(left.tag)!r}, os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_SH)")
    with pytest.raises(OSError) as caught:
        sem.attach(left.tag)
    assert is_gone(caught, left.tag)
    with pytest.raises(FileExistsError):
        crash_safe(left.tag)
    sem.unlink(left.tag)
    liar.run("os.close(fd)")
    left.collect()
    assert left.entries() == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("told", ["a\0b", "../x", "\n", "", "x" * 256, "\udcff"], ids=repr)
def test_a_record_with_an_odd_name_is_as_dead_as_any(left, call, told):
    """It keeps nobody from his work, and nothing is removed in its name but itself."""
    key = int.from_bytes(os.urandom(3), "little") + 1
    exec(lie(left.tag, key, -1, told), {"os": os})
    anchor = f"{SHM}/.ipcio-undo-{key:08x}"
    try:
        error = None
        try:
            CALLS[call](left)
        except OSError as caught:
            error = caught
        if error:
            assert call in {"attach", "unlink"}
            assert (error.errno in {errno.ENOENT, errno.EINVAL}, error.filename) == (True, left.tag)
        left.collect()
        assert not there(left.tag)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(anchor)


@pytest.mark.parametrize("key", [0, -1, -(2**31)])
def test_a_record_with_a_key_that_no_set_can_have_is_no_record(left, key):
    exec(lie(left.tag, key, -1), {"os": os})
    anchor = f"{SHM}/.ipcio-undo-{key & 0xFFFFFFFF:08x}"
    try:
        with pytest.raises(OSError):
            sem.attach(left.tag)
        left.collect()
        assert left.all() == ([], [])
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(anchor)
