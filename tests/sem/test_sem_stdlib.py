"""The standard library's own tests of semaphores, over ours."""

from __future__ import annotations

import contextlib
import importlib.util
import unittest
from operator import attrgetter

import pytest

from ipcio import sem

try:
    from test import lock_tests
except ImportError:  # distributions have it in a package of its own
    lock_tests = None


def shipped() -> bool:
    return lock_tests is not None and importlib.util.find_spec("test._test_multiprocessing") is not None


pytestmark = pytest.mark.able(probe=shipped)


def create(value=1, undo=False):
    return sem.create(None, value, undo=undo)


def attach(value=1, undo=False):
    """The same by a handle that came later, with nothing of the one that made it."""
    with contextlib.closing(create(value, undo)) as made:
        return sem.attach(made.name)


needs_undo = pytest.mark.needs("undo")
MAKERS = {
    "created": create,
    "attached": attach,
    "created, crash-safe": pytest.param(lambda value=1: create(value, undo=True), marks=needs_undo),
    "attached, crash-safe": pytest.param(lambda value=1: attach(value, undo=True), marks=needs_undo),
}

LEFT_OUT = {
    "test_repr": "it is how threading's look; ours tell the name, by which others find them",
}


def names() -> list[str]:
    if not shipped():
        return ["test_acquire"]  # for something to be left out
    return [name for name in dir(lock_tests.SemaphoreTests) if name.startswith("test_") and name not in LEFT_OUT]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("name", names())
@pytest.mark.sampled(4)
def test_as_threading_tests_its_own(name, make):
    case = type("Case", (lock_tests.SemaphoreTests,), {"semtype": staticmethod(make)})(name)
    case.debug()  # runs it with what belongs to it, and lets its errors through


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_as_multiprocessing_tests_its_own(make, monkeypatch):
    """But for its test of timeouts: multiprocessing takes one with a call that is not to block, threading does not."""
    from test import _test_multiprocessing

    monkeypatch.setattr(_test_multiprocessing, "get_value", attrgetter("value"))
    case = type("Case", (_test_multiprocessing._TestSemaphore, unittest.TestCase), {"Semaphore": staticmethod(make)})
    case("test_semaphore").debug()
