"""Thousands of random operations, each done to a handle and to a real unbuffered file: same answers, same place."""

from __future__ import annotations

import array
import contextlib
import copy
import io
import os
import random

import pytest
from abilities import lacks
from campaigns import campaign, rounds
from file_contract import outcome

from ipcio import mmap, shm, strfile

SEQUENCES, LENGTH = rounds(15), 80  # of each kind


def _content(rng):
    """Some hundred bytes with lines of every length, now and then none."""
    size = rng.choice([1, 2, 100, 129, 700, 5000, 70_000])
    density = rng.choice([0.0, 0.01, 0.2, 1.0])
    return bytes(10 if rng.random() < density else rng.randrange(256) for _ in range(min(size, 700))) * (
        size // 700 or 1
    )


class Pair:
    """A handle and its model, a real file with exactly the same bytes."""

    def __init__(self, handle, model):
        self.handle = handle
        self.model = model
        self.size = self.whole = handle.size()
        self.fd = None
        self.log = []

    def reads(self, what, act):
        """The same as `both`, where the mode allows it; else it must be refused, whatever the arguments."""
        if self.model.readable():
            self.both(what, act)
        else:
            self.refused(what, act, ("OSError", "unsupported"))

    def both(self, what, act):
        """Do it to both, compare what comes of it and where they stand."""
        self.log.append(what)
        got, wanted = outcome(lambda: act(self.handle)), outcome(lambda: act(self.model))
        if wanted[0] == "value" and isinstance(wanted[1], int):
            assert type(got[1]) is int, (got, wanted)
        assert got == wanted
        self.check()

    def refused(self, what, act, kind):
        """Do it to the handle alone: it must refuse and not move."""
        self.log.append(what)
        assert outcome(lambda: act(self.handle)) == kind
        self.check()

    def check(self):
        where = self.model.tell()
        assert self.handle.tell() == where
        if self.fd is not None:
            assert os.lseek(self.fd, 0, os.SEEK_CUR) == where

    def check_content(self):
        with self.handle.getbuffer() as view:
            assert bytes(view) == self.model.path.read_bytes()


def _size(rng, pair):
    return rng.choice([0, 1, 2, 7, 128, 129, pair.size, pair.size + 1, rng.randrange(pair.size + 2), -1, None])


def _step(rng, pair):
    """One operation of the kinds that every raw file has."""
    f = pair.model
    what = rng.randrange(20)
    if what <= 2:
        n = _size(rng, pair)
        method = rng.choice(["read", "readline"])
        pair.reads(f"{method}({n})", lambda f: getattr(f, method)(n))
    elif what == 3:
        method = rng.choice(["read", "readall", "readline"])
        pair.reads(f"{method}()", lambda f: getattr(f, method)())
    elif what == 4:
        n = rng.choice([0, 1, 5, 1000, 65_536, 65_537, 100_000])

        def fill(f):
            target = bytearray(n)
            return f.readinto(target), bytes(target)

        pair.reads(f"readinto({n})", fill)
    elif what == 5:
        hint = rng.choice([None, 0, -1, 1, 50, 10_000])
        pair.reads(f"readlines({hint})", lambda f: f.readlines(hint))
    elif what <= 8:
        offset = rng.choice([0, 1, pair.size, pair.size + 5, rng.randrange(pair.size + 1), -1, 1 << 35])
        pair.both(f"seek({offset})", lambda f: f.seek(offset))
    elif what == 9:
        offset, whence = rng.randrange(-pair.size - 2, pair.size + 5), rng.choice([1, 2])
        pair.both(f"seek({offset}, {whence})", lambda f: f.seek(offset, whence))
    elif what <= 13:
        room = pair.size - f.tell()
        n = rng.choice([0, 1, 3, max(room, 0), rng.randrange(max(room, 0) + 2), 4 * rng.randrange(10)])
        data = rng.randbytes(n)
        data = rng.choice([data, bytearray(data), memoryview(data), array.array("B", data)])
        if n > room and n and f.writable():
            pair.refused(f"write({n} too many)", lambda f: f.write(data), ("OSError", "ENOSPC"))
        else:
            pair.both(f"write({bytes(data)!r})", lambda f: f.write(data))
    elif what == 14:
        count, other = rng.randrange(1, 4), rng.choice(["tell", "readline", "seek", "read", "peep", "next"])
        jump = rng.randrange(pair.size + 1)

        def loop(f):
            told = []
            for line in f:
                told.append(line)
                if other == "seek":
                    f.seek(jump)
                elif other == "read":
                    told.append(f.read(2))
                elif other == "next":
                    told.append(next(f, None))
                elif other != "peep":
                    told.append(getattr(f, other)())
                if len(told) >= 2 * count:
                    break
            return told

        pair.reads(f"{count} lines with {other} between ({jump})", loop)
    elif what == 15:
        pair.reads("next", lambda f: next(f, None))
    elif what == 16:
        bad = rng.choice(["x", 1.5, [], b""])
        method = rng.choice(["read", "seek", "readline", "readlines"] if f.readable() else ["seek"])
        pair.both(f"{method}({bad!r})", lambda f: getattr(f, method)(bad))
    elif what == 17:
        pair.both("flags", lambda f: (f.readable(), f.writable(), f.closed, f.isatty(), f.flush()))
    elif what == 18 and rng.random() < 0.2:
        _narrow(rng, pair)
    else:
        pair.both("tell", lambda f: f.tell())


def _narrow(rng, pair):
    n = rng.choice([None, rng.randrange(pair.size + 1), pair.size, pair.size + 1, -1])
    pair.log.append(f"truncate({n})")
    wanted = pair.model.tell() if n is None else n
    if not 0 <= wanted <= pair.size:
        assert outcome(lambda: pair.handle.truncate(n)) == ("ValueError", None)
    else:
        assert pair.handle.truncate(n) == wanted
        pair.size = wanted
        os.truncate(pair.model.path, wanted)
        if pair.model.tell() > wanted:
            pair.model.seek(wanted)
    assert pair.handle.size() == pair.size
    pair.check()


def _descriptor_step(rng, pair):
    """One operation on the descriptors behind both, or the first `fileno`."""
    if pair.fd is None:
        pair.log.append("fileno()")
        if pair.size < pair.whole:
            assert outcome(pair.handle.fileno) == ("OSError", "unsupported")
        else:
            pair.fd = pair.handle.fileno()
        pair.check()
        return
    mine, theirs, here = pair.fd, pair.model.fileno(), pair.model.tell()
    room = max(pair.size - here, 0)
    what = rng.randrange(4)
    if what == 0:
        to = rng.randrange(pair.size + 3)
        pair.log.append(f"os.lseek({to})")
        os.lseek(mine, to, os.SEEK_SET)
        os.lseek(theirs, to, os.SEEK_SET)
    elif what == 1:
        pair.log.append("os.lseek(+1, SEEK_CUR)")
        os.lseek(mine, 1, os.SEEK_CUR)
        os.lseek(theirs, 1, os.SEEK_CUR)
    elif what == 2 or not pair.model.writable():
        n = rng.randrange(room + 1)
        pair.log.append(f"os.read({n})")
        assert os.read(mine, n) == os.read(theirs, n)
    else:
        data = rng.randbytes(rng.randrange(room + 1))
        pair.log.append(f"os.write({data!r})")
        assert os.write(mine, data) == os.write(theirs, data)
    pair.check()


def _sequence(rng, pair, descriptors):
    for step in range(LENGTH):
        if descriptors and rng.random() < 0.15:
            _descriptor_step(rng, pair)
        else:
            _step(rng, pair)
        if step % 20 == 0:
            pair.check_content()
        if rng.random() < 0.01:
            pair.log.append("copy")
            other = copy.copy(pair.handle)
            pair.handle.close()
            pair.handle, pair.fd = other, None
            pair.check()
    pair.check_content()


def _segment(name, _, content, mode):
    with shm.create(name, len(content)) as made:
        made.write(content)
        return shm.attach(name, mode)


def _mapped(_, path, content, mode):
    path.write_bytes(content)
    return mmap.open(path, mode)


def _part(_, path, content, mode):
    path.write_bytes(b"\n" * mmap.pagesize + content + b"beyond\n")
    return mmap.open(path, mode, mmap.pagesize, len(content))


def _string(_, __, content, kind):
    return strfile.open(kind(content))


KINDS = {  # how the model is opened; how the handle is
    "shm rw": ("rb+", _segment, "rw"),
    "shm r": ("rb", _segment, "r"),
    "mmap rw": ("rb+", _mapped, "rw"),
    "mmap r": ("rb", _mapped, "r"),
    "mmap w": ("wb", _mapped, "w"),
    "part rw": ("rb+", _part, "rw"),
    "part r": ("rb", _part, "r"),
    "strfile bytes": ("rb", _string, bytes),
    "strfile bytearray": ("rb", _string, bytearray),
}


@campaign
@pytest.mark.parametrize("kind", KINDS)
def test_a_handle_does_what_a_file_does(kind, unique, tmp_path):
    """Except that it never grows: there, ENOSPC."""
    mode, opener, how = KINDS[kind]
    with_descriptor = {_mapped} | (set() if lacks("descriptors") else {_segment})
    first = random.randrange(1 << 32)  # pytest-randomly makes this, too, repeatable
    for seed in range(first, first + SEQUENCES):
        rng = random.Random(seed)
        content = _content(rng)
        path = tmp_path / "model"
        path.write_bytes(content)
        with contextlib.ExitStack() as stack:
            # To open it the usual way for writing would empty it.
            model = io.FileIO(os.open(path, os.O_RDWR), "wb") if mode == "wb" else io.FileIO(path, mode)
            stack.callback(model.close)
            model.path = path
            handle = opener(unique(), tmp_path / "mapped", content, how)
            pair = Pair(handle, model)
            stack.callback(lambda pair=pair: pair.handle.close())
            try:
                _sequence(rng, pair, opener in with_descriptor and seed % 2)
            except BaseException as error:
                steps = "\n  ".join(entry if len(entry) < 200 else f"{entry[:200]}..." for entry in pair.log)
                raise AssertionError(f"{kind}, seed {seed}, {len(content)} bytes:\n  {steps}\n{error!r}") from error
