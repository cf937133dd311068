"""The worker of `notebook.py`: each line that it reads has the name of an array and of a function."""

import sys

import numpy as np

from ipcio import shm

for line in sys.stdin:
    name, function = line.split()
    with shm.attach(name) as h:
        numbers = np.frombuffer(h.getbuffer())
        getattr(np, function)(numbers, out=numbers)
    print(f"{function} of {len(numbers)} numbers", flush=True)
