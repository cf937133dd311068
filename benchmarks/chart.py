"""Draw the charts and write the table of docs/performance.md: ``python -m benchmarks.chart DIRECTORY``.

Reads what ``python -m benchmarks --json DIRECTORY/benchmarks-VERSION.json`` has written, one file for each Python.
Writes ``benchmarks.txt``, a table of all of them, and two pictures for each panel, one for a light page and one for
a dark page.  The pictures show the newest Python, and need matplotlib.
"""

from __future__ import annotations

import argparse
import glob
import json
import math
import os
import re

PANELS = {  # in the order of the page: the groups that each one shows, but for what `panel_of` says
    "memory": ("Memory as a file", {"face", "lua"}),
    "lines": ("Lines, and the standard library's wrappers", {"wrappers", "strfile"}),
    "moving": ("Memory between processes", {"moving"}),
    "semaphores": ("Semaphores", {"sem"}),
    "mutexes": ("Mutexes and events", {"mutex", "event"}),
    "queues": ("Queues", {"queue"}),
    "locks": ("Locks on files", {"filelock"}),
    "processes": ("Child processes", {"proc"}),
    "names": ("Names and imports", {"names", "import"}),
    "scaling": ("ipcio against itself with less to do", {"scaling"}),
}

SELVES = {"scaling": "shared memory", "sem": "semaphores", "mutex": "mutexes", "queue": "queues", "strfile": "strfile"}
MISSED = "✗"  # after a ratio above its goal


def panel_of(row):
    """Where a row belongs."""
    if row["kind"] == "self":
        return "scaling"
    if row["group"] in {"face", "lua"} and "lines" in row["operation"]:
        return "lines"
    return next(panel for panel, (_, groups) in PANELS.items() if row["group"] in groups)


def peer_of(row):
    return f"{SELVES[row['group']]}, {row['peer']}" if row["kind"] == "self" else row["peer"]


# -- numbers -------------------------------------------------------------------


def three(number):
    """Three digits, and never in powers of ten."""
    power = int(f"{number:.2e}".partition("e")[2])
    return f"{number:.{max(0, 2 - power)}f}"


def duration(seconds):
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{three(seconds / size)} {unit}"
    return f"{three(seconds * 1e9)} ns"


def amount(row, side):
    """What was measured of a row: a time, or memory."""
    least = row[side]["min"]
    return f"{three(least / 2**20)} MiB" if row["kind"] == "memory" else duration(least)


def missed(row):
    """Whether the ratio, as the page shows it, is above the goal."""
    return isinstance(row["goal"], float) and float(three(row["ratio"])) > row["goal"]


# -- the table -----------------------------------------------------------------


def python_of(run):
    """The version of a run's Python, as numbers and as the table names it."""
    numbers = tuple(map(int, re.findall(r"\d+", run["about"]["python"])[:2]))
    return numbers, ".".join(map(str, numbers))


def measured(run):
    """The rows of a run by what they compare."""
    return {
        (row["group"], row["operation"], row["peer"], row["kind"]): row for row in run["rows"] if "skipped" not in row
    }


def table(runs):
    """Everything, as Markdown, a table for each panel; the newest Python comes first."""
    versions = [f"Python {python_of(run)[1]}" for run in runs]
    found = [measured(run) for run in runs]
    rows = {key: row for rows in reversed(found) for key, row in rows.items()}  # of the newest Python that has the row
    lines = [f"Charts and times are those of {versions[0]}. A time is the least of all rounds.", ""]
    for run, has in zip(runs, found, strict=True):
        goals = [missed(row) for row in has.values() if isinstance(row["goal"], float)]
        about = ", ".join(run["about"].values())
        lines.append(f"- {about}, on {run['date']}: {sum(goals)} of {len(goals)} rows with a goal miss it ({MISSED}).")
    for panel, (title, _) in PANELS.items():
        lines += ["", f"**{title}**", ""]
        lines.append(f"| operation | against | ipcio | the other | {' | '.join(versions)} | goal | floor |")
        lines.append(f"| --- | --- | ---: | ---: |{' ---: |' * len(versions)} --- | --- |")
        for key in (key for key, row in rows.items() if panel_of(row) == panel):
            row = rows[key]
            against = f"{row['peer']} (bare)" if row["kind"] == "floor" else peer_of(row)
            times = f"{amount(row, 'ours')} | {amount(row, 'theirs')}"
            ratios = " | ".join(ratio(has[key]) if key in has else "" for has in found)
            goal = "" if row["goal"] is None else row["goal"]
            floor = f"{three(row['floor_ratio'])}: {row['floor']}" if "floor" in row else ""
            lines.append(f"| {row['operation']} | {against} | {times} | {ratios} | {goal} | {floor} |")
    return "\n".join([*lines, *not_measured(runs[0])]) + "\n"


def ratio(row):
    """A cell of the table."""
    return f"**{three(row['ratio'])}** {MISSED}" if missed(row) else three(row["ratio"])


def not_measured(run):
    if skipped := [row for row in run["rows"] if "skipped" in row]:
        reasons = dict.fromkeys(row["skipped"] for row in skipped)
        yield ""
        yield f"Rows that could not be measured: {len(skipped)} ({'; '.join(reasons)})."


# -- the pictures --------------------------------------------------------------

WIDTH, PLOT, BAR = 400, 350, 11  # pixels; right of the plot are the numbers
FASTER, SLOWER = "#2f8f83", "#c9742b"  # three to one or better on white and on black
TEXTS = {"light": "#000000", "dark": "#cfd0d0"}  # those of the theme
LEAST = 0.005  # a floor further down would press all bars of its picture together: the table has it
STEPS = [factor * 10.0**power for power in range(-7, 7) for factor in (1, 2, 5)]
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "ipcio",  # the same picture each time
    "text.parse_math": False,
    "font.sans-serif": ["Segoe UI", "Helvetica Neue", "Roboto", "DejaVu Sans"],  # the last one comes with matplotlib
    "font.size": 12,
}
PALE = {"alpha": 0.75}
SPACE = "\N{NO-BREAK SPACE}" * 2
UNIT = "time of ipcio / time of the other"


def drawn(run):
    """The rows of a run that are in pictures, by panel; rows of one operation are together."""
    panels = {panel: [] for panel in PANELS}
    for row in measured(run).values():
        if row["kind"] != "bound":
            panels[panel_of(row)].append(row)
    for rows in panels.values():
        operations = list(dict.fromkeys(row["operation"] for row in rows))
        rows.sort(key=lambda row: operations.index(row["operation"]))
    return {panel: rows for panel, rows in panels.items() if rows}


def label(row):
    return f"against the bare call: {row['peer']}" if row["kind"] == "floor" else f"against {peer_of(row)}"


def scale_of(rows):
    """The ends of the scale, and its marks.  On each side of 1 is room for the word of that side."""
    shown = [row["ratio"] for row in rows] + [row["floor_ratio"] for row in rows if row.get("floor_ratio", 0) >= LEAST]
    low = max(step for step in STEPS if step <= min([0.5, max(shown) ** -0.2, *shown]))
    high = min(step for step in STEPS if step >= max([2, min(shown) ** -0.2, *shown]))
    marks = [step for step in STEPS if low <= step <= high]
    return low, high, marks if len(marks) <= 8 else [mark for mark in marks if math.log10(mark).is_integer()]


def places(rows):
    """How far down the labels and the bars are, and the end of all: labels with their words and styles."""
    labels, bars, y, operation = [], [], 0, None
    for row in rows:
        if row["operation"] != operation:
            operation = row["operation"]
            y += 23
            labels.append((y, operation, {"fontweight": "bold", "fontsize": 13}))
        y += 17
        labels.append((y, label(row), PALE))
        y += 6 + BAR
        bars.append(y - BAR / 2)
    return labels, bars, y + 5


def picture(path, rows, theme):
    """Draw a panel: for each row a bar from 1, to the left if ipcio is faster, to the right if it is slower."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.transforms import blended_transform_factory

    low, high, marks = scale_of(rows)
    labels, bars, height = places(rows)
    whole = 50 + height + 18
    text = TEXTS[theme]
    with mpl.rc_context({**STYLE, "text.color": text, "xtick.color": text}):
        figure = Figure((WIDTH / 72, whole / 72), dpi=72)
        axes = figure.add_axes((12 / WIDTH, 18 / whole, (PLOT - 24) / WIDTH, height / whole), frameon=False)
        axes.set(xscale="log", xlim=(low, high), ylim=(height, 0), yticks=[])
        axes.minorticks_off()
        axes.set_xticks(marks, [f"{mark:.5f}".rstrip("0").rstrip(".") for mark in marks], fontsize=11, alpha=0.75)
        axes.tick_params(length=0, pad=4, labeltop=True)

        def lines(points, **options):
            """A vertical line at each point, all of them one path."""
            half = BAR / 2 + 3
            path = [end for x, y in points for end in ((x, y - half), (x, y + half), (x, math.nan))]
            axes.plot([x for x, _ in path], [y for _, y in path], color=text, clip_on=False, **options)

        lines([(mark, y) for y in bars for mark in marks if mark != 1], linewidth=1, alpha=0.2, zorder=0)
        lines([(1, y) for y in bars], linewidth=1, alpha=0.8)
        goals, floors = [], []
        for number, (y, row) in enumerate(zip(bars, rows, strict=True)):
            bare = row["kind"] == "floor"
            colour = FASTER if row["ratio"] <= 1 else SLOWER
            (bar,) = axes.barh(y, row["ratio"] - 1, BAR - 1, left=1, edgecolor=colour, clip_on=False)
            bar.set(facecolor="none" if bare else colour, gid=f"bar-{number}")
            if isinstance(row["goal"], float) and low <= row["goal"] <= high:
                goals.append((row["goal"], y))
            if low <= row.get("floor_ratio", 0) <= high and not bare:
                floors.append((row["floor_ratio"], y))
        lines(goals, linewidth=2.5)
        diamonds = {"marker": "D", "ms": 5.5, "mec": "#888", "mew": 0.5, "ls": "none"}
        axes.plot([x for x, _ in floors], [y for _, y in floors], color=text, clip_on=False, **diamonds)

        beside = blended_transform_factory(figure.transFigure, axes.transData)
        for y, words, options in labels:
            axes.text(0, y, words, transform=beside, **options)
        for y, row in zip(bars, rows, strict=True):
            axes.text(1, y + 4, three(row["ratio"]), transform=beside, ha="right")
        axes.text(1, -20, f"← faster{SPACE}", fontsize=11, ha="right", **PALE)
        axes.text(1, -20, f"{SPACE}slower →", fontsize=11, **PALE)
        axes.text(0, -38, UNIT, transform=beside, **PALE)
        axes.text(1, -38, f"| goal{SPACE} ◆ floor", transform=beside, ha="right", **PALE)
        about = {"Title": f"{PANELS[panel_of(rows[0])][0]}: {UNIT}"}
        unknown = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # what would differ from day to day
        figure.savefig(path, format="svg", transparent=True, metadata={**about, **unknown})


def draw(runs, directory):
    """Write all files."""
    runs = sorted(runs, key=python_of, reverse=True)
    with open(os.path.join(directory, "benchmarks.txt"), "w", encoding="utf-8", newline="\n") as file:
        file.write(table(runs))
    for panel, rows in drawn(runs[0]).items():
        for theme in TEXTS:
            picture(os.path.join(directory, f"benchmarks-{panel}-{theme}.svg"), rows, theme)


def main():
    parser = argparse.ArgumentParser("python -m benchmarks.chart", description="Draw charts of runs, write a table.")
    parser.add_argument("directory", metavar="DIRECTORY", help="has benchmarks-*.json, and gets charts and table")
    directory = parser.parse_args().directory
    runs = []
    for path in glob.glob(os.path.join(glob.escape(directory), "benchmarks-*.json")):
        with open(path, encoding="utf-8") as file:
            runs.append(json.load(file))
    if not runs:
        parser.error(f"no benchmarks-*.json in {directory}: python -m benchmarks --json writes one")
    draw(runs, directory)


if __name__ == "__main__":
    main()
