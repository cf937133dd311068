"""What names events can have and how long they live: the rules of all named objects."""

from __future__ import annotations

import pytest
from named_contract import LifetimeContract, NameContract, Segment

from ipcio import event


class Events(Segment):
    module = event

    def mark(self, handle):
        handle.set()

    def is_managed(self, handle):
        return handle.is_set()


@pytest.mark.sampled(3, turn=1)
class TestNames(Events, NameContract):
    pass


@pytest.mark.sampled(3, turn=1)
class TestLifetime(Events, LifetimeContract):
    pass
