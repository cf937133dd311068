"""The workers of a dask job share one segment: each task scales columns of a table in place."""

import pickle

import dask
import numpy as np

from ipcio import shm

SHAPE = 20_000, 48  # float64: 7.3 MiB


@dask.delayed
def standardize(h, first, last):
    """Give these columns mean 0 and variance 1; `h` was pickled, the table was not copied."""
    columns = np.ndarray(SHAPE, np.float64, h.getbuffer())[:, first:last]
    columns -= columns.mean(axis=0)
    columns /= columns.std(axis=0)
    return last - first


if __name__ == "__main__":
    with shm.create(None, SHAPE[0] * SHAPE[1] * 8) as h:
        table = np.ndarray(SHAPE, np.float64, h.getbuffer())
        table[:] = np.random.default_rng(7).gamma(2, 3, SHAPE)
        expected = (table - table.mean(axis=0)) / table.std(axis=0)

        tasks = [standardize(h, first, first + 12) for first in range(0, SHAPE[1], 12)]
        done = dask.compute(*tasks, scheduler="processes", num_workers=2)

        print(sum(done), "columns,", "as expected" if np.allclose(table, expected) else "wrong")
        print("what travels to a worker is small:", len(pickle.dumps(h)) * 1000 < h.size())
