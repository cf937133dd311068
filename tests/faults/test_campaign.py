"""The fault campaign's command: each part runs, a loss is reported and can be repeated, what is left is found."""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from campaign import runner
from campaign.parts import PARTS, Part, Unable, chance
from children import Adoption, Event, Forked

from ipcio import shm

SHORT = {"limits": 1, "soak": 1}


@pytest.mark.slow
@pytest.mark.needs("files", "fork", "proc")
@pytest.mark.parametrize("name", PARTS)
def test_a_part_runs_without_a_loss(name):
    if not (Path(runner.__file__).parent / f"{name}.py").exists():
        pytest.skip("not part of this copy")
    told = []
    report = runner.run(PARTS[name], 9, rounds=SHORT.get(name, 2), seconds=60, names=False, tell=told.append)
    if report.lacks:
        pytest.skip(report.lacks)
    assert report.losses == 0, told
    assert report.rounds


def made(one_round):
    part = Part("made")

    @contextmanager
    def setup(_place):
        yield one_round

    part.setup = setup
    return part


def test_a_loss_tells_how_to_see_it_again():
    def third(rng):
        assert rng.random() != chance(7, "made", 2).random(), "lost"
        return {"kills": 2}

    told = []
    report = runner.run(made(third), 7, rounds=4, seconds=60, names=False, tell=told.append)
    assert (report.rounds, report.losses, report.counts["kills"]) == (4, 1, 6)
    assert "lost" in told[0]
    assert told[1].endswith("made --seed 7 --round 2")
    again = runner.run(made(third), 7, only=2, names=False, tell=told.append)
    assert (again.rounds, again.losses) == (1, 1)


def test_what_is_left_is_a_loss():
    kept = []
    told = []
    report = runner.run(
        made(lambda _: kept.append(os.open(os.devnull, os.O_RDONLY)) or {}), 1, rounds=1, names=False, tell=told.append
    )
    os.close(kept[0])
    assert report.losses == 1
    assert "descriptors left open" in told[0]


def test_what_this_machine_is_unable_to_do_is_told_and_is_no_loss(monkeypatch, capsys, tmp_path):
    def unable(_):
        raise Unable("it lacks a thing")

    monkeypatch.setattr(runner, "left_since", lambda _: "")  # of other tests, at the same time
    monkeypatch.setitem(PARTS, "made", made(unable))
    assert runner.main(["made", "--seconds", "0", "--table", str(tmp_path / "table")]) == 0
    text = (tmp_path / "table").read_text(encoding="utf-8")
    assert "not run: it lacks a thing" in text
    assert text in capsys.readouterr().out


def test_the_status_of_a_command_that_lost_is_one(monkeypatch, capsys):
    def lose(_):
        raise AssertionError("lost")

    monkeypatch.setitem(PARTS, "made", made(lose))
    assert runner.main(["made", "--seconds", "0", "--seed", "3"]) == 1
    assert "LOSS in made, seed 3, round 0: AssertionError: lost" in capsys.readouterr().out


def test_the_command_lists_its_parts(capsys):
    assert runner.main(["--list"]) == 0
    assert capsys.readouterr().out.split() == list(PARTS)
    with pytest.raises(SystemExit):
        runner.main(["nothing"])
    assert sys.exc_info()[0] is None


PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not here")
def test_the_page_describes_every_part():
    described = PAGE.read_text(encoding="utf-8").split("## The fault campaign\n")[1].split("\n## ")[0]
    assert re.findall(r"^(\w+)\n: ", described, re.MULTILINE) == list(PARTS)


@pytest.mark.needs("fork")
def test_memory_that_rises_is_a_loss():
    soak = pytest.importorskip("campaign.soak")
    own, other = [20 << 20] * 300, [(20 << 20) + 4096 * (n % 7) for n in range(300)]
    assert "the other 20,488 KiB" in soak.judge(own, other)
    with pytest.raises(AssertionError, match="memory rises"):
        soak.judge(own, [value + 20_000 * n for n, value in enumerate(other)])


@pytest.mark.needs("fork", "files", "proc")
def test_what_a_killed_process_was_starting_holds_its_names_and_is_waited_for(name):
    """So a name that is held after that is a loss, without any patience."""
    with Adoption() as adoption, Event() as started, Event() as go:

        def work():
            kept = shm.create(name, 100)
            if not os.fork():
                started.set()
                go.wait()
                os.execv("/bin/sh", ["sh", "-c", "exit 0"])
            signal.pause()
            kept.close()

        killed = Forked(work)
        started.wait()
        killed.kill()
        shm.attach(name).close()
        go.set()
        assert adoption.wait() == 1
        with pytest.raises(FileNotFoundError):
            shm.attach(name)
