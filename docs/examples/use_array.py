"""Compute on the array that `offer_array.py` offers, without a copy."""

import math
import sys

import numpy as np

from ipcio import shm

NAME = sys.argv[1] if len(sys.argv) > 1 else "table"

with shm.attach(NAME, "r") as h:
    assert np.lib.format.read_magic(h) == (1, 0)
    shape, _, dtype = np.lib.format.read_array_header_1_0(h)
    table = np.frombuffer(h.getbuffer(), dtype, math.prod(shape), h.tell()).reshape(shape)

print(dtype.names, len(table))
print((table["price"] * table["volume"]).tolist(), table.flags.writeable)
