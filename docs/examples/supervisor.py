"""Admit two workers at a time, however many there are and whichever of them is killed.

    python supervisor.py          in one terminal; Enter tells how many are free, Ctrl-D ends
    python worker.py              in any number of others; Enter lets it finish, kill -9 it if you like

The permits are crash-safe: the kernel takes back what a worker holds when it ends, however it ends.
"""

import sys

from ipcio import sem

NAME = sys.argv[1] if len(sys.argv) > 1 else "workers"
PERMITS = 2

permits = sem.create(NAME, PERMITS, undo=True)
print("open", flush=True)
for _ in sys.stdin:
    print(permits.value, "of", PERMITS, "free", flush=True)
