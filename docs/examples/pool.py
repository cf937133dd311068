"""Handles as arguments: a pool of processes that were not forked adds up parts of one segment."""

import multiprocessing

from ipcio import shm


def add_up(h, start, stop):
    h.seek(start)
    return sum(h.read(stop - start))


if __name__ == "__main__":
    with shm.create(None, 1_000_000) as h:  # None: an unused name
        h.write(bytes(range(250)) * 4000)
        quarters = [(h, start, start + 250_000) for start in range(0, h.size(), 250_000)]
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            print(sum(pool.starmap(add_up, quarters)))
            pool.close()
            pool.join()
