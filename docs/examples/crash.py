"""A process is killed; the name that only it held is free."""

import subprocess
import sys

from ipcio import shm

NAME = sys.argv[1] if len(sys.argv) > 1 else "crash-example"

CHILD = """
import sys
from ipcio import shm
h = shm.create(sys.argv[1], 1_000_000)
print("made", flush=True)
sys.stdin.read()
"""

with subprocess.Popen([sys.executable, "-c", CHILD, NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
    child.stdout.readline()
    shm.attach(NAME).close()  # it lives
    child.kill()

try:
    shm.attach(NAME)
except FileNotFoundError:
    print("gone with its holder")
with shm.create(NAME, 100) as h:
    print("made anew,", h.size(), "bytes")
