"""``ipcio demo``: worker processes that find each other by name count the words of files.

The parent and its workers are separate programs.  The parent passes to a worker only the
name of the run and the worker's number.  The worker finds the rest under that name, in
memory that is read and written as files are:

``RUN``
    the paths of the files, as JSON, and what to lock if that is not the report
``RUN-work``
    a queue with the place of each file in that list, the largest file first.  A worker takes the next one
    whenever it is ready for it, until the queue is empty
``RUN-board``
    for each worker a line with its progress
``RUN-report``
    what the workers did: a line of each, in the order in which they finished.  A worker
    appends its line under a lock, so that no other worker writes between its search for
    the end and its write.  Where memory has no descriptor (macOS, Windows) the lock is on
    a temporary file
``RUN-turns``
    a semaphore, of which a worker acquires a permit for each file.  There are as many
    permits as CPUs, but fewer than workers, so that there is something to see.  The
    semaphore is crash-safe (not on Windows): the permit of a worker that is killed is
    released, and the others go on
``RUN-1``, ``RUN-2`` ...
    each worker's result: its count of every word, as JSON

The input files are mapped.  A name is removed with its last handle, so a worker must not
exit before the parent has attached to its result.  The worker prints ``ready`` and waits
for the end of its standard input.  The parent attaches, lets the worker exit, and reads
the result after that.  It waits for all its workers at once, in an event loop.
"""
# ruff: noqa: T201 -- a command prints

from __future__ import annotations

import asyncio
import contextlib
import glob
import io
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
from collections import Counter

from ipcio import filelock, mmap, proc, queue, sem, shm, strfile
from ipcio._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from ipcio import MemoryFile, Semaphore

_LARGEST_JOB = 32  # bytes of a message in the queue, with its book-keeping
_WIDEST = 60  # characters of a word that are shown
_WORD = re.compile(r"[^\W\d_]+")  # no digits and no punctuation, of which source code is half


class Tally(NamedTuple):
    """How much was counted."""

    files: int
    bytes: int
    words: int


_NOTHING = Tally(0, 0, 0)

# -- the parent --------------------------------------------------------------


def run(paths: Sequence[str], workers: int, top: int) -> None:
    """Count the words of the files at `paths` with `workers` processes, check the count and print it.

    Each step is printed when it begins.
    Raises `OSError` if a file cannot be mapped or no crash-safe semaphore can be created,
    before anything is started, and `SystemExit` if a worker fails or a count is wrong.
    """
    paths = [os.path.abspath(path) for path in paths] or _library()
    paths = sorted(paths, key=_size, reverse=True)
    numbers = range(1, min(workers, len(paths)) + 1)
    permits = max(1, min(os.cpu_count() or 1, len(numbers) - 1))
    counts: Counter[str] = Counter()
    started: list[Worker] = []
    with contextlib.ExitStack() as stack:
        to_lock = stack.enter_context(_lock_file())
        jobs = stack.enter_context(_publish(None, {"lock": to_lock, "paths": paths}))
        name = jobs.name
        work = stack.enter_context(queue.create(f"{name}-work", len(paths) * _LARGEST_JOB))
        for place in range(len(paths)):
            work.put(str(place).encode())
        work.shutdown()
        board = stack.enter_context(shm.create(f"{name}-board", len(numbers) * _LINE))
        report = stack.enter_context(shm.create(f"{name}-report", len(numbers) * len(_row(0, 0, *_NOTHING))))
        turns = _create_semaphore(f"{name}-turns", permits)
        stack.callback(turns.close)  # `with turns` would acquire a permit
        _say("Names", f"Shared memory named {name} holds the list of {_some(len(paths), 'file')}, as JSON.")
        _say("Queue", f"{name}-work says which file is next; each worker takes it in turn.")
        _say(
            "Semaphore",
            f"{name}-turns has {_some(permits, 'permit')}: at most {_some(permits, 'worker')} at a time may count.",
        )
        for number in numbers:
            _post(board, number, _NOTHING)
        _say(
            "Processes",
            f"{_some(len(numbers), 'worker')}, each a program that is given that name and its number, no data.",
        )
        for number in numbers:
            started.append(Worker(name, number))
            stack.callback(started[-1].close)
        _say("Locks", "Each worker appends a line to a shared report while it holds a lock, so none is lost:")
        lines = [_line(board, number) for number in numbers]
        if problem := asyncio.run(_wait_for(started, lines, len(paths))):
            sys.exit(f"ipcio: {problem}")
        for worker in started:
            assert worker.result is not None
            counts.update(json.load(worker.result))
        rows = report.read().rstrip(b"\0").decode()

    tallies = [map(int, row.split()[2:]) for row in rows.splitlines()]
    total = Tally(*map(sum, zip(*tallies, strict=True)))
    if (total, counts) != _plain_count(paths):
        sys.exit("ipcio: a single process counts otherwise than the workers did; did a file change meanwhile?")

    print("", _row("worker", "process", *Tally._fields) + rows + _row("total", "", *total), sep="\n")
    _say("Results", "Each worker's counts are shared memory, too. The most frequent words in all:")
    print()
    for word, count in counts.most_common(top):
        print(f"{count:>8} {word if len(word) <= _WIDEST else f'{word[:_WIDEST]}...'}")
    print()
    _say("Check", "A single process that reads the same files with open() counts the same.")


def _say(topic: str, what: str) -> None:
    print(f"{topic:<10} {what}", flush=True)  # at once, also into a pipe


def _some(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@contextlib.contextmanager
def _lock_file() -> Generator[str, None, None]:
    """Yield the path of the file that a worker locks to write its report; empty if it locks the report itself."""
    if _memory_has_descriptors():
        yield ""
        return
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ipcio-") as directory:
        path = os.path.join(directory, "lock")
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
    """A worker, in the parent."""

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
            callback=self._on_line,
            encoding="utf-8",
            errors="replace",
            lines=True,
            # Here the worker imports this ipcio, and not a json.py of the user.
            cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
            start_new_session=True,  # Ctrl-C on the terminal is for the parent
        )

    def _on_line(self, _: str, line: str) -> None:
        if line.rstrip() != "ready":  # lines end differently on Windows
            self._said = f": {line.strip()}"
            return
        self._said = ""
        with contextlib.suppress(FileNotFoundError):  # the worker was killed, and with it went the last handle
            self.result = shm.attach(self._name, "r")
        self._process.write(proc.EOF)

    async def finish(self) -> str:
        """Wait until the worker exits, attaching to its result before; return what went wrong, if anything."""
        status = await self._process.wait_async()
        assert status is not None
        if status and self.result is not None:
            return ""
        if status.kind == "signal":
            how = f"was killed by {signal.Signals(status.code).name}"
        else:
            how = f"ended with status {status.code}"
        return f"worker {self._number} (process {self._process.pid}) {how}{self._said}"

    def close(self) -> None:
        """Kill the worker if it runs, and remove its result."""
        self._process.close()
        if self.result is not None:
            self.result.close()
        if not self._process.wait():
            # The name of an orphaned object stays until a call uses it.
            with contextlib.suppress(FileNotFoundError):
                shm.unlink(self._name)


async def _wait_for(workers: Iterable[Worker], lines: Sequence[MemoryFile], files: int) -> str:
    """Wait until all workers have finished, or one has failed; show their progress on a terminal."""
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    waiting = {asyncio.ensure_future(worker.finish()) for worker in workers}
    try:
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=0.1 if on_terminal else None, return_when=asyncio.FIRST_COMPLETED
            )
            for problem in filter(None, (task.result() for task in done)):
                return problem
            if on_terminal:
                done_files = sum(_read(line).files for line in lines)
                print(f"\r{done_files} of {files} files", end="", file=sys.stderr, flush=True)
        return ""
    finally:
        if on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _library() -> list[str]:
    paths = sorted(glob.glob(os.path.join(glob.escape(sysconfig.get_path("stdlib")), "*.py")))
    return paths or sys.exit("ipcio: the sources of the standard library are not installed here; name a FILE")


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


# -- a worker ----------------------------------------------------------------


def work(name: str, number: int) -> None:
    """Be worker `number` of the run called `name`."""
    counts: Counter[str] = Counter()
    files = size = words = 0
    turns = sem.attach(f"{name}-turns")
    with (
        shm.attach(name, "r") as jobs,
        queue.attach(f"{name}-work") as work,
        shm.attach(f"{name}-board") as board,
        shm.attach(f"{name}-report") as report,
    ):
        todo = json.load(jobs)
        for place in work:
            with turns, mmap.open(todo["paths"][int(place)]) as file:
                files += 1
                size += file.size()
                words += _count(io.TextIOWrapper(file, encoding="utf-8", errors="replace"), counts)
            _post(board, number, Tally(files, size, words))
        to_lock = mmap.open(todo["lock"], "rw") if todo["lock"] else contextlib.nullcontext(report)
        with to_lock as file, filelock.locked(file):
            _append(report, _row(number, os.getpid(), files, size, words))
        with _publish(f"{name}-{number}", counts):
            print("ready", flush=True)
            sys.stdin.read()


# -- both --------------------------------------------------------------------


def _create_semaphore(name: str, permits: int) -> Semaphore:
    try:
        return sem.create(name, permits, undo=True)
    except NotImplementedError:  # on Windows: the others wait for the permit of a worker that is killed
        return sem.create(name, permits)


def _publish(name: str | None, value: object) -> MemoryFile:
    """Create a segment of exactly the JSON text of `value`."""
    text = json.dumps(value).encode()
    segment = shm.create(name, len(text))
    segment.write(text)
    return segment


def _count(lines: Iterable[str], counts: Counter[str]) -> int:
    """Add the words of a text, in lower case, to `counts`; return how many there are."""
    total = 0
    for line in lines:
        words = _WORD.findall(line.lower())
        counts.update(words)
        total += len(words)
    return total


# A line of the report; all are of the same length.
_row = "{:>8} {:>9} {:>8} {:>12} {:>12}\n".format


def _append(report: MemoryFile, row: str) -> None:
    end = len(report.read().rstrip(b"\0"))
    report.seek(end)
    report.write(row.encode())


# A line of the board: digits in fixed places.  A reader that comes while the worker writes
# gets some digits of the old number and some of the new one, which is still a number.
_LINE = len(f"{0:09} {0:018} {0:018}\n")


def _post(board: MemoryFile, number: int, tally: Tally) -> None:
    board.seek((number - 1) * _LINE)
    board.write(b"%09d %018d %018d\n" % tally)


def _line(board: MemoryFile, number: int) -> MemoryFile:
    """Return one worker's line as a file of its own: no copy, so it is always up to date."""
    return strfile.open(board.getbuffer()[(number - 1) * _LINE : number * _LINE])


def _read(line: MemoryFile) -> Tally:
    line.seek(0)
    return Tally(*map(int, line.readline().split()))


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
