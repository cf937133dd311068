"""Who is named as the holder of a lock that belongs to an open file, and who is not."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import socket
import sys
import time
import types

import pytest
from children import Event, Forked
from peers import PeerError

from ipcio import filelock

resource = pytest.importorskip("resource", reason="the system does not say which process has locked a file")
procfs = pytest.importorskip("ipcio._posix.procfs")
backend = pytest.importorskip("ipcio._posix.filelock")

NOBODY = 65534

pytestmark = pytest.mark.skipif(filelock.semantics != "open file", reason="the system itself names who has a lock")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    return str(path)


@pytest.fixture
def asking(path):
    """An open file that has no locks, unless the test takes one."""
    with opened(path) as file:
        yield file


def opened(path):
    return open(path, "r+b", buffering=0)


def holding(peer, path, arguments="", user=None):
    """A peer that has a lock by an open file `f`."""
    return peer(
        "from ipcio import filelock",
        f"f = open({path!r}, 'r+b', buffering=0)",
        f"filelock.lock(f{arguments})",
        user=user,
    )


def named(file, mode="rw", offset=0, nbytes=0):
    """The process that `query` names for a lock that is there, to which `TimeoutError` must agree."""
    holder = filelock.query(file, mode, offset, nbytes)
    for _ in range(20):  # the search has little time
        with pytest.raises(TimeoutError) as caught:
            filelock.lock(file, mode, offset, nbytes, timeout=0.001)
        if "another process" not in str(caught.value):
            break
    assert ("another process" if holder.pid is None else f"process {holder.pid} ") in str(caught.value)
    return holder.pid


def asks_the_kernel():
    """Whether the kernel compares open files for us (kcmp)."""
    with open(os.devnull, "rb") as one, open(os.devnull, "rb") as two:
        return not backend._may_share_open_file(one.fileno(), os.getpid(), two.fileno())


compares = pytest.mark.able(probe=asks_the_kernel)


# -- in this very process ------------------------------------------------------


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_another_open_file_of_this_process(path, asking, mode):
    with opened(path) as holder:
        filelock.lock(holder, mode, 5, 10)
        assert named(asking) == os.getpid()
        with contextlib.closing(os.fdopen(os.dup(asking.fileno()), "r+b")) as duplicate:
            assert named(duplicate) == os.getpid()


@compares
@pytest.mark.parametrize(("offset", "nbytes"), [(5, 10), (0, 0)])
def test_an_equal_lock_of_ours_hides_no_other_open_file(path, asking, offset, nbytes):
    filelock.lock(asking, "r", offset, nbytes)
    with opened(path) as holder:
        filelock.lock(holder, "r", offset, nbytes)
        assert named(asking, "rw", offset, nbytes) == os.getpid()


def test_a_duplicate_has_the_locks_of_its_open_file(path, asking):
    with opened(path) as holder:
        filelock.lock(holder)
        duplicate = os.dup(holder.fileno())
    try:
        assert named(asking) == os.getpid()
        assert filelock.query(duplicate) is None
    finally:
        os.close(duplicate)
    assert filelock.query(asking) is None


@compares
def test_duplicates_of_ours_are_not_in_our_way(peer, path, asking):
    """They have an equal lock, but the other process is."""
    filelock.lock(asking, "r")
    holder = holding(peer, path, ", 'r'")
    duplicates = [os.dup(asking.fileno()) for _ in range(20)]
    try:
        assert [named(each) for each in (asking.fileno(), duplicates[0], duplicates[-1])] == [holder.pid] * 3
    finally:
        for duplicate in duplicates:
            os.close(duplicate)


# -- in other processes --------------------------------------------------------


def test_each_of_several_is_named_for_its_own_range(peer, path, asking):
    holders = [holding(peer, path, f", {mode!r}, {at}, 10") for at, mode in ((0, "r"), (10, "rw"), (20, "r"))]
    for at, holder in zip((0, 10, 20), holders, strict=True):
        assert named(asking, "rw", at, 10) == holder.pid
        assert named(asking, "rw", at + 3, 1) == holder.pid


@compares
def test_an_equal_lock_of_ours_hides_no_process(peer, path, asking):
    filelock.lock(asking, "r", 5, 10)
    holder = holding(peer, path, ", 'r', 5, 10")
    assert named(asking, "rw", 5, 10) == holder.pid


@compares
def test_children_that_have_our_open_file_are_never_named(peer, path, asking):
    """They were forked after the holder, and are looked at before it."""
    filelock.lock(asking, "r")
    holder = holding(peer, path, ", 'r'")
    with Event() as never, contextlib.ExitStack() as children:
        for _ in range(5):
            children.enter_context(Forked(never.wait))
        assert {named(asking) for _ in range(3)} == {holder.pid}
        assert Forked(named, asking).result() == holder.pid
        holder.kill()
        assert filelock.query(asking) is None


@compares
def test_children_that_have_our_open_file_and_the_holders_too(path, asking):
    """Then they hold, and are named for that."""
    filelock.lock(asking, "r")
    holder = opened(path)
    filelock.lock(holder, "r")
    with Event() as never, Forked(never.wait) as child:
        assert named(asking) in {os.getpid(), child.pid}
        holder.close()
        assert named(asking) == child.pid
    assert filelock.query(asking) is None


def test_a_descriptor_that_was_sent_makes_a_holder(path, asking):
    """On its way it is in no process; the lock is there all the same."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with opened(path) as holder:
            filelock.lock(holder)
            socket.send_fds(ours, [b"!"], [holder.fileno()])
        assert named(asking) is None
        with Event() as received, Event() as never:

            def receive():
                _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
                received.set()
                never.wait()
                os.close(fds[0])

            with Forked(receive) as child:
                received.wait()
                assert named(asking) == child.pid
    assert filelock.query(asking) is None


@compares
def test_a_descriptor_of_ours_that_was_sent_does_not_make_a_holder(peer, path, asking):
    filelock.lock(asking, "r")
    holder = holding(peer, path, ", 'r'")
    ours, theirs = socket.socketpair()
    with ours, theirs, Event() as ready, Event() as received, Event() as never:

        def receive():
            asking.close()
            ready.set()
            _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
            received.set()
            never.wait()
            os.close(fds[0])

        with Forked(receive) as child:
            ready.wait()
            socket.send_fds(ours, [b"!"], [asking.fileno()])
            received.wait()
            assert named(asking) == holder.pid != child.pid


def test_who_has_a_classic_lock_is_named_by_the_system(peer, path, asking):
    holder = peer(f"import fcntl; f = open({path!r}, 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX, 10, 5)")
    assert named(asking) == holder.pid


@compares
def test_a_classic_lock_is_not_taken_for_one_of_an_open_file(peer, path, asking):
    """Both are equal; the kernel reports the one that it finds first."""
    holders = {
        holding(peer, path, ", 'r', 0, 10").pid,
        peer(f"import fcntl; f = open({path!r}, 'rb'); fcntl.lockf(f, fcntl.LOCK_SH, 10, 0)").pid,
    }
    filelock.lock(asking, "r", 0, 10)
    assert named(asking) in holders


def test_who_has_it_open_and_waits_or_has_other_locks_is_not_named(peer, path, asking):
    holder = holding(peer, path, ", 'rw', 10, 10")
    for arguments in (", 'rw', 0, 5", ", 'r', 30, 10"):
        holding(peer, path, arguments)  # younger, and looked at before
    other = peer("import fcntl", f"f = open({path!r}, 'r+b'); fcntl.flock(f, fcntl.LOCK_EX)")
    assert named(asking, "rw", 10, 10) == holder.pid != other.pid


# -- what cannot be known ------------------------------------------------------


@pytest.mark.root
def test_processes_that_may_not_be_looked_at(peer, unique):
    path = f"/dev/shm/{unique()}"
    with open(path, "xb") as file:
        os.fchmod(file.fileno(), 0o666)
    try:
        holder = holding(peer, path, ", 'r'", user=NOBODY)
        other = peer("from ipcio import filelock", f"f = open({path!r}, 'r+b')", user=NOBODY - 1)
        assert other.ask("filelock.query(f)[:]") == (0, 0, "r", None)
        other.run("filelock.lock(f, 'r')")
        assert other.ask("filelock.query(f)[:]") == (0, 0, "r", None)
        with pytest.raises(PeerError, match="shared by another process, all bytes from 0 on"):
            other.run("filelock.lock(f, timeout=0.01)")
        with opened(path) as file:
            assert named(file) in {holder.pid, other.pid}
    finally:
        os.unlink(path)


def unknown_machine(monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: types.SimpleNamespace(machine="pdp11"))


def refused(monkeypatch):
    from ipcio._posix import libc

    monkeypatch.setattr(libc, "syscall", lambda *_: -1)


def no_ctypes(monkeypatch):
    import ipcio._posix

    monkeypatch.delitem(sys.modules, "ipcio._posix.libc", raising=False)
    monkeypatch.delattr(ipcio._posix, "libc", raising=False)
    monkeypatch.setitem(sys.modules, "ctypes", None)
    monkeypatch.setattr(backend, "_may_share_open_file", backend._way_to_compare())


lacks = pytest.mark.parametrize("lack", [unknown_machine, refused, no_ctypes])


@lacks
def test_where_open_files_cannot_be_compared_no_process_is_named_falsely(monkeypatch, peer, path, asking, lack):
    """With an equal lock of ours, everybody who has it may have it from us."""
    filelock.lock(asking, "r")
    holding(peer, path, ", 'r'")
    with Event() as never, Forked(never.wait):
        lack(monkeypatch)
        assert named(asking) is None


@lacks
def test_where_open_files_cannot_be_compared_others_are_named_still(monkeypatch, peer, path, asking, lack):
    """With another lock of ours, or none, nothing need be compared."""
    holder = holding(peer, path, ", 'r', 0, 10")
    lack(monkeypatch)
    assert named(asking) == holder.pid
    filelock.lock(asking, "r", 0, 9)
    assert named(asking, "rw", 0, 10) == holder.pid


# -- what changes while it is looked for ---------------------------------------


def during_the_search(monkeypatch, path, happens):
    """Have something happen once, just after the names of a directory were read."""
    real = procfs._names_in
    todo = [happens]

    def names_in(directory):
        found = list(real(directory))
        if directory == path and todo:
            return todo.pop()(found) or found
        return found

    monkeypatch.setattr(procfs, "_names_in", names_in)


def test_processes_that_end_during_the_search(monkeypatch, peer, path, asking):
    holder = holding(peer, path)
    fleeting = peer()
    during_the_search(monkeypatch, "/proc", lambda _: fleeting.stop())
    assert filelock.query(asking).pid == holder.pid


def test_a_holder_that_ends_during_the_search(monkeypatch, peer, path, asking):
    holder = holding(peer, path)
    during_the_search(monkeypatch, f"/proc/{holder.pid}/fdinfo", lambda _: holder.kill() and None)
    assert filelock.query(asking) == (0, 0, "rw", None)  # as it was asked
    assert filelock.query(asking) is None


def test_descriptors_that_are_closed_during_the_search(monkeypatch, path, asking):
    fleeting, holder = opened(path), opened(path)
    filelock.lock(holder)

    def close(found):
        fleeting.close()
        return [str(fleeting_number), *found]

    fleeting_number = fleeting.fileno()
    during_the_search(monkeypatch, f"/proc/{os.getpid()}/fdinfo", close)
    with holder:
        assert filelock.query(asking).pid == os.getpid()


def test_a_holder_that_unlocks_during_the_search_is_not_named(monkeypatch, peer, path, asking):
    holder = holding(peer, path)
    during_the_search(monkeypatch, f"/proc/{holder.pid}/fdinfo", lambda _: holder.run("filelock.unlock(f)"))
    assert filelock.query(asking).pid is None
    assert filelock.query(asking) is None


def test_without_a_proc_no_process_is_named(monkeypatch, peer, path, asking):
    def scandir(directory):
        raise FileNotFoundError(directory)

    holding(peer, path)
    monkeypatch.setattr(os, "scandir", scandir)
    assert named(asking) is None


# -- which file ----------------------------------------------------------------


@pytest.mark.parametrize("how", ["unlink", "rename", "replace"])
def test_the_file_counts_and_not_its_name(peer, path, asking, how):
    holder = holding(peer, path)
    if how == "unlink":
        os.unlink(path)
    else:
        os.rename(path, f"{path} moved")
    if how == "replace":
        with open(path, "xb"):
            pass
        other = holding(peer, path)
        with opened(path) as file:
            assert named(file) == other.pid
    assert named(asking) == holder.pid


def test_a_file_without_a_name(asking):
    fd = os.memfd_create("ipcio-test")
    try:
        with opened(f"/proc/self/fd/{fd}") as holder:
            filelock.lock(holder)
            assert named(fd) == os.getpid()
            assert filelock.query(asking) is None
    finally:
        os.close(fd)


def test_hard_links_and_symbolic_links_are_the_same_file(peer, path, asking, tmp_path):
    os.link(path, tmp_path / "hard")
    os.symlink(tmp_path / "hard", tmp_path / "soft")
    holder = holding(peer, str(tmp_path / "soft"))
    assert named(asking) == holder.pid


CLONE_NEWNS, MS_REC_PRIVATE = 0x20000, 0x44000


@pytest.mark.root
def test_a_file_of_the_same_number_on_another_device_is_another(tmp_path):
    """Two new file systems in a namespace of their own; they number their files alike."""

    def ask():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None):
            return os.strerror(ctypes.get_errno())
        files = []
        for name in ("one", "two"):
            os.mkdir(tmp_path / name)
            if libc.mount(b"tmpfs", bytes(tmp_path / name), b"tmpfs", 0, None):
                return os.strerror(ctypes.get_errno())
            (tmp_path / name / "file").write_bytes(b"")
            files.append(opened(tmp_path / name / "file"))
        one, two = files
        assert os.fstat(one.fileno()).st_ino == os.fstat(two.fileno()).st_ino
        filelock.lock(two)
        assert filelock.query(one) is None
        with Event() as ready, Event() as never:

            def hold():
                two.close()
                with opened(tmp_path / "one" / "file") as file:
                    filelock.lock(file)
                    ready.set()
                    never.wait()

            with Forked(hold) as child:
                ready.wait()
                return named(one) == child.pid

    result = Forked(ask).result()
    if isinstance(result, str):
        pytest.skip(f"nothing can be mounted here: {result}")
    assert result is True


MS_BIND = 0x1000


@pytest.mark.root
def test_after_chroot_a_file_is_still_known(tmp_path, monkeypatch):
    """The kernel's list of mounts then lacks the one that the root is a directory of."""

    def ask():
        libc = ctypes.CDLL(None, use_errno=True)
        os.mkdir(tmp_path / "proc")
        if (
            libc.unshare(CLONE_NEWNS)
            or libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None)
            or libc.mount(b"/proc", bytes(tmp_path / "proc"), None, MS_BIND, None)
        ):
            return os.strerror(ctypes.get_errno())
        (tmp_path / "file").write_bytes(b"")
        os.chroot(tmp_path)
        monkeypatch.setattr(os, "fstat", None)  # it may tell another device than the list of locks does
        with Event() as ready, Event() as never, opened("/file") as asking:

            def hold():
                asking.close()
                with opened("/file") as file:
                    filelock.lock(file)
                    ready.set()
                    never.wait()

            with Forked(hold) as child:
                ready.wait()
                return named(asking) == child.pid

    result = Forked(ask).result()
    if isinstance(result, str):
        pytest.skip(f"nothing can be mounted here: {result}")
    assert result is True


# -- many ----------------------------------------------------------------------


def with_many_files(many, path, ask):
    """Ask in a child process that has so many files open."""

    def child():
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most != resource.RLIM_INFINITY and most < many + 100:
            return "too few descriptors are allowed"
        resource.setrlimit(resource.RLIMIT_NOFILE, (many + 100, most))
        fd = os.open(path, os.O_RDONLY)
        with contextlib.suppress(OSError):
            for _ in range(many):
                os.dup(fd)
        return ask()

    result = Forked(child).result()
    if isinstance(result, str):
        pytest.skip(result)
    return result


def test_one_of_thousands_of_descriptors(path, asking):
    def ask():
        with opened(path) as holder:
            filelock.lock(holder, "rw", 0, 5)
            return filelock.query(asking, "rw", 0, 5).pid == os.getpid()

    assert with_many_files(3000, path, ask)


def test_a_process_with_very_many_descriptors_hides_no_other(peer, path, asking):
    """It is the youngest; the time is kept, and the holder is named."""
    holder = holding(peer, path)

    def ask():
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            filelock.lock(asking, timeout=0.1)
        return 0.1 <= time.monotonic() - began and named(asking) == holder.pid

    assert with_many_files(15_000, "/dev/null", ask)


@pytest.mark.hurried
@pytest.mark.parametrize("timeout", [0, 0.1])
def test_the_search_ends_with_the_time(monkeypatch, peer, path, asking, timeout):
    """However many descriptors there are: here the list of them never ends."""
    holding(peer, path)
    monkeypatch.setattr(procfs, "_descriptors", lambda: itertools.cycle([None, (os.getpid(), 0)]))
    with pytest.raises(TimeoutError, match="another process"):
        filelock.lock(asking, timeout=timeout)


def test_no_file_is_asked_for_its_state(monkeypatch, peer, path, asking):
    """A file of a server that does not answer would never say."""
    holder = holding(peer, path)

    def refuse(*arguments):
        raise AssertionError(arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        patch.setattr(os, "fstat", refuse)
        found = filelock.query(asking)
    assert found.pid == holder.pid


def test_locks_that_are_joined_and_split_are_found_as_they_are(peer, path, asking):
    holder = holding(peer, path, ", 'r', 10, 10")
    holder.run("filelock.lock(f, 'r', 20, 10); filelock.lock(f, 'rw', 40, 20); filelock.unlock(f, 45, 5)")
    found = [filelock.query(asking, "rw", at, 1) for at in (10, 25, 40, 50)]
    assert found == [(10, 20, "r", holder.pid)] * 2 + [(40, 5, "rw", holder.pid), (50, 10, "rw", holder.pid)]


def test_the_last_byte_and_infinity_are_the_same_end(peer, path, asking):
    last = 2**63 - 1
    holder = holding(peer, path, f", 'rw', 7, {last - 7 + 1}")
    assert filelock.query(asking) == (7, 0, "rw", holder.pid)
    holder.run(f"filelock.unlock(f, {last}, 1)")
    assert filelock.query(asking) == (7, last - 7, "rw", holder.pid)
