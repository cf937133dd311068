"""`single_instance.py` with `fcntl.flock`."""

import fcntl
import sys

PATH = sys.argv[1] if len(sys.argv) > 1 else "service.lock"

with open(PATH, "w") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("already running")
    print("running", flush=True)
    sys.stdin.readline()  # the work
