"""`four_workers.py` with `multiprocessing.shared_memory`."""

import multiprocessing
from multiprocessing import shared_memory

import numpy as np


def fill(name, quarter):
    memory = shared_memory.SharedMemory(name)
    table = np.ndarray((4, 250_000), buffer=memory.buf)
    table[quarter] = quarter
    del table  # or `close` raises BufferError
    memory.close()


if __name__ == "__main__":
    memory = shared_memory.SharedMemory(create=True, size=8_000_000)
    try:
        with multiprocessing.get_context("spawn").Pool(4) as pool:
            pool.starmap(fill, [(memory.name, quarter) for quarter in range(4)])
        table = np.ndarray(1_000_000, buffer=memory.buf)
        print(table.sum())
        del table
    finally:
        memory.close()
        memory.unlink()
