"""The protocol of a queue, searched to the end, and how it fails if a step is left out; see `queue_model`."""

from __future__ import annotations

import pytest
from campaigns import FACTOR, campaign
from queue_model import Protocol, Search

GET = ("get",)
SHUTDOWN = ("shutdown",)


def put(message):
    return ("put", message)


PAIRS = [put(1)], [put(2)], [GET], [GET]
SMALLER = {
    "two writers": ([put(1)], [put(2)], [GET]),
    "two readers": ([put(1)], [GET], [GET]),
    "one of each": ([put(1), put(2)], [GET, GET]),
}


@pytest.mark.parametrize("programs", SMALLER.values(), ids=SMALLER)
def test_no_wake_up_is_lost(programs):
    assert Search(*programs).run() > 500


@pytest.mark.parametrize("programs", SMALLER.values(), ids=SMALLER)
def test_a_process_may_be_killed_at_any_step(programs):
    """The others get and put whole messages, once, in order, and none sleeps for ever."""
    assert Search(*programs, kills=1, slices=True).run() > 500


if FACTOR >= 1:

    @campaign
    def test_two_writers_and_two_readers_of_which_two_are_killed():
        """As the tests above; this takes minutes."""
        assert Search(*PAIRS).run() > 100_000
        assert Search(*PAIRS, kills=2, slices=True).run() > 500_000


def test_a_shutdown_wakes_all_at_any_step():
    assert Search([put(1), put(2)], [GET], [SHUTDOWN]).run() > 500
    assert Search([put(1)], [GET], [SHUTDOWN], kills=1, slices=True).run() > 500


class CommitsFirst(Protocol):
    def store(self, tail, message):
        yield "commit", "tail", (tail[0] + 1, tail[1])
        yield "write", tail[0], None
        yield "write", tail[0], message


class FreesFirst(Protocol):
    def take(self, head):
        message = yield "read", head[0]
        yield "unlock", "readers"
        yield "lock", "readers"
        yield "commit", "head", (head[0] + 1, head[1]), message


class DoesNotLookAgain(Protocol):
    def get(self):
        outcome = yield from self.try_get()
        while not outcome:
            bell = yield "look", "readers bell"
            yield "set", "readers flag", 1
            yield "sleep", "readers bell", bell
            outcome = yield from self.try_get()
            del bell
        return outcome


class LooksAtTheFlagFirst(Protocol):
    def store(self, tail, message):
        self_flag = yield "look", "readers flag"
        yield from super().store(tail, message)
        if self_flag:
            yield "set", "readers flag", 0
            yield "ring", "readers bell"

    def release(self, ours, others):
        if ours == "writers":
            yield "unlock", ours
        else:
            yield from super().release(ours, others)


class ReadsTheBellLate(Protocol):
    def get(self):
        outcome = yield from self.try_get()
        while not outcome:
            yield "set", "readers flag", 1
            outcome = yield from self.try_get()
            if not outcome:
                bell = yield "look", "readers bell"
                yield "sleep", "readers bell", bell
                outcome = yield from self.try_get()
                del bell
        return outcome


class ClearsTheFlagLast(Protocol):
    def release(self, ours, others):
        yield "unlock", ours
        if (yield "look", f"{others} flag"):
            yield "ring", f"{others} bell"
            yield "set", f"{others} flag", 0


@pytest.mark.parametrize(
    ("protocol", "programs", "text"),
    [
        (CommitsFirst, ([put(1)], [GET]), "half of a message|another message"),
        (FreesFirst, ([put(1)], [GET], [GET]), "got twice"),
        (DoesNotLookAgain, ([put(1)], [GET]), "sleeps, and could go on"),
        (LooksAtTheFlagFirst, ([put(1)], [GET]), "sleeps, and could go on"),
        (ReadsTheBellLate, ([put(1)], [GET]), "sleeps, and could go on"),
        (ClearsTheFlagLast, ([put(1), put(2)], [GET, GET]), "sleeps, and could go on"),
    ],
)
def test_the_search_finds_each_step_that_is_left_out_or_comes_too_early(protocol, programs, text):
    with pytest.raises(AssertionError, match=text):
        Search(*programs, places=2, protocol=protocol).run()


def test_the_search_finds_that_a_killed_process_takes_a_wake_up_along():
    """That is what the slices are for."""
    with pytest.raises(AssertionError, match="sleeps, and could go on"):
        Search([put(1)], [GET], kills=1).run()
