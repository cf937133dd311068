"""Show the latest quote of `ticker.py` until that exits."""

import struct
import sys
import time

from ipcio import filelock, shm

NAME = sys.argv[1] if len(sys.argv) > 1 else "quote"
QUOTE = struct.Struct("<q16sdd")
ALIVE = QUOTE.size, 1

shown, alive = 0, True
with shm.attach(NAME, "r") as h:
    while alive:
        alive = filelock.query(h, "r", *ALIVE) is not None  # before the read: so the last quote is shown
        with filelock.locked(h, "r", 0, QUOTE.size):
            h.seek(0)
            number, metal, bid, ask = QUOTE.unpack(h.read(QUOTE.size))
        if number != shown:
            print(f"{number}: {metal.rstrip(bytes(1)).decode()} {bid:.2f} {ask:.2f}", flush=True)
            shown = number
        time.sleep(0.02)
print("the ticker has exited")
