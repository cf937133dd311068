"""Draw what ``python -m benchmarks --json FILE`` found: ``python -m benchmarks.chart FILE DIRECTORY``.

Writes one picture per panel, and ``benchmarks.txt``, a table of everything, for
docs/performance.md to include.  The pictures are part of the page, so that text has the
page's colour, in light and dark; they need no program to draw them but this one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from html import escape

PANELS = {  # in the order of the page: the groups that each one shows, but for what `panel_of` says
    "memory": ("Memory as a file", {"face", "lua"}),
    "lines": ("Lines, and the standard library's wrappers", {"wrappers", "strfile"}),
    "semaphores": ("Semaphores", {"sem"}),
    "mutexes": ("Mutexes and events", {"mutex", "event"}),
    "queues": ("Queues", {"queue"}),
    "locks": ("Locks on files", {"filelock"}),
    "processes": ("Child processes", {"proc"}),
    "moving": ("Much memory, from one process to another", {"moving"}),
    "names": ("Names and imports", {"names", "import"}),
    "scaling": ("ipcio against itself with less to do", {"scaling"}),
}

WIDTH, PLOT, BAR = 440, 385, 11  # right of the plot are the numbers
SELVES = {"scaling": "shared memory", "sem": "semaphores", "mutex": "mutexes", "queue": "queues", "strfile": "strfile"}
FASTER, SLOWER = "#2f8f83", "#c9742b"  # three to one or better on white and on black
LEAST = 0.005  # a floor further down would press all bars of its picture together: the table has it
STEPS = [factor * 10.0**power for power in range(-4, 5) for factor in (1, 2, 5)]


def panel_of(row):
    """Where a row belongs."""
    if row["kind"] == "self":
        return "scaling"
    if row["group"] in {"face", "lua"} and "lines" in row["operation"]:
        return "lines"
    return next(panel for panel, (_, groups) in PANELS.items() if row["group"] in groups)


def three(number):
    """Three digits, and never in powers of ten."""
    return f"{number:.{max(0, 2 - math.floor(math.log10(number)))}f}" if number < 100 else f"{number:.0f}"


def duration(seconds):
    for unit, size in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{three(seconds / size)} {unit}"
    return f"{three(seconds * 1e9)} ns"


def amount(row, number):
    """What was measured of a row: a time, or memory."""
    return f"{three(number / 2**20)} MiB" if row["kind"] == "memory" else duration(number)


def text(x, y, words, size=12, **attributes):
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}"{more}>{escape(words)}</text>'


def vertical(x, top, bottom, **attributes):
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="currentColor"{more}/>'


def diamond(x, y, size=4):
    corners = f"{x - size:.1f},{y:.1f} {x:.1f},{y - size:.1f} {x + size:.1f},{y:.1f} {x:.1f},{y + size:.1f}"
    return f'<polygon points="{corners}" stroke="#888" stroke-width="0.5"/>'


def chart(title, rows):
    """A picture: for each row a bar from 1, to the left if ipcio is faster, to the right if it is slower."""
    ratios = [row["ratio"] for row in rows] + [row["floor_ratio"] for row in rows if row.get("floor_ratio", 0) >= LEAST]
    low = max(step for step in STEPS if step <= min([0.5, *ratios]))
    high = min(step for step in STEPS if step >= max([2, *ratios]))

    def x(ratio):
        return 12 + (PLOT - 24) * math.log(ratio / low) / math.log(high / low)

    marks = [step for step in STEPS if low <= step <= high]
    if len(marks) > 8:
        marks = [step for step in marks if step in {low, high} or math.log10(step).is_integer()]
    drawn, y, operation = [], 24, None
    for row in rows:
        if row["operation"] != operation:
            operation = row["operation"]
            y += 26
            drawn.append(text(0, y, operation, 13, font_weight="600"))
        y += 17
        bare = row["kind"] == "floor"
        against = f"the bare call: {row['peer']}" if bare else row["peer"]
        if row["kind"] == "self":
            against = f"{SELVES[row['group']]}, {against}"
        drawn.append(text(0, y, f"against {against}", opacity=0.75))
        y += 6
        ratio = row["ratio"]
        left, right = sorted((x(ratio), x(1)))
        colour = FASTER if ratio <= 1 else SLOWER
        drawn += [vertical(x(step), y - 3, y + BAR + 3, opacity=0.8 if step == 1 else 0.2) for step in marks]
        fill = f'fill="none" stroke="{colour}" stroke-width="1.5"' if bare else f'fill="{colour}"'
        drawn.append(f'<rect x="{left:.1f}" y="{y}" width="{max(right - left, 1):.1f}" height="{BAR}" {fill}/>')
        if isinstance(row["goal"], float) and low <= row["goal"] <= high:
            drawn.append(vertical(x(row["goal"]), y - 3, y + BAR + 3, stroke_width=2))
        if low <= row.get("floor_ratio", 0) <= high and not bare:
            drawn.append(diamond(x(row["floor_ratio"]), y + BAR / 2))
        drawn.append(text(WIDTH, y + BAR - 1.5, three(ratio), text_anchor="end"))
        y += BAR

    scale = [text(x(step), y + 20, f"{step:g}", 11, text_anchor="middle", opacity=0.75) for step in marks]
    sides = [
        text(x(1) - 8, 26, "← faster", 11, text_anchor="end", opacity=0.75),
        text(x(1) + 8, 26, "slower →", 11, opacity=0.75),
    ]
    height = y + 26
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}: ratios"',
            f'  viewBox="0 0 {WIDTH} {height}" style="width: 100%; max-width: 34rem" fill="currentColor"',
            '  font-family="system-ui, sans-serif">',
            text(0, 12, "what ipcio takes / what the other takes", 12, opacity=0.75),
            *sides,
            *drawn,
            *scale,
            "</svg>\n",
        ]
    )


def table(found):
    """Everything, as Markdown."""
    lines = [
        f"Measured on {found['date']}: {'; '.join(found['about'].values())}. The least of all rounds.",
        "",
        "| operation | against | ipcio | the other | ratio | of medians | goal | floor / the other |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    panel = ""
    for row in sorted(found["rows"], key=lambda row: list(PANELS).index(panel_of(row))):
        if "skipped" in row:
            continue
        if panel != (panel := panel_of(row)):
            lines.append(f"| **{PANELS[panel][0]}** | | | | | | | |")
        goal = "" if row["goal"] is None else row["goal"]
        against = f"{row['peer']} (bare)" if row["kind"] == "floor" else row["peer"]
        floor = f"{three(row['floor_ratio'])}: {row['floor']}" if "floor" in row else ""
        times = " | ".join(amount(row, row[side]["min"]) for side in ("ours", "theirs"))
        ratios = f"{three(row['ratio'])} | {three(row['median'])}"
        lines.append(f"| {row['operation']} | {against} | {times} | {ratios} | {goal} | {floor} |")
    if skipped := [row for row in found["rows"] if "skipped" in row]:
        reasons = dict.fromkeys(row["skipped"] for row in skipped)
        lines += ["", f"Rows that could not be measured: {len(skipped)} ({'; '.join(reasons)})."]
    return "\n".join(lines) + "\n"


def draw(found):
    """All files, by name."""
    rows = [row for row in found["rows"] if "skipped" not in row and row["kind"] != "bound"]
    files = {"benchmarks.txt": table(found)}
    for panel, (title, _) in PANELS.items():
        if shown := [row for row in rows if panel_of(row) == panel]:
            files[f"benchmarks-{panel}.svg"] = chart(title, sorted(shown, key=first_of(shown)))
    return files


def first_of(rows):
    """Rows of one operation together, each operation where its first row is."""
    operations = list(dict.fromkeys(row["operation"] for row in rows))
    return lambda row: operations.index(row["operation"])


def main():
    parser = argparse.ArgumentParser("python -m benchmarks.chart", description="Draw charts of a run.")
    parser.add_argument("file", metavar="FILE", help="what python -m benchmarks --json has written")
    parser.add_argument("directory", metavar="DIRECTORY", help="where charts and table go")
    arguments = parser.parse_args()
    with open(arguments.file, encoding="utf-8") as file:
        found = json.load(file)
    os.makedirs(arguments.directory, exist_ok=True)
    for name, content in draw(found).items():
        with open(os.path.join(arguments.directory, name), "w", encoding="utf-8", newline="\n") as file:
            file.write(content)


if __name__ == "__main__":
    main()
