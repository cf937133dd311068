"""The number of the system call ``futex(2)``, which has no function in the C library."""

from __future__ import annotations

import os
import struct
import sys

# How the name of the machine begins, the size of a pointer, and the number.
_NUMBERS = (
    ("x86_64", 8, 202),
    ("x86_64", 4, 240),
    ("i", 4, 240),
    ("aarch64", 8, 98),
    ("aarch64", 4, 240),
    ("arm", 4, 240),
    ("riscv64", 8, 98),
    ("loongarch64", 8, 98),
    ("ppc", 8, 221),
    ("ppc", 4, 221),
    ("s390", 8, 238),
    ("s390", 4, 238),
    ("mips64", 8, 5194),
    ("mips", 4, 4238),
    ("sparc", 8, 142),
    ("sparc", 4, 142),
    ("alpha", 8, 394),
    ("parisc", 4, 210),
    ("m68k", 4, 235),
    ("sh", 4, 240),
)


def futex_number() -> int | None:
    """Return the number for this process; None if it is not known, and on other systems than Linux."""
    if sys.platform != "linux":
        return None
    machine, pointer = os.uname().machine, struct.calcsize("P")
    return next((found for name, size, found in _NUMBERS if machine.startswith(name) and size == pointer), None)
