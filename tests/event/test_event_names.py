"""What names events can have and how long they live: the rules of all named objects."""

from __future__ import annotations

from named_contract import LifetimeContract, NameContract, Segment

from ipcio import event


class Events(Segment):
    module = event

    def mark(self, handle):
        handle.set()

    def is_managed(self, handle):
        return handle.is_set()


class TestNames(Events, NameContract):
    pass


class TestLifetime(Events, LifetimeContract):
    pass
