"""The worker of `notebook.py`."""

import sys
from multiprocessing import shared_memory

import numpy as np

for line in sys.stdin:
    name, function = line.split()
    memory = shared_memory.SharedMemory(name)
    numbers = np.ndarray(memory.size // 8, buffer=memory.buf)
    getattr(np, function)(numbers, out=numbers)
    print(f"{function} of {len(numbers)} numbers", flush=True)
    del numbers
    memory.close()
