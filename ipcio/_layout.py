"""Where the parts of a mutex, an event or a queue are in its segment; `ipcio._named` says what they are."""

from __future__ import annotations

import struct

HEADER = struct.Struct("=16sIIQ32s")
"""The magic, flags, zero, the PID namespace, the layout of a lock."""

SLOT = 64
"""Bytes of the slot of a lock."""

LOCKS = 64, 128
"""Offsets of the slots of both locks."""

WORDS = 192
"""Offset of the first word of the kind."""

DATA = 4096
"""Offset of a queue's data; the bytes of a mutex and an event."""

assert HEADER.size == LOCKS[0]
