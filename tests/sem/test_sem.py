"""What a `Semaphore` handle promises, of either kind: words and arguments, waits, ends, and what an error leaves."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import errno
import gc
import itertools
import os
import pickle
import signal
import stat
import struct
import sys
import threading
import time
import weakref
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from operator import methodcaller

import pytest
from abilities import lacks, semaphore_file
from children import Forked
from named_contract import FILES, NOBODY, OPENED, entries_with
from peers import PeerError
from permits import permits_of
from waiting import until_it_waits

from ipcio import Semaphore, _semaphore, sem, shm

if not lacks("undo"):
    from ipcio._inventory import remove_orphans
    from ipcio._posix import sysv  # before any signal handler would find it half imported

DEADLINE = 30  # seconds until what has not happened is a failure
CLOSED = "^I/O operation on closed file"
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

PLAIN = 32  # bytes of a sem_t
RECORD = struct.Struct("=64s16sii256s")  # a crash-safe one's: a semaphore, the magic, key, whether it persists, name
FIELDS = "semaphore", "magic", "key", "persists", "name"
SEAL = 7_654_321_000_000_000  # when a record was last modified, in nanoseconds
GETNCNT = 14  # of semctl: how many wait

try:
    import numpy as np
except ImportError:  # half a dozen more numbers to try
    np = None


CRASH_SAFE = pytest.param("undo", marks=pytest.mark.needs("undo"))


@pytest.fixture(params=["plain", CRASH_SAFE])
def undo(request):
    return request.param == "undo"


@pytest.fixture
def maximum(undo):
    return 32767 if undo or OPENED else 2147483647


@pytest.fixture
def make(name, undo):
    """Create the semaphore under `name`; all such handles are closed at the end."""
    with contextlib.ExitStack() as stack:

        def create(value=1, **options):
            s = sem.create(name, value, undo=undo, **options)
            stack.callback(s.close)
            return s

        yield create


@pytest.fixture
def again(name):
    """Attach to it; closed at the end, too."""
    with contextlib.ExitStack() as stack:

        def attach():
            s = sem.attach(name)
            stack.callback(s.close)
            return s

        yield attach


class Thread:
    """A function under way in another thread."""

    def __init__(self, function, *arguments) -> None:
        self._answer = None

        def run() -> None:
            try:
                self._answer = function(*arguments), None
            except BaseException as error:
                self._answer = None, error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self):
        self._thread.join(DEADLINE)
        assert self._answer is not None, "still waiting"
        value, error = self._answer
        if error is not None:
            raise error
        return value


def soon(condition) -> None:
    """Wait until it is true."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.0005)


def fields(name) -> dict:
    """What the record of a crash-safe semaphore says."""
    with open(semaphore_file(name), "rb") as file:
        return dict(zip(FIELDS, RECORD.unpack(file.read()), strict=True))


def write(path, record: dict) -> None:
    """Put one there, sealed."""
    try:
        times = os.stat(path).st_mtime_ns
    except FileNotFoundError:
        times = SEAL
    with open(path, "r+b" if os.path.exists(path) else "xb") as file:
        file.write(RECORD.pack(*record.values()))
        file.flush()
        os.utime(file.fileno(), ns=(times, times))
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & ~0o022)


def hidden_path(key) -> str:
    """Where a record of that key has its other name."""
    return f"/dev/shm/.ipcio-undo-{key:08x}"


def in_hands_of(module) -> int:
    """How many threads of this process are in its functions."""
    return sum(frame.f_code.co_filename == module.__file__ for frame in sys._current_frames().values())


def waiting(name) -> int:
    """How many threads wait for a permit now: a sem_t counts them beside its value, and so does the kernel in a set.

    Where the system does not tell, those of this process that are in the back end's hands.
    """
    if lacks("posix"):
        return in_hands_of(sem._backend)
    path = semaphore_file(name)
    if OPENED and not os.path.exists(path):  # crash-safe, or there is nothing to look at
        return max(in_hands_of(sysv), in_hands_of(_semaphore))
    with open(path, "rb") as file:
        data = file.read()
    if len(data) == PLAIN:
        return int.from_bytes(data[:8], sys.byteorder) >> 32
    key = RECORD.unpack(data)[2]
    return ctypes.CDLL(None).semctl(sysv.find(key, os.stat(path).st_uid), 0, GETNCNT)


def enter(s) -> None:
    with s:
        pass


def ids(what):
    """Short ones, the same in every process: some numbers here have thousands of digits, some objects no repr."""
    if isinstance(what, int) and abs(what) > 10**12:
        return f"{'-' if what < 0 else ''}{what.bit_length()} bits"
    return type(what).__name__ if " at 0x" in repr(what) else repr(what)[:60]


# -- open, create, attach ------------------------------------------------------


def test_open_with_a_value_creates_exclusively(name):
    with contextlib.closing(sem.open(name, 2)) as s:
        assert (s.name, permits_of(s), s.created, s.undo) == (name, 2, True, False)
        with pytest.raises(FileExistsError) as caught:
            sem.open(name, 2)
        assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, name)
        assert permits_of(s) == 2


def test_open_without_a_value_attaches_whichever_kind_exists(make, name, undo):
    s = make(3)
    for arguments in ((), (0,), (False,)):
        with contextlib.closing(sem.open(name, *arguments)) as other:
            assert (permits_of(other), other.created, other.undo) == (3, False, undo)
            assert other.dec(0)
            assert permits_of(s) == 2
            s.inc()


def test_open_without_a_value_creates_nothing(name):
    for arguments in ((), (0,)):
        with pytest.raises(FileNotFoundError) as caught:
            sem.open(name, *arguments)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, name)
    assert not entries_with(name)


@pytest.mark.needs("persistence")
def test_open_passes_its_options_on(name):
    sem.open(name, 1, persist=True, perm=0o640).close()
    assert os.stat(semaphore_file(name)).st_mode & 0o777 == 0o640
    sem.unlink(name)


@pytest.mark.parametrize("n", [-1, -(2**31), -(10**400), -(10**5000)], ids=ids)
def test_a_negative_value_is_a_value_error_and_makes_nothing(name, undo, n):
    with pytest.raises(ValueError):
        sem.open(name, n)
    for options in ({}, {"exist_ok": True}):
        with pytest.raises(ValueError):
            sem.create(name, n, undo=undo, **options)
    assert not entries_with(name)


@pytest.mark.parametrize("n", ["1", b"1", 1.0, 0.0, None, 1j, [], Decimal(1), Fraction(1)], ids=ids)
def test_a_value_that_is_no_integer_is_a_type_error_and_makes_nothing(name, undo, n):
    with pytest.raises(TypeError):
        sem.open(name, n)
    with pytest.raises(TypeError):
        sem.create(name, n, undo=undo)
    assert not entries_with(name)


@pytest.mark.parametrize("more", [1, 2**15, 2**31, 2**32 - 2**15, 2**32, 2**63, 2**64, 10**400, 10**5000], ids=ids)
def test_a_value_past_the_maximum_is_an_overflow_error_and_makes_nothing(name, undo, maximum, more):
    """Also where its last bits would be a value."""
    for options in ({}, {"exist_ok": True}):
        with pytest.raises(OverflowError):
            sem.create(name, maximum + more, undo=undo, **options)
    assert not entries_with(name)


def test_a_value_is_anything_that_is_an_integer(make, name, undo):
    class Integer:
        def __index__(self):
            return 3

    values = [(0, 0), (1, 1), (True, 1), (False, 0), (Integer(), 3), (32767, 32767)]
    if np is not None:
        values += [(np.int64(5), 5), (np.uint8(5), 5)]
    for value, wanted in values:
        with contextlib.closing(make(value)) as s:
            assert permits_of(s) == wanted
    with contextlib.closing(sem.create(name, undo=undo)) as s:
        assert permits_of(s) == 1
    with contextlib.closing(sem.open(name, True)) as s:
        assert permits_of(s) == 1


def test_options_are_keywords(name):
    with pytest.raises(TypeError):
        sem.create(name, 1, 0o600)
    with pytest.raises(TypeError):
        sem.open(name, 1, 0o600)
    assert not entries_with(name)


@pytest.mark.parametrize("wanted", [False, pytest.param(True, marks=pytest.mark.needs("undo"))])
def test_exist_ok_attaches_whichever_kind_exists(make, name, undo, wanted):
    s = make(3)
    with contextlib.closing(sem.create(name, 7, undo=wanted, exist_ok=True)) as other:
        assert (other.created, other.undo, permits_of(other)) == (False, undo, 3)
        other.inc()
    assert permits_of(s) == 4


@pytest.mark.needs("undo")
def test_a_plain_and_a_crash_safe_one_have_one_namespace(make, name, undo):
    make(3)
    with pytest.raises(FileExistsError):
        sem.create(name, undo=not undo)
    with pytest.raises(FileExistsError):
        sem.open(name, 1)


@pytest.mark.needs("namespaces")
def test_a_segment_of_the_same_name_is_something_else(make, name, again):
    with shm.create(name, 32):
        make(2)
        assert permits_of(again()) == 2
    assert permits_of(again()) == 2


# -- what it is ----------------------------------------------------------------


def test_what_a_handle_tells(make, again, name, undo):
    s, other = make(2), again()
    assert type(s) is Semaphore
    assert (s.name, permits_of(s), s.created, s.undo, s.closed) == (name, 2, True, undo, False)
    assert (other.name, permits_of(other), other.created, other.undo, other.closed) == (name, 2, False, undo, False)
    for attribute in ("name", "value", "created", "undo", "closed"):
        with pytest.raises(AttributeError):
            setattr(s, attribute, 1)


def test_repr_tells_name_kind_and_state(make, name, undo):
    s = make()
    assert name in repr(s)
    assert ("undo" in repr(s)) == undo
    assert "closed" not in repr(s)
    s.close()
    assert name in repr(s)
    assert "closed" in repr(s)


def test_handles_are_told_apart(make, again):
    """Equal is who is the same, as with threading's; so they can be keys, and weakly referenced."""
    s, other = make(), again()
    assert s == s  # noqa: PLR0124
    assert s != other
    assert len({s, other, s}) == 2
    key = hash(s)
    s.close()
    assert hash(s) == key


def test_a_handle_can_be_referenced_weakly(name, undo):
    s = sem.create(name, undo=undo)
    told = []
    reference = weakref.ref(s, told.append)
    assert reference() is s
    with s:
        pass
    del s
    gc.collect()
    assert reference() is None
    assert told == [reference]


def test_handles_come_from_the_module_alone():
    for arguments in ((), ("name",), (1,)):
        with pytest.raises(TypeError):
            Semaphore(*arguments)


def test_the_class_can_be_subclassed(make, monkeypatch):
    class Mine(Semaphore):
        def give_two(self):
            return self.inc(2)

    monkeypatch.setattr(sem, "Semaphore", Mine)
    s = make()
    assert isinstance(s, Mine)
    s.label = "attributes of its own"
    with s as got:
        assert got is True
        assert s.give_two() is True
        assert permits_of(s) == 2
    assert permits_of(s) == 3
    s.close()
    with pytest.raises(ValueError, match=CLOSED), s:
        pass


def test_what_takes_a_context_manager_takes_a_semaphore(make):
    s = make()
    assert isinstance(s, contextlib.AbstractContextManager)
    with contextlib.ExitStack() as stack:
        assert stack.enter_context(s) is True
        assert permits_of(s) == 0
    assert permits_of(s) == 1
    with contextlib.ExitStack() as stack:
        stack.push(s)
    assert permits_of(s) == 2
    assert Semaphore.__enter__(s) is True
    assert permits_of(s) == 1
    assert not Semaphore.__exit__(s, None, None, None)
    assert permits_of(s) == 2


# -- taking --------------------------------------------------------------------

TAKING = {
    "dec()": lambda s: s.dec(),
    "dec(None)": lambda s: s.dec(None),
    "dec(0)": lambda s: s.dec(0),
    "dec(5)": lambda s: s.dec(5),
    "dec(-1)": lambda s: s.dec(-1),
    "dec(timeout=0.5)": lambda s: s.dec(timeout=0.5),
    "acquire()": lambda s: s.acquire(),
    "acquire(True)": lambda s: s.acquire(True),
    "acquire(False)": lambda s: s.acquire(False),
    "acquire(0, None)": lambda s: s.acquire(0, None),
    "acquire(blocking=False)": lambda s: s.acquire(blocking=False),
    "acquire(True, 5)": lambda s: s.acquire(True, 5),
    "acquire(1, -1)": lambda s: s.acquire(1, -1),
    "acquire(timeout=0)": lambda s: s.acquire(timeout=0),
    "acquire(blocking=True, timeout=None)": lambda s: s.acquire(blocking=True, timeout=None),
    "__enter__()": lambda s: s.__enter__(),
}


@pytest.mark.parametrize("take", TAKING.values(), ids=TAKING)
def test_taking_takes_one_permit_and_is_true(make, again, take):
    s, other = make(2), again()
    assert take(s) is True
    assert (permits_of(s), permits_of(other)) == (1, 1)
    assert take(other) is True
    assert (permits_of(s), permits_of(other)) == (0, 0)


def test_with_takes_gives_back_and_is_true(make):
    s = make(2)
    with s as one, s as two:
        assert one is True
        assert two is True
        assert permits_of(s) == 0
        assert s.dec(0) is False
    assert permits_of(s) == 2


def test_with_gives_back_whatever_is_raised_and_lets_it_through(make):
    s = make()
    for error in (KeyError("mine"), KeyboardInterrupt(), GeneratorExit()):
        with pytest.raises(type(error)) as caught, s:
            raise error
        assert caught.value is error
        assert permits_of(s) == 1


ZERO = [0, 0.0, -0.0, False, Decimal(0), Decimal("-0"), Fraction(0)]
if np is not None:
    ZERO += [np.float64(0), np.float32(0), np.int64(0)]


@pytest.mark.parametrize("zero", ZERO, ids=ids)
def test_a_timeout_of_zero_tries(make, zero):
    s = make(1)
    assert s.dec(zero) is True
    assert s.dec(zero) is False
    assert s.acquire(True, zero) is False
    assert s.acquire(timeout=zero) is False
    assert permits_of(s) == 0


@pytest.mark.parametrize("arguments", [(False,), (0,), (None,), ("",), (False, None)], ids=ids)
def test_not_blocking_tries(make, arguments):
    s = make(1)
    assert s.acquire(*arguments) is True
    assert s.acquire(*arguments) is False
    assert permits_of(s) == 0


class Number:
    def __float__(self):
        return 0.001


SHORT = [0.002, 1e-9, 1e-300, 5e-324, Decimal("0.002"), Fraction(1, 999), Number()]
if np is not None:
    SHORT += [np.float64(0.002), np.float32(0.002), np.float16(0.002)]


@pytest.mark.parametrize("timeout", SHORT, ids=ids)
def test_a_timeout_that_runs_out_is_false(make, timeout):
    s = make(0)
    assert s.dec(timeout) is False
    assert s.acquire(True, timeout) is False
    assert s.acquire(timeout=timeout) is False
    assert permits_of(s) == 0


def test_a_timeout_is_kept_to(make, undo):
    s = make(0)
    clock = time.time if FILES and not undo else time.perf_counter  # one that keeps step with the semaphore's
    before = clock()
    assert s.dec(0.05) is False
    assert clock() - before >= 0.049


EVER = [
    None, -1, -0.5, -5e-324, -(10**400), float("inf"), float("-inf"), 1e9, 1e308, 2**31, 2**63, 10**400, 10**5000,
    Decimal("1e400"), Decimal(-1), Decimal("Infinity"), Decimal("-Infinity"), Fraction(10**400), Fraction(-1, 3),
]  # fmt: skip
if np is not None:
    EVER += [np.float64("inf"), np.float32("-inf"), np.float64(-0.1), np.int64(2**62), np.uint64(2**64 - 1)]


@pytest.mark.parametrize("timeout", EVER, ids=ids)
def test_a_timeout_without_end_waits_until_there_is_a_permit(make, name, timeout):
    s = make(0)
    for wait in (s.dec, lambda timeout: s.acquire(True, timeout)):
        other = Thread(wait, timeout)
        soon(lambda: waiting(name))
        s.inc()
        assert other.result() is True
        assert permits_of(s) == 0


@pytest.mark.parametrize(
    "take", [lambda s: s.dec(), lambda s: s.acquire(), lambda s: s.dec(20), methodcaller("__enter__")]
)
def test_a_waiter_is_woken_by_every_way_to_give(make, again, name, take):
    s, other = make(0), again()
    for give in (lambda s: s.inc(), lambda s: s.inc(2), lambda s: s.release(), lambda s: s.release(2), close_with):
        waiter = Thread(take, s)
        soon(lambda: waiting(name))
        give(other)
        assert waiter.result() is True
        while permits_of(s):
            assert s.dec(0)


def close_with(s):
    s.__exit__(None, None, None)


NAN = [float("nan"), -float("nan"), Decimal("nan"), Decimal("-nan")]
if np is not None:
    NAN += [np.nan, np.float32("nan")]


@pytest.mark.parametrize("timeout", NAN, ids=ids)
def test_a_timeout_that_is_not_a_number_is_a_value_error(make, timeout):
    s = make(1)
    for act in (s.dec, lambda timeout: s.acquire(True, timeout), lambda timeout: s.acquire(timeout=timeout)):
        with pytest.raises(ValueError, match="NaN"):
            act(timeout)
    assert permits_of(s) == 1


@pytest.mark.parametrize(
    "timeout",
    ["1", "", "nan", b"1", b"", 1j, 0j, [], [0], (), (1,), {}, object(), timedelta(0), timedelta(1)],
    ids=ids,
)
def test_a_timeout_that_is_nothing_of_the_sort_is_a_type_error(make, timeout):
    """Whether or not there is a permit."""
    s = make(1)
    for value in (1, 0):
        for act in (s.dec, lambda timeout: s.acquire(True, timeout), lambda timeout: s.acquire(timeout=timeout)):
            with pytest.raises(TypeError):
                act(timeout)
        assert permits_of(s) == value
        s.dec(0)


@pytest.mark.parametrize("timeout", [0, 0.0, 1, -1, 1.5, float("inf"), False], ids=ids)
def test_not_blocking_takes_no_timeout(make, timeout):
    s = make(1)
    for arguments in ((False, timeout), (0, timeout)):
        with pytest.raises(ValueError, match="timeout"):
            s.acquire(*arguments)
    with pytest.raises(ValueError, match="timeout"):
        s.acquire(blocking=False, timeout=timeout)
    assert permits_of(s) == 1


def test_too_many_arguments_are_a_type_error(make):
    s = make(1)
    for act in (
        lambda: s.dec(1, 2), lambda: s.acquire(True, None, 1), lambda: s.inc(1, 2), lambda: s.release(1, 2),
        lambda: s.dec(blocking=True), lambda: s.inc(value=1), lambda: s.close(1),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            act()
    assert permits_of(s) == 1
    assert not s.closed


# -- giving --------------------------------------------------------------------

ONE_AND_MORE = {
    "": ((), {}, 1),
    "1": ((1,), {}, 1),
    "3": ((3,), {}, 3),
    "n=2": ((), {"n": 2}, 2),
    "True": ((True,), {}, 1),
}
if np is not None:
    ONE_AND_MORE["int8"] = (np.int8(2),), {}, 2
    ONE_AND_MORE["int64"] = (np.int64(1),), {}, 1


@pytest.mark.parametrize(("arguments", "keywords", "n"), ONE_AND_MORE.values(), ids=ONE_AND_MORE)
def test_inc_gives_and_is_true_and_release_gives_and_is_none(make, arguments, keywords, n):
    s = make(0)
    assert s.inc(*arguments, **keywords) is True
    assert permits_of(s) == n
    assert s.release(*arguments, **keywords) is None
    assert permits_of(s) == 2 * n


@pytest.mark.parametrize(
    "n", [0, -1, -2, False, -(2**16) + 1, -(2**31), -(2**32) + 1, -(10**400), -(10**5000)], ids=ids
)
def test_giving_less_than_one_is_a_value_error_that_changes_nothing(make, n):
    s = make(2)
    for give in (s.inc, s.release):
        with pytest.raises(ValueError):
            give(n)
        with pytest.raises(ValueError):
            give(n=n)
    assert permits_of(s) == 2


@pytest.mark.parametrize("n", ["1", b"1", 1.0, None, 1j, [1], (), object(), Decimal(1), Fraction(1), 2.5], ids=ids)
def test_giving_what_is_no_integer_is_a_type_error_that_changes_nothing(make, n):
    s = make(2)
    for give in (s.inc, s.release):
        with pytest.raises(TypeError):
            give(n)
    assert permits_of(s) == 2


def test_many_permits_at_once(make, maximum):
    s = make(0)
    s.inc(1000)
    s.release(31000)
    assert permits_of(s) == 32000
    for _ in range(1000):
        assert s.dec(0)
    s.inc(1767)
    assert permits_of(s) == 32767
    assert s.inc(100_000) is True if maximum > 32767 else s.dec(0)
    assert permits_of(s) == (132_767 if maximum > 32767 else 32766)


# What the last 16, 32 or 64 bits of would fit is as much too much.
TOO_MUCH = [2**15, 2**16, 2**16 + 1, 2**31, 2**32, 2**32 + 1, 2**63, 2**64, 2**64 + 1, 10**400, 10**5000]


@pytest.mark.parametrize("more", [0, *TOO_MUCH], ids=ids)
@pytest.mark.parametrize("taken", [0, 2])
def test_giving_past_the_maximum_is_an_overflow_error_that_changes_nothing(make, maximum, more, taken):
    s = make(1 + taken)
    for _ in range(taken):
        s.dec()
    for give in (s.inc, s.release):
        with pytest.raises(OverflowError):
            give(maximum + more)
    assert permits_of(s) == 1
    s.inc()
    assert permits_of(s) == 2


def test_the_maximum_holds(make, maximum):
    s = make(maximum)
    assert permits_of(s) == maximum
    for give in (s.inc, s.release):
        for arguments in ((), (1,), (2,), (100,), (int("1"),), (True,), (maximum,)):
            with pytest.raises(OverflowError):
                give(*arguments)
            assert permits_of(s) == maximum
    assert s.dec() is True
    with pytest.raises(OverflowError):
        s.inc(2)
    assert permits_of(s) == maximum - 1
    s.release()
    assert permits_of(s) == maximum
    with s, s:
        pass
    assert permits_of(s) == maximum


def test_the_end_of_a_with_statement_past_the_maximum_is_an_error_that_changes_nothing(make, maximum):
    """A plain one says so in the words of multiprocessing's: nothing stands between it and the statement."""
    s = make(maximum)
    with pytest.raises((OverflowError, ValueError), match=r"maximum|too many times"), s:
        s.inc()
    assert permits_of(s) == maximum


# -- waiting -------------------------------------------------------------------


def fails(kind, function, *arguments) -> None:
    with pytest.raises(kind):
        function(*arguments)


IN_THE_MIDST = {
    "nothing": lambda _: None,
    "asks for the value": permits_of,
    "tries": lambda s: s.dec(0) and s.inc(),
    "waits": lambda s: s.dec(1e-6) and s.inc(),
    "gives and takes": lambda s: (s.inc() and s.dec(0)) or s.dec(0),
    "is refused": lambda s: fails(OverflowError, s.inc, 2**31),
    "finds nothing": lambda _: fails(FileNotFoundError, sem.attach, "ipcio-no-such-name"),
    "leaves another errno": lambda _: ctypes.set_errno(errno.ENOENT),
    "another semaphore": lambda _: sem.create(None, undo=True).close(),
}


@contextlib.contextmanager
def on_signal(act):
    before = signal.signal(signal.SIGUSR1, lambda *_: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.needs("signals")
@pytest.mark.parametrize("act", IN_THE_MIDST.values(), ids=IN_THE_MIDST)
@pytest.mark.parametrize(
    "wait", [lambda s: s.dec(), lambda s: s.dec(20), lambda s: s.acquire(True, 20), methodcaller("__enter__")]
)
def test_a_wait_goes_on_after_a_signal(make, name, wait, act):
    """If its handler returns, whatever that does meanwhile."""
    s = make(0)
    handled = []
    main = threading.get_ident()

    def pester() -> None:
        soon(lambda: waiting(name))
        for n in range(1, 4):
            # One that comes between the look for signals and the wait is noticed only with the next.
            while len(handled) < n:
                signal.pthread_kill(main, signal.SIGUSR1)
                try_until = time.monotonic() + 0.01
                while len(handled) < n and time.monotonic() < try_until:
                    time.sleep(0.0005)
        acting.clear()
        s.inc()

    def handle() -> None:
        if acting:
            acting[0](s)
        handled.append(None)

    acting = [act]
    with on_signal(handle):
        other = Thread(pester)
        try:
            assert wait(s) is True
        finally:
            other.result()
    assert permits_of(s) == 0


@pytest.mark.needs("signals")
@pytest.mark.parametrize("act", IN_THE_MIDST.values(), ids=IN_THE_MIDST)
@pytest.mark.sampled(3)
def test_signals_do_not_lengthen_a_timeout(make, act):
    """However many come; else this never ends."""
    s = make(0)
    done = threading.Event()
    main = threading.get_ident()

    def pester() -> None:
        while not done.wait(0.002):
            signal.pthread_kill(main, signal.SIGUSR1)

    with on_signal(lambda: act(s)):
        other = Thread(pester)
        try:
            taken = 0
            if act is not IN_THE_MIDST["gives and takes"]:  # what that gives may be what the wait gets
                taken = s.dec(0.05)
                assert taken is False
            else:
                s.dec(0.05)
        finally:
            done.set()
            other.result()
    assert not taken


def test_several_permits_wake_several_waiters(make, name):
    s = make(0)
    waiters = [Thread(s.dec) for _ in range(5)]
    soon(lambda: waiting(name) == 5)
    s.inc(5)
    assert [waiter.result() for waiter in waiters] == [True] * 5
    assert permits_of(s) == 0


def test_a_handle_closed_while_a_thread_waits_lets_it_wait(make, again, name):
    """As long as there is another handle to be given a permit by."""
    s, other = make(0), again()
    for wait in (lambda h: h.dec(), lambda h: h.acquire(True, 20)):
        waited = again()
        waiter = Thread(wait, waited)
        soon(lambda: waiting(name))
        waited.close()
        assert waited.closed
        assert not waiter.done()
        other.inc()
        assert waiter.result() is True
        assert permits_of(s) == 0


def test_the_last_handle_closed_while_a_thread_waits_does_no_harm(make, name):
    """It gets no permit, that is all."""
    s = make(0)
    waiter = Thread(s.dec, 0.3)
    soon(lambda: waiting(name))
    s.close()
    problem = None
    try:
        assert waiter.result() is False
    except (OSError, ValueError) as error:
        problem = getattr(error, "errno", None), getattr(error, "filename", None)
    assert problem in ({None, (None, None), (errno.EIDRM, name)} if s.undo else {None})  # its set went with the name
    assert not entries_with(name)


# -- threads and processes -----------------------------------------------------


def take_by_with(s):
    return s


@contextlib.contextmanager
def take_by_threadings_words(s):
    assert s.acquire()
    try:
        yield
    finally:
        s.release()


@contextlib.contextmanager
def take_by_timeout(s):
    assert s.dec(DEADLINE)
    try:
        yield
    finally:
        s.inc()


@contextlib.contextmanager
def take_by_trying(s):
    while not s.dec(0):
        time.sleep(0)
    try:
        yield
    finally:
        s.release(1)


@pytest.mark.parametrize("take", [take_by_with, take_by_threadings_words, take_by_timeout, take_by_trying])
def test_no_more_threads_get_in_than_there_are_permits(make, again, take):
    permits, threads, rounds = 3, 8, 100
    s = make(permits)
    inside, most = [], []

    def work(h) -> None:
        for _ in range(rounds):
            with take(h):
                inside.append(None)
                most.append(len(inside))
                time.sleep(0)
                inside.pop()

    # Half of them through a handle that they share, the others through one of their own.
    for thread in [Thread(work, s if n % 2 else again()) for n in range(threads)]:
        thread.result()
    assert len(most) == threads * rounds
    assert max(most) <= permits
    assert permits_of(s) == permits


def test_what_several_threads_give_adds_up(make):
    s = make(0)

    def give() -> None:
        for _ in range(200):
            s.inc()
            s.release(4)

    def take() -> None:
        for _ in range(1000):
            assert s.dec(DEADLINE)

    for thread in [Thread(work) for work in (give, take) * 4]:
        thread.result()
    assert permits_of(s) == 0


def test_a_permit_outlives_the_thread_that_took_it(make):
    s = make(1)
    assert Thread(s.dec).result() is True
    assert s.dec(0) is False
    Thread(s.inc).result()
    assert permits_of(s) == 1


def test_a_permit_is_the_semaphores_not_the_handles(make, again):
    """What was taken through one handle is given through another, and closing gives nothing."""
    s, one, other = make(1), again(), again()
    one.dec()
    one.close()
    assert permits_of(s) == 0
    other.inc()
    assert permits_of(s) == 1


@pytest.mark.needs("fork")
def test_a_forked_child_uses_its_parents_handle(make):
    s = make(2)

    def child():
        assert s.dec(0)
        assert s.dec(0)
        assert not s.dec(0)
        with pytest.raises(ValueError):
            s.inc(0)
        s.release(2)
        with s:
            return permits_of(s), s.name, s.undo, s.closed

    assert Forked(child).result() == (1, s.name, s.undo, False)
    assert permits_of(s) == 2


@pytest.mark.needs("fork")
def test_parent_and_forked_child_wake_each_other(make, again):
    s, back = make(0), sem.create(None, 0)

    def child() -> None:
        assert s.dec(DEADLINE)
        back.inc()
        with s:
            back.inc()

    with contextlib.closing(back), Forked(child) as forked:
        until_it_waits(forked.pid)
        s.inc()
        assert back.dec(DEADLINE)
        until_it_waits(forked.pid)
        again().inc()
        assert back.dec(DEADLINE)
        forked.result()
    assert permits_of(s) == (2 if s.undo else 1)


@pytest.mark.needs("fork")
def test_only_a_crash_safe_semaphore_releases_the_permit_of_a_killed_child(make):
    s = make(5)

    def child() -> None:
        s.dec()
        for _ in range(2):
            with s:
                s.dec()
        with pytest.raises(OverflowError):
            s.inc(32766 if s.undo else 2**31 - 1)
        os.kill(os.getpid(), signal.SIGKILL)

    assert Forked(child).wait() == -signal.SIGKILL
    assert permits_of(s) == (5 if s.undo else 2)


@pytest.mark.needs("fork")
def test_permits_beyond_those_held_are_final(make, again):
    """Given in one call with those that are held, or by a child for its parent."""
    s = make(5)

    def child() -> None:
        other = again()
        s.dec()
        other.dec()
        s.inc(3)  # two of them were taken
        s.dec()
        Forked(other.inc).result()  # not its own
        os.kill(os.getpid(), signal.SIGKILL)

    assert Forked(child).wait() == -signal.SIGKILL
    assert permits_of(s) == (7 if s.undo else 6)


@pytest.mark.needs("undo")
def test_more_than_the_kernel_can_give_back_is_not_taken(name):
    """What this process holds of a crash-safe one is at most its maximum, also where others gave more."""
    with contextlib.closing(sem.create(name, 32767, undo=True)) as s:
        for _ in range(32767):
            assert s.dec(0)
        Forked(s.inc).result()
        for act in (s.dec, lambda: s.dec(0), lambda: s.dec(20), lambda: enter(s)):
            with pytest.raises((OverflowError, OSError)):
                act()
            assert permits_of(s) == 1
        s.inc(32766)  # held ones
        assert permits_of(s) == 32767
        with s:
            assert permits_of(s) == 32766


@pytest.mark.needs("fork")
def test_permits_taken_through_closed_handles_are_held_all_the_same(make):
    s = make(5)

    def child() -> None:
        for _ in range(3):
            other = copy.copy(s)
            other.dec()
            other.close()
        copy.copy(s).inc()
        assert permits_of(s) == 3
        os.kill(os.getpid(), signal.SIGKILL)

    assert Forked(child).wait() == -signal.SIGKILL
    assert permits_of(s) == (5 if s.undo else 3)


@pytest.mark.needs("undo")
def test_permits_that_went_with_their_semaphore_are_forgotten(undo):
    """Or a process that makes many would grow, and one day take them for those of another."""
    before = len(sysv._held)
    for _ in range(10):
        s = sem.create(None, 3, undo=undo)
        s.dec()
        s.close()
        del s
    assert len(sysv._held) == before


# -- closed --------------------------------------------------------------------


REFUSING = {
    "dec()": lambda s: s.dec(),
    "dec(0)": lambda s: s.dec(0),
    "dec(0.1)": lambda s: s.dec(0.1),
    "dec(-1)": lambda s: s.dec(-1),
    "inc()": lambda s: s.inc(),
    "inc(1)": lambda s: s.inc(1),
    "inc(5)": lambda s: s.inc(5),
    "inc(too much)": lambda s: s.inc(2**40),
    "acquire()": lambda s: s.acquire(),
    "acquire(False)": lambda s: s.acquire(False),
    "acquire(True, 1)": lambda s: s.acquire(True, 1),
    "acquire(timeout=0)": lambda s: s.acquire(timeout=0),
    "release()": lambda s: s.release(),
    "release(3)": lambda s: s.release(3),
    "with": enter,
    "__exit__": lambda s: s.__exit__(None, None, None),
    "value": lambda s: s.value,
    **{f"pickle {n}": methodcaller("__reduce_ex__", n) for n in PROTOCOLS},
    "dumps": pickle.dumps,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("act", REFUSING.values(), ids=REFUSING)
def test_a_closed_handle_refuses_as_a_closed_file_does(make, again, act):
    s, other = make(2), again()
    s.close()
    for _ in range(2):
        with pytest.raises(ValueError, match=CLOSED):
            act(s)
    assert permits_of(other) == 2


def test_close_may_be_called_again(make, again, name):
    s, other = make(2), again()
    assert s.close() is None
    assert s.close() is None
    assert s.closed
    assert (s.name, s.created, s.undo) == (name, True, other.undo)
    assert permits_of(other) == 2
    other.close()
    other.close()
    with contextlib.closing(sem.create(name)) as new:
        s.close()
        assert permits_of(new) == 1
        assert permits_of(sem.attach(name)) == 1


def test_closing_gives_back_no_permit(make, again):
    s, other = make(2), again()
    s.dec()
    s.close()
    assert permits_of(other) == 1


def test_a_handle_closed_within_its_with_statement_gives_the_permit_back(make, again):
    s, other = make(1), again()
    with s:
        s.close()
        assert permits_of(other) == 0
    assert permits_of(other) == 1


def test_the_last_handle_closed_within_its_with_statement_is_no_error(make, name):
    s = make(1)
    with s:
        s.close()
        # Where only the last handle of all frees a name, the statement has one as long as it lasts.
        assert bool(entries_with(name)) == bool(lacks("unlinking"))
    assert not entries_with(name)

    def close_and_attach() -> None:
        s.close()
        sem.attach(f"{name}-not")

    s = make(1)
    with pytest.raises(FileNotFoundError), s:  # that goes through, too
        close_and_attach()


def test_a_handle_made_for_one_with_statement_stays_open_as_long(name, undo):
    s = sem.create(name, 2, undo=undo)
    with sem.attach(name):
        s.close()
        del s
        gc.collect()
        with contextlib.closing(sem.attach(name)) as other:
            assert permits_of(other) == 1
            with pytest.raises(FileExistsError):
                sem.create(name)
        with sem.attach(name):
            pass
    gc.collect()
    with pytest.raises(FileNotFoundError):
        sem.attach(name)
    with sem.create(name, 1, undo=undo) as got:
        assert got is True
        assert permits_of(sem.attach(name)) == 0
    assert not entries_with(name)


def test_a_method_keeps_the_handle(name, undo):
    inc = sem.create(name, 2, undo=undo).inc
    gc.collect()
    inc()
    assert permits_of(sem.attach(name)) == 3
    del inc
    assert not entries_with(name)


def test_a_handle_dropped_while_a_thread_waits_is_kept_by_that(make, again, name):
    make(0)
    waiter = Thread(sem.attach(name).dec)
    soon(lambda: waiting(name))
    gc.collect()
    again().inc()
    assert waiter.result() is True


# -- pickling ------------------------------------------------------------------

COPIES = [copy.copy, copy.deepcopy, *(lambda s, p=p: pickle.loads(pickle.dumps(s, p)) for p in PROTOCOLS)]


@pytest.mark.parametrize("make_copy", COPIES, ids=["copy", "deepcopy", *PROTOCOLS])
def test_a_copy_is_another_handle_on_the_same_semaphore(make, name, undo, make_copy):
    s = make(2)
    with contextlib.closing(make_copy(s)) as other:
        assert other is not s
        assert (other.name, permits_of(other), other.created, other.undo) == (name, 2, False, undo)
        other.dec()
        assert permits_of(s) == 1
        s.close()
        assert permits_of(other) == 1  # a share of its own
        with contextlib.closing(make_copy(other)) as third:
            third.inc()
        assert permits_of(other) == 2
    assert not entries_with(name)


def test_a_semaphore_that_is_gone_cannot_be_unpickled(make, name):
    s = make()
    data = pickle.dumps(s)
    for remove in (sem.unlink, lambda _: s.close()) if not lacks("unlinking") else (lambda _: s.close(),):
        remove(name)
        with pytest.raises(FileNotFoundError) as caught:
            pickle.loads(data)
        assert caught.value.filename == name


def test_another_process_unpickles(make, peer):
    s = make(2)
    other = peer("from permits import permits_of", f"h = pickle.loads({pickle.dumps(s)!r}); h.dec()")
    assert permits_of(s) == 1
    assert other.ask("(h.name, h.undo, h.created, permits_of(h))") == (s.name, s.undo, False, 1)
    other.kill()
    assert permits_of(s) == (2 if s.undo else 1)


# -- files that are no semaphores ----------------------------------------------


def refused(name, *numbers):
    """Attach says so, with the name; what is there is in the way of create, and as it was."""
    path = semaphore_file(name)
    with open(path, "rb") as file:
        before = file.read()
    for attach in (sem.attach, sem.open, lambda name: sem.create(name, exist_ok=True)):
        with pytest.raises(OSError) as caught:
            attach(name)
        assert caught.value.errno in (numbers or {errno.EINVAL})
        assert caught.value.filename == name
    for undo in (False, True):
        with pytest.raises(FileExistsError):
            sem.create(name, undo=undo)
    with open(path, "rb") as file:
        assert file.read() == before


@pytest.mark.needs("undo", "files")
@pytest.mark.parametrize("filling", ["zeros", "text", "a record"])
def test_a_file_of_another_size_is_no_semaphore(unique, filling):
    """Also one that begins like the record of a crash-safe one, which goes on unharmed."""
    living, name = unique(), unique()
    path = semaphore_file(name)
    with contextlib.closing(sem.create(living, 3, undo=True)) as s:
        with open(semaphore_file(living), "rb") as file:
            record = file.read()
        content = {"zeros": bytes(400), "text": b"text " * 80, "a record": record + bytes(100)}[filling]
        for size in range(401):
            if size not in {PLAIN, len(record)}:
                with open(path, "wb") as file:
                    file.write(content[:size])
                refused(name)
        os.unlink(path)
        with contextlib.closing(sem.create(name, 2, undo=True)) as other:
            assert permits_of(other) == 2
        assert permits_of(s) == 3


@pytest.mark.needs("undo", "files")
@pytest.mark.parametrize("mode", [0o600, 0o2600, 0o1600, 0o1666], ids=oct)
def test_a_copy_of_a_record_in_use_is_no_semaphore(unique, mode):
    """With ipcio's mark it is an orphaned object, which frees its own name and touches nothing else."""
    living, name = unique(), unique()
    path = semaphore_file(name)
    with contextlib.closing(sem.create(living, 3, undo=True)) as s:
        s.dec()

        def put() -> None:
            with open(semaphore_file(living), "rb") as original, open(path, "wb") as file:
                file.write(original.read())
            os.chmod(path, mode)

        put()
        if not mode & 0o1000:
            refused(name)
            shm.unlink(os.path.basename(path))
        else:
            with pytest.raises(OSError):
                sem.attach(name)
            put()
            with contextlib.closing(sem.create(name, 7)) as other:
                assert other.created
                assert permits_of(other) == 7
            put()
            with pytest.raises(FileNotFoundError):
                sem.unlink(name)
        assert not os.path.exists(path)
        assert permits_of(s) == 2
        with contextlib.closing(sem.attach(living)) as other:
            other.inc()
        assert permits_of(s) == 3
    assert not entries_with(living)


DAMAGE = [
    {"semaphore": b"\xff" * 64},
    {"magic": b"ipcio undo sem 0"},
    {"magic": bytes(16)},
    *({"key": key} for key in (0, -1, 1, -(2**31), 2**31 - 1)),
    *({"persists": persists} for persists in (1, -1, -(2**31))),
    *({"name": name} for name in (b"", b"a\0b", b"\xff" * 256, b"../" * 85, b"x" * 256)),
]


@pytest.mark.needs("undo", "files")
@pytest.mark.parametrize("damage", DAMAGE, ids=ids)
def test_a_damaged_copy_of_a_record_is_no_semaphore(unique, damage):
    living, name = unique(), unique()
    path = semaphore_file(name)
    with contextlib.closing(sem.create(living, 3, undo=True)) as s:
        write(path, {**fields(living), **damage})
        refused(name)
        os.chmod(path, 0o1600)  # as an orphan of ipcio's
        with contextlib.closing(sem.create(name, 2)) as other:
            assert permits_of(other) == 2
        assert permits_of(s) == 3


@pytest.mark.needs("undo", "files")
@pytest.mark.parametrize("damage", DAMAGE, ids=ids)
def test_a_damaged_record_is_refused_or_good_enough(name, damage):
    """Its user sees a clean error or a semaphore that works; who holds it goes on."""
    path = semaphore_file(name)
    with contextlib.closing(sem.create(name, 3, undo=True)) as s:
        whole = fields(name)
        write(path, {**whole, **damage})
        problem = None
        try:
            with contextlib.closing(sem.attach(name)) as other:
                assert permits_of(other) == 3
                with other:
                    assert permits_of(s) == 2
        except OSError as error:
            problem = error.errno, error.filename
        assert problem in {None, (errno.EINVAL, name), (errno.EIDRM, name)}
        with s:
            assert permits_of(s) == 2
        # With a damaged name it can even be closed, unless that is no name at all: then it is no record.
        if damage.get("name") in {None, b"", b"../" * 85}:
            write(path, whole)
    with contextlib.closing(sem.create(name, 2)) as s:  # the name was free
        assert permits_of(s) == 2
    assert not entries_with(name)
    assert not os.path.exists(hidden_path(whole["key"]))


@pytest.mark.gc
@pytest.mark.needs("undo", "files")
@pytest.mark.parametrize("bad", [b"a\0b", b"../" * 85, b"\xff" * 256], ids=ids)
def test_a_forged_record_is_removed_like_any_orphan(name, bad):
    """With a hidden name of its own it looks more genuine."""
    path = semaphore_file(name)
    key = int.from_bytes(os.urandom(4), "little") % (2**31 - 1) + 1
    hidden = hidden_path(key)
    write(path, dict(zip(FIELDS, (bytes(64), b"ipcio undo sem 2", key, 0, bad), strict=True)))
    os.chmod(path, 0o1600)
    os.link(path, hidden)
    try:
        with contextlib.closing(sem.create(name, 2)) as s:
            assert permits_of(s) == 2
        list(remove_orphans())  # one with a name that cannot be one is no record
        assert not os.path.exists(hidden)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden)


OF_ITS_SIZE = {
    "zeros": bytes(PLAIN),
    "text": b"this is no semaphore, but text.\n",
    "ones": b"\xff" * PLAIN,
    "waiters": struct.pack("=QII16x", 5 << 32, 0, 0),
    "an unknown kind": struct.pack("=QII16x", 0, 5, 0),
    "an unknown kind, and waiters": struct.pack("=QII16x", 5 << 32, 0xFFFF, 0),
    "zeros, then ones": bytes(16) + b"\xff" * 16,
    **{f"random {n}": bytes((n * 37 + 11 * k * k) % 256 for k in range(PLAIN)) for n in range(3)},
}


@pytest.mark.needs("files")
@pytest.mark.parametrize("content", OF_ITS_SIZE.values(), ids=OF_ITS_SIZE)
def test_a_file_of_a_semaphores_size_kills_no_process(name, content):
    """It cannot always be distinguished; but the C library ends the process over some."""

    def child():
        try:
            s = sem.attach(name)
        except OSError as error:
            return error.errno, error.filename
        for act in (
            lambda: permits_of(s),
            lambda: s.dec(0),
            lambda: s.dec(0.001),
            s.inc,
            lambda: s.inc(3),
            s.release,
            repr,
        ):
            with contextlib.suppress(OSError, ValueError, OverflowError, TypeError):
                act()
        s.close()
        return None

    with open(semaphore_file(name), "xb") as file:
        file.write(content)
    try:
        assert Forked(child).result() in {None, (errno.EINVAL, name)}
    finally:
        os.unlink(semaphore_file(name))


# -- other users ---------------------------------------------------------------


@pytest.mark.root
@pytest.mark.needs("users", "objects for others")
@pytest.mark.parametrize("perm", [0o600, 0o644, 0o622, 0o660])
def test_who_may_not_both_read_and_write_may_not_attach(make, name, peer, perm):
    s = make(2, perm=perm)
    stranger = peer(user=NOBODY)
    for call, kind in {
        "sem.attach": "PermissionError",
        "sem.open": "PermissionError",
        "sem.unlink": "PermissionError",
        "sem.create": "FileExistsError",
    }.items():
        with pytest.raises(PeerError) as caught:
            stranger.run(f"{call}({name!r})")
        assert caught.value.kind == kind
        assert caught.value.errno in {errno.EACCES, errno.EPERM, errno.EEXIST}
        assert repr(name) in str(caught.value)
    with pytest.raises(PeerError) as caught:
        stranger.run(f"sem.create({name!r}, exist_ok=True, undo=True)")
    assert caught.value.kind == "PermissionError"
    assert permits_of(s) == 2


@pytest.mark.root
@pytest.mark.needs("users", "objects for others")
@pytest.mark.parametrize("make_by", [None, NOBODY])
def test_who_may_does(name, undo, peer, make_by):
    """In both directions, and a crash-safe one gets its permits back from a stranger, too."""
    maker = peer(
        "from permits import permits_of", f"h = sem.create({name!r}, 3, perm=0o666, undo={undo})", user=make_by
    )
    attached = peer("from permits import permits_of", f"h = sem.attach({name!r})", user=None if make_by else NOBODY)
    for one, other in itertools.permutations((maker, attached)):
        assert one.ask("h.dec(0)") is True
        assert other.ask("permits_of(h)") == 2
        assert one.ask("h.inc()") is True
    attached.run("h.dec()")
    attached.kill()
    assert maker.ask("permits_of(h)") == (3 if undo else 2)
