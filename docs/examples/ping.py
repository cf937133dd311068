"""Send questions to a C program, `pong.c`, which says how to start both."""

import struct
import sys

from ipcio import sem, shm

NAME = sys.argv[1] if len(sys.argv) > 1 else "pingpong"
RECORD = struct.Struct("@qd16s")  # as the C compiler lays it out

# These are created by Python and opened by C.
questions = shm.create(NAME, RECORD.size)
asked = sem.create(f"{NAME}-q", 0)
there = sem.create(f"{NAME}-t", 0)
print("waiting for C", flush=True)
if not there.dec(60):
    sys.exit("pong was not started within 60 seconds")

# These are created by C. The C program also removes them: ipcio does not remove objects of other programs.
answers = shm.attach(f"{NAME}-c", "r")
answered = sem.attach(f"{NAME}-a")

for number in range(1, 4):
    RECORD.pack_into(questions.getbuffer(), 0, number, number / 10, b"round %d" % number)
    asked.inc()
    if not answered.dec(60):
        sys.exit("no answer")
    square, half, text = RECORD.unpack_from(answers.getbuffer())
    print(square, half, text.split(b"\0")[0].decode())
RECORD.pack_into(questions.getbuffer(), 0, -1, 0, b"")
asked.inc()
