"""Add 1 to one record of a file that other programs change at the same time."""

import sys

from ipcio import filelock

path, number = sys.argv[1], int(sys.argv[2])
with open(path, "r+b") as file, filelock.locked(file, "rw", 8 * number, 8, timeout=10):
    file.seek(8 * number)
    count = int.from_bytes(file.read(8), "little") + 1
    file.seek(8 * number)
    file.write(count.to_bytes(8, "little"))
