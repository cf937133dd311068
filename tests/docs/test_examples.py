"""Pairs of programs in docs/examples, each started by itself, as in terminals of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from children import KILL

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DEADLINE = 30  # seconds until a silent program is a failed test


@pytest.fixture
def start():
    """Start an example; in the end, all of them are gone."""
    with contextlib.ExitStack() as programs:

        def start(example, *arguments):
            command = [sys.executable, EXAMPLES / example] if isinstance(example, str) else [example]
            program = subprocess.Popen(
                [*command, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
            )
            programs.enter_context(program)
            programs.callback(program.kill)
            return program

        yield start


def line(program):
    return program.stdout.readline().rstrip("\n")


def enter(program, text=""):
    program.stdin.write(f"{text}\n")
    program.stdin.flush()


def end(program):
    """What it says until it ends by itself; its status."""
    said, _ = program.communicate(timeout=DEADLINE)
    return said, program.returncode


def kill(program):
    program.send_signal(KILL)
    program.wait(DEADLINE)


@pytest.mark.parametrize("first", ["producer.py", "consumer.py"])
def test_a_producer_and_a_consumer(first, name, start):
    """Whichever is started first."""
    programs = {example: start(example, name) for example in sorted(["producer.py", "consumer.py"], key=first.__ne__)}
    assert end(programs["consumer.py"]) == (f"10000 numbers, {sum(range(10_000)) / 4} in all\n", 0)
    assert end(programs["producer.py"]) == ("sent\n", 0)


@pytest.mark.needs("undo")
def test_a_supervisor_and_workers(name, start):
    """The permit of a worker that is killed goes to the one who waits."""
    supervisor = start("supervisor.py", name)
    assert line(supervisor) == "open"
    first, second = start("worker.py", name), start("worker.py", name)
    assert [line(first), line(second)] == ["inside", "inside"]
    third = start("worker.py", name)
    assert line(third) == "waiting"
    enter(supervisor)
    assert line(supervisor) == "0 of 2 free"
    kill(first)
    assert line(third) == "inside"
    assert end(second) == ("outside\n", 0)
    enter(supervisor)
    assert line(supervisor) == "1 of 2 free"
    assert end(third) == ("outside\n", 0)
    assert end(supervisor) == ("", 0)


@pytest.mark.needs("descriptors")
def test_a_ticker_and_a_dashboard(name, start):
    """The dashboard shows what the ticker said, and that it was killed."""
    ticker = start("ticker.py", name)
    assert line(ticker) == "ready"
    dashboard = start("dashboard.py", name)
    enter(ticker, "gold 2650 2651.5")
    assert line(dashboard) == "1: gold 2650.00 2651.50"
    enter(ticker, "silver 31 31.125")
    assert line(dashboard) == "2: silver 31.00 31.12"
    kill(ticker)
    assert end(dashboard) == ("the ticker is gone\n", 0)


def test_transfers_at_once(tmp_path, start):
    """In a circle, so that locks taken in any order could wait for each other; nothing gets lost."""
    path = tmp_path / "accounts"
    path.write_bytes(struct.pack("<3q", 100, 100, 100))
    amounts = {(0, 1): 5, (1, 2): 20, (2, 0): 70, (1, 0): 3}
    programs = [start("transfer.py", path, *accounts, amount) for accounts, amount in amounts.items()]
    assert [end(program) for program in programs] == [("", 0)] * 4
    assert struct.unpack("<3q", path.read_bytes()) == (168, 82, 50)


def test_an_array_that_only_its_name_is_known_of(name, start):
    pytest.importorskip("numpy")
    offer = start("offer_array.py", name)
    assert line(offer) == "offered"
    assert end(start("use_array.py", name)) == (
        "('metal', 'price', 'volume') 3\n[7950.0, 15500.0, 38250.0] False\n",
        0,
    )
    assert end(offer) == ("", 0)


@pytest.fixture(scope="session")
def pong(tmp_path_factory):
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    program = tmp_path_factory.mktemp("pong") / "pong"
    subprocess.run(["cc", "-Wall", "-Werror", "-o", program, EXAMPLES / "pong.c", "-lrt", "-pthread"], check=True)
    return program


@pytest.mark.needs("posix")
def test_python_and_c_play_ping_pong(name, start, pong):
    """Each attaches what the other made, and exchanges records with it."""
    ping = start("ping.py", name)
    assert line(ping) == "waiting for C"
    answers = start(pong, f"/{name}")
    assert end(ping) == ("1 0.05 round 1, too\n4 0.1 round 2, too\n9 0.15 round 3, too\n", 0)
    assert end(answers) == ("C answered 3 questions\n", 0)
