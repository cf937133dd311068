"""Completion of words in a shell, by ``argcomplete`` if that is installed.

It looks for what an argument can be in an attribute `completer` of what ``add_argument`` gave.
"""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["answer", "memory", "of_option", "semaphores"]


def answer(parser: argparse.ArgumentParser) -> None:
    """Tell the shell what can come next, and end; return if nobody can."""
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser)


def memory(**_: object) -> list[str]:
    """Give the names of shared memory."""
    return _names("shm")


def semaphores(**_: object) -> list[str]:
    """Give the names of semaphores."""
    return _names("sem")


def of_option(*, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Give the names of what the option ``--sem`` says."""
    return _names("sem" if parsed_args.sem else "shm")


def _names(kind: str) -> list[str]:
    from ipcio._inventory import list_objects

    usable = [each.name for each in list_objects() if each.kind == kind and each.state != "orphan"]
    return [name for name in usable if name.isprintable()]  # a shell could not be told of others
