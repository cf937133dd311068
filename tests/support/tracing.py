"""A function in a forked child, stopped before each of its system calls: ptrace(2) through `ctypes`.

Where the stand-ins of `children.watch_calls` see what Python modules call, this sees what
the kernel is asked for: by the C library too, and by Python's own C code::

    with Traced(shm.unlink, name) as child:
        while call := child.step():        # it stands before this call
            if call.name == "unlink":
                ...                        # meanwhile let others do whatever they like
                child.fail(errno.EACCES)   # the call does not happen, and says so
    child.result()                         # what the function returned, or raised

`Traced.step` lets the call happen that the child stands before, and stops it before the next.
`Traced.happen` stops it right after the call.  `Traced.kill` is a SIGKILL: before the call, or
after it.  `Traced.run` lets the rest go at full speed.

Only the one thread that runs the function is stopped; what it starts runs free.  Call the
function once before, so that imports and caches are not among its calls.  Memory that
Python and the C library ask for, locks between threads and the like are `NOISE`, which comes
and goes: the child does not stop there.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import pickle
import platform
import signal
import struct
import traceback
from typing import NamedTuple

from children import Adoption, fork_quietly

# Numbers on x86-64 and on aarch64, which lacks the older of two calls for the same.
_NUMBERS = {
    name: numbers
    for names in """
        read 0 63, write 1 64, open 2 -, close 3 57, stat 4 -, fstat 5 80, lstat 6 -, poll 7 -, lseek 8 62, mmap 9 222,
        mprotect 10 226, munmap 11 215, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135,
        rt_sigreturn 15 139, ioctl 16 29, pread64 17 67, pwrite64 18 68, access 21 -, pipe 22 -, sched_yield 24 124,
        mremap 25 216, msync 26 227,
        madvise 28 233, dup 32 23, dup2 33 -, nanosleep 35 101, getpid 39 172, clone 56 220, fork 57 -, vfork 58 -,
        execve 59 221, exit 60 93, wait4 61 260, kill 62 129, semget 64 190, semop 65 193, semctl 66 191, fcntl 72 25,
        flock 73 32, fsync 74 82, ftruncate 77 46, rename 82 -, mkdir 83 -, rmdir 84 -, link 86 -, unlink 87 -,
        readlink 89 -, chmod 90 -, fchmod 91 52, getuid 102 174, geteuid 107 175, getppid 110 173, gettid 186 178,
        futex 202 98, getdents64 217 61, semtimedop 220 192, timer_create 222 107, timer_settime 223 110,
        timer_delete 226 111, clock_gettime 228 113, clock_nanosleep 230 115, exit_group 231 94, epoll_wait 232 -,
        epoll_ctl 233 21, tgkill 234 131, waitid 247 95, openat 257 56, mkdirat 258 34, newfstatat 262 79,
        unlinkat 263 35, renameat 264 38, linkat 265 37, readlinkat 267 78, fchmodat 268 53, faccessat 269 48,
        ppoll 271 73, set_robust_list 273 99, epoll_pwait 281 22, fallocate 285 47, eventfd2 290 19,
        epoll_create1 291 20, dup3 292 24, pipe2 293 59, prlimit64 302 261, kcmp 312 272, renameat2 316 276,
        getrandom 318 278, statx 332 291, rseq 334 293, pidfd_send_signal 424 424, pidfd_open 434 434, clone3 435 435,
        close_range 436 436, faccessat2 439 439, fchmodat2 452 452
    """.split(",")
    for name, *numbers in [names.split()]
}
_COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine(), -1)
NAMES = {int(numbers[_COLUMN]): name for name, numbers in _NUMBERS.items() if _COLUMN >= 0 and numbers[_COLUMN] != "-"}

NOISE = {
    *("brk", "mprotect", "munmap", "mremap", "madvise", "futex", "getpid", "gettid", "getuid", "geteuid", "getppid"),
    *(
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "sched_yield",
        "clock_gettime",
        "getrandom",
        "rseq",
        "set_robust_list",
    ),
}

_MARK = -4242  # closing this begins and ends what is traced
_MAP_ANONYMOUS = 0x20

_TRACEME, _POKEUSER, _SYSCALL, _DETACH, _SETOPTIONS = 0, 6, 24, 17, 0x4200
_GETREGSET, _SETREGSET, _GET_SYSCALL_INFO = 0x4204, 0x4205, 0x420E
_TRACESYSGOOD, _EXITKILL = 1, 0x100000  # stops at calls differ from signals; no child survives this process
_ENTRY, _EXIT = 1, 2
_AT_A_CALL = 5 | 0x80  # SIGTRAP, and by the option that it is at a call
_ORIG_RAX, _RAX = 15 * 8, 10 * 8
_NT_PRSTATUS, _NT_ARM_SYSTEM_CALL = 1, 0x404

_libc = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None


def _ptrace(request: int, pid: int, address: int = 0, data: object = 0) -> int:
    done = _libc.ptrace(*map(ctypes.c_long, (request, pid, address)), data or ctypes.c_long(0))
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")
    return done


class Call(NamedTuple):
    """A system call that is about to happen."""

    name: str
    arguments: tuple[int, ...]
    path: str  # of the call's first argument that can be one, else ""

    def __str__(self) -> str:
        return f"{self.name}({self.path!r})" if self.path else f"{self.name}({self.arguments[0]:#x})"

    @property
    def noise(self) -> bool:
        """Whether it may be there in one run and not in the next."""
        anonymous = self.name == "mmap" and self.arguments[3] & _MAP_ANONYMOUS
        # Shared memory is what the caller wants, not what the allocator needs.
        return self.name in NOISE or bool(anonymous and not self.arguments[3] & 1)


# Which argument of a call is a path.
_PATHS = {
    **dict.fromkeys("open stat lstat access rename mkdir rmdir link unlink readlink chmod execve".split(), 0),
    **dict.fromkeys("openat newfstatat unlinkat renameat linkat readlinkat fchmodat faccessat mkdirat".split(), 1),
    **dict.fromkeys("faccessat2 fchmodat2 renameat2 statx".split(), 1),
}


class Traced:
    """A forked child that runs ``function(*arguments)`` and stops before each system call of it; see the module.

    ``prepare()`` is called before in the child, not traced, and what it returns is the function's first argument.
    ``check(returned, raised)`` is called after, not traced: what it returns is then the result.
    A child that hangs for `patience` seconds is killed by SIGALRM.
    """

    def __init__(self, function, *arguments, prepare=None, check=None, patience: int = 30) -> None:
        reader, writer = os.pipe()
        self.pid = fork_quietly()
        if not self.pid:
            os.close(reader)
            _be_traced(writer, function, arguments, prepare, check, patience)
        os.close(writer)
        self._pipe = open(reader, "rb")
        self.status: int | None = None
        self.call: Call | None = None
        """What it stands before."""
        self.seen: list[Call] = []
        """All that it has stood before, this one included."""
        self._free = False
        try:
            self._wait()  # for the SIGSTOP
            if self.status is not None:
                return
            _ptrace(_SETOPTIONS, self.pid, 0, ctypes.c_long(_TRACESYSGOOD | _EXITKILL))
            while self._to_a_call() and not _is_mark(self._info()):
                pass
            self._to_a_call()  # the mark's own end
        except BaseException:
            self.kill()
            raise

    # -- steps ---------------------------------------------------------------

    def step(self) -> Call | None:
        """Let the present call happen and stop before the next; None if the function has ended."""
        if self.call is not None:
            self.happen()
        while not self._free and self._to_a_call():
            info = self._info()
            if _is_mark(info):
                self.run()
                return None
            call = self._call(info)
            if not call.noise:
                self.call = call
                self.seen.append(call)
                return call
            self._to_a_call()
        return None

    def step_to(self, number: int) -> Call | None:
        """Stop before its call of this number, the first being 0."""
        while len(self.seen) <= number and self.step():
            pass
        return self.call

    def happen(self) -> int:
        """Let the call that it stands before happen, and stop right after; return what the kernel says."""
        self.call = None
        return struct.unpack_from("q", self._info(), 24)[0] if self._to_a_call() else 0

    def fail(self, number: int, *, happened: bool = False) -> None:
        """Have the call say `number` of `errno`; it does not happen, unless it is to have `happened` nevertheless."""
        self.call = None
        if not happened:
            _set_number(self.pid)
        if self._to_a_call():
            _set_result(self.pid, -number)

    def run(self) -> None:
        """Let the rest run without a stop."""
        self.call = None
        if not self._free and self.status is None:
            self._free = True
            _ptrace(_DETACH, self.pid)

    def kill(self) -> int:
        """Kill it where it is and reap it: the call that it stands before does not happen."""
        self.call = None
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            while self.status is None:
                self._wait()
        self._pipe.close()
        return self.status

    def kill_all(self) -> int:
        """As `kill`; and wait until whatever it had forked is gone as well."""
        with Adoption() as adoption:
            status = self.kill()
            adoption.wait()
        return status

    def result(self):
        """Let it run, wait for its end; what it returned, or an `AssertionError` of what it raised."""
        while not self._free and self.step():
            pass
        answer = b"" if self._pipe.closed else self._pipe.read()
        while self.status is None:
            self._wait()
        self._pipe.close()
        if not answer:
            raise AssertionError(f"the child has exited (status {self.status})")
        fine, value = pickle.loads(answer)
        assert fine, value
        return value

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.kill()

    # -- the tracer's part ---------------------------------------------------

    def _to_a_call(self) -> bool:
        """Run on to the next entry of a call, or from there to its end.  False: it has exited."""
        number = 0
        while self.status is None:
            try:
                _ptrace(_SYSCALL, self.pid, 0, ctypes.c_long(number))
            except ProcessLookupError:  # killed meanwhile, by another process or its alarm
                number = 0
            number = self._wait()
            if number == _AT_A_CALL:
                return True
        return False

    def _wait(self) -> int:
        """Wait for a stop and return its signal, or note the end."""
        status = os.waitpid(self.pid, 0)[1]
        if os.WIFSTOPPED(status):
            return os.WSTOPSIG(status)
        self.status = os.waitstatus_to_exitcode(status)
        return 0

    def _info(self) -> bytes:
        about = ctypes.create_string_buffer(88)
        _ptrace(_GET_SYSCALL_INFO, self.pid, 88, about)
        return about.raw

    def _call(self, info: bytes) -> Call:
        number, *arguments = struct.unpack_from("q6Q", info, 24)
        name = NAMES.get(number, str(number))
        at = _PATHS.get(name)
        return Call(name, tuple(arguments), "" if at is None else self._text(arguments[at]))

    def _text(self, address: int) -> str:
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/mem", "rb", 0) as memory:
            memory.seek(address)
            return os.fsdecode(memory.read(256).partition(b"\0")[0])
        return ""


def _is_mark(info: bytes) -> bool:
    number, argument = struct.unpack_from("qQ", info, 24)
    return info[0] == _ENTRY and NAMES.get(number) == "close" and argument & 0xFFFFFFFF == _MARK & 0xFFFFFFFF


def _mark() -> None:
    with contextlib.suppress(OSError):
        os.close(_MARK)


def _be_traced(writer, function, arguments, prepare, check, patience) -> None:
    """In the child."""
    try:
        gc.disable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(patience)
        returned = raised = None
        try:
            if prepare is not None:
                arguments = (prepare(), *arguments)
            _ptrace(_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            _mark()
            try:
                returned = function(*arguments)
            except BaseException as error:
                raised = error
            _mark()
            if check is not None:
                returned, raised = check(returned, raised), None
            if raised is not None:
                raise raised
            answer = pickle.dumps((True, returned))
        except BaseException:
            answer = pickle.dumps((False, traceback.format_exc()))
        with open(writer, "wb") as pipe:
            pipe.write(answer)
    finally:
        os._exit(0)


if _COLUMN == 0:

    def _set_number(pid: int) -> None:
        """At a call's entry: no such call."""
        _ptrace(_POKEUSER, pid, _ORIG_RAX, ctypes.c_long(-1))

    def _set_result(pid: int, result: int) -> None:
        """At a call's end."""
        _ptrace(_POKEUSER, pid, _RAX, ctypes.c_long(result))

else:

    class _Vector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    def _registers(request: int, pid: int, kind: int, buffer: object) -> None:
        vector = _Vector(ctypes.addressof(buffer), ctypes.sizeof(buffer))
        _ptrace(request, pid, kind, ctypes.byref(vector))

    def _set_number(pid: int) -> None:
        """At a call's entry: no such call."""
        _registers(_SETREGSET, pid, _NT_ARM_SYSTEM_CALL, ctypes.c_int(-1))

    def _set_result(pid: int, result: int) -> None:
        """At a call's end: in the first register of 34."""
        registers = (ctypes.c_int64 * 34)()
        _registers(_GETREGSET, pid, _NT_PRSTATUS, registers)
        registers[0] = result
        _registers(_SETREGSET, pid, _NT_PRSTATUS, registers)


# -- whether it can be done at all ------------------------------------------------


@functools.cache
def lacks_tracing() -> str:
    """Why no child can be traced here; nothing if one can."""
    if _COLUMN < 0 or not hasattr(os, "fork") or not os.path.isdir("/proc/self/fd"):
        return "system calls can be traced on Linux only, on x86-64 and aarch64"
    try:
        child = Traced(os.stat, "/")
    except OSError as error:
        return f"tracing is not allowed here: {error}"
    with child:
        if child.step() is None:
            return "tracing is not allowed here"
        child.fail(13)
        child.run()
        try:
            child.result()
        except AssertionError as error:
            return "" if "PermissionError" in str(error) else f"tracing does not do what it should here: {error}"
        return "calls cannot be made to fail by tracing here"


def calls(function, *arguments, **options) -> list[Call]:
    """Which calls a function makes."""
    with Traced(function, *arguments, **options) as child:
        child.result()
        return child.seen
