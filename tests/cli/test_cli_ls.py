"""``ipcio ls`` as its users see it: the table, the JSON, the watch.  What is listed is `test_inventory`'s matter."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
from contextlib import closing

import pytest
from command import DEADLINE, finish, run, start

from ipcio import _cli, _inventory, sem, shm
from ipcio._cli import table
from ipcio._cli.commands import ls
from ipcio._object_info import ObjectInfo, ProcessInfo

FIELDS = {"kind", "name", "size", "value", "undo", "perm", "owner", "age", "state", "holders"}


def entry(**more) -> ObjectInfo:
    made = {"kind": "shm", "name": "prices", "size": 4096, "value": None, "undo": False, "perm": "0600"}
    return ObjectInfo(**{**made, "owner": "ann", "age": 12.3, "state": "live", "holders": [], **more})


@pytest.fixture
def showing(monkeypatch, capsys):
    """Have the command find these entries; return what it prints."""

    def show(*entries, arguments=(), missing=""):
        monkeypatch.setattr(_inventory, "list_objects", lambda: list(entries))
        assert _cli.main(["ls", *arguments]) == bool(missing)
        output, errors = capsys.readouterr()
        assert errors == missing
        return output

    return show


def test_json_for_programs(name):
    """The program itself."""
    with shm.create(name, 5000), closing(sem.create(f"{name}-s", 3)):
        status, output, errors = run("ls", "--json")
    assert (status, errors) == (0, "")
    told = [each for each in json.loads(output) if each["name"].startswith(name)]
    assert [(each["kind"], each["name"], each["state"]) for each in told] == [
        ("shm", name, "live"),
        ("sem", f"{name}-s", "live"),
    ]
    assert all(each.keys() == FIELDS for each in told)
    if os.path.isdir("/proc/self/fd") and told[0]["holders"]:
        assert [holder["pid"] for each in told for holder in each["holders"]] == [os.getpid()] * 2


def test_json_keeps_names_whole(showing):
    names = ["two\nlines", "größe", "z\udcffrich", "\x1b[2J", '"']
    output = showing(*(entry(name=each) for each in names), arguments=["--json"])
    assert [each["name"] for each in json.loads(output)] == names
    assert output.isascii()
    assert json.loads(showing(arguments=["--json"])) == []


def test_the_table(showing):
    output = showing(
        entry(holders=[ProcessInfo(7, "python3"), ProcessInfo(19, "")]),
        entry(name="t", size=None, perm=None, owner=None, age=None, state="foreign"),
        entry(kind="sem", name="slots", size=None, value=3, age=7300),
        entry(kind="sem", name="jobs", size=None, value=0, undo=True, age=2e6, state="orphan"),
        entry(kind="sem", name="theirs", size=None, owner="1007", age=150, state="persistent"),
    )
    assert output.splitlines() == [
        "KIND  NAME    SIZE/VALUE      PERM  OWNER  AGE  STATE       HOLDERS",
        "shm   prices  4.0 KiB         0600  ann    12s  live        7 python3, 19",
        "shm   t       -               -     -      -    foreign     -",
        "sem   slots   value 3         0600  ann    2h   live        -",
        "sem   jobs    value 0 (undo)  0600  ann    23d  orphan      -",
        "sem   theirs  value ?         0600  1007   2m   persistent  -",
    ]


MANY = (
    entry(name="pages", size=3, age=5),
    entry(name="prices", size=4096, age=50, state="persistent"),
    entry(name="z", size=70, age=None),
    entry(kind="sem", name="a*", size=None, value=1, age=500),
    entry(kind="sem", name="prices", size=None, value=2, age=1, state="orphan"),
)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], "pages prices z a* prices"),
        (["--kind", "sem"], "a* prices"),
        (["--state", "live"], "pages z a*"),
        (["--kind=shm", "--state=persistent"], "prices"),
        (["--sort", "name"], "a* pages prices prices z"),
        (["--sort", "size"], "prices z pages a* prices"),
        (["--sort", "age"], "a* prices pages prices z"),
        (["prices"], "prices prices"),
        (["p*"], "pages prices prices"),
        (["a*", "z"], "z a*"),
        (["[!a-p]"], "z"),
        (["p?????", "--sort", "age", "--kind", "shm"], "prices"),
    ],
)
def test_names_patterns_filters_and_orders(showing, arguments, names):
    """A name that exists comes before its meaning as a pattern."""
    assert showing(*MANY, arguments=["-q", *arguments]).split("\n")[:-1] == names.split()
    assert [each["name"] for each in json.loads(showing(*MANY, arguments=["--json", *arguments]))] == names.split()


def test_a_name_that_means_nothing_is_status_1(showing):
    missing = "ipcio: no object has the name 'price'\nipcio: no object matches 'y*'\n"
    assert showing(*MANY, arguments=["-q", "price", "z", "y*"], missing=missing) == "z\n"
    missing = "ipcio: no object of that kind and state has the name 'z'\n"
    assert showing(*MANY, arguments=["z", "--kind", "sem"], missing=missing) == ""
    assert json.loads(showing(*MANY, arguments=["z", "--kind", "sem", "--json"], missing=missing)) == []


def test_sizes_in_bytes(showing):
    assert "  4096  " in showing(*MANY, arguments=["--bytes", "prices"])


@pytest.mark.needs("posix")
def test_a_terminal_gets_totals_and_lines_that_fit(monkeypatch):
    """Nothing is cut, and --no-trunc folds nothing."""
    import fcntl
    import pty
    import struct
    import termios

    holders = [ProcessInfo(pid, "python3") for pid in range(10, 20)]
    monkeypatch.setattr(_inventory, "list_objects", lambda: [entry(name="n" * 12, holders=holders), *MANY])
    monkeypatch.setattr(_inventory, "free_memory", lambda: ("/dev/shm", 3 * 2**29))
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8") as terminal, open(ours, "rb", buffering=0):
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        monkeypatch.setattr(sys, "stdout", terminal)
        assert _cli.main(["ls"]) == 0
        folded = until(ours, b"free in").decode().splitlines()
        assert max(map(len, folded)) <= 80
        assert folded[-1].startswith("6 objects, 8.1 KiB of shared memory; 1.5 GiB free in")
        assert _cli.main(["ls", "--no-trunc", "n*"]) == 0
        whole = until(ours, b"free in").decode().splitlines()
        assert [line[-12:] for line in whole if "10 python3" in line] == [", 19 python3"]
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        assert _cli.main(["ls", "n*"]) == 0
        assert ", 19 python3" in until(ours, b"free in").decode()


def test_nothing_is_no_line(showing):
    assert showing() == ""


def test_no_name_and_no_command_speaks_to_the_terminal(showing):
    output = showing(
        entry(name="\x1b[2J\n\u202eevil", holders=[ProcessInfo(1, "\x1b]0;x\a")]),
        entry(name="z\udcffrich"),
    )
    assert output.count("\n") == 3
    assert all(line.isprintable() for line in output.splitlines())
    assert r"'\x1b[2J\n\u202eevil'" in output
    assert r"'z\udcffrich'" in output


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (3 * 2**29, "1.5 GiB"),
        (2**40, "1.0 TiB"),
        (2**63, "8192.0 PiB"),
    ],
)
def test_sizes(size, shown):
    assert table.size_of(size) == shown


def test_a_table_cuts_nothing_and_folds_the_holders_on_a_terminal():
    rows = [("KIND", "NAME", "HOLDERS"), ("shm", "n" * 20, "1 python3, 22 python3, 333 sh"), ("sem", "größe", "-")]
    whole = table.lines(rows)
    assert whole[1] == f"shm   {'n' * 20}  1 python3, 22 python3, 333 sh"
    assert table.lines(rows, width=100) == whole
    assert table.lines(rows, width=53)[1:3] == [f"shm   {'n' * 20}  1 python3, 22 python3,", " " * 28 + "333 sh"]
    assert table.lines(rows, width=40) == [
        f"KIND  NAME{' ' * 18}HOLDERS",
        f"shm   {'n' * 20}",
        "      1 python3, 22 python3, 333 sh",
        f"sem   größe{' ' * 17}-",
    ]
    assert table.lines(rows, width=10)[2:6] == [
        f"shm   {'n' * 20}",
        "      1 python3,",
        "      22 python3,",
        "      333 sh",
    ]


@pytest.mark.parametrize("holders", [1, 4, 400])
def test_every_name_and_every_holder_is_there_at_any_width(holders):
    rows = [("NAME", "HOLDERS"), ("ipcio-0123456789abcdef", ", ".join(f"{pid} python3" for pid in range(holders)))]
    for width in range(1, 130):
        shown = "\n".join(table.lines(rows, width=width))
        assert "ipcio-0123456789abcdef" in shown
        assert re.findall(r"(\d+) python3", shown) == [str(pid) for pid in range(holders)]


def test_a_page_of_a_watch_counts_the_lines_that_a_terminal_wraps():
    assert ls._page(["a" * 10, "b", "c"], 5, 10) == ["a" * 10, "b", "c"]
    assert ls._page(["a" * 10, "b", "c"], 5, 4) == ["a" * 10, "b", "and 1"]
    assert ls._page(["a" * 10, "b", "c"], 80, 3) == ["a" * 10, "b", "and 1 more lines"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense"],
        ["a/b"],
        ["--kind", "x"],
        ["--sort", "x"],
        ["--json", "-q"],
        ["--json", "--watch"],
        ["--watch", "x"],
        ["--watch"],
    ],
)
def test_usage_errors(arguments, capsys):
    """A watch that nobody watches among them."""
    with pytest.raises(SystemExit) as end:
        _cli.main(["ls", *arguments])
    assert end.value.code == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("usage: ipcio")


@pytest.mark.needs("posix", "signals")
def test_a_watch_on_a_terminal(name):
    """It fits the terminal, shows what is new, and Ctrl-C leaves the cursor on a line of its own."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 9000, 1000, 0, 0))
        with start("ls", "--watch", "0.1", stdout=theirs) as process:
            seen = until(ours, b" objects at ")
            assert seen.startswith(b"\x1b[2J\x1b[H")
            with shm.create(name, 5):
                seen = until(ours, name.encode())
            process.send_signal(signal.SIGINT)
            assert finish(process) == (130, None, "")
            assert until(ours, b"\n").endswith(b"\r\n")
    finally:
        os.close(theirs)
        os.close(ours)
    lines = re.sub(r"\x1b\[\d*[A-Z]", "", seen.decode()).splitlines()
    assert max(map(len, lines)) <= 1000


def until(terminal: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        assert select.select([terminal], [], [], DEADLINE)[0], seen
        seen += os.read(terminal, 65536)
    return seen


@pytest.mark.needs("posix")
def test_who_sits_there_is_told_that_nothing_was_left(monkeypatch, capsys):
    monkeypatch.setattr(_inventory, "remove_each_orphan", lambda *_, **__: iter(()))
    assert _cli.main(["gc"]) == 0
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert _cli.main(["gc"]) == 0
    assert capsys.readouterr() == ("", "ipcio: there are no orphaned objects\n")
