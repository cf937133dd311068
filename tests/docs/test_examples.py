"""Pairs of programs in docs/examples, each started by itself, as in terminals of their own."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from children import KILL

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DEADLINE = 30  # seconds until a silent program is a failed test
PYTHON = Path(sys.executable)


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
                env=environment(),
            )
            programs.enter_context(program)
            programs.callback(program.kill)
            return program

        yield start


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def line(program):
    return program.stdout.readline().rstrip("\n")


def enter(program, text=""):
    program.stdin.write(f"{text}\n")
    program.stdin.flush()


def end(program):
    """What it says until it ends by itself; its status."""
    with contextlib.suppress(BrokenPipeError):
        program.stdin.close()
    said = program.stdout.read()  # not `communicate`, which omits what `line` has read ahead
    return said, program.wait(DEADLINE)


def kill(program):
    program.send_signal(KILL)
    program.wait(DEADLINE)


def test_the_first_two_programs_of_the_readme(name, start):
    """They are those in docs/examples; when the first is killed, the name is free."""
    readme = (EXAMPLES.parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert blocks == [(EXAMPLES / example).read_text(encoding="utf-8") for example in ("offer.py", "read.py")]
    offer, read = (block.replace("prices", name) for block in blocks)
    first = start(PYTHON, "-u", "-c", offer)
    assert first.stdout.read(8) == "Process "
    assert end(start(PYTHON, "-c", read)) == ("{'gold': 2650}\n", 0)
    kill(first)
    failed = start(PYTHON, "-c", f"try:\n  exec({read!r})\nexcept FileNotFoundError as error:\n  print(error)")
    assert end(failed)[0].startswith(f"[Errno 2] no shared memory {name!r}")
    again = start(PYTHON, "-u", "-c", offer)
    assert again.stdout.read(8) == "Process "
    enter(again)
    assert end(again)[1] == 0


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


def test_a_single_instance(tmp_path, start):
    """A second start exits with status 1; after a kill, the next start runs."""
    path = tmp_path / "service.lock"
    first = start("single_instance.py", path)
    assert line(first) == "running"
    command = [sys.executable, EXAMPLES / "single_instance.py", path]
    again = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment(), check=False)
    assert again.stderr.startswith("already running: locked")
    assert again.returncode == 1
    kill(first)
    second = start("single_instance.py", path)
    assert line(second) == "running"
    assert end(second) == ("", 0)


@pytest.mark.needs("descriptors", "open file locks")
def test_workers_in_slots(name, start):
    """The worker that is killed is named with its job; one that ends is not, and its slot is used again."""
    watch = start("slot_watch.py", name)
    assert line(watch) == "watching"
    workers = []
    for job in "red", "green", "blue":
        workers.append(start("slot_worker.py", name, job))
        assert line(workers[-1]).startswith("slot ")
    enter(workers[0])
    assert end(workers[0]) == ("finished\n", 0)
    kill(workers[1])
    said = line(watch)
    assert said.startswith("slot ")
    assert said.endswith(f": process {workers[1].pid} was killed, job green")
    kill(watch)
    enter(workers[2])
    assert end(workers[2]) == ("finished\n", 0)


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
    assert end(dashboard) == ("the ticker has exited\n", 0)


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


# -- the ten small programs -----------------------------------------------------


def start_with(start, module, code, *arguments):
    """Start code that imports an example."""
    code = f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); from {module.removesuffix('.py')} import *\n{code}"
    return start(PYTHON, "-B", "-c", code, *arguments)


@pytest.mark.parametrize(
    ("example", "prints"),
    [
        ("four_workers.py", "1500000.0\n"),
        ("frame_ring.py", "100 frames, 4950 in all\n"),
        ("usual/four_workers.py", "1500000.0\n"),
        ("usual/frame_ring.py", "100 frames, 4950 in all\n"),
        ("notebook.py", "sqrt of 1000000 numbers\n[1.41421356 1.41421356]\n"),
    ],
)
def test_programs_that_start_their_workers(example, prints, start):
    """Among them "notebook_worker.py"."""
    pytest.importorskip("numpy")
    assert end(start(example)) == (prints, 0)


@pytest.mark.needs("undo")
def test_a_rate_limit_that_a_killed_worker_gives_back(name, start, monkeypatch):
    """Each worker answers one request, which ends with a line that is entered."""
    monkeypatch.setenv("LIMIT", name)
    code = """
def respond(status, headers): print(status, flush=True)
class Body:
    def readline(self):
        print("working", flush=True)
        return sys.stdin.buffer.readline()
print(application({"QUERY_STRING": sys.argv[1], "wsgi.input": Body()}, respond), flush=True)
"""
    first, second = (start_with(start, "rate_limit.py", code, 30) for _ in range(2))
    assert [line(first), line(second)] == ["working"] * 2
    third = start_with(start, "rate_limit.py", code, 0)
    assert end(third) == ("503 Service Unavailable\n[b'busy\\n']\n", 0)
    fourth = start_with(start, "rate_limit.py", code, 30)
    kill(first)
    assert line(fourth) == "working"
    for program in second, fourth:
        enter(program, "report")
        assert end(program) == ("200 OK\n[b'report\\n']\n", 0)


@pytest.mark.needs("descriptors")
def test_calls_per_second_of_all_processes_together(name, start):
    """In any five calls one after another no more than in 0.2 seconds, also if a process is killed on the way."""
    keeper = start("calls_per_second.py", name, 1000)
    times = [float(line(keeper)) for _ in range(3)]
    programs = [start("calls_per_second.py", name, 6) for _ in range(2)]
    times += [float(line(program)) for program in programs]
    kill(keeper)
    times += [float(word) for word in keeper.stdout.read().split()]
    for program in programs:
        said, status = end(program)
        assert status == 0
        times += map(float, said.split())
    times.sort()
    assert all(later - earlier > 0.2 - 1e-6 for earlier, later in zip(times, times[5:], strict=False))
    assert len(times) >= 15


@pytest.mark.needs("open file locks")
def test_record_locks_lose_no_change(tmp_path, start):
    path = tmp_path / "counts"
    path.write_bytes(bytes(24))
    programs = [start("record_lock.py", path, number) for number in (1, 1, 1, 2, 1)]
    assert [end(program) for program in programs] == [("", 0)] * 5
    assert struct.unpack("<3q", path.read_bytes()) == (0, 4, 1)


@pytest.mark.needs("sh", "posix")
def test_logs_of_a_child(start):
    assert end(start("child_logs.py", 30, "sh", "-c", "echo one; exit 3")) == ("INFO one\n", 3)
    assert end(start("child_logs.py", 1, "sh", "-c", "echo two >&2; sleep 90 & sleep 90")) == ("WARNING two\n", 1)


@pytest.mark.parametrize("first", ["offer", "use"])
def test_an_arrow_table_by_name(first, name, start):
    """Whichever program is started first; the one that uses the table has no copy of it."""
    pytest.importorskip("pyarrow")
    arguments = {"offer": ["offer"], "use": []}
    programs = {each: start("arrow_table.py", name, *arguments[each]) for each in sorted(arguments, key=first.__ne__)}
    assert end(programs["use"]) == ("{'metal': ['gold', 'silver'], 'price': [2650.0, 31.0]} 0\n", 0)
    assert end(programs["offer"]) == ("offered\n", 0)


@pytest.mark.needs("descriptors", "open file locks")
def test_a_shared_dictionary_outlives_a_process_that_is_killed_while_it_writes(name, start):
    code = """
cache = SharedDict(sys.argv[1])
cache["here"] = "since the start"
print("ready", flush=True)
sys.stdin.readline()
for number in range(1_000_000_000):
    cache["number"] = number
    if number == 20:
        print("begun", flush=True)
"""
    victim = start_with(start, "shared_dict.py", code, name)
    assert line(victim) == "ready"
    code = """
cache = SharedDict(sys.argv[1])
print(cache["here"], flush=True)
sys.stdin.readline()
last = cache["number"]
cache["number"] = [last]
print(cache["number"] == [last], last >= 20, cache["here"])
"""
    reader = start_with(start, "shared_dict.py", code, name)
    assert line(reader) == "since the start"
    enter(victim)
    assert line(victim) == "begun"
    kill(victim)
    enter(reader)
    assert end(reader) == ("True True since the start\n", 0)


def test_an_event_wakes_all_that_wait_for_it(name, start):
    waiting = [start("event.py", name) for _ in range(3)]
    assert [line(program) for program in waiting] == ["waiting"] * 3
    assert end(start("event.py", name, "set")) == ("", 0)
    assert [end(program) for program in waiting] == [("True\n", 0)] * 3


def test_the_table_of_the_ten_programs_says_how_long_they_are():
    """In lines of code: without blank ones, comments and the docstring."""
    page = (EXAMPLES.parent / "ten-programs.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\|.*\| `(\w+\.py)` \| (\d+) \| .* (\d+) \|$", page, re.MULTILINE)
    assert len(listed) == 10
    for example, *lengths in listed:
        assert [str(lines_of_code(folder / example)) for folder in (EXAMPLES, EXAMPLES / "usual")] == lengths


def lines_of_code(path):
    text = path.read_text(encoding="utf-8")
    after = ast.parse(text).body[0].end_lineno  # the docstring
    return sum(bool(each.strip()) and not each.strip().startswith("#") for each in text.splitlines()[after:])
