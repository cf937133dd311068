"""The workers of a joblib job share one segment: a histogram of numbers that only one process has loaded."""

import numpy as np
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from ipcio import shm

COUNT = 1_000_000


def histogram(h, start, stop):
    """Count the numbers in each bin; the worker attaches read-only, like the handle that was sent."""
    return np.histogram(np.frombuffer(h.getbuffer())[start:stop], bins=10, range=(0, 1))[0]


if __name__ == "__main__":
    with shm.create(None, COUNT * 8) as writable:
        numbers = np.frombuffer(writable.getbuffer())
        numbers[:] = np.random.default_rng(7).beta(2, 5, COUNT)

        h = shm.attach(writable.name, "r")
        parts = Parallel(n_jobs=2)(delayed(histogram)(h, at, at + 250_000) for at in range(0, COUNT, 250_000))
        h.close()

        alone = np.histogram(numbers, bins=10, range=(0, 1))[0]
        print(int(sum(parts).sum()), "numbers,", "as expected" if (sum(parts) == alone).all() else "wrong")
    get_reusable_executor().shutdown(wait=True)  # joblib would keep its workers for the next job
