"""``ipcio put`` and ``ipcio cat``: bytes in, bytes out, and never half of them."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import re
import signal
import subprocess
import sys
import threading
import types

import pytest
from abilities import lacks
from children import leave_orphan
from command import ENVIRONMENT, finish, start

from ipcio import _cli, _segment_writer, shm
from ipcio._cli import progress
from ipcio._cli.commands import cat, put

PIECE = 1 << 20  # bytes that are moved at once
SIZES = [1, 4096, PIECE + 1]


def pattern(size):
    return bytes(range(251)) * (size // 251 + 1)


@pytest.fixture
def call(capfdbinary, monkeypatch):
    """Run the command in this process; return its status and what it wrote."""

    def run_it(*words, stdin=None):
        monkeypatch.setattr(sys, "stdin", stdin)
        try:
            status = _cli.main(words)
        except SystemExit as end:
            status = end.code
        output, errors = capfdbinary.readouterr()
        return status, output, errors.decode()

    return run_it


@pytest.fixture
def file_of(tmp_path):
    """Open a file of these bytes, as a shell does for ``< file``."""
    with contextlib.ExitStack() as opened:

        def make(content):
            path = tmp_path / "input"
            path.write_bytes(content)
            return opened.enter_context(open(path, "rb", buffering=0))

        yield make


@pytest.fixture
def pipe():
    """A pipe; both ends are closed at the end."""
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as reader, open(writing, "wb", buffering=0) as writer:
        yield reader, writer


@pytest.fixture
def persistent(name):
    """A name under which segments may be left: it is unlinked at the end."""
    yield name
    with contextlib.suppress(FileNotFoundError):
        shm.unlink(name)


def content_of(name):
    with shm.attach(name, "r") as h:
        return h.read()


def lives(name):
    try:
        shm.attach(name).close()
    except FileNotFoundError:
        return False
    return True


# -- cat -----------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_cat_writes_exactly_the_bytes(name, call, size):
    with shm.create(name, size) as h:
        h.write(pattern(size)[:size])
        assert call("cat", name) == (0, pattern(size)[:size], "")


def test_cat_of_a_name_that_does_not_live(name, call):
    status, output, errors = call("cat", name)
    assert (status, output) == (1, b"")
    assert errors.startswith("ipcio: ")
    assert f" {name!r}: " in errors
    assert errors.count("\n") == 1


def test_cat_to_a_reader_that_goes_is_no_news(name):
    """It reads one byte, of more than a pipe takes."""
    with shm.create(name, PIECE), start("cat", name, encoding=None) as process:
        assert process.stdout.read(1) == b"\0"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


@pytest.mark.needs("full")
def test_cat_to_a_full_disk_is_an_error(name, capfd, monkeypatch):
    with shm.create(name, 10), open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert _cli.main(["cat", name]) == 1
        monkeypatch.undo()
    assert capfd.readouterr() == ("", "ipcio: No space left on device\n")


def test_cat_without_stdout(name, capfd, monkeypatch):
    with shm.create(name, 10):
        monkeypatch.setattr(sys, "stdout", None)
        assert _cli.main(["cat", name]) == 1
        monkeypatch.undo()
    assert capfd.readouterr() == ("", f"ipcio: {os.strerror(errno.EBADF)}: 'standard output'\n")


@pytest.mark.needs("posix")
def test_cat_waits_for_a_reader_where_others_would_not(name, pipe, monkeypatch):
    """The open file of stdout may be another program's as well, who has it not block."""
    reader, writer = pipe
    os.set_blocking(writer.fileno(), False)
    size = 3 * PIECE
    got = []

    def wait_for(fd):
        assert fd == writer.fileno()
        got.append(reader.read(PIECE))

    with shm.create(name, size) as h:
        h.write(pattern(size)[:size])
        monkeypatch.setattr(sys, "stdout", writer)
        monkeypatch.setattr(cat, "_wait_for", wait_for)
        cat._run(argparse.Namespace(name=name))
        monkeypatch.undo()
    writer.close()
    assert got
    assert b"".join([*got, reader.readall()]) == pattern(size)[:size]


# -- put -----------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.needs("persistence")
def test_put_of_a_file_makes_a_segment_of_its_bytes(persistent, call, file_of, size):
    content = pattern(size)[:size]
    assert call("put", persistent, stdin=file_of(content)) == (0, b"", "")
    assert content_of(persistent) == content
    assert call("cat", persistent) == (0, content, "")


@pytest.mark.parametrize("size", [1, 5000])
@pytest.mark.needs("persistence")
def test_put_of_a_pipe_makes_a_segment_of_its_bytes(persistent, call, pipe, size):
    reader, writer = pipe
    writer.write(pattern(size)[:size])
    writer.close()
    assert call("put", persistent, stdin=reader) == (0, b"", "")
    assert content_of(persistent) == pattern(size)[:size]


@pytest.mark.needs("persistence")
def test_put_begins_where_the_file_is_at(persistent, call, file_of):
    source = file_of(b"0123456789")
    os.lseek(source.fileno(), 7, os.SEEK_SET)
    assert call("put", persistent, stdin=source)[0] == 0
    assert content_of(persistent) == b"789"


@pytest.mark.parametrize("believed", [3, 50000])
@pytest.mark.needs("persistence")
def test_put_makes_as_much_as_there_was_to_read(persistent, call, file_of, believed, monkeypatch):
    """Whatever size the file had when it was measured."""
    monkeypatch.setattr(put, "_left", lambda _: believed)
    assert call("put", persistent, stdin=file_of(b"0123456789"))[0] == 0
    assert content_of(persistent) == b"0123456789"


@pytest.mark.needs("permissions", "files")
def test_put_makes_what_only_the_user_may_read(persistent, call, file_of):
    before = os.umask(0)
    try:
        call("put", persistent, stdin=file_of(b"x"))
    finally:
        os.umask(before)
    assert os.stat(f"/dev/shm/{persistent}").st_mode & 0o777 == 0o600


@pytest.mark.needs("files")
def test_put_of_nothing_makes_an_empty_segment(persistent, call, file_of):
    assert call("put", persistent, stdin=file_of(b"")) == (0, b"", "")
    assert call("cat", persistent) == (0, b"", "")
    assert call("put", "--force", persistent, stdin=file_of(b"more")) == (0, b"", "")
    assert call("put", "--force", persistent, stdin=file_of(b"")) == (0, b"", "")
    assert content_of(persistent) == b""


@pytest.mark.needs("persistence")
@pytest.mark.able(probe=lambda: bool(lacks("files")))
def test_put_of_nothing_is_an_error_where_no_segment_can_be_empty(persistent, call, file_of):
    told = 1, b"", f"ipcio: nothing was written, and a segment cannot be empty here: {persistent!r}\n"
    assert call("put", persistent, stdin=file_of(b"")) == told
    assert not lives(persistent)
    assert call("put", persistent, stdin=file_of(b"old")) == (0, b"", "")
    assert call("put", "--force", persistent, stdin=file_of(b"")) == told
    assert content_of(persistent) == b"old"


@pytest.mark.needs("persistence")
def test_put_without_stdin(name, call):
    assert call("put", name) == (1, b"", f"ipcio: {os.strerror(errno.EBADF)}: 'standard input'\n")


@pytest.mark.needs("persistence")
def test_put_leaves_a_name_in_use_alone_and_reads_nothing(name, call, file_of):
    with shm.create(name, 3) as h:
        h.write(b"old")
        source = file_of(b"new")
        complaint = f"ipcio: shared memory {name!r} exists already: pass --force to replace it\n"
        assert call("put", name, stdin=source) == (1, b"", complaint)
        assert source.tell() == 0
        assert content_of(name) == b"old"


@pytest.mark.needs("persistence", "fork")
def test_put_takes_the_name_of_an_orphan(unique, call, file_of):
    for name, options in [(unique(), []), (unique(), ["--force"])]:
        leave_orphan(lambda: shm.create(name, 100))  # noqa: B023
        assert call("put", name, *options, stdin=file_of(b"new")) == (0, b"", "")
        assert content_of(name) == b"new"
        shm.unlink(name)


@pytest.mark.needs("persistence")
def test_put_force_replaces_whatever_has_the_name(unique, call, file_of):
    """A persistent one, one that somebody holds, and none."""
    name = unique()
    call("put", "--force", name, stdin=file_of(b"first"))
    assert content_of(name) == b"first"
    call("put", "--force", name, stdin=file_of(b"second one"))
    assert content_of(name) == b"second one"
    shm.unlink(name)
    with shm.create(name, 5) as h:
        h.write(b"third")
        call("put", "--force", name, stdin=file_of(b"fourth"))
        assert h.read() == b""
        assert h.getbuffer() == b"third"
        assert content_of(name) == b"fourth"
    assert content_of(name) == b"fourth"  # the last holder of the old one took nothing along
    shm.unlink(name)


@pytest.mark.needs("files")
def test_put_force_replaces_what_others_made(persistent, call, file_of):
    with open(f"/dev/shm/{persistent}", "xb") as foreign:
        foreign.write(b"foreign")
    assert call("put", "--force", persistent, stdin=file_of(b"ours")) == (0, b"", "")
    assert content_of(persistent) == b"ours"


@pytest.mark.needs("files", "links")
def test_put_force_follows_no_link(name, call, file_of, tmp_path, monkeypatch):
    from ipcio._posix import writer

    monkeypatch.setattr(writer, "invent_name", lambda: f"{name}-hidden")
    os.symlink(tmp_path / "elsewhere", f"/dev/shm/{name}")
    status, _, errors = call("put", "--force", name, stdin=file_of(b"x"))
    os.unlink(f"/dev/shm/{name}")
    assert (status, errors.count("\n")) == (1, 1)
    assert not os.path.exists(tmp_path / "elsewhere")
    assert not [entry for entry in os.listdir("/dev/shm") if name in entry]


@pytest.mark.needs("files")
def test_a_reader_sees_the_old_segment_or_the_new_one(persistent, call, file_of):
    """Each of one letter, and never none."""
    call("put", persistent, stdin=file_of(b"a" * 100_000))
    done = threading.Event()
    seen = []

    def look():
        while not done.is_set():
            content = content_of(persistent)
            seen.append(content[:1])
            if content != content[:1] * 100_000:
                seen.append(content)
                return

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for letter in b"bcdefghij" * 3:
            assert call("put", "--force", persistent, stdin=file_of(bytes([letter]) * 100_000)) == (0, b"", "")
    finally:
        done.set()
        reader.join()
    assert seen
    assert {len(content) for content in seen} == {1}


@pytest.mark.parametrize("options", [[], ["--force"]])
@pytest.mark.needs("posix")
def test_put_that_is_killed_midway_leaves_the_old_segment(persistent, options, call, file_of):
    """Nothing, or the old segment; and no bytes of the new one anywhere."""
    if options:
        call("put", persistent, stdin=file_of(b"old"))
    for number, status in [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)]:
        with start("put", persistent, *options, stdin=subprocess.PIPE, encoding=None) as process:
            process.stdin.write(bytes(PIECE))  # so most of it has been read
            process.send_signal(number)
            assert finish(process) == (status, b"", b"")
        assert lives(persistent) == bool(options)
    if options:
        assert content_of(persistent) == b"old"


@pytest.mark.parametrize("options", [[], ["--force"]])
@pytest.mark.needs("files")
def test_put_into_a_full_place_is_an_error_and_leaves_nothing(persistent, call, pipe, options, monkeypatch):
    """Of a pipe, nobody knows before that it will not fit."""
    reader, writer = pipe
    writer.write(b"0123456789")
    writer.close()

    class Narrow(io.FileIO):
        room = 6

        def write(self, data):
            if not self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            count = super().write(data[: self.room])
            self.room -= count
            return count

    class Full(_segment_writer.SegmentWriter, Narrow):  # whose base class is the narrow one
        pass

    monkeypatch.setattr(_segment_writer, "SegmentWriter", Full)
    told = f"ipcio: No space left on device: {persistent!r}\n"
    assert call("put", persistent, *options, stdin=reader) == (1, b"", told)
    assert not lives(persistent)


@pytest.mark.needs("files")
def test_put_of_a_file_that_is_too_large_is_an_error_at_once(persistent, call, file_of):
    source = file_of(b"")
    os.truncate(source.name, 1 << 43)  # of nothing
    status, output, told = call("put", persistent, stdin=source)
    assert (status, output) == (1, b"")
    assert told.startswith("ipcio: No space left on device: 8192.0 GiB asked for")  # and what there is
    assert told.endswith(f": {persistent!r}\n")
    assert source.tell() == 0
    assert not lives(persistent)


@pytest.mark.parametrize("options", [[], ["--force"]])
@pytest.mark.needs("files")
def test_put_under_a_name_that_is_too_long_is_told_the_limit(call, file_of, options):
    source = file_of(b"x")
    name = "x" * 256
    told = f"ipcio: a name may have 255 bytes here, not 256: {name!r}\n"
    assert call("put", name, *options, stdin=source) == (1, b"", told)
    assert source.tell() == 0


@pytest.mark.needs("posix", "persistence")
def test_put_waits_for_a_writer_where_others_would_not(persistent, call, pipe, monkeypatch):
    """The open file of stdin may be another program's as well, who has it not block."""
    reader, writer = pipe
    os.set_blocking(reader.fileno(), False)
    parts = [b"one ", b"two"]

    def wait_for(fd):
        assert fd == reader.fileno()
        writer.write(parts.pop(0)) if parts else writer.close()

    monkeypatch.setattr(put, "_wait_for", wait_for)
    assert call("put", persistent, stdin=reader) == (0, b"", "")
    assert content_of(persistent) == b"one two"


@pytest.mark.needs("persistence", "files")
@pytest.mark.parametrize(("options", "mode"), [([], 0o600), (["--perm", "640"], 0o640), (["--perm=0444"], 0o444)])
def test_put_sets_the_permissions(persistent, call, file_of, options, mode):
    """Whatever the umask is; a replacement gets its own."""
    before = os.umask(0o077)
    try:
        for force in [], ["--force"]:
            assert call("put", persistent, *options, *force, stdin=file_of(b"some")) == (0, b"", "")
            assert os.stat(f"/dev/shm/{persistent}").st_mode & 0o777 == mode
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", ["", "8", "1000", "0o600", "-1", "rw", "6_0"])
def test_put_with_permissions_that_are_none(name, call, mode):
    status, output, errors = call("put", name, f"--perm={mode}")
    assert (status, output) == (2, b"")
    assert "must be permission bits in octal" in errors


@pytest.mark.able(probe=lambda: lacks("persistence"))
def test_put_where_nothing_persists(name, call, file_of):
    status, output, errors = call("put", name, stdin=file_of(b"x"))
    assert (status, output, errors.count("\n")) == (1, b"", 1)
    assert errors.startswith("ipcio: on Windows nothing outlives its last handle")


@pytest.mark.needs("sh", "persistence")
def test_put_and_cat_in_a_shell(persistent):
    """As one types it, with the programs themselves."""
    command = f'printf "%s" one two | "$0" -m ipcio put {persistent} && "$0" -m ipcio cat {persistent} | wc -c'
    done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"6", b"")


# -- progress ------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def fileno(self):
        raise OSError


@pytest.fixture
def terminal(monkeypatch):
    """A terminal for stderr, and no patience."""
    shown = Terminal()
    monkeypatch.setattr(progress, "sys", types.SimpleNamespace(stderr=shown))  # pytest sets the real one again
    monkeypatch.setattr(progress, "_PATIENCE", 0)
    monkeypatch.setattr(progress, "_PAUSE", 0)
    return shown


def screen(lines):
    """What is to be seen when each is written over the one before."""
    seen = ""
    for line in lines:
        seen = line + seen[len(line) :]
    return seen


@pytest.mark.parametrize("columns", [1, 5, 9, 16, 20, 40, 60, 79, 200])
@pytest.mark.parametrize("total", [0, 3 << 30])
def test_progress_never_wraps(terminal, columns, total, monkeypatch):
    monkeypatch.setattr(progress, "_columns", lambda: columns)
    with progress.Progress(total, -1) as counted:
        for done in (1, 999, 10 << 20, 1 << 30):
            counted.add(done)
    lines = terminal.getvalue().split("\r")
    assert max(map(len, lines)) < columns
    assert screen(lines[:-2]).strip() or columns < 9
    assert not screen(lines).strip()  # it is gone in the end
    assert "\n" not in terminal.getvalue()


def test_progress_tells_how_much_of_what_and_how_fast(terminal):
    with progress.Progress(4 << 20, -1) as counted:
        counted.add(1 << 20)
        counted.add(1 << 20)
    told = terminal.getvalue().split("\r")
    assert re.fullmatch(r" 25%  \[######------------------\]  1.0 MiB of 4.0 MiB  [0-9.]+ [KMG]iB/s *", told[1])
    assert told[2].startswith(" 50%  [############------------]")


def test_progress_of_an_unknown_size(terminal):
    with progress.Progress(0, -1) as counted:
        counted.add(3 << 20)
    assert re.fullmatch(r"3.0 MiB  [0-9.]+ [KMG]iB/s *", terminal.getvalue().split("\r")[1])


def test_no_progress_of_what_takes_less_than_a_second(terminal, monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", 1000)
    with progress.Progress(10, -1) as counted:
        counted.add(10)
    assert terminal.getvalue() == ""


def test_no_progress_without_a_terminal(monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", 0)
    for shown in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", shown)
        with progress.Progress(10, -1) as counted:
            counted.add(10)
        assert shown is None or shown.getvalue() == ""


@pytest.mark.needs("posix")
def test_progress_on_a_terminal_and_never_beside_the_bytes(name, tmp_path):
    """With stdout on the same terminal, the bytes alone."""
    import pty

    code = (
        "import sys; from ipcio import _cli; from ipcio._cli import progress\n"
        "progress._PATIENCE = progress._PAUSE = 0\n"
        f"sys.exit(_cli.main(['cat', {name!r}]))"
    )
    with shm.create(name, 3) as h:
        h.write(b"abc")
        for beside in (False, True):
            ours, theirs = pty.openpty()
            try:
                with open(tmp_path / "output", "wb") as out:
                    done = subprocess.run(
                        [sys.executable, "-c", code],
                        stdout=theirs if beside else out,
                        stderr=theirs,
                        env=ENVIRONMENT,
                        check=False,
                    )
                os.close(theirs)
                shown = os.read(ours, 65536).decode()
            finally:
                os.close(ours)
            assert done.returncode == 0
            assert (shown == "abc") is beside
            if not beside:
                assert shown.startswith("\r100%  [")
                assert shown.endswith(" \r")
                assert (tmp_path / "output").read_bytes() == b"abc"
