"""Run once at a time on this machine: a second start says which process runs already, and exits with status 1."""

import contextlib
import sys

from ipcio import filelock

PATH = sys.argv[1] if len(sys.argv) > 1 else "service.lock"

with contextlib.ExitStack() as stack:
    try:
        stack.enter_context(filelock.locked(PATH, timeout=0))
    except TimeoutError as error:
        print(f"already running: {error.strerror}")
        sys.exit(1)
    print("running", flush=True)
    sys.stdin.readline()  # the work
print("done")
