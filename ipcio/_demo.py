"""``ipcio demo``: workers that share nothing but names count the words of files.

The parent and its workers are separate programs.  All that a worker is told is
the name of the run and its own number; the rest it finds under that name, in
memory that is read and written as files are:

``RUN``
    the jobs: for each worker a list of paths, as JSON; and what to lock, if not the report
``RUN-board``
    for each worker a line that says how far it is
``RUN-report``
    what the workers did, a line of each in the order in which they finished.  They
    append to it under a lock: nobody may come between finding the end and writing there.
    Where memory has no descriptor (macOS, Windows) the lock is on a temporary file
``RUN-turns``
    a semaphore, of which a worker takes a permit for each file that it counts: no more
    of them count at once than there are CPUs, and one less than there are workers, so
    that there is something to see.  It is crash-safe: if a worker is killed in its
    turn, the permit comes back and the others go on (Windows has none such)
``RUN-1``, ``RUN-2`` ...
    each worker's result: its count of every word, as JSON

The input files are mapped.  A name lives as long as somebody holds it, so a
worker must not leave before the parent has attached its result.  It says
``ready`` and waits for the end of its standard input; the parent hears that,
attaches, lets it go, and reads the result of a process that is no more.  It waits
for all its workers at once, in an event loop.
"""
# ruff: noqa: T201 -- to print is what a command is for

from __future__ import annotations

import asyncio
import contextlib
import glob
import io
import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections import Counter

from ipcio import filelock, mmap, proc, sem, shm, strfile
from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from ipcio import MemoryFile, Semaphore

__all__ = ["run", "work"]

_WIDEST = 60  # characters of a word that are shown


class Tally(NamedTuple):
    """How much was counted."""

    files: int
    bytes: int
    words: int


_NOTHING = Tally(0, 0, 0)

# -- the parent --------------------------------------------------------------


def run(paths: Sequence[str], workers: int, top: int) -> None:
    """Count the words of the files at `paths` with `workers` processes, check the count and print it.

    Raises `OSError` for a file that cannot be mapped or where no crash-safe semaphore
    is to be had, before anything is started, and `SystemExit` for a worker that died
    or a count that is wrong.
    """
    paths = [os.path.abspath(path) for path in paths] or _library()
    shares = _share_out(paths, min(workers, len(paths)))
    numbers = range(1, len(shares) + 1)
    permits = max(1, min(os.cpu_count() or 1, len(shares) - 1))
    counts: Counter[str] = Counter()
    crew: list[Worker] = []
    with contextlib.ExitStack() as stack:
        gate = stack.enter_context(_gate())
        jobs = stack.enter_context(_publish(None, {"gate": gate, "shares": shares}))
        name = jobs.name
        board = stack.enter_context(shm.create(f"{name}-board", len(shares) * _LINE))
        report = stack.enter_context(shm.create(f"{name}-report", len(shares) * len(_row(0, 0, *_NOTHING))))
        turns = _admit(f"{name}-turns", permits)
        stack.callback(turns.close)  # `with turns` would take one
        for number in numbers:
            _post(board, number, _NOTHING)
        for number in numbers:
            crew.append(Worker(name, number))
            stack.callback(crew[-1].dismiss)
        lines = [_line(board, number) for number in numbers]
        if complaint := asyncio.run(_watch(crew, lines, len(paths))):
            sys.exit(f"ipcio: {complaint}")
        for worker in crew:
            assert worker.result is not None
            counts.update(json.load(worker.result))
        rows = report.read().rstrip(b"\0").decode()

    tallies = [map(int, row.split()[2:]) for row in rows.splitlines()]
    total = Tally(*map(sum, zip(*tallies, strict=True)))
    if (total, counts) != _plain_count(paths):
        sys.exit("ipcio: a single process counts otherwise than the workers did; did a file change meanwhile?")

    print(f"Workers that met at the name {name}, admitted {permits} at a time, as they finished:\n")
    print(_row("worker", "process", *Tally._fields), rows, _row("total", "", *total), sep="", end="")
    print("\nThe most frequent words:\n")
    for word, count in counts.most_common(top):
        print(f"{count:>8} {_printable(word)}")
    print("\nA single process that reads the same files with open() counts the same.")


@contextlib.contextmanager
def _gate() -> Generator[str, None, None]:
    """Give the path of what is locked while somebody writes into the report; empty if it is the report itself."""
    if _memory_has_descriptors():
        yield ""
        return
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ipcio-") as directory:
        path = os.path.join(directory, "gate")
        with open(path, "xb"):
            pass
        yield path


def _memory_has_descriptors() -> bool:
    with shm.create(None, 1) as memory:
        try:
            memory.fileno()
        except io.UnsupportedOperation:
            return False
    return True


class Worker:
    """A worker, as the parent sees it."""

    def __init__(self, name: str, number: int) -> None:
        self.result: MemoryFile | None = None
        self._number = number
        self._name = f"{name}-{number}"
        self._said = ""
        self._process = proc.spawn(
            [sys.executable, "-m", "ipcio._demo", name, str(number)],
            stdin=True,
            stdout=True,
            stderr=subprocess.STDOUT,
            callback=self._hear,
            encoding="utf-8",
            errors="replace",
            lines=True,
            # Where this ipcio is found again, and no json.py of the user's.
            cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
            start_new_session=True,  # Ctrl-C on the terminal is for the parent
        )

    def _hear(self, _: str, line: str) -> None:
        if line.rstrip() != "ready":  # whatever ends a line here
            self._said = f": {line.strip()}"
            return
        self._said = ""
        with contextlib.suppress(FileNotFoundError):  # it died, and there was nobody else to hold the name
            self.result = shm.attach(self._name, "r")
        self._process.write(proc.EOF)

    async def finish(self) -> str:
        """Attach the worker's result when it is ready, and wait for its end; return what went wrong, if anything."""
        status = await self._process.wait_async()
        assert status is not None
        if status and self.result is not None:
            return ""
        if status.kind == "signal":
            how = f"was killed by {signal.Signals(status.code).name}"
        else:
            how = f"ended with status {status.code}"
        return f"worker {self._number} (process {self._process.pid}) {how}{self._said}"

    def dismiss(self) -> None:
        """See to it that the worker is gone, and the name of its result, too."""
        self._process.close()
        if self.result is not None:
            self.result.close()
        if not self._process.wait():
            # The dead hold nothing, but a name stays in sight until a call comes across it.
            with contextlib.suppress(FileNotFoundError):
                shm.unlink(self._name)


async def _watch(crew: Iterable[Worker], lines: Sequence[MemoryFile], files: int) -> str:
    """Wait until all have finished, or one has failed; show how far they are if somebody watches."""
    watched = sys.stderr is not None and sys.stderr.isatty()
    waiting = {asyncio.ensure_future(worker.finish()) for worker in crew}
    try:
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=0.1 if watched else None, return_when=asyncio.FIRST_COMPLETED
            )
            for complaint in filter(None, (task.result() for task in done)):
                return complaint
            if watched:
                done_files = sum(_read(line).files for line in lines)
                print(f"\r{done_files} of {files} files", end="", file=sys.stderr, flush=True)
        return ""
    finally:
        if watched:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _library() -> list[str]:
    paths = sorted(glob.glob(os.path.join(glob.escape(sysconfig.get_path("stdlib")), "*.py")))
    return paths or sys.exit("ipcio: the sources of the standard library are not installed here; name a FILE")


def _share_out(paths: Iterable[str], count: int) -> list[list[str]]:
    """Divide the files among `count` workers: the largest first, each to who has least."""
    shares: list[list[str]] = [[] for _ in range(count)]
    loads = [0] * count
    for size, path in sorted(((_size(path), path) for path in paths), reverse=True):
        least = loads.index(min(loads))
        shares[least].append(path)
        loads[least] += size + 1
    return shares


def _size(path: str) -> int:
    with mmap.open(path) as file:
        return file.size()


def _plain_count(paths: Iterable[str]) -> tuple[Tally, Counter[str]]:
    """Count again, without ipcio."""
    counts: Counter[str] = Counter()
    files = size = words = 0
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as file:
            files += 1
            size += os.fstat(file.fileno()).st_size
            words += _count(file, counts)
    return Tally(files, size, words), counts


def _printable(word: str) -> str:
    """The word for a terminal: in binary files there are strange ones."""
    word = word if word.isprintable() else ascii(word)
    return word if len(word) <= _WIDEST else f"{word[:_WIDEST]}..."


# -- a worker ----------------------------------------------------------------


def work(name: str, number: int) -> None:
    """Be worker `number` of the run called `name`."""
    counts: Counter[str] = Counter()
    files = size = words = 0
    turns = sem.attach(f"{name}-turns")
    with (
        shm.attach(name, "r") as jobs,
        shm.attach(f"{name}-board") as board,
        shm.attach(f"{name}-report") as report,
    ):
        todo = json.load(jobs)
        for path in todo["shares"][number - 1]:
            with turns, mmap.open(path) as file:
                files += 1
                size += file.size()
                words += _count(io.TextIOWrapper(file, encoding="utf-8", errors="replace"), counts)
            _post(board, number, Tally(files, size, words))
        gate = mmap.open(todo["gate"], "rw") if todo["gate"] else contextlib.nullcontext(report)
        with gate as lockable, filelock.locked(lockable):
            _append(report, _row(number, os.getpid(), files, size, words))
        with _publish(f"{name}-{number}", counts):
            print("ready", flush=True)
            sys.stdin.read()


# -- both --------------------------------------------------------------------


def _admit(name: str, permits: int) -> Semaphore:
    try:
        return sem.create(name, permits, undo=True)
    except NotImplementedError:  # on Windows a worker that is killed in its turn keeps the others waiting
        return sem.create(name, permits)


def _publish(name: str | None, value: object) -> MemoryFile:
    """Create a segment of exactly the JSON text of `value`."""
    text = json.dumps(value).encode()
    segment = shm.create(name, len(text))
    segment.write(text)
    return segment


def _count(lines: Iterable[str], counts: Counter[str]) -> int:
    """Add the words of a text to `counts`; return how many they are."""
    total = 0
    for line in lines:
        words = line.split()
        counts.update(words)
        total += len(words)
    return total


# A line of the report; all are of the same length.
_row = "{:>8} {:>9} {:>8} {:>12} {:>12}\n".format


def _append(report: MemoryFile, row: str) -> None:
    end = len(report.read().rstrip(b"\0"))
    report.seek(end)
    report.write(row.encode())


# A line of the board.  Nothing but digits in fixed places: who reads while the
# worker writes gets a number between the old and the new, or near them, but a number.
_LINE = len(f"{0:09} {0:018} {0:018}\n")


def _post(board: MemoryFile, number: int, tally: Tally) -> None:
    board.seek((number - 1) * _LINE)
    board.write(b"%09d %018d %018d\n" % tally)


def _line(board: MemoryFile, number: int) -> MemoryFile:
    """One worker's line as a file of its own: no copy, so it always says how things stand now."""
    return strfile.open(board.getbuffer()[(number - 1) * _LINE : number * _LINE])


def _read(line: MemoryFile) -> Tally:
    line.seek(0)
    return Tally(*map(int, line.readline().split()))


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
