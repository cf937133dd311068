"""Values that nobody expects: of every type, with methods that raise or answer nonsense, and buffers of odd shapes."""

from __future__ import annotations

import array
import contextlib
import ctypes
import io
import itertools
import math
import pickle
import reprlib
import subprocess
from decimal import Decimal
from fractions import Fraction

from ipcio import shm, strfile

INTS = [-(2**70), -(2**63) - 1, -(2**63), -(2**31), -4096, -2, -1, 0, 1, 2, 3, 7, 10, 64, 100, 4095, 4096, 4097]
INTS += [2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 4096, 2**63 - 1, 2**63, 2**64, 2**70]
FLOATS = [math.nan, math.inf, -math.inf, -0.0, 0.0, 1.0, 0.5, 1e-300, 1e300, 5e-324]
TAILS = ["\0", "/", "\\", "\ud800", "\udcff", "\u00e9", "\U0001f4a5", " ", "\n", "x" * 200, "x" * 260, "x" * 5000]
WORDS = ["", "-1", "0", "7", "1e9", "nan", "inf", "9" * 30, "9" * 5000, "\udcff", "\u0663", "x" * 300, "-", "--"]
WORDS += [
    "--force",
    "--nothing",
    "a b",
    "..",
    "/",
    "\n",
    "--help",
    "--timeout",
    "--range",
    "-h",
    "%s",
    "{}",
    "x" * 200000,
]
# Small ones, or so large that they are refused: no memory is to be set aside.
SIZES = [-(2**70), -1, 0, 1, 2, 4095, 4096, 4097, 65536, 2**50, 2**62, 2**63 - 4096, 2**63 - 1, 2**63, 2**64, 2**70]
METHODS = ["__index__", "__int__", "__float__", "__fspath__", "__len__", "__bool__", "__iter__", "__next__", "__eq__"]
METHODS += ["__lt__", "__gt__", "__hash__", "__getitem__", "__buffer__", "__contains__", "fileno", "read", "write"]
METHODS += ["readable", "writable", "seekable", "flush", "items", "keys", "seek", "tell"]
NO_DESCRIPTORS = [-(2**70), -(2**31) - 1, -1, 900000, 2**31 - 1, 2**31, 2**40, 2**64]


# With the same answer every time they are no nonsense, but never come to an end, or are no key.
ENDLESS = {"__hash__", "__eq__", "__getitem__", "__next__", "read"}


class Own(Exception):  # noqa: N818
    """What an argument's own method raises; who made the call is to get it."""


class OwnKey(Own, KeyError):  # noqa: N818
    """One that might be taken for the callee's."""


class OwnAttribute(Own, AttributeError):  # noqa: N818
    """Another."""


class OwnValue(Own, ValueError):  # noqa: N818
    """Another."""


RAISED: list[Own] = []


def raising(rng):
    """An object some of whose methods raise, and the others are not there or tell the truth."""
    kind = rng.choice([Own, Own, OwnKey, OwnAttribute, OwnValue])

    def fail(*_, **__):
        RAISED.append(kind("own"))
        raise RAISED[-1]

    chosen = rng.choice([METHODS, [rng.choice(METHODS)], rng.sample(METHODS, 5)])
    space = dict.fromkeys(chosen, fail)
    if "__eq__" in space:
        space.setdefault("__hash__", object.__hash__)
    return type("Raising", (), space)()


def nonsense(rng):
    """An object whose methods answer what they must not."""
    answer = rng.choice([None, "x", -1, 2**70, b"\0", 1.5, [], NotImplemented])
    methods = rng.sample(METHODS, rng.randrange(1, 6))
    space = {method: lambda *_, **__: answer for method in methods if method not in ENDLESS}
    return type("Nonsense", (), space)()


class Index:
    """An int in all but type, that does something else first."""

    def __init__(self, number, act=None):
        self.number = number
        self.act = act

    def __index__(self):
        if self.act is not None:
            self.act()
        return self.number


class Bytes:
    """A buffer written in Python, from 3.12 on, that does something else first."""

    def __init__(self, data, act):
        self.data = data
        self.act = act

    def __buffer__(self, _flags):
        self.act()
        return memoryview(self.data)


class Pair(ctypes.Structure):
    _fields_ = (("a", ctypes.c_char), ("b", ctypes.c_double))


class Big(ctypes.BigEndianStructure):
    _fields_ = (("a", ctypes.c_int),)


def released():
    view = memoryview(b"gone")
    view.release()
    return view


def closed():
    h = strfile.open("closed")
    h.close()
    return h


BUFFERS = [
    lambda: bytearray(b"some\nbytes"),
    lambda: bytearray(10000),
    lambda: memoryview(b"read only"),
    lambda: memoryview(bytearray(40))[::2],
    lambda: memoryview(bytearray(40))[::-1],
    lambda: memoryview(bytearray(24)).cast("B", (2, 3, 4)),
    lambda: memoryview(bytearray(24)).cast("d"),
    lambda: memoryview(bytearray(24)).cast("?"),
    lambda: memoryview(bytearray(24)).cast("c"),
    lambda: memoryview(bytearray(24)).cast("P", (3, 1)),
    lambda: memoryview(bytearray()).cast("d"),
    released,
    lambda: array.array("d", range(10)),
    lambda: array.array("q"),
    lambda: array.array("b", range(100)),
    lambda: ctypes.c_int(7),
    ctypes.c_double * 4,
    ctypes.c_int * 0,
    (ctypes.c_short * 2) * 3,
    lambda: Pair(b"a", 1.0),
    Pair * 2,
    Big * 3,
    lambda: pickle.PickleBuffer(b"x"),
    lambda: strfile.open("another handle"),
    closed,
]

OTHERS = [
    lambda: None,
    lambda: Ellipsis,
    lambda: NotImplemented,
    object,
    lambda: object,
    list,
    lambda: [1, 2],
    lambda: [b"a", "b"],
    lambda: [b"a\n", b"b\n"],
    lambda: (b"x" * 100 for _ in range(3)),
    dict,
    set,
    lambda: {"r"},
    lambda: ("r",),
    lambda: lambda *_: None,
    lambda: itertools.repeat(0, 3),
    lambda: 1j,
    lambda: Decimal("NaN"),
    lambda: Decimal("sNaN"),
    lambda: Decimal(2),
    lambda: Fraction(1, 3),
    lambda: type("Number", (int,), {})(5),
    lambda: type("Word", (str,), {})("rw"),
    lambda: range(10),
    lambda: slice(1, 2),
    lambda: Exception("x"),
]

TEXTS = ["", "x", "r", "rw", "rb", "x\0y", "\ud800", "a/b", "..", ".", "\u00e9", "x" * 5000, "0", "nan", "utf-8", "\\"]


def value(rng, *, text=True, around=None):
    """Any value; `around` is a handle that some of them may close, or make narrower, while they are looked at."""
    kind = rng.randrange(10)
    if kind < 3:
        return rng.choice([*INTS, True, False])
    if kind == 3:
        return rng.choice(FLOATS)
    if kind == 4:
        word = rng.choice(TEXTS)
        return word if text and rng.random() < 0.8 else word.encode("utf-8", "surrogatepass")
    if kind < 7:
        return rng.choice(BUFFERS)()
    if kind == 7:
        return rng.choice(OTHERS)()
    if kind == 8 and around is not None:
        act = rng.choice([around.close, lambda: narrow(around)]) if rng.random() < 0.3 else None
        return rng.choice([Index(rng.choice(INTS), act), Bytes(bytearray(10), act or (lambda: None))])
    return rng.choice([raising, nonsense])(rng)


def narrow(handle):
    with contextlib.suppress(Exception):
        handle.truncate(1)


def size(rng):
    """How much memory there is to be: never so much that it would be had, and matter."""
    if rng.random() < 0.6:
        return rng.choice(SIZES)
    while True:
        made = value(rng)
        if not isinstance(made, int) or made in SIZES:
            return made


def file(attack, path):
    """Something that is a file open on `path`, or says so."""
    rng = attack.rng
    kind = rng.randrange(14)
    if kind == 0:
        return open(path, rng.choice(["rb", "r+b", "ab"]), buffering=0)
    if kind == 1:
        return open(path, rng.choice(["rb", "r+b", "ab"]))
    if kind == 2:
        return open(path, rng.choice(["r", "r+", "a"]), encoding="utf-8")
    if kind == 3:
        made = open(path, "rb")
        made.close()
        return made
    if kind == 4:
        return rng.choice([io.BytesIO, io.StringIO])()
    if kind == 5:
        return shm.create(None, 100)
    if kind == 6:
        return strfile.open("text")
    if kind == 7:
        return closed()
    if kind == 8:
        return rng.choice(NO_DESCRIPTORS)
    if kind == 9:
        return io.TextIOWrapper(io.BytesIO(b"x"), encoding="utf-8")
    if kind == 10:
        return subprocess.DEVNULL
    if kind == 11:
        return type("Liar", (), {"fileno": lambda _: rng.choice([*NO_DESCRIPTORS, None, "x", 1.5])})()
    while True:
        made = value(rng)
        if not isinstance(made, (int, Index)):  # which may be somebody else's descriptor
            return made


def close(thing):
    """As well as it can be."""
    with contextlib.suppress(Exception):
        thing.close()


def show(thing):
    """What it is, if it can be told."""
    if isinstance(thing, (tuple, list)):
        return f"({', '.join(map(show, thing))})"
    if isinstance(thing, dict):
        return f"{{{', '.join(f'{show(key)}: {show(what)}' for key, what in thing.items())}}}"
    try:
        told = reprlib.repr(thing)
    except Exception:
        told = object.__repr__(thing)
    extra = (
        f" with {', '.join(sorted(vars(type(thing)).keys() & set(METHODS)))}"
        if type(thing).__name__ in {"Raising", "Nonsense"}
        else ""
    )
    return told.encode("ascii", "backslashreplace").decode() + extra
