"""``ipcio queue``: message queues for shell scripts."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys

from ipcio._cli import completion
from ipcio._cli.common import add_exit_code, add_perm, add_timeout, add_verbs
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipcio._cli.common import Commands

_EXAMPLES = """\
$ ipcio queue create jobs 65536
$ printf 'resize cat.png\\nresize dog.png\\n' | ipcio queue put --lines jobs
$ ipcio queue get --lines --timeout 0 jobs
resize cat.png
resize dog.png
$ ipcio rm --kind queue jobs
"""
_CREATE_EXAMPLES = """\
$ ipcio queue create jobs 65536
$ ipcio rm --kind queue jobs
"""
_PUT_EXAMPLES = """\
$ ipcio queue create jobs 65536
$ echo resize cat.png | ipcio queue put jobs
$ seq 3 | ipcio queue put --lines jobs
$ ipcio rm --kind queue jobs
"""
_GET_EXAMPLES = """\
$ ipcio queue create jobs 65536
$ ipcio queue get --timeout 0.1 jobs || echo nothing to do
nothing to do
$ seq 2 | ipcio queue put --lines jobs
$ ipcio queue shutdown jobs
$ ipcio queue get --lines jobs
1
2
$ ipcio rm --kind queue jobs
"""
_SHUTDOWN_EXAMPLES = """\
$ ipcio queue create jobs 65536
$ ipcio queue shutdown jobs
$ ipcio rm --kind queue jobs
"""


def register(commands: Commands) -> None:
    """Add the group of subcommands."""
    add_verb = add_verbs(
        commands,
        "queue",
        completion.of("queue"),
        help="create message queues, put messages in and get them out",
        does="Create and use message queues",
        examples=_EXAMPLES,
    )
    create = add_verb(
        "create",
        _create,
        is_new=True,
        help="create a queue",
        description="Create a queue, which persists, with its messages, until it is removed. The name must be free.",
        examples=_CREATE_EXAMPLES,
    )
    create.add_argument("size", metavar="SIZE", type=_size, help="bytes for all messages, plus 16 for each of them")
    add_perm(create)

    put = add_verb(
        "put",
        _put,
        help="put standard input into the queue",
        description="Read standard input to its end and put it into the queue as one message. Wait while the queue is "
        "full.",
        epilog="After a timeout nothing is printed, and the exit status is that of -E.",
        examples=_PUT_EXAMPLES,
    )
    put.add_argument(
        "--lines", action="store_true", help="put each line as a message, without its newline, as soon as it was read"
    )
    add_timeout(put, " for room")
    add_exit_code(put, "there is no room for a message")

    get = add_verb(
        "get",
        _get,
        help="write a message to standard output",
        description="Take the next message out of the queue and write exactly its bytes to standard output. Wait if "
        "the queue is empty.",
        epilog="After a timeout nothing more is printed, and the exit status is that of -E; with --lines it is 0 if "
        "there was a message before. A queue that was shut down and is empty is an error, with --lines the end.",
        examples=_GET_EXAMPLES,
    )
    get.add_argument(
        "--lines",
        action="store_true",
        help="take one message after the other, until the queue is shut down, and write a newline after each",
    )
    add_timeout(get, " for a message")
    add_exit_code(get, "there is no message")

    shutdown = add_verb(
        "shutdown",
        _shutdown,
        help="let the readers know that there will be no more messages",
        description="Refuse further messages, for good. Readers get the messages that are in the queue, and then its "
        "end.",
        examples=_SHUTDOWN_EXAMPLES,
    )
    shutdown.add_argument("--immediate", action="store_true", help="discard the messages that are in the queue")


def _size(text: str) -> int:
    from ipcio._ring_state import BOOK_KEEPING, LARGEST

    if not re.fullmatch("[0-9]+", text) or not BOOK_KEEPING <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(f"must be {BOOK_KEEPING} to {LARGEST} bytes, not {text!r}")
    return int(text)


def _create(arguments: argparse.Namespace) -> None:
    from ipcio import queue

    queue.create(arguments.name, arguments.size, perm=arguments.perm, persist=True).close()


def _put(arguments: argparse.Namespace) -> int:
    from ipcio import queue

    if sys.stdin is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), "standard input")
    with queue.attach(arguments.name) as q:
        try:
            for message in _lines() if arguments.lines else [sys.stdin.buffer.read()]:
                q.put(message, timeout=arguments.timeout)
        except queue.Full:
            return int(arguments.conflict_exit_code)
        except queue.ShutDown:
            raise _error(f"queue {arguments.name!r} was shut down", arguments) from None
        except ValueError as error:  # the message is too large
            raise _error(f"queue {arguments.name!r}: {error}", arguments) from None
    return 0


def _error(text: str, arguments: argparse.Namespace) -> OSError:
    return OSError(errno.EINVAL, text, arguments.name)


def _lines() -> Iterator[bytes]:
    for line in sys.stdin.buffer:
        yield line.removesuffix(b"\n")


def _get(arguments: argparse.Namespace) -> int:
    from ipcio import queue

    with queue.attach(arguments.name) as q:
        count = 0
        try:
            while True:
                _write(q.get(timeout=arguments.timeout), b"\n" * arguments.lines)
                count += 1
                if not arguments.lines:
                    return 0
        except queue.Empty:
            return 0 if count else int(arguments.conflict_exit_code)
        except queue.ShutDown:
            if arguments.lines:
                return 0
            raise _error(f"queue {arguments.name!r} was shut down and is empty", arguments) from None


def _write(*parts: bytes) -> None:
    """Write it at once: the message is no longer in the queue."""
    for part in parts:
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


def _shutdown(arguments: argparse.Namespace) -> None:
    from ipcio import queue

    with queue.attach(arguments.name) as q:
        q.shutdown(arguments.immediate)
