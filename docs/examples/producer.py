"""Send numbers to `consumer.py`, block by block, through two places in shared memory.

In two terminals, in any order:

    python producer.py            python consumer.py

While the consumer reads one block, the producer fills the other.
"""

import sys

from ipcio import sem, shm

NAME = sys.argv[1] if len(sys.argv) > 1 else "blocks"
LENGTH = 1 + 1000  # the count of the numbers in the block, and the numbers
PATIENCE = 30  # seconds without an answer after which this program exits

free = sem.create(f"{NAME}-free", 2, exist_ok=True)  # places that may be filled
full = sem.create(f"{NAME}-full", 0, exist_ok=True)  # places that may be read
memory = shm.create(NAME, 2 * 8 * LENGTH, exist_ok=True)
places = memory.getbuffer().cast("d", (2, LENGTH))


def take_a_free_place():
    if not free.dec(PATIENCE):
        sys.exit(f"no free place for {PATIENCE} seconds: the consumer has exited")


turn = 0
for start in [*range(0, 10_000, 1000), None]:
    take_a_free_place()
    numbers = [] if start is None else [number / 4 for number in range(start, start + 1000)]
    places[turn, 0] = len(numbers)  # an empty block: the end
    for at, number in enumerate(numbers, 1):
        places[turn, at] = number
    full.inc()
    turn = 1 - turn

take_a_free_place()  # keep the names until everything has been read
take_a_free_place()
print("sent")
