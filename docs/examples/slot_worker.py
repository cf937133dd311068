"""Work on the job that the second argument names, in a slot that `slot_watch.py` watches, until Enter is pressed."""

import os
import struct
import sys

from ipcio import filelock, shm

NAME, JOB = sys.argv[1:]
SLOTS = 8
RECORD = struct.Struct("<q24s")  # process, job; all zeros in a free slot

with shm.attach(NAME, timeout=10) as h:
    for slot in range(SLOTS):
        if filelock.trylock(h, "rw", slot, 1):  # the lease: it lasts as long as this process, or until unlock
            h.seek(SLOTS + slot * RECORD.size)
            if RECORD.unpack(h.read(RECORD.size))[0] == 0:
                break
            filelock.unlock(h, slot, 1)  # of a killed worker, which the watcher has not reported yet
    else:
        sys.exit("no free slot")
    h.seek(SLOTS + slot * RECORD.size)
    h.write(RECORD.pack(os.getpid(), JOB.encode()))
    print(f"slot {slot}", flush=True)
    sys.stdin.readline()  # the work
    h.seek(SLOTS + slot * RECORD.size)
    h.write(bytes(RECORD.size))
    filelock.unlock(h, slot, 1)
print("finished")
