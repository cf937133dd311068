"""What is short, missing or another user's is an error that names the thing, or no trouble at all.

Each world is the campaign's, with the same chance each time; there it is another one each round.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
from campaign import limits
from children import Forked

from ipcio import sem, shm

pytestmark = pytest.mark.able(probe=limits.can_go_apart)

HERE = {name: (5, 1, 2) if name == "open_files_short" else (2, 3) for name in limits.WORLDS}
CASES = [
    pytest.param(name, seed, marks=[pytest.mark.root] if name in limits.ROOT else [])
    for name in limits.WORLDS
    if name != "thousands_of_names"
    for seed in HERE[name]
]


@pytest.mark.parametrize(("name", "seed"), CASES)
@pytest.mark.sampled(3)
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


CREATE = {
    "shm.create": lambda: shm.create("x", 10),
    "shm.create, invented": lambda: shm.create(None, 10),
    "shm.create, exist_ok": lambda: shm.create("x", 10, exist_ok=True),
    "shm.create, persist": lambda: shm.create("x", 10, persist=True),
    "sem.create": lambda: sem.create("x"),
    "sem.create, undo": lambda: sem.create("x", undo=True),
}
ATTACH = {
    "shm.attach": lambda: shm.attach("x"),
    "shm.unlink": lambda: shm.unlink("x"),
    "sem.attach": lambda: sem.attach("x"),
    "sem.unlink": lambda: sem.unlink("x"),
}
WITHOUT = """
from ipcio import sem, shm
for call in (
    lambda: shm.create("x", 10), lambda: shm.create("x", 10, exist_ok=True), lambda: shm.attach("x"),
    lambda: shm.unlink("x"), lambda: sem.create("x"), lambda: sem.attach("x"), lambda: sem.unlink("x"),
):
    try:
        call()
        raise AssertionError
    except FileNotFoundError as error:
        assert "/dev/shm is missing" in str(error) and error.filename == "x", error
"""


def test_what_is_the_matter_with_dev_shm_is_named():
    """Where it is read-only, not this user's to write, or missing, also when the program starts."""

    def refused(calls, kind, text):
        for call in calls.values():
            with pytest.raises(kind, match=text) as caught:
                call()
            assert caught.value.filename

    def worlds():
        limits.go_apart()
        limits.mount(limits.SHM, flags=limits.REMOUNT | limits.READ_ONLY)
        refused(CREATE, OSError, "/dev/shm is mounted read-only")
        limits.mount("/dev")
        refused({**CREATE, **ATTACH}, FileNotFoundError, "/dev/shm is missing")
        path = os.pathsep.join(entry for entry in sys.path if entry)
        subprocess.run([sys.executable, "-c", WITHOUT], env={**os.environ, "PYTHONPATH": path}, check=True)

    def forbidden():
        limits.go_apart("size=1m,mode=755")
        os.setgroups([])
        os.setresuid(65534, 65534, 65534)
        refused(CREATE, PermissionError, "may not create anything in /dev/shm")

    Forked(worlds).result()
    if not os.geteuid():
        Forked(forbidden).result()
