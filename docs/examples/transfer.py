"""Move an amount from one account to another in a file that many programs change at once.

python transfer.py accounts 0 1 25     from account 0 to account 1, 25
"""

import struct
import sys
from contextlib import ExitStack

from ipcio import filelock

ACCOUNT = struct.Struct("<q")

path, source, target, amount = sys.argv[1], *map(int, sys.argv[2:5])

with open(path, "r+b", buffering=0) as file, ExitStack() as locks:
    for number in sorted({source, target}):  # always in the same order, so that two transfers cannot deadlock
        locks.enter_context(filelock.locked(file, "rw", number * ACCOUNT.size, ACCOUNT.size))
    for number, change in (source, -amount), (target, amount):
        file.seek(number * ACCOUNT.size)
        (balance,) = ACCOUNT.unpack(file.read(ACCOUNT.size))
        file.seek(number * ACCOUNT.size)
        file.write(ACCOUNT.pack(balance + change))
