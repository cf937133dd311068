"""Same names, same semaphores as everyone else: C, posix_ipc, multiprocessing, LuaIPC; and System V's view."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import shutil
import signal
import struct
import sys
from contextlib import closing
from functools import partial

import pytest
from abilities import semaphore_file
from children import Forked
from named_contract import FILES
from permits import permits_of
from waiting import blocked, until_it_waits
from witnesses import Witness, lua

from ipcio import sem

pytest.importorskip("fcntl", reason="there is no sem_open here")

from leftovers_linux import semaphore_name

from ipcio._posix import namespace

SHM = "/dev/shm"

# -- the others: programs that speak the language of sem_peer.c ----------------

_OBEY = """
import sys

def say(answer):
    print(answer, flush=True)

verb, name, value = sys.argv[1], "/" + sys.argv[2], int((sys.argv[3:] or [0])[0])
try:
    if verb == "unlink":
        unlink(name)
        say("done")
        sys.exit()
    s = create(name, value) if verb == "create" else attach(name)
except OSError as error:
    say(f"errno {error.errno}")
    sys.exit(1)
say("open")
for line in sys.stdin:
    word, *rest = line.split()
    if word == "wait":
        say("waiting")
        say("done" if take(s, None) else "again")
    elif word == "timed":
        say("waiting")
        say("done" if take(s, int(rest[0]) / 1000) else "again")
    elif word == "try":
        say("done" if take(s, 0) else "again")
    elif word == "post":
        s.release()
        say("done")
    else:
        say(value_of(s))
"""

_POSIX_IPC = """
import errno, posix_ipc

def create(name, value):
    try:
        return posix_ipc.Semaphore(name, posix_ipc.O_CREX, initial_value=value)
    except posix_ipc.ExistentialError as error:
        raise OSError(errno.EEXIST, str(error))

def attach(name):
    try:
        return posix_ipc.Semaphore(name)
    except posix_ipc.ExistentialError as error:
        raise OSError(errno.ENOENT, str(error))

def take(s, timeout):
    try:
        s.acquire(timeout)
        return True
    except posix_ipc.BusyError:
        return False

value_of = lambda s: s.value
unlink = posix_ipc.unlink_semaphore
"""

_SEMLOCK = """
from _multiprocessing import SemLock, sem_unlink as unlink

create = lambda name, value: SemLock(1, value, SemLock.SEM_VALUE_MAX, name, False)
attach = lambda name: SemLock._rebuild(0, 1, SemLock.SEM_VALUE_MAX, name)
take = lambda s, timeout: s.acquire(timeout != 0, timeout)
value_of = lambda s: s._get_value()
"""

_LUA = """
local sem = require "ipc.sem"
local verb, name, value = arg[1], arg[2], tonumber(arg[3] or "0")
local function say(answer) print(answer); io.stdout:flush() end

local s, _, number = sem.open(name, verb == "create" and value or 0)
if not s then say("errno " .. number); os.exit(1) end
say("open")
for line in io.lines() do
  local milliseconds = line:match("timed (%d+)")
  local got
  if line == "wait" then say("waiting"); got = s:dec()
  elseif milliseconds then say("waiting"); got = s:dec(milliseconds / 1000)
  elseif line == "try" then got = s:dec(0)
  else got = s:inc() end
  say(got and "done" or "again")
end
"""


@pytest.fixture(scope="session")
def lua_program(tmp_path_factory):
    path = tmp_path_factory.mktemp("lua") / "sem_peer.lua"
    path.write_text(_LUA)
    return [lua("ipc.sem"), path]


class Others:
    """Starts them."""

    def __init__(self, kind, program):
        self.kind = kind
        self.program = program
        self.started = []

    def __call__(self, *arguments):
        self.started.append(Witness(*self.program, *arguments))
        return self.started[-1]

    def create(self, name, value):
        other = self("create", name, value)
        assert other.said == "open"
        return other

    def open(self, name):
        other = self("open", name)
        assert other.said == "open"
        return other

    def stop(self):
        for other in self.started:
            other.stop()


def starting(kind, request):
    if kind == "C":
        program = [request.getfixturevalue("compiled")("sem_peer.c", "-pthread")]
    elif kind == "LuaIPC":
        program = request.getfixturevalue("lua_program")
    elif kind == "posix_ipc":
        pytest.importorskip("posix_ipc")
        program = [sys.executable, "-S", "-c", _POSIX_IPC + _OBEY]
    else:
        program = [sys.executable, "-S", "-c", _SEMLOCK + _OBEY]
    return Others(kind, program)


@pytest.fixture(
    params=["C", "posix_ipc", "SemLock", pytest.param("LuaIPC", marks=pytest.mark.able(probe=partial(lua, "ipc.sem")))]
)
def others(request):
    found = starting(request.param, request)
    yield found
    found.stop()


@pytest.fixture
def c(request):
    """C alone, for what does not depend on the binding."""
    found = starting("C", request)
    yield found
    found.stop()


def path_of(name):
    return semaphore_file(name)


def there(name):
    return os.path.lexists(path_of(name))


def contents(name):
    with open(path_of(name), "rb") as file:
        return file.read()


# -- what ipcio made -----------------------------------------------------------


def test_others_open_what_ipcio_made(name, others):
    with closing(sem.create(name, 2)) as s:
        other = others.open(name)
        assert other.ask("try") == "done"
        assert permits_of(s) == 1
        assert s.dec(0)
        assert other.ask("try") == "again"
        assert other.ask("post") == "done"
        assert permits_of(s) == 1
        s.inc(2)
        assert [other.ask("try") for _ in range(4)] == ["done"] * 3 + ["again"]
        assert permits_of(s) == 0


def test_others_time_out_and_do_not(name, others):
    with closing(sem.create(name, 1)) as s:
        other = others.open(name)
        assert other.ask("timed 10000") == "waiting"
        assert other.answer() == "done"
        assert other.ask("timed 1") == "waiting"
        assert other.answer() == "again"
        assert permits_of(s) == 0


@pytest.mark.parametrize("ours", [True, False], ids=["made here", "made there"])
@pytest.mark.parametrize("how", ["wait", "timed 30000"])
def test_a_waiting_process_is_woken_by_the_other_side(name, others, ours, how):
    """One of theirs sleeps in its wait until we give a permit, one of ours until they do."""
    maker = None
    if ours:
        s = sem.create(name, 1)
    else:
        maker = others.create(name, 1)
        s = sem.attach(name)
    with closing(s):
        assert s.dec(0)
        other = others.open(name)
        other.block(how)
        s.inc()
        assert other.answer() == "done"
        with blocked(s.dec, None if how == "wait" else 30) as waiting:
            assert other.ask("post") == "done"
            assert waiting.result() is True
        assert permits_of(s) == 0
    if maker:
        if maker.process.poll() is None:
            maker.end()
        if there(name):
            sem.unlink(name)
    assert not there(name)


def test_each_side_wakes_the_other_in_turn(unique, others):
    """Neither sees a permit twice or misses one."""
    ping, pong = unique(), unique()
    with closing(sem.create(ping, 0)) as to, closing(sem.create(pong, 0)) as back:
        reading, writing = others.open(ping), others.open(pong)

        def serve():
            for _ in range(50):
                back.dec()
                to.inc()
            return permits_of(back)

        with Forked(serve) as forked:
            for _ in range(50):
                assert writing.ask("post") == "done"
                assert reading.ask("wait") == "waiting"
                assert reading.answer() == "done"
            assert forked.result() == 0
        assert (permits_of(to), permits_of(back)) == (0, 0)


def test_others_may_not_create_over_an_object_in_use(name, others):
    for options in ({}, {"persist": True}, {"undo": True}) if FILES else ({}, {"persist": True}):
        with closing(sem.create(name, 3, **options)) as s:
            assert others("create", name, 1).said == f"errno {errno.EEXIST}"
            assert permits_of(s) == 3
            if "persist" in options:
                sem.unlink(name)
    others.create(name, 1).end()
    if there(name):
        sem.unlink(name)


def test_others_do_not_find_what_the_last_handle_took_along(name, others):
    for options in ({}, {"undo": True}):
        sem.create(name, 1, **options).close()
        assert others("open", name).said == f"errno {errno.ENOENT}"
    sem.create(name, 1, persist=True).close()
    assert others.open(name).ask("try") == "done"
    sem.unlink(name)


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_the_end_of_others_removes_nothing_of_ours(name, others, end):
    with closing(sem.create(name, 3)) as s:
        for _ in range(2):
            other = others.open(name)
            assert other.ask("try") == "done"
            other.end(end)
            assert there(name)
        assert permits_of(s) == 1  # what they took is gone, as with every such semaphore
        with closing(sem.attach(name)) as again:
            assert permits_of(again) == 1
    assert not there(name)


def test_others_hold_no_share_and_keep_their_semaphore(name, others):
    """The name goes with the last handle of ipcio; whoever has it open goes on with it."""
    s = sem.create(name, 1)
    one, two = others.open(name), others.open(name)
    s.close()
    assert not there(name)
    with closing(sem.create(name, 5)) as new:
        assert one.ask("try") == "done"
        two.block("wait")
        assert one.ask("post") == "done"
        assert two.answer() == "done"
        assert permits_of(new) == 5
        assert others.open(name).ask("try") == "done"
        assert permits_of(new) == 4


# Where semaphores are no files, one cannot be told from another that took its name, and a crash-safe one has no face.
files = pytest.mark.needs("files")
UNLINKED = [
    pytest.param({}, id="plain", marks=files),
    pytest.param({"persist": True}, id="persistent"),
    pytest.param({"undo": True}, id="undo", marks=files),
]


@pytest.mark.parametrize("options", UNLINKED)
def test_others_unlink_what_ipcio_made(name, others, options):
    """Our handles go on, and closing them takes nothing that came after."""
    with closing(sem.create(name, 2, **options)) as s:
        if others.kind == "LuaIPC":  # whose word for it is to close what one has created
            os.unlink(path_of(name))
        else:
            assert others("unlink", name).said == "done"
        with pytest.raises(FileNotFoundError):
            sem.attach(name)
        assert s.dec(0)
        maker = others.create(name, 7)
        assert permits_of(s) == 1
        with closing(sem.attach(name)) as theirs:
            assert permits_of(theirs) == 7
    assert there(name)
    maker.end()
    if there(name):
        sem.unlink(name)


# -- what others made ----------------------------------------------------------


def test_ipcio_attaches_what_others_made(name, others):
    maker = others.create(name, 2)
    with closing(sem.attach(name)) as s, closing(sem.open(name)) as again:
        assert (permits_of(s), s.undo, s.created) == (2, False, False)
        assert s.dec(0)
        assert maker.ask("try") == "done"
        assert not s.dec(0)
        assert maker.ask("post") == "done"
        assert again.dec()
        with pytest.raises(FileExistsError):
            sem.create(name, 1)
        with pytest.raises(FileExistsError):
            sem.create(name, 1, undo=True)
        with closing(sem.create(name, 9, exist_ok=True, undo=True)) as found:
            assert (found.created, found.undo, permits_of(found)) == (False, False, 0)
    maker.end("kill")
    sem.unlink(name)


@pytest.mark.parametrize("end", ["close", "drop", "exit", "kill"])
def test_ipcio_never_removes_what_others_made(name, others, end, peer):
    """Neither while the creator runs nor after it was killed."""
    maker = others.create(name, 3)
    before = os.stat(path_of(name))
    user = peer(f"s = sem.attach({name!r}); g = sem.create({name!r}, exist_ok=True); s.dec()")
    sem.attach(name).close()
    maker.end("kill")
    if end == "close":
        user.run("s.close(); g.close()")
    elif end == "drop":
        user.run("del s, g; gc.collect()")
    elif end == "kill":
        user.kill()
    else:
        user.stop()
    for _ in range(2):
        with closing(sem.attach(name)) as s:
            assert permits_of(s) == 2
    after = os.stat(path_of(name))
    assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)
    sem.unlink(name)


def test_ipcio_unlinks_what_others_made_when_told(name, others):
    """They go on with what they have open, and the name is free for anybody."""
    maker, user = others.create(name, 1), others.open(name)
    s = sem.attach(name)
    sem.unlink(name)
    assert others("open", name).said == f"errno {errno.ENOENT}"
    with pytest.raises(FileNotFoundError):
        sem.attach(name)
    with closing(s), closing(sem.create(name, 4)) as new:
        assert s.dec(0)
        user.block("wait")
        assert maker.ask("post") == "done"
        assert user.answer() == "done"
        assert (permits_of(s), permits_of(new)) == (0, 4)


@pytest.mark.parametrize("value", [1, pytest.param(2**31 - 1, marks=files)])
def test_the_objects_are_the_same_to_the_byte(unique, others, value):
    """No header, no mark in the bytes; the same owner, the same permissions, fresh and after use."""
    ours, theirs = unique(), unique()
    with closing(sem.create(ours, value)) as s:
        maker = others.create(theirs, value)
        for ours_does, theirs_does in ((lambda: s.dec(0), "try"), (s.inc, "post"), (lambda: True, None)):
            assert contents(ours) == contents(theirs)
            one, other = os.stat(path_of(ours)), os.stat(path_of(theirs))
            assert one.st_mode & 0o777 == other.st_mode & 0o777 == 0o600
            assert (one.st_uid, one.st_gid, one.st_size) == (other.st_uid, other.st_gid, other.st_size)
            assert ours_does()
            assert theirs_does is None or maker.ask(theirs_does) == "done"
    maker.end("kill")
    sem.unlink(theirs)


@pytest.mark.parametrize("suffix", [" x", "\n", "é€", ".", "..", "*?", "%s{}", "~", "-" * 10, "'\""])
def test_odd_names_are_the_same_names(unique, others, suffix):
    name = unique(suffix)
    with closing(sem.create(name, 1)):
        assert others.open(name).ask("try") == "done"
    maker = others.create(name, 1)
    with closing(sem.attach(name)) as s:
        assert s.dec(0)
    maker.end("kill")
    sem.unlink(name)


@pytest.mark.needs("files")
@pytest.mark.parametrize("options", [{}, {"undo": True}], ids=["plain", "undo"])
def test_bytes_that_no_text_has_are_the_same_name(unique, c, options):
    name = unique("\udc80\udcff")
    with closing(sem.create(name, 1, **options)) as s:
        user = c.open(name)
        assert user.ask("value") == ("0" if s.undo else "1")
    c.create(name, 1).end()
    with closing(sem.attach(name)) as s:
        assert s.dec(0)
    sem.unlink(name)


@pytest.mark.needs("files")
def test_the_longest_name_is_the_same_name(unique, c):
    name = unique("x" * 300)[:251]
    with closing(sem.create(name, 1)):
        assert c.open(name).ask("try") == "done"
        assert c("open", name + "x").said == f"errno {errno.ENAMETOOLONG}"


def test_sem_open_with_o_creat_opens_what_ipcio_made(name, c):
    for options, value in (({}, "3"), ({"undo": True}, "0")) if FILES else (({}, "3"),):
        with closing(sem.create(name, 3, **options)):
            user = c("ensure", name, 8)
            assert user.said == "open"
            assert user.ask("value") == value
    user = c("ensure", name, 8)
    with closing(sem.attach(name)) as s:
        assert permits_of(s) == 8
    sem.unlink(name)


# -- crash-safe ones -----------------------------------------------------------


@pytest.mark.needs("files")
def test_others_see_a_semaphore_that_never_has_a_permit_under_a_crash_safe_ones_name(name, others):
    """It blocks, and what they do to it among themselves changes nothing here."""
    with closing(sem.create(name, 3, undo=True)) as s:
        one, two = others.open(name), others.open(name)
        assert one.ask("try") == "again"
        assert one.ask("timed 1") == "waiting"
        assert one.answer() == "again"
        two.block("wait")
        assert s.inc()
        assert permits_of(s) == 4
        assert one.ask("try") == "again"  # ours are not theirs
        until_it_waits(two.pid)
        assert one.ask("post") == "done"
        assert two.answer() == "done"
        assert one.ask("post") == "done"
        assert permits_of(s) == 4
        with closing(sem.attach(name)) as again:
            assert again.undo
            assert [again.dec(0) for _ in range(5)] == [True] * 4 + [False]
            again.inc(4)
        for end in ("kill", "exit"):
            (one if end == "kill" else two).end(end)
            assert there(name)
    assert not there(name)


# -- what is no semaphore ------------------------------------------------------


@pytest.mark.needs("files")
@pytest.mark.parametrize("size", [0, 1, 31, 33, 4096])
def test_a_file_that_is_no_semaphore_is_an_error_and_no_crash(name, size, c):
    """C takes it for one, whatever its size, and an empty one kills it."""
    with open(path_of(name), "xb") as file:
        file.write(b"\xff" * size)
    try:
        for call in (sem.attach, sem.open, lambda n: sem.create(n, 1, exist_ok=True)):
            with pytest.raises(OSError) as caught:
                call(name)
            assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, name)
        for undo in (False, True):
            with pytest.raises(FileExistsError):
                sem.create(name, 1, undo=undo)
        if size == 0:
            user = c("open", name)
            if user.said == "open":  # glibc looks at it first when it is used, musl at once
                user.ask("value")
            assert user.end() == -signal.SIGBUS
        with open(path_of(name), "rb") as file:
            assert file.read() == b"\xff" * size
    finally:
        os.unlink(path_of(name))


@pytest.mark.needs("files")
def test_a_copy_of_a_crash_safe_ones_file_is_no_semaphore(unique):
    """It has no part in the set, whatever becomes of it."""
    name, copy = unique(), unique()
    with closing(sem.create(name, 3, undo=True)) as s:
        for mode in (0o600, 0o1600, 0o2600):
            shutil.copy(path_of(name), path_of(copy))
            os.chmod(path_of(copy), mode)
            with pytest.raises(OSError) as caught:
                sem.attach(copy)
            assert caught.value.filename == copy
            if there(copy):
                sem.unlink(copy) if mode != 0o1600 else os.unlink(path_of(copy))
            assert (permits_of(s), s.dec(0), s.inc()) == (3, True, True)
            with closing(sem.attach(name)) as again:
                assert permits_of(again) == 3


# -- System V ------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
_IPC_NOWAIT, _GETVAL = 0o4000, 12


def hidden(name):
    """The keys in the hidden names that stand for the crash-safe semaphores of a name."""
    prefix = ".ipcio-undo-"
    where = namespace.directory()
    entries = [entry for entry in os.listdir(where) if entry.startswith(prefix)]
    return [int(entry[len(prefix) :], 16) for entry in entries if semaphore_name(entry, where) == f"sem.{name}"]


def rows(keys):
    """What ``ipcs`` would show of these keys: id, permissions, number of semaphores, owner."""
    with open("/proc/sysvipc/sem") as table:
        lines = [line.split() for line in table.readlines()[1:]]
    return [(int(line[1]), int(line[2], 8), int(line[3]), int(line[4])) for line in lines if int(line[0]) in keys]


@pytest.mark.parametrize("perm", [0o600, 0o640, 0o660, 0o666, 0o777, 0o400])
@pytest.mark.parametrize("persist", [False, True])
def test_a_crash_safe_one_is_one_set_while_it_exists_and_none_after(name, perm, persist):
    """Whoever may use the name may use the set, whose maker always may; where names are no files, he alone."""
    s = sem.create(name, 3, perm=perm, undo=True, persist=persist)
    again = sem.attach(name) if perm & 0o600 == 0o600 or not os.geteuid() else None
    keys = hidden(name)
    assert len(keys) == 1
    ((number, mode, size, owner),) = rows(keys)
    assert (mode, size, owner) == ((perm | 0o600) & 0o666 if FILES else 0o600, 1, os.geteuid())
    assert _libc.semctl(number, 0, _GETVAL) == 3
    assert s.dec()
    assert _libc.semctl(number, 0, _GETVAL) == 2
    s.close()
    if again is not None:
        assert rows(keys)
        again.close()
    s = again = None
    if persist:
        assert rows(keys)
        sem.unlink(name)
        gc.collect()
    assert (rows(keys), hidden(name), there(name)) == ([], [], False)


def test_a_permit_given_by_another_system_v_program_wakes_a_waiter(name):
    """One without undo: its exit releases nothing."""
    with closing(sem.create(name, 0, undo=True)) as s:
        ((number, *_),) = rows(hidden(name))
        give = struct.pack("Hhh", 0, 1, 0)

        def stranger():
            return ctypes.CDLL(None).semop(number, give, ctypes.c_size_t(1))

        with blocked(s.dec) as waiting:
            assert Forked(stranger).result() == 0
            assert waiting.result() is True
        assert permits_of(s) == 1  # what the waiter had came back when it ended
