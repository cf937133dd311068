"""`frame_ring.py` with `multiprocessing.shared_memory` and `multiprocessing.Semaphore`."""

import multiprocessing
from multiprocessing import shared_memory

import numpy as np

SHAPE, SLOTS, COUNT = (480, 640, 3), 4, 100


def camera(name, free, full):
    memory = shared_memory.SharedMemory(name)
    ring = np.ndarray((SLOTS, *SHAPE), "u1", memory.buf)
    for number in range(COUNT):
        free.acquire()
        ring[number % SLOTS] = number
        full.release()
    del ring
    memory.close()


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    memory = shared_memory.SharedMemory(create=True, size=SLOTS * 480 * 640 * 3)
    try:
        free, full = context.Semaphore(SLOTS), context.Semaphore(0)
        process = context.Process(target=camera, args=(memory.name, free, full))
        process.start()
        ring = np.ndarray((SLOTS, *SHAPE), "u1", memory.buf)
        total = 0
        for number in range(COUNT):
            if not full.acquire(timeout=30):
                raise SystemExit("the camera has not sent a frame for 30 seconds")
            total += int(ring[number % SLOTS].max())
            free.release()
        process.join()
        print(f"{COUNT} frames, {total} in all")
        del ring
    finally:
        memory.close()
        memory.unlink()
