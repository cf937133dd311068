"""What this POSIX system can do, where there is more than one way to do a thing.

Each is found out by a look at the system, not by its name, and cheaply: this is imported
with the modules that have to choose.
"""

from __future__ import annotations

import os

__all__ = ["NAMES_ARE_FILES"]

NAMES_ARE_FILES: bool = os.access("/dev/shm", os.F_OK)
"""Named objects are files in ``/dev/shm``: to be listed, locked, linked, read and written as others.

Otherwise (macOS) they can only be opened, sized once, mapped and unlinked.
"""
