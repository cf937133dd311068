"""A ring of frames: a camera process fills four frames in turn, and this process reads them without a copy."""

import multiprocessing

import numpy as np

from ipcio import sem, shm

SHAPE, SLOTS, COUNT = (480, 640, 3), 4, 100


def camera(memory, free, full):
    ring = np.frombuffer(memory.getbuffer(), "u1").reshape(SLOTS, *SHAPE)
    for number in range(COUNT):
        free.dec()
        ring[number % SLOTS] = number
        full.inc()


if __name__ == "__main__":
    with shm.create(None, SLOTS * 480 * 640 * 3) as memory:
        free, full = sem.create(None, SLOTS), sem.create(None, 0)
        process = multiprocessing.get_context("spawn").Process(target=camera, args=(memory, free, full))
        process.start()
        ring = np.frombuffer(memory.getbuffer(), "u1").reshape(SLOTS, *SHAPE)
        total = 0
        for number in range(COUNT):
            if not full.dec(timeout=30):
                raise SystemExit("the camera has not sent a frame for 30 seconds")
            total += int(ring[number % SLOTS].max())
            free.inc()
        process.join()
        print(f"{COUNT} frames, {total} in all")
