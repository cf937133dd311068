"""`record_lock.py` with `fcntl.lockf`, which does not have a timeout."""

import fcntl
import sys
import time

path, number = sys.argv[1], int(sys.argv[2])
with open(path, "r+b") as file:
    end = time.monotonic() + 10
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 8, 8 * number)
            break
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
    file.seek(8 * number)
    count = int.from_bytes(file.read(8), "little") + 1
    file.seek(8 * number)
    file.write(count.to_bytes(8, "little"))
    file.flush()
