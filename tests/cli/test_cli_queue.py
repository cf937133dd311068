"""``ipcio queue``."""

from __future__ import annotations

import io
import sys
import types

import pytest
from command import finish, start

from ipcio import _cli, queue


@pytest.fixture
def call(capfdbinary, monkeypatch):
    """Run the command in this process; return its status and what it wrote."""

    def run_it(*words, data=b""):
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
        try:
            status = _cli.main(words)
        except SystemExit as end:
            status = end.code
        return status, *capfdbinary.readouterr()

    return run_it


@pytest.fixture
def made(name, call):
    assert call("queue", "create", name, "500") == (0, b"", b"")
    yield name
    queue.unlink(name)


pytestmark = pytest.mark.needs("posix")  # a queue made here persists


def test_a_message_is_exactly_standard_input(made, call):
    for data in b"", b"one\n", bytes(range(256)):
        assert call("queue", "put", made, data=data) == (0, b"", b"")
        assert call("queue", "get", made) == (0, data, b"")
    with queue.attach(made) as q:
        assert q._size == 500


def test_lines_are_messages(made, call):
    assert call("queue", "put", "--lines", made, data=b"a\n\nlast") == (0, b"", b"")
    with queue.attach(made) as q:
        assert q.get() == b"a"
        assert q.qsize() == 2
        q.put(b"")
    assert call("queue", "get", "--lines", "--timeout", "0", made) == (0, b"\nlast\n\n", b"")
    assert call("queue", "get", "--lines", "--timeout", "0.01", "-E", "7", made) == (7, b"", b"")


def test_a_timeout_is_a_status_and_no_output(made, call):
    assert call("queue", "get", "--timeout", "0", made) == (1, b"", b"")
    assert call("queue", "put", made, data=bytes(484)) == (0, b"", b"")
    assert call("queue", "put", "--timeout", "0.01", "-E", "75", made, data=b"x") == (75, b"", b"")
    assert call("queue", "get", made)[:2] == (0, bytes(484))


def test_the_shutdown_ends_lines_and_is_an_error_otherwise(made, call):
    call("queue", "put", "--lines", made, data=b"1\n2\n")
    assert call("queue", "shutdown", made) == (0, b"", b"")
    assert call("queue", "put", made, data=b"x") == (1, b"", f"ipcio: queue {made!r} was shut down\n".encode())
    assert call("queue", "get", "--lines", made) == (0, b"1\n2\n", b"")
    assert call("queue", "get", made) == (1, b"", f"ipcio: queue {made!r} was shut down and is empty\n".encode())
    assert call("queue", "shutdown", "--immediate", made) == (0, b"", b"")


def test_mistakes(name, made, call):
    status, out, err = call("queue", "put", made, data=bytes(485))
    assert (status, out) == (1, b"")
    assert b"does not fit" in err
    assert b"\n" not in err[:-1]
    for words in ["create", f"{name}-x", "15"], ["create", f"{name}-x", "many"], ["create", f"{name}-x"], ["nonsense"]:
        assert call("queue", *words)[0] == 2
    assert call("queue", "create", made, "100")[0] == 1
    assert call("queue", "get", f"{name}-x")[0] == 1


def test_lines_arrive_one_by_one_in_another_process(made):
    reader = start("queue", "get", "--lines", made)
    with queue.attach(made) as q:
        q.put(b"first")
        assert reader.stdout.readline() == "first\n"
        q.shutdown()
    assert finish(reader)[0] == 0
