"""Say which workers (`slot_worker.py`) were killed, and which job each of them had not finished."""

import struct
import sys
import time

from ipcio import filelock, shm

NAME = sys.argv[1] if len(sys.argv) > 1 else "slots"
SLOTS = 8
RECORD = struct.Struct("<q24s")

with shm.create(NAME, SLOTS + SLOTS * RECORD.size) as h:
    print("watching", flush=True)
    while True:
        for slot in range(SLOTS):
            if not filelock.trylock(h, "rw", slot, 1):
                continue  # its worker is running
            h.seek(SLOTS + slot * RECORD.size)
            process, job = RECORD.unpack(h.read(RECORD.size))
            if process:
                h.seek(SLOTS + slot * RECORD.size)
                h.write(bytes(RECORD.size))
                print(f"slot {slot}: process {process} was killed, job {job.rstrip(bytes(1)).decode()}", flush=True)
            filelock.unlock(h, slot, 1)
        time.sleep(0.05)
