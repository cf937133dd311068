"""What a part of the campaign is.

The module ``campaign.NAME`` has one function for the part of that name::

    @part("kills")
    def setup(place):
        ...                    # once; `place` is an empty directory, gone afterwards
        def one_round(rng):    # one attack; all chance is taken from `rng`
            ...
            assert ...         # a failure is a loss
            return {"kills": 3, "faults": 0}
        yield one_round
        ...                    # the end; a failure here is a loss, too

`one_round` returns how much it did, under "kills", "faults" or any other word; what cannot be added up it may
leave as text in ``one_round.note``.  After the part nothing
may be left: names, System V sets, descriptors, children, threads.  What a part needs and the machine has
not, it says by raising `Unable`, in `setup` or before.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

Round = Callable[[random.Random], Mapping[str, int]]


class Unable(Exception):  # noqa: N818 - it is raised for what is no error
    """What this machine, or this user, lacks for a part."""


class Part:
    """One way to attack; its module is loaded when it is first opened."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.setup: Callable[[Path], AbstractContextManager[Round]] | None = None

    def open(self, place: Path) -> AbstractContextManager[Round]:
        """Prepare it; the context is what does one round."""
        if self.setup is None:
            try:
                importlib.import_module(f"campaign.{self.name}")
            except ModuleNotFoundError as error:  # as `fcntl` on Windows, or a package that is not installed
                if (error.name or "campaign").partition(".")[0] in {"campaign", "ipcio"}:
                    raise
                raise Unable(f"there is no module {error.name} here") from error
        assert self.setup is not None, f"campaign.{self.name} has no @part({self.name!r})"
        return self.setup(place)


PARTS = {name: Part(name) for name in ("kills", "failure", "interleaving", "limits", "input", "soak")}


def part(name: str) -> Callable[[Callable[[Path], Iterator[Round]]], Callable[[Path], AbstractContextManager[Round]]]:
    """Make a generator function the part of that name."""

    def register(setup):
        PARTS[name].setup = contextlib.contextmanager(setup)
        return PARTS[name].setup

    return register


_numbers = itertools.count()


def new_name() -> str:
    """A short name that nobody else uses, and that `leftovers` knows for ours."""
    return f"ipcio-{os.getpid()}-{next(_numbers)}"


def chance(seed: int, name: str, number: int) -> random.Random:
    """All the chance there is in a round."""
    return random.Random(f"{seed}:{name}:{number}")
