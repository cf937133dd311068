"""What a platform owes the portable modules: protocols that each back-end module is checked against.

The portable module owns the meaning (arguments, modes, the handle); the back end
owns the system calls and every difference between platforms.  A back end raises
`OSError` with ``errno`` and with ``filename`` set to what the user passed, and
leaves nothing behind when it raises.
"""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    import mmap
    import os
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from typing import Any, Literal

    from ipcio._child_input import Input
    from ipcio._child_output import Output

Handle = TypeVar("Handle")


class Share(Protocol):
    """What makes a handle one of those that keep a name; it owns the handle's descriptor."""

    def lend(self, fd: int) -> int:
        """Return a descriptor of the object open as `fd` that the user may have; it may be `fd` itself.

        Nothing that the user does with it removes or keeps the name.
        """
        ...

    def is_open(self, fd: int, /) -> bool:
        """Whether `fd` still is a descriptor of the object.

        A daemon closes all of its descriptors, and later their numbers mean other files.
        """
        ...

    def pass_to(self, child: Any, /) -> Any:
        """Make a child keep the name until it has attached; `child` is the object by which multiprocessing starts it.

        Return what the child needs to find the descriptor that it inherits; None if it inherits none.
        """
        ...

    def pass_to_program(self) -> None:
        """Make the program keep the name that this process becomes by ``exec``."""
        ...

    def release(self, close: Callable[[int], None] = ..., /) -> None:
        """Stop keeping the name and `close` the descriptor, once; the last share to be released removes the name."""
        ...


class Mapped(NamedTuple):
    """A segment that a back end opened, for the handle to give back at its end."""

    memory: mmap.mmap | memoryview[int] | None
    """Bytes, which can be written if that was asked for; None for an empty segment."""
    fd: int
    """A descriptor of the object with an offset of its own; -1 where the platform has none."""
    share: Share | None
    """The handle's share in the name; None if ipcio does not decide how long the object exists."""


class ShmBackend(Protocol):
    """Named shared memory.

    `into` is called with what was opened, and makes the handle that is returned.  It is
    called under `ipcio._forklock.fork_lock`, and the back end itself keeps no reference to the memory.
    The caller does not hold that lock, because a back end may have to wait.
    """

    def create(
        self,
        name: str,
        size: int,
        *,
        perm: int,
        persist: bool,
        reserve: bool,
        init: Callable[[Handle], object] | None,
        into: Callable[[Mapped], Handle],
        kind: str = "shm",
    ) -> Handle:
        """Make a zero-filled object exclusively; it gets its name complete or not at all.

        `kind` is "shm" or one of `ipcio._names.SEGMENTS`: each kind has names of its own.

        An orphaned object that has the name is removed first.  With `reserve`, too little memory
        is ``ENOSPC`` here and now.

        `init` is called, without `fork_lock`, with a handle from `into`, and no other process sees the object
        before its first contents are there.  The handle is the one that is returned, or it has private memory whose
        bytes are copied.  If the name is in use, that is a `FileExistsError` before `init` is called.  After
        what `init` raises, the caller closes the handle.
        """
        ...

    def attach(
        self,
        name: str,
        *,
        writable: bool,
        owner: int | None = None,
        into: Callable[[Mapped], Handle],
        kind: str = "shm",
    ) -> Handle:
        """Map what has the name, and take a share in it if ipcio made it.

        An object of another user than `owner` is a `PermissionError` before anything of it is used.
        (None: any user's, and always None where there are no user ids.)
        """
        ...

    def unlink(self, name: str, *, kind: str = "shm") -> None:
        """Remove the name now."""
        ...


class OpenObject(NamedTuple):
    """A mutex, an event or a queue that was opened, for its locks and words (`PartsBackend`)."""

    kind: str
    """One of `ipcio._names.SEGMENTS`."""
    name: str
    memory: mmap.mmap | memoryview[int]
    """All of it.  Whatever keeps an address in it also keeps this object, which unmaps it when it goes."""
    fd: int
    """A descriptor of the object, -1 where the platform has none; another one may have the number after a `close`."""
    trusted: bool
    """Whether this user alone can write to the object.

    If not, another process may cut its file short at any moment.  To touch the memory would then be a SIGBUS, so its
    bytes are read and written by calls that fail instead.
    """
    wide: bool
    """Whether its locks are those for objects that other users may write to; the creator has decided that."""


class Lock(Protocol):
    """A lock of an object: its owner is a thread of a process, and the kernel releases it when that ends."""

    def acquire(self, seconds: float | None, /) -> int:
        """Acquire it within `seconds` (None: no limit; 0: at once).

        Return 0 if it could not be acquired in time, 1 if it was acquired, and 2 if it was acquired and its last
        owner ended without having released it.  `RuntimeError` if this thread owns it.  What a signal handler
        raises ends the wait within 0.2 s, and nothing was acquired then.
        """
        ...

    def release(self) -> None:
        """Release it; `RuntimeError` if this thread does not own it."""
        ...

    def give_back(self) -> None:
        """Release what this thread has acquired and does not want: the next owner is told what this one was told."""
        ...

    def is_mine(self) -> bool:
        """Whether this thread owns it."""
        ...

    def is_abandoned(self) -> bool:
        """Whether this thread owns it, and its last owner ended without having released it."""
        ...

    def is_held(self) -> bool:
        """Whether a thread of any process owns it."""
        ...

    def owner(self) -> int | None:
        """Return the process that owns it; None if no process does, or that is unknown."""
        ...

    # -- with fewer steps ------------------------------------------------
    #
    # `acquire` and `release` by one call of C each, where that is possible; otherwise the steps
    # return 1, and the notes are (1,).

    @property
    def trying(self) -> Iterator[int]:
        """Each step tries to acquire it.  If it returns 0 and `notes` are 0, it was acquired, and that is all.

        Otherwise `acquire_after` must follow, and `undo` if that raises.
        """
        ...

    @property
    def releasing(self) -> Iterator[int]:
        """If `notes` are 0, each step releases it and returns 0; another number if this thread does not own it."""
        ...

    @property
    def notes(self) -> Sequence[int]:
        """Whether there is more to do than these steps do."""
        ...

    def acquire_after(self, code: int, seconds: float | None, /) -> int:
        """Do the rest of `acquire` after a step of `trying` has returned `code`."""
        ...

    def undo(self, code: int, /) -> None:
        """Do as `give_back` if `code` means that it was acquired, and this thread still owns it."""
        ...

    # -- programs that own it -------------------------------------------

    def lend(self) -> None:
        """Stay locked, from an ``exec`` that follows until the program has exited that this process becomes.

        Only for a process that does nothing else (``ipcio mutex run``).  `NotImplementedError` without ``exec``.
        """
        ...

    def take_back(self) -> None:
        """Release it after `lend`, because ``exec`` has failed."""
        ...


class Words(Protocol):
    """The 32-bit words of an object, which any process may wait for; `at` is the offset of one in bytes, aligned.

    Each method raises `OSError` if the object was cut short, and `ValueError` if it was closed.  A change in one step
    with the wake-up is a single call of the kernel, where it has such a call: no kill comes in between.
    """

    def load(self, at: int, /) -> int:
        """Return the word."""
        ...

    def store(self, at: int, value: int, /) -> None:
        """Change the word, and wake no process."""
        ...

    def set_and_wake(self, at: int, value: int, /) -> None:
        """In one step: change the word to `value`, 0 to 2047, and wake all that wait for it."""
        ...

    def add_and_wake(self, at: int, number: int, /) -> None:
        """In one step: add 0 to 2047 to the word, modulo 2**32, and wake all that wait for it.

        Where the kernel has no such call, two processes that add at the same time may add once: they hold a lock.
        """
        ...

    def clear_bits(self, at: int, bits: int, /) -> None:
        """Clear these bits of the word, 0 to 2047, in one step where the kernel has a call for it; wake no process."""
        ...

    def ringing(self, at: int, /) -> Iterator[object] | None:
        """Return an iterator of which each step adds 1 to the word and wakes all that wait for it.

        C code alone makes a step, which never raises an error.  None where the system has no call to wait for a word.
        """
        ...

    def wait(self, at: int, expected: int, seconds: float | None, /) -> bool:
        """Wait until the word is not `expected` or has been woken, for so long (None: no limit); return whether.

        What a signal handler raises ends the wait within 0.2 s.  The wait costs no processor time where the kernel
        has a call for it.  True is the answer only if the word had another value or one of the methods
        that wake was called for it.
        """
        ...


class PartsBackend(Protocol):
    """What mutexes, events and queues are made of; offsets are in `ipcio._named`."""

    def read(self, fd: int, memory: mmap.mmap | memoryview[int], size: int, /) -> bytes:
        """Return the first bytes of an object that is not known yet, without touching its memory where that can fail.

        Fewer than `size` if there are no more.
        """
        ...

    def is_trusted(self, fd: int, /) -> bool:
        """Whether the object belongs to this user, and the permissions let no other user write to it."""
        ...

    def process_namespace(self) -> int:
        """Return a number for the PID namespace of this process, 0 if it is unknown or there are none."""
        ...

    def lock_layout(self) -> bytes:
        """Return at most 32 bytes that are the same in all processes which can share a lock that is not `wide`."""
        ...

    def new_lock(self, *, wide: bool) -> bytes:
        """Return the first contents of the slot of a lock, at most 64 bytes."""
        ...

    def by_calls(self, opened: OpenObject, /) -> tuple[Any, Any] | None:
        """Return the numbers of 8 bytes that the object consists of, and its bytes: see `ipcio._ring_state`.

        Calls of the system read and write them, which fail if another process has cut the object short.  None where
        there are no such calls.
        """
        ...

    def lock(self, opened: OpenObject, at: int, /) -> Lock:
        """Return the lock whose slot has this offset."""
        ...

    def words(self, opened: OpenObject, /) -> Words:
        """Return the words of the object."""
        ...


class MappedFile(NamedTuple):
    """A file that a back end mapped."""

    memory: mmap.mmap | None  # of no bytes
    fd: int
    status: os.stat_result  # of the file


class MmapBackend(Protocol):
    """Files mapped into memory; `into` is as in `ShmBackend`."""

    def open(
        self, file: Any, *, writable: bool, offset: int, size: int, into: Callable[[MappedFile], Handle]
    ) -> Handle:
        """Map `size` bytes (0: all) of `file`, a path or a descriptor, from `offset`."""
        ...

    def map_descriptor(self, fd: int, size: int, *, writable: bool, offset: int = 0) -> mmap.mmap:
        """Map `size` bytes of the object open as `fd` from `offset`, shared with every other map of it."""
        ...

    def reserve(self, fd: int, offset: int, size: int, name: Any) -> None:
        """Allocate the blocks of this part of the file; ``ENOSPC``, with `name`, if there are too few.

        `NotImplementedError` where the system cannot.
        """
        ...

    def path_of(self, fd: int) -> str:
        """Return the path by which another process can open the file of `fd`; `TypeError` if it has no path."""
        ...


class RawSemaphore(Protocol):
    """A semaphore with the methods of `_multiprocessing.SemLock`."""

    share: Share | None
    """The share in the name, until the handle is closed.

    It is here because a ``with`` statement may keep nothing but a bound method of this object.
    """

    def __enter__(self) -> bool:
        """Acquire a permit, waiting without limit; return True."""
        ...

    def __exit__(self, *_: object) -> None:
        """Release a permit."""
        ...

    def acquire(self, block: bool = True, timeout: float | None = None, /) -> bool:
        """Acquire a permit, at once or, if `block`, within `timeout` seconds (None: no limit); return whether."""
        ...

    def release(self) -> None:
        """Release a permit; past the maximum, raise `OverflowError`, `ValueError` or an `OSError`."""
        ...


class OpenSemaphore(NamedTuple):
    """A semaphore that a back end opened, for the handle."""

    raw: RawSemaphore
    post: Callable[[int], None]
    """Releases several permits; `OverflowError`, and no permit released, if that would exceed the maximum."""
    value: Callable[[], int]
    """Returns the value; `NotImplementedError` where the platform does not say it."""
    crash_safe: bool
    bound: int | None = None
    """What the value may be at most, if the back end itself refuses to exceed that (`ValueError`)."""


class UncommittedSegment(Protocol):
    """A persistent segment that is being written as a file, before other processes can attach it."""

    name: str
    fd: int

    def commit(self) -> None:
        """Give the segment its name, with the size that the file has now.

        `FileExistsError` if the name is in use and is not to be replaced, ``OSError(EINVAL)`` if
        nothing was written and no segment can be empty here.  A process that attaches a segment
        that is being replaced gets the old one or the new one, complete.
        """
        ...

    def check_room(self, size: int) -> None:
        """Raise ``OSError(ENOSPC)`` if the file cannot have so many bytes, as far as that is known."""
        ...

    def discard(self) -> None:
        """Close the file.  Without a `commit` before, there will be no segment."""
        ...


class WriterBackend(Protocol):
    """Persistent segments, if the size is known only when they are complete."""

    def open_writer(self, name: str, perm: int, size: int, /, *, replace: bool) -> UncommittedSegment:
        """Begin one, with `size` bytes set aside if that is not 0.

        `FileExistsError` if the name is in use, unless `replace`.
        """
        ...


class SemBackend(Protocol):
    """Named semaphores; `into` is as in `ShmBackend`."""

    def create(
        self,
        name: str,
        value: int,
        *,
        perm: int,
        persist: bool,
        crash_safe: bool,
        bound: int | None,
        into: Callable[[OpenSemaphore], Handle],
    ) -> Handle:
        """Make one exclusively; it gets its name complete or not at all.

        An orphaned one that has the name is removed first.  Raises `OverflowError` for a value or a `bound`
        past the maximum and `NotImplementedError` where nothing can be `crash_safe`.  A crash-safe one keeps
        its `bound` for all of its handles.  With that of another one the handle compares the value, so
        it is a `NotImplementedError` where the system does not say the value.
        """
        ...

    def attach(self, name: str, *, owner: int | None = None, into: Callable[[OpenSemaphore], Handle]) -> Handle:
        """Open the semaphore that has the name, of either kind; `owner` as for shared memory."""
        ...

    def unlink(self, name: str) -> None:
        """Remove the name now."""
        ...


class Conflict(NamedTuple):
    """A lock that a request conflicts with."""

    start: int
    length: int
    """In bytes; 0 means to infinity."""
    exclusive: bool
    pid: int | None
    """The process that has it; None where the system does not name it."""


class Owner(NamedTuple):
    """A process, and the descriptor by which it has a file open."""

    pid: int
    descriptor: int


class LockBackend(Protocol):
    """Locks on ranges of an open file's bytes; a length of 0 means to infinity.

    On Linux `request` and `ask` are functions of C, so that no Python runs between
    `ipcio.filelock` and the system.
    """

    SEMANTICS: Literal["open file", "process"]
    """The owner of a lock."""
    SHARE: int
    EXCLUDE: int
    UNLOCK: int
    AT_ONCE: int
    """The command to `ask` without waiting."""
    BUSY: tuple[type[OSError], ...]
    """What `ask` raises if another lock conflicts."""

    def prepare(self) -> None:
        """Import what the functions below need: a process that gives up its rights later may not find the modules."""
        ...

    def request(self, kind: int, start: int, length: int, /) -> Any:
        """Return a request in the back end's own form; `kind` is SHARE, EXCLUDE or UNLOCK."""
        ...

    def ask(self, fd: int, command: int, request: Any, /) -> object:
        """Lock or unlock; with the command `AT_ONCE`, raise one of `BUSY` if another lock conflicts.

        `NotImplementedError`, and nothing changed, where the system cannot unlock a part of a lock.
        """
        ...

    def wait(self, fd: int, request: Any, seconds: float | None, /) -> bool:
        """Lock within that time (None: without limit); return whether it was locked."""
        ...

    def conflict(self, fd: int, request: Any, /) -> Conflict | None:
        """Return a lock that the request conflicts with."""
        ...

    def open_path(self, path: Any, flags: int, /) -> int:
        """Open a lock file, a regular file, and create it (mode 0600) if it is missing; never wait.

        A symbolic link is followed only if it belongs to this user.  The flags are those that `open`
        passes to an opener.
        """
        ...

    def owners(self, fd: int, lock: Conflict, among: Iterable[Owner] = (), /) -> Iterator[Owner | None]:
        """Search for processes that have this lock, `among` these or, by default, among all.

        For a conflict without a process.  The search may take long, so it yields None for each step
        that finds nothing, and no step blocks.
        """
        ...

    def describe(self, pid: int) -> str:
        """Return the name of a process's command, empty if it is unknown."""
        ...


class Child(Protocol):
    """A child process that was started, with the pipes to it."""

    @property
    def pid(self) -> int:
        """The process id."""
        ...

    @property
    def returncode(self) -> int | None:
        """The exit code, or a signal as a negative number; None while it runs or its pipes may hold more.

        `ChildProcessError` if the status was taken by other code of the program.
        """
        ...

    def pump(self, timeout: float | None, /) -> bool:
        """Wait until something can be done, and do it: read, write, see the exit; False if there was nothing.

        May return early.  Reads a limited amount, and after the exit what the pipes hold.
        """
        ...

    @property
    def retry_after(self) -> float | None:
        """Seconds after which `pump` is to be called again because a file was not ready; None if no file is waited for.

        `pump` returns by then.  Output that its consumer has refused stays in the pipe meanwhile.
        """
        ...

    def input_queued(self) -> None:
        """Send what has been queued for standard input since, also if another thread is in `pump`."""
        ...

    def readiness_fd(self) -> int:
        """Return a new descriptor that is readable when `pump` has something to do; -1 if the system has none.

        Then call `pump` every few milliseconds.
        """
        ...

    def close_readiness_fd(self, fd: int, /) -> None:
        """Close such a descriptor."""
        ...

    def started_here(self) -> bool:
        """Whether this very process started it; False in a process that was forked from that."""
        ...

    def kill(self, number: int, *, tree: bool, grace: bool = False) -> None:
        """Send a signal, unless it has exited; with `tree`, to all of its process group that is left.

        With `grace`, another `kill` of the same kind is to follow soon, and must reach what is left then.
        """
        ...

    def has_exited(self, *, tree: bool) -> bool:
        """Whether it has exited; with `tree`, all of its process group.  False if that cannot be known."""
        ...

    def kill_and_reap(self) -> int:
        """Kill it if it runs, reap it, and return what it ended with, as `returncode` does.

        Closes nothing, and may be called while this thread is in any other method.
        """
        ...

    def close(self) -> None:
        """Kill it if it runs, reap it, close everything, and discard what the pipes hold."""
        ...


class ProcBackend(Protocol):
    """Child processes."""

    def start(
        self,
        command: Any,
        streams: Sequence[int | None],
        cwd: Any,
        env: Any,
        *,
        start_new_session: bool,
        posix: dict[str, Any],
        stdin: Input | None,
        outputs: Sequence[Output | None],
    ) -> Child:
        """Start a child.

        `posix` are those of the arguments of `subprocess.Popen` for POSIX systems that the caller has given;
        `NotImplementedError` for one that this system lacks.

        `streams` are what `subprocess.Popen` requires for standard input, output and error.  Where one
        is `subprocess.PIPE`, `stdin` or the item of `outputs` is what flows through the pipe.
        """
        ...


class ProcessInfo(NamedTuple):
    """A process that has an object open or mapped."""

    pid: int
    command: str
    """Its short name, empty if it is unknown."""


class ObjectInfo(NamedTuple):
    """What is known of a named object, in the words of ``ipcio ls --json``; None for what is unknown.

    On Windows only the kind and the name are known.
    """

    kind: Literal["shm", "sem", "mutex", "event", "queue"]
    """``"shm"`` for shared memory, ``"sem"`` for a semaphore."""
    name: str
    """As given to ipcio."""
    size: int | None
    """In bytes, of shared memory or a queue."""
    value: int | None
    """Of a semaphore; the number of messages in a queue; of an event, 1 if it is set and 0 if not; the process id of
    the owner of a mutex, 0 if it is free."""
    undo: bool
    """Whether it is a crash-safe semaphore."""
    perm: str | None
    """The permission bits as four octal digits: ``"0600"``."""
    owner: str | None
    """The user's name, or their number if they do not have one."""
    age: float | None
    """Seconds since it was created; a write through a file descriptor may make it younger."""
    state: Literal["live", "orphan", "persistent", "foreign"]
    """``"live"``: a process has a handle.  ``"orphan"``: all of its holders have been killed.
    ``"persistent"``: it stays until ``unlink``.  ``"foreign"``: another program made it."""
    holders: list[ProcessInfo]
    """The processes that have it open or mapped, as far as this user may see them; each has a ``pid`` and a
    ``command``, which is its short name."""


class InventoryBackend(Protocol):
    """Which named objects exist."""

    def list_objects(self) -> list[ObjectInfo]:
        """Look at all of them, and change nothing: neither an object nor what another process does with it."""
        ...

    def exists(self, name: str, kinds: Collection[str]) -> bool:
        """Whether an object of one of these kinds has the name and is not orphaned; change nothing, as above."""
        ...

    def free_memory(self) -> tuple[str, int] | None:
        """Return where shared memory is and how many bytes are free there; None if it has no place of its own."""
        ...

    def remove_orphans(self, skipped: Callable[[str, str], object], /, *, dry_run: bool) -> Iterator[ObjectInfo]:
        """Remove every orphaned object that this user may remove; yield each as it was.

        With `dry_run`, change nothing: yield what would be removed.

        What is in use, persists or was not made by ipcio stays.  An object that cannot be removed is
        tried once, and is never an error: `skipped` is called with the name of its file and the reason.
        """
        ...
