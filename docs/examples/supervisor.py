"""Admit two workers at a time, even if workers are killed.

    python supervisor.py          in one terminal; Enter prints how many permits are free, Ctrl-D ends
    python worker.py              in any number of others; Enter ends the work; try kill -9, too

The permits are crash-safe: the kernel releases the permit of a worker that exits or is killed.
"""

import sys

from ipcio import sem

NAME = sys.argv[1] if len(sys.argv) > 1 else "workers"
PERMITS = 2

permits = sem.create(NAME, PERMITS, undo=True)
print("open", flush=True)
for _ in sys.stdin:
    print(permits.value, "of", PERMITS, "free", flush=True)
