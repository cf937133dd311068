"""What names queues can have and how long they live: the rules of all named objects."""

from __future__ import annotations

import pytest
from named_contract import LifetimeContract, NameContract, Segment

from ipcio import queue


class Queues(Segment):
    module = queue
    arguments = (100,)

    def mark(self, handle):
        handle.put(b"mark")

    def is_managed(self, handle):
        return not handle.empty()

    def lives(self, name):
        try:
            return super().lives(name)
        except PermissionError:  # it is another user's, and for that user alone
            return True


@pytest.mark.sampled(3, turn=2)
class TestNames(Queues, NameContract):
    # Not with 0o066: the locks of a queue for others require that its owner can open it once more.
    @pytest.mark.needs("users")
    @pytest.mark.parametrize("perm", [0, 0o200, 0o100])
    def test_an_owner_without_access_to_an_object_can_use_its_name_again(self, name, perm, peer):
        super().test_an_owner_without_access_to_an_object_can_use_its_name_again(name, perm, peer)


@pytest.mark.sampled(3, turn=2)
class TestLifetime(Queues, LifetimeContract):
    pass
