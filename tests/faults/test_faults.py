"""Every system call fails in turn, is interrupted in turn, is the last one before a SIGKILL in turn.

Modules of the package see stand-ins for `os`, `fcntl` and `mmap` whose calls are
counted.  A scenario is run again and again, with trouble at its first call, at
its second, and so on until a run has fewer calls than that.
"""

from __future__ import annotations

import errno
import functools
import gc
import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import pytest
from campaigns import places
from children import Forked, leave_dead, watch_calls
from peers import PeerError
from troubles import interrupt_after, interrupt_before, locked_by_others

from ipcio import mmap, shm

resource = pytest.importorskip("resource", reason="system calls can be failed in forked children only")
objects = pytest.importorskip("ipcio._posix.objects")
pytestmark = pytest.mark.needs("files")  # for the others, see test_companions


class Plan:
    """What is to happen at which call."""

    def __init__(self, at=-1, trouble=None):
        self.at = at
        self.trouble = trouble
        self.calls = []

    @property
    def reached(self):
        return len(self.calls) > self.at

    def watch(self, monkeypatch):
        watch_calls(self._call, monkeypatch.setattr)

    def _call(self, name, args, call):
        if name in {"monotonic", "sleep"}:
            return call()
        self.calls.append(name)
        if len(self.calls) - 1 == self.at:
            return self.trouble(name, args, call)
        return call()


def fails_with(number):
    def trouble(name, args, call):
        if name == "close":  # Linux closes, whatever it says
            call()
        raise OSError(number, os.strerror(number), *args[: name in {"link", "open", "stat", "unlink"}])

    return trouble


def kill_before(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(_name, _args, call):
    call()
    os.kill(os.getpid(), signal.SIGKILL)


TROUBLES = {
    "EIO": fails_with(errno.EIO),
    "EACCES": fails_with(errno.EACCES),
    "EMFILE": fails_with(errno.EMFILE),
    "locked": locked_by_others,
    "interrupt before": interrupt_before,
    "interrupt after": interrupt_after,
}


def there(name):
    return os.path.lexists(f"/dev/shm/{name}")


def lives(name):
    try:
        shm.attach(name).close()
    except FileNotFoundError:
        return False
    return True


def descriptors():
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


def make_foreign(name):
    with open(f"/dev/shm/{name}", "xb") as file:
        file.write(bytes(100))


def make_persistent(name):
    shm.create(name, 100, persist=True).close()


# scenario: what is there before, what is done, and whether the name outlives all handles if nothing goes wrong
OPENING = {
    "create": (None, lambda name: shm.create(name, 100), False),
    "create sparse": (None, lambda name: shm.create(name, 100, reserve=False), False),
    "create persistent": (None, lambda name: shm.create(name, 100, persist=True), True),
    "create over a dead one": ("dead", lambda name: shm.create(name, 100), False),
    "create refused": ("live", lambda name: shm.create(name, 100), False),
    "create or attach": ("live", lambda name: shm.create(name, 100, exist_ok=True), False),
    "create or attach, too small": ("live", lambda name: shm.create(name, 101, exist_ok=True), False),
    "attach": ("live", shm.attach, False),
    "attach read-only": ("live", lambda name: shm.attach(name, "r"), False),
    "attach persistent": ("persistent", shm.attach, True),
    "attach foreign": ("foreign", shm.attach, True),
    "attach dead": ("dead", shm.attach, False),
    "attach absent": (None, shm.attach, False),
    "unlink": ("live", shm.unlink, False),
    "unlink dead": ("dead", shm.unlink, False),
    "unlink foreign": ("foreign", shm.unlink, False),
}


def prepare(what, name):
    """Bring the name into a state; return the holder that keeps it so, if any."""
    if what == "live":
        return shm.create(name, 100)
    if what == "dead":
        leave_dead(lambda: shm.create(name, 100))
    elif what == "persistent":
        make_persistent(name)
    elif what == "foreign":
        make_foreign(name)
    return None


class Making:
    """One way to make an object without showing it half-made, and what it may leave."""

    def __init__(self, way, tag):
        self.way = way
        self.tag = tag

    def litter(self):
        return [entry for entry in os.listdir("/dev/shm") if entry.startswith(f".{self.tag}-")]

    def clear(self):
        for entry in self.litter():
            os.unlink(f"/dev/shm/{entry}")


@pytest.fixture(params=["O_TMPFILE", "temporary name"])
def making(request, monkeypatch, unique):
    """Both ways; temporary names are told from those of other tests by their first letters."""
    if request.param == "temporary name":
        monkeypatch.setattr(objects, "_has_tmpfile", lambda: False)
    elif not objects._has_tmpfile():
        pytest.skip("no O_TMPFILE in /dev/shm")
    found = Making(request.param, unique())
    monkeypatch.setattr(objects, "invent_name", lambda: f"{found.tag}-{os.urandom(4).hex()}")
    yield found
    for entry in os.listdir("/dev/shm"):
        if found.tag in entry:
            os.unlink(f"/dev/shm/{entry}")


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("scenario", OPENING)
def test_a_call_that_fails_or_is_interrupted_leaves_nothing(name, monkeypatch, making, scenario, trouble):
    """Not a name, not a descriptor, not a lock; and the error tells the errno and the name."""
    if making.way != "O_TMPFILE" and "create" not in scenario:
        return  # nothing is made there: the same as the other run
    state, act, stays = OPENING[scenario]
    for at in places():
        gc.collect()
        before = descriptors()
        holder = prepare(state, name)
        plan = Plan(at, TROUBLES[trouble])
        outcome = error = None
        with monkeypatch.context() as patch:
            plan.watch(patch)
            try:
                outcome = act(name)
            except (OSError, ValueError, KeyboardInterrupt) as caught:
                error = caught.with_traceback(None)
        told = f"{trouble} at call {at} of {plan.calls}: {error!r}"
        if isinstance(error, OSError):
            assert error.errno is not None, told
            assert error.filename == name or "too small" in scenario, told  # it is closing then
        elif isinstance(error, ValueError):
            assert "too small" in scenario, told
        elif isinstance(error, KeyboardInterrupt):
            assert "interrupt" in trouble, told
        if error and state is None:
            assert not there(name), told
        if state in {"live", "persistent", "foreign"} and "unlink" not in scenario:
            assert lives(name), told
        if outcome is not None:
            assert outcome.read() == bytes(100), told
            outcome.close()
        if holder is not None:
            holder.close()
        outcome = holder = None
        gc.collect()
        assert descriptors() == before, told
        if at < len(plan.calls) and plan.calls[at] == "unlink":  # it was told that it cannot
            making.clear()
        assert not making.litter(), told
        if state in {"persistent", "foreign"} or stays:
            if there(name):
                shm.unlink(name)
        else:
            assert not lives(name), told
        with shm.create(name, 50) as again:
            assert again.created, told
            assert again.read() == bytes(50), told
        if not plan.reached:
            break
    assert at, "no call was seen"


CLOSING = {
    "the last": (0, lambda h: h.close()),
    "one of two": (1, lambda h: h.close()),
    "one with a shared descriptor": (0, lambda h: (h.fileno(), h.close())),
    "one with a living view": (0, lambda h: keep(h.getbuffer(), h.close)),
}


def keep(view, close):
    try:
        close()
    finally:
        view.release()


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("scenario", CLOSING)
def test_a_close_that_fails_or_is_interrupted_has_closed(name, monkeypatch, scenario, trouble):
    """The handle is closed, its descriptors are gone, it holds the name no more, and others still do."""
    others, act = CLOSING[scenario]
    for at in places():
        gc.collect()
        before = descriptors()
        h = shm.create(name, 100)
        rest = [shm.attach(name) for _ in range(others)]
        plan = Plan(at, TROUBLES[trouble])
        error = None
        with monkeypatch.context() as patch:
            plan.watch(patch)
            try:
                act(h)
            except (OSError, KeyboardInterrupt) as caught:
                error = caught.with_traceback(None)
        told = f"{trouble} at call {at} of {plan.calls}: {error!r}"
        if isinstance(error, OSError):
            assert error.errno is not None, told
        if not h.closed:  # the trouble came before
            assert "shared descriptor" in scenario, told
        h.close()
        assert h.closed, told
        assert lives(name) == bool(rest), told
        for other in rest:
            other.close()
        h = rest = other = None
        gc.collect()
        assert descriptors() == before, told
        assert not lives(name), told
        with shm.create(name, 50) as again:
            assert again.created, told
        if not plan.reached:
            break
    assert at, "no call was seen"


def _open_file(path):
    with open(path, "rb") as file:
        return mmap.open(file)


MAPPING = {
    "a path": mmap.open,
    "a path for writing": lambda path: mmap.open(path, "rw"),
    "a part": lambda path: mmap.open(path, "r", mmap.pagesize, 10),
    "a file": _open_file,
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("scenario", MAPPING)
def test_a_mapping_that_fails_or_is_interrupted_leaves_nothing(tmp_path, monkeypatch, scenario, trouble):
    path = str(tmp_path / "file")
    with open(path, "wb") as file:
        file.write(bytes(mmap.pagesize + 100))
    for at in places():
        gc.collect()
        before = descriptors()
        plan = Plan(at, TROUBLES[trouble])
        h = error = None
        with monkeypatch.context() as patch:
            plan.watch(patch)
            try:
                h = MAPPING[scenario](path)
            except (OSError, KeyboardInterrupt) as caught:
                error = caught.with_traceback(None)
        told = f"{trouble} at call {at} of {plan.calls}: {error!r}"
        if isinstance(error, OSError):
            assert error.errno is not None, told
            if plan.calls[at] not in {"fcntl", "fstat"}:  # of a descriptor
                assert error.filename == path or scenario == "a file", told
        if h is not None:
            h.close()
        h = None
        gc.collect()
        assert descriptors() == before, told
        if not plan.reached:
            break
    assert at, "no call was seen"


# -- killed in the middle ----------------------------------------------------


def _run_killed(monkeypatch, name, act, at, trouble):
    """In a child: do `act`, being killed at call `at`.  Return whether it came to that."""

    def child():
        with monkeypatch.context() as patch:
            Plan(at, trouble).watch(patch)
            return [act(name)]  # alive until we are gone

    with Forked(lambda: len(child())) as forked:
        return forked.wait() == -signal.SIGKILL


# Killed before a call is killed after the one before it, but for what nobody watches between: once is enough.
@pytest.mark.parametrize(
    ("trouble", "then"),
    [*((kill_after, then) for then in ("attach", "create", "exist_ok", "unlink")), (kill_before, "create")],
)
@pytest.mark.parametrize("scenario", ["create", "create sparse", "create over a dead one"])
def test_a_create_that_is_killed_was_never(monkeypatch, making, scenario, trouble, then):
    """Wherever the kill hits, the next call of whatever kind finds a free name and no trace of it."""
    name = f"{making.tag}-name"
    state, act, _ = OPENING[scenario]
    for at in places():
        prepare(state, name)
        killed = _run_killed(monkeypatch, name, act, at, trouble)
        if then in {"attach", "unlink"}:
            with pytest.raises(FileNotFoundError):
                getattr(shm, then)(name)
            assert not there(name)
        with shm.create(name, 200, exist_ok=then == "exist_ok") as h:
            assert h.created
            assert h.read() == bytes(200)
        if making.way == "O_TMPFILE":
            assert not making.litter()
        making.clear()  # what `ipcio gc` is for
        if not killed:
            break
    assert at


@pytest.mark.parametrize("trouble", [kill_before, kill_after])
@pytest.mark.parametrize("scenario", ["attach", "attach read-only", "create refused", "create or attach", "close"])
def test_a_guest_that_is_killed_does_not_disturb(name, monkeypatch, scenario, trouble):
    """Killed in the middle of an attach or a close, it neither keeps the name nor takes it along."""
    act = OPENING[scenario][1] if scenario != "close" else lambda name: shm.attach(name).close()
    for at in places():
        with shm.create(name, 100) as h:

            def guest(name):
                try:
                    return act(name)
                except FileExistsError:
                    return None

            killed = _run_killed(monkeypatch, name, guest, at, trouble)
            h.write(b"here")
            with shm.attach(name) as other:
                assert other.read(4) == b"here"
            with pytest.raises(FileExistsError):
                shm.create(name, 100)
        assert not there(name)
        if not killed:
            break
    assert at


@pytest.mark.parametrize("trouble", [kill_before, kill_after])
def test_an_unlink_that_is_killed_is_done_or_not(name, monkeypatch, trouble):
    for at in places():
        with shm.create(name, 100) as h:
            killed = _run_killed(monkeypatch, name, shm.unlink, at, trouble)
            if there(name):
                with shm.attach(name) as other:
                    h.write(b"here")
                    assert other.read(4) == b"here"
            else:
                with shm.create(name, 100) as new:
                    assert new.created
        assert not there(name)
        if not killed:
            break
    assert at


# -- resources at their limit ------------------------------------------------


def test_out_of_descriptors_is_an_error_that_leaves_nothing_and_passes(name, peer):
    """With fewer and fewer free, every call either works or is EMFILE; with enough again, all is as before."""
    other = peer(
        "import resource",
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)",
        "used = max(map(int, os.listdir('/proc/self/fd')))",
        f"""def attempt(extra):
            before = len(os.listdir('/proc/self/fd'))
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + extra, hard))
            try:
                h = shm.create({name!r}, 100)
                try:
                    shm.attach({name!r}).close()
                finally:
                    h.close()
                return 'fine'
            except OSError as error:
                return [error.errno, error.filename]
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                gc.collect()
                assert len(os.listdir('/proc/self/fd')) == before
        """,
    )
    outcomes = [other.ask(f"attempt({extra})") for extra in range(12)]
    assert outcomes[0] == [errno.EMFILE, name]
    assert outcomes[-1] == "fine"
    assert all(outcome in ("fine", [errno.EMFILE, name]) for outcome in outcomes)
    assert outcomes == sorted(outcomes, key=str)
    with pytest.raises(FileNotFoundError):
        shm.attach(name)
    # A passing shortage is not taken for a lack of the system.
    code = "__import__('ipcio._posix.objects')._posix.objects._has_tmpfile()"
    assert other.ask(code) == objects._has_tmpfile()


def test_a_close_without_a_free_descriptor_gives_up_the_name(name, peer):
    other = peer(
        f"h = shm.create({name!r}, 100)",
        "import resource",
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))",
    )
    shm.attach(name).close()
    other.run("h.close()")
    with pytest.raises(FileNotFoundError):
        shm.attach(name)


def test_a_fork_without_a_free_descriptor_shares_the_name_all_the_same(name, peer):
    """Whatever a fork takes to make handles work in both processes, a shortage of descriptors is no excuse."""
    other = peer(
        f"h = shm.create({name!r}, 100)",
        "import resource",
        "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)",
        "r, w = os.pipe()",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))",
        "child = os.fork()\nif not child: os.close(w); os.read(r, 1); h.close(); os._exit(0)",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))",
    )
    other.run("h.close()")
    try:
        with pytest.raises(FileExistsError):
            shm.create(name, 100)
    finally:
        other.run("os.close(w); os.waitpid(child, 0)")
    with pytest.raises(FileNotFoundError):
        shm.attach(name)


def test_out_of_address_space_is_an_error_that_leaves_nothing(name, peer):
    """`mmap` fails after everything else has been done."""
    other = peer(
        "import resource",
        "pages = int(open('/proc/self/statm').read().split()[0])",
        "resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf('SC_PAGESIZE') + (8 << 20),) * 2)",
    )
    for options in ("", ", reserve=False", ", persist=True"):
        with pytest.raises(PeerError) as caught:
            other.run(f"shm.create({name!r}, 64 << 20{options})")
        assert (caught.value.kind, caught.value.errno) == ("OSError", errno.ENOMEM)
        assert repr(name) in str(caught.value)
        assert not there(name)
    with shm.create(name, 64 << 20, reserve=False):
        with pytest.raises(PeerError) as caught:
            other.run(f"shm.attach({name!r})")
        assert (caught.value.kind, caught.value.errno) == ("OSError", errno.ENOMEM)


# The limits on file sizes are the one way to make the system itself refuse, in mid-create,
# a size that it could have.
def test_a_limit_on_file_sizes_is_an_error_that_leaves_nothing(name):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        for reserve in (True, False):
            with pytest.raises(OSError) as caught:
                shm.create(name, 8192, reserve=reserve)
            assert caught.value.errno in {errno.EFBIG, errno.ENOSPC}
            assert caught.value.filename == name
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not there(name)


# -- a small /dev/shm --------------------------------------------------------

_SMALL = """
def small():
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(0x00020000 | (0x10000000 if user else 0)):  # CLONE_NEWNS, CLONE_NEWUSER
        return os.strerror(ctypes.get_errno())
    if user:
        for file, line in [('setgroups', 'deny'), ('uid_map', f'0 {user} 1'), ('gid_map', f'0 {group} 1')]:
            with open(f'/proc/self/{file}', 'w') as out:
                out.write(line)
    if libc.mount(None, b'/', None, 0x40000 | 0x4000, None):  # MS_PRIVATE, MS_REC
        return os.strerror(ctypes.get_errno())
    if libc.mount(b'tmpfs', b'/dev/shm', b'tmpfs', 0, b'size=1m'):
        return os.strerror(ctypes.get_errno())
"""


@functools.cache
def can_mount():
    """Whether a process may have mounts of its own here; many a container says no."""
    code = f"import ctypes, os\n{_SMALL}\nraise SystemExit(small())"
    return not subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False).returncode


@pytest.fixture
def small(peer):
    """A peer with a ``/dev/shm`` of 1 MiB of its own."""
    other = peer(_SMALL)
    assert not other.ask("small()")
    other.run("free = lambda: os.statvfs('/dev/shm').f_bavail * os.statvfs('/dev/shm').f_frsize")
    assert other.ask("os.listdir('/dev/shm')") == []
    return other


@pytest.mark.able(probe=can_mount)
def test_a_full_dev_shm_is_enospc_and_never_a_signal(small):
    free = small.ask("free()")
    assert free == 1 << 20
    for size in ("2 << 20", "(1 << 20) + 1", "1 << 40", "1 << 62"):
        for options in ("", ", exist_ok=True", ", persist=True"):
            with pytest.raises(PeerError) as caught:
                small.run(f"shm.create('large', {size}{options})")
            assert (caught.value.kind, caught.value.errno) == ("OSError", errno.ENOSPC)
            assert "'large'" in str(caught.value)
            assert small.ask("os.listdir('/dev/shm'), free()") == ([], free)
    small.run("h = shm.create('large', 1 << 20); h.write(b'x' * (1 << 20)); h.close()")
    assert small.ask("free()") == free


@pytest.mark.able(probe=can_mount)
def test_what_a_segment_has_is_its_own_to_the_last_byte(small):
    """Whoever comes second is refused; whoever came first can write it all."""
    small.run("h = shm.create('first', 800 << 10)")
    with pytest.raises(PeerError) as caught:
        small.run("shm.create('second', 400 << 10)")
    assert caught.value.errno == errno.ENOSPC
    small.run("g = shm.create('second', 200 << 10); h.write(b'x' * (800 << 10)); g.write(b'y' * (200 << 10))")
    small.run("h.close(); g.close()")
    assert small.ask("os.listdir('/dev/shm')") == []


@pytest.mark.able(probe=can_mount)
def test_a_sparse_segment_needs_no_room_until_it_is_used(small):
    small.run("h = shm.create('sparse', 1 << 30, reserve=False); h.seek(1 << 29); h.write(b'x'); h.close()")


@pytest.mark.able(probe=can_mount)
def test_a_dead_segment_makes_room_for_its_successor(small):
    """It is removed before the new one is reserved."""
    for options in ("", ", exist_ok=True"):
        small.run(
            "child = os.fork()\n"
            "if not child: h = shm.create('same', 900 << 10); os.kill(os.getpid(), signal.SIGKILL)\n"
            "os.waitpid(child, 0)"
        )
        assert small.ask("free()") < 200 << 10
        small.run(
            f"h = shm.create('same', 900 << 10{options}); assert h.created; h.write(b'x' * (900 << 10)); h.close()"
        )


@pytest.mark.able(probe=can_mount)
def test_a_full_dev_shm_does_not_keep_anybody_from_closing_or_unlinking(small):
    small.run("h = shm.create('all', 1 << 20, persist=True); g = shm.attach('all')")
    small.run("shm.unlink('all'); h.close(); g.close()")
    assert small.ask("os.listdir('/dev/shm'), free()") == ([], 1 << 20)


@pytest.mark.able(probe=can_mount)
def test_no_inode_left_is_enospc(small):
    """Another way to be full."""
    small.run("ctypes.CDLL(None).mount(b'tmpfs', b'/dev/shm', b'tmpfs', 0, b'nr_inodes=3')")
    small.run("h, g = shm.create('one', 10), shm.create('two', 10)")
    with pytest.raises(PeerError) as caught:
        small.run("shm.create('three', 10)")
    assert (caught.value.kind, caught.value.errno) == ("OSError", errno.ENOSPC)
    assert "'three'" in str(caught.value)
    small.run("h.close(); g.close()")
    assert small.ask("os.listdir('/dev/shm')") == []


def test_ctrl_c_during_a_large_reservation_leaves_nothing(name):
    """It takes long enough to be hit: the memory is given back, no name is made."""

    def interrupted():
        raise KeyboardInterrupt

    opened = descriptors()
    before = signal.signal(signal.SIGALRM, lambda *_: interrupted())
    timer = signal.setitimer(signal.ITIMER_REAL, 0)  # the watchdog's
    try:
        for microseconds in range(200, 4000, 400):
            try:
                signal.setitimer(signal.ITIMER_REAL, microseconds / 1e6)
                with closing(shm.create(name, 16 << 20)):
                    time.sleep(0.01)  # longer than the timer; pause() could miss the signal
            except KeyboardInterrupt:
                pass
            gc.collect()
            assert not lives(name)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)
        # A signal in the very call that opens a file loses its descriptor, with any
        # Python program: the handler runs before the number can be stored.
        for fd in descriptors() - opened:
            assert os.fstat(int(fd)).st_size == 0
            os.close(int(fd))
