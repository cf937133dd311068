"""Measure ipcio against its peers: ``python -m benchmarks [GROUP ...]``.  See README.md."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import statistics
import sys
import time
from datetime import datetime, timezone

from benchmarks import rows
from benchmarks.rows import ROWS, Skip

for module in (
    "files",
    "names",
    "moving",
    "queues",
    "lua",
    "sem",
    "mutexes",
    "events",
    "locks",
    "procs",
    "imports",
):  # in the order of the table
    importlib.import_module(f"benchmarks.{module}")

GROUPS = list(dict.fromkeys(row.group for row in ROWS))
RESULTS = os.path.join(os.path.dirname(__file__), "results")
LEAST = 5  # rounds, however long they take


def measure(sides, rounds, seconds):
    """Time the sides in turn, each being first in turn; return their times per round."""
    least = min(rounds, LEAST)
    times = [[] for _ in sides]
    give_up = time.monotonic() + seconds
    for turn in range(rounds):
        for place in range(len(sides)):
            which = (turn + place) % len(sides)
            times[which].append(sides[which]())
        if time.monotonic() > give_up and turn + 1 >= least:
            break
    return times


def report(row, rounds, seconds):
    """Measure one row; return what is known of it afterwards."""
    found = {"group": row.group, "operation": row.name, "peer": row.peer, "kind": row.kind, "goal": row.goal}
    try:
        with contextlib.ExitStack() as stack:
            ours, peer, *floor = measure(row.prepare(stack), rounds, seconds)
    except Skip as reason:
        return {**found, "skipped": str(reason)}
    found |= {
        "ratio": min(ours) / min(peer),
        "median": statistics.median(our / their for our, their in zip(ours, peer, strict=True)),
        "ours": ours,
        "theirs": peer,
    }
    if row.floor:
        bare = floor[0] if floor else peer
        found |= {"floor": row.floor, "floor_ratio": min(bare) / min(peer), "bare": bare}
    return found


def line(found):
    """One row as Markdown."""
    goal = found["goal"]
    start = f"| {found['group']} | {found['operation']} | {found['peer']} | {'' if goal is None else goal} |"
    if "skipped" in found:
        return f"{start} | | | | skipped: {found['skipped']} |"
    over = "over" if isinstance(goal, float) and found["ratio"] > goal else ""
    floor = f"{found['floor_ratio']:.3g}: {found['floor']}" if "floor" in found else ""
    return f"{start} {found['ratio']:.3g} | {found['median']:.3g} | {floor} | {over} |"


def machine():
    """What was measured on, without its name."""
    model = platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        model = next((text.partition(":")[2].strip() for text in file if text.startswith("model name")), model)
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "processor": f"{model}, {os.cpu_count()} CPUs",
    }


def summary(found):
    """What is kept of a row in a file for the documentation: minima and medians instead of every time."""
    if "skipped" in found:
        return found
    short = {
        side: {"min": min(found[side]), "median": statistics.median(found[side])}
        for side in ("ours", "theirs", "bare")
        if side in found
    }
    return {**found, **short, "rounds": len(found["ours"])}


def main():
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure ipcio against its peers.")
    parser.add_argument("groups", metavar="GROUP", nargs="*", help=f"default: all of {', '.join(GROUPS)}")
    parser.add_argument("--rounds", type=int, default=101, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=4, help="after which a row ends; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a round or two of everything: does it run?")
    parser.add_argument("--json", metavar="FILE", help="write a summary, of which benchmarks.chart draws charts")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds, rows.quick = 2, 0.0, True
    if unknown := set(arguments.groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(unknown)}")

    about = machine()
    print(f"{'; '.join(about.values())}. Ratios of time, ipcio to peer and floor to peer; less is better.\n")
    print("| group | operation | peer | goal | ratio of minima | median ratio | floor | |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    results = []
    for row in ROWS:
        if not arguments.groups or row.group in arguments.groups:
            results.append(report(row, max(arguments.rounds, 2), arguments.seconds))
            print(line(results[-1]), flush=True)

    os.makedirs(RESULTS, exist_ok=True)
    now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
    path = os.path.join(RESULTS, f"{now}-python{platform.python_version()}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"about": about, "date": now, "rows": results}, file, indent=1)
    if arguments.json:
        date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"about": about, "date": date, "rows": [summary(found) for found in results]}, file, indent=1)
            file.write("\n")
    print(f"\nAll times, in seconds per operation: {os.path.relpath(path)}", file=sys.stderr)


if __name__ == "__main__":
    main()
