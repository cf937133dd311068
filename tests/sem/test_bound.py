"""`sem.create(max=)`: a release past the bound is a `ValueError`, and nothing has changed."""

from __future__ import annotations

import pickle
import threading
from contextlib import closing

import pytest

from ipcio import sem

KINDS = pytest.mark.parametrize(
    "undo",
    [
        pytest.param(False, marks=pytest.mark.needs("value")),
        pytest.param(True, marks=pytest.mark.needs("undo")),
    ],
)
PAST = pytest.mark.parametrize(
    "release",
    [
        lambda s: s.release(),
        lambda s: s.inc(),
        lambda s: s.release(2),
        lambda s: s.inc(3),
        lambda s: s.__exit__(None, None, None),
    ],
    ids=["release", "inc", "release(2)", "inc(3)", "exit"],
)


def refuses(s, release) -> bool:
    with pytest.raises(ValueError, match=r"the bound of semaphore .*, max=2"):
        release(s)
    return s.value == 2


@KINDS
@PAST
def test_a_release_past_the_bound_is_a_value_error_and_changes_nothing(name, undo, release):
    with closing(sem.create(name, 2, max=2, undo=undo)) as s:
        assert refuses(s, release)
        assert s.dec(0)
        s.release()
        with s:
            assert s.value == 1
        assert s.acquire(timeout=1)
        assert s.dec(0)
        assert s.inc(2)
        assert refuses(s, release)
    with pytest.raises(ValueError, match="closed"):
        s.release()


@KINDS
def test_a_pickled_copy_has_the_bound(name, undo):
    with closing(sem.create(name, 2, max=2, undo=undo)) as s, closing(pickle.loads(pickle.dumps(s))) as copy:
        assert refuses(copy, lambda s: s.release())
        with closing(pickle.loads(pickle.dumps(copy))) as another:
            assert refuses(another, lambda s: s.inc(1))


@pytest.mark.needs("undo")
def test_the_bound_of_a_crash_safe_semaphore_is_the_semaphores(name, peer):
    """Whichever process attaches it; the bound of a plain one is the handle's."""
    other = peer()
    with closing(sem.create(name, 1, max=2, undo=True, persist=True)) as s:
        other.run(f"s = sem.attach({name!r}); s.inc()")
        with pytest.raises(ValueError, match="max=2"):
            s.inc()
        other.run("try: s.inc(2)\nexcept ValueError as e: text = str(e)")
        assert "max=2" in other.ask("text")
        with closing(sem.create(name, 9, max=9, exist_ok=True, undo=True)) as same:
            assert refuses(same, lambda s: s.release())
    sem.unlink(name)


@pytest.mark.needs("value")
def test_an_existing_plain_semaphore_gets_the_bound_of_the_handle(name):
    with closing(sem.create(name, 2)) as s:
        with closing(sem.create(name, 2, max=2, exist_ok=True)) as bounded:
            assert refuses(bounded, lambda s: s.release())
        s.inc(3)
        assert s.value == 5


@pytest.mark.needs("undo", "signals")
def test_what_the_kernel_gives_back_is_not_limited(name, peer):
    """A permit that another process released for the one that was killed comes once more."""
    with closing(sem.create(name, 2, max=2, undo=True)) as s:
        other = peer()
        other.run(f"s = sem.attach({name!r}); s.dec()")
        s.inc()
        other.kill()
        assert s.value == 3
        with pytest.raises(ValueError, match="max=2"):
            s.inc()
        for _ in range(3):
            assert s.dec(0)
        s.inc(2)
        assert s.value == 2


@pytest.mark.needs("undo")
def test_a_kernel_without_a_maximum_is_not_asked_to_compare(name, monkeypatch):
    """As that of macOS: the value is read before the release, in a step of its own."""
    from ipcio._posix import sysv

    monkeypatch.setattr(sysv, "KERNEL_HAS_MAXIMUM", False)
    with closing(sem.create(name, 2, max=2, undo=True)) as s:
        for release in (lambda s: s.release(), lambda s: s.inc(3), lambda s: s.__exit__(None, None, None)):
            assert refuses(s, release)
        with s:
            assert s.value == 1
        assert s.dec(0)
        assert s.dec(0)
        assert s.inc(2)
        assert refuses(s, lambda s: s.inc())


@pytest.mark.needs("undo")
def test_releases_of_a_crash_safe_semaphore_at_once_never_pass_the_bound(name):
    """The kernel compares and releases in one step."""
    refused = []

    def release(s):
        for _ in range(500):
            try:
                s.inc()
            except ValueError:
                refused.append(1)

    with closing(sem.create(name, 0, max=700, undo=True)) as s:
        threads = [threading.Thread(target=release, args=(s,)) for _ in range(2)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert s.value == 700
        assert len(refused) == 300


@KINDS
def test_what_max_may_be(name, undo):
    for value, bound in (1, 0), (0, 0), (3, 2), (1, -1):
        with pytest.raises(ValueError, match="max must be"):
            sem.create(name, value, max=bound, undo=undo)
    with pytest.raises(TypeError):
        sem.create(name, 1, max=1.5, undo=undo)
    with pytest.raises(OverflowError):
        sem.create(name, 1, max=1 << 31, undo=undo)
    with closing(sem.create(name, 0, max=32767, undo=undo)) as s:
        s.inc(32767)
        with pytest.raises(ValueError, match="max=32767"):
            s.inc()


@pytest.mark.able(probe=lambda: not _says_values())
def test_a_plain_one_is_refused_where_the_system_does_not_say_the_value(name):
    with pytest.raises(NotImplementedError, match="undo=True"):
        sem.create(name, 1, max=2)
    sem.create(name, 1).close()


def _says_values() -> bool:
    with closing(sem.create(None)) as s:
        try:
            return s.value == 1
        except NotImplementedError:
            return False
