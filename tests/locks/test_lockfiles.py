"""Lock files: `filelock.locked` with a path, and waiting without blocking an event loop."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import loops
import pytest
from children import Forked
from loops import Ticking
from waiting import until_it_waits

from ipcio import _filelock, filelock
from ipcio.filelock import lock, lock_async, locked, query, trylock

DEADLINE = 30  # seconds until what does not happen is a failed test
NOBODY = 65534

pytestmark = pytest.mark.needs("open file locks")
posix = pytest.mark.needs("posix")


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "lock")


def is_free(path):
    with open(path, "r+b") as file:
        return query(file) is None


class Holder:
    """Another process that has the lock of a path until it is asked to leave the block."""

    def __init__(self, peer, path, mode="rw"):
        self.peer = peer("from ipcio import filelock", f"l = filelock.locked({path!r}, {mode!r})", "f = l.__enter__()")

    def leave(self, last_act="None"):
        self.peer.run(f"{last_act}; l.__exit__(None, None, None)")


# -- what is opened, and how -----------------------------------------------------


@pytest.mark.parametrize("kind", [str, os.fsencode, os.PathLike], ids=["str", "bytes", "PathLike"])
def test_a_lock_file_is_made_and_opened_for_the_block(tmp_path, path, kind):
    with locked(tmp_path / "lock" if kind is os.PathLike else kind(path), "rw", 3, 4) as file:
        assert os.fspath(file.name) == (kind(path) if kind is os.fsencode else path)
        assert (file.mode, os.get_inheritable(file.fileno())) == ("rb+", False)
        file.write(b"contents")
        with open(path, "r+b") as other:
            assert query(other, "rw", 3, 4)[:3] == (3, 4, "rw")
    assert file.closed
    assert is_free(path)
    with locked(path, "r") as file, locked(path, "r"):
        assert (file.read(), file.mode) == (b"contents", "rb")


@pytest.mark.needs("permissions")
@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_a_new_one_is_for_its_user_alone(path, umask):
    before = os.umask(umask)
    try:
        with locked(path, "r"):
            assert os.stat(path).st_mode & 0o777 == 0o600
        with locked(path):
            pass
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (ValueError, ("x",)),
        (ValueError, ("rw", -1)),
        (ValueError, ("rw", 0, -1)),
        (ValueError, ("rw", 2**63 - 1, 2)),
        (TypeError, ("rw", "0")),
    ],
)
def test_a_wrong_argument_makes_no_file(path, error, arguments):
    with pytest.raises(error), locked(path, *arguments):
        pass
    with pytest.raises(ValueError, match="NaN"), locked(path, timeout=float("nan")):
        pass
    assert not os.path.exists(path)


@posix
@pytest.mark.parametrize("mode", ["r", "rw"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, mode):
    os.mkfifo(tmp_path / "fifo")
    for bad, number in [
        ("fifo", errno.ENODEV),
        ("/dev/tty", errno.ENODEV),
        ("/dev/null", errno.ENODEV),
        ("", errno.EISDIR),
    ]:
        with pytest.raises(OSError) as caught, locked(tmp_path / bad, mode, timeout=DEADLINE):
            pass
        assert (caught.value.errno, os.fspath(caught.value.filename)) == (number, os.fspath(tmp_path / bad))
    with pytest.raises(FileNotFoundError), locked(tmp_path / "missing" / "lock"):
        pass
    with pytest.raises(TypeError, match=r"locked\(\)"):
        lock(str(tmp_path / "lock"))


@pytest.mark.root
@posix
def test_a_user_with_permission_to_read_gets_shared_locks(tmp_path, path):
    """Neither the file nor the directory can be written."""
    with open(path, "wb"):
        pass
    os.chmod(path, 0o644)
    each, top = tmp_path, Path(tempfile.gettempdir())
    while each not in {top, each.parent}:
        os.chmod(each, 0o755)
        each = each.parent

    def share():
        os.setuid(NOBODY)
        with locked(path, "r"), open(path, "rb") as other:
            with pytest.raises(PermissionError), locked(path, timeout=0):
                pass
            with pytest.raises(PermissionError), locked(f"{path}-new", timeout=0):
                pass
            return query(other, "rw")[:3]

    assert Forked(share).result() == (0, 0, "r")


# -- links -----------------------------------------------------------------------


@pytest.mark.needs("links", "posix")
def test_links_of_the_users_own_are_followed(tmp_path, path):
    os.symlink("two", tmp_path / "one")
    os.symlink(path, tmp_path / "two")
    for _ in range(2):  # to a file that is made, and to one that is there
        with locked(tmp_path / "one"):
            assert not is_free(path)
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(OSError) as caught, locked(tmp_path / "loop"):
        pass
    assert caught.value.errno == errno.ELOOP


@pytest.mark.root
@pytest.mark.needs("links", "posix")
@pytest.mark.parametrize("exists", [False, True])
def test_links_of_others_are_not_followed(tmp_path, path, exists):
    if exists:
        with open(path, "wb"):
            pass
    os.symlink(path, tmp_path / "theirs")
    os.lchown(tmp_path / "theirs", NOBODY, -1)
    os.symlink("theirs", tmp_path / "ours")
    for link in ("theirs", "ours"):
        with pytest.raises(PermissionError, match="another user"), locked(tmp_path / link):
            pass
    assert os.path.exists(path) == exists


# -- the usual game ----------------------------------------------------------------


LAST_ACTS = {
    "removed": "import os; os.unlink({0!r})",
    "replaced": "import os; open({0!r} + '-new', 'w').close(); os.rename({0!r} + '-new', {0!r})",
}


@posix
@pytest.mark.parametrize("act", LAST_ACTS)
@pytest.mark.parametrize("timeout", [None, DEADLINE])
def test_a_waiter_wants_the_file_that_the_path_means(peer, path, act, timeout):
    holder = Holder(peer, path)
    waiter = peer("from ipcio import filelock")
    waiter.send(
        "ask",
        f"[None for f in [filelock.locked({path!r}, timeout={timeout}).__enter__()] "
        f"if globals().update(f=f)] or os.path.samestat(os.fstat(f.fileno()), os.stat({path!r}))",
    )
    until_it_waits(waiter.pid)
    holder.leave(LAST_ACTS[act].format(path))
    assert waiter.answer() is True
    assert not is_free(path)


@posix
def test_one_after_the_other_though_each_removes_the_file(tmp_path, path):
    """A count that each of several processes adds to, with the lock file removed as the last act."""
    times, processes = 60, 3
    count = tmp_path / "count"
    count.write_text("0")

    def add():
        for _ in range(times):
            with locked(path):
                count.write_text(str(int(count.read_text()) + 1))
                os.unlink(path)

    for child in [Forked(add) for _ in range(processes)]:
        child.result()
    assert int(count.read_text()) == times * processes


@pytest.mark.parametrize("timeout", [0, 0.1])
def test_the_time_is_that_of_all_tries_together(monkeypatch, path, timeout):
    """The path never means what was opened."""
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    with pytest.raises(TimeoutError, match="each time") as caught, locked(path, timeout=timeout):
        pass
    assert caught.value.filename == path

    async def enter():
        async with locked(path, timeout=timeout):
            pass

    with pytest.raises(TimeoutError, match="each time"):
        asyncio.run(enter())


def test_a_holder_is_named_and_the_error_tells_the_path(peer, path):
    Holder(peer, path)
    with pytest.raises(TimeoutError) as caught, locked(path, timeout=0.2):
        pass
    assert (caught.value.errno, caught.value.filename) == (errno.ETIMEDOUT, path)


def test_threads_may_use_one_object(path):
    guard, total, together = locked(path), 0, locked(path + "-shared", "r")
    inside = threading.Barrier(3)

    def add():
        nonlocal total
        for _ in range(50):
            with guard:
                before = total
                time.sleep(0)
                total = before + 1
        with together as file:
            inside.wait(DEADLINE)
            assert file.read() == b""

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert total == 150
    assert is_free(path)
    assert is_free(path + "-shared")


@pytest.mark.needs("full")
def test_what_cannot_be_written_is_raised_and_the_file_is_closed(monkeypatch, path):
    """The lock goes with the file, for the block is over."""
    monkeypatch.setattr(_filelock.backend, "open_path", lambda *_: os.open("/dev/full", os.O_RDWR | os.O_CLOEXEC))
    monkeypatch.setattr(os.path, "samestat", lambda *_: True)
    with open(path, "wb"):
        pass
    guard = locked(path)
    file = guard.__enter__()
    file.write(b"x")
    with pytest.raises(OSError) as caught:
        guard.__exit__(None, None, None)
    assert caught.value.errno == errno.ENOSPC
    assert file.closed


# -- event loops -------------------------------------------------------------------


@pytest.fixture(params=loops.NAMES)
def run(request):
    return loops.runner(request.param)


def test_a_loop_goes_on_while_a_task_waits(run, peer, path):
    holder = Holder(peer, path)

    async def main(file):
        with pytest.raises(TimeoutError, match="locked by") as caught:
            await lock_async(file, timeout=0.05)
        assert caught.value.filename == path
        waiting = Ticking(lock_async(file))
        await waiting.go_on()
        holder.peer.send("run", "l.__exit__(None, None, None)")
        assert await waiting.result() is True
        assert not is_free(path)

    with open(path, "r+b") as file:
        run(main(file))
    assert is_free(path)


@pytest.mark.parametrize("by_path", [False, True])
def test_a_cancelled_task_holds_nothing(run, path, by_path):
    with open(path, "w+b") as holder, open(path, "r+b") as file:
        lock(holder)

        async def enter():
            async with locked(path if by_path else file):
                raise AssertionError

        async def main():
            task = asyncio.ensure_future(enter())
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            filelock.unlock(holder)
            await asyncio.sleep(0.02)
            assert trylock(holder)

        run(main())


@pytest.mark.parametrize("how", ["lock_async", "locked", "path"])
def test_a_task_that_is_cancelled_at_any_turn_of_the_loop_has_locked_nothing(run, path, how, monkeypatch):
    """Before the lock is free, after it, and in the same turn."""
    loops.no_pauses(monkeypatch)

    async def enter():
        async with locked(path if how == "path" else file):
            assert not trylock(holder)  # how long the block is does not matter
        return True

    def free():
        filelock.unlock(holder)

    def reset(taken):
        assert trylock(holder) is (not taken or how != "lock_async")
        filelock.unlock(file)
        lock(holder)

    with open(path, "w+b") as holder, open(path, "r+b") as file:
        lock(holder)
        run(loops.cancel_at_each_turn(partial(lock_async, file) if how == "lock_async" else enter, free, reset))


def test_a_lock_is_released_if_the_cancellation_comes_just_as_it_is_acquired(run, path, monkeypatch):
    """As from a signal handler, which runs while the task does: it notices nothing before its next `await`."""

    def lock_and_be_cancelled(*arguments):
        acquired = trylock(*arguments)
        asyncio.current_task().cancel()
        return acquired

    async def main():
        task = asyncio.ensure_future(lock_async(file))
        done, _ = await asyncio.wait({task}, timeout=DEADLINE)
        assert done
        assert task.cancelled()

    monkeypatch.setattr("ipcio._filelock.event_loop.trylock", lock_and_be_cancelled)
    with open(path, "w+b") as file, open(path, "r+b") as other:
        run(main())
        assert trylock(other)


@posix
def test_tasks_exclude_each_other_by_a_path_that_each_removes(run, path):
    total, guard = 0, locked(path)

    async def add():
        nonlocal total
        for _ in range(10):
            async with guard as file:
                before = total
                assert not file.closed
                await asyncio.sleep(0)
                total = before + 1
                os.unlink(path)

    async def main():
        await asyncio.gather(*[add() for _ in range(3)])

    run(main())
    assert total == 30


def test_async_with_shares_and_unlocks(path):
    async def main(file, other):
        async with locked(file, "r") as same, locked(path, "r") as third:
            assert same is file
            assert third.mode == "rb"
            assert not trylock(other)
        assert trylock(other)
        with pytest.raises(ValueError, match="mode"):
            await lock_async(file, "x")
        with pytest.raises(TimeoutError):
            await lock_async(file, timeout=0)

    with open(path, "w+b") as file, open(path, "r+b") as other:
        asyncio.run(main(file, other))


def test_several_waiters_get_it_in_turn(run, path):
    async def main():
        order = []

        async def enter(number):
            async with locked(path, timeout=DEADLINE):
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*map(enter, range(5)))
        assert sorted(order) == list(range(5))

    run(main())
    assert is_free(path)
