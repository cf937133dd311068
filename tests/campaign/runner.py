"""Goes through the parts, and reports what they did, what was lost and how to see that again."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import platform
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from leftovers import children, descriptors, left_since, survey

from campaign.parts import PARTS, Unable, chance

ENOUGH = 5  # losses after which a part is given up
PATIENCE = 180  # seconds until a round that does not end is a loss


class Report:
    """What a part did."""

    def __init__(self, name):
        self.name = name
        self.counts = Counter()
        self.rounds = self.losses = 0
        self.seconds = 0.0
        self.lacks = self.note = ""

    def row(self):
        if self.lacks:
            return [self.name, "", "", "", "", "", f"not run: {self.lacks}"]
        counts = Counter(self.counts)
        figures = [self.rounds, counts.pop("kills", 0), counts.pop("faults", 0), self.losses, round(self.seconds)]
        rest = [f"{count:,} {what}" for what, count in sorted(counts.items()) if count]
        return [self.name, *(f"{figure:,}" for figure in figures), "; ".join([*rest, *filter(None, [self.note])])]


def run(part, seed, *, seconds=0.0, rounds=1 << 62, only=None, names=True, tell=print, watch=contextlib.nullcontext):
    """Do rounds of a part until the time is over, but one at least; or `only` that one."""
    report = Report(part.name)
    start = time.monotonic()
    before = _state()
    place = Path(tempfile.mkdtemp(prefix="ipcio-campaign-"))

    def lost(number, error):
        report.losses += 1
        where = f"{part.name}, seed {seed}, round {number}" if number is not None else f"{part.name}, seed {seed}"
        tell(f"LOSS in {where}: {type(error).__name__}: {error}\n{_place_of(error)}")
        if number is not None:
            tell(f"again: python -m tests.campaign {part.name} --seed {seed} --round {number}")

    number = 0 if only is None else only
    one_round = None
    try:
        with part.open(place) as one_round:
            while True:
                try:
                    with watch():
                        report.counts.update(one_round(chance(seed, part.name, number)))
                except Unable:
                    raise
                except Exception as error:  # what is not foreseen is a loss as well
                    lost(number, error)
                report.rounds += 1
                number += 1
                if only is not None or report.rounds >= rounds or report.losses >= ENOUGH:
                    break
                if time.monotonic() - start >= seconds:
                    break
    except Unable as error:
        report.lacks = str(error)
    except Exception as error:
        lost(None, error)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    report.note = getattr(one_round, "note", "")
    left = _left_since(before, names)
    if left:
        lost(None, AssertionError(left))
    report.seconds = time.monotonic() - start
    return report


def _place_of(error):
    trace = error.__traceback__
    lines = []
    while trace is not None:
        code = trace.tb_frame.f_code
        lines.append(f"  {os.path.basename(code.co_filename)}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return "\n".join(lines)


def _state():
    gc.collect()
    return survey(), descriptors(), children(), set(threading.enumerate())


def _left_since(before, names):
    """A complaint, or nothing."""
    gc.collect()
    complaints = [left_since(before[0])] if names else []
    opened = {fd: what for fd, what in descriptors().items() if fd not in before[1]}
    complaints += [f"descriptors left open: {opened}"] if opened else []
    born = children() - before[2]
    complaints += [f"children left: {sorted(born)}"] if born else []
    threads = set(threading.enumerate()) - before[3]
    complaints += [f"threads left: {sorted(thread.name for thread in threads)}"] if threads else []
    return "; ".join(filter(None, complaints))


def table(reports, heading):
    """All figures, as Markdown that can be read as it is."""
    total = Report("all")
    for report in reports:
        total.rounds += report.rounds
        total.losses += report.losses
        total.seconds += report.seconds
        total.counts += {word: report.counts[word] for word in ("kills", "faults")}
    head = ["part", "rounds", "kills", "faults", "losses", "seconds", "also"]
    rows = [report.row() for report in [*reports, total]]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    text = {0, len(head) - 1}  # the others are numbers

    def line(cells):
        return f"| {' | '.join(c.ljust(w) if i in text else c.rjust(w) for i, (c, w) in enumerate(cells))} |"

    rule = [("-" * w if i in text else "-" * (w - 1) + ":", w) for i, w in enumerate(widths)]
    lines = [line(zip(cells, widths, strict=True)) for cells in (head, *rows)]
    return "\n".join([heading, "", lines[0], line(rule), *lines[1:], ""])


@contextlib.contextmanager
def alarm():
    """A round that does not end becomes one that fails."""

    def late(*_):
        raise AssertionError(f"the round did not end within {PATIENCE} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def arguments(words):
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaign", description="Attack ipcio, and print the figures."
    )
    parser.add_argument("parts", metavar="PART", nargs="*", help=f"one of {', '.join(PARTS)}; without any, all of them")
    parser.add_argument("--seconds", type=float, default=120, help="for all parts together (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="for the same chance again (default: another one each time)")
    parser.add_argument("--round", type=int, help="do this round and no other; takes --seed")
    parser.add_argument("--table", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--list", action="store_true", help="tell the names of the parts and end")
    chosen = parser.parse_args(words)
    for name in chosen.parts:
        if name not in PARTS:
            parser.error(f"there is no part {name!r}; there are {', '.join(PARTS)}")
    if chosen.round is not None and chosen.seed is None:
        parser.error("--round takes --seed")
    return chosen


def main(words=None):
    """The command; the status is 1 if anything was lost."""
    chosen = arguments(words)
    if chosen.list:
        print("\n".join(PARTS))
        return 0
    seed = random.SystemRandom().randrange(1 << 32) if chosen.seed is None else chosen.seed
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    heading = f"{system}, {'root' if hasattr(os, 'geteuid') and not os.geteuid() else 'an ordinary user'}, seed {seed}"
    print(heading, flush=True)
    names = chosen.parts or list(PARTS)
    end = time.monotonic() + chosen.seconds
    reports = []
    for place, name in enumerate(names):
        share = max(0.0, end - time.monotonic()) / (len(names) - place)  # what others left, too
        print(f"{name} ...", flush=True)
        watch = alarm if hasattr(signal, "alarm") else contextlib.nullcontext
        reports.append(run(PARTS[name], seed, seconds=share, only=chosen.round, watch=watch))
    text = table(reports, heading)
    print(f"\n{text}", end="", flush=True)
    if chosen.table:
        with open(chosen.table, "w", encoding="utf-8") as file:
            file.write(text)
    return 1 if any(report.losses for report in reports) else 0
