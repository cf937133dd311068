"""A process is killed; the name that only this process had open is free again."""

import subprocess
import sys

from ipcio import shm

NAME = sys.argv[1] if len(sys.argv) > 1 else "crash-example"

CHILD = """
import sys
from ipcio import shm
h = shm.create(sys.argv[1], 1_000_000)
print("created", flush=True)
sys.stdin.read()
"""

with subprocess.Popen([sys.executable, "-c", CHILD, NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
    child.stdout.readline()
    shm.attach(NAME).close()  # it exists
    child.kill()

try:
    shm.attach(NAME)
except FileNotFoundError:
    print("removed")
with shm.create(NAME, 100) as h:
    print("created again,", h.size(), "bytes")
