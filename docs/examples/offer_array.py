"""Offer a numpy array until you press Enter here; `use_array.py` needs only the name.

In two terminals:

    python offer_array.py         python use_array.py

The header of numpy's own file format comes first. It contains the type and the shape, also of structured arrays.
"""

import sys

import numpy as np

from ipcio import shm

NAME = sys.argv[1] if len(sys.argv) > 1 else "table"
QUOTE = np.dtype([("metal", "S8"), ("price", "f8"), ("volume", "i4")])

table = np.array([(b"gold", 2650, 3), (b"silver", 31, 500), (b"copper", 4.25, 9000)], QUOTE)
with shm.create(NAME, table.nbytes + 1024) as h:  # the header is shorter than that
    np.save(h, table)
    print("offered", flush=True)
    sys.stdin.readline()
