"""`notebook.py` with `subprocess` and `multiprocessing.shared_memory`."""

import subprocess
import sys
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np

worker = subprocess.Popen(
    [sys.executable, str(Path(__file__).with_name("notebook_worker.py"))],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
)  # fmt: skip

memory = shared_memory.SharedMemory(create=True, size=8 * 1_000_000)
numbers = np.ndarray(1_000_000, buffer=memory.buf)
numbers[:] = 2.0

worker.stdin.write(f"{memory.name} sqrt\n")
worker.stdin.flush()
print(worker.stdout.readline(), end="")
print(numbers[:2])

del numbers
memory.close()
memory.unlink()
worker.stdin.close()
worker.wait()
worker.stdout.close()
