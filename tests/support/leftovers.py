"""What a test can leave behind, as the system reports it.

``descriptors()`` and ``children()`` are what this process has now, ``named(made)`` is what is left under some
names, removed where that can be done; ``survey()`` is how things stand before a run, ``left_since(survey)``
a complaint of what it left, empty if there is nothing.
"""

from __future__ import annotations

import ctypes
import os

if hasattr(ctypes, "WinDLL"):
    from leftovers_windows import children, descriptors, left_since, named, survey
elif os.path.isdir("/proc/self/fd") and os.path.isdir("/dev/shm"):
    from leftovers_linux import children, descriptors, left_since, named, survey
else:
    from leftovers_elsewhere import children, descriptors, left_since, named, survey

__all__ = ["children", "descriptors", "left_since", "named", "survey"]
