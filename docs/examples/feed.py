"""Offer a segment until you press Enter here."""

import sys

from ipcio import shm

NAME = sys.argv[1] if len(sys.argv) > 1 else "feed-example"

with shm.create(NAME, 4096) as h:
    h.write(b"gold 2650\nsilver 31\n\n")  # an empty line: the end
    print("offered", flush=True)
    sys.stdin.readline()
