"""Shared memory as a file system of fsspec: ``shm://name``, and the libraries that open such URLs."""

from __future__ import annotations

import errno
import functools
import gc
import importlib.metadata
import inspect
import io
import os
import pickle
import re
import secrets
import sys
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import pytest
from abilities import lacks
from children import Forked

from ipcio import MemoryFile, sem, shm
from ipcio._inventory import list_objects
from ipcio._segment_writer import open_writer

fsspec = pytest.importorskip("fsspec")
from fsspec.callbacks import Callback  # noqa: E402
from fsspec.tests import abstract  # noqa: E402

from ipcio._fsspec import SharedMemoryFileSystem  # noqa: E402


class StoppedError(Exception):
    pass


CONTENT = b"one\ntwo\nthree\n"

persistence = pytest.mark.needs("persistence")


fsspec.register_implementation("shm", SharedMemoryFileSystem, clobber=True)  # as if ipcio were installed


@pytest.fixture
def fs():
    return SharedMemoryFileSystem()


@pytest.fixture
def name(unique, fs):
    """Persistent segments are removed after the test, also those whose names begin so."""
    prefix = unique()
    yield prefix
    gc.collect()
    for each in fs.ls("", detail=False) if sys.platform != "win32" else []:
        if each.startswith(prefix):
            shm.unlink(each)


@pytest.fixture(params=[None, pytest.param("without O_TMPFILE", marks=pytest.mark.needs("files"))])
def place(request, monkeypatch):
    """Where a segment grows until it is closed."""
    if request.param:
        from ipcio._posix import objects

        monkeypatch.setattr(objects, "_has_tmpfile", lambda: False)


@pytest.fixture
def collect(monkeypatch):
    """What `ipcio gc` does to these entries, and to none of other tests; the names of what it removed."""
    from ipcio._inventory import remove_orphans

    def call(*entries):
        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", lambda path: [e for e in entries if os.path.lexists(f"{path}/{e}")])
            return [found.name for found in remove_orphans()]

    return call


def content(name):
    with shm.attach(name, "r") as h:
        return h.read()


# -- fsspec's own suite ------------------------------------------------------


@persistence
class Flat(abstract.AbstractFixtures):
    """Names that fsspec joins by slashes are joined by hyphens here."""

    @pytest.fixture
    def fs(self):
        return SharedMemoryFileSystem()

    @pytest.fixture
    def fs_join(self):
        return lambda *parts: "-".join(parts)

    @pytest.fixture
    def fs_path(self, name):
        return name

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, fs, fs_join, fs_path):
        return self._10_files_with_hashed_names(fs, fs_join, fs_path)


class TestOpen(Flat, abstract.AbstractOpenTests):
    pass


class TestPipe(Flat, abstract.AbstractPipeTests):
    pass


@pytest.mark.needs("files")  # elsewhere, names are shorter than these
class TestLists(Flat):
    """Of copy, get and put, what makes no directories."""

    test_copy = abstract.AbstractCopyTests.test_copy_with_source_and_destination_as_list
    test_get = abstract.AbstractGetTests.test_get_with_source_and_destination_as_list
    test_put = abstract.AbstractPutTests.test_copy_with_source_and_destination_as_list


NEEDS_MORE = re.compile("scenario_0|glob_edge_cases_files|same_name_prefix|mkdir")


@pytest.mark.parametrize("tests", ["Copy", "Get", "Put"])
def test_what_is_left_out_of_that_suite_needs_directories(tests):
    tests = getattr(abstract, f"Abstract{tests}Tests")
    left = {
        name: inspect.getsource(test)
        for name, test in vars(tests).items()
        if name.startswith("test_") and test not in vars(TestLists).values()
    }
    assert left
    assert not [name for name, source in left.items() if not NEEDS_MORE.search(source)]


# -- names and directories -----------------------------------------------------


def test_the_package_tells_fsspec_of_the_class():
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    name, value = re.search(r'^\[project.entry-points."fsspec.specs"\]\n(\w+) = "(.+)"', project, re.MULTILINE).groups()
    assert name == "shm"
    assert importlib.metadata.EntryPoint(name, value, "fsspec.specs").load() is SharedMemoryFileSystem


@pytest.mark.parametrize("url", ["prices", "shm://prices", "/prices", "shm:///prices", "shm://prices/"])
def test_the_name_in_a_url_is_the_name_of_the_segment(url):
    assert SharedMemoryFileSystem._strip_protocol(url) == "prices"
    assert SharedMemoryFileSystem._strip_protocol([url]) == ["prices"]


def test_there_are_no_directories(fs, name):
    nested = f"shm://{name}/part"
    for refused in (
        lambda: fs.mkdir(name),
        lambda: fs.makedirs(name, exist_ok=True),
        lambda: fs.rmdir(name),
        lambda: fs.open(nested, "wb"),
        lambda: fs.open(nested, "ab"),
        lambda: fs.pipe(nested, b"x"),
    ):
        with pytest.raises(NotADirectoryError, match="no directories"):
            refused()
    for missing in (fs.info, fs.open, fs.cat_file, fs.rm_file, lambda path: fs.open(path, "r+b")):
        with pytest.raises(FileNotFoundError, match="no directories"):
            missing(nested)
    assert not fs.exists(nested)


def test_the_root_is_one(fs):
    assert fs.isdir("shm://")
    fs.makedirs("shm://", exist_ok=True)
    with pytest.raises(FileExistsError):
        fs.mkdir("shm://")
    with pytest.raises(IsADirectoryError):
        fs.open("shm://")


def test_everything_cannot_be_removed_at_once(fs, name):
    with shm.create(name, 1):
        for path in ("", "shm://", "/", ["shm://"], [name, ""]):
            with pytest.raises(PermissionError):
                fs.rm(path, recursive=True)
        assert fs.exists(name)


def test_a_malformed_name_is_a_value_error(fs):
    for refused in (fs.open, fs.info, functools.partial(fs.open, mode="wb"), fs.rm_file):
        with pytest.raises(ValueError, match="backslash"):
            refused("shm://a\\b")


# -- what there is ---------------------------------------------------------------


def test_a_live_segment_is_found(fs, name):
    with shm.create(name, 5):
        info = fs.info(f"shm://{name}")
        assert (info["name"], info["size"], info["type"]) == (name, 5, "file")
        assert fs.exists(name)
        assert fs.isfile(name)
        assert fs.size(name) == 5
        assert fs.ls(name, detail=False) == [name]
    assert not fs.exists(name)
    with pytest.raises(FileNotFoundError) as raised:
        fs.info(name)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOENT, name)


@persistence
def test_segments_are_listed_and_nothing_else(fs, name):
    with shm.create(f"{name}-a", 1), sem.create(f"{name}-b"), shm.create(f"{name}-c", 2):
        assert [each for each in fs.ls("", detail=False) if each.startswith(name)] == [f"{name}-a", f"{name}-c"]
        assert fs.glob(f"shm://{name}-*") == [f"{name}-a", f"{name}-c"]
        assert [info["size"] for info in fs.ls("shm://") if info["name"].startswith(name)] == [1, 2]


@pytest.mark.needs("witness", "files")
def test_what_is_no_segment_is_not_found(fs, name):
    for make in (os.mkdir, lambda path: os.symlink("/dev/null", path), lambda path: open(path, "x").close()):
        path = f"/dev/shm/{name}"
        make(path)
        try:
            assert not fs.exists(name)
            assert name not in fs.ls("", detail=False)
        finally:
            os.rmdir(path) if os.path.isdir(path) else os.unlink(path)


@pytest.mark.needs("signals")
def test_an_orphan_is_not_found(fs, name, peer):
    other = peer(f"h = shm.create({name!r}, 1)")
    assert fs.exists(name)
    other.kill()
    assert name not in fs.ls("", detail=False)
    assert not fs.exists(name)


@pytest.mark.needs("files")
def test_a_file_system_of_files_tells_more(fs, name):
    before = datetime.now(timezone.utc).timestamp() - 1  # the clock of files is coarse
    fs.pipe(name, CONTENT)
    info = fs.info(name)
    assert (info["mode"], info["uid"]) == (0o600, os.geteuid())
    assert before <= info["created"] == pytest.approx(fs.created(name).timestamp())
    assert before <= info["mtime"] == pytest.approx(fs.modified(name).timestamp())
    key = fs.ukey(name)
    assert fs.ukey(name) == key
    fs.pipe(name, CONTENT)
    assert fs.ukey(name) != key, "another segment under the old name"


# -- reading ---------------------------------------------------------------------


def test_reading_needs_no_copy(fs, name):
    with shm.create(name, len(CONTENT)) as h:
        h.write(CONTENT)
        with fs.open(f"shm://{name}") as f, f.getbuffer() as view:
            assert isinstance(f, io.BufferedReader)
            assert isinstance(f.raw, MemoryFile)
            assert f.size == len(CONTENT)
            assert view.readonly
            h.getbuffer()[0] = ord("O")
            assert bytes(view) == b"O" + CONTENT[1:]
            assert f.read() == b"O" + CONTENT[1:]
            with pytest.raises(io.UnsupportedOperation):
                f.write(b"x")


def test_writing_in_place(fs, name):
    with shm.create(name, len(CONTENT)) as h:
        h.write(CONTENT)
        with fs.open(name, "r+b") as f:
            f.seek(4)
            f.write(b"TWO")
        assert fs.cat(name) == b"one\nTWO\nthree\n"
        with pytest.raises(OSError) as raised, fs.open(name, "r+b") as f:
            f.write(bytes(len(CONTENT) + 1))
        assert raised.value.errno == errno.ENOSPC


def test_parts(fs, name):
    with shm.create(name, len(CONTENT)) as h:
        h.write(CONTENT)
        for start, end in ((None, None), (4, None), (4, 7), (-6, -1), (None, -6), (-99, 2), (3, 99), (7, 4)):
            assert fs.cat_file(name, start, end) == CONTENT[start:end]
        assert fs.cat_ranges([name, name], [0, 4], [3, 7]) == [b"one", b"two"]
        assert fs.head(name, 3) == b"one"
        assert fs.tail(name, 6) == b"three\n"
        assert fs.read_block(name, 1, None, b"\n") == b"two\nthree\n"
        assert fs.read_block(name, 1, 99) == CONTENT[1:]


def test_text(name):
    with shm.create(name, len(CONTENT)) as h:
        h.write(CONTENT)
        with fsspec.open(f"shm://{name}", "rt", encoding="ascii") as f:
            assert list(f) == ["one\n", "two\n", "three\n"]


def test_what_opens_travels(fs, name):
    with shm.create(name, len(CONTENT)) as h:
        h.write(CONTENT)
        assert pickle.loads(pickle.dumps(fs)).cat(name) == CONTENT
        with pickle.loads(pickle.dumps(fsspec.open(f"shm://{name}"))) as f:
            assert f.read() == CONTENT


def test_an_unknown_mode_is_a_value_error(fs, name):
    with pytest.raises(ValueError, match="mode must be"):
        fs.open(name, "zb")


# -- writing -----------------------------------------------------------------------


@persistence
@pytest.mark.usefixtures("place")
def test_a_segment_has_exactly_what_was_written_and_stays(fs, name):
    with fs.open(f"shm://{name}", "wb") as f:
        assert f.write(CONTENT[:4]) == 4
        f.write(CONTENT[4:])
        f.flush()
        assert not fs.exists(name), "before it is closed"
    f.close()
    gc.collect()
    assert content(name) == CONTENT
    with shm.attach(name) as h:
        assert h.size() == len(CONTENT)
    assert content(name) == CONTENT


@persistence
@pytest.mark.usefixtures("place")
def test_what_is_written_can_be_read_and_gone_over(fs, name):
    with fs.open(name, "w+b") as f:
        f.write(CONTENT)
        f.seek(4)
        assert f.read(3) == b"two"
        f.seek(0)
        f.write(b"ONE")
        f.seek(3, os.SEEK_END)
        f.write(b"end")
    assert content(name) == b"ONE" + CONTENT[3:] + b"\0\0\0end"
    with fs.open(name, "wb") as f:
        f.write(CONTENT)
        f.truncate(3)
    assert content(name) == b"one"


@persistence
@pytest.mark.usefixtures("place")
def test_permissions(name):
    fs = SharedMemoryFileSystem(perm=0o640)
    fs.pipe(name, CONTENT)
    assert "mode" not in fs.info(name) or fs.info(name)["mode"] == 0o640
    with pytest.raises(ValueError):
        SharedMemoryFileSystem(perm=0o1777)


@persistence
@pytest.mark.usefixtures("place")
def test_an_old_segment_is_replaced_and_its_handles_keep_it(fs, name):
    """And the last holder of the old one does not take the name along."""
    with shm.create(name, 3) as old:
        old.write(b"old")
        with fs.open(name, "wb") as f:
            f.write(CONTENT)
            assert content(name) == b"old", "until it is complete"
        assert content(name) == CONTENT
        old.seek(0)
        assert old.read() == b"old"
    assert content(name) == CONTENT
    fs.pipe(name, b"newer")
    assert content(name) == b"newer"


@pytest.mark.needs("files")
@pytest.mark.usefixtures("place")
def test_a_segment_may_be_empty(fs, name, collect):
    fs.open(name, "xb").close()
    with pytest.raises(FileExistsError):
        fs.open(name, "xb")
    assert (fs.cat(name), fs.size(name), fs.exists(name)) == (b"", 0, True)
    assert [(each.size, each.state) for each in list_objects() if each.name == name] == [(0, "persistent")]
    assert collect(name) == []
    for mode in ("r", "rw"):
        with shm.attach(name, mode) as h, pickle.loads(pickle.dumps(h)) as copy:
            assert (h.size(), h.read(), copy.readline(), len(h.getbuffer())) == (0, b"", b"", 0)
            assert os.fstat(h.fileno()).st_size == 0
    with pytest.raises(OSError, match="do not fit"):
        fs.open(name, "r+b").write(b"x")
    with pytest.raises(ValueError, match="0 bytes"):
        shm.create(name, 1, exist_ok=True)
    fs.pipe(name, CONTENT)
    with shm.attach(name) as old:
        fs.touch(name, truncate=False)
        assert content(name) == CONTENT
        fs.touch(name)
        fs.cp(name, f"{name}-copy")
        assert (content(name), content(f"{name}-copy"), old.read()) == (b"", b"", CONTENT)
    with fs.open(name, "ab") as f:
        f.write(b"more")
    assert content(name) == b"more"
    fs.touch(f"{name}-new", truncate=False)
    assert content(f"{name}-new") == b""


@persistence
@pytest.mark.able(probe=lambda: bool(lacks("files")))
def test_where_no_segment_can_be_empty_that_is_an_error_and_changes_nothing(fs, name):
    with pytest.raises(OSError, match="nothing was written") as raised, fs.open(name, "wb"):
        pass
    assert (raised.value.errno, raised.value.filename) == (errno.EINVAL, name)
    assert not fs.exists(name)
    fs.pipe(name, CONTENT)
    for empty in (lambda: fs.pipe(name, b""), lambda: fs.touch(name)):
        with pytest.raises(OSError, match="nothing was written"):
            empty()
    assert content(name) == CONTENT


@persistence
@pytest.mark.usefixtures("place")
def test_an_exception_leaves_nothing(fs, name):
    with pytest.raises(StoppedError), fs.open(name, "wb") as f:  # noqa: PT012
        f.write(CONTENT)
        raise StoppedError
    assert f.closed
    assert not fs.exists(name)


@persistence
@pytest.mark.usefixtures("place")
def test_what_is_dropped_is_closed(fs, name):
    """As any file; so with a compression that fsspec wraps around it."""
    fs.open(name, "wb").write(CONTENT)
    gc.collect()
    assert content(name) == CONTENT
    with fs.open(f"{name}.gz", "wb", compression="infer") as f:
        f.write(CONTENT)
    del f
    gc.collect()
    with fs.open(f"{name}.gz", compression="infer") as f:
        assert f.read() == CONTENT


@pytest.mark.needs("persistence", "signals")
def test_a_kill_leaves_nothing(fs, name, peer):
    other = peer(
        "from ipcio._fsspec import SharedMemoryFileSystem",
        f"f = SharedMemoryFileSystem().open({name!r}, 'wb'); f.write(bytes(100_000)); f.flush()",
    )
    other.kill()
    assert not fs.exists(name)


@persistence
@pytest.mark.usefixtures("place")
def test_exclusive(fs, name):
    with fs.open(name, "xb") as f:
        f.write(CONTENT)
    for again in (functools.partial(fs.open, mode="xb"), functools.partial(fs.pipe_file, value=b"x", mode="create")):
        with pytest.raises(FileExistsError) as raised:
            again(name)
        assert raised.value.errno == errno.EEXIST
    shm.unlink(name)
    f = fs.open(name, "xb")
    f.write(b"late")
    with shm.create(name, 3) as other:
        other.write(b"won")
        with pytest.raises(FileExistsError):
            f.close()
        assert f.closed
        assert content(name) == b"won"


@persistence
@pytest.mark.usefixtures("place")
def test_appending(fs, name):
    for added in (b"one", b" two"):
        with fs.open(name, "ab") as f:
            f.write(added)
    assert content(name) == b"one two"


@persistence
@pytest.mark.usefixtures("place")
def test_transactions(fs, name):
    with fs.transaction:
        for each in ("a", "b"):
            with fs.open(f"{name}-{each}", "wb") as f:
                f.write(CONTENT)
        assert not fs.exists(f"{name}-a")
    assert content(f"{name}-a") == content(f"{name}-b") == CONTENT
    with pytest.raises(StoppedError), fs.transaction:  # noqa: PT012
        with fs.open(f"{name}-c", "wb") as f:
            f.write(CONTENT)
        raise StoppedError
    assert not fs.exists(f"{name}-c")


@pytest.mark.needs("files")
def test_no_room_is_an_error_and_leaves_what_was(fs, name, monkeypatch):
    from ipcio._posix import writer as backend

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fs.pipe(name, CONTENT)
    monkeypatch.setattr(backend, "allocate", full)
    with pytest.raises(OSError) as raised:
        fs.pipe(name, b"newer")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, name)
    assert content(name) == CONTENT


@pytest.mark.needs("files")
def test_a_name_that_comes_while_another_is_replaced_is_replaced_too(fs, name, monkeypatch):
    made = []
    link = os.link

    def late(source, target, **options):
        if target == f"/dev/shm/{name}" and not made:
            made.append(None)
            made[0] = shm.create(name, 1)
        return link(source, target, **options)

    f = fs.open(name, "wb")
    f.write(CONTENT)
    monkeypatch.setattr(os, "link", late)
    f.close()
    monkeypatch.undo()
    made[0].close()
    assert content(name) == CONTENT


@pytest.mark.needs("files", "signals")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_in_the_moment_of_replacing_loses_nothing(fs, name, peer, moment, collect):
    """The old segment is there, or the new one; what is hidden goes with the next `gc`."""
    fs.pipe(name, CONTENT)
    other = peer(
        "from ipcio._posix import writer; from ipcio._fsspec import SharedMemoryFileSystem",
        "rename = os.rename",
        "def killed(*paths):\n  rename(*paths)\n  os.kill(os.getpid(), signal.SIGKILL)"
        if moment == "after"
        else "def killed(*paths):\n  os.kill(os.getpid(), signal.SIGKILL)",
        "os.rename = killed",
    )
    hidden = f".ipcio-{secrets.token_hex(8)}"
    other.run(f"writer.invent_name = lambda: {hidden[1:]!r}")
    other.send("run", f"SharedMemoryFileSystem().pipe({name!r}, b'newer')")
    assert not other.process.stdout.readline()
    other.kill()
    assert os.path.exists(f"/dev/shm/{hidden}") == (moment == "before")
    assert content(name) == (CONTENT if moment == "before" else b"newer")
    collect(hidden, name)
    assert not os.path.exists(f"/dev/shm/{hidden}")
    assert content(name) == (CONTENT if moment == "before" else b"newer")


@pytest.mark.needs("files", "signals")
def test_a_kill_while_a_new_name_is_given_loses_nothing(name, peer, collect):
    """It has both names then, and `gc` takes the hidden one alone."""
    hidden = f".ipcio-{secrets.token_hex(8)}"
    other = peer(
        "from ipcio._posix import writer; from ipcio._fsspec import SharedMemoryFileSystem",
        f"writer.invent_name = lambda: {hidden[1:]!r}",
        "def killed(path):\n  os.kill(os.getpid(), signal.SIGKILL)",
    )
    other.send(
        "run", f"f = SharedMemoryFileSystem().open({name!r}, 'wb'); f.write(b'new'); os.unlink = killed; f.close()"
    )
    assert not other.process.stdout.readline()
    other.kill()
    assert os.path.exists(f"/dev/shm/{hidden}")
    collect(hidden, name)
    assert not os.path.exists(f"/dev/shm/{hidden}")
    assert content(name) == b"new"


@pytest.mark.needs("files", "signals")
def test_gc_leaves_what_is_being_replaced_alone(fs, name, monkeypatch, collect):
    rename = os.rename

    def meanwhile(*paths):
        assert collect(*map(os.path.basename, paths)) == []
        rename(*paths)

    fs.pipe(name, CONTENT)
    monkeypatch.setattr(os, "rename", meanwhile)
    fs.pipe(name, b"newer")
    assert content(name) == b"newer"


@pytest.mark.needs("files")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_in_the_moment_of_replacing_loses_nothing(fs, name, monkeypatch, moment):
    from ipcio._posix import writer

    rename = os.rename

    def interrupted(*paths):
        if moment == "after":
            rename(*paths)
        raise KeyboardInterrupt

    fs.pipe(name, CONTENT)
    monkeypatch.setattr(writer, "invent_name", lambda: f"{name}-hidden")
    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fs.pipe(name, b"newer")
    gc.collect()
    assert content(name) == (CONTENT if moment == "before" else b"newer")
    assert not os.path.exists(f"/dev/shm/.{name}-hidden")


@pytest.mark.needs("persistence", "fork")
def test_a_copy_in_a_forked_process_publishes_nothing(fs, name):
    f = fs.open(name, "wb")
    f.write(CONTENT)
    Forked(f.close).result()
    assert not fs.exists(name)
    f.write(CONTENT)
    f.close()
    assert content(name) == CONTENT * 2


@pytest.mark.able(probe=lambda: not lacks("sections"))
def test_nothing_is_written_where_nothing_persists(fs, name):
    with pytest.raises(NotImplementedError):
        fs.open(name, "wb")


# -- copies and removal --------------------------------------------------------------


@persistence
def test_copy_move_remove(fs, name):
    fs.pipe({f"{name}-a": b"a", f"{name}-b": b"b"})
    fs.cp(f"{name}-a", f"{name}-c")
    assert fs.cat([f"{name}-a", f"{name}-c"]) == {f"{name}-a": b"a", f"{name}-c": b"a"}
    fs.mv(f"shm://{name}-b", f"shm://{name}-c")
    assert not fs.exists(f"{name}-b")
    assert content(f"{name}-c") == b"b"
    fs.rm(f"{name}-*")
    assert fs.glob(f"{name}-*") == []
    with pytest.raises(FileNotFoundError):
        fs.rm(f"{name}-a")


SPELLINGS = ["{}", "/{}", "{}/", "shm://{}", "shm:///{}", "shm://{}/"]


@persistence
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_is_moved_or_copied_onto_itself_stays(fs, name, spelling):
    fs.pipe(name, CONTENT)
    other = spelling.format(name)
    fs.cp_file(name, other)
    for call in (fs.mv, fs.cp):
        call(f"shm://{name}", other)
        call([name], [other])
        call(other, name)
        call(name, "shm://")  # in the one directory, under its name
        assert content(name) == CONTENT
    fs.mv(f"{name}*", "")
    assert content(name) == CONTENT
    with pytest.raises(FileNotFoundError):
        fs.mv(f"{name}-missing", f"{name}-missing/")


@pytest.mark.needs("files")
def test_a_copy_has_the_permissions(name):
    fs = SharedMemoryFileSystem(perm=0o664)
    fs.pipe(name, CONTENT)
    fs = SharedMemoryFileSystem()
    fs.cp(name, f"{name}-copy")
    fs.mv(name, f"{name}-moved")
    assert [fs.info(f"{name}-{each}")["mode"] for each in ("copy", "moved")] == [0o664] * 2


@persistence
@pytest.mark.parametrize(("literal", "other"), [("[1]", "1"), ("?", "1"), ("*", "12")])
def test_a_name_that_exists_is_no_pattern(fs, name, tmp_path, literal, other):
    literal, other = name + literal, name + other
    fs.pipe({literal: b"literal", other: b"other"})
    assert fs.glob(f"shm://{literal}") == fs.expand_path(literal) == fs.find(literal) == [literal]
    assert fs.cat(literal) == b"literal"
    assert fs.cat([literal]) == {literal: b"literal"}
    for target in (tmp_path / "file", tmp_path):
        fs.get(literal, str(target))
    assert [(tmp_path / each).read_bytes() for each in ("file", literal)] == [b"literal"] * 2
    fs.cp(literal, f"{name}-copy")
    fs.mv(literal, f"{name}-moved")
    assert (content(f"{name}-copy"), content(f"{name}-moved")) == (b"literal", b"literal")
    assert not fs.exists(literal)
    fs.mv(f"{name}-moved", literal)
    fs.rm(literal)
    assert not fs._is_there(literal)
    assert content(other) == b"other"
    fs.rm(literal)  # a pattern now
    assert not fs.exists(other)


@persistence
def test_a_pattern_removes_what_is_persistent_and_the_users_own_and_nothing_else(fs, name):
    for everything in ("*", "shm://*", "**", "?*", "[a-z]*", [f"{name}-a", "*"]):
        for remove in (fs.rm, lambda paths: fs.mv(paths, f"{name}-target")):
            with pytest.raises(PermissionError, match="not all"):
                remove(everything)
    with shm.create(f"{name}-live", 1):
        with pytest.raises(FileNotFoundError, match="in full"):
            fs.rm(f"{name}-*")
        with pytest.raises(FileNotFoundError, match="in full"):
            fs.mv(f"{name}-*", f"{name}-target")
        fs.pipe({f"{name}-a": b"a", f"{name}-b": b"b"})
        fs.rm([f"{name}-?", f"{name}-*"])
        assert fs.glob(f"{name}-*") == [f"{name}-live"]
        fs.rm(f"{name}-live")
    assert fs.glob(f"{name}-*") == []


@pytest.mark.root
@pytest.mark.needs("files")
def test_a_pattern_removes_nothing_of_another_user_and_nothing_foreign(fs, name):
    fs.pipe({f"{name}-{each}": b"x" for each in "ab"})
    os.chown(f"/dev/shm/{name}-a", 65534, -1)
    Path(f"/dev/shm/{name}-c").write_bytes(b"x")
    fs.rm(f"{name}-*")
    assert fs.glob(f"{name}-*") == [f"{name}-a", f"{name}-c"]


@persistence
def test_several_names_need_several_new_ones(fs, name, tmp_path):
    fs.pipe({f"{name}-a": b"a", f"{name}-b": b"b"})
    for call in (fs.cp, fs.mv):
        with pytest.raises(NotADirectoryError):
            call(f"{name}-?", f"{name}-new")
    fs.get(f"{name}-?", str(tmp_path / "new"))
    assert sorted(os.listdir(tmp_path / "new")) == [f"{name}-a", f"{name}-b"]
    fs.mv([f"{name}-a", f"{name}-b"], [f"{name}-c", f"{name}-a"])
    assert fs.cat(fs.glob(f"{name}-?")) == {f"{name}-a": b"b", f"{name}-c": b"a"}


@persistence
def test_files_come_and_go(fs, name, tmp_path):
    (tmp_path / "in").write_bytes(CONTENT)
    fs.put(str(tmp_path / "in"), f"shm://{name}")
    told = Callback()
    fs.get_file(name, str(tmp_path / "out"), callback=told)
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert (told.size, told.value) == (len(CONTENT), len(CONTENT))


# -- libraries -------------------------------------------------------------------------


@persistence
def test_pandas(name):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"metal": ["gold", "silver"], "price": [2650.0, 31.0]})
    table.to_csv(f"shm://{name}-csv", index=False)
    assert content(f"{name}-csv") == b"metal,price\ngold,2650.0\nsilver,31.0\n"
    assert pandas.read_csv(f"shm://{name}-csv").equals(table)
    table.to_csv(f"shm://{name}.csv.gz", index=False)
    assert pandas.read_csv(f"shm://{name}.csv.gz").equals(table)
    table.to_json(f"shm://{name}-json")
    assert pandas.read_json(f"shm://{name}-json").astype({"price": float}).equals(table)


@persistence
def test_parquet(fs, name):
    pandas = pytest.importorskip("pandas")
    dataset = pytest.importorskip("pyarrow.dataset")
    from pyarrow import parquet

    table = pandas.DataFrame({"metal": ["gold", "silver"], "price": [2650.0, 31.0]})
    table.to_parquet(f"shm://{name}")
    assert pandas.read_parquet(f"shm://{name}").equals(table)
    assert pandas.read_parquet(f"shm://{name}", columns=["price"]).price.sum() == 2681
    assert parquet.read_table(name, filesystem=fs).num_rows == 2
    assert dataset.dataset(name, filesystem=fs).count_rows() == 2
    assert dataset.dataset(f"fsspec+shm://{name}").count_rows() == 2
    with pytest.raises(NotADirectoryError):
        table.to_parquet(f"shm://{name}-parts", partition_cols=["metal"])


@persistence
def test_archives(name):
    with fsspec.open(f"shm://{name}", "wb") as f, zipfile.ZipFile(f, "w") as archive:
        archive.writestr("inside", CONTENT)
    with fsspec.open(f"zip://inside::shm://{name}") as f:
        assert f.read() == CONTENT


@pytest.mark.needs("files")
def test_what_is_skipped_in_writing_has_memory_as_well(name):
    """Or the first write to it could be a SIGBUS."""
    with open_writer(name, replace=False) as file:
        file.seek(1 << 20)
        file.write(b"x")
    try:
        assert os.stat(f"/dev/shm/{name}").st_blocks * 512 >= 1 << 20
    finally:
        shm.unlink(name)
