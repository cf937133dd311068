"""How ``ipcio lock`` and ``ipcio sem run`` run a command on POSIX.

If what the command needs is a process's own, this program becomes the command (`become`).  That is so
for the locked file, which the command inherits, and for a crash-safe permit.  A plain permit has to be
released after the command, so the command is a child (`supervising`).
"""

from __future__ import annotations

import os
import signal
import sys

from ipcio._light import contextmanager
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Generator
    from typing import NoReturn

_STDERR = 2
_SIGNALLED = 128  # a shell reports so much more than the number of the signal that ended a command
_PASSED_ON = signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2
_FROM_THE_TERMINAL = signal.SIGINT, signal.SIGQUIT


def occupy() -> None:
    """Open the standard streams that are closed, so that no file that is opened here gets their numbers."""
    while (fd := os.open("/", os.O_RDONLY | os.O_CLOEXEC)) <= _STDERR:
        pass
    os.close(fd)


def inherit(fd: int) -> None:
    """Let the command inherit a descriptor."""
    os.set_inheritable(fd, True)


def become(command: list[str]) -> NoReturn:
    """Replace this program by the command, in the same process."""
    # Python ignores these signals; the command would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execvp(command[0], command)  # noqa: S606 -- the command is the user's own


@contextmanager
def supervising() -> Generator[Callable[[list[str]], int], None, None]:
    """Provide a function that runs a command as a child and returns its exit status, 128 + n after a signal n.

    Before it is called, a signal ends the block, by `SystemExit`.  From then on no signal does: those that were sent
    to this process are sent to the child, and those of the terminal reach the child by themselves.
    """
    is_started = False
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def handle(number: int, _: object) -> None:
        if not is_started:
            sys.exit(_SIGNALLED + number)
        if number in _FROM_THE_TERMINAL:
            return
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    def run(command: list[str]) -> int:
        import subprocess

        nonlocal child, is_started
        is_started = True
        child = subprocess.Popen(command)  # noqa: S603 -- the command is the user's own
        for number in early:
            child.send_signal(number)
        status = child.wait()
        return status if status >= 0 else _SIGNALLED - status

    # Those that are ignored, as by nohup(1), stay so, and the child ignores them, too.
    before = {number: signal.getsignal(number) for number in (*_PASSED_ON, *_FROM_THE_TERMINAL)}
    handled = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, handle)
    try:
        yield run
    finally:
        for number in handled:
            signal.signal(number, before[number])
