"""Completion of words in a shell, by ``argcomplete`` if that is installed.

It calls the attribute `completer` of what ``add_argument`` returned, for the values of that argument.
"""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def answer(parser: argparse.ArgumentParser) -> None:
    """Print the words that can come next, and exit; return if ``argcomplete`` is not installed."""
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser)


def of(kind: str) -> Callable[..., list[str]]:
    """Return what completes the names of one kind of object."""

    def complete(**_: object) -> list[str]:
        return _names(kind)

    return complete


def of_option(*, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Return the names of the kind that the options give, otherwise those of shared memory."""
    return _names(parsed_args.kind or "shm")


def of_kind(*, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Return the names of the kind that the option ``--kind`` gives, otherwise all names."""
    kind = getattr(parsed_args, "kind", None)
    return _names(kind)


def _names(kind: str | None) -> list[str]:
    from ipcio._inventory import list_objects

    usable = [each.name for each in list_objects() if kind in {None, each.kind} and each.state != "orphan"]
    return [name for name in usable if name.isprintable()]  # the shell could not show others
