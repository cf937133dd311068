"""At most `COUNT` calls in `SECONDS` seconds, in all processes of the machine that use the same name."""

import sys
import time

from ipcio import filelock, shm

NAME, COUNT, SECONDS = sys.argv[1], 5, 0.2
calls = shm.create(NAME, 8 * COUNT, exist_ok=True)  # a ring: the times of the last calls


def wait_for_turn():
    with filelock.locked(calls):  # released by the kernel if this process is killed
        times = calls.getbuffer().cast("d")
        oldest = min(range(COUNT), key=times.__getitem__)
        time.sleep(max(0, times[oldest] + SECONDS - time.monotonic()))
        times[oldest] = time.monotonic()
        return times[oldest]


for _ in range(int(sys.argv[2])):
    print(wait_for_turn(), flush=True)
