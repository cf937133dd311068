"""Child processes: what each call promises, seen from one process and its children."""

from __future__ import annotations

import asyncio
import copy
import errno
import gc
import io
import os
import pathlib
import pickle
import random
import select
import signal
import subprocess
import sys
import threading
import weakref
from itertools import pairwise

import pytest
from children import Forked
from leftovers import children, descriptors
from programs import CAT, HAVE_SHELL, SLEEP, TRUE, seq, shell, zeros
from waiting import until_it_waits

from ipcio import ExitStatus, Process, proc
from ipcio.proc import EOF, spawn

watchdog = pytest.mark.timeout(20)  # for what hangs if it is wrong


class Calls(list):
    """A callback that notes what it was given."""

    def __call__(self, stream, data):
        self.append((stream, data))

    def of(self, stream="stdout"):
        pieces = [data for name, data in self if name == stream]
        return pieces[0][:0].join(pieces) if pieces else b""


def output_of(command, **options):
    calls = Calls()
    with spawn(command, stdout=True, callback=calls, **options) as h:
        assert h.wait()
    return calls.of()


def python(code, *arguments):
    return [sys.executable, "-S", "-E", "-c", code, *arguments]


# -- commands ----------------------------------------------------------------------


@pytest.mark.needs("sh")
def test_a_string_is_for_the_shell_and_a_sequence_is_not(tmp_path):
    assert output_of("echo $((1 + 1)) '*'; echo 3") == b"2 *\n3\n"
    assert output_of(["echo", "$((1 + 1))", "*; echo 3"]) == b"$((1 + 1)) *; echo 3\n"
    assert output_of(("echo", "tuple")) == b"tuple\n"
    assert output_of([b"echo", "a", pathlib.Path("b"), b"\xff"]) == b"a b \xff\n"
    assert output_of([pathlib.Path("/bin/echo"), ""]) == b"\n"
    assert (
        output_of("pwd", cwd=tmp_path) == output_of("pwd", cwd=os.fsencode(tmp_path)) == os.fsencode(tmp_path) + b"\n"
    )


@pytest.mark.needs("sh")
def test_the_environment_is_the_own_or_the_given(monkeypatch):
    monkeypatch.setenv("IPCIO_ONE", "1")
    assert output_of("echo $IPCIO_ONE$IPCIO_TWO") == b"1\n"
    assert output_of("echo $IPCIO_ONE$IPCIO_TWO", env={"IPCIO_TWO": "2"}) == b"2\n"
    assert output_of("echo $IPCIO_TWO", env={b"IPCIO_TWO": b"\xff"}) == b"\xff\n"
    assert output_of("echo $IPCIO_ONE", env={}) == b"\n"


@pytest.mark.needs("sh")
def test_a_session_of_its_own_if_asked():
    code = "import os; print(os.getpid() == os.getsid(0))"
    assert output_of(python(code)) == b"False\n"
    assert output_of(python(code), start_new_session=True) == b"True\n"


def test_options_are_named():
    with pytest.raises(TypeError):
        spawn(TRUE, None)
    with pytest.raises(TypeError):
        spawn(TRUE, shell=True)


# -- what is refused -----------------------------------------------------------------


def refused(error, *arguments, **options):
    """It raises that, and neither a child nor a descriptor is left; pipes were asked for."""
    before = descriptors(), children()
    with pytest.raises(error) as raised:
        spawn(*arguments, **{"stdin": True, "stdout": True, "stderr": True, **options})
    assert (descriptors(), children()) == before
    return raised.value


# Where anybody may look: in another's directory a program is not missing but denied.
READABLE = {"PATH": os.defpath}


@pytest.mark.needs("sh")
def test_a_missing_program():
    error = refused(FileNotFoundError, ["ipcio-no-such-program", "x"], env=READABLE)
    assert (error.errno, error.filename) == (errno.ENOENT, "ipcio-no-such-program")
    assert refused(FileNotFoundError, [b"/ipcio/none"]).filename in {b"/ipcio/none", "/ipcio/none"}
    with spawn("ipcio-no-such-program", stderr=subprocess.DEVNULL) as h:
        assert h.wait() == (False, "exit", 127)


@pytest.mark.needs("sh")
def test_a_program_that_may_not_run(tmp_path):
    (tmp_path / "file").write_text("#!/bin/sh\n")
    error = refused(PermissionError, [tmp_path / "file"])
    assert error.errno == errno.EACCES
    assert os.fspath(error.filename) == str(tmp_path / "file")
    (tmp_path / "garbage").write_bytes(b"\x7fELF")
    (tmp_path / "garbage").chmod(0o755)
    assert refused(OSError, [str(tmp_path / "garbage")]).errno == errno.ENOEXEC


def test_a_directory_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    error = refused(FileNotFoundError, ["true"], cwd=tmp_path / "none")
    assert (error.errno, os.fspath(error.filename)) == (errno.ENOENT, str(tmp_path / "none"))
    error = refused(NotADirectoryError, "true", cwd=str(tmp_path / "file"))
    assert (error.errno, error.filename) == (errno.ENOTDIR, str(tmp_path / "file"))
    refused(TypeError, "true", cwd=5.0)


def test_nul_is_refused_everywhere():
    refused(ValueError, "echo a\0b")
    refused(ValueError, ["echo", "a\0b"])
    refused(ValueError, ["echo", b"a\0b"])
    refused(ValueError, ["ec\0ho"])
    refused(ValueError, "true", cwd="/\0")
    refused(ValueError, "true", env={"A": "a\0b"})
    refused(ValueError, "true", env={"A\0": "a"})


def test_an_environment_that_is_none():
    refused(ValueError, "true", env={"A=B": "c"})
    refused(TypeError, "true", env={"A": 5})
    refused(TypeError, "true", env={5: "A"})
    refused((TypeError, AttributeError), "true", env="A=B")


@pytest.mark.parametrize("empty", [[], (), b""])
def test_an_empty_command(empty):
    assert "program" in str(refused(ValueError, empty))


@pytest.mark.parametrize("wrong", [5, None, 1.5, [5], ["echo", None], ["echo", 5], object()])
def test_a_command_that_is_none(wrong):
    refused((TypeError, ValueError), wrong)


def test_an_empty_name_of_a_program():
    refused(OSError, [""])


def test_an_argument_too_long():
    assert refused(OSError, ["true", "x" * 10_000_000], env=READABLE).errno == errno.E2BIG


def test_an_encoding_or_errors_that_are_none():
    refused(LookupError, "true", encoding="no-such")
    refused(LookupError, "true", encoding="utf-8", errors="no-such")
    refused(LookupError, "true", encoding="hex")
    refused((TypeError, LookupError), "true", encoding=5)


def test_what_only_a_pipe_could_use_is_refused_without_one(tmp_path):
    def refused(match, **options):
        with pytest.raises(ValueError, match=match):
            spawn(TRUE, **options)

    before = descriptors(), children()
    with open(tmp_path / "file", "w+b") as file:
        for streams in {}, {"stdout": False}, {"stdin": file, "stdout": file, "stderr": subprocess.DEVNULL}:
            refused(r"callback=.*stdout=True", callback=Calls(), **streams)
            refused(r"lines=.*stdout=True", lines=True, **streams)
            refused(r"encoding=.*stdin=True", encoding="utf-8", **streams)
    assert (descriptors(), children()) == before
    with spawn(CAT, stdin=True, encoding="utf-8", stdout=subprocess.DEVNULL) as h:
        h.write("text")
    assert h.wait()


def test_a_callback_that_is_none():
    refused(TypeError, "true", callback=5)


def test_without_a_descriptor_left():
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(descriptors())
    with Forked(lambda: _spawn_with_few(resource, highest, hard)) as child:
        child.result()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == soft


def _spawn_with_few(resource, highest, hard):
    """For every limit: it can be started and works, or OSError and nothing is left."""
    for more in range(1, 20):
        before = descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, hard))
        calls, seen = Calls(), []
        try:
            h = spawn(CAT, stdin=True, stdout=True, stderr=True, callback=calls)
            try:
                h.write(b"abc", EOF)
                h.wait()
            finally:
                h.close()
                del h
        except OSError as error:
            seen.append(error.errno)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        gc.collect()
        assert descriptors() == before, more
        assert seen in ([], [errno.EMFILE])
    assert calls.of() == b"abc"


# -- how it ended ----------------------------------------------------------------------


def test_the_exit_status():
    for code in 0, 1, 7, 255:
        with spawn(f"exit {code}") as h:
            status = h.wait()
            assert status == (code == 0, "exit", code)
            assert bool(status) is status.ok is (code == 0)
            assert (status.kind, status.code) == ("exit", code)
            assert isinstance(status, ExitStatus)
            assert isinstance(h, Process)
            assert h.wait() is h.wait(0) is h.nowait() is h.wait(-1) is status
    assert pickle.loads(pickle.dumps(ExitStatus(ok=True, kind="exit", code=0))) == (True, "exit", 0)


@pytest.mark.needs("sh")
def test_a_signal_of_another_sender():
    with spawn("kill -9 $$") as h:
        assert h.wait() == (False, "signal", 9)
        assert not h.wait()


def test_repr_tells_the_pid_and_the_state():
    with spawn("exit 3") as h:
        assert repr(h) == f"<ipcio.proc.Process pid={h.pid} running>"
        h.wait()
        assert repr(h) == f"<ipcio.proc.Process pid={h.pid} exit 3>"
    h = spawn(SLEEP)
    h.kill()
    h.wait()
    assert repr(h) == f"<ipcio.proc.Process pid={h.pid} signal 15>"
    assert repr(EOF) == "ipcio.proc.EOF"


def test_the_end_is_one_object_in_every_copy():
    assert pickle.loads(pickle.dumps(EOF)) is copy.copy(EOF) is copy.deepcopy(EOF) is proc.EOF


def test_after_close_there_is_the_status_and_every_other_method_raises():
    h = spawn(SLEEP, stdin=True, stdout=True, start_new_session=True)
    assert not h.closed
    h.close()
    assert h.closed
    assert h.wait() == h.nowait() == h.wait(0.1) == asyncio.run(h.wait_async()) == (False, "signal", 9)
    h.close()
    assert (h.pending, h.pid > 0) == (0, True)
    for call in (
        h.kill,
        lambda: h.kill("kill", tree=True),
        h.write,
        lambda: h.write(b"lost", EOF),
        h.__enter__,
        h.__iter__,
        h.__next__,
        h.__aiter__,
        lambda: asyncio.run(h.__anext__()),
        lambda: asyncio.run(h.__aenter__()),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


@pytest.mark.needs("waitid")
def test_close_forgets_output_and_keeps_how_it_ended():
    with spawn(shell("echo abc; exit 5"), stdout=True) as h:
        os.waitid(os.P_PID, h.pid, os.WEXITED | os.WNOWAIT)
        h.close()
        assert h.wait() == (False, "exit", 5)


def test_with_waits_and_kills_if_the_block_raised():
    with spawn("exit 4") as h:
        pass
    assert repr(h).endswith("exit 4>")
    with pytest.raises(ZeroDivisionError), spawn(SLEEP) as h:
        raise ZeroDivisionError
    assert h.wait() == (False, "signal", 9)
    with pytest.raises(ValueError, match="stdout"):
        with spawn(shell("echo a; exec sleep 1000"), stdout=True) as h:
            pass
    assert h.wait() == (False, "signal", 9)


@watchdog
def test_standard_input_ends_with_the_block():
    with spawn(CAT, stdin=True, stdout=subprocess.DEVNULL) as h:
        h.write(b"x")
    assert h.closed
    assert h.wait()
    with spawn(CAT, stdin=True, stdout=subprocess.DEVNULL, encoding="utf-16") as h:
        h.write("x", EOF)
    assert h.wait()


def test_a_child_with_a_collected_handle_is_killed_and_reaped():
    for prepare in (lambda _: None), Process.nowait, (lambda h: h.write(b"a")), next:
        before = descriptors(), children()
        h = spawn(shell("echo; exec sleep 1000"), stdin=True, stdout=True)
        collected = weakref.ref(h)
        try:
            prepare(h)
        except ValueError:  # nobody takes the newline
            pass
        del h
        gc.collect()
        assert collected() is None
        assert (descriptors(), children()) == before


@pytest.mark.needs("fork")
@watchdog
@pytest.mark.parametrize("act", ["drop", "kill", "close", "wait", "nowait", "next"])
@pytest.mark.parametrize("before", [False, True])
def test_a_forked_copy_is_harmless(act, before):
    """Also when the handle has waited before, and has what a copy shares with it."""
    with spawn(CAT, stdin=True, stdout=True) as h:
        h.write(b"x" * 3_000_000)
        if before:
            assert next(h)[0] == "stdout"

        def child():
            nonlocal h
            if act == "drop":
                del h
                gc.collect()
            elif act == "next":
                with pytest.raises(ChildProcessError):
                    next(h)
            elif act in {"wait", "nowait"}:
                with pytest.raises(ChildProcessError):
                    getattr(h, act)()
            else:
                getattr(h, act)()

        with Forked(child) as forked:
            forked.result()
        h.write(b"alive", EOF)
        got = b"".join(data for _, data in h)
        assert got.endswith(b"xalive")
        assert h.wait()


# -- kill ----------------------------------------------------------------------------------


OTHER = getattr(signal, "SIGUSR1", signal.SIGABRT)


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ((), 15),
        (("term",), 15),
        (("kill",), 9),
        ((9,), 9),
        ((OTHER,), OTHER),
        ((signal.SIGINT,), 2),
        *([((1,), 1)] if hasattr(signal, "SIGHUP") else []),
    ],
)
def test_signals_by_name_and_number(arguments, number):
    with spawn(SLEEP) as h:
        assert h.kill(*arguments) is True
        assert h.wait() == (False, "signal", number)
        assert h.kill(*arguments) is True


@pytest.mark.parametrize("wrong", ["hup", "TERM", "", "9", 0, -9, 65, 10**30, None, 1.5, b"term", [], {}])
def test_unknown_signals(wrong):
    with spawn(CAT, stdin=True) as h:
        with pytest.raises((ValueError, TypeError)) as raised:
            h.kill(wrong)
        if isinstance(wrong, str | int):
            assert raised.type is ValueError
        h.write(EOF)
        assert h.wait()


@pytest.mark.needs("sh")
def test_a_tree_is_killed_with_its_descendants():
    with spawn("sleep 1000 & echo $!; wait", stdout=True, start_new_session=True) as h:
        _, data = next(h)
        descriptor = os.pidfd_open(int(data)) if hasattr(os, "pidfd_open") else -1
        assert h.kill(tree=True) is True
        assert h.wait() == (False, "signal", 15)
        if descriptor >= 0:
            assert select.select([descriptor], [], [], 20)[0]
            os.close(descriptor)


def test_a_tree_takes_a_session():
    with spawn(SLEEP) as h:
        with pytest.raises(ValueError, match="start_new_session"):
            h.kill("kill", tree=True)
        assert h.nowait() is None
        h.kill()


def kill_async(h, *arguments, **options):
    return asyncio.run(h.kill_async(*arguments, **options))


killing = pytest.mark.parametrize("kill", [Process.kill, kill_async], ids=["kill", "kill_async"])


@pytest.mark.needs("posix")
@killing
@watchdog
def test_grace_ends_with_the_exit(kill):
    """Long before the time is up; and all that was said on the way is there."""
    calls = Calls()
    command = python(
        "import signal, sys; signal.pthread_sigmask(0, [15]); print('x', flush=True);"
        "signal.sigwait([15]); print('y' * 300000); sys.exit(4)"
    )
    with spawn(command, stdout=True, callback=calls) as h:
        while not calls:
            h.wait(0.01)
        assert kill(h, grace=1000) is True
        assert h.wait() == (False, "exit", 4)
        assert kill(h, grace=1000) is True
    assert calls.of() == b"x\n" + b"y" * 300000 + b"\n"
    with spawn(command, stdout=True) as h:
        said = [next(h)]
        kill(h, grace=1000)
        said.extend(h)
    assert b"".join(data for _, data in said) == calls.of()


@pytest.mark.needs("sh")
@killing
@pytest.mark.parametrize("tree", [False, True])
def test_what_has_not_gone_after_its_grace_is_killed(kill, tree):
    with spawn("trap '' TERM; echo; sleep 1000 & wait; wait", stdout=True, start_new_session=True) as h:
        next(h)
        assert kill(h, grace=0.01, tree=tree) is True
        assert h.wait() == (False, "signal", 9)
        h.kill("kill", tree=True)


@killing
def test_a_grace_that_is_none(kill):
    with spawn(SLEEP) as h:
        for wrong in -1, float("nan"):
            with pytest.raises(ValueError, match=r"grace|NaN"):
                kill(h, grace=wrong)
        with pytest.raises(TypeError):
            kill(h, grace="1")
        assert h.nowait() is None
        kill(h, grace=0)
        assert h.wait().kind == "signal"


@pytest.mark.needs("sh")
@killing
def test_what_a_callback_raises_ends_the_grace(kill):
    said = Calls()

    def callback(stream, data):
        said(stream, data)
        if data == b"x\n":
            raise ZeroDivisionError

    script = "trap 'echo x; exec sleep 1000' TERM; echo; while :; do sleep 0.01; done"
    with spawn(script, stdout=True, callback=callback, lines=True) as h:
        while not said:
            h.wait(0.01)
        with pytest.raises(ZeroDivisionError):
            kill(h, grace=1000)
        assert h.wait() == (False, "signal", 9)


def test_kill_and_write_from_another_thread_reach_a_waiting_one():
    for end in (lambda h: h.write(EOF)), (lambda h: h.kill()), (lambda h: h.close()):
        h = spawn(CAT, stdin=True, stdout=True, callback=Calls())
        statuses = []
        thread = threading.Thread(target=lambda h=h, statuses=statuses: statuses.append(h.wait()))
        thread.start()
        until_it_waits(os.getpid(), thread.native_id)
        end(h)
        thread.join(20)
        assert statuses == [h.wait()]
        assert statuses[0] is not None
        h.close()


# -- write --------------------------------------------------------------------------------------


def test_what_is_written_arrives_until_its_end():
    with spawn(CAT, stdin=True, stdout=True) as h:
        assert h.write() is True
        assert h.write(b"a", bytearray(b"b"), memoryview(b"cd")[::-1]) is True
        assert h.pending == 4
        assert h.write(b"e", EOF) is True
        assert b"".join(data for _, data in h) == b"abdce"
        assert h.pending == 0
        assert h.wait()


def test_text_takes_an_encoding():
    with spawn(CAT, stdin=True, stdout=True) as h:
        with pytest.raises(TypeError, match="encoding"):
            h.write(b"a", "b", EOF)
        assert h.pending == 0
        h.write(EOF)
        assert list(h) == []
    with spawn(CAT, stdin=True, stdout=True, encoding="shift_jis") as h:
        h.write("日", "本".encode("shift_jis"), EOF)
        assert "".join(data for _, data in h) == "日本"
    with spawn(CAT, stdin=True, encoding="ascii") as h:
        with pytest.raises(UnicodeEncodeError):
            h.write("a", "é")
        assert h.pending == 0
        h.write(EOF)


def test_write_without_a_pipe():
    for stdin in None, subprocess.DEVNULL, io.BytesIO(b"x"):
        with spawn(shell("cat >/dev/null"), stdin=stdin if stdin is not None else subprocess.DEVNULL) as h:
            with pytest.raises(io.UnsupportedOperation, match="stdin=True"):
                h.write(b"a")
            assert h.pending == 0


def test_write_behind_the_end():
    with spawn(CAT, stdin=True, stdout=True) as h:
        for data in (EOF, b"a"), (b"a", EOF, EOF):
            with pytest.raises(ValueError, match="EOF"):
                h.write(*data)
        h.write(EOF)
        for data in (b"a", EOF):
            with pytest.raises(ValueError, match="EOF"):
                h.write(data)
        assert list(h) == []
        with pytest.raises(ValueError, match="EOF"):
            h.write(b"a")


@pytest.mark.needs("sh")
def test_a_child_that_closes_its_input_early_drops_the_rest():
    with spawn("head -c 1; exec <&-; exec sleep 1000", stdin=True, stdout=True) as h:
        h.write(b"x" * 1_000_000)
        assert next(h) == ("stdout", b"x")
        h.kill()
        for _ in h:
            pass
        assert h.pending == 0
        assert h.write(b"more", EOF) is True
        assert h.pending == 0


def test_what_was_queued_for_a_child_that_has_exited_is_dropped():
    with spawn("exit 0", stdin=True) as h:
        h.write(b"x" * 5_000_000)
        assert h.wait()
        assert h.pending == 0


# -- callbacks -----------------------------------------------------------------------------------


def test_the_callback_gets_stream_and_data():
    calls = Calls()
    with spawn(shell("printf 1; printf 2 >&2"), stdout=True, stderr=True, callback=calls) as h:
        assert h.wait()
    assert sorted(calls) == [("stderr", b"2"), ("stdout", b"1")]


def test_lines_and_text_through_the_callback():
    calls = Calls()
    text = "a\r\n\x0b\x85\u2028b\n\nlast"
    command = ["printf", "%s", text] if HAVE_SHELL else shell(f"printf '{text}'")
    with spawn(command, stdout=True, callback=calls, encoding="utf-8", lines=True) as h:
        h.wait()
    assert [data for _, data in calls] == ["a\r\n", "\x0b\x85\u2028b\n", "\n", "last"]


@watchdog
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig", "shift_jis", "iso2022_jp"])
def test_text_that_comes_byte_for_byte(encoding):
    text = "aé日\U0001f600\n本" if "utf" in encoding else "a日\n本"
    raw = text.encode(encoding)
    calls = Calls()
    with spawn(CAT, stdin=True, stdout=True, callback=calls, encoding=encoding) as h:
        for at in range(len(raw)):
            h.write(raw[at : at + 1])
            while h.pending or (at >= 3 and not calls):  # the first character comes before the last byte is sent
                h.wait(0.001)
        while len(calls) < 2:  # and the next before the end
            h.wait(0.001)
        h.write(EOF)
        assert h.wait()
    assert calls.of() == text


def test_undecodable_bytes_are_raised_once_and_the_rest_arrives():
    for lines in False, True:
        calls = Calls()
        with spawn(shell(r"printf 'a\n\377b\n\377'"), stdout=True, callback=calls, encoding="utf-8", lines=lines) as h:
            for _ in range(2):
                with pytest.raises(UnicodeDecodeError) as raised:
                    h.wait()
                assert raised.value.object[raised.value.start : raised.value.end] == b"\xff"
            assert h.wait()
        assert calls.of() == "a\nb\n"


def test_undecodable_bytes_in_iteration():
    with spawn(shell(r"printf 'a\377b'"), stdout=True, encoding="utf-8") as h:
        taken = []
        with pytest.raises(UnicodeDecodeError):
            taken.extend(data for _, data in h)
        taken.extend(data for _, data in h)
        assert "".join(taken) == "ab"
        assert h.wait()


@watchdog
def test_text_without_its_mark_does_not_stop_the_child_from_ending():
    with spawn(shell(r"printf 'a\0b\0'"), stdout=True, callback=Calls(), encoding="utf-16") as h:
        for _ in range(5):
            try:
                status = h.wait()
                break
            except UnicodeError:
                status = None
        assert status


def test_a_callback_that_raises_has_had_each_piece_once():
    got = []

    def callback(_, data):
        got.append(data)
        if len(got) % 2:
            raise ZeroDivisionError

    raised = 0
    with spawn(seq(100), stdout=True, callback=callback, lines=True) as h:
        while True:
            try:
                status = h.wait()
            except ZeroDivisionError:
                raised += 1
            else:
                break
        assert status
    assert got == [b"%d\n" % number for number in range(1, 101)]
    assert raised == 50


def test_a_callback_may_write_and_kill():
    def callback(_, data):
        got.append(data)
        if len(got) < 5:
            h.write(b"x\n")
        else:
            h.kill("kill")

    got = []
    with spawn(CAT, stdin=True, stdout=True, callback=callback, lines=True) as h:
        h.write(b"x\n")
        assert h.wait() == (False, "signal", 9)
    assert got == [b"x\n"] * 5


@watchdog
def test_a_callback_may_wait():
    got, statuses = [], []

    def callback(_, data):
        got.append(data)
        if len(got) in {1, 3}:
            statuses.append(h.wait())

    with spawn(seq(10), stdout=True, callback=callback, lines=True) as h:
        assert h.wait()
    assert got == [b"%d\n" % number for number in range(1, 11)]
    assert statuses[0]


def test_a_callback_may_close():
    got = []

    def callback(_, data):
        got.append(data)
        h.close()

    h = spawn(shell("seq 10; exec sleep 1000"), stdout=True, callback=callback, lines=True)
    assert h.wait() == (False, "signal", 9)
    assert got == [b"1\n"]


def test_output_that_nothing_reads():
    with spawn(shell("echo a; echo b >&2"), stdout=True, stderr=True) as h:
        for _ in range(3):
            with pytest.raises(ValueError, match=r"stdout|stderr"):
                h.wait()
        assert sorted(h) == [("stderr", b"b\n"), ("stdout", b"a\n")]
        assert h.wait()
    with spawn(TRUE, stdout=True) as h:
        assert h.wait()


def test_a_coroutine_callback_takes_wait_async():
    async def callback(_stream, _data):
        raise AssertionError

    with pytest.raises(ValueError, match="wait_async"):
        with spawn(shell("echo"), stdout=True, callback=callback) as h:
            h.wait()


# -- wait with a timeout -----------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [float("nan"), "1", b"", []])
def test_timeouts_that_are_none(wrong):
    with spawn(TRUE) as h:
        with pytest.raises((ValueError, TypeError)):
            h.wait(wrong)
        with pytest.raises((ValueError, TypeError)):
            asyncio.run(h.wait_async(wrong))


def test_the_time_is_up():
    with spawn(CAT, stdin=True) as h:
        for timeout in 0, 0.0, 0.001, True * 0:
            assert h.wait(timeout) is None
        assert h.nowait() is None
        h.write(EOF)
        assert h.wait(-1)
        assert h.wait(0)


FLOODS = {
    "output": ("cat /dev/zero", {"stdout": True}),
    "both outputs": ("cat /dev/zero & exec cat /dev/zero >&2", {"stdout": True, "stderr": True}),
    "one line without an end": ("cat /dev/zero", {"stdout": True, "lines": True}),
    "lines": ("yes", {"stdout": True, "lines": True, "encoding": "utf-8"}),
    "input": ("cat > /dev/null", {"stdin": "endless"}),
    "both ways": ("cat", {"stdin": "endless", "stdout": True}),
    "to an object": ("cat /dev/zero", {"stdout": "nowhere"}),
}


class Endless:
    def read(self, size):
        return b"x" * size


class Nowhere:
    def write(self, data):
        return len(data)


@watchdog
@pytest.mark.parametrize("flood", FLOODS)
def test_a_timeout_is_kept_to_in_a_flood(flood):
    command, streams = FLOODS[flood]
    streams = {
        name: {"endless": Endless, "nowhere": Nowhere}[what]() if isinstance(what, str) and what != "utf-8" else what
        for name, what in streams.items()
    }
    h = spawn(shell(command), callback=lambda *_: None, start_new_session=True, **streams)
    try:
        for timeout in 0, 0.01, 0.05, 0:
            assert h.wait(timeout) is None
        assert asyncio.run(h.wait_async(0.02)) is None
        assert asyncio.run(h.wait_async(0)) is None
    finally:
        h.kill("kill", tree=True)
        h.close()


class Busy:
    """A child for which there is always something to do, and never anything to give."""

    pid = 1
    returncode = None

    def started_here(self):
        return True

    def pump(self, _timeout):
        return True


@watchdog
def test_a_timeout_is_kept_to_while_there_is_always_something_to_do():
    h = Process(Busy(), None, [], None, leads_group=False)
    assert h.wait(0) is None
    assert h.wait(0.01) is None
    assert asyncio.run(h.wait_async(0)) is None
    assert asyncio.run(h.wait_async(0.01)) is None


def test_a_slow_callback_and_a_timeout_lose_nothing():
    got = []
    release = threading.Event()

    def callback(_, data):
        got.append(data)
        release.wait(0.0005)

    with spawn(seq(200), stdout=True, callback=callback, lines=True) as h:
        returns = 0
        while (status := h.wait(0.005)) is None:
            returns += 1
        assert status
    assert got == [b"%d\n" % number for number in range(1, 201)]
    assert returns > 3


def test_short_waits_lose_nothing():
    rng = random.Random(53)
    data = rng.randbytes(2_000_000)
    for wait in (lambda h: h.nowait()), (lambda h: h.wait(rng.random() / 1000)):
        calls = Calls()
        with spawn(CAT, stdin=io.BytesIO(data), stdout=True, callback=calls) as h:
            while wait(h) is None:
                pass
        assert calls.of() == data


# -- iteration ---------------------------------------------------------------------------------------


def test_iteration_gives_pairs_to_the_end():
    with spawn(seq(5), stdout=True, lines=True, encoding="ascii") as h:
        assert list(h) == [("stdout", f"{number}\n") for number in range(1, 6)]
        assert list(h) == []
        assert next(h, None) is None
        assert h.wait()


def test_break_and_next_and_go_on():
    with spawn(seq(10), stdout=True, lines=True) as h:
        got = [next(h)[1]]
        for _, data in h:
            got.append(data)
            if len(got) % 3 == 0:
                break
        for _, data in h:
            got.append(data)
            if len(got) in {5, 7}:
                got.append(next(h)[1])
        assert got == [b"%d\n" % number for number in range(1, 11)]
        with pytest.raises(StopIteration):
            next(h)


def test_two_iterators_share_what_comes():
    with spawn(seq(100), stdout=True, lines=True) as h:
        one, two = iter(h), iter(h)
        got = []
        for _, data in one:
            got.append(data)
            got += [data for _, data in [next(two, (0, b""))] if data]
        assert got == [b"%d\n" % number for number in range(1, 101)]


@watchdog
def test_two_threads_that_iterate_lose_and_double_nothing():
    interval = sys.getswitchinterval()
    with spawn(seq(100000), stdout=True, lines=True) as h:
        got = [], []

        def take(into):
            into.extend(data for _, data in h)

        threads = [threading.Thread(target=take, args=(into,)) for into in got]
        sys.setswitchinterval(1e-5)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert sorted(map(int, got[0] + got[1])) == list(range(1, 100001))


def test_callback_and_iteration_exclude_each_other():
    with spawn(shell("echo"), stdout=True, callback=Calls()) as h:
        with pytest.raises(ValueError, match="callback"):
            next(h)
        with pytest.raises(ValueError, match="callback"):
            for _ in h:
                pass

        async def loop():
            async for _ in h:
                pass

        with pytest.raises(ValueError, match="callback"):
            asyncio.run(loop())
        h.wait()


def test_output_without_a_pipe_is_not_iterated_over():
    sink = io.BytesIO()
    with spawn(shell("echo a; echo b >&2"), stdout=sink, stderr=True) as h:
        assert list(h) == [("stderr", b"b\n")]
    assert sink.getvalue() == b"a\n"


def test_a_conversation():
    with spawn(CAT, stdin=True, stdout=True, lines=True, encoding="utf-8") as h:
        h.write("1\n")
        for _, line in h:
            h.write(EOF if line == "5\n" else f"{int(line) + 1}\n")
            last = line
        assert last == "5\n"


def test_much_both_ways():
    data = random.Random(54).randbytes(5_000_000)
    with spawn(shell("tee /dev/stderr"), stdin=True, stdout=True, stderr=True) as h:
        h.write(data, EOF)
        came = {"stdout": [], "stderr": []}
        for stream, piece in h:
            came[stream].append(piece)
        assert b"".join(came["stdout"]) == b"".join(came["stderr"]) == data


def test_a_line_of_fifty_megabytes():
    with spawn(shell("head -c 50000000 /dev/zero; echo; echo a"), stdout=True, lines=True) as h:
        sizes = [len(line) for _, line in h]
    assert sizes == [50_000_001, 2]


@pytest.mark.needs("sh")
def test_a_grandchild_that_keeps_the_pipe_is_not_waited_for():
    with spawn("sleep 1000 & echo $!", stdout=True, lines=True) as h:
        (_, line), *rest = h
        try:
            assert rest == []
            assert h.wait()
        finally:
            os.kill(int(line), signal.SIGKILL)


# -- in an event loop ------------------------------------------------------------------------------------


def test_async_iteration():
    async def main():
        got = []
        async for stream, line in h:
            got.append((stream, line))
            if len(got) == 2:
                break
        async for stream, line in h:
            got.append((stream, line))
        return got, await h.wait_async()

    with spawn(seq(5), stdout=True, lines=True) as h:
        got, status = asyncio.run(main())
        assert got == [("stdout", b"%d\n" % number) for number in range(1, 6)]
        assert status is h.wait()


def test_wait_async_and_its_timeout():
    async def main():
        assert await h.wait_async(0) is None
        assert await h.wait_async(0.01) is None
        h.write(EOF)
        assert await h.wait_async(-1)
        return await h.wait_async(0)

    with spawn(CAT, stdin=True) as h:
        assert asyncio.run(main()) is h.wait()


def test_coroutine_callbacks():
    got = []

    async def callback(stream, data):
        await asyncio.sleep(0)
        got.append((stream, data))
        if len(got) == 3:
            raise ZeroDivisionError

    async def main():
        with pytest.raises(ZeroDivisionError):
            await h.wait_async()
        return await h.wait_async()

    h = spawn(seq(5), stdout=True, callback=callback, lines=True)
    assert asyncio.run(main())
    assert got == [("stdout", b"%d\n" % number) for number in range(1, 6)]
    h.close()


def test_with_around_an_awaited_child():
    async def callback(_stream, data):
        got.append(data)

    async def main():
        with spawn(shell("echo a"), stdout=True, callback=callback) as h:
            return await h.wait_async()

    got = []
    assert asyncio.run(main())
    assert got == [b"a\n"]


def test_other_tasks_run_meanwhile():
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        h = spawn(zeros(20_000_000), stdout=True, callback=calls)
        status = await h.wait_async()
        ticking.cancel()
        return status, ticks

    calls = Calls()
    status, ticks = asyncio.run(main())
    assert status
    assert len(calls.of()) == 20_000_000
    assert ticks > 10


@watchdog
def test_two_tasks_may_wait_for_one_child():
    async def main():
        tasks = [asyncio.create_task(h.wait_async()) for _ in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)
        h.write(EOF)
        return await asyncio.gather(*tasks)

    with spawn(CAT, stdin=True) as h:
        statuses = asyncio.run(asyncio.wait_for(main(), 10))
        assert statuses == [(True, "exit", 0)] * 3


@watchdog
@pytest.mark.parametrize("how", ["callback", "coroutine", "iteration"])
def test_a_cancelled_task_loses_nothing(how):
    rng = random.Random(55)
    got = []

    async def coroutine(_, data):
        got.append(data)
        await asyncio.sleep(0)

    async def take():
        if how == "iteration":
            async for _, data in h:
                got.append(data)
        await h.wait_async()
        return True

    async def main():
        for _ in range(200):
            task = asyncio.create_task(take())
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            task.cancel()
            try:
                assert await task
                return
            except asyncio.CancelledError:
                pass
        assert await take()

    callback = {"callback": lambda _, data: got.append(data), "coroutine": coroutine, "iteration": None}[how]
    h = spawn(shell("seq 3000; sleep 0.02; seq 3001 6000"), stdout=True, lines=True, callback=callback)
    asyncio.run(main())
    assert got == [b"%d\n" % number for number in range(1, 6001)]
    h.close()


@watchdog
@pytest.mark.parametrize("timeout", [None, 100])
def test_a_cancellation_is_never_swallowed(timeout):
    """Also when, in the same turn of the loop, the child has something to say."""

    async def main():
        for turn in range(40):
            task = asyncio.create_task(h.wait_async(timeout))
            await asyncio.sleep(0)
            os.write(source, b"x")
            assert os.read(told, 1) == b"x"  # tee has written to its output first
            for _ in range(turn % 5):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=5)
            assert done, "it goes on"
            assert task.cancelled()

    calls = Calls()
    drain, source = os.pipe()
    told, tell = os.pipe()
    try:
        with spawn(shell("tee /dev/stderr"), stdin=drain, stdout=True, stderr=tell, callback=calls) as h:
            asyncio.run(main())
            os.close(source)
            source = -1
            assert h.wait()
    finally:
        for fd in {drain, source, told, tell} - {-1}:
            os.close(fd)
    assert calls.of() == b"x" * 40


@pytest.mark.needs("posix")
def test_a_loop_that_the_handle_has_used_is_clean():
    loop = asyncio.new_event_loop()
    before = list(loop._selector.get_map())
    try:
        with spawn(CAT, stdin=True) as h:
            assert loop.run_until_complete(h.wait_async(0.001)) is None
            assert list(loop._selector.get_map()) == before
            h.write(EOF)
            assert loop.run_until_complete(h.wait_async())
    finally:
        loop.close()


def test_async_for_lets_others_run_every_ten_milliseconds(monkeypatch):
    """Whatever the loop's body costs; by a clock that only it moves."""
    time = 0.0
    monkeypatch.setattr("ipcio._process_async.now", lambda: time)
    monkeypatch.setattr("ipcio._event_loop.now", lambda: time)

    async def others(ran):
        while True:
            ran.append(time)
            await asyncio.sleep(0)

    async def main(cost):
        nonlocal time
        ran = []
        h = spawn(seq(1000), stdout=True, lines=True)
        task = asyncio.create_task(others(ran))
        got = []
        async for _, line in h:
            got.append(int(line))
            time += cost
        task.cancel()
        assert got == list(range(1, 1001))
        assert await h.wait_async()
        return max(after - before for before, after in pairwise(ran))

    for cost in 0.00002, 0.0005, 0.002:
        assert asyncio.run(main(cost)) < 0.012


def test_async_with_waits_at_the_end_and_kills_on_an_exception():
    async def main():
        async with spawn(CAT, stdin=True) as h:
            h.write(b"")
        assert h.closed
        assert h.wait() == (True, "exit", 0)
        with pytest.raises(ZeroDivisionError):
            async with spawn(SLEEP) as h:
                raise ZeroDivisionError
        assert h.wait() == (False, "signal", 9)
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert handles[0].wait() == (False, "signal", 9)

    async def waits():
        async with spawn(SLEEP) as h:
            handles.append(h)

    handles = []
    before = descriptors(), children()
    asyncio.run(main())
    assert (descriptors(), children()) == before


@watchdog
def test_async_with_blocks_no_loop():
    async def main():
        async def end():
            await asyncio.sleep(0.01)
            h.kill()

        async with spawn(SLEEP) as h:
            task = asyncio.create_task(end())
        await task
        return h.wait()

    assert asyncio.run(main()) == (False, "signal", 15)


class Loop(asyncio.SelectorEventLoop):
    """One that cannot watch descriptors, as that of `asyncio` on Windows."""

    def add_reader(self, *_):
        raise NotImplementedError

    remove_reader = add_reader


@watchdog
@pytest.mark.parametrize("end", ["exit", "timeout", "cancel"])
def test_a_loop_that_watches_no_descriptors_leaves_none_open(end):
    async def main():
        before = descriptors()
        with spawn(CAT, stdin=True, stdout=True, callback=calls) as h:
            h.write(b"a")
            during = None
            for _ in range(5):
                if end == "cancel":
                    task = asyncio.ensure_future(h.wait_async())
                    await asyncio.sleep(0.005)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                else:
                    assert await h.wait_async(0.005) is None
                assert during in {None, len(descriptors())}
                during = len(descriptors())
            h.write(EOF)
            assert await h.wait_async()
        assert descriptors() == before

    calls = Calls()
    loop = Loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert calls.of() == b"a"


def test_without_an_event_loop_of_asyncio_the_error_says_which_loops_work():
    """As under trio, whose tasks are coroutines that another loop runs."""
    with spawn(CAT, stdin=True) as h:
        before = descriptors()
        for coroutine in h.wait_async(), h.__anext__(), h.__aenter__():
            with pytest.raises(RuntimeError, match="uvloop"):
                coroutine.send(None)
        assert descriptors() == before
        assert not h.closed


# -- nothing of the program is touched ------------------------------------------------------------------------


@pytest.mark.needs("posix", "waitid")
def test_signals_and_other_children_are_let_be():
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    other = subprocess.Popen(["sh", "-c", "exit 6"])
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    with spawn("exit 7", stdout=True) as h:
        assert h.wait().code == 7
        assert list(h) == []
    assert other.wait() == 6
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before


@pytest.mark.needs("posix")
def test_an_exit_status_that_other_code_has_taken():
    h = spawn("exit 3", stdout=True)
    os.waitpid(h.pid, 0)
    with pytest.raises(ChildProcessError) as raised:
        h.wait()
    assert raised.value.errno == errno.ECHILD
    h.close()


def test_an_interrupt_of_write_leaves_no_wait_that_hangs():
    calls = 1
    for count in range(100):
        came = Calls()
        with spawn(CAT, stdin=True, stdout=True, callback=came) as h:
            h.write(b"1")
            while not came:
                h.wait(0.001)
            left = count

            def profile(frame, event, what):
                nonlocal left
                if event in {"call", "c_return"} and what is not sys.setprofile:
                    if frame.f_globals.get("__name__", "").startswith("ipcio"):
                        left -= 1
                        if left == -1:
                            raise KeyboardInterrupt

            before = sys.getprofile()
            try:
                sys.setprofile(profile)
                h.write(b"2", EOF)
                calls = 0
            except KeyboardInterrupt:
                pass
            finally:
                sys.setprofile(before)
            if not h.pending:
                h.write(b"2", EOF)
            status = h.wait(5)
            if status is None:
                h.kill("kill")
            assert status, f"after {count} calls the queue is not sent"
        assert came.of() == b"12"
        if not calls:
            break
    assert count > 3


@pytest.mark.needs("sh")
@watchdog
@pytest.mark.parametrize("tree", [False, True])
def test_a_cancelled_kill_async_kills_at_once(tree):
    """At each turn of the loop, and the child is reaped; a task that has not begun sends no signal."""

    async def main(turns):
        with spawn("trap '' TERM; echo; sleep 1000 & wait; wait", stdout=True, start_new_session=True) as h:
            next(h)
            task = asyncio.ensure_future(h.kill_async(tree=tree, grace=1000))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if not turns:
                assert await h.wait_async(0) is None
                h.kill("kill", tree=True)
            assert await h.wait_async() == (False, "signal", 9)
            h.kill("kill", tree=True)

    for turns in range(5):
        asyncio.run(main(turns))


@watchdog
@pytest.mark.parametrize("times", [1, 2])
def test_async_with_that_is_cancelled_at_any_turn_of_the_loop_leaves_no_child(times):
    """In the block, while it waits for the child at the end, and again while the killed child ends."""
    handles = []

    async def use():
        async with spawn(SLEEP, stdout=True) as h:
            handles.append(h)
            await asyncio.sleep(0)

    async def main(turns):
        task = asyncio.ensure_future(use())
        for _ in range(times):
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
        done, _ = await asyncio.wait({task}, timeout=10)
        assert done
        assert task.cancelled()

    for turns in range(6):
        asyncio.run(main(turns))
    assert len(handles) == 5
    for h in handles:
        assert h.closed
        assert h.wait() == (False, "signal", 9)


@watchdog
def test_a_loop_that_is_closed_during_a_wait_leaves_the_handle_good():
    calls = Calls()
    with spawn(CAT, stdin=True, stdout=True, callback=calls) as h:
        loop = asyncio.new_event_loop()
        task = loop.create_task(h.wait_async())
        loop.run_until_complete(asyncio.sleep(0.001))
        task._log_destroy_pending = False  # it is meant to be
        loop.close()
        del task
        gc.collect()
        h.write(b"x", EOF)
        assert asyncio.run(h.wait_async())
    assert calls.of() == b"x"
