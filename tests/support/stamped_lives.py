"""Random creates, attaches and closes under a few names, which check that what they see fits together."""

from __future__ import annotations

import itertools
import os
import random
import struct
import zlib

from leftovers import descriptors
from named_contract import FILES

from ipcio import shm

STAMP = struct.Struct("<IHH")  # life, size, checksum: eight bytes, written at once


def stamp(life, size):
    return STAMP.pack(life, size, zlib.crc32(struct.pack("<IH", life, size)) & 0xFFFF)


def check(h):
    """An attacher sees all of a segment, either all zero still or with the stamp of this very one."""
    content = bytes(h.getbuffer()[: STAMP.size])
    if content == bytes(STAMP.size):
        return None
    life, size, _ = STAMP.unpack(content)
    assert content == stamp(life, size), "torn, or another's bytes"
    assert size == h.size(), "half of a segment"
    if FILES:
        assert size == os.fstat(h.fileno()).st_size
    assert not any(h.getbuffer()[STAMP.size :]), "bytes of an earlier life"
    return life


def work(seed, names, steps, *, unlinks):
    """Do this and that; while we hold a name, we know what others must find."""
    chance = random.Random(seed)
    lives = itertools.count(seed * 65536 + 1)
    held = {name: [] for name in names}
    before = len(descriptors())
    for _ in range(steps):
        name = chance.choice(names)
        mine = held[name]
        act = chance.random()
        try:
            if mine and (act < 0.4 or len(mine) > 3):
                mine.pop(chance.randrange(len(mine))).close()
            elif act < 0.5:
                size = chance.randrange(STAMP.size, 9000)
                h = shm.create(name, size, reserve=chance.random() < 0.5)
                assert unlinks or not mine, "created although we hold it"
                mine.append(h)
                assert h.created
                assert h.size() == size
                assert not any(h.getbuffer()), "not zero"
                h.getbuffer()[: STAMP.size] = stamp(next(lives), size)
            elif act < 0.6:
                h = shm.create(name, STAMP.size, exist_ok=True)
                mine.append(h)
                if h.created:
                    h.getbuffer()[: STAMP.size] = stamp(next(lives), STAMP.size)
                check(h)
            elif act < 0.95 or not unlinks:
                h = shm.attach(name, chance.choice(["r", "rw"]))
                mine.append(h)
                lives_seen = {check(other) for other in mine} - {None}  # None: not stamped yet
                assert unlinks or len(lives_seen) <= 1, "two objects at once"
            else:
                shm.unlink(name)
        except FileNotFoundError:
            assert unlinks or not mine, "absent although we hold it"
        except FileExistsError:
            pass
    for mine in held.values():
        for h in mine:
            h.close()
    return len(descriptors()) - before
