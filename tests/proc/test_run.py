"""``proc.run``: a program from its start to its end in one call."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc

import pytest
from programs import CAT, TRUE

from ipcio import proc
from ipcio._child_output import Output
from ipcio._output_format import OutputFormat
from ipcio.proc import ExitStatus, run


def python(code, *arguments):
    return [sys.executable, "-S", "-E", "-c", code, *arguments]


LINES = "import sys; [each.reconfigure(newline='\\n') for each in (sys.stdout, sys.stderr)]; "
BOTH = python(LINES + "print('out'); print('err', file=sys.stderr); sys.exit(int(sys.argv[1]))", "3")


def test_both_outputs_are_captured_and_the_status_is_returned():
    done = run(BOTH, encoding="utf-8")
    assert done == (ExitStatus(ok=False, kind="exit", code=3), "out\n", "err\n")
    assert (done.status.code, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert not done
    assert run(TRUE) == (ExitStatus(ok=True, kind="exit", code=0), b"", b"")


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_input_of_any_size_is_sent_and_standard_input_is_empty_otherwise(size):
    data = os.urandom(size)
    assert run(CAT, input=data).stdout == data
    assert run(CAT).stdout == b""
    assert run(CAT, input="ä\n", encoding="utf-8").stdout == "ä\n"


def test_a_stream_that_is_given_is_not_captured():
    given = io.BytesIO()
    assert run(BOTH, stdout=given)[1:] == (None, b"err\n")
    assert given.getvalue().split() == [b"out"]
    done = run(BOTH, stderr=subprocess.STDOUT, encoding="utf-8")
    assert (sorted(done.stdout.split()), done.stderr) == (["err", "out"], None)


def test_a_callback_gets_what_is_captured_as_it_comes():
    calls = []
    done = run(BOTH, callback=lambda *call: calls.append(call), encoding="utf-8", lines=True)
    assert sorted(calls) == [("stderr", "err\n"), ("stdout", "out\n")]
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_check_raises_the_error_of_subprocess():
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(BOTH, check=True, encoding="utf-8")
    assert (caught.value.returncode, caught.value.stdout, caught.value.stderr) == (3, "out\n", "err\n")
    assert run(TRUE, check=True)


@pytest.mark.needs("signals")
def test_check_reports_a_signal_as_subprocess_does():
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(python("import os; os.kill(os.getpid(), 9)"), check=True)
    assert caught.value.returncode == -signal.SIGKILL


TREE = python(
    LINES + "import subprocess; print('begun', flush=True); print('too', file=sys.stderr, flush=True); "
    "subprocess.run([sys.executable, '-S', '-E', '-c', 'import time; time.sleep(1000)'])"
)


def out_of_time(command, has_written, **options):
    """The error of `run`; a program that has not written yet on a busy machine gets more time."""
    for timeout in 0.5, 2, 8, 30:
        with pytest.raises(TimeoutError) as caught:
            run(command, timeout=timeout, **options)
        if has_written(caught.value):
            break
    return caught.value


def test_out_of_time_the_program_is_killed_and_what_it_wrote_is_kept():
    error = out_of_time(TREE, lambda error: error.stderr, encoding="utf-8")
    assert (error.stdout, error.stderr) == ("begun\n", "too\n")
    assert error.filename == TREE
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.stdout) == (str(error), error.stdout)


WITHOUT_END = python("import os\nwhile True: os.write(1, b'line\\n' * 100000)")
MUCH = 8_000_000  # bytes


def test_out_of_time_the_output_is_not_copied_before_it_is_asked_for():
    """To copy what a program without an end has written may take longer than the timeout."""
    size = 0

    def wait_until_the_end(_, data):
        nonlocal size
        size += len(data)
        if size >= MUCH:
            time.sleep(0.5)  # the timeout

    tracemalloc.start()
    try:
        error = out_of_time(WITHOUT_END, lambda _: size, callback=wait_until_the_end)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    output = error.stdout
    assert peak - len(output) < MUCH / 2 or len(output) < MUCH  # a slow machine
    assert output.startswith(b"line\nline\n")
    assert error.stdout is output


def test_out_of_time_the_callback_is_called_no_more():
    """What is left may be a million lines, each of which may take it a while."""
    calls = []

    def slow(*call):
        calls.append(call)
        time.sleep(0.1 if len(calls) < 9 else 0)

    with pytest.raises(proc.TimeoutExpired) as caught:
        run(WITHOUT_END, timeout=0.3, callback=slow, lines=True)
    assert len(calls) <= 4
    assert not calls or caught.value.stdout.count(b"\n") > len(calls)


def test_what_is_left_at_the_timeout_is_given_whole_instead_of_in_lines():
    """A million lines would take longer than what they are of."""
    output = Output("stdout", OutputFormat("utf-8", lines=True))
    output.raw.extend([b"1\n2\nbegun ", b"3 \xc3"])
    assert [next(output.pieces()), next(output.pieces())] == ["1\n", "2\n"]
    output.give_no_lines()
    output.raw.extend([b"\xa4\n" + b"4\n" * 1000, b"5"])
    output.ended = True
    assert list(output.pieces()) == ["begun ", "3 ", "ä\n" + "4\n" * 1000, "5"]
    assert output.finished


@pytest.mark.needs("trees")
@pytest.mark.parametrize("end", ["time", "interrupt", "interrupt of the start"])
def test_its_descendants_are_killed_with_it(end, tmp_path, monkeypatch):
    """A grandchild keeps a file locked until it is gone."""
    (tmp_path / "file").touch()
    lock = (
        "import fcntl, os, sys, time; file = open(sys.argv[1]); fcntl.flock(file, 2);"
        "print(flush=True); os.mkdir(sys.argv[1] + '.locked'); time.sleep(1000)"
    )
    wait = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"

    def interrupt(*_):
        raise KeyboardInterrupt

    def interrupt_the_start(*_):
        while not (tmp_path / "file.locked").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    if end == "interrupt of the start":
        from ipcio._posix.spawn import Popen

        monkeypatch.setattr(Popen, "_identify", interrupt_the_start)
    options = {"timeout": 1} if end == "time" else {"callback": interrupt}
    with pytest.raises(TimeoutError if end == "time" else KeyboardInterrupt):
        run(python(wait, "-S", "-E", "-c", lock, str(tmp_path / "file")), **options)
    import fcntl

    with open(tmp_path / "file") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


async def coroutine_function(*_):
    pass


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"input": b"", "stdin": True}, ValueError),
        ({"input": b"", "stdin": subprocess.DEVNULL}, ValueError),
        ({"input": "text"}, TypeError),
        ({"input": 5}, TypeError),
        ({"timeout": float("nan")}, ValueError),
        ({"callback": 5}, TypeError),
        ({"callback": coroutine_function}, ValueError),
        ({"nonsense": 1}, TypeError),
        ({"encoding": "nonsense"}, LookupError),
    ],
)
def test_a_malformed_argument_is_an_error(options, error):
    with pytest.raises(error):
        proc.run(CAT, **options)


def test_a_program_that_cannot_be_started_is_an_error(tmp_path):
    with pytest.raises(OSError) as caught:
        run([str(tmp_path / "none")])
    assert caught.value.filename == str(tmp_path / "none")
