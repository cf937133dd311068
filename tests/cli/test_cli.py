"""The command as such: statuses, one-line errors, output that cannot be written."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from operator import itemgetter

import pytest
from abilities import lacks
from children import leave_orphan
from command import DEADLINE, ENVIRONMENT, finish, run, start
from waiting import until_it_waits

import ipcio
from ipcio import _cli, filelock, sem, shm
from ipcio._cli import commands


def test_version():
    assert run("--version") == (0, f"ipcio {ipcio.__version__}\n", "")


# What prints something in each way.
COMMANDS = [["demo", __file__], ["ls", "--json"], ["--help"], ["--version"]]
SUBCOMMANDS = commands.NAMES


@pytest.mark.parametrize(
    "words",
    [[], *([word] for word in SUBCOMMANDS), *(["sem", verb] for verb in ["create", "inc", "dec", "value", "run"])],
)
def test_help(words, capsys):
    with pytest.raises(SystemExit) as end:
        _cli.main([*words, "--help"])
    assert end.value.code == 0
    output, errors = capsys.readouterr()
    assert output.startswith(f"usage: {' '.join(['ipcio', *words])}")
    assert errors == ""
    if not words:
        assert all(f"\n    {word}" in output for word in SUBCOMMANDS)


@pytest.mark.parametrize("word", SUBCOMMANDS)
def test_the_guide_has_a_section_on_each_subcommand(word):
    page = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "guide", "command.md")
    with open(page, encoding="utf-8") as file:
        assert re.search(rf"^## (.* )?{word}( |$)", file.read(), re.MULTILINE)


def test_help_of_the_program_itself():
    status, output, errors = run("--help")
    assert (status, errors) == (0, "")
    assert output.startswith("usage: ipcio")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["demo", "-j"],
        ["demo", "-j0"],
        ["demo", "-j", "two"],
        ["demo", "--top=-1"],
        ["gc", "prices"],
        ["wait", "x", "-E", "one"],
        ["wait", "x", "--timeout", "soon"],
        ["sem", "inc", "x", "one"],
        ["sem", "create", "x", "one"],
        ["lock", "-E", "1.5", "file", "true"],
        ["put", "x", "--perm", "rw"],
        ["queue", "create", "x", "10M"],
    ],
)
def test_usage_errors_are_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        _cli.main(arguments)
    output, errors = capsys.readouterr()
    assert (end.value.code, output) == (2, "")
    assert errors.startswith("usage: ipcio")
    assert errors.splitlines()[-1].startswith("ipcio")
    assert " _" not in errors  # no name of a function
    assert "invalid" not in errors


def test_an_error_is_one_line_and_status_1(tmp_path):
    missing = tmp_path / "missing\nfile"
    status, output, errors = run("demo", missing)
    reason = "No such file or directory" if os.name == "posix" else "Invalid argument"  # no name can be such
    assert (status, output, errors) == (1, "", f"ipcio: {reason}: {str(missing)!r}\n")


@pytest.mark.parametrize("arguments", COMMANDS[::2], ids=itemgetter(0))
def test_a_reader_that_is_gone_is_no_news(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with start(*arguments, stdout=writing) as process:
            assert process.communicate()[1] == ""
    finally:
        os.close(writing)
    assert process.returncode == 1


@pytest.mark.parametrize("arguments", COMMANDS[::2], ids=itemgetter(0))
@pytest.mark.needs("posix")
def test_a_full_disk_is_an_error(arguments):
    with open("/dev/full", "w") as full:
        status, _, errors = run(*arguments, stdout=full)
    assert (status, errors) == (1, "ipcio: No space left on device\n")


@pytest.mark.needs("posix")
def test_without_stderr(tmp_path):
    (tmp_path / "words").write_text("some words")
    status, _, errors = run("demo", tmp_path / "words", preexec_fn=lambda: os.close(2), stdin=subprocess.DEVNULL)
    assert (status, errors) == (0, "")


@pytest.mark.parametrize(
    "arguments", [["demo", __file__], ["ls", "--json"], ["--help"], ["--version"]], ids=itemgetter(0)
)
@pytest.mark.needs("posix")
def test_output_that_goes_nowhere_is_an_error(arguments):
    """Standard output was closed before the program started."""
    status, _, errors = run(*arguments, preexec_fn=lambda: os.close(1), stdin=subprocess.DEVNULL)
    assert (status, errors) == (1, "ipcio: Bad file descriptor: 'standard output'\n")


@pytest.mark.needs("posix")
def test_a_command_that_prints_nothing_needs_no_stdout(path):
    status, _, errors = run("lock", path, "--", "true", preexec_fn=lambda: os.close(1), stdin=subprocess.DEVNULL)
    assert (status, errors) == (0, "")


def test_what_stdout_cannot_encode_is_escaped(tmp_path):
    (tmp_path / "words").write_text("größe", encoding="utf-8")
    status, output, errors = run("demo", tmp_path / "words", env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"})
    assert (status, errors) == (0, "")
    assert r"gr\xf6\xdfe" in output


# -- gc ----------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory for `gc` where no other orphans are; make objects there with ``place(name, mode)``."""
    from ipcio._posix import namespace

    monkeypatch.setattr(namespace, "directory", lambda: str(tmp_path))

    def make(name, mode):
        path = os.path.join(os.fsencode(tmp_path), name)
        with open(path, "xb") as file:
            file.write(bytes(32))
        os.chmod(path, mode)
        return path

    return make


@pytest.mark.needs("files")
def test_gc_dry_run_names_what_it_would_remove(place, capsys):
    """The same lines, and everything is still there."""
    paths = [place(name, 0o1600) for name in (b"prices", b"sem.printers", b"two\nlines")]
    paths += [place(b"persistent", 0o2600), place(b"foreign", 0o600)]
    for option in "--dry-run", "-n":
        assert _cli.main(["gc", option]) == 0
        output, errors = capsys.readouterr()
        assert sorted(output.splitlines()) == ["sem printers", "shm 'two\\nlines' 32 bytes", "shm prices 32 bytes"]
        assert errors == ""
        assert all(map(os.path.exists, paths))
    assert _cli.main(["gc"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(output.splitlines())
    assert [os.path.exists(path) for path in paths] == [False, False, False, True, True]


@pytest.mark.needs("files")
def test_gc_names_what_it_removed(place, capsys):
    import fcntl

    for name in [b"prices", b"sem.printers", b"two\nlines", b"z\xffrich", "größe".encode()]:
        place(name, 0o1600)
    place(b"persistent", 0o2600)
    place(b"foreign", 0o600)
    with open(place(b"in-use", 0o1600), "rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_SH)
        assert _cli.main(["gc"]) == 0
        shm = "größe", "prices", r"'two\nlines'", r"'z\udcffrich'"
        told = [f"shm {each} 32 bytes\n" for each in shm]
        told.insert(2, "sem printers\n")
        assert capsys.readouterr() == ("".join(told), "")
        assert _cli.main(["gc"]) == 0
        assert capsys.readouterr() == ("", "")


@pytest.mark.gc
@pytest.mark.parametrize(
    "create", [lambda name: shm.create(name, 1), sem.create, lambda name: sem.create(name, undo=True)]
)
@pytest.mark.needs("fork", "files")
def test_gc(name, create):
    """The program itself.  It may come upon orphans of other programs, and others upon ours."""
    leave_orphan(lambda: create(name))
    status, output, errors = run("gc")
    assert (status, errors) == (0, "")
    assert {line.split()[0] for line in output.splitlines()} <= {"shm", "sem", "mutex", "event", "queue"}
    assert not [entry for entry in os.listdir("/dev/shm") if entry.endswith(name)]


@pytest.mark.gc
@pytest.mark.parametrize("make", ["shm.create({!r}, 1)", "sem.create({!r})"])
def test_gc_leaves_objects_in_use_alone(name, peer, make):
    peer().run(f"kept = {make.format(name)}")
    status, output, errors = run("gc")
    assert (status, errors) == (0, "")
    assert name not in output
    with pytest.raises(FileExistsError):
        shm.create(name, 1) if make.startswith("shm") else sem.create(name)


# -- lock --------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "file")


# A command that says so when it runs, waits for the end of its standard input, and ends with status 5.
if os.name == "posix":
    HOLD = "sh", "-c", "echo in; read line; exit 5"
    SAY = "echo", "had"
else:
    HOLD = sys.executable, "-c", "import sys; print('in', flush=True); sys.stdin.read(); sys.exit(5)"
    SAY = sys.executable, "-c", "print('had')"


@contextlib.contextmanager
def holding(path, *options):
    """A command that has the lock until its standard input ends."""
    with started(path, *options) as process:
        assert process.stdout.readline() == "in\n"
        yield process


@contextlib.contextmanager
def started(path, *options):
    arguments = "lock", *options, path, "--", *HOLD
    with start(*arguments, stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def waiting(path, *options):
    """The same, while somebody else has it."""
    with started(path, *options) as process:
        end = time.monotonic() + DEADLINE
        while not lacks("proc") and path not in files_of(process.pid):  # from then on, it sleeps for nothing else
            assert process.poll() is None, finish(process)
            assert time.monotonic() < end, "it does not open the file"
            time.sleep(0.001)
        until_it_waits(process.pid)
        yield process


def files_of(pid):
    found = set()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return found


def try_lock(path, *options):
    for _ in range(10):  # the search for the holder has little time
        status, output, errors = run("lock", path, "--timeout", 0, *options, "--", *SAY)
        if "another process" not in errors or lacks("commands"):
            break
    if lacks("holders"):
        errors = re.sub(r"process, [^:]*:", "process:", errors)
    return status, output, errors


HAD = 0, "had\n", ""


SEES_PROC = _cli.os.path.isdir("/proc/self")
"""Whether ipcio can find out how a process is called."""


def refused(holder, does, span, path):
    """Where the holder of a lock is unknown, its other locks are, too."""
    if lacks("holders"):
        return 1, "", f"ipcio: {does} by another process: {path!r}\n"
    return 1, "", f"ipcio: {does} by process {holder.pid}{' (sh)' if SEES_PROC else ''}, {span}: {path!r}\n"


@pytest.mark.parametrize("status", [0, 1, 77, 255])
def test_lock_gives_the_commands_own_status(path, status):
    code = f"import sys; print('out'); print('err', file=sys.stderr); sys.exit({status})"
    assert run("lock", path, "--", sys.executable, "-c", code) == (status, "out\n", "err\n")
    assert os.path.getsize(path) == 0


@pytest.mark.needs("posix")
def test_lock_becomes_the_command(path):
    with start("lock", path, "--", "sh", "-c", "echo $$") as process:
        assert finish(process) == (0, f"{process.pid}\n", "")


def test_the_end_of_lock_is_the_end_of_the_command(path):
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    with start("lock", path, "--", sys.executable, "-c", code, stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == "up\n"
        process.kill()
        assert process.stdout.read() == ""  # no process has it open now, though nothing ended the command's input


def test_lock_leaves_the_commands_words_alone(path):
    words = ["", "--", "-x", "--shared", "two words", "new\nline", "größe", "--"]
    code = "import sys; print(ascii(sys.argv[1:]))"
    status, output, _ = run("lock", path, "--", sys.executable, "-c", code, *words)
    assert (status, output) == (0, f"{words!a}\n")


def test_lock_excludes(path):
    with holding(path) as first, waiting(path) as second:
        assert try_lock(path) == refused(first, "locked", "all bytes from 0 on", path)
        first.stdin.close()
        assert second.stdout.readline() == "in\n"
        assert first.wait() == 5


def test_lock_waits_with_a_timeout_too(path):
    with holding(path) as first, waiting(path, "--timeout", DEADLINE) as second:
        first.stdin.close()
        assert second.stdout.readline() == "in\n"


def test_lock_excludes_within_ranges(path):
    with holding(path, "--range", "10:5") as holder:
        told = refused(holder, "locked", "bytes 10 to 14", path)
        for span in ["0:11", "12:2", "0", "0:", "0:0", f"14:{2**63 - 14}"]:
            assert try_lock(path, "--range", span) == told
        for span in ["0:10", "15", f"{2**63 - 1}:1"]:
            assert try_lock(path, "--range", span) == HAD


def test_lock_may_be_shared(path):
    with holding(path, "--shared", "--range", "3") as holder, holding(path, "--shared"):
        assert try_lock(path, "--range=3:4") == refused(holder, "shared", "all bytes from 3 on", path)
    with holding(path) as holder:
        assert try_lock(path, "--shared") == refused(holder, "locked", "all bytes from 0 on", path)


@pytest.mark.needs("posix")
def test_lock_and_other_programs_exclude_one_another(path):
    import fcntl

    with holding(path, "--range", "5:2"), open(path, "r+b") as file:
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 6)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 7)
        told = f"ipcio: locked by process {os.getpid()}{' (' if SEES_PROC else ', byte'}"
        assert try_lock(path, "--range", "7")[2].startswith(told)


@pytest.mark.needs("posix")
@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_the_end_of_the_command_is_the_end_of_the_lock(path, number):
    number = signal.Signals[number]
    with holding(path) as holder:
        holder.send_signal(number)
        assert finish(holder) == (-number, "", "")
        assert try_lock(path) == HAD


@pytest.mark.needs("posix", "open file locks")
def test_children_of_the_command_keep_the_lock(path):
    with start("lock", path, "--", "sh", "-c", "exec 8<&0; cat <&8 & exit 5", stdin=subprocess.PIPE) as process:
        assert process.wait(DEADLINE) == 5
        with open(path, "r+b") as file:
            assert not filelock.trylock(file)
            process.stdin.close()
            assert filelock.lock(file, timeout=DEADLINE)


@pytest.mark.needs("posix", "proc")
def test_lock_ignores_no_signal_in_the_commands_name(path):
    status, output, _ = run("lock", path, "--", "cat", "/proc/self/status")
    (ignored,) = [int(line.split()[1], 16) for line in output.splitlines() if line.startswith("SigIgn:")]
    assert status == 0
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


@pytest.mark.needs("posix", "proc")
def test_the_locked_file_is_not_the_commands_stdin(path):
    command = "lock", path, "--", "readlink", "/proc/self/fd/0"
    assert run(*command, stdin=None, preexec_fn=lambda: os.close(0)) == (1, "", "")


@pytest.mark.needs("posix", "open file locks")
@pytest.mark.parametrize("replaced", [False, True])
def test_lock_waits_for_the_file_that_the_name_means(path, replaced):
    """The first command removes the file as its last act; the second runs under a lock of the new one."""
    act = f"mv {path}-new {path}" if replaced else f"rm {path}"
    with start("lock", path, "--", "sh", "-c", f"echo; read line; {act}", stdin=subprocess.PIPE) as first:
        assert first.stdout.readline()
        if replaced:
            with open(f"{path}-new", "x"):
                pass
        with waiting(path) as second:
            assert finish(first)[0] == 0
            assert second.stdout.readline()
            assert try_lock(path)[0] == 1
            assert finish(second)[0] == 5
    assert try_lock(path) == HAD


@pytest.mark.needs("posix")
@pytest.mark.parametrize("options", [(), ("--shared",)])
def test_lock_of_a_fifo_is_an_error_at_once(path, options):
    os.mkfifo(path)
    assert try_lock(path, *options) == (1, "", f"ipcio: only a regular file can be locked by its path: {path!r}\n")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0, 0o666)])
@pytest.mark.needs("permissions")
def test_lock_makes_the_file(path, umask, mode):
    assert run("lock", path, "--", "true", umask=umask) == (0, "", "")
    assert os.stat(path).st_mode & 0o7777 == mode


@pytest.mark.needs("posix", "proc")
def test_lock_of_a_file_that_cannot_be_written(path):
    """Not by root either: a program that runs."""
    shutil.copy(shutil.which("cat"), path)
    with subprocess.Popen([path], stdin=subprocess.PIPE):
        assert try_lock(path) == (1, "", f"ipcio: Text file busy: {path!r}\n")
        assert try_lock(path, "--shared") == HAD
        with holding(path, "--shared") as holder:
            with open(path, "rb") as file:
                assert filelock.query(file, "r") is None
            assert path in files_of(holder.pid)


@pytest.mark.needs("posix")
def test_lock_of_a_file_that_cannot_be_opened(tmp_path):
    for bad, complaint in [
        (str(tmp_path), "Is a directory"),
        (f"{tmp_path}/missing/file", "No such file or directory"),
        (f"{tmp_path}/two\nlines/file", "No such file or directory"),
        ("", "No such file or directory"),
    ]:
        assert try_lock(bad) == (1, "", f"ipcio: {complaint}: {bad!r}\n")


@pytest.mark.parametrize(
    ("command", "status", "complaint"),
    [
        ("no-such-command", 127, "No such file or directory"),
        ("/no/such/command", 127, "No such file or directory"),
        ("/", 126, "Permission denied"),
        ("/dev/null", 126, "Permission denied"),
        ("/dev/null/below", 126, "Not a directory"),
    ],
)
@pytest.mark.needs("posix")
def test_lock_with_a_command_that_cannot_be_run(path, command, status, complaint):
    environment = {**ENVIRONMENT, "PATH": os.defpath}  # where all may look
    assert run("lock", path, "--", command, env=environment) == (status, "", f"ipcio: {complaint}: {command!r}\n")


def test_lock_of_a_file_and_with_a_command_that_are_not_there(path, tmp_path):
    """In the words of any system."""
    for arguments, expected, named in [
        (["lock", tmp_path / "missing" / "file", "--", *SAY], 1, str(tmp_path / "missing" / "file")),
        (["lock", tmp_path, "--", *SAY], 1, str(tmp_path)),
        (["lock", path, "--", tmp_path / "missing" / "command"], 127, str(tmp_path / "missing" / "command")),
    ]:
        status, output, errors = run(*arguments)
        assert (status, output) == (expected, "")
        assert errors.startswith("ipcio: ")
        assert errors.endswith(f": {named!r}\n")
        assert errors.count("\n") == 1


@pytest.mark.needs("signals")
def test_lock_interrupted_while_it_waits(path):
    with holding(path), waiting(path) as waiter:
        waiter.send_signal(signal.SIGINT)
        assert finish(waiter) == (130, "", "")


@pytest.mark.needs("posix")
def test_a_holder_with_a_strange_name_is_still_one_line(path, tmp_path):
    program = tmp_path / "a\nb"
    os.symlink(shutil.which("sh"), program)
    with start("lock", path, "--", program, "-c", "echo in; read line", stdin=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == "in\n"
        status, output, errors = try_lock(path)
        assert (status, output) == (1, "")
        assert errors.count("\n") == 1
        assert str(holder.pid) in errors
        holder.stdin.close()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--"],
        ["--", ""],
        *(
            [option, "--", "true"]
            for option in [
                "--nonsense",
                "--range",
                "--range=",
                "--range=x",
                "--range=-1",
                "--range=1:-1",
                "--range=1:x",
                "--range=:1",
                "--range=1:2:3",
                "--range=1.5",
                "--range=1_0",
                "--range=٣",
                f"--range={2**63}",
                f"--range=1:{2**63}",
                f"--range={'9' * 5000}",
                "--timeout",
                "--timeout=",
                "--timeout=x",
                "--timeout=nan",
                "--timeout=-1",
                "-E",
                "-E256",
                "-Ex",
                "-E-1",
                "--nonblock=1",
            ]
        ),
    ],
)
def test_lock_usage_errors(path, arguments, capsys):
    with pytest.raises(SystemExit) as end:
        _cli.main(["lock", path, *arguments])
    assert end.value.code == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("usage: ipcio")
    assert errors.splitlines()[-1].startswith("ipcio")
    assert not os.path.exists(path)


@pytest.mark.needs("sh")
@pytest.mark.parametrize(
    ("options", "after"),
    [
        *(([], False), (["--timeout", "5"], False), (["--timeout=5"], True), (["--time", "5"], True)),
        *((["-E", "5"], False), (["-E", "5"], True), (["--nonblock"], False), (["--nonblock"], True)),
    ],
)
def test_lock_needs_no_dashes_before_the_command(path, options, after):
    """Whether options come before FILE or after it, with a value in the same word, in the next one, or with none."""
    ours = [path, *options] if after else [*options, path]
    assert run("lock", *ours, "sh", "-c", "exit $1", "--shared", "7") == (7, "", "")


@pytest.mark.needs("open file locks")
def test_a_lock_that_was_not_acquired_has_the_status_of_choice(path):
    with holding(path):
        for arguments, expected in (
            (["--nonblock"], 1),
            (["--nonblock", "-E", "75"], 75),
            (["-E77", "--timeout=0.1"], 77),
        ):
            status, output, errors = run("lock", *arguments, path, "true")
            assert (status, output, errors.count("\n")) == (expected, "", 1)
    assert run("lock", "-E75", path, f"{path}-no-such-command")[0] == 127
    assert run("lock", "-E75", f"{path}/none", "true")[0] == 1


def test_lock_without_a_file_is_a_usage_error():
    status, output, errors = run("lock", "--", "true")
    assert (status, output) == (2, "")
    assert "FILE" in errors
