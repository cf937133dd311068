"""Arguments of every kind: a round of what ``campaign.arguments`` does for hours, and what it found."""

from __future__ import annotations

import random

import pytest

from ipcio import proc

MODULES = ["shm", "sem", "event", "queue", "mmap", "strfile", "filelock", "proc", "command", "urls"]


@pytest.mark.needs("files", "fork", "undo", "proc")
@pytest.mark.parametrize("module", MODULES)
def test_any_arguments_are_an_error_that_is_documented_or_success(name, tmp_path, module):
    if module == "urls":
        pytest.importorskip("fsspec")
    from campaign.arguments import USES, attack_with
    from campaign.input import guarded

    assert list(USES) == MODULES
    assert guarded(attack_with(module), random.Random(2), str(tmp_path), name)["calls"]


@pytest.mark.parametrize("env", [5, "A=b", [("A", "b")]])
def test_an_environment_that_is_no_mapping_is_a_type_error(env):
    with pytest.raises(TypeError, match="env must be a mapping"):
        proc.spawn(["nothing"], env=env)


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_descriptor_that_is_no_number_is_a_type_error(stream):
    class Liar:
        def fileno(self):
            return "x"

    with pytest.raises(TypeError):
        proc.spawn(["nothing"], **{stream: Liar()})
