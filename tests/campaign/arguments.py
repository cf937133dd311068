"""Every public function and method, with arguments of every kind: what is documented, or success.

The values are in `campaign.strange`.  What may come of a call is in `Attack.call`, and nothing else may:
no other exception, no descriptor, name, set or child that stays, and by `campaign.input.guarded` no signal and no hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import os
import pickle
import subprocess
import sys
from decimal import InvalidOperation

from children import fork_quietly
from leftovers_linux import children, descriptors, names_of, paths

from campaign import strange
from ipcio import MemoryFile, event, filelock, mmap, proc, queue, sem, shm, strfile

# `io.UnsupportedOperation` is an OSError, `UnicodeError` a ValueError.
DOCUMENTED = (TypeError, ValueError, OSError, OverflowError, NotImplementedError, BufferError, MemoryError)
DOCUMENTED += (LookupError,)  # of `proc.spawn` alone, see `Attack.check_error`
DOCUMENTED += (queue.Full, queue.Empty, queue.ShutDown)  # of queues alone
DOCUMENTED += (InvalidOperation,)  # a Decimal's own, which is not a number

PERMITS = 30000  # so many that nobody waits for one, and that a crash-safe semaphore can have
NOTHING = object()
# What opens descriptors.  (A handle of memory opens one when it is asked for it, and keeps it until its end.)
OPENERS = [
    shm.create,
    shm.attach,
    sem.create,
    sem.open,
    sem.attach,
    event.create,
    event.attach,
    queue.create,
    queue.attach,
]
OPENERS += [mmap.open, strfile.open, proc.spawn]


class Attack:
    """Calls, and what they may come to."""

    def __init__(self, rng, place, name):
        self.rng = rng
        self.place = place
        self.name = name
        self.counts = {"calls": 0, "refused": 0}
        self.told = []

    def any(self, *likely):
        """One of those that are likely to be accepted, or anything."""
        return self.rng.choice(likely) if likely and self.rng.random() < 0.4 else strange.value(self.rng)

    def maybe(self, **options):
        """Some of these keywords; the values are functions, called only for those that are chosen."""
        return {word: make() for word, make in options.items() if self.rng.random() < 0.3}

    def call(self, function, *arguments, **options):
        """Return the result, or `NOTHING` if it was refused as documented."""
        self.counts["calls"] += 1
        self.told = [*self.told[-5:], (function, arguments, options)]
        strange.RAISED.clear()
        before = descriptors()
        try:
            result = function(*arguments, **options)
        except strange.Own as error:
            self.check_own(error)
        except DOCUMENTED as error:
            self.check_error(error)
        except BaseException as error:
            raise AssertionError(self.tale(error)) from error
        else:
            return result
        strange.RAISED.clear()  # and the frames in their tracebacks
        self.counts["refused"] += 1
        if function in OPENERS and not any(isinstance(each, MemoryFile) for each in arguments) and left_open(before):
            gc.collect()
            assert not left_open(before), f"{left_open(before)} left open: {self.tale(None)}"
        return NOTHING

    def check_own(self, error):
        assert any(error is each for each in strange.RAISED), self.tale(error)

    def check_error(self, error):
        if isinstance(error, LookupError):
            assert (self.told[-1][0], type(error)) == (proc.spawn, LookupError), self.tale(error)
        assert type(error) not in {RuntimeError, SystemError}, self.tale(error)
        if isinstance(error, OSError) and not isinstance(error, io.UnsupportedOperation):
            assert error.errno is not None, self.tale(error)
        # What an argument itself raises is not taken for a refusal.
        assert not any(type(each) is strange.Own for each in strange.RAISED), self.tale(error)

    def tale(self, error):
        told = "\n  ".join(
            f"{strange.show(what)}{strange.show(args)} {strange.show(more)}" for what, args, more in self.told
        )
        return f"{type(error).__name__}: {error} from the last of\n  {told}"

    @contextlib.contextmanager
    def opened(self, function, *arguments, **options):
        """A handle, closed at the end of a ``with`` block; or `NOTHING`."""
        result = self.call(function, *arguments, **options)
        yield result
        if result is not NOTHING:
            self.call(result.close)


def left_open(before):
    return {fd: what for fd, what in descriptors().items() if fd not in before}


# -- names ---------------------------------------------------------------------


def name_of(attack):
    """The name of an object in use, or a new one, or no name."""
    if attack.rng.random() < 0.25:
        return strange.value(attack.rng, text=False)
    tail = attack.rng.choice(["", "", "", "n", *strange.TAILS])
    return attack.name + tail


def not_the(in_use, name):
    """Another one; the object in use is to stay."""
    return f"{name}n" if type(name) is str and name == in_use else name


def made(unlink, handle):
    """Close what was made, and remove it if it was to stay."""
    if handle is NOTHING:
        return
    handle.close()
    if handle.created:
        with contextlib.suppress(FileNotFoundError):
            unlink(handle.name)


def use_shm(attack, times):
    with shm.create(attack.name, 5000):
        for _ in range(times):
            kind = attack.rng.randrange(4)
            if kind == 0:
                size = strange.size(attack.rng)
                options = attack.maybe(
                    perm=lambda: attack.any(0o600, 0, 0o777),
                    persist=lambda: attack.any(True),
                    exist_ok=lambda: attack.any(True),
                    reserve=lambda: attack.any(False),
                )
                made(shm.unlink, attack.call(shm.create, name_of(attack), size, **options))
            elif kind == 1:
                arguments = [attack.any("r", "rw")] if attack.rng.random() < 0.5 else []
                with attack.opened(shm.attach, name_of(attack), *arguments) as h:
                    use_memory(attack, h, 2)
            elif kind == 2:
                attack.call(shm.unlink, not_the(attack.name, name_of(attack)))
            else:
                with shm.attach(attack.name, attack.rng.choice(["r", "rw"])) as h:
                    use_memory(attack, h, 10)


def use_sem(attack, times):
    undo = attack.rng.random() < 0.5
    with contextlib.closing(sem.create(attack.name, PERMITS, undo=undo)):
        for _ in range(times):
            kind = attack.rng.randrange(5)
            if kind == 0:
                options = attack.maybe(
                    perm=lambda: attack.any(0o600, 0, 0o777),
                    persist=lambda: attack.any(True),
                    exist_ok=lambda: attack.any(True),
                    undo=lambda: attack.any(True),
                )
                made(sem.unlink, attack.call(sem.create, name_of(attack), attack.any(0, 3), **options))
            elif kind == 1:
                options = attack.maybe(perm=lambda: attack.any(0o600), persist=lambda: attack.any(True))
                made(sem.unlink, attack.call(sem.open, name_of(attack), attack.any(0, 3), **options))
            elif kind == 2:
                with attack.opened(sem.attach, name_of(attack)) as s:
                    use_semaphore(attack, s, 1)
            elif kind == 3:
                attack.call(sem.unlink, not_the(attack.name, name_of(attack)))
            else:
                with contextlib.closing(sem.attach(attack.name)) as s:
                    use_semaphore(attack, s, 6)


def use_semaphore(attack, s, times):
    if s is NOTHING or s.value < PERMITS // 2:
        return
    for _ in range(times):
        number = strange.value(attack.rng, around=s)
        action = attack.rng.choice(
            [
                (s.inc, number),
                (s.inc,),
                (s.release, number),
                (s.dec, number),
                (s.acquire, number),
                (s.acquire, number, strange.value(attack.rng, around=s)),
                (s.acquire, True, number),
                (s.__exit__, number, number, number),
                (s.__enter__,),
                (repr, s),
                (getattr, s, "value"),
                (pickle_copy, s),
                (s.inc, number, number),
                (s.close,),
            ]
        )
        attack.call(*action)


def use_event(attack, times):
    with contextlib.closing(event.create(attack.name)):
        for _ in range(times):
            kind = attack.rng.randrange(4)
            if kind == 0:
                options = attack.maybe(
                    perm=lambda: attack.any(0o600, 0, 0o666),
                    persist=lambda: attack.any(True),
                    exist_ok=lambda: attack.any(True),
                    is_set=lambda: attack.any(True),
                    owner=lambda: attack.any(0),
                )
                made(event.unlink, attack.call(event.create, name_of(attack), **options))
            elif kind == 1:
                attack.call(event.unlink, not_the(attack.name, name_of(attack)))
            else:
                with attack.opened(event.attach, name_of(attack) if kind == 2 else attack.name) as e:
                    use_one_event(attack, e, 6)


def use_one_event(attack, e, times):
    for _ in range(times if e is not NOTHING else 0):
        e.closed or e.set()  # so that no wait has no end
        number = strange.value(attack.rng, around=e)
        calls = [(e.set,), (e.is_set,), (e.wait,), (e.wait, number), (e.wait, number, number), (e.set, number)]
        attack.call(*attack.rng.choice([*calls, (repr, e), (pickle_copy, e), (e.close,)]))


def use_queue(attack, times):
    with queue.create(attack.name, 200):
        for _ in range(times):
            kind = attack.rng.randrange(4)
            if kind == 0:
                options = attack.maybe(
                    perm=lambda: attack.any(0o600, 0, 0o666),
                    persist=lambda: attack.any(True),
                    exist_ok=lambda: attack.any(True),
                    owner=lambda: attack.any(0),
                )
                made(queue.unlink, attack.call(queue.create, name_of(attack), attack.any(100, 16), **options))
            elif kind == 1:
                attack.call(queue.unlink, not_the(attack.name, name_of(attack)))
            else:
                with attack.opened(queue.attach, name_of(attack) if kind == 2 else attack.name) as q:
                    use_one_queue(attack, q, 6)


def use_one_queue(attack, q, times):
    flags = True, False, 0, 1, "", "x", None
    for turn in range(times if q is not NOTHING else 0):
        one, two = strange.value(attack.rng, around=q), strange.value(attack.rng, around=q)
        calls = [(q.put, one, False), (q.put_nowait, one), (q.get_nowait,), (q.get, False, one)]
        calls += [(q.get_into, one, False)]
        calls += [(q.qsize,), (q.full,), (q.empty,), (q.get, True, 0), (repr, q), (pickle_copy, q), (q.writer,)]
        if turn > times // 2:
            flag = attack.rng.choice(flags)
            q.closed or q.shutdown()  # so that no wait has no end
            calls = [(q.put, one, flag, two), (q.get, flag, two), (q.get_into, one, flag, two), (list, q)]
            calls += [(q.reader,), (q.shutdown, flag), (q.close,)]
        attack.call(*attack.rng.choice(calls))


def pickle_copy(handle):
    pickle.loads(pickle.dumps(handle)).close()


# -- memory ----------------------------------------------------------------------


def use_memory(attack, h, times):
    """Any methods in any order, with any arguments; a closed handle, too."""
    if h is NOTHING:
        return
    for _ in range(times):
        attack.call(*step(attack, h))


def step(attack, h):
    rng = attack.rng
    one = strange.value(rng, around=h)
    if rng.random() < 0.05:
        return rng.choice(
            [
                (h.close,),
                (h.truncate, rng.choice([0, 1, 100])),
                (pickle_copy, h),
                (repr, h),
                (next, h, None),
                (contextlib.closing(h).__exit__, None, None, None),
            ]
        )
    method = getattr(h, rng.choice(METHODS))
    if method.__name__ in {"seek", "_cursor_seek"} and rng.random() < 0.7:
        return method, one, rng.choice([0, 1, 2, strange.value(rng, around=h)])
    return (method, *[one, strange.value(rng), strange.value(rng)][: rng.choice([0, 1, 1, 1, 1, 1, 1, 2, 3])])


METHODS = [
    *["read", "readinto", "readinto1", "write", "seek", "truncate", "readline"] * 3,
    *["read1", "readall", "readlines", "writelines", "tell", "size", "addr", "fileno", "flush", "getbuffer", "isatty"],
    *["readable", "writable", "seekable", "__iter__", "__enter__", "__reduce__", "__buffer__"],
]


def use_strfile(attack, times):
    for _ in range(times):
        data = attack.any("text\n" * 50, b"bytes\n" * 50, bytearray(100))
        with attack.opened(strfile.open, data) as h:
            use_memory(attack, h, 6)


def use_mmap(attack, times):
    path = f"{attack.place}/mapped"
    with open(path, "wb") as file:
        file.write(b"line\n" * 3000)
    for _ in range(times):
        where = attack.rng.choice([path, path, os.fsencode(path), NOTHING])
        if where is NOTHING:
            where = strange.file(attack, path)
        options = attack.maybe(offset=lambda: attack.any(0, mmap.pagesize), size=lambda: attack.any(1, 4096))
        with contextlib.ExitStack() as exit:
            if hasattr(where, "close"):
                exit.callback(strange.close, where)
            h = exit.enter_context(attack.opened(mmap.open, where, attack.any("r", "w", "rw"), **options))
            use_memory(attack, h, 6)
    os.unlink(path)


# -- locks -------------------------------------------------------------------------


def use_filelock(attack, times):
    path = f"{attack.place}/locked"
    with open(path, "w+b") as file:
        file.write(b"line\n" * 300)
    for _ in range(times):
        with contextlib.ExitStack() as exit:
            file = strange.file(attack, path)
            if hasattr(file, "close"):
                exit.callback(strange.close, file)
            for _ in range(3):
                span = [attack.any(0, 1, 100) for _ in range(attack.rng.randrange(3))]
                mode = attack.any("r", "w", "rw")
                wait = attack.maybe(timeout=lambda: attack.any(0, 0.001))
                act = attack.rng.choice([filelock.lock, filelock.trylock, filelock.unlock, filelock.query, hold])
                if act is filelock.unlock:
                    attack.call(act, file, *span)
                elif act in {filelock.lock, hold}:
                    attack.call(act, file, mode, *span, **wait)
                else:
                    attack.call(act, file, mode, *span)
    os.unlink(path)


def hold(file, *arguments, **options):
    with filelock.locked(file, *arguments, **options) as same:
        assert same is file


# -- children -----------------------------------------------------------------------


def use_proc(attack, times):
    null = subprocess.DEVNULL
    for _ in range(times):
        with contextlib.ExitStack() as exit:
            streams = {}
            for word in "stdin", "stdout", "stderr":
                if attack.rng.random() < 0.5:
                    streams[word] = strange.file(attack, os.devnull)
                    if hasattr(streams[word], "close"):
                        exit.callback(strange.close, streams[word])
                else:
                    streams[word] = attack.rng.choice([True, null, null])
            options = attack.maybe(
                callback=lambda: attack.any(print_nothing),
                encoding=lambda: attack.any("utf-8", "utf-16", "idna", "hex"),
                errors=lambda: attack.any("strict", "replace"),
                lines=lambda: attack.any(True),
                cwd=lambda: attack.any("/", attack.place),
                env=lambda: attack.any(
                    {}, {"A": "b"}, {"A=": "b"}, {"": ""}, {1: 2}, {"A": "\0"}, [("A", "b")], {b"A": b"b"}
                ),
                start_new_session=lambda: attack.any(True),
                process_group=lambda: attack.any(0, None),
                umask=lambda: attack.any(0o22, -1),
                pass_fds=lambda: attack.any((), [0]),
                extra_groups=lambda: attack.any(None),
            )
            command = attack.rng.choice(
                [["true"], ["true"], ["true"], ["true", attack.any("x")], attack.any("true"), [attack.any("")]]
            )
            h = exit.enter_context(attack.opened(proc.spawn, command, **{**streams, **options}))
            if h is not NOTHING:
                use_process(attack, h)


def print_nothing(_stream, _data):
    pass


def use_process(attack, h):
    for _ in range(attack.rng.randrange(4)):
        data = [attack.any(b"x", "x", proc.EOF) for _ in range(attack.rng.randrange(3))]
        attack.call(h.write, *data)
    if attack.rng.random() < 0.3:  # it may stop, and then nobody may wait for it
        attack.call(h.kill, attack.any("term", "kill", 15), **attack.maybe(tree=lambda: attack.any(True)))
        attack.call(h.close)
    attack.call(repr, h)
    attack.call(getattr, h, "pending")
    for _ in range(2):
        attack.call(h.wait, attack.any(0, None))
    if attack.rng.random() < 0.3:
        attack.call(asyncio.run, h.wait_async(attack.any(0)))
    attack.call(list, h)
    attack.call(h.nowait)


# -- the command ----------------------------------------------------------------------


def use_command(attack, times):
    shm.create(attack.name, 100, persist=True).close()
    sem.create(attack.name, 3, persist=True).close()
    try:
        for _ in range(times):
            words = words_of(attack)
            status = attack.call(run_command, words, attack.place)
            allowed = {0, 1, 2, 126, 127} if words[:1] == ["lock"] or words[:2] == ["sem", "run"] else {0, 1, 2}
            assert status in allowed, f"status {status} of {words!r}"
    finally:
        for tail in ["", "n", *strange.TAILS]:
            for unlink in shm.unlink, sem.unlink:
                with contextlib.suppress(OSError, ValueError):
                    unlink(attack.name + tail)


def words_of(attack):
    rng = attack.rng
    name = (attack.name + rng.choice(["", "", "n", *strange.TAILS])).replace("\0", "").replace("\ud800", "")
    odd = rng.choice(strange.WORDS)
    file = rng.choice([f"{attack.place}/lock", attack.place, "", odd, "/dev/null", f"{attack.place}/nowhere/x"])
    words = rng.choice(
        [
            ["cat", name],
            ["put", name],
            ["put", "--force", name],
            ["rm", name],
            ["rm", "--sem", name, name],
            ["sem", "create", name, odd],
            ["sem", "create", "--undo", name, odd],
            ["sem", "inc", name, odd],
            ["sem", "dec", name, "--timeout", rng.choice(["0", "0.001", "nan", "-1", "x"])],
            ["sem", "value", name],
            ["sem", "run", name, "--timeout=0", rng.choice(["--", "-E75", odd]), rng.choice(["true", "", odd])],
            ["wait", name, f"--timeout={rng.choice(['0', '0.001', 'nan', '-1', 'x'])}", rng.choice(["--gone", odd])],
            ["stat", name, odd],
            ["rm", "-f", f"{name}*", odd],
            ["put", "--perm", odd, name],
            ["lock", file, "--timeout", rng.choice(["0", "0.01", odd]), "--", rng.choice(["true", "", odd])],
            ["lock", file, "--shared", "--range", rng.choice(["0:1", ":", "9" * 30, odd]), "--", "true"],
            [odd],
            ["gc", odd],
            ["ls", "--json", odd, f"{name}[!x]"],
            ["demo", f"{attack.place}/none"],
            ["sem"],
            [],
        ]
    )
    if rng.random() < 0.2 and words[:1] != ["gc"]:
        words.insert(rng.randrange(len(words) + 1), rng.choice(strange.WORDS))
    # What looks like nothing and is all: it removes orphans of other programs, or lists for long.
    return words if words not in (["gc"], ["ls"], ["demo"]) else ["--version"]


def run_command(words, place):
    """The exit status, in a child: a command may become another, and has streams of its own."""
    pid = fork_quietly()  # beside a watchdog
    if not pid:
        status = 99
        try:
            os.chdir(place)  # where files may be made under odd names
            null = os.open(os.devnull, os.O_RDWR)
            for fd in range(3):
                os.dup2(null, fd)
            sys.stdin = open(0, encoding="utf-8", closefd=False)
            sys.stdout = open(1, "w", encoding="utf-8", errors="strict", closefd=False)
            sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
            from ipcio import _cli

            try:
                status = _cli.main(words)
            except SystemExit as error:
                status = error.code or 0
            if not isinstance(status, int):
                status = 1  # a line of its own
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# -- URLs -----------------------------------------------------------------------------


def use_urls(attack, times):
    from ipcio._fsspec import SharedMemoryFileSystem

    files = SharedMemoryFileSystem()
    tails = ["", "", "n", *strange.TAILS]
    try:
        with shm.create(attack.name, 100):
            for _ in range(times):
                name = attack.name + attack.rng.choice(tails)
                url = attack.rng.choice([f"shm://{name}", f"shm:///{name}", name, f"shm:{name}", f"shm://{name}/x"])
                use_url(attack, files, url, attack.name + attack.rng.choice(tails))
    finally:
        for tail in tails:
            for head in "", "shm:":
                with contextlib.suppress(OSError, ValueError):
                    shm.unlink(head + attack.name + tail)


def use_url(attack, files, url, other):
    rng = attack.rng
    choice = rng.randrange(6)
    if choice == 0:
        attack.call(rng.choice([files.info, files.exists, files.created, files.modified, files.isdir, files.size]), url)
    elif choice == 1:
        mode = rng.choice(["rb", "r+b", "wb", "xb", "ab", "w", "q", "", "rt"])
        with attack.opened(files.open, url, mode) as file:
            if file is not NOTHING and mode in {"wb", "xb", "ab"}:
                attack.call(file.write, strange.value(rng))
                if rng.random() < 0.2:
                    attack.call(file.truncate, *rng.choice([[], [strange.size(rng)]]))
            elif file is not NOTHING:
                attack.call(file.read, attack.any(1, -1))
                attack.call(file.seek, attack.any(0), attack.any(0, 1, 2))
    elif choice == 2:
        attack.call(files.cat_file, url, *[attack.any(None, 0, 1, -1) for _ in range(rng.randrange(3))])
    elif choice == 3:
        attack.call(files.pipe_file, url, attack.any(b"x"), rng.choice(["create", "overwrite"]))
    elif choice == 4:
        attack.call(files.cp_file, url, other)
    else:
        attack.call(rng.choice([files.rm_file, files.touch, files.mkdir, files.makedirs, files.rmdir, files.rm]), url)


# -- a round --------------------------------------------------------------------------

USES = {
    "shm": (use_shm, 40),
    "sem": (use_sem, 60),
    "event": (use_event, 60),
    "queue": (use_queue, 40),
    "mmap": (use_mmap, 40),
    "strfile": (use_strfile, 40),
    "filelock": (use_filelock, 60),
    "proc": (use_proc, 15),
    "command": (use_command, 12),
    "urls": (use_urls, 60),
}


def attack_with(use):
    def attack_arguments(rng, place, name):
        """Many calls of one module, and then nothing of them is left."""
        act, times = USES[use]
        attack = Attack(rng, place, name)
        fds, sons = descriptors(), children()
        act(attack, times)
        attack.told.clear()
        strange.RAISED.clear()
        gc.collect()
        assert not left_open(fds), left_open(fds)
        assert children() == sons, "children left"
        left = {path for path in paths() if any(name in each for each in names_of(path))}
        assert not left, left
        return attack.counts

    return attack_arguments
