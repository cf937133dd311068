"""How processes end: whatever Python runs at exit, handles are good until then, and nothing is left after it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from abilities import lacks
from named_contract import is_free

import ipcio
from ipcio import sem, shm
from ipcio._inventory import list_objects

PATH = os.pathsep.join(filter(None, [os.path.dirname(os.path.dirname(ipcio.__file__)), os.environ.get("PYTHONPATH")]))
METHODS = [
    pytest.param("fork", marks=pytest.mark.needs("fork")),
    pytest.param("forkserver", marks=pytest.mark.needs("fork")),
    "spawn",
]
UNDO = not lacks("undo")

MAKE = f"""
KEPT = []

def keep(name):
    from ipcio import sem, shm
    KEPT.extend([shm.create(name, 100), sem.create(name + "s"), sem.create(name + "u", undo={UNDO})])
    KEPT[0].write(b"ok")
    KEPT.append(KEPT)  # no reference count will ever be 0
"""


@pytest.fixture
def run(tmp_path):
    """Run a program, and return what it says."""

    def start(code: str, *arguments: str) -> str:
        path = tmp_path / "program.py"
        path.write_text(MAKE + code)
        done = subprocess.run(
            [sys.executable, path, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": PATH},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        return done.stdout

    return start


def assert_free(*names: str) -> None:
    there = {entry.name for entry in list_objects()}
    for name in names:
        assert not there & {name, f"{name}s", f"{name}u"}
        assert is_free(shm, name)
        assert is_free(sem, f"{name}s")


WORKERS = """
import multiprocessing, sys

def work(name):
    keep(name)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    process = context.Process(target=work, args=(sys.argv[2],))
    process.start()
    process.join()
    with context.Pool(2) as pool:
        pool.map(work, sys.argv[3:], 1)
        pool.close()
        pool.join()
"""


@pytest.mark.parametrize("method", METHODS)
def test_what_workers_of_multiprocessing_keep_goes_with_them(run, unique, method):
    """They end in os._exit, and run no function of `atexit`."""
    names = [unique() for _ in range(5)]
    run(WORKERS, method, *names)
    assert_free(*names)


CHILD_OF_ONE_THAT_ENDS = """
import concurrent.futures, multiprocessing, sys, time

def attach(name):
    from ipcio import sem, shm
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel], 0.2)
    with shm.attach(name) as h:
        print(h.read(2))
    sem.attach(name + "s").close()
    sem.attach(name + "u").close()

if __name__ == "__main__":
    import multiprocessing.connection, multiprocessing.pool, multiprocessing.shared_memory
    keep(sys.argv[2])
    multiprocessing.get_context(sys.argv[1]).Process(target=attach, args=(sys.argv[2],)).start()
"""


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_handle_is_good_until_python_has_waited_for_its_children(run, name, method):
    """Whatever was imported first."""
    code = CHILD_OF_ONE_THAT_ENDS.replace(
        "import concurrent", "import multiprocessing.connection\nimport concurrent", 1
    )
    assert run(code, method, name) == "b'ok'\n"
    assert_free(name)


EXIT_FUNCTION = """
import atexit, subprocess, sys

name = sys.argv[1]

def late():
    keep(name + "2")
    h, s = KEPT[:2]
    h.seek(0)
    assert h.read(2) == b"ok"
    assert s.acquire(timeout=0)
    s.release()
    code = f"from ipcio import sem, shm; print(shm.attach({name!r}).read(2)); sem.attach({name!r} + 's')"
    subprocess.run([sys.executable, "-c", code], check=True)

atexit.register(late)
keep(name)
"""


@pytest.mark.parametrize("how", ["", "import gc; gc.freeze(); gc.disable()"])
def test_a_function_of_atexit_that_was_there_first_has_good_handles(run, name, how):
    assert run(EXIT_FUNCTION + how, name) == "b'ok'\n"
    assert_free(name, f"{name}2")


DAEMONS = """
import sys, threading

def loop(started):
    from ipcio import shm
    while True:
        shm.create(None, 100_000).close()
        started.set()

def hold(name, started):
    keep(name)
    started.set()
    threading.Event().wait()

for target in [loop, loop, lambda started: hold(sys.argv[1], started)]:
    started = threading.Event()
    threading.Thread(target=target, args=(started,), daemon=True).start()
    started.wait()
"""


def test_daemon_threads_in_the_middle_of_a_call_keep_neither_the_exit_nor_a_name(run, name):
    run(DAEMONS, name)
    assert_free(name)


HANDED_OVER = """
import gc, multiprocessing, os, sys

def use(handles):
    h, s, u = handles[:3]
    assert h.read(2) == b"ok"
    for each in s, u:
        assert each.acquire(timeout=0)
    if os.path.exists("/proc/self/fd"):
        print(len(os.listdir("/proc/self/fd")) - 2 * len(handles) < 20 + len(handles))

def make(name):
    keep(name)
    handles, KEPT[:] = KEPT[:3], []
    handles[0].seek(0)
    return handles

def start(**options):
    process = multiprocessing.Process(**options)
    process.start()
    gc.collect()
    return process

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    names = iter(sys.argv[2:])
    from ipcio import shm
    processes = [
        start(target=use, args=[make(next(names))]),
        start(target=use, args=[make(next(names)) + [shm.create(f"{sys.argv[2]}-{n}", 1) for n in range(250)]]),
    ]
    with multiprocessing.Pool(1, initializer=use, initargs=[make(next(names))]) as pool:
        pool.close()
        pool.join()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    del pool
    gc.collect()
    assert all(shm_is_free(f"{sys.argv[2]}-{n}") for n in range(250))
"""

IS_FREE = """
def shm_is_free(name):
    from ipcio import shm
    try:
        shm.attach(name)
    except FileNotFoundError:
        return True
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_is_being_started_has_the_handles_among_its_arguments(run, unique, method):
    """The parent has no other reference; more than the fork server can pass on; nothing is kept for ever."""
    names = [unique() for _ in range(3)]
    run(IS_FREE + HANDED_OVER, method, *names)
    assert_free(*names)


IN_A_CALL = """
import sys, threading
from ipcio import _forklock, mmap

def hold(started):
    with _forklock.fork_lock:
        started.set()
        threading.Event().wait()

KEPT.append(mmap.open(__file__))
started = threading.Event()
threading.Thread(target=hold, args=(started,), daemon=True).start()
started.wait()
"""


def test_a_handle_is_closed_after_a_daemon_thread_has_ended_in_the_middle_of_a_call(run):
    """Also where nothing has a name, and the end of the process has nothing else to do."""
    run(IN_A_CALL)
