"""``ipcio sem``: semaphores for shell scripts."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError

from ipcio._cli import completion
from ipcio._cli.common import add_exit_code, add_timeout, add_verbs, count
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ipcio._cli.common import Commands

RUNS = {("sem", "run"): ("--timeout", "--conflict-exit-code", "-E")}

_EXAMPLES = """\
$ ipcio sem create printers 2
$ ipcio sem run printers -- echo at most two of these run at a time
at most two of these run at a time
$ ipcio rm --sem printers
"""
_CREATE_EXAMPLES = """\
$ ipcio sem create printers 2
$ ipcio rm --sem printers
$ ipcio sem create --undo printers 2
$ ipcio rm --sem printers
"""
_INC_EXAMPLES = """\
$ ipcio sem create printers 0
$ ipcio sem inc printers
$ ipcio sem inc printers 3
$ ipcio sem value printers
4
$ ipcio rm --sem printers
"""
_DEC_EXAMPLES = """\
$ ipcio sem create printers 1
$ ipcio sem dec printers
$ ipcio sem dec --timeout 0.1 printers || echo all printers are busy
all printers are busy
$ ipcio rm --sem printers
"""
_VALUE_EXAMPLES = """\
$ ipcio sem create printers 2
$ ipcio sem value printers
2
$ ipcio rm --sem printers
"""
_RUN_EXAMPLES = """\
$ ipcio sem create --undo printers 1
$ ipcio sem run printers -- sh -c 'echo printing; exit 3'; echo $?
printing
3
$ ipcio sem run printers ipcio sem run --timeout 0.1 -E 75 printers true; echo $?
75
$ ipcio rm --sem printers
"""


def register(commands: Commands) -> None:
    """Add the group of subcommands."""
    add_verb = add_verbs(
        commands,
        "sem",
        completion.of("sem"),
        called="semaphore",
        help="create and use semaphores",
        does="Create and use semaphores",
        examples=_EXAMPLES,
    )
    create = add_verb(
        "create",
        _create,
        is_new=True,
        help="create a semaphore",
        description="Create a semaphore, which persists until it is removed. The name must be free.",
        examples=_CREATE_EXAMPLES,
    )
    create.add_argument("value", metavar="VALUE", type=_value, help="the number of permits, 0 or more")
    create.add_argument("--undo", action="store_true", help="crash-safe: killed processes release their permits")

    inc = add_verb(
        "inc", _inc, help="release permits", description="Release permits of the semaphore.", examples=_INC_EXAMPLES
    )
    inc.add_argument("n", metavar="N", type=count, nargs="?", default=1, help="how many; default: %(default)s")

    dec = add_verb(
        "dec",
        _dec,
        help="acquire a permit",
        description="Acquire a permit, and wait for one if need be. A crash-safe semaphore is refused: its "
        "permit would be released again when this command exits.",
        epilog="After a timeout nothing is printed, and the exit status is that of -E.",
        examples=_DEC_EXAMPLES,
    )
    add_timeout(dec, ", 0 to try once")
    add_exit_code(dec, "there is no permit")

    add_verb(
        "value",
        _print_value,
        help="print the number of permits",
        description="Print how many permits can be acquired.",
        examples=_VALUE_EXAMPLES,
    )

    run = add_verb(
        "run",
        _run_command,
        usage="ipcio sem run [-h] [--timeout S] [-E CODE] NAME [--] COMMAND [ARGUMENT ...]",
        help="run a command with a permit",
        description="Acquire a permit, run the command, and release the permit when the command has exited. A permit "
        "of a crash-safe semaphore (`ipcio sem create --undo`) belongs to the process of the command, so it is "
        "released however that process ends. A permit of another semaphore is lost if ipcio itself is killed with "
        "SIGKILL.",
        epilog="The command begins after --, or at the first word after NAME that is not an option of ipcio sem run. "
        "The exit status is that of -E after a timeout; 126 if the command cannot be run, 127 if it is not found; "
        "128 + N if signal N ended the command of a semaphore that is not crash-safe; otherwise that of the command.",
        examples=_RUN_EXAMPLES,
    )
    add_timeout(run, ", 0 to try once")
    add_exit_code(run, "there is no permit")
    run.set_defaults(fail=run.error)


def _value(text: str) -> int:
    if not re.fullmatch("[0-9]+", text):
        raise ArgumentTypeError(f"must be a number of permits, 0 or more, not {text!r}")
    return int(text)


def _create(arguments: argparse.Namespace) -> None:
    from ipcio import sem

    sem.create(arguments.name, arguments.value, persist=True, undo=arguments.undo).close()


def _inc(arguments: argparse.Namespace) -> None:
    from ipcio import sem

    sem.attach(arguments.name).inc(arguments.n)


def _dec(arguments: argparse.Namespace) -> int:
    from ipcio import sem

    semaphore = sem.attach(arguments.name)
    if semaphore.undo:
        raise OSError(None, "this command cannot keep a permit of a crash-safe semaphore", arguments.name)
    return 0 if semaphore.dec(arguments.timeout) else arguments.conflict_exit_code


def _print_value(arguments: argparse.Namespace) -> None:
    from ipcio import sem

    print(sem.attach(arguments.name).value)


def _run_command(arguments: argparse.Namespace) -> int:
    from ipcio import sem
    from ipcio._cli import programs

    if not any(arguments.command[:1]):
        arguments.fail("pass a COMMAND after NAME")
    programs.platform.occupy()
    semaphore = sem.attach(arguments.name)
    if semaphore.undo:
        if not semaphore.dec(arguments.timeout):
            return int(arguments.conflict_exit_code)
        # The kernel counts the permit as this process's, and it stays that when the process becomes the command.
        raw = semaphore._raw
        if raw is not None and raw.share is not None:
            raw.share.pass_to_program()
        try:
            programs.platform.become(arguments.command)
        except OSError as error:
            programs.cannot_run(arguments.command, error)
    with programs.platform.supervising() as run:
        if not semaphore.dec(arguments.timeout):
            return int(arguments.conflict_exit_code)
        try:
            return run(arguments.command)
        except OSError as error:
            programs.cannot_run(arguments.command, error)
        finally:
            semaphore.inc()
