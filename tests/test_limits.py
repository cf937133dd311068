"""What is short, missing or somebody else's is an error that names the thing, or no trouble at all.

Each world is the campaign's, with the same chance each time; there it is another one each round.
"""

from __future__ import annotations

import os
import random

import pytest
from campaign import limits
from children import Forked

pytestmark = pytest.mark.able(probe=limits.can_go_apart)

HERE = {name: (5, 1, 2) if name == "open_files_short" else (2, 3) for name in limits.WORLDS}
CASES = [
    pytest.param(name, seed, marks=[pytest.mark.root] if name in limits.ROOT else [])
    for name in limits.WORLDS
    if name != "thousands_of_names"
    for seed in HERE[name]
]


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_what_is_short_or_missing_is_an_error_that_leaves_nothing_and_passes(name, seed):
    done = Forked(limits.WORLDS[name], random.Random(seed)).result()
    assert done["operations"] >= 7


def test_five_hundred_names_are_listed_and_removed():
    assert Forked(limits.many_names, 500, random.Random(1)).result()["names"] == 500


def test_an_operation_that_leaves_something_or_names_nothing_is_found():
    def worlds():
        limits.go_apart()
        kept = []

        def leaves_a_name():
            open("/dev/shm/left", "wb").close()

        def leaves_a_descriptor():
            kept.append(os.open("/dev/null", os.O_RDONLY))

        def names_nothing():
            raise OSError(28, "full")

        for operation in (leaves_a_name, leaves_a_descriptor, names_nothing):
            with pytest.raises(AssertionError, match=operation.__name__):
                limits.attempt(operation)

    Forked(worlds).result()
