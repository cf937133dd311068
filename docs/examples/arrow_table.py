"""Offer an Arrow table by name until Enter is pressed; other processes use it without a copy.

In two terminals, in any order:

python arrow_table.py quotes offer          python arrow_table.py quotes
"""

import sys

import pyarrow as pa

from ipcio import sem, shm

NAME = sys.argv[1]

if sys.argv[2:] == ["offer"]:
    table = pa.table({"metal": ["gold", "silver"], "price": [2650.0, 31.0]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with shm.create(NAME, sink.tell()) as h:
        h.write(sink.getvalue())
        complete = sem.create(NAME, 0)  # names of semaphores are separate: this one says that the table is complete
        print("offered", flush=True)
        sys.stdin.readline()
else:
    complete = sem.attach(NAME, timeout=30)
    with shm.attach(NAME, "r") as h:  # the table keeps the memory after the handle is closed
        table = pa.ipc.open_stream(pa.py_buffer(h.getbuffer())).read_all()
    print(table.to_pydict(), pa.total_allocated_bytes())
