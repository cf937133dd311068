"""Ctrl-C after any call within `create` or `attach`: what was open is closed, and nothing stays locked or listed."""

from __future__ import annotations

import gc
import itertools
from contextlib import closing

import pytest
from campaigns import places
from leftovers import descriptors
from troubles import interrupted_after, ours

from ipcio import _forklock, _unowned, event, mutex, queue, sem, shm

KINDS = {"shm": (shm, 100), "sem": (sem, 1), "event": (event,), "mutex": (mutex,), "queue": (queue, 100)}


def listed():
    """What belongs to no handle, and what a fork would wait for."""
    return [
        *_unowned.held_by_calls,
        *_unowned.closed_by,
        *_unowned._descriptors,
        *_unowned._memories,
        *_forklock.fork_waits_for,
    ]


@pytest.mark.needs("files")
@pytest.mark.parametrize("call", ["create", "attach"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_call_leaves_nothing(kind, call, unique):
    module, *arguments = KINDS[kind]
    with closing(module.create(unique(), *arguments)) as other:
        function, *words = (module.attach, other.name) if call == "attach" else (module.create, unique(), *arguments)
        function(*words).close()  # imports
        for at in places():
            gc.collect()
            before = descriptors()
            made = []
            was_interrupted = interrupted_after(
                at, lambda made=made: made.extend(itertools.starmap(function, (words,))), ours
            )
            assert not listed(), f"interrupted after call {at}"
            assert not _forklock.fork_lock._is_owned(), f"interrupted after call {at}"
            while made:
                made.pop().close()
            gc.collect()
            assert descriptors() == before, f"interrupted after call {at}"
            if not was_interrupted:
                break
        assert at > 10
