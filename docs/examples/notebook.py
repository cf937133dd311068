"""The cells of a notebook: a worker process computes on an array of the notebook, which is not copied."""

import sys
from pathlib import Path

import numpy as np

from ipcio import proc, shm

worker = proc.spawn(
    [sys.executable, str(Path(__file__).with_name("notebook_worker.py"))],
    stdin=True, stdout=True, encoding="utf-8", lines=True,
)  # fmt: skip

memory = shm.create(None, 8 * 1_000_000)
numbers = np.frombuffer(memory.getbuffer())
numbers[:] = 2.0

worker.write(f"{memory.name} sqrt\n")
print(next(worker)[1].rstrip())
print(numbers[:2])
