"""A queue of jobs, each with memory of its own: the sender keeps a handle until the answer has come."""

import multiprocessing

from ipcio import shm


def work(jobs, answers):
    while (job := jobs.get()) is not None:
        number, h = job  # attached by unpickling
        with h:
            answers.put((number, sum(h.read())))


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    jobs, answers = context.Queue(), context.Queue()
    worker = context.Process(target=work, args=(jobs, answers))
    worker.start()

    waiting = {}
    for number in range(5):
        h = shm.create(None, 1000)
        h.write(bytes([number]) * 1000)
        h.seek(0)  # the copy starts at the same position
        waiting[number] = h  # keeps the name until the answer
        jobs.put((number, h))
    jobs.put(None)

    total = 0
    while waiting:
        number, result = answers.get()
        waiting.pop(number).close()
        total += result
    print(total)
    worker.join()
