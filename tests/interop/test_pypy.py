"""PyPy, where there is one of a version that ipcio supports: a program of each module runs there and leaves nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PROGRAM = """
import os, sys, tempfile
from ipcio import filelock, mmap, proc, sem, shm, strfile

with shm.create(None, 4096) as h, shm.attach(h.name) as other:
    h.write(b"one\\ntwo\\n")
    assert list(other)[:2] == [b"one\\n", b"two\\n"]
    assert h.addr() != other.addr() != 0
    with shm.attach(h.name, "r") as third:
        assert third.addr() and bytes(third.getbuffer()[:3]) == b"one"
for undo in False, True:
    s = sem.create(None, 2, undo=undo)
    with s, sem.attach(s.name):
        assert s.value == 0
        assert not s.dec(0) and not s.dec(0.01)
        pid = os.fork()
        if not pid:
            s.inc()
            os._exit(0)
        assert s.dec() and os.waitpid(pid, 0)[1] == 0
    assert s.value == 2
    s.close()
with tempfile.NamedTemporaryFile() as file:
    file.write(b"abc\\n" * 2000)
    file.flush()
    with mmap.open(file.name, "rw") as m, mmap.open(file.fileno()) as other:
        m.write(b"xyz")
        assert other.readline() == b"xyz\\n"
    filelock.lock(file, timeout=1)
    filelock.unlock(file)
said = []
with proc.spawn([sys.executable, "-c", "print(6*7)"], stdout=True, callback=lambda *line: said.append(line)) as child:
    assert child.wait().ok and b"42" in said[0][1]
assert list(strfile.open("a\\nb")) == [b"a\\n", b"b"]
kept = shm.create(sys.argv[1], 10), sem.create(sys.argv[1] + "s", 1), sem.create(sys.argv[1] + "u", 1, undo=True)
print("whole")
"""

PYPY = shutil.which("pypy3")
LOOK = "import sys; sys.exit(sys.version_info < (3, 10))"

# Not a test that is skipped: the machines that allow no skip have no PyPy.
if PYPY is not None and subprocess.run([PYPY, "-c", LOOK], check=False).returncode == 0:

    def test_a_program_of_each_module_runs_on_pypy(name):
        """What the program has not closed goes when it ends."""
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [PYPY, "-c", PROGRAM, name],
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (0, "whole\n")
