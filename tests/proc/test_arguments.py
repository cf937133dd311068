"""Arguments of ``subprocess.Popen`` that `spawn` and `run` hand on: user, groups, umask, process group, descriptors."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import threading

import pytest
from children import Forked

from ipcio import proc, shm
from ipcio.proc import ExitStatus, run, spawn

pytestmark = pytest.mark.needs("posix")

NOBODY = 65534
PROCESS_GROUP = pytest.mark.able(probe=lambda: sys.version_info >= (3, 11))
ROUNDS = 3


def python(code, *arguments):
    return [sys.executable, "-S", "-E", "-c", f"import os, sys\n{code}", *map(str, arguments)]


def drop_rights():
    """As an ordinary user from here on; the child of `Forked` calls this."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


@pytest.mark.root
def test_the_child_runs_as_the_user_and_with_the_groups_that_it_is_given():
    done = run("id -u; id -g; id -G", user=NOBODY, group=NOBODY, extra_groups=iter([NOBODY, 7]), encoding="utf-8")
    user, group, groups = done.stdout.splitlines()
    assert (user, group, set(groups.split())) == (str(NOBODY), str(NOBODY), {str(NOBODY), "7"})
    assert run("id -u", user="root", encoding="utf-8").stdout == "0\n"
    assert (os.getuid(), os.geteuid()) == (0, 0)


def test_a_user_or_a_group_without_the_rights_for_it_is_a_permission_error(tmp_path):
    def attempt(options):
        drop_rights()
        with pytest.raises(PermissionError) as caught:
            spawn(["sh", "-c", "exit"], cwd=tmp_path.anchor, **options)
        return caught.value.errno, caught.value.filename, str(caught.value)

    for options in {"user": 0}, {"extra_groups": [0]}, {"group": 1}:
        with Forked(attempt, options) as child:
            number, filename, text = child.result()
        assert (number, filename) == (errno.EPERM, "sh")
        (name,) = options
        assert f"{name}={options[name]!r}" in text
        assert "requires root" in text


@pytest.mark.root
def test_a_child_that_cannot_be_signalled_leaves_the_handle_open():
    """Close says so, and changes nothing: the child's input can be ended, its output read, its status had."""

    def attempt():
        h = spawn("read line; echo $line; exit 5", user=1, stdin=True, stdout=True)
        drop_rights()
        for call in h.kill, h.close, h.close:
            with pytest.raises(PermissionError, match="may not signal") as caught:
                call()
            assert caught.value.filename == h.pid
        assert not h.closed
        h.write(b"end\n")
        assert list(h) == [("stdout", b"end\n")]
        status = h.wait()
        h.close()
        return h.closed, tuple(status)

    with Forked(attempt) as child:
        assert child.result() == (True, (False, "exit", 5))


@pytest.mark.root
def test_a_child_that_cannot_be_signalled_sees_the_end_of_its_input_when_its_handle_is_dropped():
    reader, writer = os.pipe()

    def attempt():
        h = spawn("read line || echo end", user=1, stdin=True, stdout=writer)
        drop_rights()
        del h
        gc.collect()

    try:
        with Forked(attempt) as child:
            child.result()
        os.close(writer)
        assert os.read(reader, 10) == b"end\n"
        assert os.read(reader, 10) == b""
    finally:
        os.close(reader)


def test_the_umask_is_that_of_the_child_alone(tmp_path):
    before = os.umask(0o022)
    try:
        for umask, mode in (0o077, 0o600), (0, 0o666), (-1, 0o644):
            path = tmp_path / str(umask)
            assert run(["sh", "-c", ': >"$1"', "sh", path], umask=umask)
            assert path.stat().st_mode & 0o777 == mode
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_descriptors_are_passed_on_and_no_others():
    reader, writer = os.pipe()
    other = os.dup(reader)
    os.write(writer, b"through")
    os.close(writer)
    code = """
print(os.read(int(sys.argv[1]), 9), end="")
try: os.fstat(int(sys.argv[2]))
except OSError: print("closed")"""
    try:
        done = run(python(code, reader, other), pass_fds=iter([reader]), encoding="utf-8")
        assert done.stdout == "b'through'closed\n"
        assert not os.get_inheritable(reader)
    finally:
        os.close(reader)
        os.close(other)


@pytest.mark.needs("descriptors")
def test_memory_is_passed_on_by_its_descriptor(name):
    with shm.create(name, 10) as h:
        assert run(python("os.pwrite(int(sys.argv[1]), b'child', 0)", h.fileno()), pass_fds=[h.fileno()])
        assert h.read(5) == b"child"


def test_threads_that_spawn_at_once_do_not_mix_umasks_or_descriptors():
    """Each child has the umask and the one descriptor that it was given, and the caller keeps its own."""
    umasks = [0o011, 0o022, 0o033, 0o044]
    ends = [os.pipe() for _ in umasks]
    readers = [reader for reader, _ in ends]
    code = """
there = []
for fd in sys.argv[1:]:
    try: os.fstat(int(fd))
    except OSError: continue
    there.append(int(fd))
print(os.umask(0), *there)"""
    before = os.umask(0o027)
    seen: dict[int, set[str]] = {umask: set() for umask in umasks}

    def use(umask, fd):
        for _ in range(ROUNDS):
            seen[umask].add(run(python(code, *readers), umask=umask, pass_fds=[fd], encoding="utf-8").stdout)

    threads = [threading.Thread(target=use, args=pair) for pair in zip(umasks, readers, strict=True)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
        for fd in (fd for pair in ends for fd in pair):
            os.close(fd)
    assert seen == {umask: {f"{umask} {fd}\n"} for umask, fd in zip(umasks, readers, strict=True)}


@PROCESS_GROUP
@pytest.mark.needs("trees")
def test_a_process_group_of_its_own_is_killed_as_a_whole():
    """And the child stays in the session of the caller."""
    reader, writer = os.pipe()  # which has an end when the grandchild has ended
    with spawn("sleep 90 & echo started; wait", stdout=True, stderr=writer, process_group=0) as h:
        os.close(writer)
        try:
            next(h)
            assert (os.getpgid(h.pid), os.getsid(h.pid)) == (h.pid, os.getsid(0))
            assert h.kill(tree=True)
            assert h.wait() == (False, "signal", signal.SIGTERM)
            assert os.read(reader, 1) == b""
        finally:
            os.close(reader)


@PROCESS_GROUP
@pytest.mark.needs("trees")
def test_run_out_of_time_ends_a_process_group():
    reader, writer = os.pipe()
    try:
        with pytest.raises(TimeoutError):
            run("echo begun; sleep 90 & sleep 90", stderr=writer, timeout=0.05, process_group=0)
        os.close(writer)
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


@PROCESS_GROUP
def test_a_child_joins_the_process_group_of_another_one():
    with spawn("read line", stdin=True, process_group=0) as first:
        with spawn("read line", stdin=True, process_group=first.pid) as second:
            assert os.getpgid(second.pid) == first.pid
            with pytest.raises(ValueError, match="process_group=0"):
                second.kill(tree=True)
        assert run(["true"], process_group=first.pid).status == ExitStatus(ok=True, kind="exit", code=0)


@PROCESS_GROUP
def test_a_process_group_that_is_not_of_this_session_is_a_permission_error():
    with spawn("read line", stdin=True, start_new_session=True) as other:
        with pytest.raises(PermissionError, match=f"process_group={other.pid} .* pass 0") as caught:
            spawn(["true"], process_group=other.pid)
        assert caught.value.filename == "true"


@pytest.mark.able(probe=lambda: sys.version_info < (3, 11))
def test_a_process_group_without_python_3_11_is_not_implemented():
    with pytest.raises(NotImplementedError, match="start_new_session=True"):
        spawn(["true"], process_group=0)


def test_a_descriptor_that_is_not_open_is_an_error_that_names_it():
    fd = os.dup(0)
    os.close(fd)
    for stdout in None, True:  # with pipes, too, the first of which would have that number
        with pytest.raises(OSError, match=f"pass_fds= names a descriptor that is not open: {fd}") as caught:
            spawn("sleep 90", pass_fds=[fd], stdout=stdout)
        assert caught.value.errno == errno.EBADF


def test_a_directory_that_is_not_there_is_still_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        spawn(["true"], cwd=tmp_path / "none", umask=0, pass_fds=[0])
    assert caught.value.filename == tmp_path / "none"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"process_group": 0, "start_new_session": True}, ValueError),
        ({"process_group": -1}, ValueError),
        ({"process_group": "0"}, TypeError),
        ({"umask": 0o1000}, ValueError),
        ({"umask": -2}, ValueError),
        ({"umask": "022"}, TypeError),
        ({"user": -1}, ValueError),
        ({"user": "no such user"}, LookupError),
        ({"user": 1.5}, TypeError),
        ({"extra_groups": [-1]}, ValueError),
        ({"extra_groups": [None]}, TypeError),
        ({"group": "no such group"}, LookupError),
        ({"extra_groups": 5}, TypeError),
        ({"extra_groups": "daemon"}, ValueError),
        ({"pass_fds": 5}, TypeError),
        ({"pass_fds": [-1]}, ValueError),
        ({"pass_fds": ["0"]}, TypeError),
    ],
)
def test_a_malformed_argument_is_an_error_and_starts_nothing(options, error):
    for start in spawn, proc.run:
        with pytest.raises(error):
            start(["true"], **options)
