"""Functions that run at once, each in a thread of its own."""

from __future__ import annotations

import threading


def together(*functions):
    """Run them at once, each in a thread; return what they return, or raise what one of them raised."""
    start = threading.Barrier(len(functions))
    results, errors = [None] * len(functions), []

    def body(n):
        try:
            start.wait()
            results[n] = functions[n]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(n,)) for n in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
