"""Named shared memory: names, lifetime, bad input."""

from __future__ import annotations

import pytest

from ipcio import shm


def test_a_name_lives_as_long_as_some_handle(name, peer):
    """The creator may close first; the name goes with the last handle."""
    other = peer()
    h = shm.create(name, 100)
    other.run(f"h = shm.attach({name!r})")
    h.write(b"hello")
    h.close()
    assert other.ask("h.read(5)") == b"hello"
    with shm.attach(name) as again:
        assert again.read(5) == b"hello"
    other.kill()
    with pytest.raises(FileNotFoundError):
        shm.attach(name)
