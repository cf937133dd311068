"""``ipcio mutex``: mutexes for shell scripts."""

from __future__ import annotations

from ipcio._cli import completion
from ipcio._cli.common import add_exit_code, add_timeout, add_verbs
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ipcio._cli.common import Commands
    from ipcio._mutex import Mutex

RUNS = {("mutex", "run"): ("--timeout", "--conflict-exit-code", "-E")}

_EXAMPLES = """\
$ ipcio mutex run backup -- echo no other backup is running
no other backup is running
"""
_CREATE_EXAMPLES = """\
$ ipcio mutex create backup
$ ipcio rm --kind mutex backup
"""
_RUN_EXAMPLES = """\
$ ipcio mutex run backup -- sh -c 'echo copying; exit 3'; echo $?
copying
3
$ ipcio mutex run backup sh -c 'ipcio mutex run --timeout 0.1 -E 75 backup true; echo $?'
75
"""


def register(commands: Commands) -> None:
    """Add the group of subcommands."""
    add_verb = add_verbs(
        commands,
        "mutex",
        completion.of("mutex"),
        help="create mutexes and run commands one at a time",
        does="Create and use mutexes",
        examples=_EXAMPLES,
    )
    add_verb(
        "create",
        _create,
        is_new=True,
        help="create a mutex",
        description="Create a mutex, which persists until it is removed. The name must be free. `ipcio mutex run` "
        "does not require this: it creates a mutex that is removed after its last use.",
        examples=_CREATE_EXAMPLES,
    )
    run = add_verb(
        "run",
        _run_command,
        usage="ipcio mutex run [-h] [--timeout S] [-E CODE] NAME [--] COMMAND [ARGUMENT ...]",
        help="run a command while no other process owns the mutex",
        description="Acquire the mutex, run the command, and release the mutex when the command has exited. If there "
        "is no mutex of that name, it is created. The mutex belongs to the process of the command, so it is released "
        "exactly when that process ends, even if it is killed; processes that the command starts do not keep it.",
        epilog="The command begins after --, or at the first word after NAME that is not an option of ipcio mutex run. "
        "The exit status is that of -E after a timeout; 126 if the command cannot be run, 127 if it is not found; "
        "otherwise that of the command.",
        examples=_RUN_EXAMPLES,
    )
    add_timeout(run, ", 0 to try once")
    add_exit_code(run, "another process owns the mutex")
    run.set_defaults(fail=run.error)


def _create(arguments: argparse.Namespace) -> None:
    from ipcio import mutex

    mutex.create(arguments.name, persist=True).close()


def _run_command(arguments: argparse.Namespace) -> int:
    from ipcio import mutex
    from ipcio._cli import programs

    if not any(arguments.command[:1]):
        arguments.fail("pass a COMMAND after NAME")
    programs.platform.occupy()
    handle = mutex.create(arguments.name, exist_ok=True)
    if not handle.acquire(timeout=arguments.timeout):
        return int(arguments.conflict_exit_code)
    lock = handle._lock
    assert lock is not None
    try:
        lock.lend()
    except NotImplementedError:  # the command ends with this process there
        return _supervise(handle, arguments.command)
    if handle._share is not None:
        handle._share.pass_to_program()  # so the name stays as long as the command runs
    try:
        programs.platform.become(arguments.command)
    except OSError as error:
        lock.take_back()
        programs.cannot_run(arguments.command, error)


def _supervise(handle: Mutex, command: list[str]) -> int:
    from ipcio._cli import programs

    with programs.platform.supervising() as run:
        try:
            return run(command)
        except OSError as error:
            programs.cannot_run(command, error)
        finally:
            handle.release()
