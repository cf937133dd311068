"""Wait for a permit of `supervisor.py`, then work until you press Enter here."""

import sys

from ipcio import sem

NAME = sys.argv[1] if len(sys.argv) > 1 else "workers"

permits = sem.attach(NAME)
if not permits.dec(0):
    print("waiting", flush=True)
    permits.dec()
try:
    print("inside", flush=True)
    sys.stdin.readline()
finally:
    permits.inc()
print("outside")
