"""Add up the numbers that `producer.py` sends; see there."""

import sys

from ipcio import sem, shm

NAME = sys.argv[1] if len(sys.argv) > 1 else "blocks"
LENGTH = 1 + 1000
PATIENCE = 30

free = sem.create(f"{NAME}-free", 2, exist_ok=True)
full = sem.create(f"{NAME}-full", 0, exist_ok=True)
memory = shm.create(NAME, 2 * 8 * LENGTH, exist_ok=True)
places = memory.getbuffer().cast("d", (2, LENGTH))

count, total, turn = 0, 0.0, 0
while True:
    if not full.dec(PATIENCE):
        sys.exit(f"no block for {PATIENCE} seconds: the producer has exited")
    length = int(places[turn, 0])
    total += sum(places[turn, at] for at in range(1, length + 1))
    count += length
    free.inc()
    turn = 1 - turn
    if not length:
        break
print(f"{count} numbers, {total} in all")
