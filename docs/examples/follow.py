"""Read the segment that `feed.py` offers."""

import sys

from ipcio import shm

NAME = sys.argv[1] if len(sys.argv) > 1 else "feed-example"

with shm.attach(NAME, "r") as h:
    for line in iter(h.readline, b"\n"):
        metal, price = line.split()
        print(metal.decode(), float(price))
