"""A program that runs only once at a time; after kill -9 it can be started again at once."""

import sys

from ipcio import filelock

try:
    with filelock.locked(sys.argv[1], timeout=0):
        print("running", flush=True)
        sys.stdin.readline()  # the work
except TimeoutError as error:
    sys.exit(f"already running: {error}")
