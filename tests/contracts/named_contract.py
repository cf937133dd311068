"""What a name is, how long it exists and which user may use it: the rules that all named objects share.

A test module subclasses the two contracts for its kind of object and says in the
hooks how to make one.  Peers must know the module under its plain name.
"""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from contextlib import closing

import children
import pytest
from abilities import lacks
from children import Event, Forked
from peers import PeerError

from ipcio import event, mutex, queue, sem, shm
from ipcio._names import SEGMENTS

MODULES = shm, sem, mutex, event, queue
SHM = "/dev/shm"
NOBODY, SOMEBODY = 65534, 65533  # two ordinary users

FILES = not lacks("files")
OPENED = not FILES and not lacks("posix")  # named objects that are no files, but to be opened; as macOS has them

needs_fork = pytest.mark.needs("fork")


def ordinary() -> int | None:
    """The user for a peer that is not to be root; None if this process is not root itself."""
    return None if os.geteuid() else NOBODY


def entries_with(part: str) -> list[str]:
    """What there is under names with that part; where names cannot be listed, under that very name."""
    if FILES:
        return [entry for entry in os.listdir(SHM) if part in entry]
    return [module.__name__ for module in MODULES if not is_free(module, part)]


def is_free(module, name) -> bool:
    try:
        module.attach(name).close()
    except FileNotFoundError:
        return True
    except OSError:  # one of another kind
        pass
    return False


# The last two are how Windows spells whose a name is; here they are malformed everywhere.
BACKSLASHES = "{}\\b", "\\{}", "Local\\{}", "Global\\{}"


class Named:
    """Hooks: one kind of named object."""

    module = None  # ipcio.shm, say
    spelling = ""  # its name in a peer
    measure = 100  # what `create` takes after the name
    prefix = ""  # between the directory and the name
    longest = 30 if OPENED else 255  # what `length` of a name may be

    def make(self, name, **options):
        return self.module.create(name, self.measure, **options)

    def make_code(self, name, **options) -> str:
        return f"{self.spelling}.create({name!r}, {self.measure}, **{options!r})"

    def attach_code(self, name) -> str:
        return f"{self.spelling}.attach({name!r})"

    def path(self, name) -> str:
        return f"{SHM}/{self.prefix}{name}"

    def perm_of(self, name) -> int:
        """The permissions of what has the name."""
        return os.stat(self.path(name)).st_mode & 0o777

    def mark(self, handle) -> None:
        """Change the object behind `handle` visibly."""
        raise NotImplementedError

    def is_managed(self, handle) -> bool:
        """Whether somebody did."""
        raise NotImplementedError

    def foreign(self, name) -> None:
        """Make such an object without ipcio."""
        raise NotImplementedError

    def sweep(self) -> None:
        """Remove what only `ipcio gc` can find."""

    # What tests say often.

    def lives(self, name) -> bool:
        try:
            self.module.attach(name).close()
        except FileNotFoundError:
            return False
        return True

    def there(self, name) -> bool:
        """Whether anything is under the name, also what nobody could attach."""
        return os.path.lexists(self.path(name)) if FILES else self.lives(name)

    def look(self, name) -> tuple[int, ...]:
        """What can be seen of an object from outside, if anything."""
        info = os.stat(self.path(name)) if not lacks("witness") else None
        return (info.st_ino, info.st_mode, info.st_size) if info else ()

    def length(self, name) -> int:
        """How long the system finds a name: in bytes, or in units of UTF-16."""
        return len(name.encode("utf-16-le")) // 2 if lacks("posix") else len(os.fsencode(name))

    def same(self, one, other) -> bool:
        assert not self.is_managed(one)
        assert not self.is_managed(other)
        self.mark(one)
        return self.is_managed(other)

    def assert_free(self, name) -> None:
        """Nobody is there: attach says so, and create makes a new one."""
        assert not self.lives(name)
        with closing(self.make(name)) as h:
            assert h.created
            assert not self.is_managed(h)


class Segment(Named):
    """Hooks for mutexes, events and queues: a subclass says `module`, `arguments`, `mark` and `is_managed`."""

    arguments = ()  # of `create` after the name

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if cls.module is not None:
            cls.spelling = cls.module.__name__.rpartition(".")[2]
            cls.prefix = SEGMENTS[cls.spelling]
            cls.longest = 80 if OPENED else (255 if FILES else 258) - len(cls.prefix)

    def make(self, name, **options):
        return self.module.create(name, *self.arguments, **options)

    def make_code(self, name, **options) -> str:
        given = ", ".join([repr(name), *map(repr, self.arguments), f"**{options!r}"])
        return f"{self.spelling}.create({given})"

    def path(self, name) -> str:
        if not OPENED:
            return super().path(name)
        from ipcio._posix.namespace import segment_path

        return segment_path(name, self.spelling)

    def foreign(self, name) -> None:
        """A file with such contents that ipcio did not make; where files are ipcio's alone, one that persists."""
        self.make(name, persist=True).close()
        if not OPENED:
            with open(self.path(name), "rb") as file:
                contents = file.read()
            self.module.unlink(name)
            with open(self.path(name), "xb") as file:
                file.write(contents)


class NameContract(Named):
    """What may be a name, and what stands under it."""

    # -- malformed arguments ---------------------------------------------

    @pytest.mark.parametrize("bad", ["", "/", ".", "..", "/{}", "{}/", "{}/b", "a/{}", *BACKSLASHES, "{}\0", "\0{}"])
    def test_a_malformed_name_is_a_value_error_and_makes_nothing(self, bad, name):
        bad = bad.format(name)
        for call in (self.make, self.module.attach, self.module.unlink, lambda n: self.make(n, exist_ok=True)):
            with pytest.raises(ValueError, match="name"):
                call(bad)
        assert not entries_with(name)

    @pytest.mark.parametrize("bad", [b"bytes", bytearray(b"x"), 5, 1.5, ("x",), object()])
    def test_a_name_that_is_no_str_is_a_type_error(self, bad):
        for call in (self.make, self.module.attach, self.module.unlink):
            with pytest.raises(TypeError):
                call(bad)

    def test_only_create_invents_names(self):
        for call in (self.module.attach, self.module.unlink):
            with pytest.raises(TypeError):
                call(None)

    @pytest.mark.needs("files")
    def test_a_name_that_no_file_can_have_is_a_value_error(self, name):
        for call in (self.make, self.module.attach, self.module.unlink):
            with pytest.raises(ValueError):  # UnicodeEncodeError is one
                call(f"{name}\ud800")
        assert not entries_with(name)

    def test_too_long_a_name_is_enametoolong(self, name):
        for letter in ("x", "é", "\N{GRINNING FACE}"):
            long = name
            while self.length(long) <= self.longest:
                long += letter
            for call in (self.make, self.module.attach, self.module.unlink, lambda n: self.make(n, exist_ok=True)):
                with pytest.raises(OSError) as caught:
                    call(long)
                assert caught.value.errno == errno.ENAMETOOLONG
                assert f" {self.longest} " in caught.value.strerror, "the error does not say the limit"
                assert caught.value.filename == long
        assert not entries_with(name)

    def test_the_longest_name_is_a_name(self, unique):
        short = unique()
        long = unique("x" * (self.longest - len(short)))[: self.longest]
        with closing(self.make(long)):
            assert self.lives(long)
        self.assert_free(long)

    no_text = pytest.param("\udc80", marks=pytest.mark.skipif(OPENED, reason="names are text here"))

    @pytest.mark.parametrize("suffix", [" x", "\n", "é€", ".", "..", "*?", "%s{}", no_text, "~", "-" * 4])
    def test_any_other_word_is_a_name(self, unique, suffix):
        name = unique(suffix)
        with closing(self.make(name)) as h, closing(self.module.attach(name)) as other:
            assert h.name == other.name == name
            assert self.same(h, other)
        assert not self.lives(name)

    @pytest.mark.parametrize("perm", [-1, 0o10000, 0o100600, 2**70])
    def test_perm_out_of_range_is_a_value_error_and_makes_nothing(self, name, perm):
        with pytest.raises(ValueError, match="perm"):
            self.make(name, perm=perm)
        assert not entries_with(name)

    @pytest.mark.parametrize("perm", ["600", 6.0, None])
    def test_perm_that_is_no_integer_is_a_type_error_and_makes_nothing(self, name, perm):
        with pytest.raises(TypeError):
            self.make(name, perm=perm)
        assert not entries_with(name)

    # -- create, attach, unlink ------------------------------------------

    def test_attach_finds_what_create_made(self, name):
        with closing(self.make(name)) as h, closing(self.module.attach(name)) as other:
            assert h.created
            assert not other.created
            assert self.same(h, other)

    def test_another_process_finds_it_too(self, name, peer):
        other = peer()
        with closing(self.make(name)) as h:
            other.run(f"h = {self.attach_code(name)}")
            self.mark(h)
            with closing(self.module.attach(name)) as again:
                assert self.is_managed(again)
            other.run("h.close()")
        self.assert_free(name)

    def test_create_refuses_a_name_in_use(self, name):
        with closing(self.make(name)) as h:
            with pytest.raises(FileExistsError) as caught:
                self.make(name)
            assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, name)
            with closing(self.module.attach(name)) as other:
                assert self.same(h, other)  # and has not touched it

    def test_attach_and_unlink_of_a_name_that_was_never_created_say_so(self, name):
        for call in (self.module.attach, self.module.unlink):
            with pytest.raises(FileNotFoundError) as caught:
                call(name)
            assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, name)
        assert not entries_with(name)

    def test_an_error_says_what_was_wanted_what_usually_is_the_reason_and_where_it_failed(self, name):
        kind = self.module.__name__.rpartition(".")[2]
        kind = {"shm": "shared memory", "sem": "semaphore"}.get(kind, kind)
        errors = []
        for call in (self.module.attach, self.module.unlink):
            with pytest.raises(FileNotFoundError) as caught:
                call(name)
            errors.append((caught.value, caught.tb, f"no {kind} {name!r}: it was never created, or its last"))
        with closing(self.make(name)), pytest.raises(FileExistsError) as caught:
            self.make(name)
        errors.append((caught.value, caught.tb, f"{kind} {name!r} exists already: attach to it, or pass exist_ok=True"))
        for error, trace, text in errors:
            assert error.strerror.startswith(text)
            assert (error.filename, error.filename2) == (name, None)
            again = pickle.loads(pickle.dumps(error))
            assert (type(again), str(again)) == (type(error), str(error))
            *_, (frame, _) = traceback.walk_tb(trace)
            assert frame.f_code.co_filename != self.module.__file__, "the frame of the call that failed is lost"

    def test_unlink_of_what_may_be_missing(self, name):
        assert self.module.unlink(name, missing_ok=True) is None
        assert not entries_with(name)
        if not lacks("unlinking"):
            h = self.make(name)
            self.module.unlink(name, missing_ok=True)
            self.assert_free(name)
            h.close()

    def test_attach_waits_for_a_name_that_another_process_creates(self, name, peer):
        other = peer()
        other.send("run", f"h = {self.spelling}.attach({name!r}, timeout=None)")
        with closing(self.make(name)) as h:
            other.answer()
            assert self.lives(name)
            other.run("h.close()")
            with closing(self.module.attach(name, timeout=5)) as again:
                assert self.same(h, again)

    def test_attach_waits_no_longer_than_it_was_told(self, name):
        for timeout in (0, 0.05, 1e-9):
            with pytest.raises(FileNotFoundError) as caught:
                self.module.attach(name, timeout=timeout)
            assert caught.value.filename == name
        for wrong, error in ((float("nan"), ValueError), ("1", TypeError)):
            with pytest.raises(error):
                self.module.attach(name, timeout=wrong)

    @pytest.mark.needs("signals")
    def test_a_wait_for_a_name_can_be_interrupted(self, name):
        class InterruptError(Exception):
            pass

        def interrupt(*_):
            raise InterruptError

        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            with pytest.raises(InterruptError):
                self.module.attach(name, timeout=None)
        finally:
            signal.signal(signal.SIGALRM, before)

    def test_exist_ok_attaches_an_existing_object_and_says_so(self, name):
        with closing(self.make(name, exist_ok=True)) as h, closing(self.make(name, exist_ok=True)) as other:
            assert h.created
            assert not other.created
            assert self.same(h, other)
        self.assert_free(name)

    @pytest.mark.needs("files")
    def test_exist_ok_leaves_the_permissions_of_an_existing_object(self, name):
        with closing(self.make(name, perm=0o640)), closing(self.make(name, perm=0o600, exist_ok=True)):
            assert os.stat(self.path(name)).st_mode & 0o777 == 0o640

    def test_no_name_invents_a_unique_one(self):
        with closing(self.make(None)) as h, closing(self.make(None, exist_ok=True)) as other:
            assert isinstance(h.name, str)
            assert h.name != other.name
            assert h.created
            assert other.created
            assert self.lives(h.name)
            names = h.name, other.name
        for name in names:
            assert not self.there(name)

    def test_an_invented_name_is_not_in_use(self, name, unique, monkeypatch):
        """Where the random bits repeat, another try is made."""
        second = unique()
        answers = iter([name, second])
        monkeypatch.setattr("ipcio._names.invent_name", lambda: next(answers))
        with closing(self.make(name)), closing(self.make(None)) as h:
            assert h.name == second

    @pytest.mark.needs("files")
    @pytest.mark.parametrize("perm", [0o600, 0o666, 0o640, 0o444, 0o777])
    @pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
    def test_perm_is_final_whatever_the_umask(self, name, perm, umask):
        before = os.umask(umask)
        try:
            h = self.make(name, perm=perm)
        finally:
            os.umask(before)
        with closing(h):
            assert self.perm_of(name) == perm
        self.assert_free(name)

    @pytest.mark.needs("users", "files")
    def test_the_umask_does_not_matter_to_an_ordinary_user_either(self, name, peer):
        """A umask that forbids even the owner must not get between create and its own object."""
        other = peer("os.umask(0o777)", user=ordinary())
        other.run(f"h = {self.make_code(name, perm=0o640)}")
        assert os.stat(self.path(name)).st_mode & 0o777 == 0o640
        other.run("h.close()")
        assert not self.there(name)

    @pytest.mark.needs("users")
    @pytest.mark.parametrize("perm", [0, 0o200, 0o100, 0o066])
    def test_an_owner_without_access_to_an_object_can_use_its_name_again(self, name, perm, peer):
        """After the last close the name is free, whatever the permissions were."""
        other = peer(user=ordinary())
        for _ in range(2):
            other.run(f"h = {self.make_code(name, perm=perm)}")
            with pytest.raises(PeerError) as caught:
                other.run(self.make_code(name))
            assert caught.value.kind == "FileExistsError"
            other.run("h.close()")
        other.run(f"h = {self.make_code(name)}; h.close()")
        assert not self.lives(name)

    @pytest.mark.needs("users")
    @pytest.mark.parametrize("perm", [0o200, 0o000])
    def test_unreadable_permissions_do_not_keep_an_owner_from_a_name_of_a_killed_process(self, name, perm, peer):
        """A process without the permission to ask the lock of an orphaned object reads the list of locks."""
        user = ordinary()
        victim = peer(user=user)
        victim.run(f"h = {self.make_code(name, perm=perm)}")
        other = peer(user=user)
        with pytest.raises(PeerError) as caught:
            other.run(self.make_code(name))
        assert caught.value.kind == "FileExistsError"
        victim.kill()
        other.run(f"h = {self.make_code(name)}; h.close()")
        assert not self.lives(name)

    @pytest.mark.needs("unlinking")
    def test_unlink_frees_the_name_and_leaves_open_handles_their_object(self, name):
        with closing(self.make(name)) as old, closing(self.module.attach(name)) as too:
            self.module.unlink(name)
            assert not self.there(name)
            assert not self.lives(name)
            with pytest.raises(FileNotFoundError):
                self.module.unlink(name)
            assert self.same(old, too)
            with closing(self.make(name)) as new:
                assert not self.is_managed(new)

    def test_unlink_of_an_orphan_finds_nothing(self, name, peer):
        peer(f"h = {self.make_code(name)}").kill()
        with pytest.raises(FileNotFoundError) as caught:
            self.module.unlink(name)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, name)
        assert not self.there(name)

    # -- persistent objects ----------------------------------------------

    @pytest.mark.needs("persistence")
    def test_a_persistent_object_stays_until_unlink(self, name):
        with closing(self.make(name, persist=True)) as h:
            self.mark(h)
        for _ in range(2):
            with closing(self.module.attach(name)) as h:
                assert self.is_managed(h)
        with pytest.raises(FileExistsError):
            self.make(name)
        with closing(self.make(name, exist_ok=True)) as h:
            assert not h.created
            assert self.is_managed(h)
        self.module.unlink(name)
        self.assert_free(name)

    @pytest.mark.needs("persistence")
    def test_a_persistent_object_survives_its_creator(self, name, peer):
        for end in ("kill", "stop"):
            other = peer(f"h = {self.make_code(name, persist=True, perm=0o644)}")
            getattr(other, end)()
            with closing(self.module.attach(name)) as h:
                assert not self.is_managed(h)
            if FILES:
                assert os.stat(self.path(name)).st_mode & 0o777 == 0o644
            self.module.unlink(name)

    # -- what others put there -------------------------------------------

    def put(self, what, path, target) -> None:
        sticky = what.startswith("sticky ")
        what = what.removeprefix("sticky ")
        if what == "empty file":
            open(path, "x").close()
        elif what == "directory":
            os.mkdir(path)
        elif what == "fifo":
            os.mkfifo(path)
        elif what == "socket":
            with socket.socket(socket.AF_UNIX) as s:
                s.bind(path)
        elif what in {"link", "link to an orphaned object"}:
            target.write_bytes(bytes(4096))
            os.chmod(target, 0o1600 if what != "link" else 0o600)
            os.symlink(target, path)
        elif what == "dangling link":
            os.symlink(target, path)
        elif what == "link to itself":
            os.symlink(os.path.basename(path), path)
        if sticky:
            os.chmod(path, 0o1700)

    THINGS = (
        "empty file",
        "directory",
        "fifo",
        "socket",
        "link",
        "dangling link",
        "link to itself",
        "link to an orphaned object",
        "sticky directory",
        "sticky fifo",
        "sticky socket",
    )

    @pytest.fixture(params=THINGS)
    def thing(self, request, name, tmp_path):
        """Something under the name that is no object of ours; it must still be there at the end."""
        path, target = self.path(name), tmp_path / "target"
        self.put(request.param, path, target)
        before = os.lstat(path), list(tmp_path.iterdir()), target.exists() and target.read_bytes()
        yield request.param
        try:
            after = os.lstat(path)
            assert (after.st_ino, after.st_mode) == (before[0].st_ino, before[0].st_mode)
            assert before[1:] == (list(tmp_path.iterdir()), target.exists() and target.read_bytes())
        finally:
            (os.rmdir if "directory" in request.param else os.unlink)(path)

    @pytest.mark.needs("files")
    @pytest.mark.usefixtures("thing")
    def test_what_is_no_object_is_in_the_way_of_create(self, name):
        with pytest.raises(FileExistsError) as caught:
            self.make(name)
        assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, name)

    @pytest.mark.needs("files")
    @pytest.mark.usefixtures("thing")
    def test_what_is_no_object_cannot_be_attached(self, name):
        for call in (self.module.attach, lambda n: self.make(n, exist_ok=True)):
            with pytest.raises(OSError) as caught:
                call(name)
            assert caught.value.errno not in {None, errno.ENOENT}
            assert caught.value.filename == name

    @pytest.mark.needs("files")
    @pytest.mark.parametrize("what", ["empty file", "fifo", "socket", "link", "dangling link", "link to itself"])
    def test_unlink_removes_what_stands_under_the_name_and_nothing_else(self, name, what, tmp_path):
        target = tmp_path / "target"
        self.put(what, self.path(name), target)
        self.module.unlink(name)
        assert not self.there(name)
        assert target.exists() == (what == "link")

    @pytest.mark.needs("files")
    def test_unlink_of_a_directory_is_refused(self, name):
        os.mkdir(self.path(name))
        with pytest.raises(OSError) as caught:
            self.module.unlink(name)
        os.rmdir(self.path(name))
        assert caught.value.errno in {errno.EISDIR, errno.EPERM}
        assert caught.value.filename == name

    @pytest.mark.needs("users", "files")
    def test_a_file_that_may_not_be_opened_is_a_permission_error(self, name, peer):
        """For attach; for create it is in the way."""
        other = peer(user=ordinary())
        self.foreign(name)
        os.chmod(self.path(name), 0)
        calls = {
            self.attach_code(name): "PermissionError",
            self.make_code(name, exist_ok=True): "PermissionError",
            self.make_code(name): "FileExistsError",
        }
        for call, kind in calls.items():
            with pytest.raises(PeerError) as caught:
                other.run(call)
            assert caught.value.kind == kind
            assert repr(name) in str(caught.value)
        os.unlink(self.path(name))

    # -- other users -----------------------------------------------------

    @pytest.mark.root
    @pytest.mark.needs("users", "objects for others")
    @pytest.mark.parametrize("perm", [0o600, 0o644, 0o666])
    def test_an_orphan_of_another_user_is_a_permission_error_for_create(self, name, perm, peer):
        """And a name that does not live for attach, as far as the permissions let one look."""
        peer(f"h = {self.make_code(name, perm=perm)}", user=NOBODY).kill()
        stranger = peer(user=SOMEBODY)
        for options in ({}, {"exist_ok": True}):
            with pytest.raises(PeerError) as caught:
                stranger.run(self.make_code(name, **options))
            assert caught.value.kind == "PermissionError"
            assert caught.value.errno in {errno.EACCES, errno.EPERM}
            assert repr(name) in str(caught.value)
        with pytest.raises(PeerError) as caught:
            stranger.run(self.attach_code(name))
        assert caught.value.kind == ("FileNotFoundError" if perm == 0o666 else "PermissionError")
        owner = peer(user=NOBODY)
        owner.run(f"{self.make_code(name)}.close()")
        self.assert_free(name)

    @pytest.mark.root
    @pytest.mark.needs("users", "objects for others")
    @pytest.mark.parametrize("perm", [0o600, 0o666])
    def test_an_object_in_use_by_another_user_is_a_file_exists_error(self, name, perm, peer):
        owner = peer(f"h = {self.make_code(name, perm=perm)}", user=NOBODY)
        stranger = peer(user=SOMEBODY)
        with pytest.raises(PeerError) as caught:
            stranger.run(self.make_code(name))
        assert (caught.value.kind, caught.value.errno) == ("FileExistsError", errno.EEXIST)
        with pytest.raises(PeerError) as caught:
            stranger.run(f"{self.spelling}.unlink({name!r})")
        assert caught.value.kind == "PermissionError"
        assert self.lives(name)
        owner.run("h.close()")
        stranger.run(f"{self.make_code(name)}.close()")

    @pytest.mark.root
    @pytest.mark.needs("users", "objects for others")
    def test_a_persistent_object_of_another_user_is_no_orphan(self, name, peer):
        peer(f"h = {self.make_code(name, persist=True)}", user=NOBODY).kill()
        with pytest.raises(PeerError) as caught:
            peer(user=SOMEBODY).run(self.make_code(name))
        assert caught.value.kind == "FileExistsError"
        self.module.unlink(name)

    @pytest.mark.root
    @pytest.mark.needs("users", "objects for others")
    def test_an_attached_process_may_be_the_last_to_close(self, name, peer):
        """The other user cannot remove the name of the owner; it is orphaned all the same."""
        owner = peer(f"h = {self.make_code(name, perm=0o666)}", user=NOBODY)
        attached = peer(f"h = {self.attach_code(name)}", user=SOMEBODY)
        owner.run("h.close()")
        assert self.lives(name)
        attached.run("h.close()")
        with pytest.raises(PeerError) as caught:
            attached.run(self.attach_code(name))
        assert caught.value.kind == "FileNotFoundError"
        owner.run(f"h = {self.make_code(name)}; assert h.created; h.close()")
        assert not self.lives(name)

    @pytest.mark.root
    @pytest.mark.needs("users", "objects for others")
    def test_the_super_user_removes_orphans_of_any_user(self, name, peer):
        peer(f"h = {self.make_code(name)}", user=NOBODY).kill()
        self.assert_free(name)

    # -- whose it must be ------------------------------------------------

    @pytest.mark.needs("users")
    def test_an_object_of_the_user_insisted_on_is_attached(self, name):
        """With `owner`, and from a pickled copy; an object that ipcio did not make as well."""
        me = os.geteuid()
        with closing(self.make(name, exist_ok=True, owner=me)) as h:
            assert h.created
            self.mark(h)
            with closing(pickle.loads(pickle.dumps(h))) as copy:
                assert self.is_managed(copy)
                with closing(self.make(name, exist_ok=True, owner=me)) as again:
                    assert not again.created
                    assert self.is_managed(again)
        self.foreign(name)
        if not OPENED or self.module is shm:
            self.module.attach(name, owner=me).close()
        with pytest.raises(PermissionError) as caught:
            self.module.attach(name, owner=me + 1)
        assert (caught.value.errno, caught.value.filename) == (errno.EPERM, name)
        self.module.unlink(name)

    @pytest.mark.root
    @pytest.mark.needs("users", "objects for others")
    def test_another_user_s_object_is_refused_before_it_is_used(self, name, peer):
        """Nor is it locked: one that is kept locked against everybody is refused all the same."""
        import fcntl

        owner = peer(f"h = {self.make_code(name, perm=0o666)}", user=NOBODY)
        with closing(self.module.attach(name, owner=NOBODY)) as h:
            kept = pickle.dumps(h)
            pickle.loads(kept).close()
        owner.run("h.close()")
        with open(self.path(name), "xb") as file:
            os.fchmod(file.fileno(), 0o1666)
            os.fchown(file.fileno(), NOBODY, NOBODY)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for call in lambda: self.module.attach(name, owner=0), lambda: self.module.attach(name, owner=SOMEBODY):
                with pytest.raises(PermissionError, match=f"user {NOBODY}") as caught:
                    call()
                assert (caught.value.errno, caught.value.filename) == (errno.EPERM, name)
            os.unlink(self.path(name))
        owner.run(f"h = {self.make_code(name, perm=0o666)}")
        with pytest.raises(PermissionError, match=f"user {NOBODY}"):
            self.make(name, exist_ok=True, owner=0)
        owner.run("h.close()")
        with closing(self.make(name)), pytest.raises(PermissionError, match="user 0"):
            pickle.loads(kept)

    @pytest.mark.parametrize("bad", ["0", 1.5, True, -1, 2**32 - 1, 2**70])
    def test_an_owner_that_is_no_user_id_makes_nothing(self, name, bad):
        for call in lambda: self.make(name, exist_ok=True, owner=bad), lambda: self.module.attach(name, owner=bad):
            with pytest.raises(ValueError if type(bad) is int else TypeError):
                call()
        assert not self.there(name)


DEADLY = [getattr(signal, f"SIG{name}", name) for name in ("KILL", "TERM", "HUP", "SEGV", "ABRT")]


FORKS = {"": None, "in C": children.fork_in_c}


class LifetimeContract(Named):
    """A name exists exactly as long as some handle in some process is open."""

    # -- who closes first does not matter --------------------------------

    def test_the_creator_may_close_first(self, name, peer):
        one, other, third = peer(), peer(), peer()
        one.run(f"h = {self.make_code(name)}")
        other.run(f"h = {self.attach_code(name)}")
        one.run("h.close()")
        third.run(f"h = {self.attach_code(name)}")
        other.run("h.close()")
        assert self.lives(name)
        third.run("h.close()")
        assert not self.there(name)
        self.assert_free(name)

    def test_many_handles_may_close_in_any_order(self, name):
        handles = [self.make(name), *(self.module.attach(name) for _ in range(40))]
        random.Random(4).shuffle(handles)
        while len(handles) > 1:
            handles.pop().close()
            assert self.lives(name)
        handles.pop().close()
        assert not self.there(name)

    def test_closing_twice_gives_up_one_share(self, name):
        with closing(self.make(name)):
            other = self.module.attach(name)
            for _ in range(5):
                other.close()
            assert self.lives(name)

    def test_a_failed_call_gives_up_nothing(self, name):
        """Refused creates and attaches neither keep the name nor end it."""
        with closing(self.make(name)) as h:
            for _ in range(3):
                with pytest.raises(FileExistsError):
                    self.make(name)
            with closing(self.module.attach(name)) as other:
                assert self.same(h, other)
        assert not self.there(name)

    # -- kills ----------------------------------------------------------

    @pytest.mark.parametrize("next_call", ["attach", "create", "exist_ok", "unlink"])
    def test_a_killed_holder_counts_as_having_closed(self, name, peer, next_call):
        """Whatever call comes next finds a free name."""
        other = peer(f"h = {self.make_code(name)}; g = {self.attach_code(name)}")
        assert self.lives(name)
        other.kill()
        if next_call in {"attach", "unlink"}:
            with pytest.raises(FileNotFoundError):
                getattr(self.module, next_call)(name)
            assert not self.there(name)
        else:
            with closing(self.make(name, exist_ok=next_call == "exist_ok")) as h:
                assert h.created
        self.assert_free(name)

    @needs_fork
    @pytest.mark.parametrize("number", DEADLY)
    def test_however_a_process_ends_it_keeps_no_name(self, name, number):
        with Event() as made:

            def child() -> None:
                signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
                _kept = self.make(name)
                made.set()
                signal.pause()

            with Forked(child) as forked:
                made.wait()
                assert self.lives(name)
                assert forked.kill(number) == -number
        self.assert_free(name)

    def test_a_killed_process_does_not_remove_a_name_that_others_have_open(self, name, peer):
        one, other = peer(f"h = {self.make_code(name)}"), peer(f"h = {self.attach_code(name)}")
        with closing(self.module.attach(name)):
            one.kill()
            assert self.lives(name)
            with pytest.raises(FileExistsError):
                self.make(name)
            other.kill()
            assert self.lives(name)
        self.assert_free(name)

    @pytest.mark.needs("signals")
    def test_a_stopped_holder_holds(self, name, peer):
        other = peer(f"h = {self.make_code(name)}")
        os.kill(other.pid, signal.SIGSTOP)
        try:
            os.waitid(os.P_PID, other.pid, os.WSTOPPED)
            assert self.lives(name)
            with pytest.raises(FileExistsError):
                self.make(name)
        finally:
            os.kill(other.pid, signal.SIGCONT)
        other.run("h.close()")
        assert not self.lives(name)

    @needs_fork
    def test_a_zombie_does_not_hold(self, name):
        """A killed process counts as exited before its parent has reaped it."""
        made, go = Event(), Event()
        with made, go:

            def child() -> None:
                _kept = self.make(name)
                made.set()
                go.wait()
                os._exit(0)

            with Forked(child) as forked:
                made.wait()
                go.set()
                os.waitid(os.P_PID, forked.pid, os.WEXITED | os.WNOWAIT)
                self.assert_free(name)

    def test_os_exit_counts_as_closing(self, name):
        code = f"import os; from ipcio import {self.spelling}; h = {self.make_code(name)}; os._exit(7)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7
        self.assert_free(name)

    @pytest.mark.needs("posix")
    def test_exec_counts_as_closing(self, name, peer):
        """The new program has inherited nothing."""
        other = peer()
        shell = "['sh', '-c', 'echo executed; read line']"
        other.send("run", f"h = {self.make_code(name)}; os.execv('/bin/sh', {shell})")
        assert other.process.stdout.readline() == "executed\n"
        self.assert_free(name)
        other.send("run", "")

    def test_a_child_program_inherits_nothing(self, name):
        """Not even when it inherits all it can; until its exec, it is a copy of this process."""
        h = self.make(name)
        reading = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
        with subprocess.Popen(reading, stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False) as program:
            program.stdout.readline()
            h.close()
            assert not self.lives(name)
            program.stdin.close()

    @pytest.mark.parametrize(
        "end",
        ["", "sys.exit(3)", "raise KeyError('expected')", "del shm", "cycle = [h]; cycle.append(cycle)"],
    )
    def test_a_program_that_ends_without_closing_leaves_no_name(self, name, end):
        code = f"import sys; from ipcio import shm, {self.spelling}; h = {self.make_code(name)}; {end}"
        done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False)
        assert ("Traceback" in done.stderr) == ("raise" in end), done.stderr
        assert not self.there(name)

    @pytest.mark.needs("signals")
    def test_a_program_that_ctrl_c_kills_leaves_no_name(self, name):
        # A signal from outside may come after Python's last look for signals and before the read(2) of `input`,
        # and the program would wait on.
        code = (
            f"import signal; from ipcio import {self.spelling}; h = {self.make_code(name)}; print(flush=True); input();"
            "signal.raise_signal(signal.SIGINT); input()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as program:
            program.stdout.readline()
            assert self.lives(name)
            program.stdin.write(b"\n")
            program.stdin.flush()
            assert program.wait() == -signal.SIGINT
        assert not self.there(name)

    # -- garbage ---------------------------------------------------------

    def test_a_dropped_handle_is_a_closed_one(self, name):
        h = self.make(name)
        assert self.lives(name)
        del h
        gc.collect()
        assert not self.there(name)

    def test_a_handle_dropped_in_a_cycle_is_a_closed_one(self, name):
        cycle = [self.make(name)]
        cycle.append(cycle)
        assert self.lives(name)
        del cycle
        gc.collect()
        assert not self.there(name)

    def test_a_handle_dropped_by_a_thread_that_ended_is_a_closed_one(self, name):
        made, go = threading.Event(), threading.Event()

        def hold() -> None:
            _kept = self.make(name)
            made.set()
            go.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        made.wait()
        assert self.lives(name)
        go.set()
        thread.join()
        gc.collect()
        assert not self.there(name)

    # -- fork ------------------------------------------------------------

    @needs_fork
    @pytest.mark.parametrize("fork", FORKS)
    @pytest.mark.parametrize("end", ["close", "drop", "exit", "kill"])
    def test_a_forked_child_holds_on_after_its_parent_closed(self, name, end, fork):
        h = self.make(name)
        go = Event()
        with go:

            def child() -> None:
                nonlocal h
                go.wait()
                if end == "close":
                    h.close()
                elif end == "drop":
                    h = None
                    gc.collect()
                elif end == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)

            with Forked(child, fork=FORKS[fork]) as forked:
                h.close()
                assert self.lives(name)
                with pytest.raises(FileExistsError):
                    self.make(name)
                go.set()
                forked.wait()
        if end in {"close", "drop"}:
            assert not self.there(name)
        self.assert_free(name)

    @needs_fork
    @pytest.mark.parametrize("fork", FORKS)
    @pytest.mark.parametrize("end", ["close", "drop", "exit", "kill"])
    def test_the_parent_holds_on_whatever_its_forked_child_does(self, name, end, fork):
        h = self.make(name)

        def child() -> None:
            nonlocal h
            if end == "close":
                h.close()
            elif end == "drop":
                h = None
                gc.collect()
            elif end == "kill":
                os.kill(os.getpid(), signal.SIGKILL)

        with closing(h):
            Forked(child, fork=FORKS[fork]).wait()
            assert self.there(name)
            assert self.lives(name)
            with closing(self.module.attach(name)) as other:
                assert self.same(h, other)
        assert not self.there(name)

    @needs_fork
    def test_a_forked_child_that_runs_exit_handlers_does_not_take_the_name_along(self, name):
        code = (
            f"import os, sys; from ipcio import {self.spelling}; h = {self.make_code(name)}; child = os.fork()\n"
            f"if not child: sys.exit()\n"
            f"os.waitpid(child, 0); {self.attach_code(name)}.close(); print('exists')"
        )
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
        assert done.stdout == "exists\n"
        assert not self.there(name)

    @needs_fork
    def test_a_grandchild_keeps_the_name_after_both_were_killed(self, name):
        # First: what an exiting process has is released in any order, on Linux the youngest first.
        reader, writer = os.pipe()
        h = self.make(name)
        go = Event()
        with go:

            def grandchild() -> None:
                os.close(reader)
                go.wait()

            def child() -> int:
                return Forked(grandchild).pid

            Forked(child).result()
            os.close(writer)
            h.close()
            assert self.lives(name)
            go.set()
            assert os.read(reader, 1) == b""  # the grandchild is gone
            os.close(reader)
        self.assert_free(name)

    @needs_fork
    def test_handles_of_before_and_after_a_fork_are_equal(self, name):
        """The child may attach again, close what it inherited, and still hold."""
        h = self.make(name)
        ready, go = Event(), Event()
        with ready, go:

            def child() -> None:
                own = self.module.attach(name)
                h.close()
                ready.set()
                go.wait()
                own.close()

            with Forked(child) as forked:
                ready.wait()
                h.close()
                assert self.lives(name)
                go.set()
                forked.result()
        assert not self.there(name)

    @pytest.mark.parametrize("method", [pytest.param("fork", marks=needs_fork), "spawn"])
    def test_a_handle_given_to_a_multiprocessing_child_is_a_share_of_its_own(self, name, method):
        context = multiprocessing.get_context(method)
        ready, go = context.Event(), context.Event()
        h = self.make(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads
            process = context.Process(target=children.hold_until_told, args=(h, ready, go))
            process.start()
        try:
            assert ready.wait(30)
            h.close()
            assert self.lives(name)
            go.set()
            process.join(30)
            assert process.exitcode == 0
        finally:
            process.kill()
            process.join()
            process.close()
        assert not self.there(name)

    @pytest.mark.parametrize("method", [pytest.param("fork", marks=needs_fork), "spawn"])
    def test_a_killed_multiprocessing_child_keeps_nothing_and_takes_nothing(self, name, method):
        context = multiprocessing.get_context(method)
        ready = context.Event()
        with closing(self.make(name)) as h:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                process = context.Process(target=children.die_with, args=(h, ready))
                process.start()
            assert ready.wait(30)
            process.join()
            assert abs(process.exitcode) == children.KILL  # no signal, but its number, where there are none
            process.close()
            assert self.lives(name)
        assert not self.there(name)

    # -- descriptors that were closed -------------------------------------

    @pytest.mark.needs("posix")
    def test_a_number_that_means_something_else_by_now_is_left_alone(self, name, peer):
        """A daemon closes all descriptors; then others get their numbers: a file, the same object again."""
        other = peer(f"h, kept = {self.make_code(name)}, {self.attach_code(name)}")
        other.run("import tempfile; os.closerange(3, 1000); files = [tempfile.TemporaryFile() for _ in range(20)]")
        other.run("inodes = [os.fstat(file.fileno()).st_ino for file in files]; h.close()")
        with closing(self.make(name)) as again:
            other.run("for file in files[:10]: gc.collect(); os.closerange(file.fileno(), file.fileno() + 1)")
            other.run(f"g = {self.attach_code(name)}; kept.close(); del kept; gc.collect()")
            again.close()
            assert self.lives(name)
            other.run("""def is_there(file, inode):
                try:
                    return os.fstat(file.fileno()).st_ino == inode
                except OSError:
                    return False""")
            lost = other.ask("sum(not is_there(file, inode) for file, inode in zip(files[10:], inodes[10:]))")
            # A map has a descriptor of its own before Python 3.13, of which it never lets go.
            assert lost <= (2 if self.module is not sem and sys.version_info < (3, 13) else 0)
            other.run("g.close()")
            assert not self.there(name)

    # -- names that change hands -----------------------------------------

    @pytest.mark.needs("unlinking")
    @pytest.mark.parametrize("end", ["close", "drop", "kill", "exit"])
    def test_the_end_of_an_unlinked_object_leaves_its_successor_alone(self, name, peer, end):
        old = peer(f"h = {self.make_code(name)}")
        self.module.unlink(name)
        with closing(self.make(name)) as new:
            assert new.created
            if end == "close":
                old.run("h.close()")
            elif end == "drop":
                old.run("del h; gc.collect()")
            elif end == "kill":
                old.kill()
            else:
                old.stop()
            with closing(self.module.attach(name)) as other:
                assert self.same(new, other)
            with pytest.raises(FileExistsError):
                self.make(name)
        assert not self.there(name)
        if end == "kill":
            self.sweep()

    @pytest.mark.needs("unlinking")
    def test_the_end_of_an_unlinked_object_leaves_persistent_and_foreign_ones_alone(self, name):
        old = [self.make(name)]
        self.module.unlink(name)
        old.append(self.make(name, persist=True))
        old.pop(0).close()
        old.pop(0).close()
        assert self.lives(name)
        self.module.unlink(name)
        h = self.make(name)
        self.module.unlink(name)
        self.foreign(name)
        h.close()
        assert self.there(name)
        self.module.unlink(name)

    @pytest.mark.needs("files")
    def test_a_name_removed_behind_our_back_is_no_error_at_close(self, name):
        with closing(self.make(name)) as h:
            os.unlink(self.path(name))
            assert not self.lives(name)
            with closing(self.make(name)) as new:
                assert not self.is_managed(new)
                h.close()
                assert self.lives(name)

    # -- objects of others -----------------------------------------------

    @pytest.mark.needs("persistence")
    @pytest.mark.parametrize("end", ["close", "drop", "kill", "exit"])
    def test_a_foreign_object_is_never_removed(self, name, peer, end):
        self.foreign(name)
        before = self.look(name)
        other = peer(f"h = {self.attach_code(name)}; g = {self.attach_code(name)}")
        if end == "close":
            other.run("h.close(); g.close()")
        elif end == "drop":
            other.run("del h, g; gc.collect()")
        elif end == "kill":
            other.kill()
        else:
            other.stop()
        for _ in range(2):
            with pytest.raises(FileExistsError):
                self.make(name)
            with closing(self.make(name, exist_ok=True)) as h:
                assert not h.created
        assert self.look(name) == before
        self.module.unlink(name)
        self.assert_free(name)

    # -- threads ---------------------------------------------------------

    def test_handles_closed_by_many_threads_at_once(self, name):
        for turn in range(30):
            handles = [self.make(name), *(self.module.attach(name) for _ in range(7))]
            if turn % 2:  # all threads close one and the same handle, too
                handles.append(handles[0])
            start = threading.Barrier(len(handles))

            def close(h, start=start) -> None:
                start.wait()
                h.close()

            threads = [threading.Thread(target=close, args=(h,)) for h in handles]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not self.there(name)

    def test_threads_that_create_attach_and_close_agree(self, name):
        """Within one process, too, nobody sees a name that is not, or misses one that is."""
        wrong = []

        def work(seed) -> None:
            chance = random.Random(seed)
            try:
                for _ in range(60):
                    h = self.make(name, exist_ok=True)
                    for _ in range(chance.randrange(3)):
                        self.module.attach(name).close()
                    with pytest.raises(FileExistsError):
                        self.make(name)
                    h.close()
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert not self.there(name)
