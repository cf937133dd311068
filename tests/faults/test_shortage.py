"""What is short: descriptors, memory, room in /dev/shm, System V semaphores.  Every call works or is an error
that names the object, and it leaves nothing."""

from __future__ import annotations

import errno
import os
import signal

import pytest
from namespaces import can_go_apart, can_limit
from peers import PeerError
from semaphores import lives, there, works

from ipcio import sem, shm

resource = pytest.importorskip("resource", reason="there are no limits here")
objects = pytest.importorskip("ipcio._posix.objects")
pytestmark = pytest.mark.needs("files")


def segment_there(name):
    return os.path.lexists(f"/dev/shm/{name}")


# -- of descriptors, memory, file sizes: segments ------------------------------------


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
        assert not segment_there(name)
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
    assert not segment_there(name)


# -- of descriptors: semaphores -------------------------------------------------------


@pytest.mark.parametrize("undo", [False, True])
def test_out_of_descriptors_for_semaphores_is_an_error_that_leaves_nothing_and_passes(left, peer, undo):
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


# -- of room in /dev/shm ----------------------------------------------------------------


@pytest.fixture
def small(apart):
    """A peer with a ``/dev/shm`` of 1 MiB of its own."""
    return apart()


@pytest.mark.able(probe=can_go_apart)
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


@pytest.mark.able(probe=can_go_apart)
def test_what_a_segment_has_is_its_own_to_the_last_byte(small):
    """The second create is refused; the first one can write all of its memory."""
    small.run("h = shm.create('first', 800 << 10)")
    with pytest.raises(PeerError) as caught:
        small.run("shm.create('second', 400 << 10)")
    assert caught.value.errno == errno.ENOSPC
    small.run("g = shm.create('second', 200 << 10); h.write(b'x' * (800 << 10)); g.write(b'y' * (200 << 10))")
    small.run("h.close(); g.close()")
    assert small.ask("os.listdir('/dev/shm')") == []


@pytest.mark.able(probe=can_go_apart)
def test_a_sparse_segment_needs_no_room_until_it_is_used(small):
    small.run("h = shm.create('sparse', 1 << 30, reserve=False); h.seek(1 << 29); h.write(b'x'); h.close()")


@pytest.mark.able(probe=can_go_apart)
def test_an_orphaned_segment_makes_room_for_its_successor(small):
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


@pytest.mark.able(probe=can_go_apart)
def test_a_full_dev_shm_does_not_keep_anybody_from_closing_or_unlinking(small):
    small.run("h = shm.create('all', 1 << 20, persist=True); g = shm.attach('all')")
    small.run("shm.unlink('all'); h.close(); g.close()")
    assert small.ask("os.listdir('/dev/shm'), free()") == ([], 1 << 20)


@pytest.mark.able(probe=can_go_apart)
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


# -- of room for semaphores -------------------------------------------------------------


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
def test_an_orphaned_crash_safe_one_makes_room_for_its_successor(apart):
    """Under its own name at once, under another one once `gc` has been."""
    other = apart("32000 1024000000 500 1")
    for options in ("", ", exist_ok=True"):
        other.run("leave_orphan(lambda: sem.create('same', 1, undo=True))")
        assert other.ask("sets()") == 1
        other.run(f"s = sem.create('same', 2, undo=True{options}); assert s.created; s.close()")
        assert other.ask("entries(), sets()") == ([], 0)
    other.run("leave_orphan(lambda: sem.create('same', 1, undo=True))")
    assert other.ask("refused(lambda: sem.create('other', 1, undo=True))[0]") == errno.ENOSPC
    assert other.ask("command('gc')") == (0, "sem same\n", "")
    other.run("s = sem.create('other', 1, undo=True); s.close()")
    assert other.ask("entries(), sets()") == ([], 0)


@pytest.mark.able(probe=can_go_apart)
@pytest.mark.parametrize("undo", [False, True])
def test_a_full_dev_shm_is_enospc_and_leaves_nothing(apart, undo):
    """An orphan of the name makes room first."""
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
    for crash_safe in (False, True):
        other.run("os.unlink('/dev/shm/filler')")
        other.run(f"leave_orphan(lambda: sem.create('x', 1, undo={crash_safe})); fill()")
        assert other.ask("refused(lambda: sem.create('y', 1))[0]") == errno.ENOSPC
        other.run(f"s = sem.create('x', 2, undo={undo}); assert s.created and s.value == 2")
        other.run("t = sem.attach('x'); t.dec(); t.inc(); sem.unlink('x'); s.close(); t.close()")
        assert other.ask("entries(), sets()") == (["filler"], 0)


@pytest.mark.able(probe=can_go_apart)
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
