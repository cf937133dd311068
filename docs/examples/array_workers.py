"""Eight processes read one array without a copy, and cannot change it."""

from concurrent.futures import ProcessPoolExecutor

import numpy as np

from ipcio import shm


def add_up(h, start, stop):
    numbers = np.frombuffer(h.getbuffer())
    assert not numbers.flags.writeable  # the handle has mode "r"
    return numbers[start:stop].sum()


if __name__ == "__main__":
    with shm.create(None, 8_000_000) as h, shm.attach(h.name, "r") as reader:
        np.frombuffer(h.getbuffer())[:] = 0.5
        with ProcessPoolExecutor(8) as pool:
            parts = [pool.submit(add_up, reader, start, start + 125_000) for start in range(0, 1_000_000, 125_000)]
            print(sum(part.result() for part in parts))
