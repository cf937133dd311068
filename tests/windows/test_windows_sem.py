"""Semaphores where they are objects of the Windows kernel: its names, its other programs, its Ctrl-C, its kills."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from ctypes import wintypes
from functools import partial

import pytest
from campaigns import campaign, rounds
from named_contract import is_free
from peers import PeerError

from ipcio import sem, shm


def is_windows() -> bool:
    return hasattr(ctypes, "WinDLL")


pytestmark = pytest.mark.able(probe=is_windows)

DEADLINE = 30  # seconds until what has not happened is a failure
LONGEST = 259  # units of UTF-16 in a name
ALL_ACCESS = 0x1F0003  # SEMAPHORE_ALL_ACCESS
USE = 0x100003  # SYNCHRONIZE, SEMAPHORE_QUERY_STATE, SEMAPHORE_MODIFY_STATE
CLOSED_BY_CTRL_C = 0xC000013A  # STATUS_CONTROL_C_EXIT

# -- Windows without ipcio -----------------------------------------------------

# For a peer, too.
KERNEL = """
import ctypes
from ctypes import wintypes

kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
for function, *arguments in (
    (kernel32.CreateSemaphoreW, ctypes.c_void_p, wintypes.LONG, wintypes.LONG, wintypes.LPCWSTR),
    (kernel32.OpenSemaphoreW, wintypes.DWORD, wintypes.BOOL, wintypes.LPCWSTR),
    (kernel32.CreateMutexW, ctypes.c_void_p, wintypes.BOOL, wintypes.LPCWSTR),
    (kernel32.CreateEventW, ctypes.c_void_p, wintypes.BOOL, wintypes.BOOL, wintypes.LPCWSTR),
):
    function.restype, function.argtypes = wintypes.HANDLE, arguments
kernel32.CloseHandle.argtypes = (wintypes.HANDLE,)
kernel32.WaitForSingleObject.argtypes = (wintypes.HANDLE, wintypes.DWORD)
kernel32.ReleaseSemaphore.argtypes = (wintypes.HANDLE, wintypes.LONG, ctypes.c_void_p)

def take(handle, milliseconds):
    return {0: True, 258: False}[kernel32.WaitForSingleObject(handle, milliseconds)]

def give(handle, n=1):
    return bool(kernel32.ReleaseSemaphore(handle, n, None))
"""
_windows: dict = {}
if is_windows():
    exec(KERNEL, _windows)
kernel32, take, give = map(_windows.get, ("kernel32", "take", "give"))


class Kept(contextlib.ExitStack):
    """Handles of others, closed at the end."""

    def keep(self, handle: int | None) -> int:
        assert handle, ctypes.get_last_error()
        self.callback(kernel32.CloseHandle, handle)
        return handle


@pytest.fixture
def kept():
    with Kept() as handles:
        yield handles


def foreign(kept, name, value, maximum, sddl=None):
    """A semaphore that somebody else made, perhaps with a security descriptor in the words of Windows."""
    if sddl is None:
        return kept.keep(kernel32.CreateSemaphoreW(None, value, maximum, name))

    class Attributes(ctypes.Structure):
        _fields_ = (("length", wintypes.DWORD), ("descriptor", ctypes.c_void_p), ("inherit", wintypes.BOOL))

    convert = ctypes.WinDLL("advapi32").ConvertStringSecurityDescriptorToSecurityDescriptorW
    convert.argtypes = (wintypes.LPCWSTR, wintypes.DWORD, ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)
    attributes = Attributes(ctypes.sizeof(Attributes), None, False)
    descriptor = ctypes.c_void_p()
    assert convert(sddl, 1, ctypes.byref(descriptor), None)
    attributes.descriptor = descriptor.value
    handle = kept.keep(kernel32.CreateSemaphoreW(ctypes.addressof(attributes), value, maximum, name))
    free = ctypes.WinDLL("kernel32").LocalFree
    free.argtypes = (ctypes.c_void_p,)
    free(descriptor)
    return handle


# -- what Windows cannot promise -----------------------------------------------


@pytest.mark.parametrize("option", ["undo", "persist"])
def test_what_windows_cannot_do_is_said_at_creation_and_nothing_is_made(name, option):
    for more in ({}, {"exist_ok": True}):
        with pytest.raises(NotImplementedError, match=option):
            sem.create(name, 1, **{option: True}, **more)
        assert is_free(sem, name)
    with pytest.raises(NotImplementedError):
        sem.create(None, 1, **{option: True})
    with closing(sem.create(name, 2)) as s:
        with pytest.raises(NotImplementedError):
            sem.create(name, 1, exist_ok=True, **{option: True})
        assert s.value == 2


def test_a_name_in_use_cannot_be_removed(name):
    with closing(sem.create(name, 2)) as s:
        with pytest.raises(NotImplementedError, match=name):
            sem.unlink(name)
        with closing(sem.attach(name)) as other:
            assert other.dec(0)
        assert s.value == 1
    with pytest.raises(FileNotFoundError):
        sem.unlink(name)


def test_what_a_killed_process_took_is_lost_and_the_name_goes_on(name, peer):
    with closing(sem.create(name, 3)) as s:
        other = peer(f"h = sem.attach({name!r}); h.dec(); h.dec()")
        other.kill()
        assert s.value == 1
        with closing(sem.attach(name)) as again:
            assert again.dec(0)
            assert not again.dec(0)
    assert is_free(sem, name)


def test_a_wait_holds_the_name_until_it_ends(name):
    """Its thread has the handle; Windows has no other way to keep what is waited for."""
    s = sem.create(name, 0)
    got = []
    thread = threading.Thread(target=lambda: got.append(s.dec(DEADLINE)))
    thread.start()
    until_in_wait(thread)
    s.close()
    with closing(sem.attach(name)) as other:
        other.inc()
        thread.join()
        assert got == [True]
    assert is_free(sem, name)


# -- names ---------------------------------------------------------------------


def test_the_error_of_a_long_name_says_the_limit(unique):
    for letter, length in (("x", 1), ("é", 1), ("\N{GRINNING FACE}", 2)):
        name = unique()
        while len(name.encode("utf-16-le")) // 2 + length <= LONGEST:
            name += letter
        with closing(sem.create(name, 1)):
            assert sem.attach(name).value == 1
        name += "more"[: LONGEST + 1 - len(name.encode("utf-16-le")) // 2]
        for call in (sem.create, sem.attach, sem.unlink):
            with pytest.raises(OSError, match=str(LONGEST)) as caught:
                call(name)
            assert (caught.value.errno, caught.value.filename) == (errno.ENAMETOOLONG, name)


def test_upper_and_lower_case_are_two_names(unique):
    lower, upper = unique("-x"), unique("-x")[:-1] + "X"
    with closing(sem.create(upper)):
        assert is_free(sem, upper[:-1] + "x")
        with closing(sem.create(lower)):
            assert sem.attach(lower).value == 1


@pytest.mark.parametrize("word", ["Global", "Local", "Session"])
def test_the_words_of_windows_are_no_names(word):
    """Directories and links have them already."""
    for call in (sem.create, partial(sem.create, exist_ok=True), sem.attach):
        with pytest.raises(OSError):
            call(word)


@pytest.mark.parametrize("prefix", ["Global\\", "Local\\", "\\", "Session\\1\\", "\\BaseNamedObjects\\"])
def test_a_name_is_of_ones_own_session(name, prefix):
    """Nothing reaches beyond it, though Windows has a spelling for that."""
    for call in (sem.create, partial(sem.create, exist_ok=True), sem.attach, sem.unlink, sem.open):
        with pytest.raises(ValueError, match="backslash"):
            call(prefix + name)
    assert is_free(sem, name)


# -- other programs ------------------------------------------------------------


def test_others_open_what_ipcio_made(name, kept):
    with closing(sem.create(name, 2)) as s:
        theirs = kept.keep(kernel32.OpenSemaphoreW(ALL_ACCESS, False, name))
        assert take(theirs, 0)
        assert s.value == 1
        assert s.dec(0)
        assert not take(theirs, 0)
        assert give(theirs, 3)
        assert s.value == 3
        assert not give(theirs, 2**31 - 1)
        assert s.value == 3


def test_ipcio_attaches_what_others_made(name, kept):
    theirs = foreign(kept, name, 2, 100)
    with closing(sem.attach(name)) as s, closing(sem.create(name, 9, exist_ok=True)) as again:
        assert (s.value, s.undo, s.created, again.created) == (2, False, False, False)
        with s:
            assert take(theirs, 0)
            assert not again.dec(0)
            assert not again.dec(0.001)
            assert give(theirs)
        assert s.value == 2
        with pytest.raises(FileExistsError) as caught:
            sem.create(name)
        assert caught.value.filename == name


def test_a_waiting_process_is_woken_by_the_other_side(name, unique, peer):
    """In another process, and there by Windows alone."""
    back = unique()
    with closing(sem.create(name, 0)) as to, closing(sem.create(back, 0)) as fro:
        other = peer(KERNEL, f"a, b = (kernel32.OpenSemaphoreW({ALL_ACCESS}, False, n) for n in ({name!r}, {back!r}))")
        other.send("ask", f"[(take(a, {DEADLINE}000), give(b)) for _ in range(100)] == [(True, True)] * 100")
        for _ in range(100):
            to.inc()
            assert fro.dec(DEADLINE)
        assert other.answer() is True
        assert (to.value, fro.value) == (0, 0)


@pytest.mark.parametrize("value", [0, 1, 3])
def test_the_maximum_is_the_makers(name, kept, value):
    """Past it is an error that changes nothing, however many at once."""
    foreign(kept, name, value, 3)
    with closing(sem.attach(name)) as s:
        for n in (4 - value, 5, 2**31 - 1, 2**31, 2**32 + 1, 2**64):
            for give in (s.inc, s.release):
                with pytest.raises(OverflowError):
                    give(n)
                assert s.value == value
        while s.value < 3:
            s.inc()
        for give in (s.inc, s.release, lambda: s.inc(1)):
            with pytest.raises(OverflowError):
                give()
        with pytest.raises((OverflowError, ValueError), match=r"maximum|too many times"), s:
            s.inc()
        assert s.value == 3
        with s, s, s:
            assert not s.dec(0)
        assert s.value == 3


def test_the_error_at_the_maximum_tells_it(name, kept):
    foreign(kept, name, 3, 3)
    with closing(sem.attach(name)) as s, pytest.raises(OverflowError, match=rf"{name}.*\b3\b"):
        s.inc()


def test_an_object_of_another_program_exists_as_long_as_any_handle(name, peer):
    """Theirs and ours count alike."""
    other = peer(KERNEL, f"h = kernel32.CreateSemaphoreW(None, 2, 5, {name!r})")
    s = sem.attach(name)
    other.kill()
    with closing(sem.attach(name)) as again:
        s.close()
        assert again.value == 2
    assert is_free(sem, name)


def test_an_object_of_ipcio_exists_as_long_as_any_handle_of_another_program(name):
    s = sem.create(name, 2)
    theirs = kernel32.OpenSemaphoreW(ALL_ACCESS, False, name)
    s.close()
    with pytest.raises(FileExistsError):
        sem.create(name)
    kernel32.CloseHandle(theirs)
    assert is_free(sem, name)


OTHERS = {
    "mutex": lambda kept, name: kept.keep(kernel32.CreateMutexW(None, False, name)),
    "event": lambda kept, name: kept.keep(kernel32.CreateEventW(None, False, False, name)),
    "segment": lambda kept, name: kept.enter_context(shm.create(name, 100)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_an_object_of_another_kind_is_in_the_way(name, kept, kind):
    """All kinds share one space of names."""
    OTHERS[kind](kept, name)
    with pytest.raises(FileExistsError) as caught:
        sem.create(name)
    assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, name)
    for call in (sem.attach, sem.unlink, partial(sem.create, exist_ok=True)):
        with pytest.raises(OSError) as caught:
            call(name)
        assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, name)


@pytest.mark.parametrize("sddl", ["D:", "D:(D;;GA;;;WD)(A;;GA;;;SY)", "D:P(A;;0x100000;;;WD)", "D:P(A;;0x1;;;WD)"])
def test_a_user_without_rights_gets_a_permission_error(name, kept, sddl):
    """And it is in the way of create, as on other systems."""
    foreign(kept, name, 1, 3, sddl)
    for call in (sem.attach, sem.open, sem.unlink, partial(sem.create, exist_ok=True)):
        with pytest.raises(PermissionError) as caught:
            call(name)
        assert (caught.value.errno, caught.value.filename) == (errno.EACCES, name)
    with pytest.raises(FileExistsError) as caught:
        sem.create(name)
    assert caught.value.filename == name


def test_what_it_takes_to_use_it_is_enough(name, kept):
    foreign(kept, name, 1, 3, f"D:P(A;;{USE:#x};;;WD)")
    for attach in (sem.attach, partial(sem.create, exist_ok=True)):
        with closing(attach(name)) as s:
            with s:
                assert s.value == 0
            s.inc(2)
            assert s.dec(0)
            assert s.dec(1)
            assert s.value == 1


# -- processes -----------------------------------------------------------------


@pytest.mark.parametrize("death", ["os._exit(3)", "os.abort()", "os.kill(os.getpid(), 9)", "ctypes.string_at(8)", ""])
def test_however_a_process_ends_it_keeps_no_name(name, death):
    code = f"import ctypes, os; from ipcio import sem; h = sem.create({name!r}); print('made', flush=True); {death}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("made")
    assert bool(done.returncode) == bool(death)
    assert is_free(sem, name)


def test_a_process_killed_while_it_waits_acquires_no_permit(name, peer):
    with closing(sem.create(name, 0)) as s:
        waiters = [peer(f"h = sem.attach({name!r})") for _ in range(2)]
        for waiter, wait in zip(waiters, ("h.dec()", "h.dec(30)"), strict=True):
            waiter.send("run", wait)
        time.sleep(0.2)  # it must not matter whether they are there by now
        for waiter in waiters:
            waiter.kill()
        assert s.value == 0
        s.inc()
        assert s.dec(0)
        assert not s.dec(0)


def test_of_many_creates_or_attaches_at_once_one_creates(name, peer):
    peers = [peer() for _ in range(4)]
    for turn in range(40):
        for number, other in enumerate(peers):
            exist_ok = turn % 2 == 0
            other.send("run", f"h = sem.create({name!r}, {number + 1}, exist_ok={exist_ok})")
        refused = 0
        for other in peers:
            try:
                other.answer()
            except PeerError as error:
                refused += error.kind == "FileExistsError"
                other.run("h = None")
        assert refused == (0 if exist_ok else 3)
        made = [other.ask("h and (h.created, h.value)") for other in peers]
        makers = [number for number, told in enumerate(made) if told and told[0]]
        assert len(makers) == 1
        assert {told[1] for told in made if told} == {makers[0] + 1}
        for other in peers:
            other.run("h = h and h.close()")
        assert is_free(sem, name)


def test_processes_that_create_attach_and_close_agree(name, peer):
    """Nobody sees a name that is not, or misses one that is."""
    code = f"""
for _ in range(300):
    h = sem.create({name!r}, 1, exist_ok=True)
    sem.attach({name!r}).close()
    with h:
        pass
    try:
        sem.create({name!r}).close()
    except FileExistsError:
        pass
    else:
        raise AssertionError("not seen")
    h.close()
"""
    peers = [peer() for _ in range(4)]
    for other in peers:
        other.send("run", code)
    for other in peers:
        other.answer()
    assert is_free(sem, name)


# Where in the memory is what: who is inside, how many may be, whether to end.
CHURN = """
import random
def churn(s, memory, me):
    chance = random.Random(me)
    turn = 0
    while not memory[9]:
        turn += 1
        how = chance.randrange(4)
        if how == 0:
            s.dec()
        elif how == 1:
            assert s.acquire(timeout=30)
        elif how == 2:
            s.__enter__()
        elif not s.dec(0):
            continue
        memory[me] = 1
        assert sum(memory[:8]) <= memory[8], list(memory)
        if turn % 3 == 0:
            time.sleep(0)
        memory[me] = 0
        s.inc() if turn % 2 else s.release(1)
    return turn
"""


@campaign
@pytest.mark.parametrize("permits", [1, 2])
def test_never_more_inside_than_permits_though_some_are_killed(name, unique, peer, permits):
    """A killed process takes along the one that it has, at most; nothing else is lost, and none is made."""
    segment, number = unique(), 4
    chance = random.Random(permits)
    start = f"s = sem.attach({name!r}); memory = shm.attach({segment!r}).getbuffer()"
    with closing(shm.create(segment, 10)) as h, closing(sem.create(name, permits)) as s, h.getbuffer() as memory:
        peers = [peer(start, CHURN) for _ in range(number)]
        for _ in range(rounds(5)):
            memory[8:10] = bytes([permits, 0])
            for me, other in enumerate(peers):
                other.send("ask", f"churn(s, memory, {me})")
            time.sleep(chance.random() * 0.1)
            victim = chance.randrange(number)
            peers[victim].kill()
            memory[8:10] = bytes([permits + number, 1])
            s.inc(number)  # for those who wait for what the victim had
            assert all(other.answer() > 0 for other in peers if other is not peers[victim])
            assert permits + number - s.value in {0, 1}
            memory[:8] = bytes(8)
            while s.value > permits:
                assert s.dec(0)
            s.inc() if s.value < permits else None
            peers[victim] = peer(start, CHURN)


# -- Ctrl-C --------------------------------------------------------------------

WAITS = {
    "dec()": lambda s: s.dec(),
    "dec(30)": lambda s: s.dec(30),
    "dec(1e7)": lambda s: s.dec(1e7),
    "acquire()": lambda s: s.acquire(),
    "acquire(timeout=30)": lambda s: s.acquire(timeout=30),
    "with": lambda s: s.__enter__(),
}
HOWS = pytest.mark.parametrize("how", WAITS)


def until_in_wait(thread: threading.Thread) -> None:
    """Return when that thread is in the back end's hands."""
    end = time.monotonic() + DEADLINE
    while True:
        frame = sys._current_frames().get(thread.ident)
        if frame is not None and frame.f_code.co_filename == sem._backend.__file__:
            time.sleep(0.01)  # for its last steps
            return
        assert time.monotonic() < end, "it does not come to wait"
        time.sleep(0.0005)


@contextlib.contextmanager
def meanwhile(*acts):
    """Do this in another thread, one after the other, each when the main thread waits."""

    def run() -> None:
        for act in acts:
            until_in_wait(threading.main_thread())
            act()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@contextlib.contextmanager
def on_ctrl_c(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


ctrl_c = partial(signal.raise_signal, signal.SIGINT)


def until_noticed(handled) -> None:
    """Ctrl-C, again if it came in the instant before Windows was asked to wait for it."""
    known = len(handled)
    end = time.monotonic() + DEADLINE
    while len(handled) == known:
        ctrl_c()
        again = time.monotonic() + 0.05
        while len(handled) == known and time.monotonic() < again:
            time.sleep(0.001)
        assert time.monotonic() < end, "not noticed"


@HOWS
def test_ctrl_c_ends_a_wait(name, how):
    handled = []

    def handle(*_) -> None:
        handled.append(None)
        if len(handled) == 1:
            raise KeyboardInterrupt

    with closing(sem.create(name, 0)) as s, on_ctrl_c(handle):
        with pytest.raises(KeyboardInterrupt), meanwhile(lambda: until_noticed(handled)):
            WAITS[how](s)
        assert s.value == 0
        s.inc()
        assert WAITS[how](s)
        assert s.value == 0


def give_too_much(s) -> None:
    with pytest.raises(OverflowError):
        s.inc(2**31)


def attach_nothing(s) -> None:
    with pytest.raises(FileNotFoundError):
        sem.attach(f"{s.name}-not")


HANDLERS = {
    "does nothing": lambda _: None,
    "looks": lambda s: s.value,
    "tries": lambda s: s.dec(0),
    "waits": lambda s: s.dec(0.001),
    "is refused": give_too_much,
    "finds nothing": attach_nothing,
    "attaches and closes": lambda s: sem.attach(s.name).close(),
}


@HOWS
@pytest.mark.parametrize("handler", HANDLERS)
def test_a_wait_goes_on_after_a_handler_that_does_not_raise(name, how, handler):
    handled, acting = [], [HANDLERS[handler]]
    with closing(sem.create(name, 0)) as s:

        def handle(*_) -> None:
            for act in acting:
                act(s)
            handled.append(None)

        def trouble() -> None:
            for _ in range(2):
                until_noticed(handled)
            acting.clear()  # or a late one takes what is given
            until_noticed(handled)
            s.inc()

        with on_ctrl_c(handle), meanwhile(trouble):
            assert WAITS[how](s) is True
        assert s.value == 0


def test_a_handler_that_gives_ends_the_wait(name):
    handled = []
    with closing(sem.create(name, 0)) as s:

        def handle(*_) -> None:
            s.inc()
            handled.append(None)

        with on_ctrl_c(handle), meanwhile(lambda: until_noticed(handled)):
            assert s.dec() is True
            assert handled


def test_handlers_change_no_timeout(name):
    """However many come, it is kept to and ends."""
    done = threading.Event()

    def pester() -> None:
        while not done.wait(0.002):
            ctrl_c()

    with closing(sem.create(name, 0)) as s, on_ctrl_c(lambda *_: None):
        thread = threading.Thread(target=pester)
        thread.start()
        try:
            for seconds in (0.08, 0.0101):
                start = time.perf_counter()
                assert s.dec(seconds) is False
                assert time.perf_counter() - start >= seconds
        finally:
            done.set()
            thread.join()


def test_ctrl_c_ends_a_program_that_waits(name):
    code = (
        f"import signal, threading; from ipcio import sem; s = sem.create({name!r}, 0)\n"
        f"done = threading.Event()\n"
        f"def trouble():\n"
        f"    while not done.wait(0.3): signal.raise_signal(signal.SIGINT)\n"
        f"threading.Thread(target=trouble, daemon=True).start()\n"
        f"try: s.dec()\n"
        f"finally: done.set()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert done.returncode == CLOSED_BY_CTRL_C
    assert is_free(sem, name)


class Interrupted(KeyboardInterrupt):
    pass


# The word that a permit was got is written by C, so that there is no moment between the two.
INTERRUPTED = {
    "dec()": lambda s, got: got.extend(map(s.dec, (None,))),
    "dec(5)": lambda s, got: got.extend(map(s.dec, (5,))),
    "acquire()": lambda s, got: got.extend(map(s.acquire, (True,))),
}


@campaign
@pytest.mark.parametrize("how", [*INTERRUPTED, "with"])
def test_interrupts_at_random_moments_lose_no_permit_and_make_none(name, how):
    """In each round one permit is given and Ctrl-C comes once, in any order and at any distance."""
    chance = random.Random(how)
    armed, got = [], []

    def handle(*_) -> None:
        if armed:
            armed.clear()
            raise Interrupted

    def trouble(s, go) -> None:
        acts = [s.inc, ctrl_c]
        chance.shuffle(acts)
        go.wait()
        for act in acts:
            end = time.perf_counter() + chance.random() ** 2 * 3e-4
            while time.perf_counter() < end:
                pass
            act()

    interrupts = 0
    with closing(sem.create(name, 0)) as s, on_ctrl_c(handle):
        for _ in range(rounds(150)):
            got.clear()
            go = threading.Event()
            thread = threading.Thread(target=trouble, args=(s, go))
            thread.start()
            try:
                try:
                    armed.append(None)
                    go.set()
                    if how == "with":
                        with s:
                            armed.clear()
                    else:
                        INTERRUPTED[how](s, got)
                finally:
                    armed.clear()
            except Interrupted:
                interrupts += 1
            thread.join()
            left = s.value
            assert left + len(got) == 1
            assert [s.dec(0) for _ in range(left + 1)] == [True] * left + [False]
    assert interrupts


@campaign
def test_interrupts_leave_no_handle(name, monkeypatch):
    """Whatever is being opened or closed; a handle that nobody knows of would keep the name."""
    chance = random.Random(7)
    armed = []
    swallowed = []  # by Python, as a destructor begins
    monkeypatch.setattr(sys, "unraisablehook", lambda error: swallowed.append(error.exc_type))

    def handle(*_) -> None:
        if armed:
            armed.clear()
            raise Interrupted

    def trouble(go, seconds) -> None:
        go.wait()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        ctrl_c()

    interrupts = 0
    with on_ctrl_c(handle):
        for _ in range(rounds(150)):
            go = threading.Event()
            thread = threading.Thread(target=trouble, args=(go, chance.random() * 2e-3))
            thread.start()
            try:
                try:
                    armed.append(None)
                    go.set()
                    while not swallowed:
                        with sem.create(name, 2), sem.attach(name):
                            pass
                finally:
                    armed.clear()
            except Interrupted:
                interrupts += 1
            thread.join()
            gc.collect()
            assert is_free(sem, name)
            assert set(swallowed) <= {Interrupted}
            swallowed.clear()
    assert interrupts


# -- time ----------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1e-9, 0.0001, 0.0004, 0.0006, 0.0013, 0.0154, 0.05])
def test_a_timeout_is_not_cut_short(name, seconds):
    """Windows counts in thousandths of a second."""
    with closing(sem.create(name, 0)) as s:
        for wait in (s.dec, lambda timeout: s.acquire(True, timeout)):
            start = time.perf_counter()
            assert wait(seconds) is False
            assert time.perf_counter() - start >= seconds


@pytest.mark.parametrize("seconds", [2e6, 2147483.0, 2147484.0, 4294968.0, 1e8])
def test_a_timeout_beyond_what_windows_counts_waits(name, seconds):
    with closing(sem.create(name, 0)) as s, meanwhile(s.inc):
        assert s.dec(seconds) is True


def test_a_long_wait_is_several(name, monkeypatch):
    """For there is a longest one that can be asked for."""
    monkeypatch.setattr(sem._backend, "_LONGEST_WAIT", 0.01)
    with closing(sem.create(name, 0)) as s:
        start = time.perf_counter()
        assert s.dec(0.1) is False
        assert time.perf_counter() - start >= 0.1
        timer = threading.Timer(0.1, s.inc)
        timer.start()
        assert s.dec(DEADLINE) is True
        timer.join()


def test_a_peer_may_be_any_process_of_the_session(name, peer):
    """By the same name in both directions, and each wakes the other."""
    other = peer(f"s = sem.create({name!r}, 0)")
    with closing(sem.attach(name)) as s:
        other.send("ask", "s.dec(30)")
        s.inc()
        assert other.answer() is True
        assert other.pid != os.getpid()
        other.run("s.inc(2); s.close()")
        assert s.value == 2
    assert is_free(sem, name)
