"""Where the parts of a mutex, an event or a queue are in its segment; `ipcio._named` says what they are."""

from __future__ import annotations

import struct

HEADER = struct.Struct("=16sIIQ32s")
"""The magic, flags, zero, the PID namespace, the layout of a lock."""

WIDE = 1
"""The flag of an object whose locks are those for objects that other users may write to."""

RANGE_LOCKS = b"range"
"""The layout of a lock that has its state in the kernel alone."""

SLOT = 64
"""Bytes of the slot of a lock."""

LOCKS = 64, 128
"""Offsets of the slots of both locks."""

WORDS = 192
"""Offset of the first word of the kind."""

QUEUE_TAIL, QUEUE_HEAD = 192, 256
"""Offsets of the 8 bytes that are the state of each end of a queue."""

MESSAGES_AT, MESSAGES = 34, (1 << 29) - 1
"""Where in these the count of messages begins, and its bits."""

DATA = 4096
"""Offset of a queue's data; the bytes of a mutex and an event."""

assert HEADER.size == LOCKS[0]
