"""Fixtures: every kind of handle over given bytes.  A test module asks with ``pytest_plugins = ["handles"]``."""

from __future__ import annotations

import contextlib

import pytest
from abilities import lacks

from ipcio import mmap, shm, strfile


def _shm(data, _, name, mode):
    with shm.create(name, max(len(data), 1)) as made:
        made.write(data)
        h = shm.attach(name, mode)
    h.truncate(len(data))
    return h


def _mmap(data, tmp_path, name, mode):
    path = tmp_path / name
    path.write_bytes(data)
    return mmap.open(path, mode)


READERS = {
    "shm-rw": lambda *args: _shm(*args, "rw"),
    "shm-r": lambda *args: _shm(*args, "r"),
    "mmap-rw": lambda *args: _mmap(*args, "rw"),
    "mmap-r": lambda *args: _mmap(*args, "r"),
    "strfile": lambda data, *_: strfile.open(data),
}


def _opener(request, unique, tmp_path):
    with contextlib.ExitStack() as stack:

        def open_one(data):
            h = READERS[request.param](data, tmp_path, unique())
            stack.callback(h.close)
            return h

        yield open_one


@pytest.fixture(params=READERS)
def source(request, unique, tmp_path):
    """Open a readable handle over the bytes given, at position 0."""
    yield from _opener(request, unique, tmp_path)


def _marked(kind):
    return pytest.param(kind, marks=pytest.mark.needs("descriptors")) if kind.startswith("shm") else kind


@pytest.fixture(params=[_marked(kind) for kind in READERS if kind != "strfile"])
def source_fd(request, unique, tmp_path):
    """Open a readable handle that has a descriptor."""
    yield from _opener(request, unique, tmp_path)


@pytest.fixture
def target_fd(request, target):
    """As `target`, but with a descriptor."""
    if request.node.callspec.params["target"].startswith("shm") and lacks("descriptors"):
        pytest.skip(lacks("descriptors"))
    return target


@pytest.fixture(params=[kind for kind in READERS if kind.endswith("rw")])
def target(request, unique, tmp_path):
    """Open a writable handle over as many zero bytes as asked for."""
    opener = _opener(request, unique, tmp_path)
    open_one = next(opener)
    yield lambda size: open_one(bytes(size))
    opener.close()
