"""A dictionary in shared memory, for a cache that all processes of a machine use by name."""

import json

from ipcio import filelock, shm


class SharedDict:
    def __init__(self, name, size=1_000_000):
        self._memory = shm.create(name, 8 + 2 * size, exist_ok=True)  # two copies, and the number of the good one
        self._size = size

    def __getitem__(self, key):
        with filelock.locked(self._memory, "r"):
            return self._read()[key]

    def __setitem__(self, key, value):
        with filelock.locked(self._memory):
            new = 1 - self._memory.getbuffer()[0]
            line = json.dumps({**self._read(), key: value}).encode() + b"\n"
            if len(line) > self._size:
                raise ValueError(f"the dictionary does not have room for {key!r}")
            self._memory.seek(8 + new * self._size)
            self._memory.write(line)
            self._memory.getbuffer()[0] = new  # a process that is killed before this leaves the old copy

    def _read(self):
        self._memory.seek(8 + self._memory.getbuffer()[0] * self._size)
        return json.loads(self._memory.readline().strip(b"\0") or "{}")
