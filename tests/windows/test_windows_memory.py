"""Shared memory where it is made of the kernel's sections, which live as long as somebody has a handle."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap as std_mmap
import multiprocessing
import subprocess
import sys
import threading
from contextlib import ExitStack, closing, contextmanager
from ctypes import wintypes

import pytest
from abilities import lacks
from campaigns import campaign, rounds
from leftovers import descriptors
from stamped_lives import work

from ipcio import mmap, sem, shm

# Left out elsewhere, not skipped: there is nothing to be installed that would run them.
pytestmark = pytest.mark.able(probe=lambda: not lacks("sections"))

PAGE = std_mmap.PAGESIZE

if not lacks("sections"):
    from ipcio._windows import objects, win32

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)
    _create_section = _kernel32.CreateFileMappingW
    _create_section.restype = wintypes.HANDLE
    _create_section.argtypes = (
        wintypes.HANDLE,
        ctypes.c_void_p,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.DWORD,
        wintypes.LPCWSTR,
    )
    _create_event = _kernel32.CreateEventW
    _create_event.restype = wintypes.HANDLE
    _create_event.argtypes = (ctypes.c_void_p, wintypes.BOOL, wintypes.BOOL, wintypes.LPCWSTR)
    _descriptor_of = _advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW
    _descriptor_of.argtypes = (wintypes.LPCWSTR, wintypes.DWORD, ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)
    _free = _kernel32.LocalFree
    _free.argtypes = (ctypes.c_void_p,)

SEC_RESERVE = 0x4000000
PAGE_READONLY, PAGE_READWRITE = 0x02, 0x04


class SecurityAttributes(ctypes.Structure):
    """SECURITY_ATTRIBUTES"""

    _fields_ = (("length", wintypes.DWORD), ("descriptor", ctypes.c_void_p), ("inherit", wintypes.BOOL))


@contextmanager
def owned(handle):
    assert handle, ctypes.get_last_error()
    try:
        yield handle
    finally:
        win32.CloseHandle(handle)


def section(name, size=PAGE, protect=None, access=None):
    """A section made without ipcio; `access` is a list of who may do what to it, as Windows spells it."""
    protect = PAGE_READWRITE if protect is None else protect
    attributes = None
    descriptor = ctypes.c_void_p()
    if access is not None:
        assert _descriptor_of(access, 1, ctypes.byref(descriptor), None)
        attributes = ctypes.byref(SecurityAttributes(ctypes.sizeof(SecurityAttributes), descriptor, False))
    try:
        return owned(_create_section(wintypes.HANDLE(-1), attributes, protect, size >> 32, size & 0xFFFFFFFF, name))
    finally:
        _free(descriptor)


def assert_free(name):
    with pytest.raises(FileNotFoundError):
        shm.attach(name)
    with closing(shm.create(name, 10)) as h:
        assert h.created


# -- sizes -------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, 16 * PAGE - 1, 16 * PAGE, 16 * PAGE + 1])
def test_attach_returns_the_size_that_was_asked_for(name, size, peer):
    """A section is whole pages; also after the creator has gone, and through a copy."""
    other = peer()
    with shm.create(name, size) as h:
        other.run(f"h = shm.attach({name!r}); g = pickle.loads(pickle.dumps(h))")
    assert other.ask("(h.size(), g.size(), len(h.getbuffer()))") == (size,) * 3
    with shm.attach(name, "r") as h:
        assert h.size() == size
    other.run("h.close()")
    with shm.attach(name) as h:
        assert h.size() == size
    other.run("g.close()")
    assert_free(name)


def test_the_size_may_be_told_by_who_did_not_create(name, peer):
    """And nobody mistakes a segment that its creator is about to leave for somebody else's."""
    stop = threading.Event()
    sizes = set()

    def look():
        while not stop.is_set():
            try:
                with shm.attach(name) as h:
                    sizes.add(h.size())
            except FileNotFoundError:
                pass

    other = peer(
        f"""
def churn():
    for _ in range(400):
        try:
            with shm.create({name!r}, 1001):
                pass
        except FileExistsError:
            pass
"""
    )
    thread = threading.Thread(target=look)
    thread.start()
    try:
        other.run("churn()")
        other.run(f"h = shm.create({name!r}, 1001, exist_ok=True)")
        with shm.attach(name) as h:
            assert h.size() == 1001
        other.run("h.close()")
    finally:
        stop.set()
        thread.join()
    assert sizes <= {1001}
    assert_free(name)


# -- what cannot be ----------------------------------------------------------


def test_nothing_persists_and_nothing_is_made(name):
    for exist_ok in (False, True):
        with pytest.raises(NotImplementedError):
            shm.create(name, 10, persist=True, exist_ok=exist_ok)
    for mode in "xb", "wb":
        with pytest.raises(NotImplementedError):
            shm.open(name, mode)
    assert_free(name)


def test_without_user_ids_an_owner_is_refused_and_nothing_is_made(name):
    for module in shm, sem:
        with pytest.raises(NotImplementedError):
            module.create(name, 10, exist_ok=True, owner=0)
        with pytest.raises(NotImplementedError):
            module.attach(name, owner=0)
    assert_free(name)


def test_a_name_that_is_held_cannot_be_removed(name):
    with pytest.raises(FileNotFoundError) as caught:
        shm.unlink(name)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, name)
    with shm.create(name, 10):
        with pytest.raises(NotImplementedError):
            shm.unlink(name)
        shm.attach(name).close()
    assert_free(name)


@pytest.mark.parametrize("letter", ["x", "é", "\N{GRINNING FACE}"])
def test_the_error_of_a_long_name_says_the_limit(name, letter):
    with pytest.raises(OSError, match="258") as caught:
        shm.create(name + 260 * letter, 10)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_memory_without_a_descriptor_says_so(name):
    import io

    with shm.create(name, 10) as h, pytest.raises(io.UnsupportedOperation):
        h.fileno()


# -- handles -----------------------------------------------------------------


def test_no_handle_is_inherited(name):
    """The name is removed with our handle, while a child that inherits all it can runs on."""
    with ExitStack() as stack:
        handles = [stack.enter_context(shm.create(name, 10)), stack.enter_context(shm.attach(name))]
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=False,
        )
        with child:
            child.stdout.readline()
            for h in handles:
                h.close()
            assert child.poll() is None
            assert_free(name)
            child.stdin.close()


def test_a_thousand_segments_leave_no_handle(name):
    before = descriptors()
    for _ in range(1000):
        with shm.create(name, 100), shm.attach(name), shm.create(name, 5, exist_ok=True):
            for call in (lambda: shm.create(name, 10), lambda: shm.create(name, 101, exist_ok=True)):
                with pytest.raises((FileExistsError, ValueError)):
                    call()
        with pytest.raises(FileNotFoundError):
            shm.attach(name)
    assert descriptors() == before


def test_calls_that_fail_leave_no_handle(name):
    with section(name):
        before = descriptors()
        for call in (
            lambda: shm.create(name, 10),
            lambda: shm.create(name, PAGE + 1, exist_ok=True),
            lambda: shm.create(f"{name}-large", 2**46),
            lambda: shm.attach(f"{name}-other"),
            lambda: shm.unlink(name),
        ):
            with pytest.raises((OSError, ValueError, NotImplementedError)):
                call()
            assert descriptors() == before


def test_views_outlive_the_name(name):
    h = shm.create(name, 100)
    h.write(b"kept")
    view = h.getbuffer()
    h.close()
    assert_free(name)
    assert bytes(view[:4]) == b"kept"
    view[:1] = b"K"
    part = view[:4].toreadonly()
    view.release()
    assert bytes(part) == b"Kept"


def test_the_last_view_gives_the_memory_back(name):
    """Its address is mapped no more."""
    about = win32.MEMORY_BASIC_INFORMATION()
    for keep in (False, True):
        h = shm.create(name, 100)
        address = h.addr()
        view = h.getbuffer() if keep else None
        h.close()
        assert win32.VirtualQuery(address, ctypes.byref(about), ctypes.sizeof(about))
        assert (about.State == win32.MEM_COMMIT and about.BaseAddress == address) == keep
        del view
        gc.collect()
        assert win32.VirtualQuery(address, ctypes.byref(about), ctypes.sizeof(about))
        assert about.State != win32.MEM_COMMIT


def test_a_finalizer_in_a_cycle_can_still_read_the_memory(name, peer):
    """In another process: this would be a crash."""
    other = peer(
        """
found = []

class Late:
    def __del__(self):
        found.append(bytes(self.view[:4]))

def drop(h):
    h.write(b"kept")
    late = Late()
    late.itself, late.view = late, h.getbuffer()
    del h, late
    gc.collect()
    gc.collect()
""",
        f"drop(shm.create({name!r}, 10))",
    )
    assert other.ask("found") == [b"kept"]
    assert_free(name)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_loses_no_handle(name):
    """Between any two steps of create, attach and close; what the call had is given back at the latest as garbage."""
    from troubles import interrupted_after

    def use():
        with shm.create(name, 100), shm.attach(name, "r"):
            pass
        with pytest.raises(FileNotFoundError):
            shm.attach(name)

    before = descriptors()
    count = calm = 0
    while calm < 10:  # one that comes as a destructor begins is swallowed by Python
        inside = interrupted_after(count, use, lambda module: module.startswith("ipcio"))
        calm = 0 if inside else calm + 1
        count += 1
        gc.collect()
        assert descriptors() == before, count
        assert_free(name)
    assert count > 50


# -- who may -----------------------------------------------------------------


def test_a_section_that_no_user_may_open_is_a_permission_error(name):
    with section(name, access="D:"):
        for call in (shm.attach, lambda n: shm.attach(n, "r"), shm.unlink, lambda n: shm.create(n, 10, exist_ok=True)):
            with pytest.raises((PermissionError, FileExistsError)) as caught:
                call(name)
            assert caught.value.filename == name
            assert isinstance(caught.value, PermissionError)
            assert caught.value.errno == errno.EACCES
    assert_free(name)


def test_a_section_that_may_only_be_read_is_attached_for_reading(name):
    with section(name, access="D:(A;;0x0005;;;WD)"):  # everybody: query and map for reading
        with shm.attach(name, "r") as h:
            assert h.read() == bytes(PAGE)
        with pytest.raises(PermissionError) as caught:
            shm.attach(name)
        assert (caught.value.errno, caught.value.filename) == (errno.EACCES, name)


def test_a_section_of_read_only_pages_is_attached_for_reading(name):
    with section(name, protect=PAGE_READONLY):
        with shm.attach(name, "r") as h:
            assert h.read() == bytes(PAGE)
        try:
            shm.attach(name).close()  # what may be mapped is for Windows to say
        except PermissionError as error:
            assert error.filename == name  # noqa: PT017 -- either will do


# -- what others make --------------------------------------------------------


def test_a_section_of_others_is_attached_whole_and_coherent(name):
    with std_mmap.mmap(-1, 5000, tagname=name) as other:
        with shm.attach(name) as h, shm.attach(name, "r") as reader, shm.create(name, 10, exist_ok=True) as third:
            assert not third.created
            assert {h.size(), reader.size(), third.size()} == {-(-5000 // PAGE) * PAGE}
            other[:5] = b"there"
            assert reader.read(5) == b"there"
            h.write(b"here!")
            assert other[:5] == b"here!"
        for _ in range(2):
            with pytest.raises(FileExistsError):
                shm.create(name, 10)
            shm.attach(name).close()
    assert_free(name)


def test_others_attach_what_ipcio_made(name):
    """They see whole pages, and hold the name like anybody."""
    with shm.create(name, 1001) as h:
        other = std_mmap.mmap(-1, 1001, tagname=name)
        h.write(b"here")
        assert other[:4] == b"here"
        other[1000] = 7
        assert h.getbuffer()[1000] == 7
    with other:
        with shm.attach(name) as h:  # nobody is left who knows that it was ours
            assert h.size() == PAGE
            assert h.read(4) == b"here"
        with pytest.raises(FileExistsError):
            shm.create(name, 10)
    assert_free(name)


def test_pages_that_are_only_reserved_are_an_error_and_no_crash(name):
    with section(name, 16 * PAGE, PAGE_READWRITE | SEC_RESERVE):
        for mode in ("r", "rw"):
            with pytest.raises(OSError) as caught:
                shm.attach(name, mode)
            assert caught.value.errno == errno.EINVAL
            assert caught.value.filename == name


@pytest.mark.parametrize("kind", ["event", "semaphore"])
def test_an_object_of_another_kind_is_in_the_way(name, kind):
    make = {
        "event": lambda: _create_event(None, False, False, name),
        "semaphore": lambda: win32.CreateSemaphore(None, 1, 5, name),
    }[kind]
    with owned(make()):
        with pytest.raises(FileExistsError) as caught:
            shm.create(name, 10)
        assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, name)
        for call in (shm.attach, shm.unlink, lambda n: shm.create(n, 10, exist_ok=True)):
            with pytest.raises(OSError) as caught:
                call(name)
            assert caught.value.errno not in {None, errno.ENOENT}
            assert caught.value.filename == name
    assert_free(name)


# -- kills half-way ------------------------------------------------------

HALF = "from ipcio._windows import win32; s = win32.CreateSemaphore(None, 0, 1 << 20, {0!r} + '\\x01')"
SECTION = "; from mmap import mmap; m = mmap(-1, 100, tagname={0!r})"


def test_a_creator_that_stops_before_the_section_is_there(name, peer, monkeypatch):
    """Nobody waits for it for ever: there is nothing to attach, create gives up, and its end frees the name."""
    monkeypatch.setattr(objects, "_PATIENCE", 0.1)
    other = peer(HALF.format(name))
    with pytest.raises(FileNotFoundError):
        shm.attach(name)
    with pytest.raises(BlockingIOError) as caught:
        shm.create(name, 10)
    assert (caught.value.errno, caught.value.filename) == (errno.EAGAIN, name)
    other.kill()
    assert_free(name)


def test_a_creator_that_stops_before_the_size_is_known(name, peer, monkeypatch):
    monkeypatch.setattr(objects, "_PATIENCE", 0.1)
    other = peer((HALF + SECTION).format(name))
    for call in (shm.attach, shm.unlink, lambda n: shm.create(n, 10, exist_ok=True)):
        with pytest.raises(BlockingIOError) as caught:
            call(name)
        assert (caught.value.errno, caught.value.filename) == (errno.EAGAIN, name)
    with pytest.raises(FileExistsError):
        shm.create(name, 10)
    other.kill()
    assert_free(name)


def test_a_creator_that_is_slow_is_waited_for(name, peer):
    other = peer((HALF + SECTION).format(name))
    other.send("run", "time.sleep(0.2); win32.ReleaseSemaphore(s, 1, None)")
    with shm.attach(name) as h:
        assert h.size() == PAGE
    other.answer()


# -- many processes ----------------------------------------------------------


def go_on(seed, names, steps, ready, queue):
    ready.release()
    queue.put(work(seed, names, steps, unlinks=False))


@campaign
@pytest.mark.parametrize("kills", [0, 5], ids=["", "with kills"])
def test_processes_that_create_attach_close_and_are_killed_agree(unique, kills):
    """As in `test_processes`, without fork."""
    names = [unique() for _ in range(3)]
    context = multiprocessing.get_context("spawn")
    queue, ready = context.SimpleQueue(), context.Semaphore(0)

    def start(seed, steps):
        process = context.Process(target=go_on, args=(seed, names, steps, ready, queue))
        process.start()
        # Not to be killed before: what multiprocessing hands a child is closed by the child.
        assert ready.acquire(timeout=120)
        return process

    running = []
    try:
        running += [start(seed, 10**9 if kills else rounds(300)) for seed in (1, 2)]
        if kills:
            for seed in range(3, 3 + kills):
                assert work(seed, names, rounds(50), unlinks=False) == 0
                running[0].kill()
                running[0].join()
                running.pop(0).close()
                running.append(start(seed + 100, 10**9))
            assert all(process.is_alive() for process in running)
        else:
            assert [queue.get() for _ in running] == [0] * len(running)
    finally:
        for process in running:
            if kills:
                process.kill()
            process.join()
            process.close()
        queue.close()
    for name in names:
        assert_free(name)


def test_of_many_creates_at_once_exactly_one_wins(name, peer):
    """By create alone, and by create-or-attach."""
    others = [peer() for _ in range(3)]
    for exist_ok in (False, True):
        for turn in range(rounds(20)):
            for other in others:
                other.run("at = time.time() + 0.02; h = None")
            for other in others:
                other.send(
                    "run",
                    "while time.time() < at: pass\n"
                    f"try: h = shm.create({name!r}, 100, exist_ok={exist_ok})\n"
                    "except FileExistsError: pass",
                )
            for other in others:
                other.answer()
            created = [other.ask("h is not None and h.created") for other in others]
            assert created.count(True) == 1, turn
            if exist_ok:
                others[created.index(True)].run("h.write(b'one')")
                assert all(other.ask("(h.seek(0), h.read(3))[1]") == b"one" for other in others)
            for other in others:
                other.run("h = h and h.close()")
            assert_free(name)


def test_blocks_of_a_file_cannot_be_reserved(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with pytest.raises(NotImplementedError):
        mmap.open(path, "rw", reserve=True)
    path.unlink()


def test_a_mapped_file_cannot_be_removed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with mmap.open(path) as h:
        with pytest.raises(PermissionError):
            path.unlink()
        with pytest.raises(PermissionError):
            path.replace(tmp_path / "other")
        assert h.read() == b"abc"
    path.unlink()
