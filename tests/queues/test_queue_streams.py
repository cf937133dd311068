"""A queue as a stream of a child: `ipcio.proc` keeps its timeouts and serves the child while the queue is not ready."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time

import pytest

from ipcio import proc, queue

TIMEOUT = 30
CAT = "import os\nwhile data := os.read(0, 1000):\n    os.write(1, data)"
LINES = b"".join(b"%d\n" % number for number in range(500))
PRINT = "for number in range(500): print(number, flush=True)"


@pytest.fixture
def q(name):
    with queue.create(name, 200) as made:
        yield made


def child(code, **streams):
    plain = "import sys; sys.stdout.reconfigure(newline='\\n')\n"  # also on Windows
    return proc.spawn([sys.executable, "-c", plain + code], **streams)


def exited(h):
    """Wait until the child of a full queue has exited, and all that it wrote has been read."""
    end = time.monotonic() + TIMEOUT
    while h._child.returncode is None:
        assert h.wait(0.01) is None
        assert time.monotonic() < end


def drain(q, into):
    thread = threading.Thread(target=lambda: into.extend(q))
    thread.start()
    return thread


def test_a_timeout_is_kept_while_the_reader_is_empty(q):
    got = []
    with q.reader() as r, child(CAT, stdin=r, stdout=True, callback=lambda _, data: got.append(data)) as h:
        used = time.process_time()
        assert h.wait(0.2) is None
        assert time.process_time() - used < 0.1  # no busy loop
        assert h.nowait() is None
        assert asyncio.run(h.wait_async(0.05)) is None
        for message in b"one", b"", b"two":
            q.put(message)
        while b"".join(got) != b"onetwo":
            assert h.wait(0.01) is None
        q.put(b"three")
        q.shutdown()
        assert h.wait(TIMEOUT)
    assert b"".join(got) == b"onetwothree"


def test_the_other_streams_go_on_while_the_reader_is_empty(q):
    got = []
    code = "import sys\nprint('first', flush=True)\nprint(sys.stdin.read())"
    with q.reader() as r, child(code, stdin=r, stdout=True, encoding="utf-8", lines=True) as h:
        for _, line in h:
            got.append(line)
            if len(got) == 1:
                q.put(b"second")
                q.shutdown()
    assert got == ["first\n", "second\n"]


def feed(q):
    def put():
        for number in range(500):
            q.put(b"%d\n" % number)
        q.shutdown()

    thread = threading.Thread(target=put)
    thread.start()
    return thread


@pytest.mark.parametrize("how", ["wait", "kill", "close", "async", "for"])
def test_an_exit_is_noticed_while_the_reader_is_empty(q, how):
    async def iterate(h):
        return [each async for each in h], await h.wait_async()

    # The input of a child that has exited is not waited for.
    code = "import sys; sys.exit(3)" if how in ("wait", "async", "for") else CAT
    with q.reader() as r:
        h = child(code, stdin=r, stdout=True)
        if how == "kill":
            h.kill("term", grace=TIMEOUT)
            assert h.wait(TIMEOUT) is not None
        elif how == "async":
            assert asyncio.run(iterate(h)) == ([], (False, "exit", 3))
        elif how == "for":
            assert list(h) == []
        elif how == "wait":
            assert h.wait() == (False, "exit", 3)
        h.close()
        q.put(b"still there")
        assert r.read(100) == b"still there"


def test_a_full_queue_holds_the_child_up_and_keeps_timeouts(q):
    got = []
    with q.writer() as w:
        # More than the pipe and one round of reads hold: the rest is still in the child.
        with child("print('much' * 1000000)", stdout=w, stderr=True, callback=lambda *_: None) as h:
            used = time.process_time()
            assert h.wait(0.3) is None
            assert time.process_time() - used < 0.2
            assert h._child.returncode is None
            h.close()
        while q.qsize():
            q.get()
        h = child(PRINT.replace("500", "20000"), stdout=w, stderr=True, callback=lambda *_: None)
        assert asyncio.run(h.wait_async(0.05)) is None
        thread = drain(q, got)
        assert h.wait(TIMEOUT)
        q.shutdown()
        thread.join()
        h.close()
    assert b"".join(got) == b"".join(b"%d\n" % number for number in range(20000))


def test_the_output_of_a_child_that_has_exited_waits_for_room(q):
    got = []
    with q.writer() as w:
        h = child(PRINT, stdout=w)
        exited(h)
        assert h.nowait() is None
        used = time.process_time()
        assert h.wait(0.2) is None
        assert asyncio.run(h.wait_async(0.2)) is None
        assert time.process_time() - used < 0.2
        assert h.kill(grace=TIMEOUT)
        thread = drain(q, got)
        assert asyncio.run(h.wait_async(TIMEOUT))
        q.shutdown()
        thread.join()
        h.close()
    assert b"".join(got) == LINES


@pytest.mark.parametrize("how", ["here", "in another thread", "async"])
def test_close_discards_what_the_queue_has_no_room_for(q, how):
    async def leave(h):
        with pytest.raises(KeyError):
            async with h:
                raise KeyError

    with q.writer() as w:
        h = child(PRINT, stdout=w)
        exited(h)
        if how == "async":
            asyncio.run(leave(h))
        else:
            thread = threading.Thread(target=h.wait if how == "in another thread" else int)
            thread.start()
            h.close()
            thread.join(TIMEOUT)
        assert h.wait(TIMEOUT)
        count = q.qsize()
        assert LINES.startswith(b"".join(q.get() for _ in range(count)))


@pytest.mark.skipif(sys.platform == "win32", reason="no interval timer")
def test_a_signal_handler_that_raises_loses_and_doubles_nothing(q, name):
    class AlarmError(Exception):
        pass

    def handler(*_):
        raise AlarmError

    if type(q._readers).__name__ == "_Unhurried":
        pytest.skip("Python code releases these locks, and `put` promises less of a handler that raises there")
    got = []
    with queue.create(name + "2", 100) as out, q.reader() as r, out.writer() as w:
        before = signal.signal(signal.SIGALRM, handler)
        h = child(CAT, stdin=r, stdout=w)
        threads = drain(out, got), feed(q)
        try:
            status, interrupts = None, 0
            while status is None:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.001 + interrupts % 7 * 0.0003)
                    status = h.wait()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except AlarmError:
                    interrupts += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            q.shutdown()
            h.close()
            out.shutdown()
            for thread in threads:
                thread.join()
        assert status
    assert b"".join(got) == LINES


def test_a_task_that_is_cancelled_loses_and_doubles_nothing(q, name):
    async def main(h):
        status, cancelled = None, 0
        while status is None:
            try:
                status = await asyncio.wait_for(h.wait_async(), 0.002)
            except asyncio.TimeoutError:
                cancelled += 1
        return status, cancelled

    got = []
    with queue.create(name + "2", 100) as out, q.reader() as r, out.writer() as w:
        h = child(CAT, stdin=r, stdout=w)
        threads = drain(out, got), feed(q)
        status, cancelled = asyncio.run(main(h))
        assert (bool(status), cancelled > 0) == (True, True)
        out.shutdown()
        for thread in threads:
            thread.join()
        h.close()
    assert b"".join(got) == LINES


def test_run_ends_at_its_timeout_while_the_queue_is_full(q):
    code = f"import sys, time\n{PRINT}\nprint('error', file=sys.stderr, flush=True)\ntime.sleep(100)"
    with q.writer() as w, pytest.raises(proc.TimeoutExpired):
        proc.run([sys.executable, "-c", code], stdout=w, timeout=0.5)


def test_after_shutdown_wait_raises(q):
    with q.writer() as w:
        h = child("import os; os.write(1, b'x')", stdout=w)
        q.shutdown()
        with pytest.raises(BrokenPipeError):
            h.wait(TIMEOUT)
        assert h.wait(TIMEOUT)  # what was refused for good is discarded, as with other files
        h.close()


def test_a_message_of_the_child_that_is_too_large_becomes_several(name):
    got = []
    with queue.create(name, 30) as q, q.writer() as w, child(f"print('{'x' * 100}', end='')", stdout=w) as h:
        thread = drain(q, got)
        assert h.wait(TIMEOUT)
        q.shutdown()
        thread.join()
    assert b"".join(got) == b"x" * 100
    assert max(map(len, got)) == 14
