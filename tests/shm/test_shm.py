"""Named shared memory: names, sizes, modes, bad input."""

from __future__ import annotations

import errno
import io
import os
from contextlib import closing

import pytest
from abilities import lacks
from named_contract import FILES, OPENED, NameContract, entries_with, ordinary
from peers import PeerError

from ipcio import MemoryFile, shm


def path(name):
    return f"/dev/shm/{name}"


class TestNames(NameContract):
    module = shm
    spelling = "shm"
    longest = 255 if FILES else 30 if OPENED else 258

    def mark(self, handle):
        handle.getbuffer()[0] = 7

    def is_managed(self, handle):
        return handle.getbuffer()[0] == 7

    def foreign(self, name):
        if OPENED:
            import _posixshmem

            fd = _posixshmem.shm_open(f"/{name}", os.O_CREAT | os.O_EXCL | os.O_RDWR, mode=0o600)
            with open(fd, "rb+"):
                os.ftruncate(fd, 4096)
            return
        with open(path(name), "xb") as file:
            file.write(bytes(4096))


# -- sizes -------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, -(2**70)])
def test_a_size_below_one_is_a_value_error_and_makes_nothing(name, size):
    for exist_ok in (False, True):
        with pytest.raises(ValueError, match="size"):
            shm.create(name, size, exist_ok=exist_ok)
    assert not entries_with(name)


@pytest.mark.parametrize("size", [1.0, "1", b"1", None, [1]])
def test_a_size_that_is_no_integer_is_a_type_error_and_makes_nothing(name, size):
    with pytest.raises(TypeError):
        shm.create(name, size)
    assert not entries_with(name)


@pytest.mark.parametrize("reserve", [True, False])
@pytest.mark.parametrize("size", [2**62, 2**63 - 1, 2**63, 2**64, 2**70])
def test_more_than_any_machine_has_is_an_error_and_makes_nothing(name, size, reserve):
    """ENOSPC where it is to be reserved; a sparse one may also fail to be mapped."""
    for exist_ok in (False, True):
        with pytest.raises(OSError) as caught:
            shm.create(name, size, reserve=reserve, exist_ok=exist_ok)
        assert caught.value.errno in ({errno.ENOSPC} if reserve else {errno.ENOSPC, errno.ENOMEM, errno.EFBIG})
        assert caught.value.filename == name
        assert not entries_with(name)


@pytest.mark.parametrize("size", [1, 7, 4095, 4096, 4097, 100_001])
def test_the_size_is_exact_and_the_bytes_are_zero(name, size):
    with shm.create(name, size) as h, shm.attach(name) as other:
        for handle in (h, other):
            assert handle.size() == size
            assert len(handle.getbuffer()) == size
            assert handle.read() == bytes(size)
            assert handle.tell() == size
        if FILES:
            assert os.stat(path(name)).st_size == size


def test_a_name_used_again_is_zero_again(name):
    for _ in range(3):
        with shm.create(name, 10_000) as h:
            assert not any(h.getbuffer())
            h.write(b"\xff" * 10_000)


def test_a_size_may_be_anything_with_an_index(name):
    class Ten:
        def __index__(self):
            return 10

    with shm.create(name, Ten()) as h:
        assert h.size() == 10


@pytest.mark.needs("files")
def test_memory_is_reserved_unless_told_otherwise(name, unique):
    """A reserved segment has blocks behind every byte, a sparse one none."""
    sparse = unique()
    with shm.create(name, 300_000) as h, shm.create(sparse, 300_000, reserve=False) as other:
        assert os.stat(path(name)).st_blocks * 512 >= 300_000
        assert os.stat(path(sparse)).st_blocks == 0
        assert h.size() == other.size() == 300_000
        assert other.read() == bytes(300_000)


@pytest.mark.needs("files")
def test_a_sparse_segment_may_be_larger_than_the_memory(name):
    with shm.create(name, 2**40, reserve=False) as h:
        h.seek(2**39)
        h.write(b"middle")
        with shm.attach(name) as other:
            assert other.size() == 2**40
            other.seek(2**39)
            assert other.read(6) == b"middle"


# -- exist_ok ----------------------------------------------------------------


def test_exist_ok_takes_a_larger_segment_as_it_is(name):
    with shm.create(name, 1000) as h, shm.create(name, 10, exist_ok=True) as other:
        assert other.size() == 1000
        assert (h.created, other.created) == (True, False)
        assert other.tell() == 0


def test_exist_ok_refuses_a_smaller_segment_and_holds_nothing(name):
    h = shm.create(name, 10)
    with pytest.raises(ValueError, match="10 bytes"):
        shm.create(name, 11, exist_ok=True)
    with shm.attach(name) as other:
        assert other.size() == 10
    h.close()
    assert not entries_with(name)


@pytest.mark.needs("persistence")
def test_exist_ok_refuses_a_smaller_persistent_segment_and_leaves_it(name):
    shm.create(name, 10, persist=True).close()
    with pytest.raises(ValueError, match="10 bytes"):
        shm.create(name, 11, exist_ok=True)
    shm.attach(name).close()
    shm.unlink(name)


# -- modes -------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["", "w", "rb", "rb+", "wr", "r+", "RW", b"r", None, 5])
def test_another_mode_is_refused(name, mode):
    with shm.create(name, 10):
        with pytest.raises((ValueError, TypeError)):
            shm.attach(name, mode)


def test_an_unhashable_mode_is_refused_too(name):
    with shm.create(name, 10):
        with pytest.raises((ValueError, TypeError)):
            shm.attach(name, ["r"])


def test_create_and_attach_give_a_memory_file_for_reading_and_writing(name):
    with shm.create(name, 10) as h, shm.attach(name) as other:
        for handle in (h, other):
            assert isinstance(handle, MemoryFile)
            assert isinstance(handle, io.RawIOBase)
            assert handle.mode == "rb+"
            assert handle.name == name
            assert handle.readable()
            assert handle.writable()
        h.write(b"abc")
        assert other.read(3) == b"abc"
        other.write(b"def")
        assert h.read(3) == b"def"


def test_a_read_only_handle_cannot_change_a_byte(name):
    with shm.create(name, 10) as h, shm.attach(name, "r") as reader:
        h.write(b"0123456789")
        assert reader.mode == "rb"
        assert reader.readable()
        assert not reader.writable()
        for attempt in (lambda: reader.write(b"x"), lambda: reader.writelines([b"x"])):
            with pytest.raises(io.UnsupportedOperation):
                attempt()
        assert reader.getbuffer().readonly
        if not lacks("descriptors"):
            with pytest.raises(OSError):
                os.write(reader.fileno(), b"x")
            with pytest.raises(OSError):
                os.ftruncate(reader.fileno(), 5)
        assert reader.read() == b"0123456789"


def test_a_read_only_handle_holds_the_name_like_any_other(name):
    h = shm.create(name, 10)
    with shm.attach(name, "r"):
        h.close()
        shm.attach(name).close()
    assert not entries_with(name)


@pytest.mark.needs("users")
def test_read_only_permission_is_enough_for_reading(name, peer):
    """Writing takes permission to write: for the owner, too."""
    other = peer(user=ordinary())
    other.run(f"h = shm.create({name!r}, 10, perm=0o400); h.write(b'secret')")
    assert other.ask(f"shm.attach({name!r}, 'r').read(6)") == b"secret"
    with pytest.raises(PeerError) as caught:
        other.run(f"shm.attach({name!r})")
    assert (caught.value.kind, caught.value.errno) == ("PermissionError", errno.EACCES)
    other.run("h.close()")
    assert not entries_with(name)


# -- damaged and foreign objects ---------------------------------------------


@pytest.mark.needs("files")
def test_a_segment_cut_down_to_nothing_is_an_error_and_not_a_crash(name):
    with shm.create(name, 10) as h:
        os.ftruncate(h.fileno(), 0)
        for attempt in (lambda: shm.attach(name), lambda: shm.attach(name, "r")):
            with pytest.raises(OSError) as caught:
                attempt()
            assert caught.value.errno is not None
            assert caught.value.filename == name
        with pytest.raises(FileExistsError):
            shm.create(name, 10)
    assert not entries_with(name)


@pytest.mark.needs("files")
def test_a_segment_cut_short_is_attached_at_its_size(name):
    with shm.create(name, 10_000) as h:
        os.ftruncate(h.fileno(), 5)
        with shm.attach(name) as other:
            assert other.size() == 5
            assert other.read() == bytes(5)


@pytest.mark.needs("files")
def test_a_foreign_segment_too_large_to_map_is_an_error(name):
    fd = os.open(path(name), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    os.ftruncate(fd, 2**62)
    os.close(fd)
    with pytest.raises(OSError) as caught:
        shm.attach(name)
    assert caught.value.errno == errno.ENOMEM
    assert caught.value.filename == name
    os.unlink(path(name))


@pytest.mark.needs("files")
def test_a_foreign_segment_is_attached_whole(name):
    with open(path(name), "xb") as file:
        file.write(b"foreign bytes")
    with shm.attach(name) as h, shm.attach(name, "r") as reader:
        assert h.size() == 13
        assert reader.read() == b"foreign bytes"
        h.write(b"FOREIGN")
        assert not h.created
    with open(path(name), "rb") as file:
        assert file.read() == b"FOREIGN bytes"
    shm.unlink(name)


@pytest.mark.needs("files")
@pytest.mark.parametrize("size", [0, 100])
def test_a_marked_object_that_no_process_holds_is_an_orphan(name, size):
    """As SIGKILL leaves them; also one that was cut down to nothing."""
    for call in ("attach", "create"):
        with open(path(name), "xb") as file:
            file.write(b"x" * size)
        os.chmod(path(name), 0o1600)
        if call == "attach":
            with pytest.raises(FileNotFoundError):
                shm.attach(name)
        else:
            with shm.create(name, 50) as h:
                assert h.created
                assert h.read() == bytes(50)
        assert not entries_with(name)


@pytest.mark.needs("files")
def test_an_object_that_is_locked_against_us_is_an_error_and_not_a_wait_for_ever(name, monkeypatch):
    """A program that keeps an exclusive lock on an orphaned object of ours keeps all other processes out."""
    import fcntl

    from ipcio._posix import lifetime

    monkeypatch.setattr(lifetime, "PATIENCE", 0.1)
    fd = os.open(path(name), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    os.ftruncate(fd, 100)
    os.fchmod(fd, 0o1600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with closing(open(fd, "rb")):
        for call in (lambda: shm.attach(name), lambda: shm.create(name, 10)):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno is not None
            assert caught.value.filename == name
    with shm.create(name, 10) as h:
        assert h.created


# -- odds and ends -----------------------------------------------------------


def test_repr_tells_name_size_and_state(name):
    with shm.create(name, 4096) as h:
        assert repr(name) in repr(h)
        assert "4096" in repr(h)
        assert "closed" not in repr(h)
    assert repr(name) in repr(h)
    assert "closed" in repr(h)


def test_options_are_keywords(name):
    with pytest.raises(TypeError):
        shm.create(name, 10, 0o600)
    assert not entries_with(name)


def test_after_close_the_name_and_the_mode_can_still_be_read(name):
    h = shm.create(name, 10)
    h.close()
    assert (h.name, h.mode, h.created, h.closed) == (name, "rb+", True, True)
    for call in (h.read, h.size, h.addr, h.tell, h.fileno, h.getbuffer, h.flush, lambda: h.write(b"x")):
        with pytest.raises(ValueError, match="closed"):
            call()


@pytest.mark.needs("proc", "descriptors")
def test_descriptors_are_close_on_exec(name):
    """All that a create and an attach open, not only the one they show."""
    before = set(os.listdir("/proc/self/fd"))
    with shm.create(name, 10) as h, shm.attach(name) as other:
        assert h.fileno() != other.fileno()
        for fd in map(int, set(os.listdir("/proc/self/fd")) - before):
            try:
                assert not os.get_inheritable(fd)
            except OSError:  # the listing's own
                pass


@pytest.mark.needs("descriptors", "users")
@pytest.mark.parametrize("perm", [0o200, 0o400, 0])
def test_permissions_do_not_keep_a_handle_from_its_descriptor(perm, name, peer):
    """Neither its owner, who may not open the object again, nor root that made it and became a user."""
    ordinary = None if os.geteuid() else 65534
    other = peer(f"h = shm.create({name!r}, 10, perm={perm})", user=ordinary)
    assert other.ask("os.pwrite(h.fileno(), b'x', 3)") == 1
    assert other.ask("(os.pread(h.fileno(), 1, 3), h.tell(), h.read(4))") == (b"x", 0, b"\0\0\0x")
    other.run("h.close()")
    if ordinary is not None:
        other = peer(f"h = shm.create({name!r}, 10, perm={perm})")
        other.run(f"os.setresuid({ordinary}, {ordinary}, {ordinary})")
        assert other.ask("os.pwrite(h.fileno(), b'x', 3)") == 1
        other.run("h.close()")  # which may not remove the name
        with pytest.raises(FileNotFoundError):
            shm.attach(name)
