"""Many processes at once: what each of them sees must fit together, whoever is killed when.

The campaigns are seeded and bounded by a number of steps.
"""

from __future__ import annotations

import itertools
import mmap as std_mmap
import os
import random
import signal
import struct
import time
from contextlib import ExitStack, closing

import pytest
from abilities import lacks
from campaigns import FACTOR, campaign, rounds
from children import Event, Forked, leave_orphan
from leftovers import descriptors
from named_contract import FILES, is_free
from stamped_lives import work

from ipcio import shm

DEADLINE = 40 * max(1, FACTOR)  # seconds until processes that wait for each other are a failed test


def there(name):
    return os.path.lexists(f"/dev/shm/{name}") if FILES else not is_free(shm, name)


class Board:
    """Counters shared by forked processes, one writer each: barriers without anything to test in them."""

    def __init__(self, slots):
        self._memory = std_mmap.mmap(-1, 8 * slots)
        self._slots = memoryview(self._memory).cast("Q")
        self._end = time.monotonic() + DEADLINE

    def __getitem__(self, slot):
        return self._slots[slot]

    def __setitem__(self, slot, value):
        self._slots[slot] = value

    def meet(self, slot, others):
        """Wait until everybody in `others` has been here as often."""
        self._slots[slot] += 1
        while any(self._slots[other] < self._slots[slot] for other in others):
            self.pause()

    def pause(self):
        os.sched_yield()
        assert time.monotonic() < self._end, "the others did not come"

    def close(self):
        self._slots.release()
        self._memory.close()


# -- coherence ---------------------------------------------------------------


def test_what_one_process_wrote_the_other_reads(name, peer):
    """From the moment that `write` returned, in both directions, however the bytes are looked at."""
    other = peer()
    with shm.create(name, 10_000) as h:
        other.run(f"h = shm.attach({name!r}); view = h.getbuffer(); r = shm.attach({name!r}, 'r')")
        chance = random.Random(1)
        for turn in range(100):
            at, data = chance.randrange(9_000), bytes([turn % 255 + 1]) * chance.randrange(1, 1000)
            h.seek(at)
            h.write(data)
            stop = at + len(data)
            assert other.ask(f"(h.seek({at}), h.read({len(data)}))[1] == {data!r} == view[{at}:{stop}].tobytes()")
            assert other.ask(f"(r.seek({at}), r.read({len(data)}))[1] == {data!r}")
            if not lacks("descriptors"):
                assert other.ask(f"os.pread(r.fileno(), {len(data)}, {at}) == {data!r}")
            other.run(f"h.seek({at}); h.write({data[::-1] + b'.'!r})")
            h.seek(at)
            assert h.read(len(data) + 1) == data + b"."


# -- exactly one -------------------------------------------------------------


@pytest.mark.needs("fork")
@campaign
@pytest.mark.parametrize("before", ["nothing", "an orphan", "a closing one"])
def test_of_many_creates_at_once_exactly_one_wins(name, before):
    """Also over an orphan, and none does while somebody holds the name."""
    players, turns = 4, rounds({"nothing": 125, "an orphan": 40, "a closing one": 250}[before])
    everybody = range(players + 1)
    board = Board(2 * players + 1)

    def play(me):
        for turn in range(turns):
            h = shm.create(name, 64, exist_ok=True) if before == "a closing one" and not me else None
            board.meet(me, everybody)
            if h is not None:
                h.close()
            try:
                h = shm.create(name, 100)
                board[players + 1 + me] = 1
            except FileExistsError:
                h = None
                board[players + 1 + me] = 0
            board.meet(me, everybody)
            # Everybody has tried, and nobody has closed.
            with closing(shm.attach(name)) as attached:
                assert attached.size() == 100, turn
            board.meet(me, everybody)
            if h is not None:
                h.close()
            board.meet(me, everybody)
            board.meet(me, everybody)  # the referee has looked
        return len(descriptors())

    with ExitStack() as stack:
        stack.callback(board.close)
        count = len(descriptors())
        forked = [stack.enter_context(Forked(play, me)) for me in range(players)]
        for turn in range(turns):
            if before == "an orphan":
                leave_orphan(lambda: shm.create(name, 70))
            board.meet(players, everybody)
            board.meet(players, everybody)
            winners = [board[players + 1 + me] for me in range(players)]
            assert sum(winners) == 1, (turn, winners)
            board.meet(players, everybody)
            board.meet(players, everybody)
            assert not there(name), turn
            board.meet(players, everybody)
        left = [process.result() for process in forked]
        assert max(left) <= count + players + 2  # pipes that later children inherited, no more
        assert not there(name)


@pytest.mark.needs("fork")
@campaign
@pytest.mark.parametrize("before", ["nothing", "an orphan"])
def test_of_many_exist_ok_creates_at_once_exactly_one_created(name, before):
    """And all of them have the same memory."""
    players, turns = 4, rounds(125 if before == "nothing" else 40)
    everybody = range(players + 1)
    board = Board(3 * players + 1)

    def play(me):
        for turn in range(turns):
            board.meet(me, everybody)
            with shm.create(name, 100, exist_ok=True) as h:
                board[players + 1 + 2 * me] = h.created
                board[players + 2 + 2 * me] = os.fstat(h.fileno()).st_ino if not lacks("descriptors") else 0
                if h.created:
                    h.write(struct.pack("Q", turn + 1))
                board.meet(me, everybody)
                assert struct.unpack_from("Q", h.getbuffer()) == (turn + 1,)
                board.meet(me, everybody)
            board.meet(me, everybody)
            board.meet(me, everybody)  # the referee has looked

    with ExitStack() as stack:
        stack.callback(board.close)
        forked = [stack.enter_context(Forked(play, me)) for me in range(players)]
        for turn in range(turns):
            if before == "an orphan":
                leave_orphan(lambda: shm.create(name, 70))
            board.meet(players, everybody)
            board.meet(players, everybody)
            created = [board[players + 1 + 2 * me] for me in range(players)]
            assert sum(created) == 1, (turn, created)
            assert len({board[players + 2 + 2 * me] for me in range(players)}) == 1, turn
            board.meet(players, everybody)
            board.meet(players, everybody)
            assert not there(name), turn
            board.meet(players, everybody)
        for process in forked:
            process.result()
        assert not there(name)


# -- no false absence, no false presence -------------------------------------


@pytest.mark.needs("fork")
@pytest.mark.parametrize("churn", ["attach and close", "create", "die"])
def test_a_held_name_is_never_absent_and_never_free(name, churn):
    """It is handed from process to process, while others come and go: no attach fails, no create succeeds."""
    runners, crowd, steps = 2, 2, rounds(3000)
    board = Board(runners + 1)
    stop = runners

    def run(me):
        # Lap by lap: tell that we hold, wait until the other holds, too, let go and come back.
        other = (me + 1) % runners
        h = shm.attach(name)
        lap = 0
        while not board[stop]:
            lap += 1
            board[me] = lap
            while board[other] < lap and not board[stop]:
                board.pause()
            if (lap + me) % 2 and not board[stop]:
                # The other holds, and will not let go before it has seen us back.
                h.close()
                h = shm.attach(name)
        board[me] = lap + 2**32
        while board[other] < 2**32:
            board.pause()
        h.close()
        return lap

    def mill(me, steps):
        chance = random.Random(me)
        for _ in range(steps):
            if churn == "create" or chance.random() < 0.3:
                with pytest.raises(FileExistsError):
                    shm.create(name, 10)
            else:
                with shm.attach(name, chance.choice(["r", "rw"])) as h:
                    assert h.size() == 4000
        return steps

    with ExitStack() as stack:
        stack.callback(board.close)
        h = shm.create(name, 4000)
        relay = [stack.enter_context(Forked(run, me)) for me in range(runners)]
        while any(board[me] < 1 for me in range(runners)):
            board.pause()
        h.close()
        if churn == "die":
            chance = random.Random(9)
            for number in range(rounds(40)):
                with Forked(mill, number, 10**9) as victim:
                    for _ in range(chance.randrange(30)):
                        board.pause()
                    if victim.kill() != -signal.SIGKILL:
                        victim.result()
        else:
            for process in [stack.enter_context(Forked(mill, number, steps)) for number in range(crowd)]:
                assert process.result() == steps
        board[stop] = 1
        for process in relay:
            assert process.result() > 1
        with pytest.raises(FileNotFoundError):
            shm.attach(name)
        assert not there(name)


# -- the campaign ------------------------------------------------------------


@pytest.mark.needs("fork")
@campaign
@pytest.mark.parametrize("unlinks", [False, True], ids=["", "with unlink"])
@pytest.mark.parametrize("kills", [0, 18], ids=["", "with kills"])
def test_processes_that_create_attach_close_and_are_killed_agree(unique, kills, unlinks):
    names = [unique() for _ in range(3)]
    chance = random.Random(kills + unlinks)
    seeds = itertools.count(1)
    workers = 3
    with ExitStack() as stack:
        if not kills:
            running = [
                stack.enter_context(Forked(lambda s: work(s, names, rounds(1000), unlinks=unlinks), next(seeds)))
                for _ in range(workers)
            ]
            assert [process.result() for process in running] == [0] * workers
            assert not any(map(there, names))
        else:
            endless = [Forked(lambda s: work(s, names, 10**9, unlinks=unlinks), next(seeds)) for _ in range(workers)]
            try:
                for _ in range(rounds(kills)):
                    # Some steps of our own between two kills: that is what we would notice.
                    assert work(next(seeds), names, chance.randrange(30), unlinks=unlinks) == 0
                    victim = endless.pop(chance.randrange(workers))
                    os.kill(victim.pid, signal.SIGKILL)
                    if victim.wait() != -signal.SIGKILL:
                        victim.result()
                    endless.append(Forked(lambda s: work(s, names, 10**9, unlinks=unlinks), next(seeds)))
            finally:
                statuses = [process.kill() for process in endless]
            assert statuses == [-signal.SIGKILL] * workers
    for name in names:
        with shm.create(name, 10) as h:
            assert h.created
        assert not there(name)


@pytest.mark.needs("fork")
def test_a_killed_creator_never_shows_half_of_a_segment(name):
    """It is killed at random moments of endless creating; whoever attaches sees all or nothing."""
    size = 300_000  # long enough to be hit in the middle of the reservation

    def create_for_ever():
        while True:
            try:
                with shm.create(name, size) as h:
                    h.getbuffer()[:2] = h.getbuffer()[-2:] = b"ok"
            except FileExistsError:  # the attached is the last holder
                pass

    seen = 0
    chance = random.Random(3)
    for _ in range(rounds(60)):
        with Forked(create_for_ever) as creator:
            looks = chance.randrange(20, 60)
            while looks > 0 or not seen:  # at least once in all of the rounds
                looks -= 1
                try:
                    with shm.attach(name) as h:
                        assert h.size() == size
                        assert h.read(2) in {bytes(2), b"ok"}
                        seen += 1
                except FileNotFoundError:
                    os.sched_yield()
            assert creator.kill() == -signal.SIGKILL
        with pytest.raises(FileNotFoundError):
            shm.attach(name)
        assert not there(name)


@pytest.mark.needs("fork")
def test_children_forked_in_the_midst_of_it_hold_what_they_inherited(name):
    """A chain of processes, each forked from the last holder: the name goes with the last of them."""
    links = 30

    def link(number, h, go):
        if not number:
            go.wait()
            with shm.attach(name) as other:
                assert other.read(2) == b"ok"
            h.close()
            return
        with Forked(link, number - 1, h, go) as following:
            h.close()
            following.result()

    with Event() as go:
        h = shm.create(name, 100)
        h.write(b"ok")
        with Forked(link, links, h, go) as first:
            h.close()
            with shm.attach(name) as other:
                assert other.read(2) == b"ok"
            with pytest.raises(FileExistsError):
                shm.create(name, 10)
            go.set()
            first.result()
    assert not there(name)
