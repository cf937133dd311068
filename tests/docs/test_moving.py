"""The pages of docs/moving: every name of what people come from is in a table, and the programs there run."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import DEADLINE, ENVIRONMENT

from ipcio import sem, shm

PAGES = Path(__file__).parents[2] / "docs" / "moving"


def programs(page, language, **names):
    """The programs that a page shows, in their order, with names that are unique to the run."""
    text = (PAGES / page).read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(r"(\"/?)(prices|printers)\"", lambda m: f'{m[1]}{names[m[2]]}"', program) for program in found]


def run(program, path):
    """Run a program of Python as one that was started from a file; return what it prints."""
    path.write_text(program, encoding="utf-8")
    command = [sys.executable, "-W", "error", path.name]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=path.parent, env=ENVIRONMENT, timeout=DEADLINE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# -- every name ----------------------------------------------------------------


def first_cells(page, section=""):
    """Every name in the first column of the tables of a page, or of a section; of a call, what is called."""
    text = (PAGES / page).read_text(encoding="utf-8")
    text = text[text.index(f"\n## {section}") :] if section else text
    text = text[: text.find("\n## ", 1)] if section else text
    cells = [line.replace(r"\|", "").split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    return {name for cell in cells for name in re.findall(r"`([A-Za-z_][\w.:]*)", cell)}


# The members of a class are asked for where the table goes by members.
_ASK = """
import importlib, json, sys

def public(of):
    return [name for name in getattr(of, "__all__", dir(of)) if not name.startswith("__") or name == "__version__"]

module = importlib.import_module(sys.argv[1])
names = set(public(module))
for name in sys.argv[2:]:
    whose = getattr(module, name)
    base = set(dir(object)) | set(dir(Exception))
    names |= {f"{name}.{member}" for member in dir(whose) if not member.startswith("_") and member not in base}
print(json.dumps(sorted(names)))
"""

PEERS = {
    "multiprocessing.shared_memory": ("shared_memory.md", "", ["SharedMemory", "ShareableList"]),
    "multiprocessing.managers": ("shared_memory.md", "", ["SharedMemoryManager"]),
    "multiprocessing.synchronize": (
        "multiprocessing.md",
        "",
        ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event"],
    ),
    "multiprocessing.queues": ("multiprocessing.md", "", ["Queue", "SimpleQueue", "JoinableQueue"]),
    "posix_ipc": ("posix_ipc.md", "`posix_ipc`", ["SharedMemory", "Semaphore", "MessageQueue"]),
    "sysv_ipc": ("posix_ipc.md", "`sysv_ipc`", ["SharedMemory", "Semaphore", "MessageQueue"]),
    "filelock": ("filelock.md", "filelock", ["FileLock"]),
    "portalocker": ("filelock.md", "portalocker", ["Lock"]),
    "fasteners": ("filelock.md", "fasteners", ["InterProcessLock"]),
}
OTHERS = {  # of the module, which are not for the page
    "multiprocessing.managers": {"BaseManager", "SyncManager", "BaseProxy", "Token"},
}


@pytest.mark.parametrize("peer", PEERS)
def test_every_public_name_is_in_the_table(peer):
    """Asked in a process of its own: filelock leaves a hook behind in who imports it."""
    if importlib.util.find_spec(peer.partition(".")[0]) is None:
        pytest.skip(f"could not import {peer!r}")
    page, section, classes = PEERS[peer]
    command = [sys.executable, "-c", _ASK, peer, *classes]
    names = set(json.loads(subprocess.run(command, capture_output=True, timeout=DEADLINE, check=True).stdout))
    assert len(names) > len(classes)
    assert names - OTHERS.get(peer, set()) <= first_cells(page, section)


LUAIPC = {
    "shm": {"create", "attach"},
    "sem": {"open"},
    "mmap": {"open", "pagesize"},
    "strfile": {"open"},
    "filelock": {"lock", "trylock", "unlock"},
    "proc": {"spawn", "EOF"},
}
LUAIPC_METHODS = {
    "h": {"read", "lines", "write", "seek", "flush", "setvbuf", "size", "addr", "truncate", "close"},
    "sem": {"inc", "dec", "close"},
    "proc": {"write", "kill", "wait"},
}


def test_every_function_of_luaipc_is_in_the_table():
    listed = first_cells("luaipc.md")
    functions = {f"{module}.{name}" for module, names in LUAIPC.items() for name in names}
    methods = {f"{of}:{name}" for of, names in LUAIPC_METHODS.items() for name in names}
    assert functions | methods <= listed


@functools.cache
def lua():
    """A Lua that finds LuaIPC, if there is one: nothing that a Python project can install."""
    for command in ("lua", "lua5.3", "lua5.2", "lua5.1", "luajit"):
        path = shutil.which(command)
        if path is None:
            continue
        found = subprocess.run([path, "-e", 'require "ipc.shm"'], stderr=subprocess.DEVNULL, check=False)
        if not found.returncode:
            return path
    return None


_LUA_NAMES = """
local handles = {
  h = require("ipc.strfile").open(""), sem = assert(require("ipc.sem").open(arg[1], 1)),
  proc = assert(require("ipc.proc").spawn("true", {})),
}
for module in arg[2]:gmatch("%l+") do
  for name in pairs(require("ipc." .. module)) do print(module .. "." .. name) end
end
for of, handle in pairs(handles) do
  for name in pairs(debug.getmetatable(handle).__index) do print(of .. ":" .. name) end
end
handles.sem:close()
handles.proc:wait()
"""


@pytest.mark.able(probe=lua)
def test_those_are_all_functions_that_luaipc_has(name, tmp_path):
    (tmp_path / "names.lua").write_text(_LUA_NAMES)
    command = [lua(), tmp_path / "names.lua", name, " ".join(LUAIPC)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True).stdout.split()
    functions = {f"{module}.{function}" for module, functions in LUAIPC.items() for function in functions}
    methods = {f"{of}:{method}" for of, methods in LUAIPC_METHODS.items() for method in methods}
    assert set(said) == functions | methods


# -- the programs --------------------------------------------------------------


@pytest.fixture
def names(unique):
    return {"prices": unique(), "printers": unique()}


@pytest.fixture
def left(names, tmp_path, monkeypatch):
    """Make what the workers of luaipc.md expect to find; tell what is left of it: the permits, the number."""
    monkeypatch.chdir(tmp_path)
    Path("journal").touch()
    s, h = sem.create(names["printers"], 2), shm.create(names["prices"], 10)
    h.write(b"%09d\n" % 0)
    yield lambda: ([s.dec(0) for _ in range(3)], h.getbuffer()[:].tobytes())
    s.close()
    h.close()


def test_the_worker_that_was_ported_counts(left, names):
    [program] = programs("luaipc.md", "python", **names)
    for _ in range(3):
        exec(program, {})
    assert Path("journal").read_text().splitlines() == [f"Python was number {n}" for n in range(3)]
    assert left() == ([True, True, False], b"000000003\n")


@pytest.mark.able(probe=lua)
def test_workers_of_both_languages_count_together(left, names):
    """Some at a time of each; every one of them has a number of its own."""
    [ours], [theirs] = programs("luaipc.md", "python", **names), programs("luaipc.md", "lua", **names)
    Path("worker.lua").write_text(theirs)
    started = [subprocess.Popen([lua(), "worker.lua"]) for _ in range(4)]
    for _ in range(4):
        exec(ours, {})
    assert [process.wait(DEADLINE) for process in started] == [0] * 4
    lines = Path("journal").read_text().splitlines()
    assert [int(line.split()[-1]) for line in lines] == list(range(8))
    assert sorted(line.split()[0] for line in lines) == ["Lua"] * 4 + ["Python"] * 4
    assert left() == ([True, True, False], b"000000008\n")


_LUA_OWNER = """
local h = assert(require("ipc.shm").create(arg[1], 10))
local s = assert(require("ipc.sem").open(arg[1], 1))
h:write("from Lua\\n")
print(h:size()); io.stdout:flush()
io.read()
h:close(); s:close()
print("closed"); io.stdout:flush()
io.read()
"""


@pytest.mark.able(probe=lua)
def test_what_lua_made_goes_with_its_maker_from_under_ipcio(name, tmp_path):
    (tmp_path / "owner.lua").write_text(_LUA_OWNER)
    command = [lua(), tmp_path / "owner.lua", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        try:
            assert owner.stdout.readline() == b"10\n"
            h, s = shm.attach(name), sem.attach(name)
            assert h.readline() == b"from Lua\n"
            shm.attach(name).close()  # no share of ours, so nothing that we remove
            shm.attach(name).close()
            owner.stdin.write(b"\n")
            owner.stdin.flush()
            assert owner.stdout.readline() == b"closed\n"
            for attach in shm.attach, sem.attach:
                with pytest.raises(FileNotFoundError):
                    attach(name)
            assert h.getbuffer()[:4].tobytes() == b"from"
            assert s.dec(0)
        finally:
            owner.stdin.close()
    h.close()
    s.close()


@pytest.mark.parametrize("which", [0, 1], ids=["before", "after"])
def test_moving_from_shared_memory(which, tmp_path):
    """Both programs do the same, and neither leaves nor warns of anything."""
    program = programs("shared_memory.md", "python")[which]
    assert run(program, tmp_path / "program.py") == "[2.0, 4.0, 6.0]\n"


def test_moving_from_posix_ipc(names, capsys):
    """The program before, and the two that meet at one semaphore."""
    pytest.importorskip("posix_ipc")
    before, both = programs("posix_ipc.md", "python", **names)
    exec(before, {})
    exec(both, {})
    assert capsys.readouterr().out == "True\nbusy\n"


def in_a_process(program, tmp_path):
    """With a file to work on, in a process of its own, for filelock leaves a hook behind in who imports it."""
    if importlib.util.find_spec("filelock") is None:
        pytest.skip("could not import 'filelock'")
    (tmp_path / "accounts").write_text("000000041\n")
    run(program, tmp_path / "program.py")
    return (tmp_path / "accounts").read_text()


def test_moving_from_filelock(tmp_path):
    assert in_a_process(programs("filelock.md", "python")[1], tmp_path) == "000000042\n"


def test_taking_a_lock_of_both_families(tmp_path):
    assert in_a_process(programs("filelock.md", "python")[0], tmp_path) == "both kinds are excluded"


# -- who keeps out whom --------------------------------------------------------

_TRIALS = """
import fcntl, sys

def lockf():
    fcntl.lockf(open(path, "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)

def flock():
    fcntl.flock(open(path, "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)

def filelock():
    import filelock
    filelock.FileLock(path, timeout=0).acquire().lock.release()

def portalocker():
    import portalocker
    portalocker.Lock(path, "r+", timeout=0, fail_when_locked=True).acquire().close()

def fasteners():
    import fasteners
    if not fasteners.InterProcessLock(path).acquire(blocking=False):
        raise BlockingIOError

def fasteners_shared():
    import fasteners
    if not fasteners.InterProcessReaderWriterLock(path).acquire_read_lock(blocking=False):
        raise BlockingIOError

path = sys.argv[1]
for trial in lockf, flock, filelock, portalocker, fasteners, fasteners_shared:
    try:
        trial()
    except ImportError:
        continue
    except Exception:
        print(trial.__name__, "kept out")
    else:
        print(trial.__name__, "let in")
"""


@pytest.mark.needs("classic locks", "files")
def test_whom_a_lock_keeps_out(tmp_path):
    """As the table of families says."""
    from ipcio import filelock

    with open(tmp_path / "file", "w+b") as file, filelock.locked(file):
        command = [sys.executable, "-c", _TRIALS, tmp_path / "file"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True).stdout
    found = dict(line.split(" ", 1) for line in said.splitlines())
    let_in = {name for name, answer in found.items() if answer == "let in"}
    assert {"lockf", "flock"} <= found.keys()
    assert let_in == found.keys() & {"flock", "filelock", "portalocker"}
