"""The back end for Linux and macOS: system calls.

A port to another POSIX system decides what `docs/porting.md` lists.  Until it has, importing any
module of this package there is an `ImportError`.  What only some systems that are known here
offer (``epoll``, descriptors of processes, ``/proc`` ...) is found by asking for it instead.
"""

from __future__ import annotations

import sys


def undecided(question: str) -> ImportError:
    """Return the error for a system for which no port has answered this `question`."""
    return ImportError(
        f"ipcio has not been ported to {sys.platform!r}: {question}? (docs/porting.md lists all decisions)"
    )


if sys.platform not in {"linux", "darwin", "win32"}:  # the last one has a package of its own
    raise undecided("how do named objects, file locks and child processes work there")
