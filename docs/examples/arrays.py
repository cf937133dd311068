"""A numpy array in shared memory: a child computes in place."""

import subprocess
import sys

import numpy as np

from ipcio import shm

NAME = sys.argv[1] if len(sys.argv) > 1 else "arrays-example"

CHILD = """
import sys
import numpy as np
from ipcio import shm
with shm.attach(sys.argv[1]) as h:
    numbers = np.frombuffer(h.getbuffer())  # from Python 3.12 on: np.frombuffer(h)
    numbers *= 2
"""

with shm.create(NAME, 1000 * 8) as h:
    numbers = np.frombuffer(h.getbuffer())
    numbers[:] = range(1000)
    subprocess.run([sys.executable, "-c", CHILD, NAME], check=True)
    print(numbers[:4].tolist(), numbers.sum())

    h.seek(8)  # or as a file
    print(np.fromfile(h, np.float64, 3).tolist(), h.tell())
