"""What names mutexes can have and how long they live: the rules of all named objects."""

from __future__ import annotations

import threading

import pytest
from named_contract import LifetimeContract, NameContract, Segment

from ipcio import mutex


class Mutexes(Segment):
    module = mutex

    def mark(self, handle):
        """Have a thread acquire it and end."""
        thread = threading.Thread(target=handle.acquire)
        thread.start()
        thread.join()

    def is_managed(self, handle):
        if not handle.acquire(timeout=5):
            return True
        was_abandoned = handle.abandoned
        handle._lock.give_back()
        return was_abandoned

    def lives(self, name):
        try:
            return super().lives(name)
        except PermissionError:  # it is another user's, and for that user alone
            return True


@pytest.mark.sampled(3, turn=0)
class TestNames(Mutexes, NameContract):
    pass


@pytest.mark.sampled(3, turn=0)
class TestLifetime(Mutexes, LifetimeContract):
    pass
