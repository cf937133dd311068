"""Child processes as Windows has them, and the promises of `ipcio.proc` with nothing but Python for children."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import hashlib
import os
import random
import signal
import sys
import threading

import pytest
from abilities import lacks
from campaigns import rounds
from leftovers import children
from programs import CAT, python, seq

from ipcio import proc

watchdog = pytest.mark.timeout(50)
MIB = 1 << 20

# Starts a program that keeps its streams, prints its process id, and exits.
LEAVE = """
import subprocess
left = subprocess.Popen([sys.executable, "-S", "-E", "-c", "import time; time.sleep(1000)"])
print(left.pid, flush=True)
sys.exit(3)
"""


def total(h):
    return b"".join(data for _, data in h)


# -- on every system -----------------------------------------------------------------


@watchdog
def test_much_both_ways_through_a_program():
    data = random.Random(61).randbytes(20 * MIB)
    with proc.spawn(CAT, stdin=True, stdout=True) as h:
        h.write(data, proc.EOF)
        assert hashlib.sha256(total(h)).digest() == hashlib.sha256(data).digest()
        assert h.wait()


@watchdog
def test_a_million_lines():
    with proc.spawn(seq(1_000_000), stdout=True, lines=True) as h:
        for number, (_, line) in enumerate(h, 1):
            assert int(line) == number
    assert number == 1_000_000


@watchdog
def test_a_child_that_says_much_and_never_listens():
    with proc.spawn(python("os.write(2, b'x' * 3_000_000)"), stdin=True, stderr=True) as h:
        h.write(b"y" * 3_000_000)
        assert len(total(h)) == 3_000_000
        assert h.wait()
        assert h.pending == 0


@watchdog
def test_a_write_goes_on_in_another_thread_when_the_first_has_ended():
    """What is under way when a thread ends may be cancelled by the system; no byte of it may be lost or doubled."""
    data = random.Random(62).randbytes(3 * MIB)
    slow = python("while data := os.read(0, 50_000):\n time.sleep(0.001)\n while data: data = data[os.write(1, data):]")
    took = []
    with proc.spawn(slow, stdin=True, stdout=True, callback=lambda _, piece: took.append(piece)) as h:
        h.write(data, proc.EOF)
        statuses = [None]
        while statuses[-1] is None:
            thread = threading.Thread(target=lambda: statuses.append(h.wait(0.02)))
            thread.start()
            thread.join()
        assert statuses[-1]
    assert len(statuses) > 2
    assert b"".join(took) == data


@watchdog
def test_thirty_children_at_once():
    handles = [proc.spawn(CAT, stdin=True, stdout=True) for _ in range(30)]
    for number, h in enumerate(handles):
        h.write(b"%d" % number * 1000, proc.EOF)
    for number, h in enumerate(handles):
        assert total(h) == b"%d" % number * 1000
        assert h.wait()
        h.close()


@watchdog
def test_an_exit_is_seen_although_a_grandchild_keeps_the_pipes():
    with proc.spawn(python(LEAVE), stdin=True, stdout=True, stderr=True) as h:
        grandchild = int(total(h))
        try:
            assert h.wait() == (False, "exit", 3)
        finally:
            os.kill(grandchild, signal.SIGTERM)


@watchdog
def test_a_tree_of_programs_ends_as_a_whole():
    """The grandchild keeps the pipe of somebody else, which therefore has no end until it is gone."""
    code = LEAVE.replace("sys.exit(3)", "time.sleep(1000)")
    reader, writer = os.pipe()
    with proc.spawn(python(code), stdout=True, stderr=writer, start_new_session=True) as h:
        os.close(writer)
        try:
            next(h)
            assert h.kill("kill", tree=True) is True
            assert h.wait() == (False, "signal", 9)
            assert os.read(reader, 1) == b""
        finally:
            os.close(reader)


LOOPS = [getattr(asyncio, name) for name in ("ProactorEventLoop", "SelectorEventLoop") if hasattr(asyncio, name)]


@watchdog
@pytest.mark.parametrize("kind", LOOPS)
def test_every_kind_of_event_loop(kind):
    async def main():
        sizes = []
        async for _, data in h:
            sizes.append(len(data))
        return sum(sizes), await h.wait_async()

    h = proc.spawn(CAT, stdin=True, stdout=True)
    h.write(bytes(2 * MIB), proc.EOF)
    loop = kind()
    try:
        assert loop.run_until_complete(main()) == (2 * MIB, (True, "exit", 0))
    finally:
        loop.close()
        h.close()


# -- on Windows ----------------------------------------------------------------------

windows = pytest.mark.able(probe=lambda: not lacks("sections"))


@windows
@pytest.mark.parametrize("code", [1, 128 + 15, 259, 0x7FFFFFFF, 0x80000000, 0xC0000005, 0xFFFFFFFF])
def test_exit_codes_are_reported_unchanged(code):
    """Also one that stands for "it runs", and that of who is killed, if nobody has."""
    exits = f"import ctypes; ctypes.WinDLL('kernel32').ExitProcess({code})"
    with proc.spawn([sys.executable, "-c", exits]) as h:
        assert h.wait() == (False, "exit", code)


@windows
@pytest.mark.timeout(150)
def test_no_handle_is_left_by_many_children():
    count = ctypes.c_ulong()

    def handles():
        gc.collect()
        kernel32 = ctypes.WinDLL("kernel32")
        kernel32.GetProcessHandleCount(ctypes.c_void_p(-1), ctypes.byref(count))
        return count.value

    def use(number):
        h = proc.spawn(CAT, stdin=True, stdout=True, stderr=True, start_new_session=bool(number % 2))
        if number % 3:
            h.write(b"abc", proc.EOF)
            assert total(h) == b"abc"
        if number % 5:
            h.close()

    for number in range(5):
        use(number)
    before = handles()
    for number in range(max(rounds(50), 20)):
        use(number)
    assert handles() <= before + 3  # the interpreter may have one more for its own
    assert not children()


@windows
def test_what_the_child_gets_is_nothing_but_its_streams():
    """A second child has no copy of the first one's pipe, which would keep it from its end."""
    with proc.spawn(CAT, stdin=True, stdout=True) as first:
        with proc.spawn(CAT, stdin=True, stdout=True) as second:
            first.write(proc.EOF)
            assert list(first) == []
            assert first.wait()
            assert second.nowait() is None
            second.write(proc.EOF)


@windows
def test_the_shell_is_that_of_windows():
    with proc.spawn("echo %IPCIO_X%", stdout=True, env={**os.environ, "IPCIO_X": "1"}) as h:
        assert total(h).strip() == b"1"
        assert h.wait()


@windows
def test_a_missing_program_or_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        proc.spawn(["ipcio-no-such-program", "x"])
    assert raised.value.filename == "ipcio-no-such-program"
    with pytest.raises(FileNotFoundError) as raised:
        proc.spawn(CAT, cwd=tmp_path / "none")
    assert raised.value.filename == str(tmp_path / "none")


@windows
@watchdog
@pytest.mark.parametrize("piped", [False, True])
def test_an_interrupt_reaches_a_wait_in_the_main_thread(piped):
    with proc.spawn(python("time.sleep(1000)"), stdin=piped, stdout=piped) as h:
        timer = threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,))
        timer.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                h.wait()
        finally:
            timer.join()
        assert h.nowait() is None
        h.kill()
        assert h.wait() == (False, "signal", 15)


@windows
@pytest.mark.parametrize(
    "options",
    [{"process_group": 0}, {"user": 1}, {"group": 1}, {"extra_groups": [1]}, {"umask": 0o22}, {"pass_fds": [0]}],
    ids="".join,
)
def test_arguments_that_only_posix_systems_have_are_not_implemented(options):
    (name,) = options
    with pytest.raises(NotImplementedError, match=f"{name}="):
        proc.spawn(python(""), **options)
