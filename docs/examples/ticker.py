"""Keep the latest quote in shared memory, for any number of dashboards.

In one terminal, a quote a line:     and in others:

    python ticker.py                     python dashboard.py
    gold 2650 2651.5

If the ticker is killed with kill -9, the dashboards notice it at once.
"""

import struct
import sys

from ipcio import filelock, shm

NAME = sys.argv[1] if len(sys.argv) > 1 else "quote"
QUOTE = struct.Struct("<q16sdd")  # number, metal, bid, ask
ALIVE = QUOTE.size, 1  # the byte behind it: locked while the ticker runs

with shm.create(NAME, QUOTE.size) as h:
    filelock.lock(h, "rw", *ALIVE)
    print("ready", flush=True)
    for number, line in enumerate(sys.stdin, 1):
        metal, bid, ask = line.split()
        with filelock.locked(h, "rw", 0, QUOTE.size):
            h.seek(0)
            h.write(QUOTE.pack(number, metal.encode(), float(bid), float(ask)))
