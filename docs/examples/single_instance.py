"""Run once at a time on this machine: a second start names the process that is running, and exits with status 1."""

import contextlib
import sys

from ipcio import filelock

PATH = sys.argv[1] if len(sys.argv) > 1 else "service.lock"

with contextlib.ExitStack() as stack:
    try:
        stack.enter_context(filelock.locked(PATH, timeout=0))
    except TimeoutError as error:
        sys.exit(f"already running: {error.strerror}")
    print("running", flush=True)
    sys.stdin.readline()  # the work
