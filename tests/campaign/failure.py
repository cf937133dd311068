"""Each system call of every operation fails in turn, with each errno that it may fail with.

Whoever hears of it hears the first error, as documented, and nothing is left; and without the fault the same
call succeeds.
"""

from __future__ import annotations

import errno
import gc

from children import Adoption
from leftovers_linux import descriptors
from tracing import Call, Traced, lacks_tracing

from campaign.operations import Operation, Scene, check, choose, entries
from campaign.parts import Unable, new_name, part

ENOUGH = 60  # calls; who waits makes as many as there is time for

# What the manual pages say; and every call may be forbidden or unknown in a sandbox.
_SANDBOX = ("EPERM", "ENOSYS")
_ERRORS = {
    **dict.fromkeys(("access", "faccessat", "faccessat2"), "EACCES ENOMEM"),
    **dict.fromkeys(("open", "openat"), "EACCES EINTR EMFILE ENFILE ENOMEM ENOSPC"),
    **dict.fromkeys(("stat", "fstat", "lstat", "newfstatat", "statx"), "EACCES ENOMEM"),
    **dict.fromkeys(("link", "linkat"), "EACCES ENOMEM ENOSPC"),
    **dict.fromkeys(("unlink", "unlinkat"), "EACCES ENOMEM"),
    **dict.fromkeys(("write", "pwrite64"), "EINTR EIO ENOSPC"),
    **dict.fromkeys(("read", "pread64"), "EINTR EIO"),
    **dict.fromkeys(("chmod", "fchmod", "fchmodat"), "EACCES ENOMEM"),
    **dict.fromkeys(("pipe", "pipe2", "dup", "dup3"), "EMFILE ENFILE"),
    **dict.fromkeys(("fork", "vfork", "clone", "clone3"), "EAGAIN ENOMEM"),
    **dict.fromkeys(("epoll_create1", "pidfd_open", "eventfd2"), "EMFILE ENFILE ENOMEM"),
    **dict.fromkeys(("semop", "semtimedop"), "EACCES EINTR ENOMEM"),
    **dict.fromkeys(("poll", "ppoll", "epoll_wait", "epoll_pwait", "wait4", "waitid"), "EINTR"),
    "mmap": "EACCES EAGAIN ENFILE ENOMEM",
    "fallocate": "EINTR ENOSPC EOPNOTSUPP",
    "ftruncate": "EINTR EIO",
    "flock": "EINTR ENOLCK",
    "semget": "EACCES ENOMEM ENOSPC",
    "semctl": "EACCES",
    "timer_create": "EAGAIN ENOMEM",
    "epoll_ctl": "ENOMEM ENOSPC",
    "getdents64": "ENOMEM",
    "msync": "EBUSY EIO ENOMEM",
    "close": "EINTR EIO",
}
_FCNTL = {1030: "EMFILE", 0: "EMFILE", 6: "EACCES ENOLCK", 37: "EACCES ENOLCK", 7: "EINTR ENOLCK", 38: "EINTR ENOLCK"}


def errors_of(call: Call) -> list[int]:
    """Which it may fail with."""
    if call.name in {"exit", "exit_group"}:  # never
        return []
    listed = _FCNTL.get(call.arguments[1], "") if call.name == "fcntl" else _ERRORS.get(call.name, "")
    # A process that may not close keeps its descriptor for ever.
    names = [*listed.split(), *(_SANDBOX if call.name != "close" else ())]
    return [getattr(errno, name) for name in names]


def fail_at(operation: Operation, name: str, path: str, at: int, number: int | None) -> tuple[Call | None, str]:
    """Have that call of the operation fail; return the call, and what came of it.  No number: only tell the call."""
    scene = Scene(name, path)
    try:
        scene.held = operation.before(scene)
        scene.look()
        known = {}

        def ready():
            thing = operation.ready(scene)
            known["descriptors"] = descriptors()
            known["thing"] = thing
            known["entries"] = set(entries(scene.name))
            return thing

        def after(returned, raised):
            return _after(operation, scene, known, returned, raised)

        with Adoption() as adoption, Traced(operation.act, scene, prepare=ready, check=after, patience=10) as child:
            call = child.step_to(at)
            if call is None or number is None:
                child.result()
                scene.look(child.seen)
                check(operation, scene, gc_first=False)
                return call, ""
            child.fail(number, happened=call.name == "close")
            story = f"{operation.name}, {errno.errorcode[number]} at call {at}, {call}"
            try:
                outcome = child.result()
                adoption.wait()  # a child of it that it could not wait for has what it had
                scene.look(child.seen)
                _judge(operation, number, outcome)
                check(operation, scene, gc_first=False)
            except Exception as error:
                raise AssertionError(f"{story}: {error!r}") from error
            return call, outcome["said"]
    finally:
        scene.end()


def _after(operation, scene, known, returned, raised):
    """In the child: what it left, and whether the same works without the fault."""
    outcome = {
        "said": type(raised).__name__ if raised is not None else "success",
        "text": str(raised),
        "kinds": [kind.__name__ for kind in type(raised).__mro__],
        "errno": getattr(raised, "errno", None),
        "filename": getattr(raised, "filename", None),
        "made": sorted(set(entries(scene.name)) - known["entries"]),
    }
    failed = raised is not None and not isinstance(raised, operation.says)
    if raised is not None:  # forgotten, with all that its traceback keeps
        raised.__traceback__ = raised.__context__ = None
    for each in (returned, None if operation.makes else known["thing"]):
        if hasattr(each, "close"):
            each.close()
    del returned
    gc.collect()
    outcome["opened"] = {fd: what for fd, what in descriptors().items() if fd not in known["descriptors"]}
    outcome["again"] = ""
    if failed and operation.makes:
        try:
            again = operation.act(known["thing"], scene)
        except operation.says:
            pass
        except BaseException as error:
            outcome["again"] = repr(error)
        else:
            again.close()
    return outcome


def _judge(operation, number, outcome):
    said = outcome["said"]
    if said == "success" or any(kind.__name__ == said for kind in operation.says):
        pass
    else:
        assert "OSError" in outcome["kinds"], f"an undocumented {said}: {outcome['text']}"
        assert outcome["errno"] == number, f"another error was raised: {said}({outcome['text']})"
        if operation.makes and operation.kind in {"shm", "sem", "undo"} and not operation.says:
            assert outcome["filename"], f"an error that names no object: {outcome['text']}"
    assert not outcome["again"], f"without the fault it fails, too: {outcome['again']}"
    if operation.makes and said != "success" and not operation.says:
        # What is in use belongs to other processes; orphans were there before.
        assert not outcome["made"], f"it raised {said}, and left {outcome['made']}"
    assert not outcome["opened"], f"descriptors left open: {outcome['opened']}"


@part("failure")
def setup(place):
    """One operation, all its calls: each with one of its errors."""
    if lacks_tracing():
        raise Unable(lacks_tracing())
    path = f"{place}/file"
    warm = set()

    def one_round(rng):
        operation = choose(rng, warm, path)
        faults = 0
        for at in range(ENOUGH):
            call, _ = fail_at(operation, new_name(), path, at, None)
            if call is None:
                break
            errors = errors_of(call)
            if errors:
                fail_at(operation, new_name(), path, at, rng.choice(errors))
                faults += 1
        return {"faults": faults}

    yield one_round
